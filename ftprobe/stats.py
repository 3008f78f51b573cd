"""Statistics of METHODS 16.2: bootstrap intervals, paired permutation, false discovery rate; float64 throughout.

Axes: G groups (cells of a table), S tuning seeds, U resampling units (sentences), B draws, M p-values. A unit enters as
its *total* over its items (words, spans) and its number of items, so that all items of a sentence stay together and
the statistic, total over count, is that of the items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
DRAWS = 10_000
MIN_SEEDS = 3  # below this seeds are not resampled (METHODS 16.2)
MIN_UNITS = 10  # below this an interval is undefined (METHODS 16.2)
EXACT_SWAPS = 10_000
_CHUNK_CELLS = 4_000_000  # doubles in the largest temporary array


class Interval(NamedTuple):
    """Lower and upper ends, one pair a group (G); NaN where undefined."""

    low_G: Floats
    high_G: Floats


class Bootstrap(NamedTuple):
    """What the draws say of one statistic.

    Attributes
    ----------
    estimate : float
        The statistic of the data.
    low, high : float
        Ends of the interval; NaN with fewer than 10 units.
    p : float
        Two-sided p of "the statistic is 0" from the draws (METHODS 16.2, "All other effects").
    draw_B : array of shape (B,)
        The statistic of every draw; equal seeds and data sizes give aligned draws.
    item_level : bool
        Fewer than 3 seeds: only sentences were resampled.
    """

    estimate: float
    low: float
    high: float
    p: float
    draw_B: Floats
    item_level: bool


def seed_interval(value_GS: ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over seeds, for many groups with the same number of seeds.

    Every group sees the same draws, so that differences of groups have aligned draws. Few seeds have few distinct
    resamples (126 of 5); each is evaluated once and counted as often as it was drawn.

    Parameters
    ----------
    value_GS : array of shape (G, S)
        One value a group and seed.

    Returns
    -------
    Interval
        NaN for a group with a value that is not finite, and for all groups when S < 3: two seeds would always give
        their own minimum and maximum.
    """
    value_GS = np.asarray(value_GS, dtype=np.float64)
    n_groups, n_seeds = value_GS.shape
    low_G, high_G = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    if n_seeds < MIN_SEEDS:
        return Interval(low_G, high_G)
    drawn_BS = np.random.default_rng(seed).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws)
    weight_RS, times_R = np.unique(drawn_BS, axis=0, return_counts=True)
    step = max(1, _CHUNK_CELLS // len(weight_RS))
    for start in range(0, n_groups, step):
        part = slice(start, start + step)
        mean_GR = value_GS[part] @ weight_RS.T / n_seeds
        low_G[part], high_G[part] = _quantiles(mean_GR, times_R, level)
    broken_G = ~np.isfinite(value_GS).all(axis=1)
    low_G[broken_G] = high_G[broken_G] = np.nan
    return Interval(low_G, high_G)


def _quantiles(mean_GR: Floats, times_R: NDArray[np.int64], level: float) -> tuple[Floats, Floats]:
    """Both ends of the central `level`, as numpy.quantile gives them, of values repeated `times_R`."""
    order_GR = np.argsort(mean_GR, axis=1)
    sorted_GR = np.take_along_axis(mean_GR, order_GR, axis=1)
    last_GR = np.cumsum(times_R[order_GR], axis=1)  # one past the last place of each value among the sorted draws
    total = int(times_R.sum())

    def at(place: int) -> Floats:
        index_G1 = (last_GR <= place).sum(axis=1, keepdims=True)
        found_G1: Floats = np.take_along_axis(sorted_GR, index_G1, axis=1)
        return found_G1[:, 0]

    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        position = share * (total - 1)
        below = math.floor(position)
        lower_G, upper_G = at(below), at(min(below + 1, total - 1))
        ends.append(lower_G + (position - below) * (upper_G - lower_G))
    return ends[0], ends[1]


def sentence_bootstrap(
    total_SU: ArrayLike,
    count_U: ArrayLike,
    *,
    interval: Literal["percentile", "bca"] = "percentile",
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrap:
    """Bootstrap of a mean over items, resampling sentences inside resampled tuning seeds (METHODS 16.2).

    The statistic is the mean over seeds of `sum_U total / sum_U count`. One draw of sentences serves all seeds, as they
    are scored on the same items; seeds are resampled only when there are at least 3.

    Parameters
    ----------
    total_SU : array of shape (S, U)
        For an accuracy the number of correct items of each sentence; for a difference of two systems on the same
        items the difference of these numbers.
    count_U : array of shape (U,)
        Items of each sentence.
    interval : {"percentile", "bca"}
        BCa takes its acceleration from the influence of sentences and seeds (Efron and Tibshirani 1993, section 14.3).

    Raises
    ------
    ValueError
        Shapes that do not fit, or a value that is not finite.
    """
    total_SU, count_U = _checked(total_SU, count_U)
    n_seeds, n_units = total_SU.shape
    resample_seeds = n_seeds >= MIN_SEEDS
    rate_S = total_SU.sum(axis=1) / count_U.sum()
    draw_B = np.empty(draws)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // n_units)
    for start in range(0, draws, step):
        n = min(step, draws - start)
        weight_BU = _resample(rng, n, n_units)
        rate_BS = (weight_BU @ total_SU.T) / (weight_BU @ count_U)[:, None]
        weight_BS = _resample(rng, n, n_seeds) if resample_seeds else np.ones((n, n_seeds))
        draw_B[start : start + n] = (rate_BS * weight_BS).sum(axis=1) / n_seeds
    estimate = float(rate_S.mean())
    if n_units < MIN_UNITS:
        return Bootstrap(estimate, math.nan, math.nan, math.nan, draw_B, not resample_seeds)
    shares = ((1 - level) / 2, (1 + level) / 2)
    if interval == "bca":
        shares = _bca_shares(estimate, draw_B, _acceleration(total_SU, count_U, resample_seeds), shares)
    low, high = np.quantile(draw_B, shares)
    return Bootstrap(estimate, float(low), float(high), draws_p(draw_B), draw_B, not resample_seeds)


def _checked(total_SU: ArrayLike, count_U: ArrayLike) -> tuple[Floats, Floats]:
    totals, counts = np.asarray(total_SU, dtype=np.float64), np.asarray(count_U, dtype=np.float64)
    if totals.ndim != 2 or counts.shape != totals.shape[1:] or not totals.size:
        shapes = f"{totals.shape} and {counts.shape}"
        raise ValueError(f"total_SU has axes (seeds, units) and count_U (units,), none of them empty; not {shapes}")
    if not (np.isfinite(totals).all() and np.isfinite(counts).all() and (counts > 0).all()):
        raise ValueError("totals must be finite and every unit must have items")
    return totals, counts


def _resample(rng: np.random.Generator, n_draws: int, n_units: int) -> Floats:
    """How often each unit is drawn, (draws, units): n_units out of n_units with replacement."""
    drawn_BU = rng.integers(0, n_units, size=(n_draws, n_units))
    drawn_BU += np.arange(n_draws)[:, None] * n_units
    return np.bincount(drawn_BU.ravel(), minlength=n_draws * n_units).reshape(n_draws, n_units).astype(np.float64)


def _acceleration(total_SU: Floats, count_U: Floats, resample_seeds: bool) -> float:
    """Acceleration from delete-one influences of every resampled factor (several-sample form)."""
    mean_U = total_SU.mean(axis=0)
    left_out_U = (mean_U.sum() - mean_U) / (count_U.sum() - count_U)
    factors = [left_out_U]
    if resample_seeds:
        rate_S = total_SU.sum(axis=1) / count_U.sum()
        factors.append((rate_S.sum() - rate_S) / (len(rate_S) - 1))
    cubes = squares = 0.0
    for left_out in factors:
        n = len(left_out)
        influence = (n - 1) * (left_out.mean() - left_out)
        cubes += float((influence**3).sum()) / n**3
        squares += float((influence**2).sum()) / n**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def _bca_shares(estimate: float, draw_B: Floats, a: float, shares: tuple[float, float]) -> tuple[float, float]:
    normal = NormalDist()
    # Ties count half, so that a statistic of few distinct values is not shifted by its own steps.
    below = ((draw_B < estimate).mean() + (draw_B <= estimate).mean()) / 2
    if not 0 < below < 1:
        return shares
    z0 = normal.inv_cdf(float(below))
    low, high = (normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (normal.inv_cdf(share) for share in shares))
    return low, high


def draws_p(draw_B: Floats) -> float:
    """Two-sided p of "the effect is 0": min(1, 2 (1 + min(#{T* <= 0}, #{T* >= 0})) / (B + 1)) (METHODS 16.2)."""
    fewer = min(int((draw_B <= 0).sum()), int((draw_B >= 0).sum()))
    return min(1.0, 2 * (1 + fewer) / (len(draw_B) + 1))


def paired_permutation(difference_SU: ArrayLike, *, swaps: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of "two systems on the same items are the same" by swapping them sentence by sentence.

    Statistic: the mean over seeds of the total difference; one pattern of swaps for all seeds. Sentences on which the
    systems agree are left out, which changes nothing but the time. Exact when 2^n <= 10,000.

    Parameters
    ----------
    difference_SU : array of shape (S, U)
        Total of system A minus total of system B on each sentence.

    Returns
    -------
    float
        (1 + #{|T*| >= |T|}) / (swaps + 1), or the exact share of all patterns; 1 when the systems never differ.

    Raises
    ------
    ValueError
        A difference that is not finite, or not two axes.
    """
    difference_SU = np.asarray(difference_SU, dtype=np.float64)
    if difference_SU.ndim != 2 or not np.isfinite(difference_SU).all():
        raise ValueError("difference_SU must have axes (seeds, units) and finite values")
    mean_U = difference_SU.mean(axis=0)
    mean_U = mean_U[mean_U != 0]
    n_units = len(mean_U)
    observed = abs(mean_U.sum()) * (1 - 1e-12)  # sums of the same numbers in another order must count as equal
    if 2**n_units <= EXACT_SWAPS:
        pattern_BU = np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1
        return float((np.abs((1.0 - 2.0 * pattern_BU) @ mean_U) >= observed).mean())
    rng = np.random.default_rng(seed)
    step, reached = max(1, _CHUNK_CELLS // n_units), 0
    for start in range(0, swaps, step):
        sign_BU = rng.integers(0, 2, size=(min(step, swaps - start), n_units), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(sign_BU @ mean_U) >= observed).sum())
    return (1 + reached) / (swaps + 1)


class Normal(NamedTuple):
    """An estimate with its normal interval and two-sided p of "it is 0"; NaN where undefined."""

    estimate: float
    low: float
    high: float
    p: float


def block_jackknife(value_S: ArrayLike, without: Sequence[ArrayLike], *, level: float = 0.95) -> Normal:
    """Mean over seeds of a statistic of pairs of tokens, by a delete-one-block jackknife (METHODS 16.2).

    Variance: that over blocks of text, which all seeds share, plus that between seeds / S. With one seed the second
    part is missing.

    Parameters
    ----------
    value_S : array of shape (S,)
        The statistic of each seed.
    without : sequence of arrays of shape (S, B)
        The statistic of each seed without each block; several arrays where it is made of texts that were drawn
        independently, each with what its own blocks change of it.

    Returns
    -------
    Normal
        Without ends and p for fewer than 10 blocks, or where a value is not finite.
    """
    value_S = np.asarray(value_S, dtype=np.float64)
    estimate, variance = float(value_S.mean()), 0.0
    if len(value_S) > 1:
        variance += float(value_S.var(ddof=1)) / len(value_S)
    for each in without:
        mean_B = np.asarray(each, dtype=np.float64).mean(axis=0)
        n = len(mean_B)
        if n < MIN_UNITS:
            return Normal(estimate, math.nan, math.nan, math.nan)
        variance += (n - 1) / n * float(((mean_B - mean_B.mean()) ** 2).sum())
    if not math.isfinite(estimate + variance):
        return Normal(estimate, math.nan, math.nan, math.nan)
    normal, sd = NormalDist(), math.sqrt(variance)
    half = normal.inv_cdf((1 + level) / 2) * sd
    p = 2 * normal.cdf(-abs(estimate) / sd) if sd else float(estimate == 0)
    return Normal(estimate, estimate - half, estimate + half, p)


def benjamini_hochberg(p_M: ArrayLike) -> Floats:
    """Adjusted p-values of one family: q_(i) = min over j >= i of m p_(j) / j (Benjamini and Hochberg 1995).

    NaN stays NaN and does not count as a member.

    Raises
    ------
    ValueError
        A p outside [0, 1].
    """
    p_M = np.asarray(p_M, dtype=np.float64)
    given_M = ~np.isnan(p_M)
    p_m = p_M[given_M]
    if ((p_m < 0) | (p_m > 1)).any():
        raise ValueError("p-values lie in [0, 1]")
    q_M = np.full(p_M.shape, np.nan)
    order_m = np.argsort(p_m)
    scaled_m = p_m[order_m] * len(p_m) / np.arange(1, len(p_m) + 1)
    q_m = np.empty_like(p_m)
    q_m[order_m] = np.minimum.accumulate(scaled_m[::-1])[::-1]
    q_M[given_M] = q_m
    return q_M
