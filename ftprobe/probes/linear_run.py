"""Fits the linear probe: every layer and strength of a trial, chosen on dev, scored on test (METHODS 3.1).

Axes: L layers, G strengths, N items, D dimensions, K labels that occur in train, S control tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.measurement import Measurement, Outcome, Predictions
from ftprobe.probes.linear import LinearOptions
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.scored import SCORES, Scored, score
from ftprobe.probes.scores import accuracy
from ftprobe.probes.selectivity import Controls, draw_controls, refused, selectivity
from ftprobe.probes.setting import Features, Setting, facts, layer_features, make_setting, shape, undefined
from ftprobe.solvers.logistic import LogisticFits, bytes_per_layer, fit_logistic

GROUP_BYTES = 1 << 30
METRICS = {**SCORES, "chosen_l2": ("dev", "strength")}


def run(options: LinearOptions, data: ProbeData, *, seed: int, device: str, threads: int, report: Report) -> Outcome:
    """Fit and score the linear probe of every layer.

    Parameters
    ----------
    seed : int
        Cuts the development part where the corpus has none and draws control labels; the fit itself is unique.
    others
        As of every runner (`ftprobe.probes.Probe`).

    Returns
    -------
    Outcome
        Per layer `accuracy`, `macro_f1` and `majority` (test), `dev_accuracy`, `train_accuracy`, `chosen_l2`, and for
        each control task `control_accuracy` and `selectivity`; test predictions of the chosen cell. One class in train:
        every row is `undefined`, with the reason.

    Raises
    ------
    InputError
        An activation is not finite, or a part has no item.
    """
    setting = make_setting(data, seed=seed, device=device)
    if (nothing := undefined(setting, data.layers, METRICS)) is not None:
        return nothing
    controls = draw_controls(options, setting, seed=seed)
    rows: list[Measurement] = []
    predictions: list[Predictions] = []
    at_once = _layers_at_once(options, setting)
    for start in range(0, len(data.layers), at_once):
        layers = [layer_features(setting, each, scale=options.scale) for each in data.layers[start : start + at_once]]
        for chosen in _fit(options, setting, layers):
            rows += chosen.scored.rows
            rows += _control_rows(options, setting, chosen, controls)
            predictions.append(chosen.scored.predictions)
        report({"layers_done": start + len(layers)})
    return Outcome(tuple(rows), tuple(predictions), {**facts(setting), "layers_at_once": at_once})


def _layers_at_once(options: LinearOptions, setting: Setting) -> int:
    """As many layers as fit the byte budget, one at least."""
    n_items, dim = (int(size) for size in setting.data.layer(setting.data.layers[0]).shape)
    working = bytes_per_layer(dim, setting.n_classes, len(options.strength))
    return max(1, GROUP_BYTES // (4 * n_items * dim + working))


class _Chosen(NamedTuple):
    layer: Features
    strength: float
    scored: Scored


def _fit(options: LinearOptions, setting: Setting, layers: list[Features]) -> Iterator[_Chosen]:
    fits = fit_logistic(
        [layer.train for layer in layers],
        setting.classes(setting.parts.train),
        setting.n_classes,
        options.strength,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    for place, layer in enumerate(layers):
        yield _choose(options, setting, layer, LogisticFits(*(column[place : place + 1] for column in fits)))


def _choose(options: LinearOptions, setting: Setting, layer: Features, fits: LogisticFits) -> _Chosen:
    """Choose a layer's strength on dev and score it on test."""
    y_N, parts = setting.data.y_N, setting.parts
    said_G = [setting.ids(_predict(layer.dev, fits, g)[0]) for g in range(len(options.strength))]
    dev_G = [accuracy(y_N[parts.dev], said_N) for said_N in said_G]
    chosen = max(range(len(dev_G)), key=lambda g: (dev_G[g], options.strength[g]))
    said = _predict(layer.test, fits, chosen)
    others = {
        "dev_accuracy": dev_G[chosen],
        "train_accuracy": accuracy(y_N[parts.train], setting.ids(_predict(layer.train, fits, chosen).class_N)),
        "chosen_l2": options.strength[chosen],
    }
    detail = {**shape(setting), "strength": list(options.strength), "dev_accuracy": dev_G, **_ends(fits)}
    converged = bool(fits.converged_LG[0, chosen])
    scored = score(setting, layer.layer, *said, METRICS, others, converged=converged, detail=detail)
    return _Chosen(layer, options.strength[chosen], scored)


def _control_rows(
    options: LinearOptions, setting: Setting, chosen: _Chosen, controls: Controls | None
) -> list[Measurement]:
    """Selectivity of a layer, its control tasks fitted at the strength chosen for the task."""
    layer = chosen.layer
    if controls is None:
        return refused(options, setting, layer.layer)
    said = []
    for y_n in controls.train(setting):
        fits = fit_logistic(
            [layer.train],
            y_n,
            setting.n_classes,
            (chosen.strength,),
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
        )
        said.append(_predict(layer.test, fits, 0)[0])
    return list(selectivity(setting, controls, layer.layer, chosen.scored.accuracy, torch.stack(said)))


class _Said(NamedTuple):
    class_N: Tensor
    score_N: Tensor


def _predict(X_ND: Tensor, fits: LogisticFits, g: int) -> _Said:
    """Classes and their probabilities."""
    z_NK = X_ND @ fits.W_LGKD[0, g].to(X_ND.dtype).mT + fits.b_LGK[0, g].to(X_ND.dtype)
    score_N, class_N = torch.softmax(z_NK, dim=1).max(dim=1)
    return _Said(class_N, score_N)


def _ends(fits: LogisticFits) -> dict[str, object]:
    return {
        "objective": fits.objective_LG[0].tolist(),
        "largest_gradient": fits.largest_grad_LG[0].tolist(),
        "iterations": fits.iterations_LG[0].tolist(),
        "converged": fits.converged_LG[0].tolist(),
    }
