"""Scores of a fine-tuned head against gold labels or numbers; axes: N items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer]
Numbers = NDArray[np.floating]


def _accuracy(gold_N: Ids, predicted_N: Ids) -> float:
    return float(np.mean(gold_N == predicted_N))


def _mcc(gold_N: Ids, predicted_N: Ids) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(gold_N, predicted_N))


def _macro_f1(gold_N: Ids, predicted_N: Ids) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(gold_N, predicted_N, average="macro", zero_division=0.0))


def f1(gold_N: Ids, predicted_N: Ids, *, positive: int) -> float:
    """F1 of the class `positive` (MRPC and QQP, as GLUE scores them); 0 where it neither occurs nor is predicted.

    >>> f1(np.array([0, 1, 1]), np.array([1, 1, 1]), positive=1)
    0.8
    """
    hits = int(((gold_N == positive) & (predicted_N == positive)).sum())
    total = int((gold_N == positive).sum() + (predicted_N == positive).sum())
    return 2 * hits / total if total else 0.0


def pearson(gold_N: Numbers, predicted_N: Numbers) -> float:
    """Pearson's r; nan where either is constant or there are fewer than two items."""
    if len(gold_N) < 2 or np.ptp(gold_N) == 0 or np.ptp(predicted_N) == 0:
        return float("nan")
    gold, predicted = (np.asarray(column, dtype=np.float64) for column in (gold_N, predicted_N))
    gold, predicted = gold - gold.mean(), predicted - predicted.mean()
    return float(gold @ predicted / np.sqrt((gold @ gold) * (predicted @ predicted)))


def spearman(gold_N: Numbers, predicted_N: Numbers) -> float:
    """Spearman's rho, Pearson's r of ranks (ties: mean rank); nan where `pearson` is."""
    from scipy.stats import rankdata

    return pearson(rankdata(gold_N), rankdata(predicted_N))


METRICS: dict[str, Callable[[Ids, Ids], float]] = {"accuracy": _accuracy, "mcc": _mcc, "f1_macro": _macro_f1}
"""Scores of label ids that need no more than them; `f1` needs the task's positive class too."""
NUMBER_METRICS: dict[str, Callable[[Numbers, Numbers], float]] = {"pearson": pearson, "spearman": spearman}
"""Scores of numbers."""
