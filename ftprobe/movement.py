"""Movement: how the geometry of labels differs between a fine-tuned state and the pre-trained one (METHODS 7.2, 7.3).

Everything comes from records of the probe `clusters`; no activation is read again. A label, or a pair of labels, that
one of two states lacks is left out. `shifts` goes on from here to the centroids. Axes: K labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from ftprobe import frames

PLACE = ("study", "model", "method", "task", "corpus", "split", "domain", "layer", "pooling", "config")
"""What a tuned state and the pre-trained one have in common where they compare."""
STATE = (*(name for name in frames.RUN if name not in PLACE), "update", "epoch", "final")
"""What tells the tuned states of one place apart; `final`: the run ends with it."""
TOLERANCE = 1e-3  # relative gap of the solver's two bounds: a smaller change may be none (METHODS 7.2)
MIN_PAIRS = 3  # pairs of labels below which a correlation means nothing (METHODS 7.2)
Closest = Literal["smallest_sum", "smallest_min"]
_LABELS = {"hull_distance": "$.labels", "min_distance": "$.label", "centroid": "$.label"}


def compared(records: pl.LazyFrame, metric: str) -> pl.LazyFrame:
    """Every row of a tuned state beside that of the pre-trained state, label by label.

    Parameters
    ----------
    metric : {"hull_distance", "min_distance", "centroid"}
        Which rows of the probe `clusters`.

    Returns
    -------
    polars.LazyFrame
        `STATE`, `PLACE`, `label` (of hull distances the JSON list of the two), `value`, `baseline`, `unit`, `detail`
        and `baseline_detail`. A row that is there under two names of one trial is there once. The `update` of a final
        state is that of the epoch it is from, or null where the records do not say.
    """
    of = (pl.col("method") == "clusters") & (pl.col("metric") == metric)
    label = pl.col("detail").str.json_path_match(_LABELS[metric])
    rows = frames.measured(records.filter(of)).with_columns(label=label)
    ends = _last_updates(records)
    tuned = rows.filter(pl.col("ft_task").is_not_null()).join(ends, on=frames.RUN, how="left", nulls_equal=True)
    tuned = tuned.with_columns(final=pl.col("update").is_null(), update=pl.coalesce("update", "_end"))
    start = rows.filter(pl.col("ft_task").is_null()).unique([*PLACE, "label"], keep="first", maintain_order=True)
    start = start.select(*PLACE, "label", baseline="value", baseline_detail="detail")
    both = tuned.join(start, on=[*PLACE, "label"], nulls_equal=True, maintain_order="left")
    both = both.unique([*STATE, *PLACE, "label"], keep="first", maintain_order=True)
    return both.select(*STATE, *PLACE, "label", "value", "baseline", "unit", "detail", "baseline_detail")


def _last_updates(records: pl.LazyFrame) -> pl.LazyFrame:
    """The runs whose scores say so, and the update whose state they end with."""
    scores = records.filter(pl.col("method") == "finetune", pl.col("update").is_not_null())
    update = pl.col("update")
    kept = update.filter(pl.col("detail").str.json_path_match("$.selected") == "true").max()
    return scores.group_by(frames.RUN).agg(_end=pl.coalesce(kept, update.max()))


def distance_changes(records: pl.LazyFrame, *, tolerance: float = TOLERANCE) -> pl.LazyFrame:
    """The change of every label's minimum distance (METHODS 7.3).

    Parameters
    ----------
    tolerance : float
        The share of the larger of the two distances below which they count as equal, which is how far a measured
        distance may lie above the true one.

    Returns
    -------
    polars.LazyFrame
        As `compared` of `min_distance`, with `change` (tuned minus pre-trained) and `direction` (1, 0 or -1).
    """
    known = pl.col("value").is_not_null() & pl.col("baseline").is_not_null()
    change = pl.col("value") - pl.col("baseline")
    moved = change.abs() > tolerance * pl.max_horizontal("value", "baseline")
    rows = compared(records, "min_distance").filter(known)
    return rows.with_columns(change=change, direction=pl.when(moved).then(change.sign()).otherwise(0.0).cast(pl.Int8))


def increases(records: pl.LazyFrame, *, tolerance: float = TOLERANCE) -> pl.LazyFrame:
    """`n_inc`, `n_dec` and `mean_inc` of every tuned state (METHODS 7.3; Zhou and Srikumar 2022, Table 5).

    Returns
    -------
    polars.LazyFrame
        `STATE`, `PLACE`, `metric`, `value`, `unit`, `n_items` (labels). The mean is over all labels, the unchanged too.
    """
    by = [*STATE, *PLACE]
    of = distance_changes(records, tolerance=tolerance).group_by(by, maintain_order=True)
    counts = of.agg(
        n_inc=(pl.col("direction") == 1).sum().cast(pl.Float64),
        n_dec=(pl.col("direction") == -1).sum().cast(pl.Float64),
        mean_inc=pl.col("change"),
        n_items=pl.len().cast(pl.Int64),
        distance=pl.col("unit").first(),
    )
    # Sorted as lists: the same to the last bit whatever the order of the rows.
    counts = counts.with_columns(pl.col("mean_inc").list.sort().list.mean())
    long = counts.unpivot(["n_inc", "n_dec", "mean_inc"], index=[*by, "n_items", "distance"], variable_name="metric")
    unit = pl.when(pl.col("metric") == "mean_inc").then("distance").otherwise(pl.lit("count"))
    return long.with_columns(unit=unit).drop("distance")


def similarity_to_pretrained(records: pl.LazyFrame) -> pl.LazyFrame:
    """Spatial similarity of every tuned state to the pre-trained one: Pearson's r of the distances of the labels that
    both have (METHODS 7.2; Zhou and Srikumar 2022, section 4.5).

    A state in which labels overlap has a distance vector only where the probe was told `nonlinear: cluster_mean`.

    Returns
    -------
    polars.LazyFrame
        `STATE`, `PLACE`, `metric` (`spatial_similarity`), `value`, `unit` (`r`), `n_items` (pairs of labels), `status`
        and `reason`. `undefined` with a null value: a state that is not linear and has no vector; fewer than 3 pairs;
        distances that are all the same.
    """
    by = [*STATE, *PLACE]
    return _similarity(compared(records, "hull_distance"), by).select(*by, *_SIMILARITY)


def similarity_between_layers(records: pl.LazyFrame) -> pl.LazyFrame:
    """Spatial similarity of every two layers of each final state (METHODS 7.2), the pre-trained one's too.

    Returns
    -------
    polars.LazyFrame
        `frames.RUN`, `PLACE` (`layer`: the lower of the two), `other` (the higher) and, as of
        `similarity_to_pretrained`, `metric`, `value`, `unit`, `n_items`, `status` and `reason`.
    """
    by = [*frames.RUN, *(name for name in PLACE if name not in frames.RUN)]
    place = [name for name in by if name != "layer"]
    of = (pl.col("method") == "clusters") & (pl.col("metric") == "hull_distance")
    label = pl.col("detail").str.json_path_match(_LABELS["hull_distance"])
    rows = frames.measured(frames.final_states(records).filter(of)).with_columns(label=label)
    rows = rows.unique([*by, "label"], keep="first", maintain_order=True).select(*by, "label", "value", "detail")
    higher = rows.rename({"layer": "other", "value": "baseline", "detail": "baseline_detail"})
    pairs = rows.join(higher, on=[*place, "label"], nulls_equal=True, maintain_order="left")
    pairs = pairs.filter(pl.col("layer") < pl.col("other"))
    return _similarity(pairs, [*by, "other"]).select(*by, "other", *_SIMILARITY)


_SIMILARITY = ("metric", "value", "unit", "n_items", "status", "reason")


def _similarity(rows: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    """Pearson's r of two distance vectors for each group of `by`: entries `value` and `baseline`, a row a pair."""
    with_means = pl.col("config").str.contains('"cluster_mean"', literal=True).fill_null(False)
    parts = [
        _correlated(rows.filter(~with_means), pl.col("value"), pl.col("baseline"), by),
        _correlated(rows.filter(with_means), _vector("value", "detail"), _vector("baseline", "baseline_detail"), by),
    ]
    reason = (
        pl.when("overlap")
        .then(pl.lit("not linear"))
        .when(pl.col("n_items") < MIN_PAIRS)
        .then(pl.lit("fewer than 3 pairs of labels"))
        .when("constant")
        .then(pl.lit("constant distances"))
    )
    return (
        pl.concat(parts)
        .with_columns(reason=reason)
        .with_columns(
            metric=pl.lit("spatial_similarity"),
            value=pl.when(pl.col("reason").is_null()).then("r"),
            unit=pl.lit("r"),
            status=pl.when(pl.col("reason").is_null()).then(pl.lit("ok")).otherwise(pl.lit("undefined")),
        )
    )


def _vector(value: str, detail: str) -> pl.Expr:
    """Entries of a state's distance vector, its rows a group: where any has a mean over clusters, these alone."""
    mean = pl.col(detail).str.json_path_match("$.cluster_mean").cast(pl.Float64)
    return pl.when(mean.is_not_null().any()).then(mean).otherwise(pl.col(value))


def _correlated(rows: pl.LazyFrame, v: pl.Expr, w: pl.Expr, by: Sequence[str]) -> pl.LazyFrame:
    """Pearson's r of two vectors for each group, over the entries that both have, and what may be wrong with it."""
    both = v.is_not_null() & w.is_not_null()
    v, w = v.filter(both), w.filter(both)
    return rows.group_by(by, maintain_order=True).agg(
        r=pl.corr(v, w),
        n_items=both.sum().cast(pl.Int64),
        overlap=pl.any_horizontal((v <= 0).any(), (w <= 0).any(), both.sum() == 0),
        constant=pl.any_horizontal(v.min() == v.max(), w.min() == w.max()),
    )


def from_the_start(rows: pl.LazyFrame) -> pl.LazyFrame:
    """`rows` of `compared`, and for each run those of update 0: the pre-trained state's own values.

    Rows of states whose update is not known are left out; a final state that is a snapshot too is there once.
    """
    run = [name for name in (*STATE, *PLACE) if name not in ("update", "epoch", "final")]
    known = rows.filter(pl.col("update").is_not_null())
    start = known.unique([*run, "label"], keep="first", maintain_order=True).with_columns(
        update=pl.lit(0, pl.Int64),
        epoch=pl.lit(0.0),
        final=pl.lit(False),
        value=pl.col("baseline"),
        detail=pl.col("baseline_detail"),
    )
    return pl.concat([start, known]).unique([*run, "label", "update"], keep="first", maintain_order=True)


class Extremes(NamedTuple):
    """Labels by how much their minimum distance grew: the most first, and the least first; no label is in both."""

    largest: tuple[str, ...]
    smallest: tuple[str, ...]


def extreme_labels(changes: pl.DataFrame, *, n: int = 3) -> Extremes:
    """The labels with the n largest and the n smallest changes (METHODS 7.3; Zhou and Srikumar 2022, Figure 2).

    Parameters
    ----------
    changes : polars.DataFrame
        `label` and `change` of the final states of one model, task and layer; with several seeds their mean decides.
    """
    means = changes.group_by("label").agg("change").with_columns(pl.col("change").list.sort().list.mean())
    means = means.sort("change", "label")
    ordered = means["label"].to_list()
    largest = ordered[::-1][: min(n, (len(ordered) + 1) // 2)]
    return Extremes(tuple(largest), tuple(ordered[: min(n, len(ordered) // 2)]))


def closest_labels(distances: pl.DataFrame, *, closest: Closest = "smallest_sum") -> tuple[str, ...]:
    """The three labels of a state that are closest to each other (METHODS 7.3; Zhou and Srikumar 2022, Figure 3).

    Parameters
    ----------
    distances : polars.DataFrame
        `label`, the JSON list of two labels, and `value`, of the hull distances of one state at one layer.
    closest : {"smallest_sum", "smallest_min"}
        The three with the least sum of their three distances, or those with the smallest minimum distances. Of equal
        ones the first by name.

    Returns
    -------
    tuple of str
        Sorted; fewer where there are fewer labels.
    """
    pairs = distances.filter(pl.col("value").is_not_null())
    two = pairs.select("value", both=pl.col("label").str.json_decode(pl.List(pl.String)))
    names = sorted(set(two["both"].explode().to_list()))
    if len(names) <= 3:
        return tuple(names)
    place = {name: index for index, name in enumerate(names)}
    d_KK = np.full((len(names), len(names)), np.inf)
    for value, (one, other) in two.rows():
        d_KK[place[one], place[other]] = d_KK[place[other], place[one]] = value
    if closest == "smallest_min":
        nearest = np.argsort(d_KK.min(axis=1), kind="stable")[:3]
        return tuple(names[index] for index in sorted(nearest))
    triple_T3 = np.array(list(itertools.combinations(range(len(names)), 3)))
    i, j, k = triple_T3.T
    best = int(np.argmin(d_KK[i, j] + d_KK[i, k] + d_KK[j, k]))
    return tuple(names[index] for index in triple_T3[best])
