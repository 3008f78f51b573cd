"""Hulls that meet or not, against linear programs; their distances, against closed forms and scikit-learn's SVC."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog
from sklearn.svm import SVC
from threadpoolctl import threadpool_info, threadpool_limits

from ftprobe.solvers.hulls import Rules, hull_bounds, hull_verdict, hull_verdicts, interior_verdict, lp_verdict
from ftprobe.solvers.hulls_corral import OVERLAP, SEPARABLE, UNDECIDED
from ftprobe.solvers.hulls_pairs import pair_bounds
from ftprobe.solvers.threads import own_threads

TWO = np.array([[0, 1]])


def rules(*sides, solver="auto"):
    return Rules(float((np.vstack(sides) ** 2).sum(1).mean()) or 1.0, solver)


def share_a_point(A_ND, B_ND):
    """Whether p'A = q'B has a solution in convex weights: the dual of the program that `lp_verdict` solves."""
    ones = np.r_[np.ones(len(A_ND)), np.zeros(len(B_ND))]
    conditions = np.vstack([np.hstack([A_ND.T, -B_ND.T]), ones, 1 - ones])
    target = np.r_[np.zeros(A_ND.shape[1]), 1.0, 1.0]
    return linprog(np.zeros(len(ones)), A_eq=conditions, b_eq=target, method="highs").status == 0


@st.composite
def two_sets(draw, element, most_dims=8):
    """Small sets: with few distinct values points repeat, lie on lines, and hulls touch."""
    D = draw(st.integers(1, most_dims))
    sets = [draw(arrays(np.float64, (draw(st.integers(1, 12)), D), elements=element)) for _ in range(2)]
    if draw(st.booleans()):
        sets[0][:, draw(st.integers(0, D - 1))] += draw(st.integers(1, 4))  # else small sets seldom are apart
    return sets


@settings(max_examples=300, deadline=None)
@given(sets=two_sets(st.integers(-2, 2).map(float)))
def test_verdicts_on_grids_equal_the_linear_program(sets):
    assert hull_verdict(*sets, rules(*sets)) == (OVERLAP if share_a_point(*sets) else SEPARABLE)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), D=st.integers(1, 8), n=st.integers(1, 30), apart=st.floats(0.0, 3.0))
def test_verdicts_on_clouds_equal_the_linear_program(seed, D, n, apart):
    rng = np.random.default_rng(seed)
    sets = rng.normal(size=(n, D)), rng.normal(size=(int(rng.integers(1, 30)), D)) + apart
    assert hull_verdict(*sets, rules(*sets)) == (OVERLAP if share_a_point(*sets) else SEPARABLE)


@settings(max_examples=100, deadline=None)
@given(sets=two_sets(st.integers(-2, 2).map(float)))
def test_the_interior_point_never_contradicts_the_linear_program(sets):
    assert interior_verdict(*sets) in {UNDECIDED, OVERLAP if share_a_point(*sets) else SEPARABLE}


@settings(max_examples=60, deadline=None)
@given(sets=two_sets(st.floats(-3, 3).map(lambda x: round(x, 3)), most_dims=3), seed=st.integers(0, 99))
def test_distances_in_many_dimensions_are_those_in_few(sets, seed):
    """A rotation into 80 dimensions goes to the solver of working sets; the plane itself to Wolfe's."""
    turn_80 = np.linalg.qr(np.random.default_rng(seed).normal(size=(80, 80)))[0]
    wide = [np.pad(side, ((0, 0), (0, 80 - side.shape[1]))) @ turn_80 for side in sets]
    few, many = (hull_bounds(s, TWO, rules(*s), tol=1e-6) for s in (sets, wide))
    if few.upper_P[0] > 1e-5:
        np.testing.assert_allclose(many.upper_P, few.upper_P, rtol=1e-5)
        assert (many.lower_P <= many.upper_P).all()
    else:
        assert many.upper_P[0] < 1e-4


@pytest.mark.parametrize("D", [2, 8, 70, 200])
@pytest.mark.parametrize("n", [3, 40])
def test_distances_are_twice_the_margin_of_a_support_vector_machine(D, n):
    rng = np.random.default_rng(D)
    A_ND, B_ND = rng.normal(size=(n, D)) / np.sqrt(D), rng.normal(size=(n + 5, D)) / np.sqrt(D)
    A_ND[:, 0] += 8 / np.sqrt(D)
    found = hull_bounds([A_ND, B_ND], TWO, rules(A_ND, B_ND), tol=1e-6)
    svc = SVC(C=1e6, kernel="linear", tol=1e-8).fit(np.vstack([A_ND, B_ND]), [1] * n + [0] * (n + 5))
    np.testing.assert_allclose(found.upper_P, 2 / np.linalg.norm(svc.coef_), rtol=1e-4)
    np.testing.assert_allclose(found.lower_P, found.upper_P, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-60, 1e60])
def test_distances_scale_with_the_points_beyond_the_range_of_single_precision(unit):
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(60, 100)) + shift for shift in (0.0, 0.3, -0.3)]
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    found, scaled = (hull_bounds(s, pairs, rules(*s), tol=1e-6) for s in (sides, [unit * side for side in sides]))
    assert (found.lower_P > 0).all()
    np.testing.assert_allclose(scaled.upper_P, unit * found.upper_P, rtol=1e-6)
    np.testing.assert_allclose(scaled.lower_P, scaled.upper_P, rtol=1e-6)


@pytest.mark.parametrize(
    ("A", "B", "distance"),
    [
        ([[0, 0]], [[3, 4]], 5),
        ([[0, 0], [4, 0]], [[1, 2], [9, 2]], 2),
        ([[0, 0], [1, 0], [0, 1], [1, 1]], [[6, 0.5]], 5),
        ([[0, 0], [2, 2]], [[0, 2], [2, 0]], 0),
        ([[0, 0], [2, 0]], [[1, 0]], 0),
        ([[1, 1]], [[1, 1]], 0),
    ],
    ids=["points", "parallel", "square and point", "crossing", "touching", "equal"],
)
@pytest.mark.parametrize("width", [2, 80])
def test_closed_forms(A, B, distance, width):
    sides = [np.pad(np.asarray(side, dtype=np.float64), ((0, 0), (0, width - 2))) for side in (A, B)]
    found = hull_bounds(sides, TWO, rules(*sides), tol=1e-6)
    np.testing.assert_allclose(found.upper_P, distance, rtol=1e-6)
    np.testing.assert_allclose(found.lower_P, distance, rtol=1e-6)


@pytest.mark.parametrize("D", [16, 70, 150])
@pytest.mark.parametrize("solver", ["auto", "minnorm", "lp"])
def test_each_solver_decides_large_sets_alike(D, solver):
    """2 D points a side of one cloud meet; the same ones pulled apart do not."""
    rng = np.random.default_rng(0)
    A_ND, B_ND = rng.normal(size=(2, 2 * D, D))
    sides = [A_ND, B_ND, B_ND + 12 / np.sqrt(D) * np.ones(D)]
    verdicts = hull_verdicts(sides, np.array([[0, 1], [0, 2]]), rules(*sides, solver=solver))
    assert verdicts.tolist() == [OVERLAP, SEPARABLE]


def test_the_program_alone_agrees():
    rng = np.random.default_rng(3)
    for shift in (0.0, 5.0):
        A_ND, B_ND = rng.normal(size=(12, 4)), rng.normal(size=(12, 4)) + shift
        assert lp_verdict(A_ND, B_ND) == (OVERLAP if share_a_point(A_ND, B_ND) else SEPARABLE)


def around(centres, n, D, seed=0):
    rng = np.random.default_rng(seed)
    return [centre * rng.normal(size=D) + rng.normal(size=(n, D)) for centre in centres]


PAIRS_OF_4 = np.array(list(combinations(range(4), 2)))


def test_working_sets_grow_to_hold_all_points():
    """So many points carry the nearest points that neither single precision's places nor the first growth suffice."""
    sides = around([0.02] * 2, 600, 1300)
    found = pair_bounds(sides, TWO, scale=1300.0, tol=1e-4, overlap_eps=1e-7, max_iterations=100)
    assert found.verdict_P[0] == SEPARABLE
    assert found.upper_P[0] - found.lower_P[0] <= 1e-4 * found.upper_P[0]
    svc = SVC(C=1e6, kernel="linear", tol=1e-6).fit(np.vstack(sides), [1] * 600 + [0] * 600)
    assert min(svc.n_support_) > 2 * 192
    assert found.upper_P[0] == pytest.approx(2 / np.linalg.norm(svc.coef_), rel=1e-4)


@pytest.mark.parametrize("tol", [1e-4, -1.0])
def test_any_number_of_threads_finds_the_same(tol):
    sides = around([0.5, 0.2, 0.1, 0.05], 70, 120)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append(pair_bounds(sides, PAIRS_OF_4, scale=120.0, tol=tol, overlap_eps=1e-7, max_iterations=100))
    for other in found[1:]:
        for one_P, other_P in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one_P, other_P, rtol=1e-12)


def test_threads_of_blas_are_as_many_after_the_work_as_before():
    with threadpool_limits(2, user_api="blas"):
        with own_threads() as threads, own_threads() as inner:
            assert (threads, inner) == (2, 2)
            assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {1}
        assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {2}
