"""Precision, recall and F1 of long and short answers, as nq_eval of Natural Questions computes them.

Kwiatkowski et al. 2019, section 5, and their script: a question has a gold answer if two annotators or more gave one
(one, where there is a single annotator); a prediction is right if it equals that of any annotator who did. A prediction
counts only if its score reaches a threshold, chosen for F1. Places are tokens, ends exclusive.

Axes: N questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE = "none"
Span = tuple[int, int]


class Annotation(NamedTuple):
    """What one annotator, or the model, answers: nothing, or `yes_no` yes or no, or spans."""

    long: Span | None = None
    short: tuple[Span, ...] = ()
    yes_no: str = NONE

    @property
    def has_short(self) -> bool:
        """Whether there is a short answer, a span or yes or no."""
        return bool(self.short) or self.yes_no != NONE


class Judged(NamedTuple):
    """One kind of answer (N): whether there is a gold one, a predicted one, whether that is right, and its score."""

    gold_N: NDArray[np.bool_]
    predicted_N: NDArray[np.bool_]
    correct_N: NDArray[np.bool_]
    score_N: NDArray[np.float64]


class AnswerScores(NamedTuple):
    """Fractions, and the least score of a prediction that counts."""

    precision: float
    recall: float
    f1: float
    threshold: float


def read_annotations(label: str) -> tuple[Annotation, ...]:
    """What each annotator answers, from the label of a question (`ftprobe.tasks.natural_questions`).

    >>> read_annotations('{"candidates": [[0, 9, true]], "long": [[0, 9]], "short": [[[2, 4]]], "yes_no": ["none"]}')
    (Annotation(long=(0, 9), short=((2, 4),), yes_no='none'),)
    """
    said = json.loads(label)
    return tuple(
        Annotation(None if long is None else tuple(long), tuple(map(tuple, short)), yes_no)
        for long, short, yes_no in zip(said["long"], said["short"], said["yes_no"], strict=True)
    )


def judge_long(
    gold: Sequence[Sequence[Annotation]], predicted: Sequence[Annotation], score_N: Sequence[float]
) -> Judged:
    """Long answers: right if the span is that of an annotator. `gold` has the annotations of each question."""
    return _judge(gold, predicted, score_N, lambda said: said.long is not None, lambda a, b: a.long == b.long)


def judge_short(
    gold: Sequence[Sequence[Annotation]], predicted: Sequence[Annotation], score_N: Sequence[float]
) -> Judged:
    """Short answers: right if yes or no is an annotator's, else if the set of spans is."""
    return _judge(gold, predicted, score_N, lambda said: said.has_short, _same_short)


def _same_short(gold: Annotation, said: Annotation) -> bool:
    return gold.yes_no == said.yes_no if said.yes_no != NONE else set(gold.short) == set(said.short)


def _judge(
    gold: Sequence[Sequence[Annotation]],
    predicted: Sequence[Annotation],
    score_N: Sequence[float],
    answers: Callable[[Annotation], bool],
    same: Callable[[Annotation, Annotation], bool],
) -> Judged:
    gold_N = [sum(map(answers, given)) >= min(2, len(given)) > 0 for given in gold]
    predicted_N = [answers(said) for said in predicted]
    correct_N = [
        has_gold and has_answer and any(same(one, said) for one in given)
        for has_gold, has_answer, given, said in zip(gold_N, predicted_N, gold, predicted, strict=True)
    ]
    score = np.asarray(score_N, dtype=np.float64)
    if score.shape != (len(gold_N),) or np.isnan(score).any():
        raise ValueError(f"{len(gold_N)} questions need as many scores, none of them nan")
    return Judged(np.array(gold_N, bool), np.array(predicted_N, bool), np.array(correct_N, bool), score)


def at_threshold(judged: Judged, threshold: float) -> AnswerScores:
    """Scores where predictions below `threshold` count as no answer; a quotient by 0 is 0."""
    kept_N = judged.score_N >= threshold
    correct = float((judged.correct_N & kept_N).sum())
    return _scores(correct, float((judged.predicted_N & kept_N).sum()), float(judged.gold_N.sum()), threshold=threshold)


def best_threshold(judged: Judged) -> AnswerScores:
    """Scores at the threshold of greatest F1 among the scores given; of equally good ones the highest.

    Where no threshold gives an F1 above 0, all scores are 0 and the threshold is 0.0, as in the script.
    """
    order_N = np.argsort(-judged.score_N, kind="stable")
    descending_N = judged.score_N[order_N]
    last_N = np.append(descending_N[1:] != descending_N[:-1], True) if len(order_N) else np.zeros(0, bool)
    correct_N, predicted_N = (np.cumsum(column[order_N]) for column in (judged.correct_N, judged.predicted_N))
    best = AnswerScores(0.0, 0.0, 0.0, 0.0)
    for at in np.flatnonzero(last_N):
        found = _scores(
            float(correct_N[at]), float(predicted_N[at]), float(judged.gold_N.sum()), threshold=float(descending_N[at])
        )
        best = found if found.f1 > best.f1 else best
    return best


def _scores(correct: float, predicted: float, gold: float, *, threshold: float) -> AnswerScores:
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
    return AnswerScores(precision, recall, f1, threshold)
