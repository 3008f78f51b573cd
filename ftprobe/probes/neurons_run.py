"""The neuron study: an elastic-net probe on all layers, the ranking of its neurons, and what few of them can do.

Features are all layers concatenated, read in batches from the layers' files and never copied as a whole (METHODS 6;
Durrani et al. 2021, sections 2 and 4.2).

Axes: N items, D = layers x dim features (neurons), K classes, C cells, S control tasks, n some neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ftprobe.measurement import Measurement, Outcome, Predictions
from ftprobe.probes.elastic_net_fit import Pair, Scores, accuracies, choose, dev_scores, fit, masked
from ftprobe.probes.neurons import PAIRS_A_PACK, ZERO, NeuronOptions
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.selectivity import Controls, draw_controls, refused, selectivity
from ftprobe.probes.setting import (
    Setting,
    check_finite,
    facts,
    majority,
    make_setting,
    moments,
    row,
    shape,
    test_predictions,
    undefined,
)
from ftprobe.solvers.elastic_net import Weights, predict
from ftprobe.solvers.ranking import class_means, layer_counts, n_neurons, probeless, rank_neurons
from ftprobe.solvers.rows import Columns, Layers, Matrix, Rows, blocks

DENSE_BYTES = 1 << 29  # what is larger is read from the layers batch by batch, not copied
CAPS = (8, 16, 32, 64, 100)  # per cent of the ranking that are brought side by side at a time
METRICS = {
    **dict.fromkeys(("accuracy_all", "accuracy_minimal", "top_accuracy", "bottom_accuracy"), ("test", "fraction")),
    "minimal_n": ("dev", "count"),
    "minimal_fraction": ("dev", "fraction"),
    "mean_layer": ("train", "layer"),
    **dict.fromkeys(("chosen_l1", "chosen_l2"), ("dev", "strength")),
}


class _Features(NamedTuple):
    """All neurons of the items of each part."""

    train: Rows
    dev: Rows
    test: Rows

    def only(self, at_n: Tensor) -> _Features:
        """The same items with some neurons, in the order given."""
        return _Features(*(_columns(part, at_n) for part in self))


def _columns(rows: Rows, at_n: Tensor) -> Rows:
    if isinstance(rows, Layers) and 4 * rows.shape[0] * len(at_n) <= DENSE_BYTES:
        return rows.columns(at_n)
    return Columns(rows, at_n)


def _first(rows: Rows, n: int) -> Rows:
    return Matrix(rows.X_ND[:, :n]) if isinstance(rows, Matrix) else Columns(rows, torch.arange(n))


def _growing(features: _Features, order_D: Tensor) -> Iterator[_Features]:
    """Features of the first 1, 2, ... 100 per cent of the ranking."""
    done = 0
    for cap in CAPS:
        ordered = features.only(order_D[: n_neurons(len(order_D), cap)])
        for percent in range(done + 1, cap + 1):
            n = n_neurons(len(order_D), percent)
            yield _Features(*(_first(part, n) for part in ordered))
        done = cap


class _Study(NamedTuple):
    """What the steps of a trial share; classes of dev and test that train lacks are -1."""

    options: NeuronOptions
    setting: Setting
    y: tuple[Tensor, Tensor, Tensor]
    controls: Controls | None
    pair: Pair
    seed: int

    @property
    def retrained(self) -> Pair:
        """Lambdas of probes that are trained on some neurons."""
        return self.pair if self.options.retrain_lambda == "same" else ZERO


def run_part(
    options: NeuronOptions,
    data: ProbeData,
    *,
    part: Mapping[str, int],
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Fit one pack of pairs of lambdas on all neurons; `facts["cells"]` has their dev accuracies."""
    setting = make_setting(data, seed=seed, device=device)
    pairs = options.fitted[part["first"] : part["first"] + PAIRS_A_PACK]
    if setting.n_classes < 2:
        return Outcome((), facts={"cells": []})
    features = _features(setting, scale=options.scale)
    y_1N = setting.classes(setting.parts.train)[None]
    fits = fit(options, setting, features.train, y_1N, [(pair, 0) for pair in pairs], seed=seed)
    scores = dev_scores(fits.weights, features.dev, setting.classes(setting.parts.dev), seed=seed)
    columns = zip(pairs, *(column.tolist() for column in scores), strict=True)
    cells = [{"l1": p[0], "l2": p[1], "all": a, "top": t, "bottom": b} for p, a, t, b in columns]
    return Outcome((), facts={"cells": cells})


def run(
    options: NeuronOptions,
    data: ProbeData,
    *,
    parts: Sequence[Sequence[Mapping[str, float]]],
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Choose lambdas among the packs' cells, rank the neurons, and score sets of them.

    Parameters
    ----------
    seed : int
        Of the first weights, the order of items, the hold-out, the control labels and the order of all-zero neurons.
    others
        As of every runner (`ftprobe.probes.Probe`).

    Returns
    -------
    Outcome
        `accuracy_all`, `accuracy_minimal`, `top_accuracy`, `bottom_accuracy`, `minimal_n`, `minimal_fraction`,
        `mean_layer` and a `layer_count` for each layer, with the features as asked for and again standardised (or, if
        that was asked for, as they are: `_raw`); the two accuracies by the probeless ranking; `selectivity_all`,
        `selectivity_minimal` and `control_accuracy_*` for each control task; `chosen_l1`, `chosen_l2`. The rankings are
        arrays of the artifact.

    Raises
    ------
    InputError
        An activation is not finite, or a part has no item.
    """
    setting = make_setting(data, seed=seed, device=device)
    if (nothing := undefined(setting, [None], METRICS)) is not None:
        return nothing
    cells = [cell for part in parts for cell in part]
    pair, found = _chosen(options, setting, cells)
    y = tuple(setting.classes(part) for part in (setting.parts.train, setting.parts.dev, setting.parts.test))
    study = _Study(options, setting, y, draw_controls(options, setting, seed=seed), pair, seed)  # type: ignore[arg-type]
    features = _features(setting, scale=options.scale)
    sets = _neuron_sets(study, features, "", found)
    report({"done": "neurons"})
    mu_KD = class_means(((x_nD, study.y[0][at]) for at, x_nD in blocks(features.train)), setting.n_classes).mu_KD
    order_D = probeless(mu_KD)
    rows = [*sets.rows, *_ends(study, features, order_D, None, "_probeless")]
    other = "none" if options.scale == "standardise" else "standardise"
    suffix = "_raw" if options.scale == "standardise" else "_standardised"
    rows += _neuron_sets(study._replace(controls=None), _features(setting, scale=other), suffix, ()).rows
    rows += refused(options, setting, None, "_all")
    rows.append(row(setting, None, "majority", majority(setting)))
    arrays = {"ranking_D": sets.order_D.cpu().numpy(), "probeless_D": order_D.cpu().numpy()}
    return Outcome(tuple(rows), (sets.predictions,), facts(setting), arrays)


def _chosen(
    options: NeuronOptions, setting: Setting, cells: Sequence[Mapping[str, float]]
) -> tuple[Pair, list[Measurement]]:
    """The pair of lambdas, and the rows that say so."""
    detail: dict[str, object]
    score: float | None
    if not cells:
        pair, detail, score = options.pairs[0], {"rule": "only pair"}, None
    else:
        of = {(cell["l1"], cell["l2"]): cell for cell in cells}
        columns = ([of[pair][name] for pair in options.pairs] for name in ("all", "top", "bottom"))
        scores = Scores(*(torch.tensor(column, dtype=torch.float64) for column in columns))
        chosen = choose(options, options.pairs, scores, of[ZERO]["all"] if ZERO in of else 0.0)
        pair, score = options.pairs[chosen.cell], chosen.score_C[chosen.cell]
        listed = [[*p, of[p]["all"], s] for p, s in zip(options.pairs, chosen.score_C, strict=True)]
        detail = {"rule": options.lambda_score, "cells": listed}
    rows = [
        row(setting, None, "chosen_l1", pair[0], "dev", "strength", detail=detail),
        row(setting, None, "chosen_l2", pair[1], "dev", "strength"),
    ]
    if score is not None:
        rows.append(row(setting, None, "lambda_score", score, "dev"))
    return pair, rows


class _Sets(NamedTuple):
    order_D: Tensor
    rows: list[Measurement]
    predictions: Predictions


def _neuron_sets(study: _Study, features: _Features, suffix: str, found: Sequence[Measurement]) -> _Sets:
    """The probe of all neurons with its control tasks, its ranking, and the sets that the ranking gives."""
    options, setting = study.options, study.setting
    oracle = study.pair if options.oracle_lambda == "same" else ZERO
    y_SN = study.y[0][None] if study.controls is None else _with_task(study)
    cells = [(study.pair, 0), (oracle, 0), *((oracle, index) for index in range(1, len(y_SN)))]
    weights = fit(options, setting, features.train, y_SN, cells, seed=study.seed).weights
    guesses = predict(_cells(weights, slice(1, None)), features.test)
    accuracy = float((guesses.class_CN[0] == study.y[2]).double().mean())
    ranking = rank_neurons(weights.W_CKD[:1], seed=study.seed, rank_stride=options.rank_stride)
    order_D = ranking.order_CD[0]
    dim = features.train.shape[1]
    detail = {**shape(setting), "n": dim, "n_zero": int(ranking.n_zero_C[0])}
    rows = [*found, row(setting, None, f"accuracy_all{suffix}", accuracy, detail=detail)]
    rows.append(row(setting, None, f"n_neurons{suffix}", float(dim), "train", "count"))
    if study.controls is not None:
        rows += selectivity(setting, study.controls, None, accuracy, guesses.class_CN[1:], suffix=f"{suffix}_all")
    rows += _ends(study, features, order_D, _cells(weights, slice(1)), suffix)
    rows += _layers(study, order_D, dim, suffix)
    oracle_dev = float(accuracies(_cells(weights, slice(1, 2)), features.dev, study.y[1])[0])
    rows += _minimal(study, features, order_D, oracle_dev, suffix)
    predictions = test_predictions(setting, None, None, guesses.class_CN[0], guesses.score_CN[0])
    return _Sets(order_D, rows, predictions)


def _with_task(study: _Study) -> Tensor:
    """Label sets: the task's, then those of its control tasks."""
    assert study.controls is not None
    return torch.cat([study.y[0][None], study.controls.train(study.setting)])


def _cells(weights: Weights, at: slice) -> Weights:
    return Weights(weights.W_CKD[at], weights.b_CK[at])


def _size(options: NeuronOptions, dim: int) -> int:
    return n_neurons(dim, options.percent) if options.n_neurons is None else min(options.n_neurons, dim)


def _ends(
    study: _Study, features: _Features, order_D: Tensor, weights: Weights | None, suffix: str
) -> Iterator[Measurement]:
    """Test accuracy of the first and of the last neurons; a ranking without a probe (`weights`) has only retraining."""
    n = _size(study.options, len(order_D))
    for name, at_n in (("top", order_D[:n]), ("bottom", order_D[-n:])):
        if study.options.ablate == "mask" and weights is not None:
            kept_1D = torch.zeros(1, len(order_D), device=weights.W_CKD.device)
            kept_1D[:, at_n] = 1.0
            said, how = accuracies(masked(weights, kept_1D), features.test, study.y[2]), "mask"
        else:
            some = features.only(at_n)
            own = fit(
                study.options, study.setting, some.train, study.y[0][None], [(study.retrained, 0)], seed=study.seed
            )
            said, how = accuracies(own.weights, some.test, study.y[2]), "retrain"
        detail = {"n": n, "percent": 100 * n / len(order_D), "ablate": how}
        yield row(study.setting, None, f"{name}_accuracy{suffix}", float(said[0]), detail=detail)


def _layers(study: _Study, order_D: Tensor, dim: int, suffix: str) -> Iterator[Measurement]:
    """Where the first neurons are: their number in each layer, and the mean layer."""
    layers = study.setting.data.layers
    n = _size(study.options, dim)
    counts = layer_counts(order_D[:n], dim // len(layers), len(layers)).tolist()
    for layer, count in zip(layers, counts, strict=True):
        detail = {"n": n, "share": count / n}
        yield row(study.setting, layer, f"layer_count{suffix}", float(count), "train", "count", detail=detail)
    mean = sum(layer * count for layer, count in zip(layers, counts, strict=True)) / n
    yield row(study.setting, None, f"mean_layer{suffix}", mean, "train", "layer", detail={"n": n})


def _minimal(study: _Study, features: _Features, order_D: Tensor, oracle: float, suffix: str) -> Iterator[Measurement]:
    """The first set, growing by one per cent, whose dev accuracy is within delta of the oracle's."""
    options, setting, dim = study.options, study.setting, len(order_D)
    curve: list[float] = []
    for some in _growing(features, order_D):
        cells = [(study.retrained, 0)]
        weights = fit(options, setting, some.train, study.y[0][None], cells, seed=study.seed).weights
        curve.append(float(accuracies(weights, some.dev, study.y[1])[0]))
        if curve[-1] >= oracle - options.delta:
            break
    n, reached = some.train.shape[1], curve[-1] >= oracle - options.delta
    value = float(accuracies(weights, some.test, study.y[2])[0])
    detail = {"n": n, "oracle_dev": oracle, "delta": options.delta, "dev_curve": curve, "reached": reached}
    yield row(setting, None, f"minimal_n{suffix}", float(n), "dev", "count", detail=detail)
    yield row(setting, None, f"minimal_fraction{suffix}", n / dim, "dev")
    yield row(setting, None, f"accuracy_minimal{suffix}", value, detail={"n": n})
    if study.controls is not None:
        y_SN = study.controls.train(setting)
        cells = [(study.retrained, index) for index in range(len(y_SN))]
        own = fit(options, setting, some.train, y_SN, cells, seed=study.seed).weights
        said_Sn = predict(own, some.test).class_CN
        yield from selectivity(setting, study.controls, None, value, said_Sn, suffix=f"{suffix}_minimal")


def _features(setting: Setting, *, scale: str) -> _Features:
    """All layers side by side, in the three parts."""
    data, parts = setting.data, setting.parts
    stored = data.layer if data.stored is None else data.stored
    at_N = np.arange(len(data.y_N)) if data.row_N is None else data.row_N
    pieces = [stored(layer) for layer in data.layers]
    shifts, divisors = [], []
    for layer, piece in zip(data.layers, pieces, strict=True):
        check_finite(data, layer, piece[at_N])
        shift_d, divisor_d = moments(piece[at_N[parts.train]].astype(np.float32), scale=scale, centre=False)
        shifts.append(shift_d)
        divisors.append(divisor_d)
    scaled = (np.concatenate(shifts), np.concatenate(divisors)) if scale == "standardise" else (None, None)
    return _Features(
        *(Layers(pieces, at_N[at], setting.device, *scaled) for at in (parts.train, parts.dev, parts.test))
    )
