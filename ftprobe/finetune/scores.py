"""Scores of a fine-tuned head against gold labels: fractions. A prediction of -1 is an error, and no label of its own.

Axes: N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _accuracy(gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
    return float(np.mean(gold_N == predicted_N))


def _mcc(gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(gold_N, predicted_N))


def _macro_f1(gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
    from sklearn.metrics import f1_score

    labels = np.union1d(gold_N, predicted_N[predicted_N >= 0])
    return float(f1_score(gold_N, predicted_N, labels=labels, average="macro", zero_division=0.0))


METRICS = {"accuracy": _accuracy, "mcc": _mcc, "f1": _macro_f1}
