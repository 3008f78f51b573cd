"""Scores of a fine-tuned head against gold labels: fractions; axes: N items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _accuracy(gold_N: NDArray[np.int32], predicted_N: NDArray[np.int32]) -> float:
    return float(np.mean(gold_N == predicted_N))


def _mcc(gold_N: NDArray[np.int32], predicted_N: NDArray[np.int32]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(gold_N, predicted_N))


def _macro_f1(gold_N: NDArray[np.int32], predicted_N: NDArray[np.int32]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(gold_N, predicted_N, average="macro", zero_division=0.0))


METRICS = {"accuracy": _accuracy, "mcc": _mcc, "f1": _macro_f1}
