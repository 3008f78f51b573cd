"""Scores of Natural Questions against the official script, restated here, and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.finetune.nq_scores import (
    Annotation,
    at_threshold,
    best_threshold,
    judge_long,
    judge_short,
    read_annotations,
)

Case = tuple[list[Annotation], Annotation, float]


def official_stats(cases: list[Case], kind: str) -> list[tuple[bool, bool, bool, float]]:
    """score_long_answer and score_short_answer, with a threshold of 2 annotators, sorted by score."""
    stats = []
    for gold, pred, answer_score in cases:
        if kind == "long":
            gold_has = sum(label.long is not None for label in gold) >= 2
            pred_has = pred.long is not None
        else:
            gold_has = sum(bool(label.short) or label.yes_no != "none" for label in gold) >= 2
            pred_has = bool(pred.short) or pred.yes_no != "none"
        correct = False
        if gold_has and pred_has:
            for label in gold:
                if kind == "long":
                    correct |= label.long is not None and label.long == pred.long
                elif pred.yes_no != "none":
                    correct |= pred.yes_no == label.yes_no
                else:
                    correct |= all(span in label.short for span in pred.short) and all(
                        span in pred.short for span in label.short
                    )
        stats.append((gold_has, pred_has, correct, answer_score))
    return sorted(stats, key=lambda stat: stat[-1], reverse=True)


def divide(x: float, y: float) -> float:
    return 0 if y == 0 else x / y


def official_best(stats: list[tuple[bool, bool, bool, float]]) -> tuple[float, float, float, float]:
    """compute_pr_curves: precision, recall, F1 and threshold of the best F1."""
    correct = predicted = 0
    gold = sum(has_gold for has_gold, _, _, _ in stats)
    by_score: dict[float, tuple[float, float]] = {}
    for _, has_pred, is_correct, answer_score in stats:
        correct += is_correct
        predicted += has_pred
        by_score[answer_score] = divide(correct, predicted), divide(correct, gold)
    best = (0.0, 0.0, 0.0, 0.0)
    for threshold, (precision, recall) in by_score.items():
        f1 = divide(2 * precision * recall, precision + recall)
        if f1 > best[2]:
            best = (precision, recall, f1, threshold)
    return best


span = st.tuples(st.integers(0, 1), st.integers(2, 3))
said = st.one_of(
    st.just(Annotation()),
    st.builds(Annotation, long=span),
    st.builds(Annotation, long=span, short=st.lists(span, min_size=1, max_size=3).map(tuple)),
    st.builds(Annotation, long=span, yes_no=st.sampled_from(["yes", "no"])),
)
case = st.tuples(st.lists(said, min_size=5, max_size=5), said, st.sampled_from([-1.0, 0.5, 0.5, 2.0]))


@settings(max_examples=80, deadline=None)
@given(st.lists(case, max_size=6), st.sampled_from(["long", "short"]))
def test_the_best_threshold_is_that_of_the_official_script(cases: list[Case], kind: str) -> None:
    judge = judge_long if kind == "long" else judge_short
    judged = judge([gold for gold, _, _ in cases], [pred for _, pred, _ in cases], [score for *_, score in cases])
    best = best_threshold(judged)
    assert tuple(best) == pytest.approx(official_best(official_stats(cases, kind)))
    if best.f1:
        assert at_threshold(judged, best.threshold) == best


def test_two_of_five_annotators_make_a_gold_answer_and_any_of_theirs_is_right() -> None:
    one, other, none = Annotation(long=(0, 4)), Annotation(long=(4, 8)), Annotation()
    gold = [[one, none, none, none, none], [one, other, none, none, none], [one, other, none, none, none]]
    judged = judge_long(gold, [one, other, Annotation(long=(9, 10))], [3.0, 2.0, 1.0])
    assert judged.gold_N.tolist() == [False, True, True]
    assert judged.correct_N.tolist() == [False, True, False]
    found = at_threshold(judged, 2.0)  # two predictions, one of them right, of two gold answers
    assert found == (0.5, 0.5, 0.5, 2.0)


def test_one_annotator_is_enough_where_there_is_one() -> None:
    gold = [[Annotation(long=(0, 4), short=((1, 2), (3, 4)))]]
    predicted = [Annotation(short=((3, 4), (1, 2)))]
    assert judge_short(gold, predicted, [0.0]).correct_N.tolist() == [True]
    assert judge_short(gold, [Annotation(short=((1, 2),))], [0.0]).correct_N.tolist() == [False]
    assert judge_short([[Annotation()]], predicted, [0.0]).gold_N.tolist() == [False]


def test_yes_is_compared_with_yes_alone() -> None:
    gold = [[Annotation(yes_no="yes"), Annotation(short=((1, 2),))]] * 3
    predicted = [Annotation(yes_no="yes"), Annotation(yes_no="no"), Annotation(short=((1, 2),))]
    assert judge_short(gold, predicted, [0.0] * 3).correct_N.tolist() == [True, False, True]


def test_scores_without_answers_are_0_and_scores_that_are_none_are_refused() -> None:
    nothing = judge_long([[Annotation()]], [Annotation()], [1.0])
    assert best_threshold(nothing) == (0.0, 0.0, 0.0, 0.0)
    assert at_threshold(nothing, -np.inf)[:3] == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="1 questions need as many scores"):
        judge_long([[Annotation()]], [Annotation()], [float("nan")])


def test_labels_of_the_task_are_read() -> None:
    label = {"candidates": [], "long": [None, [1, 5]], "short": [[], [[2, 3]]], "yes_no": ["yes", "none"]}
    assert read_annotations(json.dumps(label)) == (
        Annotation(None, (), "yes"),
        Annotation((1, 5), ((2, 3),), "none"),
    )
