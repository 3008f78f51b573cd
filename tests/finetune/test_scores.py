"""Scores against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ftprobe.finetune.scores import METRICS


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
