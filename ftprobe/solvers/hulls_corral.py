"""The min-norm point of conv(A) - conv(B) by Wolfe's algorithm (Wolfe 1976), compiled.

The corral is a set of affinely independent differences q = a_i - b_j with positive weights; its least-norm point v is
solved exactly from the Cholesky factor L L' = Q Q' + c 1 1', which one point joins or leaves in O(m^2). Every point v
gives bounds: ||v|| from above, (min <v,A> - max <v,B>) / ||v|| from below. A positive lower bound proves that the hulls
are disjoint; a corral of full dimension with the origin inside proves that they meet.

Axes: N rows of A or B, D dimensions, M places of the corral or sets, P pairs.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SEPARABLE, OVERLAP, UNDECIDED = 1, -1, 0
ROUNDING = 1e-13  # of a product with v, relative to ||v|| and the largest row
_SMALLEST = 1e-12  # a weight that counts as zero


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, inline="never")
def dot(a_D: Array, b_D: Array) -> float:
    """The inner product of two vectors (D,)."""
    total = 0.0
    for d in range(a_D.shape[0]):
        total += a_D[d] * b_D[d]
    return total


@njit(cache=True, nogil=True)
def lowest(v_D: Array, X_ND: Array, sign: float) -> tuple[int, float]:
    """The row of X (N, D) with the smallest sign * <v, x>, and that product."""
    best, place = np.inf, 0
    for i in range(X_ND.shape[0]):
        s = sign * dot(v_D, X_ND[i])
        if s < best:
            best, place = s, i
    return place, best


@njit(cache=True, nogil=True)
def _add(L_MM: Array, Q_MD: Array, m: int, q_D: Array, c: float) -> bool:
    """Factor row m of the corral with q as its last difference; False where q depends on the others."""
    for k in range(m):
        rest = c + dot(Q_MD[k], q_D) - dot(L_MM[m, :k], L_MM[k, :k])
        L_MM[m, k] = rest / L_MM[k, k]
    whole = c + dot(q_D, q_D)
    left = whole - dot(L_MM[m, :m], L_MM[m, :m])
    if left <= 1e-13 * whole:
        return False
    L_MM[m, m] = np.sqrt(left)
    Q_MD[m] = q_D
    return True


@njit(cache=True, nogil=True)
def _remove(L_MM: Array, Q_MD: Array, weight_M: Array, m: int, k: int) -> None:
    """Take difference k out of a corral of m: rows move up, rotations make the factor triangular again."""
    for r in range(k, m - 1):
        Q_MD[r] = Q_MD[r + 1]
        weight_M[r] = weight_M[r + 1]
        L_MM[r, : r + 2] = L_MM[r + 1, : r + 2]
    for r in range(k, m - 1):
        a, b = L_MM[r, r], L_MM[r, r + 1]
        h = np.sqrt(a * a + b * b)
        cos, sin = a / h, b / h
        for s in range(r, m - 1):
            x, y = L_MM[s, r], L_MM[s, r + 1]
            L_MM[s, r] = cos * x + sin * y
            L_MM[s, r + 1] = cos * y - sin * x


@njit(cache=True, nogil=True)
def _solve(L_MM: Array, m: int, right_M: Array, out_M: Array) -> None:
    """Solve L L' out = right, both (M,), in the leading m rows."""
    for k in range(m):
        out_M[k] = (right_M[k] - dot(L_MM[k, :k], out_M[:k])) / L_MM[k, k]
    for k in range(m - 1, -1, -1):
        out_M[k] /= L_MM[k, k]
        for r in range(k):
            out_M[r] -= L_MM[k, r] * out_M[k]


@njit(cache=True, nogil=True)
def _shrink(L_MM: Array, Q_MD: Array, weight_M: Array, m: int, one_M: Array, affine_M: Array) -> int:
    """Move the weights to the least-norm point of the corral's affine hull, leaving out what becomes negative."""
    while True:
        _solve(L_MM, m, one_M, affine_M)
        total = 0.0
        for k in range(m):
            total += affine_M[k]
        step = 1.0
        for k in range(m):
            affine_M[k] /= total
            if affine_M[k] <= _SMALLEST:
                step = min(step, weight_M[k] / max(weight_M[k] - affine_M[k], _SMALLEST))
        if step >= 1.0:
            weight_M[:m] = affine_M[:m]
            return m
        smallest, out = np.inf, 0
        for k in range(m):
            weight_M[k] += step * (affine_M[k] - weight_M[k])
            if affine_M[k] <= _SMALLEST and weight_M[k] < smallest:
                smallest, out = weight_M[k], k
        _remove(L_MM, Q_MD, weight_M, m, out)
        m -= 1
        k = 0
        while k < m:
            if weight_M[k] <= _SMALLEST:
                _remove(L_MM, Q_MD, weight_M, m, k)
                m -= 1
            else:
                k += 1


@njit(cache=True, nogil=True)
def _inside(L_MM: Array, Q_MD: Array, weight_M: Array, m: int, v_D: Array, right_M: Array, out_M: Array) -> bool:
    """Whether the origin lies in the simplex of D + 1 differences: the exact barycentric weights stay positive."""
    if m != v_D.shape[0] + 1:
        return False
    widest, narrowest = 0.0, np.inf
    for k in range(m):
        right_M[k] = dot(Q_MD[k], v_D)
        widest, narrowest = max(widest, L_MM[k, k]), min(narrowest, L_MM[k, k])
    if narrowest < 1e-5 * widest:
        return False
    _solve(L_MM, m, right_M, out_M)
    least = np.inf
    for k in range(m):
        least = min(least, weight_M[k] - 4.0 * abs(out_M[k]))
    return least > 1e-10


@njit(cache=True, nogil=True)
def _largest(X_ND: Array, largest: float) -> float:
    """The greatest squared norm of a row, or `largest` if that is greater."""
    for i in range(X_ND.shape[0]):
        largest = max(largest, dot(X_ND[i], X_ND[i]))
    return largest


@njit(cache=True, nogil=True)
def _difference(a_D: Array, b_D: Array, q_D: Array) -> bool:
    """Write a - b to q; whether it is exactly zero."""
    same = True
    for d in range(q_D.shape[0]):
        q_D[d] = a_D[d] - b_D[d]
        same = same and q_D[d] == 0.0
    return same


@njit(cache=True, nogil=True)
def _combine(Q_MD: Array, weight_M: Array, m: int, v_D: Array) -> None:
    """Write the point of the corral with these weights to v."""
    v_D[:] = 0.0
    for k in range(m):
        for d in range(v_D.shape[0]):
            v_D[d] += weight_M[k] * Q_MD[k, d]


@njit(cache=True, nogil=True)
def nearest_points(
    A_ND: Array, B_ND: Array, v_D: Array, scale: float, tol: float, max_iterations: int
) -> tuple[int, float, float]:
    """Verdict, upper and lower bound of the distance of two hulls; `v_D` is the first direction and becomes the last.

    `scale` is a mean squared norm of the data. A negative `tol` asks for the verdict only; else the run goes on until
    upper - lower <= tol * upper.
    """
    D = A_ND.shape[1]
    M = min(D + 2, A_ND.shape[0] + B_ND.shape[0] + 1)
    L_MM, Q_MD = np.empty((M, M)), np.empty((M, D))
    weight_M, affine_M, one_M, q_D = np.empty(M), np.empty(M), np.ones(M), np.empty(D)
    m, lower, upper, verdict = 0, 0.0, np.inf, UNDECIDED
    guard = ROUNDING * np.sqrt(_largest(B_ND, _largest(A_ND, 0.0)))
    for _ in range(max_iterations):
        i, low = lowest(v_D, A_ND, 1.0)
        j, high = lowest(v_D, B_ND, -1.0)
        norm = np.sqrt(dot(v_D, v_D))
        if low + high > guard * norm:
            verdict, lower = SEPARABLE, max(lower, (low + high) / norm)
            if tol < 0.0:
                break
        if m > 0:
            upper = min(upper, norm)
            if upper - lower <= tol * upper or norm - (low + high) / norm <= 1e-14 * norm:
                break
            if m == D + 1 or norm * norm <= 1e-26 * scale:
                verdict = OVERLAP if _inside(L_MM, Q_MD, weight_M, m, v_D, one_M, affine_M) else UNDECIDED
                break
        if _difference(A_ND[i], B_ND[j], q_D):
            verdict, upper = OVERLAP, 0.0
            break
        if m == M or not _add(L_MM, Q_MD, m, q_D, scale):
            break
        weight_M[m] = 0.0 if m > 0 else 1.0
        m = _shrink(L_MM, Q_MD, weight_M, m + 1, one_M, affine_M)
        _combine(Q_MD, weight_M, m, v_D)
    return verdict, upper, min(lower, upper)


@njit(cache=True, nogil=True)
def nearest_of_pairs(
    X_ND: Array, start_M: Ints, pairs: Ints, scale: float, tol: float, max_iterations: int
) -> tuple[Ints, Array, Array]:
    """`nearest_points` of pairs (P, 2) of sets: set m is the rows of X from start[m] to start[m + 1]."""
    P, D = pairs.shape[0], X_ND.shape[1]
    verdict_P, upper_P, lower_P = np.empty(P, np.int64), np.empty(P), np.empty(P)
    centre_MD, v_D = np.zeros((start_M.shape[0] - 1, D)), np.empty(D)
    for m in range(start_M.shape[0] - 1):
        for i in range(start_M[m], start_M[m + 1]):
            for d in range(D):
                centre_MD[m, d] += X_ND[i, d] / (start_M[m + 1] - start_M[m])
    for p in range(P):
        a, b = pairs[p, 0], pairs[p, 1]
        for d in range(D):
            v_D[d] = centre_MD[a, d] - centre_MD[b, d]
        A_ND, B_ND = X_ND[start_M[a] : start_M[a + 1]], X_ND[start_M[b] : start_M[b + 1]]
        verdict_P[p], upper_P[p], lower_P[p] = nearest_points(A_ND, B_ND, v_D, scale, tol, max_iterations)
    return verdict_P, upper_P, lower_P
