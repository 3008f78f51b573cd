"""Similarity rows as curves: means over draws and seeds, intervals, divergence layers, trends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from ftprobe.rows import SCHEMA
from ftprobe.similarities import (
    Curve,
    curves,
    divergence_layers,
    of_common_seeds,
    summary,
    trends,
    upper_layers,
)
from ftprobe.stats import block_jackknife

L, SEEDS, DRAWS, BLOCKS = 4, (0, 1, 2), 2, 12


def value(seed: int, layer: int, draw: int) -> float:
    return 1.0 - 0.05 * layer + 0.01 * seed + 0.002 * draw


def without(seed: int, layer: int, draw: int) -> list[float]:
    spread = np.random.default_rng([seed, layer]).normal(size=BLOCKS) * 1e-3
    return [value(seed, layer, draw) + each for each in spread.tolist()]


def rows(**changes: Any) -> Iterator[dict[str, Any]]:
    for seed in SEEDS:
        for layer in range(L + 1):
            for draw in range(DRAWS):
                detail = {"draw": draw, "against": "pretrained", "without": without(seed, layer, draw)}
                yield {
                    "study": "planted",
                    "model": "m",
                    "variant": "finetuned",
                    "ft_task": "sst2",
                    "ft_seed": seed,
                    "method": "similarity",
                    "corpus": "wikitext2",
                    "split": "test",
                    "domain": "out",
                    "layer": layer,
                    "metric": "rsa",
                    "unit": "r",
                    "value": value(seed, layer, draw),
                    "status": "ok",
                    "n_items": 100,
                    "config": "{}",
                    "detail": json.dumps(detail),
                    **changes,
                }


def records(*kinds: dict[str, Any]) -> pl.LazyFrame:
    schema = pl.DataFrame(SCHEMA.empty_table()).schema
    return (
        pl.DataFrame([row for kind in kinds for row in rows(**kind)], schema=schema)
        .sample(fraction=1, shuffle=True, seed=0)
        .lazy()
    )


def test_a_curve_has_means_over_draws_by_seed_and_layer() -> None:
    (curve,) = curves(records({}))
    assert (curve.seeds, curve.n_layers, curve.n_items, curve.of["domain"]) == (SEEDS, L, 100, "out")
    expected = [[(value(s, layer, 0) + value(s, layer, 1)) / 2 for layer in range(L + 1)] for s in SEEDS]
    assert curve.value_SL == pytest.approx(np.array(expected))
    blocks = [[np.mean([without(s, layer, d) for d in (0, 1)], 0) for layer in range(L + 1)] for s in SEEDS]
    assert curve.without_SLB == pytest.approx(np.array(blocks))


def test_states_texts_and_measures_are_curves_of_their_own() -> None:
    found = curves(records({}, {"corpus": "cola"}, {"metric": "cka"}, {"ft_task": "rte"}, {"method": "attention"}))
    assert len(found) == 4
    assert len(curves(records({}, {"metric": "cka"}), ("cka",))) == 1
    assert curves(records({"method": "attention"})) == []


def test_a_summary_has_the_interval_of_blocks_and_seeds() -> None:
    (curve,) = curves(records({}))
    found = summary(curve, upper_layers(curve))
    mean_S = curve.value_SL[:, 3:].mean(1)
    assert (found.mean, found.sd, found.n) == (pytest.approx(mean_S.mean()), pytest.approx(mean_S.std(ddof=1)), 3)
    mean_B = curve.without_SLB[:, 3:].mean((0, 1))
    variance = (BLOCKS - 1) / BLOCKS * ((mean_B - mean_B.mean()) ** 2).sum() + mean_S.var(ddof=1) / 3
    half = 1.959964 * math.sqrt(variance)
    assert (found.low, found.high) == (pytest.approx(found.mean - half), pytest.approx(found.mean + half))


def test_without_blocks_the_interval_is_that_of_the_draws() -> None:
    (curve,) = curves(records({"detail": '{"draw": 0}', "value": 0.9}, {"detail": '{"draw": 1}', "value": 0.5}))
    found = summary(curve, [2])
    assert (found.low, found.high) == (0.5, 0.9)
    (one,) = curves(records({"detail": '{"draw": 0}', "ft_seed": None}))
    assert summary(one, [2])[1:] == (None, 1, None, None)


def test_what_is_undefined_stays_so() -> None:
    (curve,) = curves(records({"status": "undefined", "value": math.nan, "detail": '{"draw": 0}'}))
    assert math.isnan(summary(curve, [0]).mean)
    assert np.isnan(divergence_layers(curve)).all()
    assert np.isnan(trends(curve)).all()


def made(value_SL: list[list[float]]) -> Curve:
    value = np.array(value_SL)
    return Curve({}, tuple(range(len(value))), value, value[..., None], np.zeros((*value.shape, 0)), 1)


def test_divergence_is_the_lowest_layer_below_the_threshold() -> None:
    curve = made([[1, 0.95, 0.89, 0.91], [1, 1, 1, 0.9], [0.8, 1, 1, 1]])
    assert divergence_layers(curve).tolist() == [2, 4, 0]
    assert divergence_layers(curve, threshold=0.905).tolist() == [2, 3, 0]


def test_trends_are_those_of_spearman() -> None:
    values = [*np.random.default_rng(0).random((3, 6)).tolist(), [1, 1, 0.9, 0.8, 0.8, 0.5]]
    expected = [spearmanr(range(6), each).statistic for each in values]
    assert trends(made(values)) == pytest.approx(expected)
    assert np.isnan(trends(made([[1.0, 1, 1]])))[0]


def test_common_seeds_are_in_one_order() -> None:
    one = made([[1.0], [2], [3]])
    pair = of_common_seeds(one, one._replace(seeds=(2, 5, 0)))
    assert [curve.value_SL[:, 0].tolist() for curve in pair] == [[1, 3], [3, 1]]


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    item_B = np.random.default_rng(0).normal(1.0, 2.0, 40)
    leave_out_B = (item_B.sum() - item_B) / 39
    found = block_jackknife([item_B.mean()], [leave_out_B[None]])
    half = 1.959964 * item_B.std(ddof=1) / math.sqrt(40)
    assert (found.low, found.high) == (pytest.approx(item_B.mean() - half), pytest.approx(item_B.mean() + half))
    # Texts drawn independently: the variances add up.
    both = block_jackknife([0.0], [leave_out_B[None], -leave_out_B[None]])
    assert both.high == pytest.approx(half * math.sqrt(2))
    assert both.p == 1
    few = block_jackknife([1.0], [leave_out_B[None, :9]])
    assert math.isnan(few.low)
    assert math.isnan(few.p)


def test_the_jackknife_of_rsa_covers() -> None:
    """Between 200 samples of blocks the 95 % interval holds the RSA of many more blocks in about 95 %."""
    from ftprobe.solvers.leave_out import rsa_without
    from ftprobe.solvers.similarity import rsa

    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 3))

    def sample(n_blocks: int) -> tuple[Any, Any, Any]:
        block_N = np.repeat(np.arange(n_blocks), 6)
        X = rng.normal(size=(len(block_N), 4)) + rng.normal(size=(n_blocks, 4))[block_N] + 0.5
        return X, X @ mix + rng.normal(size=(len(block_N), 3)), block_N

    truth = rsa(*sample(4000)[:2])
    held = 0
    for _ in range(200):
        X, Y, block_N = sample(25)
        found = block_jackknife([rsa(X, Y)], [rsa_without(X, Y, block_N, 25)[None]])
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.99
