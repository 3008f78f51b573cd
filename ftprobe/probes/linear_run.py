"""Fits the linear probe: every layer and strength of a trial, chosen on dev, scored on test (METHODS 3.1).

Axes: L layers, G strengths, N items, D dimensions, K labels that occur in train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.measurement import NO_DETAIL, Measurement, Outcome, Predictions, Status
from ftprobe.probes.linear import LinearOptions
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.scores import accuracy, macro_f1
from ftprobe.probes.splits import Parts, split
from ftprobe.solvers.logistic import LogisticFits, bytes_per_layer, fit_logistic

GROUP_BYTES = 1 << 30
_CONSTANT = 1e-3
_BLOCK_ROWS = 8192


class _Layer(NamedTuple):
    """One layer's features (N, D) in the three parts, centred and scaled by train statistics."""

    layer: int
    train: Tensor
    dev: Tensor
    test: Tensor


class _Task(NamedTuple):
    """What all layers share."""

    options: LinearOptions
    data: ProbeData
    parts: Parts
    fitted_K: NDArray[np.int32]
    """Ids of the labels that occur in train."""
    device: str


def run(options: LinearOptions, data: ProbeData, *, seed: int, device: str, threads: int, report: Report) -> Outcome:
    """Fit and score the linear probe of every layer.

    Parameters
    ----------
    options : LinearOptions
    data : ProbeData
    seed : int
        Cuts the development part where the corpus has none; the fit itself is unique.
    device, threads : str, int
        Where to compute; the caller holds torch to `threads`.
    report : callable
        Told how many layers are done.

    Returns
    -------
    Outcome
        Per layer `accuracy`, `macro_f1` and `majority` (test), `dev_accuracy`, `train_accuracy`, `chosen_l2`; test
        predictions of the chosen cell. One class in train: every row is `undefined`, with the reason.

    Raises
    ------
    InputError
        An activation is not finite, or a part has no item.
    """
    parts = split(data, seed=seed)
    fitted_K = np.unique(data.y_N[parts.train])
    task = _Task(options, data, parts, fitted_K, device)
    if len(fitted_K) < 2:
        return Outcome(tuple(_undefined(task)), facts={"held_out_dev": parts.held_out})
    rows: list[Measurement] = []
    predictions: list[Predictions] = []
    at_once = _layers_at_once(task)
    for start in range(0, len(data.layers), at_once):
        layers = [_features(task, index) for index in data.layers[start : start + at_once]]
        for scored in _fit(task, layers):
            rows.extend(scored.rows)
            predictions.append(scored.predictions)
        report({"layers_done": start + len(layers)})
    return Outcome(tuple(rows), tuple(predictions), {"held_out_dev": parts.held_out, "layers_at_once": at_once})


def _layers_at_once(task: _Task) -> int:
    """As many layers as fit the byte budget, one at least."""
    n_items, dim = (int(size) for size in task.data.layer(task.data.layers[0]).shape)
    cells = len(task.options.strength)
    return max(1, GROUP_BYTES // (4 * n_items * dim + bytes_per_layer(dim, len(task.fitted_K), cells)))


def _features(task: _Task, index: int) -> _Layer:
    """A layer's features: finite, centred (the bias is free, so the model is the same) and scaled."""
    h_ND = np.asarray(task.data.layer(index), dtype=np.float32)
    finite_N = np.isfinite(h_ND).all(axis=1)
    if not finite_N.all():
        first = int(np.flatnonzero(~finite_N)[0])
        raise InputError.one(
            f"layer {index}",
            f"{int((~finite_N).sum())} of {len(h_ND)} items have activations that are not finite; the first is "
            f"sentence {int(task.data.sentence_N[first])}, word {int(task.data.word_N[first])}",
            "store activations as float32 if float16 overflows, else check the checkpoint",
        )
    train_ND = h_ND[task.parts.train]
    mean_D, sd_D = _moments(train_ND)
    scale_D = np.ones_like(sd_D)
    if task.options.scale == "standardise":
        # columns that vary by rounding alone: layer-0 `cls` is one vector for all items
        scale_D = np.where((sd_D < _CONSTANT * np.abs(mean_D)) | (sd_D == 0), 1.0, sd_D)
    shift_D, divisor_D = mean_D.astype(np.float32), scale_D.astype(np.float32)

    def prepared(rows_ND: NDArray[np.float32]) -> Tensor:
        x_ND = rows_ND - shift_D
        x_ND /= divisor_D
        return torch.from_numpy(x_ND).to(task.device)

    return _Layer(index, prepared(train_ND), prepared(h_ND[task.parts.dev]), prepared(h_ND[task.parts.test]))


def _moments(h_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column in float64, a block of rows at a time."""
    mean_D = h_ND.mean(axis=0, dtype=np.float64)
    square_D = np.zeros_like(mean_D)
    for start in range(0, len(h_ND), _BLOCK_ROWS):
        square_D += np.square(h_ND[start : start + _BLOCK_ROWS] - mean_D).sum(axis=0)
    return mean_D, np.sqrt(square_D / len(h_ND))


class _Scored(NamedTuple):
    rows: list[Measurement]
    predictions: Predictions


def _fit(task: _Task, layers: list[_Layer]) -> Iterator[_Scored]:
    options, data, parts = task.options, task.data, task.parts
    rank_N = torch.from_numpy(np.searchsorted(task.fitted_K, data.y_N[parts.train])).to(task.device)
    fits = fit_logistic(
        [layer.train for layer in layers],
        rank_N,
        len(task.fitted_K),
        options.strength,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    for place, layer in enumerate(layers):
        yield _score(task, layer, LogisticFits(*(column[place : place + 1] for column in fits)))


def _score(task: _Task, layer: _Layer, fits: LogisticFits) -> _Scored:
    """Choose a layer's strength on dev and score it on test."""
    options, data, parts = task.options, task.data, task.parts
    dev_G = [accuracy(data.y_N[parts.dev], _predict(task, layer.dev, fits, g)[0]) for g in range(len(options.strength))]
    chosen = max(range(len(dev_G)), key=lambda g: (dev_G[g], options.strength[g]))
    gold_N = data.y_N[parts.test]
    predicted_N, score_N = _predict(task, layer.test, fits, chosen)
    train = accuracy(data.y_N[parts.train], _predict(task, layer.train, fits, chosen)[0])
    status: Status = "ok" if bool(fits.converged_LG[0, chosen]) else "not_converged"
    detail = {**_shape(task), "strength": list(options.strength), "dev_accuracy": dev_G, **_ends(fits)}

    def row(metric: str, value: float, part: str, unit: str = "fraction") -> Measurement:
        kept = detail if metric == "accuracy" else NO_DETAIL
        return _row(task, layer.layer, metric, value, part, unit)._replace(status=status, detail=kept)

    rows = [
        row("accuracy", accuracy(gold_N, predicted_N), "test"),
        row("macro_f1", macro_f1(gold_N, predicted_N), "test"),
        _row(task, layer.layer, "majority", _majority(task), "test"),
        row("dev_accuracy", dev_G[chosen], "dev"),
        row("train_accuracy", train, "train"),
        row("chosen_l2", options.strength[chosen], "dev", "strength"),
    ]
    at_N = (data.sentence_N[parts.test], data.word_N[parts.test])
    return _Scored(rows, Predictions("test", layer.layer, None, *at_N, gold_N, predicted_N, score_N, data.labels))


def _predict(task: _Task, X_ND: Tensor, fits: LogisticFits, g: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Label ids and their probabilities."""
    z_NK = X_ND @ fits.W_LGKD[0, g].to(X_ND.dtype).mT + fits.b_LGK[0, g].to(X_ND.dtype)
    score_N, best_N = torch.softmax(z_NK, dim=1).max(dim=1)
    return task.fitted_K[best_N.cpu().numpy()], score_N.cpu().numpy()


def _row(task: _Task, layer: int, metric: str, value: float, part: str, unit: str = "fraction") -> Measurement:
    n_items = len(getattr(task.parts, part))
    return Measurement(metric, value, unit, part, layer, n_items=n_items, n_dropped=task.data.n_dropped)


def _shape(task: _Task) -> dict[str, object]:
    gold_N = task.data.y_N[task.parts.test]
    return {
        "n_train": len(task.parts.train),
        "n_dev": len(task.parts.dev),
        "held_out_dev": task.parts.held_out,
        "n_labels": len(task.data.labels),
        "n_labels_in_train": len(task.fitted_K),
        "n_test_unseen_label": int((~np.isin(gold_N, task.fitted_K)).sum()),
    }


def _ends(fits: LogisticFits) -> dict[str, object]:
    return {
        "objective": fits.objective_LG[0].tolist(),
        "largest_gradient": fits.largest_grad_LG[0].tolist(),
        "iterations": fits.iterations_LG[0].tolist(),
        "converged": fits.converged_LG[0].tolist(),
    }


def _majority(task: _Task) -> float:
    """Test accuracy of the most frequent train label (ties: the smaller id)."""
    most = np.bincount(task.data.y_N[task.parts.train]).argmax()
    return float(np.mean(task.data.y_N[task.parts.test] == most))


def _undefined(task: _Task) -> Iterator[Measurement]:
    """The rows of a task whose train items all have one label: nothing can be fitted."""
    only = task.data.labels[int(task.fitted_K[0])]
    detail = {**_shape(task), "reason": f"all {len(task.parts.train)} train items have the label {only!r}"}
    parts = {"accuracy": "test", "macro_f1": "test", "dev_accuracy": "dev", "train_accuracy": "train"}
    for layer in task.data.layers:
        for metric, part in parts.items():
            yield _row(task, layer, metric, float("nan"), part)._replace(status="undefined", detail=detail)
        yield _row(task, layer, "majority", _majority(task), "test")
        undefined = _row(task, layer, "chosen_l2", float("nan"), "dev", "strength")
        yield undefined._replace(status="undefined", detail=detail)
