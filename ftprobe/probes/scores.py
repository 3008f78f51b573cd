"""Scores of predicted against gold label ids. Labels a probe never saw are wrong like any other (METHODS 0).

Axes: N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def accuracy(gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
    """Share of items whose prediction is the gold label."""
    return float(np.mean(gold_N == predicted_N))


def macro_f1(gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
    """Mean F1 of the labels that occur in gold or prediction; F1 = 2 tp / (gold + predicted).

    >>> round(macro_f1(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])), 4)
    0.3889
    """
    size = int(max(gold_N.max(), predicted_N.max())) + 1
    gold_K, predicted_K = np.bincount(gold_N, minlength=size), np.bincount(predicted_N, minlength=size)
    hit_K = np.bincount(gold_N[gold_N == predicted_N], minlength=size)
    present_K = gold_K + predicted_K > 0
    return float(np.mean(2 * hit_K[present_K] / (gold_K + predicted_K)[present_K]))
