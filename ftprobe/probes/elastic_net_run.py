"""Fits the elastic-net probe of each layer: grid, choice on dev, score on test, control tasks (METHODS 3.2).

Axes: C cells, K classes, D features, N items, S control tasks.
"""

from __future__ import annotations

from typing import NamedTuple

from ftprobe.measurement import Measurement, Outcome, Predictions
from ftprobe.probes.elastic_net import ZERO, ElasticNetOptions
from ftprobe.probes.elastic_net_fit import Chosen, Fits, Pair, Scores, accuracies, choose, dev_scores, fit
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.scored import SCORES, Scored, score
from ftprobe.probes.selectivity import Controls, draw_controls, refused, selectivity
from ftprobe.probes.setting import Features, Setting, facts, layer_features, make_setting, shape, undefined
from ftprobe.solvers.elastic_net import Weights, predict
from ftprobe.solvers.rows import Matrix

TINY = 1e-8  # smaller weights count as zero (METHODS 3.2)
METRICS = {
    **SCORES,
    "chosen_l1": ("dev", "strength"),
    "chosen_l2": ("dev", "strength"),
    "lambda_score": ("dev", "fraction"),
    "zeros": ("train", "fraction"),
}


def run(
    options: ElasticNetOptions, data: ProbeData, *, seed: int, device: str, threads: int, report: Report
) -> Outcome:
    """Fit the whole grid on every layer, choose a cell on dev, score it on test.

    Parameters
    ----------
    seed : int
        Of the first weights, the order of items, the hold-out and the control labels.
    others
        As of every runner (`ftprobe.probes.Probe`).

    Returns
    -------
    Outcome
        Per layer `accuracy`, `macro_f1`, `majority` (test), `dev_accuracy`, `train_accuracy`, `chosen_l1`, `chosen_l2`,
        `lambda_score`, `zeros` (share of weights below 1e-8), and for each control task `control_accuracy` and
        `selectivity`; test predictions. One class in train: every row is `undefined`.

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
    for done, layer in enumerate(data.layers, start=1):
        features = layer_features(setting, layer, scale=options.scale, centre=False)
        pair, scored = _layer(options, setting, features, seed=seed)
        rows += scored.rows
        rows += _control_rows(options, setting, features, pair, scored.accuracy, controls, seed=seed)
        predictions.append(scored.predictions)
        report({"layers_done": done})
    return Outcome(tuple(rows), tuple(predictions), facts(setting))


class _Layer(NamedTuple):
    """The lambdas chosen for a layer, and how their probe scores."""

    pair: Pair
    scored: Scored


def _layer(options: ElasticNetOptions, setting: Setting, features: Features, *, seed: int) -> _Layer:
    """The grid on one layer."""
    y_1N = setting.classes(setting.parts.train)[None]
    fits = fit(options, setting, Matrix(features.train), y_1N, [(pair, 0) for pair in options.fitted], seed=seed)
    scores = dev_scores(fits.weights, Matrix(features.dev), setting.classes(setting.parts.dev), seed=seed)
    asked = Scores(*(column[: len(options.pairs)] for column in scores))
    zero = float(scores.all_C[options.fitted.index(ZERO)]) if ZERO in options.fitted else 0.0
    chosen = choose(options, options.pairs, asked, zero)
    scored = _score(options, setting, features, fits, asked, chosen)
    return _Layer(options.pairs[chosen.cell], scored)


def _score(
    options: ElasticNetOptions, setting: Setting, features: Features, fits: Fits, scores: Scores, chosen: Chosen
) -> Scored:
    """The rows of the chosen cell."""
    at, pair = chosen.cell, options.pairs[chosen.cell]
    own = Weights(*(each[at : at + 1] for each in fits.weights))
    guesses = predict(own, Matrix(features.test))
    others = {
        "dev_accuracy": float(scores.all_C[at]),
        "train_accuracy": float(accuracies(own, Matrix(features.train), setting.classes(setting.parts.train))[0]),
        "chosen_l1": pair[0],
        "chosen_l2": pair[1],
        "lambda_score": chosen.score_C[at],
        "zeros": float((own.W_CKD.abs() < TINY).double().mean()),
    }
    detail = {
        **shape(setting),
        "rule": options.lambda_score,
        "cells": [[*p, float(a), s] for p, a, s in zip(options.pairs, scores.all_C, chosen.score_C, strict=True)],
    }
    said_N, sure_N = guesses.class_CN[0], guesses.score_CN[0]
    converged = bool(fits.converged_C[at])
    return score(setting, features.layer, said_N, sure_N, METRICS, others, converged=converged, detail=detail)


def _control_rows(
    options: ElasticNetOptions,
    setting: Setting,
    features: Features,
    pair: Pair,
    accuracy: float,
    controls: Controls | None,
    *,
    seed: int,
) -> list[Measurement]:
    """Selectivity: the control tasks in one pack, with the lambdas chosen for the task."""
    if controls is None:
        return refused(options, setting, features.layer)
    cells = [(pair, index) for index in range(len(controls.class_SN))]
    fits = fit(options, setting, Matrix(features.train), controls.train(setting), cells, seed=seed)
    said_Sn = predict(fits.weights, Matrix(features.test)).class_CN
    return list(selectivity(setting, controls, features.layer, accuracy, said_Sn))
