"""Fits the MLP probe of one layer: a pack of cells a trial, then the best one again from other weights (METHODS 4).

Axes: G cells, N items, K classes, S label sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement, Outcome, Predictions, Status
from ftprobe.probes.mlp import MlpOptions
from ftprobe.probes.mlp_fit import Best, Cells, best_cell, fit, grid, halve
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.scores import macro_f1
from ftprobe.probes.selectivity import draw_controls, refused, selectivity
from ftprobe.probes.setting import (
    Setting,
    facts,
    layer_features,
    majority,
    make_setting,
    row,
    shape,
    test_predictions,
    undefined,
)
from ftprobe.solvers.mlp import MlpCell, predict_mlps

SELECTED = {"hidden1": "units", "hidden2": "units", "alpha": "strength", "dev_accuracy": "fraction"}
FOLDS_SAY = "5 folds of train, stratified by label, in corpus order; words of a sentence may part"


def run_part(
    options: MlpOptions,
    data: ProbeData,
    *,
    part: Mapping[str, int],
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Fit every alpha of one architecture; `facts["cells"]` has their dev accuracies."""
    setting = _setting(options, data, seed=seed, device=device)
    if setting.n_classes < 2:
        return Outcome((), facts={"cells": []})
    (layer,) = data.layers
    hidden = (part["hidden1"], part["hidden2"])
    asked = [(hidden, alpha) for alpha in options.alpha]
    return Outcome((), facts={"cells": grid(options, setting, layer, asked, options.max_epochs, seed=seed)})


def _setting(options: MlpOptions, data: ProbeData, *, seed: int, device: str) -> Setting:
    return make_setting(data, seed=seed, device=device, needs_dev=options.selection == "dev")


def _selected_on(options: MlpOptions) -> str:
    """The part whose items chose the cell."""
    return "train" if options.selection == "cv5" else "dev"


def _selection(options: MlpOptions) -> dict[str, object]:
    """How the cell was chosen, for records."""
    return {"selection": options.selection, **({"folds": FOLDS_SAY} if options.selection == "cv5" else {})}


def _metrics(options: MlpOptions) -> dict[str, tuple[str, str]]:
    scores = {
        "accuracy": ("test", "fraction"),
        "macro_f1": ("test", "fraction"),
        "train_accuracy": ("train", "fraction"),
    }
    return scores | {metric: (_selected_on(options), unit) for metric, unit in SELECTED.items()}


def run(
    options: MlpOptions,
    data: ProbeData,
    *,
    parts: Sequence[Cells],
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Choose the best cell on dev or by cross-validation, and train it anew, with its control tasks beside it.

    Parameters
    ----------
    data : ProbeData
        Of one layer.
    seed : int
        Of first weights, the order of items, the hold-out and the control labels.
    others
        As of every runner (`ftprobe.probes.Probe`).

    Returns
    -------
    Outcome
        `accuracy`, `macro_f1` and `train_accuracy` of each initialisation (`probe_seed`), `dev_accuracy`, `hidden1`,
        `hidden2` and `alpha` of the cell chosen, `majority`, and for each control task `control_accuracy` and
        `selectivity` (against the mean accuracy). A best cell that met `max_epochs` is `not_converged`. With
        `selection: cv5`, `dev_accuracy` is the mean over five folds of train, and its row is one of train.

    Raises
    ------
    InputError
        An activation is not finite, a part has no item, or train fewer than five to cross-validate on.
    """
    setting = _setting(options, data, seed=seed, device=device)
    (layer,) = data.layers
    if (nothing := undefined(setting, [layer], _metrics(options))) is not None:
        return nothing
    cells = [cell for part in parts for cell in part]
    best, rows = best_cell(cells) if cells else None, []
    if options.search == "halving":
        halved = halve(options, setting, layer, seed=seed)
        chosen = best_cell(halved.cells)
        if best is not None:
            detail = {
                "full": best._asdict(),
                "halving": chosen._asdict(),
                "epochs": halved.epochs,
                "epochs_full": sum(cell["epochs"] for cell in cells),
            }
            regret = best.dev_accuracy - chosen.dev_accuracy
            rows.append(row(setting, layer, "halving_regret", regret, _selected_on(options), detail=detail))
        best, cells = chosen, list(halved.cells)
    assert best is not None
    features = layer_features(setting, layer, scale=options.scale, centre=False)
    train, at_N = _refit_items(options, setting, features.train, features.dev)
    scored, predictions = _score(options, setting, _Again(layer, best, cells, train, at_N, features.test), seed=seed)
    return Outcome((*rows, *scored), predictions, facts(setting))


class _Again(NamedTuple):
    """What the best cell is trained on again: features and places of the items, and the features of test."""

    layer: int
    best: Best
    cells: Cells
    train_ND: Tensor
    at_N: NDArray[np.int64]
    test_ND: Tensor


def _refit_items(
    options: MlpOptions, setting: Setting, train_ND: Tensor, dev_ND: Tensor
) -> tuple[Tensor, NDArray[np.int64]]:
    parts = setting.parts
    with_dev = options.refit == "train_dev" or (options.refit == "rejoin" and parts.held_out)
    if not with_dev:
        return train_ND, parts.train
    known_N = setting.classes(parts.dev) >= 0  # labels that train lacks cannot be learnt
    dev = parts.dev[known_N.cpu().numpy()]
    return torch.cat([train_ND, dev_ND[known_N]]), np.concatenate([parts.train, dev])


def _score(
    options: MlpOptions, setting: Setting, again: _Again, *, seed: int
) -> tuple[list[Measurement], tuple[Predictions, ...]]:
    """Rows of the initialisations and of the control tasks, which are trained in one pack."""
    controls = draw_controls(options, setting, seed=seed)
    y_SN = setting.classes(again.at_N)[None]
    alpha, first = again.best.alpha, options.initialisations
    cells = [MlpCell(alpha, derive_seed(seed, "probe_init", index)) for index in range(first)]
    if controls is not None:
        own = torch.from_numpy(controls.class_SN[:, again.at_N]).to(setting.device)
        y_SN = torch.cat([y_SN, own])
        cells += [MlpCell(alpha, derive_seed(seed, "probe_init", 0), index + 1) for index in range(len(own))]
    made = fit(options, setting, again.train_ND, y_SN, again.best.hidden, cells, options.max_epochs, seed=seed)
    said = [predict_mlps(fits, again.test_ND) for fits in made]
    class_GN, score_GN = (torch.cat([pair[i] for pair in said]) for i in (0, 1))
    seen_GN = torch.cat([predict_mlps(fits, again.train_ND)[0] for fits in made])
    ended = _Ended(
        class_GN[:first],
        score_GN[:first],
        seen_GN[:first],
        torch.cat([fits.converged_G.cpu() for fits in made])[:first],
    )
    rows = list(_rows(options, setting, again, ended))
    mean = float(np.mean([each.value for each in rows if each.metric == "accuracy"]))
    if controls is not None:
        rows += selectivity(setting, controls, again.layer, mean, class_GN[first:])
    rows += refused(options, setting, again.layer)
    predictions = tuple(
        test_predictions(setting, again.layer, index, class_GN[index], score_GN[index]) for index in range(first)
    )
    return rows, predictions


class _Ended(NamedTuple):
    """What each initialisation says of test, how surely, what it says of train, and whether it converged."""

    class_GN: Tensor
    score_GN: Tensor
    seen_GN: Tensor
    converged_G: Tensor


def _rows(options: MlpOptions, setting: Setting, again: _Again, ended: _Ended) -> Iterator[Measurement]:
    layer, best = again.layer, again.best
    gold_N = setting.data.y_N[setting.parts.test]
    y_train_N = setting.classes(again.at_N)
    how = _selection(options)
    detail = {**shape(setting), "n_refit": len(again.at_N), "search": options.search, **how, "cells": list(again.cells)}
    for index, said_N in enumerate(ended.class_GN):
        predicted_N = setting.ids(said_N)
        status: Status = "ok" if bool(ended.converged_G[index]) else "not_converged"
        train = float((ended.seen_GN[index] == y_train_N).double().mean())
        values = {"accuracy": float(np.mean(gold_N == predicted_N)), "macro_f1": macro_f1(gold_N, predicted_N)}
        for metric, value in values.items():
            own = detail if metric == "accuracy" and index == 0 else None
            yield row(setting, layer, metric, value, status=status, probe_seed=index, detail=own)
        yield row(setting, layer, "train_accuracy", train, "train", status=status, probe_seed=index)
    yield row(setting, layer, "majority", majority(setting))
    chosen = (*best.hidden, best.alpha, best.dev_accuracy)
    for (metric, unit), value in zip(SELECTED.items(), chosen, strict=True):
        own = how if metric == "dev_accuracy" else None
        yield row(setting, layer, metric, float(value), _selected_on(options), unit, detail=own)
