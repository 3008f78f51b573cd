"""Items: what probes got right of each sentence, from the item-level predictions that trials keep beside their records.

Two states compare sentence by sentence where they were scored on the same items: the same words of the same sentences,
with the same gold labels. Axes: S tuning seeds, U sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ftprobe.rows import scan_predictions
from ftprobe.stats import Floats

ReadPredictions = Callable[[Iterable[str]], pl.LazyFrame]
"""Gives `trial` and the columns of `ftprobe.rows.PREDICTIONS_SCHEMA` of the trials that it is given, which are named as
in the column `trial` of records. Trials that keep no predictions have no rows."""
_ROUNDING = 1e-9  # what an accuracy may differ by from that of its own predictions
_FITTED = ("split", "layer", "probe_seed")  # what tells the probes of one trial apart


def no_predictions(trials: Iterable[str]) -> pl.LazyFrame:
    """What there is to read where there are only records."""
    return scan_predictions([])


class Differences(NamedTuple):
    """Two states on the same items.

    Attributes
    ----------
    total_SU : array of shape (S, U)
        How many items of each sentence the first state gets right less how many the second does, for each tuning seed
        in ascending order; means over probe seeds.
    count_U : array of shape (U,)
        Items of each sentence.
    items : bytes
        Equal where the items are.
    """

    total_SU: Floats
    count_U: Floats
    items: bytes


class _Fit(NamedTuple):
    """What one fitted probe got right of each sentence."""

    right_U: Floats
    count_U: Floats
    items: bytes

    @property
    def accuracy(self) -> float:
        return float(self.right_U.sum() / self.count_U.sum())


class Scored:
    """The predictions behind changes of accuracy, read once for all of them.

    Parameters
    ----------
    changes : polars.DataFrame
        Accuracies from `frames.delta_to_pretrained` or `frames.strong_baseline`.
    predictions : callable
        Asked once, for all trials of `changes` and of their baselines.
    """

    def __init__(self, changes: pl.DataFrame, predictions: ReadPredictions) -> None:
        trials = pl.concat([changes["trial"], changes["baseline_trials"].explode()]).drop_nulls().unique().sort()
        self._fits: dict[str, list[tuple[tuple[Any, ...], _Fit]]] = {}
        for trial, fitted, fit in _summed(predictions(trials.to_list())):
            self._fits.setdefault(trial, []).append((fitted, fit))

    def differences(self, changes: pl.DataFrame) -> Differences | None:
        """Tuned less pre-trained, over rows of one model, task and tuning; those without a value are left out.

        Returns
        -------
        Differences or None
            None if there is no value, or an accuracy without predictions or with others than its own, or if not all are
            of the same items.
        """
        known = changes.filter(pl.col("value").is_not_null()).sort("ft_seed")
        runs = [
            [self._states(row) for row in run.iter_rows(named=True)]
            for _, run in known.group_by("ft_seed", maintain_order=True)
        ]
        states = [fits for run in runs for pair in run for fits in pair]
        if not all(states) or len({fit.items for fits in states for fit in fits}) != 1:
            return None
        total_SU = np.array([np.mean([_mean(own) - _mean(base) for own, base in run], axis=0) for run in runs])
        return Differences(total_SU, states[0][0].count_U, states[0][0].items)

    def _states(self, row: Mapping[str, Any]) -> tuple[list[_Fit], list[_Fit]]:
        """The fits of the tuned state and those of its baseline."""
        return self._of(row, [row["trial"]], row["tuned"]), self._of(row, row["baseline_trials"], row["baseline"])

    def _of(self, row: Mapping[str, Any], trials: Iterable[str], accuracy: float) -> list[_Fit]:
        """The fits of some trials that a row speaks of; none unless they give its accuracy."""
        found = [self._fit(row, trial) for trial in trials]
        fits = [fit for fit in found if fit is not None]
        whole = len(fits) == len(found) > 0
        return fits if whole and abs(np.mean([fit.accuracy for fit in fits]) - accuracy) < _ROUNDING else []

    def _fit(self, row: Mapping[str, Any], trial: str) -> _Fit | None:
        # What is null in predictions is the same for all of a trial.
        at = [row[name] for name in _FITTED]
        for fitted, fit in self._fits.get(trial, ()):
            if all(value in (None, wanted) for value, wanted in zip(fitted, at, strict=True)):
                return fit
        return None


def _mean(fits: list[_Fit]) -> Floats:
    mean_U: Floats = np.mean([fit.right_U for fit in fits], axis=0)
    return mean_U


def minus(one: Differences, other: Differences) -> Differences | None:
    """The first state of `one` less that of `other`, whose second state is the same; None if the items are not.

    Seeds are paired in order; those that one of them has more are left out.
    """
    if one.items != other.items:
        return None
    n = min(len(one.total_SU), len(other.total_SU))
    return one._replace(total_SU=one.total_SU[:n] - other.total_SU[:n])


def _summed(predictions: pl.LazyFrame) -> Iterator[tuple[str, tuple[Any, ...], _Fit]]:
    """Trial, what tells its probes apart, and what each got right of each sentence."""
    fit = ["trial", *_FITTED]
    right = (pl.col("gold") == pl.col("predicted")).fill_null(False)
    same = pl.struct("sentence", "word", "gold").hash()
    sentences = predictions.group_by(*fit, "sentence").agg(right=right.sum(), count=pl.len(), items=same.sum())
    fits = sentences.sort("sentence").group_by(fit, maintain_order=True).agg("right", "count", "items").collect()
    lists = ([each.to_numpy() for each in fits[name]] for name in ("right", "count", "items"))
    for (trial, *fitted), right_U, count_U, items_U in zip(fits.select(fit).rows(), *lists, strict=True):
        yield trial, tuple(fitted), _Fit(right_U.astype(np.float64), count_U.astype(np.float64), items_U.tobytes())
