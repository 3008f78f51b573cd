"""Similarity measures: closed forms, invariances, and agreement with the definition written out and with scipy."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group

from ftprobe.solvers import similarity
from ftprobe.solvers.similarity import (
    cka,
    directed_rows,
    neighbour_overlap,
    procrustes,
    pwcca,
    rsa,
    svcca,
)

Array = NDArray[np.float64]
Measure = Callable[[Array, Array], float]
MEASURES: dict[str, Measure] = {
    "rsa": rsa,
    "cka": cka,
    "cka_debiased": lambda X, Y: cka(X, Y, debiased=True),
    "svcca": lambda X, Y: svcca(X, Y).value,
    "pwcca": lambda X, Y: pwcca(X, Y).value,
    "procrustes": procrustes,
    "neighbours": neighbour_overlap,
}
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None)


def pair(
    seed: int, n: int = 60, d: int = 8, e: int = 6, *, mean: float = 0.0, noise: float = 1.0
) -> tuple[Array, Array]:
    """Y a noisy map of X, whose columns differ in scale; `mean` turns all rows one way."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, d)) * np.geomspace(1, 5, d)
    Y = X @ generator.normal(size=(d, e)) + generator.normal(size=(n, e))
    return X + mean, Y + mean


def direct_rsa(X: Array, Y: Array) -> float:
    return float(np.corrcoef(pdist(X, "cosine"), pdist(Y, "cosine"))[0, 1])


def centring(n: int) -> Array:
    return np.eye(n) - 1 / n


@few
@given(seeds, st.sampled_from([3, 4, 17, 60]), st.sampled_from([0.0, 3.0, 300.0]))
def test_rsa_is_the_correlation_of_all_cosines(seed: int, n: int, mean: float) -> None:
    X, Y = pair(seed, n, mean=mean)
    assert rsa(X, Y) == pytest.approx(direct_rsa(X, Y), abs=1e-10)


def test_rows_that_nearly_agree_lose_no_digits() -> None:
    X, Y = pair(0, mean=1e5)

    def exact_cosines(Z: Array) -> Array:
        unit = Z.astype(np.longdouble)
        unit /= np.sqrt((unit * unit).sum(1, keepdims=True))
        return (unit @ unit.T)[np.triu_indices(len(Z), 1)]

    a, b = (exact_cosines(Z) for Z in (X, Y))
    a, b = a - a.mean(), b - b.mean()
    expected = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert abs(rsa(X, Y) - expected) < 2e-5
    P, A = len(a), X / np.linalg.norm(X, axis=1, keepdims=True)
    plain_variance = (np.linalg.norm(A.T @ A) ** 2 - 60) / 2 / P - ((A.sum(0) @ A.sum(0) - 60) / 2 / P) ** 2
    assert abs(plain_variance / float((a * a).mean()) - 1) > 1, "the sums as printed lose all digits here"


@few
@given(seeds, st.sampled_from([5, 17, 60]), st.sampled_from([0.0, 100.0]))
def test_cka_is_the_alignment_of_centred_kernels(seed: int, n: int, mean: float) -> None:
    X, Y = pair(seed, n, mean=mean)
    K, L = (centring(n) @ Z @ Z.T @ centring(n) for Z in (X, Y))
    assert cka(X, Y) == pytest.approx(np.vdot(K, L) / math.sqrt(np.vdot(K, K) * np.vdot(L, L)), abs=1e-10)

    def hsic(A: Array, B: Array) -> float:
        """Song et al. 2012, equation 5."""
        A, B, one = A - np.diag(np.diag(A)), B - np.diag(np.diag(B)), np.ones(n)
        cross = (one @ A @ one) * (one @ B @ one) / ((n - 1) * (n - 2))
        return float((np.trace(A @ B) + cross - 2 * (one @ A @ B @ one) / (n - 2)) / (n * (n - 3)))

    K, L = (Z.astype(np.longdouble) @ Z.T.astype(np.longdouble) for Z in (X, Y))
    expected = hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))
    assert cka(X, Y, debiased=True) == pytest.approx(expected, abs=1e-10)


@few
@given(seeds)
def test_canonical_correlations_are_cosines_of_angles_between_subspaces(seed: int) -> None:
    X, Y = (Z - Z.mean(0) for Z in pair(seed))
    rho = np.sort(np.cos(subspace_angles(X, Y)))[::-1]
    kept = svcca(X, Y, variance=1.0)
    assert (kept.kept_x, kept.kept_y) == (8, 6)
    assert kept.value == pytest.approx(rho.mean(), abs=1e-8)
    # Variates of X are eigenvectors of the projection on X and then on Y.
    on_x, on_y = (Z @ np.linalg.pinv(Z) for Z in (X, Y))
    value, vector = np.linalg.eigh(on_x @ on_y @ on_x)
    weight = np.abs(vector[:, ::-1][:, :6].T @ X).sum(1)
    expected = weight @ np.sqrt(value[::-1][:6]) / weight.sum()
    assert pwcca(X, Y).value == pytest.approx(expected, abs=1e-7)


def test_svcca_keeps_components_up_to_the_share_of_variance() -> None:
    generator = np.random.default_rng(0)
    Q = np.linalg.qr(generator.normal(size=(200, 4)) - 0)[0]
    Q = np.linalg.qr(Q - Q.mean(0))[0]
    X = Q * np.sqrt([90.0, 8.0, 1.5, 0.5])
    assert [svcca(X, X, variance=v).kept_x for v in (0.5, 0.9 + 1e-9, 0.97, 0.99, 1.0)] == [1, 2, 2, 3, 4]


@few
@given(seeds)
def test_procrustes_agrees_with_scipy(seed: int) -> None:
    X, Y = pair(seed, d=7, e=7)
    assert procrustes(X, Y) == pytest.approx(math.sqrt(1 - scipy_procrustes(X, Y)[2]), abs=1e-10)


@few
@given(seeds, st.integers(1, 12))
def test_neighbours_are_the_nearest_by_cosine(seed: int, k: int) -> None:
    X, Y = pair(seed, 30)
    found = []
    for Z in (X, Y):
        unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
        cosine = unit @ unit.T - 10 * np.eye(30)
        found.append([set(row[:k]) for row in np.argsort(-cosine, axis=1, kind="stable").tolist()])
    shared = sum(len(one & other) for one, other in zip(*found, strict=True))
    assert neighbour_overlap(X, Y, k=k) == pytest.approx(shared / (30 * k), abs=1e-15)


def test_of_equally_near_neighbours_the_earlier_are_taken() -> None:
    X = np.eye(6)
    Y = np.eye(6)
    Y[[0, 5]] = [[1.0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]]
    # In X all others are equally far: row 0 has row 1, the others row 0. In Y rows 0 and 5 have each other.
    assert neighbour_overlap(X, X, k=2) == 1
    assert neighbour_overlap(X, Y, k=1) == pytest.approx(5 / 6)


@pytest.mark.parametrize("name", MEASURES)
def test_a_matrix_is_like_itself(name: str) -> None:
    X, _ = pair(1, mean=2.0)
    assert MEASURES[name](X, X.copy()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_rotation_and_scale_change_nothing(name: str) -> None:
    X, Y = pair(2)
    measure = MEASURES[name]
    turn_X, turn_Y = ortho_group.rvs(8, random_state=0), ortho_group.rvs(6, random_state=1)
    assert measure(X, 3.7 * Y @ turn_Y) == pytest.approx(measure(X, Y), abs=1e-9)
    if name == "pwcca":
        # Its weights depend on the columns of X: only their scale and order may change.
        assert measure(3.7 * X[:, ::-1], Y) == pytest.approx(measure(X, Y), abs=1e-9)
        assert abs(measure(X @ turn_X, Y) - measure(X, Y)) > 1e-4
    else:
        assert measure(3.7 * X @ turn_X, Y) == pytest.approx(measure(X, Y), abs=1e-9)


def test_invertible_maps_leave_canonical_correlations() -> None:
    X, Y = pair(3)
    generator = np.random.default_rng(0)
    A, B = generator.normal(size=(8, 8)), generator.normal(size=(6, 6))
    assert svcca(X @ A, Y @ B, variance=1.0).value == pytest.approx(svcca(X, Y, variance=1.0).value, abs=1e-9)
    assert pwcca(X, Y @ B).value == pytest.approx(pwcca(X, Y).value, abs=1e-9)
    assert abs(cka(X, Y @ B) - cka(X, Y)) > 1e-3


def test_shifts_change_only_what_is_not_centred() -> None:
    X, Y = pair(4)
    for name in ("cka", "cka_debiased", "svcca", "pwcca", "procrustes"):
        assert MEASURES[name](X + 5, Y - 7) == pytest.approx(MEASURES[name](X, Y), abs=1e-9)
    assert abs(rsa(X + 5, Y) - rsa(X, Y)) > 1e-3


def test_independent_sides_are_not_alike() -> None:
    generator = np.random.default_rng(0)
    X, Y = generator.normal(size=(800, 20)), generator.normal(size=(800, 20))
    assert abs(rsa(X, Y)) < 0.01
    assert abs(cka(X, Y, debiased=True)) < 0.01
    assert svcca(X, Y).value < 0.2
    assert neighbour_overlap(X, Y) == pytest.approx(10 / 799, abs=0.005)
    few_rows = [cka(*(generator.normal(size=(30, 20)) for _ in range(2)), debiased=True) for _ in range(200)]
    assert abs(np.mean(few_rows)) < 4 * np.std(few_rows) / math.sqrt(200)
    assert cka(X[:30], Y[:30]) > 0.3, "biased for few rows"


@pytest.mark.parametrize("name", MEASURES)
def test_blocks_and_dtypes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y = (Z.astype(np.float16) for Z in pair(5))
    whole = MEASURES[name](X.astype(np.float64), Y.astype(np.float64))
    monkeypatch.setattr(similarity, "_ROWS", 7)
    assert MEASURES[name](X, Y) == pytest.approx(whole, abs=1e-12)


def test_rows_without_direction_are_dropped() -> None:
    X, Y = pair(6)
    expected = rsa(X, Y), neighbour_overlap(X, Y)
    X, Y = np.insert(X, [3, 40], 0, axis=0), np.insert(Y, [3, 40], [[1.0], [2.0]], axis=0)
    Y = np.insert(Y, 62, 0, axis=0)
    X = np.insert(X, 62, 1, axis=0)
    assert len(directed_rows(X, Y)) == 60
    assert (rsa(X, Y), neighbour_overlap(X, Y)) == pytest.approx(expected, abs=1e-12)


def test_what_is_not_defined_is_nan() -> None:
    X, Y = pair(7)
    same = np.tile(X[:1], (60, 1))
    for name, measure in MEASURES.items():
        if name != "neighbours":
            assert math.isnan(measure(same, Y)), name
            assert math.isnan(measure(X, same)), name
    assert math.isnan(rsa(X[:2], Y[:2]))
    assert math.isnan(cka(X[:3], Y[:3], debiased=True))
    assert math.isnan(neighbour_overlap(X[:10], Y[:10]))


def test_degenerate_columns_and_more_columns_than_rows() -> None:
    X, Y = pair(8)
    wide = np.hstack([X, X[:, :3] + X[:, 3:6], np.ones((60, 1))])
    assert pwcca(Y, wide).kept_y == 8
    assert pwcca(Y, wide).value == pytest.approx(pwcca(Y, X).value, abs=1e-9)
    generator = np.random.default_rng(0)
    found = pwcca(generator.normal(size=(10, 30)), generator.normal(size=(10, 30)))
    assert (found.kept_x, found.kept_y) == (9, 9)
    assert found.value == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5, 2), (0, 2), (4,)])
def test_other_rows_are_refused(shape: tuple[int, ...]) -> None:
    for measure in MEASURES.values():
        with pytest.raises(ValueError, match="the same rows"):
            measure(np.ones((0 if shape[0] == 0 else 4, 2)), np.ones(shape))


def test_memory_is_that_of_a_few_blocks() -> None:
    X = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float16)
    tracemalloc.start()
    for name in ("rsa", "cka", "procrustes"):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert MEASURES[name](X, X) == pytest.approx(1)
        assert tracemalloc.get_traced_memory()[1] - before < 0.6 * 8 * X.size, name
    tracemalloc.stop()
