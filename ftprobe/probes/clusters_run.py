"""Runs the cluster probe on one layer: clusters of train, distances between labels in train and in test (METHODS 7).

Axes: N items of a part, D dimensions, K labels of a part, M clusters, P pairs of labels.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ftprobe.directprobe import DirectProbe, distance_vector, label_distances, spatial_similarity
from ftprobe.measurement import Measurement, Outcome, Status
from ftprobe.probes.clusters import ClusterOptions
from ftprobe.probes.probe import ProbeData, Report
from ftprobe.probes.scores import accuracy
from ftprobe.probes.setting import Setting, check_finite, facts, make_setting, moments, row, shape, test_predictions
from ftprobe.solvers.clustering import distinct_items

Pair = tuple[int, int]
COUNTS = {
    "n_clusters": "count",
    "n_labels": "count",
    "is_linear": "boolean",
    "n_conflicts": "count",
    "n_undecided": "count",
}
FEWEST_PAIRS = 3  # for a correlation


def run(options: ClusterOptions, data: ProbeData, *, seed: int, device: str, threads: int, report: Report) -> Outcome:
    """Cluster the train items of a layer, and measure how far its labels lie apart in train and in test.

    Everything is computed in float64 on the CPU, and nothing is drawn at random.

    Parameters
    ----------
    data : ProbeData
        Of one layer. Dev items are not used.
    others
        As of every runner (`ftprobe.probes.Probe`).

    Returns
    -------
    Outcome
        `n_clusters`, `n_labels`, `is_linear`, `n_conflicts`, `n_undecided` and a `centroid` for each label (train);
        `hull_distance` of each pair of labels, `min_distance` of each label and `min_distance_mean` (train and test);
        `spatial_similarity` of train and test; with `predict`, `accuracy` and predictions (test). The cluster of each
        train item is an array of the artifact. Numbers that an undecided pair of hulls or a distance looser than `tol`
        stands behind are `not_converged`. What needs two labels in a part that has one is `undefined`, with the reason.

    Raises
    ------
    InputError
        An activation is not finite, a part has no item, or vectors conflict and `conflicts` is `error`.
    """
    setting = make_setting(data, seed=seed, device=device, needs_dev=False)
    (layer,) = data.layers
    train, test = _items(options, setting, layer)
    rows: list[Measurement] = []
    fitted = None
    if train.one_label is None:
        fitted = _geometry(options, train)
        rows += _counts(setting, layer, fitted.probe)
        report({"n_clusters": fitted.probe.n_clusters_})
    else:
        rows += [_undefined(setting, layer, metric, "train", unit, train.one_label) for metric, unit in COUNTS.items()]
    found = {"train": fitted, "test": None if test.one_label else _geometry(options, test)}
    for part in (train, test):
        rows += _distance_rows(options, setting, layer, part, found[part.name])
        report({"distances": part.name})
    rows.append(_similarity(options, setting, layer, train, test, found))
    rows += _centroids(setting, layer, train)
    outcome = Outcome(tuple(rows), facts=facts(setting), arrays=_assignment(setting, fitted))
    return _predicted(setting, layer, test, fitted, outcome) if options.predict else outcome


class _Items(NamedTuple):
    """Features and label ids of a part; `one_label` says why it has no geometry, None where it has one."""

    name: str
    X_ND: NDArray[np.float64]
    y_N: NDArray[np.int64]
    one_label: str | None


def _items(options: ClusterOptions, setting: Setting, layer: int) -> tuple[_Items, _Items]:
    h_ND = np.asarray(setting.data.layer(layer), dtype=np.float64)
    check_finite(setting.data, layer, h_ND)
    if options.scale == "standardise":
        shift_D, divisor_D = moments(h_ND[setting.parts.train], scale=options.scale, centre=True)
        h_ND = (h_ND - shift_D) / divisor_D
    made = []
    for name, at_N in (("train", setting.parts.train), ("test", setting.parts.test)):
        y_N = setting.data.y_N[at_N].astype(np.int64)
        made.append(_Items(name, h_ND[at_N], y_N, _one_label(options, setting, name, h_ND[at_N], y_N)))
    return made[0], made[1]


def _one_label(
    options: ClusterOptions, setting: Setting, name: str, x_ND: NDArray[np.float64], y_N: NDArray[np.int64]
) -> str | None:
    kept_N = np.ones(len(y_N), dtype=bool)
    if options.conflicts == "drop":
        given = distinct_items(x_ND, y_N)
        kept_N = ~given.conflict_U[given.item_N]
    found_K = np.unique(y_N[kept_N])
    if len(found_K) > 1:
        return None
    if not len(found_K):
        return f"all {len(y_N)} {name} items share a vector with an item of another label"
    return f"all {int(kept_N.sum())} {name} items have the label {setting.data.labels[found_K[0]]!r}"


class _Geometry(NamedTuple):
    """Clusters of a part, and the bounds (lower, upper) of the distance of each pair of its labels, by their ids.

    `vector` has the entries of the distance vector; None where the part has none.
    """

    probe: DirectProbe
    bounds: Mapping[Pair, tuple[float, float]]
    vector: Mapping[Pair, float] | None


def _geometry(options: ClusterOptions, part: _Items) -> _Geometry:
    solver = options.model_dump(include={"solver", "tol", "overlap_eps", "max_iterations"})
    probe = DirectProbe(conflicts=options.conflicts, **solver).fit(part.X_ND, part.y_N)
    kept_N = probe.labels_ >= 0
    label_K, n_K = np.unique(part.y_N[kept_N], return_counts=True)
    pair_P2, upper_P, lower_P = label_distances(part.X_ND[kept_N], part.y_N[kept_N], **solver)
    bounds = {
        (int(a), int(b)): (float(lower), float(upper))
        for (a, b), lower, upper in zip(label_K[pair_P2], lower_P, upper_P, strict=True)
    }
    if probe.is_linear_:
        large = set(label_K[n_K >= options.min_cluster].tolist())
        return _Geometry(probe, bounds, {pair: upper for pair, (_, upper) in bounds.items() if large.issuperset(pair)})
    if options.nonlinear == "skip":
        return _Geometry(probe, bounds, None)
    mean_P = distance_vector(probe, nonlinear="cluster_mean", min_cluster=options.min_cluster)
    means = zip(combinations(label_K.tolist(), 2), mean_P.tolist(), strict=True)
    return _Geometry(probe, bounds, {pair: mean for pair, mean in means if np.isfinite(mean)})


def _counts(setting: Setting, layer: int, probe: DirectProbe) -> Iterator[Measurement]:
    values = {
        "n_clusters": probe.n_clusters_,
        "n_labels": len(probe.classes_),
        "is_linear": probe.is_linear_,
        "n_conflicts": probe.n_conflicts_,
        "n_undecided": probe.n_undecided_,
    }
    open_ = probe.n_undecided_ > 0
    for metric, unit in COUNTS.items():
        status: Status = "not_converged" if open_ and metric in ("n_clusters", "is_linear") else "ok"
        detail = {**shape(setting), "trivial": probe.trivial_} if metric == "n_clusters" else None
        yield row(setting, layer, metric, float(values[metric]), "train", unit, status=status, detail=detail)


def _undefined(setting: Setting, layer: int, metric: str, part: str, unit: str, reason: str | None) -> Measurement:
    return row(setting, layer, metric, float("nan"), part, unit, status="undefined", detail={"reason": reason})


def _distance_rows(
    options: ClusterOptions, setting: Setting, layer: int, part: _Items, found: _Geometry | None
) -> Iterator[Measurement]:
    """Distances of all pairs of labels, the smallest of each label, and the mean of these."""
    if found is None:
        yield _undefined(setting, layer, "min_distance_mean", part.name, "euclidean", part.one_label)
        return
    names = setting.data.labels
    nearest: dict[int, tuple[float, Status]] = {}
    mean_of = {} if found.probe.is_linear_ or found.vector is None else found.vector
    for (a, b), (lower, upper) in found.bounds.items():
        status: Status = "ok" if upper - lower <= options.tol * upper else "not_converged"
        upper = upper if np.isfinite(upper) else 0.0  # undecided counts as overlap
        detail = {"labels": [names[a], names[b]], "lower": min(lower, upper), "upper": upper}
        if (a, b) in mean_of:
            detail["cluster_mean"] = mean_of[a, b]
        yield row(setting, layer, "hull_distance", upper, part.name, "euclidean", status=status, detail=detail)
        for label in (a, b):
            nearest[label] = min(nearest.get(label, (np.inf, "ok")), (upper, status))
    for label, (value, status) in sorted(nearest.items()):
        detail = {"label": names[label]}
        yield row(setting, layer, "min_distance", value, part.name, "euclidean", status=status, detail=detail)
    status = "ok" if all(each == "ok" for _, each in nearest.values()) else "not_converged"
    mean = float(np.mean([value for value, _ in nearest.values()]))
    yield row(setting, layer, "min_distance_mean", mean, part.name, "euclidean", status=status)


def _similarity(
    options: ClusterOptions,
    setting: Setting,
    layer: int,
    train: _Items,
    test: _Items,
    found: Mapping[str, _Geometry | None],
) -> Measurement:
    """Pearson's r of the distance vectors of train and test."""
    why = next((part.one_label for part in (train, test) if part.one_label), None)
    geometries = [each for each in found.values() if each is not None]
    if why is None:
        skipped = [name for name, each in found.items() if each is not None and each.vector is None]
        why = f"{' and '.join(skipped)} not linear: some hulls of labels overlap" if skipped else None
    if why is not None:
        return _undefined(setting, layer, "spatial_similarity", "test", "r", why)
    v_P, w_P = _common(options, *(each.vector or {} for each in geometries))
    r = spatial_similarity(v_P, w_P)
    if np.isnan(r):
        what = f"{len(v_P)} common pairs of labels" if len(v_P) < FEWEST_PAIRS else "all distances of a part are equal"
        return _undefined(setting, layer, "spatial_similarity", "test", "r", what)
    status: Status = "not_converged" if any(each.probe.n_undecided_ for each in geometries) else "ok"
    detail = {"against": "train", "n_pairs": len(v_P)}
    return row(setting, layer, "spatial_similarity", r, "test", "r", status=status, detail=detail)


def _common(
    options: ClusterOptions, v: Mapping[Pair, float], w: Mapping[Pair, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two distance vectors over the same pairs of labels."""
    if options.labels == "zero":
        known = {label for pair in (*v, *w) for label in pair}
        pairs = list(combinations(sorted(known), 2))
    else:
        pairs = sorted(v.keys() & w.keys())
    return np.array([v.get(pair, 0.0) for pair in pairs]), np.array([w.get(pair, 0.0) for pair in pairs])


def _centroids(setting: Setting, layer: int, train: _Items) -> Iterator[Measurement]:
    for label in np.unique(train.y_N):
        own_ND = train.X_ND[train.y_N == label]
        c_D = own_ND.mean(axis=0)
        vector = base64.b64encode(c_D.astype("<f4").tobytes()).decode("ascii")
        detail = {"label": setting.data.labels[label], "vector": vector}
        made = row(setting, layer, "centroid", float(np.linalg.norm(c_D)), "train", "euclidean", detail=detail)
        yield made._replace(n_items=len(own_ND))


def _assignment(setting: Setting, fitted: _Geometry | None) -> dict[str, NDArray[np.generic]]:
    """The cluster of each train item, -1 for one left out, and the label of each cluster."""
    if fitted is None:
        return {}
    data, at_N = setting.data, setting.parts.train
    label_M = fitted.probe.classes_[fitted.probe.cluster_classes_]
    return {
        "cluster_N": np.asarray(fitted.probe.labels_, dtype=np.int32),
        "sentence_N": data.sentence_N[at_N],
        "word_N": data.word_N[at_N],
        "label_M": np.asarray(data.labels, dtype=np.str_)[label_M],
    }


def _predicted(setting: Setting, layer: int, test: _Items, fitted: _Geometry | None, outcome: Outcome) -> Outcome:
    """The outcome with what the nearest clusters say of test; they give no probability."""
    if fitted is None:
        why = str(outcome.measurements[0].detail["reason"])
        rows = (_undefined(setting, layer, "accuracy", "test", "fraction", why),)
        return outcome._replace(measurements=(*outcome.measurements, *rows))
    said_N = fitted.probe.predict(test.X_ND)
    scored = row(setting, layer, "accuracy", accuracy(test.y_N, said_N), detail=shape(setting))
    class_N = torch.from_numpy(np.searchsorted(setting.fitted_K, said_N))
    predictions = test_predictions(setting, layer, None, class_N, torch.full(class_N.shape, torch.nan))
    return outcome._replace(measurements=(*outcome.measurements, scored), predictions=(predictions,))
