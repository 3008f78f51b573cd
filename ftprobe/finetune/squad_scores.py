"""Exact match and F1 of answers, as the official scripts of SQuAD 1.1 and 2.0 compute them.

Rajpurkar et al. 2016 and 2018, evaluate-v1.1.py and evaluate-v2.0.py. The two differ where an answer has no word
left after normalisation ("the", "?"): the script of 1.1 gives such a pair F1 0, that of 2.0 compares them, leaves such
gold answers out, and takes "" as the gold answer where none is left.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

Version = Literal["1.1", "2.0"]
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class AnswerScores(NamedTuple):
    """Fractions: of one question, or means over questions."""

    em: float
    f1: float


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation and articles, words separated by single blanks.

    >>> normalize_answer("The  Super-Bowl, a   «game»")
    'superbowl «game»'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score(prediction: str, answers: Sequence[str], *, version: Version) -> AnswerScores:
    """Scores of one answer: the best over the gold `answers`, of which an unanswerable question has none.

    Raises
    ------
    ValueError
        A question of SQuAD 1.1 without gold answer.
    """
    said = normalize_answer(prediction)
    gold = [normalize_answer(answer) for answer in answers]
    if version == "2.0":
        gold = [answer for answer in gold if answer] or [""]
    if not gold:
        raise ValueError("a question without gold answer; use version 2.0")
    return AnswerScores(float(said in gold), max(_f1(said.split(), answer.split(), version) for answer in gold))


def scores(predictions: Sequence[str], answers: Sequence[Sequence[str]], *, version: Version) -> AnswerScores:
    """Means over questions; nan without any.

    >>> scores(["the cat", "in May"], [["Cat", "cats"], ["May 3"]], version="1.1")
    AnswerScores(em=0.5, f1=0.75)
    """
    each = [score(said, gold, version=version) for said, gold in zip(predictions, answers, strict=True)]
    if not each:
        return AnswerScores(float("nan"), float("nan"))
    return AnswerScores(sum(one.em for one in each) / len(each), sum(one.f1 for one in each) / len(each))


def _f1(said: list[str], gold: list[str], version: Version) -> float:
    """F1 of bags of words."""
    if version == "2.0" and not (said and gold):
        return float(said == gold)
    same = sum((Counter(said) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)
