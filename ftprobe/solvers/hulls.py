"""Whether two convex hulls meet, and how far apart they are: verdicts with a proof, distances with two bounds.

Wolfe's algorithm decides in few dimensions, an interior point in many; each ends with a proof. Where neither has one
(hulls that touch, or nearly), a linear program decides. Verdicts: 1 separable, -1 overlap, 0 undecided.

Axes: N items of one side, D dimensions, M = D + 2 conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import linprog

from ftprobe.solvers.hulls_corral import OVERLAP, SEPARABLE, UNDECIDED, nearest_of_pairs, nearest_points
from ftprobe.solvers.hulls_pairs import Found, pair_bounds

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEW_DIMS = 64  # up to here Wolfe's algorithm is the faster way to a verdict
_FEW_POINTS = 40  # of a pair: up to here in any number of dimensions
_STEPS = 30  # of the interior point
_EXCHANGES = 100  # per point of a working set


class Rules(NamedTuple):
    """How pairs are decided (METHODS 7.1): `scale` is the mean squared norm of the centred data."""

    scale: float
    solver: str = "auto"
    overlap_eps: float = 1e-7
    max_iterations: int = 5000


class Bounds(NamedTuple):
    """Distances of pairs of hulls from above and from below (P,); 0 and 0 where they meet."""

    upper_P: Array
    lower_P: Array


def hull_verdict(A_ND: Array, B_ND: Array, rules: Rules) -> int:
    """Whether a hyperplane separates two sets of points.

    Parameters
    ----------
    A_ND, B_ND : float64 arrays of shapes (N, D)
        Each with one row at least.
    rules : Rules

    Returns
    -------
    int
        1 separable, -1 overlap (touching is overlap), 0 undecided.
    """
    if rules.solver == "lp":
        return lp_verdict(A_ND, B_ND)
    verdict = UNDECIDED if A_ND.shape[1] <= _FEW_DIMS else interior_verdict(A_ND, B_ND)
    if verdict == UNDECIDED:
        verdict = nearest_points(A_ND, B_ND, _between(A_ND, B_ND), rules.scale, -1.0, rules.max_iterations)[0]
    if verdict == UNDECIDED and A_ND.shape[1] <= _FEW_DIMS:
        verdict = interior_verdict(A_ND, B_ND)
    if verdict == UNDECIDED and rules.solver == "auto":
        verdict = lp_verdict(A_ND, B_ND)
    return verdict


def hull_verdicts(sides: Sequence[Array], pairs: Ints, rules: Rules) -> Ints:
    """Verdicts on pairs (P, 2) of places in `sides`, as `hull_verdict` gives them (P,)."""
    verdict_P = np.zeros(len(pairs), dtype=np.int64)
    if rules.solver != "lp":
        verdict_P = _bound(sides, pairs, rules, tol=-1.0).verdict_P
    for p in np.flatnonzero(verdict_P == UNDECIDED):
        verdict_P[p] = hull_verdict(sides[pairs[p, 0]], sides[pairs[p, 1]], rules)
    return verdict_P


def hull_bounds(sides: Sequence[Array], pairs: Ints, rules: Rules, *, tol: float) -> Bounds:
    """Bounds of the Euclidean distances of pairs of hulls with upper - lower <= tol * upper (METHODS 7.2).

    Parameters
    ----------
    sides : sequence of float64 arrays of shapes (N, D)
    pairs : int array of shape (P, 2)
        Places in `sides`.
    rules : Rules
    tol : float

    Returns
    -------
    Bounds
        Of each pair; 0 and 0 where the hulls meet, nan where not even the linear program settles whether they do.
    """
    verdict_P, upper_P, lower_P = _bound(sides, pairs, rules, tol=tol)
    wide_P = (verdict_P == SEPARABLE) & (upper_P - lower_P > tol * upper_P)
    for p in np.flatnonzero((verdict_P == UNDECIDED) | wide_P):
        A_ND, B_ND = sides[pairs[p, 0]], sides[pairs[p, 1]]
        verdict_P[p] = verdict_P[p] or hull_verdict(A_ND, B_ND, rules)
        if verdict_P[p] == SEPARABLE:
            v_D = _between(A_ND, B_ND)
            _, upper, lower = nearest_points(A_ND, B_ND, v_D, rules.scale, tol, rules.max_iterations)
            upper_P[p], lower_P[p] = min(upper_P[p], upper), max(lower_P[p], lower)
    apart_P = verdict_P == SEPARABLE
    other_P = np.where(verdict_P == OVERLAP, 0.0, np.nan)
    return Bounds(np.where(apart_P, upper_P, other_P), np.where(apart_P, lower_P, other_P))


def _bound(sides: Sequence[Array], pairs: Ints, rules: Rules, *, tol: float) -> Found:
    """What the min-norm solvers find out about pairs: Wolfe's for few dimensions or points, else working sets."""
    found = Found(np.zeros(len(pairs), np.int64), np.full(len(pairs), np.inf), np.zeros(len(pairs)))
    size_M = np.array([len(side) for side in sides])
    if not len(pairs):
        return found
    small_P = size_M[pairs].sum(axis=1) <= _FEW_POINTS
    if sides[0].shape[1] <= _FEW_DIMS:
        small_P[:] = True
    if small_P.any():
        used, few = np.unique(pairs[small_P], return_inverse=True)
        start_M = np.r_[0, np.cumsum(size_M[used])]
        X_ND = np.concatenate([sides[m] for m in used])
        some = nearest_of_pairs(X_ND, start_M, few.reshape(-1, 2), rules.scale, tol, rules.max_iterations)
        for whole_P, part_p in zip(found, some, strict=True):
            whole_P[small_P] = part_p
    if not small_P.all():
        many = pair_bounds(
            sides, pairs[~small_P], scale=rules.scale, tol=tol, overlap_eps=rules.overlap_eps, max_iterations=_EXCHANGES
        )
        for whole_P, part_p in zip(found, many, strict=True):
            whole_P[~small_P] = part_p
    return found


def _between(A_ND: Array, B_ND: Array) -> Array:
    """From the centroid of B to that of A (D,)."""
    return np.asarray(A_ND.mean(0) - B_ND.mean(0))


def interior_verdict(A_ND: Array, B_ND: Array) -> int:
    """Look for positive weights p, q with p'A = q'B by affine scaling (Dikin 1967) from equal weights.

    A step solves for the change that is least relative to the weights. If it keeps all of them positive the hulls have
    a common point; if its multipliers separate the two sets, that is the other proof.
    """
    n_a, D = len(A_ND), A_ND.shape[1]
    size = np.sqrt(max((A_ND**2).sum(1).max(), (B_ND**2).sum(1).max())) or 1.0
    rows_MN = np.zeros((D + 2, n_a + len(B_ND)))
    rows_MN[:D, :n_a], rows_MN[:D, n_a:] = A_ND.T / size, -B_ND.T / size
    rows_MN[D, :n_a] = rows_MN[D + 1, n_a:] = 1.0
    target_M = np.r_[np.zeros(D), 1.0, 1.0]
    weight_N = np.r_[np.full(n_a, 1 / n_a), np.full(len(B_ND), 1 / len(B_ND))]
    for _ in range(_STEPS):
        left_M = target_M - rows_MN @ weight_N
        y_M = _multipliers(rows_MN * weight_N, left_M)
        if y_M is None:
            return UNDECIDED
        slack_N = rows_MN.T @ y_M
        if _separates(slack_N[:n_a] - y_M[D], y_M[D + 1] - slack_N[n_a:], float(np.linalg.norm(y_M[:D]))):
            return SEPARABLE
        change_N = weight_N * slack_N
        if np.abs(change_N).max() < 0.9 and _meets(rows_MN, target_M, weight_N * (1 + change_N)):
            return OVERLAP
        weight_N = weight_N * (1 + min(1.0, 0.9 / max(-change_N.min(), 1e-300)) * change_N)
    return UNDECIDED


def _multipliers(weighted_MN: Array, left_M: Array) -> Array | None:
    """y with W W' y = left; None where the weights have become too small to solve for it."""
    square_MM = weighted_MN @ weighted_MN.T
    square_MM[np.diag_indices_from(square_MM)] += 1e-15 * np.trace(square_MM)
    try:
        return np.asarray(cho_solve(cho_factor(square_MM), left_M))
    except LinAlgError:
        return None


def _separates(a_N: Array, b_N: Array, norm: float) -> bool:
    """Whether products with a direction of this norm, of points within the unit ball, lie apart beyond rounding."""
    guard = 1e-12 * norm
    return bool(a_N.min() > b_N.max() + guard or b_N.min() > a_N.max() + guard)


def _meets(rows_MN: Array, target_M: Array, weight_N: Array) -> bool:
    """Whether positive weights give one point of both hulls: what is left is rounding, its repair moves little."""
    left_M = target_M - rows_MN @ weight_N
    y_M = _multipliers(rows_MN * weight_N, left_M)
    if y_M is None:
        return False
    change_N = weight_N * (rows_MN.T @ y_M)
    left_M = target_M - rows_MN @ (weight_N * (1 + change_N))
    return bool(np.abs(change_N).max() < 1e-3 and np.abs(left_M).max() < 1e-14 * len(rows_MN))


def lp_verdict(A_ND: Array, B_ND: Array) -> int:
    """Whether w.x + b >= 1 on A and <= -1 on B has a solution, by HiGHS (free w, b, zero objective).

    Its simplex leaves some programs of a hundred dimensions open; the interior solver is asked about those.
    """
    centre_D = (A_ND.mean(0) + B_ND.mean(0)) / 2
    X_ND = np.vstack([A_ND, B_ND]) - centre_D
    X_ND /= np.sqrt((X_ND**2).mean()) or 1.0
    sign_N1 = np.r_[-np.ones(len(A_ND)), np.ones(len(B_ND))][:, None]
    conditions_ND = sign_N1 * np.hstack([X_ND, np.ones((len(X_ND), 1))])
    objective_D = np.zeros(conditions_ND.shape[1])
    for method in ("highs", "highs-ipm"):
        status = linprog(objective_D, conditions_ND, -np.ones(len(X_ND)), bounds=(None, None), method=method).status
        if status in (0, 2):
            return SEPARABLE if status == 0 else OVERLAP
    return UNDECIDED


def nearest_hulls(X_ND: Array, sides: list[Array], rules: Rules, *, tol: float) -> Ints:
    """The place in `sides` of the hull nearest to each row of X; of equally near ones the first.

    Hulls are tried by the distance of their bounding spheres; one that lies beyond the best so far is never run.
    """
    centre_MD = np.stack([side.mean(0) for side in sides])
    radius_M = np.array(
        [np.sqrt(((side - centre_D) ** 2).sum(1).max()) for side, centre_D in zip(sides, centre_MD, strict=True)]
    )
    nearest_N = np.empty(len(X_ND), dtype=np.int64)
    for n, x_D in enumerate(X_ND):
        closest_M = np.sqrt(((centre_MD - x_D) ** 2).sum(1)) - radius_M
        best = (np.inf, -1)
        for m in np.argsort(closest_M, kind="stable"):
            if closest_M[m] > best[0]:
                break
            v_D = x_D - centre_MD[m]
            verdict, upper, _ = nearest_points(x_D[None], sides[m], v_D, rules.scale, tol, rules.max_iterations)
            best = min(best, (0.0 if verdict == OVERLAP else upper, int(m)))
        nearest_N[n] = best[1]
    return nearest_N
