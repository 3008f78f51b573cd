"""RSA and CKA without each group of rows are the measures of the rows that are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ftprobe.solvers.leave_out import cka_without, rsa_without
from ftprobe.solvers.similarity import cka, rsa

Array = NDArray[np.float64]
Measure = Callable[[Array, Array], float]
Without = Callable[[Array, Array, NDArray[np.int64], int], Array]
MEASURES = [pytest.param(rsa, rsa_without, id="rsa"), pytest.param(cka, cka_without, id="cka")]


def pair(seed: int, n: int, mean: float) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, 8)) * np.geomspace(1, 5, 8)
    return X + mean, X @ generator.normal(size=(8, 6)) + generator.normal(size=(n, 6)) + mean


@pytest.mark.parametrize(("measure", "without"), MEASURES)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0, 300.0]))
def test_each_value_is_that_of_the_rows_left(measure: Measure, without: Without, seed: int, mean: float) -> None:
    X, Y = pair(seed, 40, mean)
    group_N = np.random.default_rng(seed).integers(0, 6, 40)
    expected = [measure(X[group_N != k], Y[group_N != k]) for k in range(7)]
    assert without(X, Y, group_N, 7) == pytest.approx(expected, abs=1e-9)
    assert expected[6] == measure(X, Y)  # a group without rows


def test_rows_without_direction_stay_out_of_rsa() -> None:
    X, Y = pair(0, 30, 1.0)
    X[4] = 0
    group_N = np.arange(30) % 3
    assert rsa_without(X, Y, group_N, 3) == pytest.approx([rsa(X[group_N != k], Y[group_N != k]) for k in range(3)])


@pytest.mark.parametrize(("measure", "without"), MEASURES)
def test_a_group_of_nearly_all_rows_leaves_what_is_not_defined(measure: Measure, without: Without) -> None:
    X, Y = pair(1, 20, 0.0)
    group_N = np.zeros(20, np.int64)
    group_N[0] = 1
    found = without(X, Y, group_N, 2)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(measure(X[1:], Y[1:]))
    same = np.tile(X[:1], (20, 1))
    assert np.isnan(without(same, Y, group_N, 2)).all()


@pytest.mark.parametrize(("measure", "without"), MEASURES)
def test_a_matrix_is_like_itself_without_any_group(measure: Measure, without: Without) -> None:
    X, _ = pair(2, 30, 5.0)
    assert without(X.astype(np.float32), X.astype(np.float32), np.arange(30) % 5, 5) == pytest.approx(1, abs=1e-12)
