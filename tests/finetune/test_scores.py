"""Scores against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ftprobe.finetune.scores import METRICS, NUMBER_METRICS, f1


@pytest.mark.parametrize("n_labels", [2, 5])
def test_scores_equal_scikit_learn(n_labels: int) -> None:
    rng = np.random.default_rng(0)
    gold_N = rng.integers(0, n_labels, 200).astype(np.int32)
    predicted_N = np.where(rng.random(200) < 0.6, gold_N, rng.integers(0, n_labels, 200)).astype(np.int32)
    expected = {
        "accuracy": accuracy_score(gold_N, predicted_N),
        "mcc": matthews_corrcoef(gold_N, predicted_N),
        "f1_macro": f1_score(gold_N, predicted_N, average="macro"),
    }
    assert {name: metric(gold_N, predicted_N) for name, metric in METRICS.items()} == pytest.approx(expected)


def test_scores_by_hand_and_of_constant_answers() -> None:
    gold_N = np.array([0, 0, 1, 1], dtype=np.int32)
    half_N = np.array([0, 1, 1, 1], dtype=np.int32)
    # tp 2, tn 1, fp 1, fn 0: mcc = 2 / sqrt(3 * 2 * 2 * 1), f1 = (2/3 + 4/5) / 2
    assert METRICS["mcc"](gold_N, half_N) == pytest.approx(2 / 12**0.5)
    assert METRICS["f1_macro"](gold_N, half_N) == pytest.approx((2 / 3 + 4 / 5) / 2)
    constant_N = np.ones(4, dtype=np.int32)
    assert METRICS["mcc"](gold_N, constant_N) == 0.0
    assert METRICS["accuracy"](gold_N, constant_N) == 0.5


@pytest.mark.parametrize("positive", [0, 1])
def test_f1_of_the_positive_class_equals_scikit_learn(positive: int) -> None:
    rng = np.random.default_rng(1)
    gold_N, predicted_N = rng.integers(0, 2, (2, 50)).astype(np.int32)
    assert f1(gold_N, predicted_N, positive=positive) == pytest.approx(
        f1_score(gold_N, predicted_N, pos_label=positive)
    )
    assert f1(np.full(3, 1 - positive), np.full(3, 1 - positive), positive=positive) == 0.0


def test_correlations_equal_scipy_with_ties() -> None:
    rng = np.random.default_rng(2)
    gold_N = rng.integers(0, 6, 80).astype(np.float64)
    predicted_N = (gold_N + rng.integers(-2, 3, 80)).astype(np.float32)
    expected = {"pearson": pearsonr(gold_N, predicted_N)[0], "spearman": spearmanr(gold_N, predicted_N)[0]}
    assert {name: metric(gold_N, predicted_N) for name, metric in NUMBER_METRICS.items()} == pytest.approx(expected)


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_constant_answers_correlate_with_nothing(name: str) -> None:
    gold_N = np.array([0.0, 1.0, 2.0])
    assert math.isnan(NUMBER_METRICS[name](gold_N, np.full(3, 2.5)))
    assert math.isnan(NUMBER_METRICS[name](gold_N[:1], gold_N[:1]))
    assert NUMBER_METRICS[name](gold_N, gold_N * 2 + 1) == pytest.approx(1.0)
