"""Answer scores against the functions of the official scripts, restated here, and by hand."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftprobe.finetune.squad_scores import AnswerScores, Version, normalize_answer, score, scores


def official_normalize(s: str) -> str:
    def remove_articles(text: str) -> str:
        return re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)

    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    def remove_punc(text: str) -> str:
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def official_f1_v1(prediction: str, ground_truth: str) -> float:
    prediction_tokens = official_normalize(prediction).split()
    ground_truth_tokens = official_normalize(ground_truth).split()
    num_same = sum((Counter(prediction_tokens) & Counter(ground_truth_tokens)).values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def official_f1_v2(a_gold: str, a_pred: str) -> float:
    gold_toks = official_normalize(a_gold).split() if a_gold else []
    pred_toks = official_normalize(a_pred).split() if a_pred else []
    num_same = sum((Counter(gold_toks) & Counter(pred_toks)).values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def official(prediction: str, answers: list[str], version: Version) -> tuple[float, float]:
    """Exact match and F1 as `evaluate` of 1.1 and `get_raw_scores` of 2.0 have them, in 0..1."""
    if version == "1.1":
        em = max(float(official_normalize(prediction) == official_normalize(gold)) for gold in answers)
        return em, float(max(official_f1_v1(prediction, gold) for gold in answers))
    gold_answers = [gold for gold in answers if official_normalize(gold)] or [""]
    em = max(float(official_normalize(gold) == official_normalize(prediction)) for gold in gold_answers)
    return em, float(max(official_f1_v2(gold, prediction) for gold in gold_answers))


PIECES = ["the", "The ", "a", "an ", "A-", "cat", "Cat's", " sat", "...", "?!", "“x”", "«", "İ", "ß", "É", "e\u0301"]
PIECES += ["\u00a0", "\u2009", "\n", "\t", "1,000", "$", "U.S.", "然", " ", "", "theatre", "an_a", "\u200b", "the_"]
answer = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)


@settings(max_examples=400, deadline=None)
@given(answer, st.lists(answer, min_size=1, max_size=3), st.sampled_from(["1.1", "2.0"]))
@example("the", ["a"], "1.1")
@example("the", ["a"], "2.0")
@example("", ["?", "cat"], "2.0")
def test_every_score_is_that_of_the_official_script(prediction: str, answers: list[str], version: Version) -> None:
    assert tuple(score(prediction, answers, version=version)) == official(prediction, answers, version)


@settings(deadline=None)
@given(st.text(string.printable + "“”«»¿—İßÉ\u0301\u00a0\u2009\u200b\u2028然١", max_size=12))
def test_normalisation_is_the_official_one_on_any_text(text: str) -> None:
    assert normalize_answer(text) == official_normalize(text)


def test_answers_by_hand() -> None:
    assert score("The Cat!", ["cat"], version="1.1") == (1.0, 1.0)
    assert score("a black cat", ["cat", "black dog"], version="1.1") == (0.0, 2 / 3)
    assert score("cat cat", ["cat"], version="1.1") == (0.0, 2 / 3)  # words are counted as often as they occur
    assert score("theatre", ["atre"], version="1.1") == (0.0, 0.0)  # articles are whole words
    assert score("", [], version="2.0") == (1.0, 1.0)
    assert score("cat", [], version="2.0") == (0.0, 0.0)


def test_only_articles_agree_in_1_1_but_have_no_f1_and_count_as_unanswerable_in_2_0() -> None:
    assert score("the", ["a"], version="1.1") == (1.0, 0.0)
    assert score("the", ["a"], version="2.0") == (1.0, 1.0)
    assert score("cat", ["the", "cat"], version="2.0") == (1.0, 1.0)
    assert score("", ["the", "cat"], version="2.0") == (0.0, 0.0)


def test_means_are_over_questions() -> None:
    found = scores(["cat", "dog", ""], [["cat"], ["big dog", "cat"], []], version="2.0")
    assert found == AnswerScores(em=2 / 3, f1=pytest.approx((1 + 2 / 3 + 1) / 3))
    assert all(map(math.isnan, scores([], [], version="1.1")))


def test_a_question_without_gold_answer_is_none_of_1_1() -> None:
    with pytest.raises(ValueError, match="without gold answer"):
        score("cat", [], version="1.1")
    with pytest.raises(ValueError, match="shorter"):
        scores(["cat"], [], version="2.0")
