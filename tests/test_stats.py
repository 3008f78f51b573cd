"""Statistics against closed forms, scipy, and their own definitions on planted data (METHODS 16.2)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as reference

from ftprobe import stats


def test_seed_interval_is_the_percentile_of_plain_resampling() -> None:
    value_GS = np.random.default_rng(1).normal(size=(5, 4))
    drawn_BS = np.random.default_rng(0).multinomial(4, [0.25] * 4, size=stats.DRAWS)
    expected = np.quantile(value_GS @ drawn_BS.T / 4, [0.025, 0.975], axis=1)
    np.testing.assert_allclose(stats.seed_interval(value_GS), expected, atol=1e-12)


def test_seed_interval_of_equal_seeds_is_their_value() -> None:
    low_G, high_G = stats.seed_interval([[3.0, 3.0, 3.0, 3.0, 3.0]])
    assert (low_G[0], high_G[0]) == pytest.approx((3.0, 3.0))


def test_three_seeds_exclude_zero_only_if_all_agree() -> None:
    # METHODS 16.2: one seed fills a draw with probability 1/27, more than 0.025.
    low_G, high_G = stats.seed_interval([[1.0, 2.0, 3.0], [-0.1, 2.0, 3.0], [0.1, 5.0, 9.0]])
    np.testing.assert_allclose(low_G, [1.0, -0.1, 0.1])
    np.testing.assert_allclose(high_G, [3.0, 3.0, 9.0])


@pytest.mark.parametrize("value_GS", [[[1.0]], [[1.0, 2.0]], [[1.0, 2.0, math.nan]]], ids=["1", "2", "undefined"])
def test_no_interval_of_too_few_or_undefined_seeds(value_GS: list[list[float]]) -> None:
    assert np.isnan(stats.seed_interval(value_GS)).all()


def test_coverage_of_a_planted_normal_mean() -> None:
    # 100 units: the percentile interval is then known to be all but exact.
    rng = np.random.default_rng(3)
    total_TU = rng.normal(loc=1.0, size=(1000, 100))
    hits = 0
    for trial, total_U in enumerate(total_TU):
        found = stats.sentence_bootstrap(total_U[None], np.ones(100), draws=1000, seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


def test_sentences_stay_together() -> None:
    # 50 sentences of 20 words that are right or wrong together: the interval is that of 50 units, not of 1,000.
    rng = np.random.default_rng(0)
    right_U = rng.random(50) < 0.7
    words = stats.sentence_bootstrap((20.0 * right_U)[None], np.full(50, 20))
    alone = stats.sentence_bootstrap(right_U.astype(float)[None], np.ones(50))
    assert (words.estimate, words.low, words.high) == pytest.approx((alone.estimate, alone.low, alone.high))
    share = right_U.mean()
    assert words.high - words.low == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 50), rel=0.1)


def test_sentences_of_unequal_length_weigh_by_their_words() -> None:
    found = stats.sentence_bootstrap([[1.0] * 10 + [0.0] * 10], [1] * 10 + [3] * 10)
    assert found.estimate == pytest.approx(10 / 40)


def test_three_seeds_are_resampled_too_and_two_are_not() -> None:
    spread_SU = np.repeat([[0.0], [0.5], [1.0]], 400, axis=1)  # all that varies is the seed
    with_seeds = stats.sentence_bootstrap(spread_SU, np.ones(400))
    assert (with_seeds.low, with_seeds.high, with_seeds.item_level) == (0.0, 1.0, False)
    without = stats.sentence_bootstrap(spread_SU[:2], np.ones(400))
    assert (without.low, without.high, without.item_level) == (0.25, 0.25, True)


def test_one_draw_serves_all_systems() -> None:
    total_SU, count_U = np.random.default_rng(0).random((3, 30)), np.ones(30)
    first = stats.sentence_bootstrap(total_SU, count_U, seed=5)
    second = stats.sentence_bootstrap(total_SU + 0.25, count_U, seed=5)
    np.testing.assert_allclose(second.draw_B - first.draw_B, 0.25)


def test_few_units_have_no_interval() -> None:
    found = stats.sentence_bootstrap(np.ones((1, 9)), np.ones(9))
    assert np.isnan([found.low, found.high, found.p]).all()
    assert found.estimate == 1.0


def test_bca_agrees_with_scipy() -> None:
    skewed_U = np.random.default_rng(2).exponential(size=60)
    own = stats.sentence_bootstrap(skewed_U[None], np.ones(60), interval="bca")
    other = reference.bootstrap(
        (skewed_U,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (own.low, own.high) == pytest.approx((other.low, other.high), abs=0.02)
    percentile = stats.sentence_bootstrap(skewed_U[None], np.ones(60))
    assert own.low > percentile.low
    assert own.high > percentile.high


@pytest.mark.parametrize(
    ("total", "count"),
    [([1.0, 2.0], [1, 1]), ([[1.0, 2.0]], [1]), ([[]], []), ([[1.0, math.nan]], [1, 1]), ([[1.0, 2.0]], [1, 0])],
    ids=["axes", "shapes", "empty", "nan", "no items"],
)
def test_bootstrap_refuses_what_it_cannot_resample(total: list[float], count: list[int]) -> None:
    with pytest.raises(ValueError, match=r"axes|finite"):
        stats.sentence_bootstrap(total, count)


def test_p_of_draws() -> None:
    assert stats.draws_p(np.r_[np.full(9_990, 1.0), np.full(10, -1.0)]) == pytest.approx(2 * 11 / 10_001)
    assert stats.draws_p(np.zeros(100)) == 1.0


def test_permutation_is_exact_for_few_sentences() -> None:
    difference_U = np.array([3.0, 1.0, 2.0, -1.0, 0.0, 0.5])
    flips = itertools.product([1, -1], repeat=5)
    reached = [abs(np.dot(flip, difference_U[difference_U != 0])) >= difference_U.sum() for flip in flips]
    assert stats.paired_permutation(difference_U[None]) == np.mean(reached)


def test_permutation_agrees_with_scipy_for_many_sentences() -> None:
    difference_U = np.random.default_rng(4).normal(loc=0.25, size=60)
    expected = reference.permutation_test(
        (difference_U, np.zeros(60)), lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=10_000, rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert stats.paired_permutation(difference_U[None]) == pytest.approx(expected, abs=0.01)


def test_permutation_of_equal_systems_is_one() -> None:
    assert stats.paired_permutation(np.zeros((3, 200))) == 1.0


def test_one_pattern_of_swaps_serves_all_seeds() -> None:
    difference_SU = np.random.default_rng(0).normal(loc=0.2, size=(3, 40))
    assert stats.paired_permutation(difference_SU) == stats.paired_permutation(difference_SU.mean(axis=0)[None])


def test_permutation_p_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p_T = [stats.paired_permutation(rng.normal(size=(1, 40)), swaps=999, seed=t) for t in range(500)]
    assert reference.kstest(p_T, "uniform").pvalue > 0.05


@pytest.mark.parametrize("difference", [[1.0, 2.0], [[1.0, math.inf]]], ids=["axes", "infinite"])
def test_permutation_refuses(difference: list[float]) -> None:
    with pytest.raises(ValueError, match="axes"):
        stats.paired_permutation(difference)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)))
def test_benjamini_hochberg_against_scipy(p_M: np.ndarray) -> None:
    np.testing.assert_allclose(stats.benjamini_hochberg(p_M), reference.false_discovery_control(p_M), atol=1e-12)


def test_benjamini_hochberg_leaves_out_what_has_no_p() -> None:
    q_M = stats.benjamini_hochberg([0.01, math.nan, 0.04])
    assert q_M[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(q_M[1])


def test_benjamini_hochberg_refuses_what_is_no_p() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        stats.benjamini_hochberg([0.5, 1.5])
