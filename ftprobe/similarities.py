"""Similarity rows as curves over layers, one for each state and text, with intervals over blocks of text.

Axes: S tuning seeds, L + 1 layers, B blocks of text, R draws of tokens. What is missing is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ftprobe.frames import final_states, layer_groups, measured
from ftprobe.stats import Floats, block_jackknife

STATE = ("model", "ft_task", "variant", "head_pooling", "corpus", "split", "domain", "metric", "unit", "config")
"""What a curve is of: a state with all its seeds, a text, and a measure with its options."""
THRESHOLD = 0.9


class Curve(NamedTuple):
    """One measure of one state on one text.

    Attributes
    ----------
    of : mapping
        The columns `STATE`.
    seeds : tuple of int or None
        Tuning seeds; None stands for a state that has none.
    value_SL : array of shape (S, L + 1)
        Means over draws.
    draw_SLR : array of shape (S, L + 1, R)
    without_SLB : array of shape (S, L + 1, B)
        The value without each block, mean over draws; B = 0 where rows do not say it.
    n_items : int
        Tokens of a draw.
    """

    of: Mapping[str, Any]
    seeds: tuple[int | None, ...]
    value_SL: Floats
    draw_SLR: Floats
    without_SLB: Floats
    n_items: int

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return int(self.value_SL.shape[1]) - 1


class Summary(NamedTuple):
    """Mean over seeds, sd (None for one seed), n, and a 95 % interval (None where undefined)."""

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None


def curves(records: pl.LazyFrame, metrics: Sequence[str] = ()) -> list[Curve]:
    """Every curve of the records, of `metrics` or of all measures, in the order of `STATE`."""
    rows = measured(final_states(records)).filter(pl.col("method") == "similarity", pl.col("layer").is_not_null())
    if metrics:
        rows = rows.filter(pl.col("metric").is_in(metrics))
    detail = pl.col("detail")
    said = rows.select(
        *STATE,
        "ft_seed",
        "layer",
        "value",
        "n_items",
        draw=pl.struct("probe_seed", detail.str.json_path_match("$.draw").cast(pl.Int64).alias("draw")),
        without=detail.str.json_path_match("$.without").str.json_decode(pl.List(pl.Float64)),
    )
    table = said.sort(*STATE, "ft_seed", "layer", "draw", nulls_last=True).collect().rows()
    return [_curve(key, list(own)) for key, own in itertools.groupby(table, lambda row: row[: len(STATE)])]


def _curve(key: tuple[Any, ...], rows: Sequence[tuple[Any, ...]]) -> Curve:
    cells = [row[len(STATE) :] for row in rows]
    seeds = tuple(dict.fromkeys(cell[0] for cell in cells))
    n_layers = 1 + max(cell[1] for cell in cells)
    draws = sorted({tuple(cell[4].values()) for cell in cells})
    n_blocks = {len(cell[5] or ()) for cell in cells}
    size = (len(seeds), n_layers, len(draws))
    draw_SLR = np.full(size, math.nan)
    without_SLRB = np.full((*size, n_blocks.pop() if len(n_blocks) == 1 else 0), math.nan)
    for seed, layer, value, _, draw, without in cells:
        at = seeds.index(seed), layer, draws.index(tuple(draw.values()))
        draw_SLR[at] = math.nan if value is None else value
        if without_SLRB.shape[-1]:
            without_SLRB[at] = [math.nan if each is None else each for each in without]
    of = dict(zip(STATE, key, strict=True))
    n_items = min(cell[3] for cell in cells)
    return Curve(of, seeds, draw_SLR.mean(2), draw_SLR, without_SLRB.mean(2), n_items)


def summary(curve: Curve, layers: Iterable[int]) -> Summary:
    """The mean over some layers, over seeds.

    The interval is that of `stats.block_jackknife`; of a measure without blocks, from the lowest to the highest draw.
    """
    at = list(layers)
    value_S = curve.value_SL[:, at].mean(1)
    sd = float(value_S.std(ddof=1)) if len(value_S) > 1 else None
    if curve.without_SLB.shape[2]:
        found = block_jackknife(value_S, [curve.without_SLB[:, at].mean(1)])
        low, high = found.low, found.high
    else:
        draw_R = curve.draw_SLR[:, at].mean((0, 1))
        low, high = (float(draw_R.min()), float(draw_R.max())) if len(draw_R) > 1 else (math.nan, math.nan)
    ends = (low, high) if math.isfinite(low) else (None, None)
    return Summary(float(value_S.mean()), sd, len(value_S), *ends)


def divergence_layers(curve: Curve, *, threshold: float = THRESHOLD) -> Floats:
    """Of each seed the lowest layer whose value is below `threshold`, L + 1 if there is none (METHODS 16.1)."""
    below_SL = np.pad(curve.value_SL < threshold, ((0, 0), (0, 1)), constant_values=True)
    return np.where(np.isnan(curve.value_SL).any(1), math.nan, below_SL.argmax(1))


def trends(curve: Curve) -> Floats:
    """Of each seed Spearman's correlation of the value with the layer; NaN where it is constant."""
    from scipy.stats import rankdata

    layer_L = np.arange(curve.n_layers + 1) - curve.n_layers / 2
    rank_SL = np.apply_along_axis(rankdata, 1, curve.value_SL, nan_policy="propagate")
    rank_SL -= rank_SL.mean(1, keepdims=True)
    norm_S = np.linalg.norm(rank_SL, axis=1) * np.linalg.norm(layer_L)
    trend_S = np.full(len(norm_S), math.nan)
    np.divide(rank_SL @ layer_L, norm_S, out=trend_S, where=norm_S > 0)
    return trend_S


def upper_layers(curve: Curve) -> range:
    """The layers of the upper group."""
    group = layer_groups(curve.n_layers)[1]
    return range(group.first, group.last + 1)


def of_common_seeds(one: Curve, other: Curve) -> tuple[Curve, Curve]:
    """Both curves with the seeds that both have, in one order."""
    seeds = [seed for seed in one.seeds if seed in other.seeds]

    def some(curve: Curve) -> Curve:
        at = [curve.seeds.index(seed) for seed in seeds]
        arrays = {name: getattr(curve, name)[at] for name in ("value_SL", "draw_SLR", "without_SLB")}
        return curve._replace(seeds=tuple(seeds), **arrays)

    return some(one), some(other)
