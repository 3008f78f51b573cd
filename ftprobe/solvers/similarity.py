"""Similarity of two representations of the same stimuli: RSA, CKA, CCA, Procrustes, neighbours (METHODS 11).

Axes: N stimuli, D and E dimensions of the two sides, K canonical correlations, B rows of a block. Inputs of any
floating dtype, memory-mapped ones too, are read a block of rows at a time; everything is computed in float64. Values
are NaN where a measure is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]
_Float = NDArray[np.float64]
_ROWS = 1024
# Cosines are exact to about 1e-16, and so is a mean relative to what it is taken of: a spread below this is rounding.
_ROUNDING = 1e-13


def directed_rows(X_ND: Matrix, Y_NE: Matrix) -> NDArray[np.int64]:
    """Rows that are zero on neither side; the others have no direction, and `rsa` and `neighbour_overlap` drop them."""
    _check(X_ND, Y_NE)
    norms = [np.concatenate([np.abs(block_BD).max(1) for block_BD in _blocks(X)]) for X in (X_ND, Y_NE)]
    return np.flatnonzero((norms[0] > 0) & (norms[1] > 0))


def rsa(X_ND: Matrix, Y_NE: Matrix) -> float:
    """Representational similarity: Pearson's r of the cosines between rows, over all pairs of rows.

    Exact in O(N D^2), without the N x N matrices. With a_i = rows of length 1, m their mean, d_i = a_i - m and
    u_i = m.d_i, a cosine is |m|^2 + u_i + u_j + d_i.d_j; sums over all i, j of a product of two such deviations are
    2N u.v + ||D'E||_F^2, of which the diagonal is N times (1 - |m|^2)(1 - |k|^2). No large numbers are subtracted, so
    that rows which all point the same way lose no digits.

    Returns
    -------
    float
        In [-1, 1]; NaN for fewer than three rows with a direction, or where all cosines of a side are equal.

    Notes
    -----
    Merchant et al. 2020, section 5.1; not centred there, and neither here.
    """
    kept = directed_rows(X_ND, Y_NE)
    n = len(kept)
    if n < 3:
        return math.nan
    m_D, k_E = (_mean_direction(X, kept) for X in (X_ND, Y_NE))
    products, dots, spread = (np.zeros(3) for _ in range(3))
    grams = [np.zeros((len(a), len(b))) for a, b in ((m_D, m_D), (k_E, k_E), (m_D, k_E))]
    for rows in _row_blocks(kept):
        d_BD, e_BE = directions(X_ND, rows) - m_D, directions(Y_NE, rows) - k_E
        u_B, v_B = d_BD @ m_D, e_BE @ k_E
        for gram, one, other in zip(grams, (d_BD, e_BE, d_BD), (d_BD, e_BE, e_BE), strict=True):
            gram += one.T @ other
        dots += u_B @ u_B, v_B @ v_B, u_B @ v_B
    alpha, beta = np.trace(grams[0]) / n, np.trace(grams[1]) / n
    products[:] = [np.vdot(gram, gram) for gram in grams]
    spread[:] = alpha * alpha, beta * beta, alpha * beta
    pairs = n * (n - 1) / 2
    moment = (2 * n * dots + products - n * spread) / (2 * pairs) - (n / (2 * pairs)) ** 2 * spread
    if min(moment[0], moment[1]) <= _ROUNDING**2:
        return math.nan
    return float(moment[2] / math.sqrt(moment[0] * moment[1]))


def cka(X_ND: Matrix, Y_NE: Matrix, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment, ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of column-centred X and Y.

    Parameters
    ----------
    debiased
        With the unbiased estimator of HSIC (Song et al. 2012) in each place, which is 0 on average for independent
        sides however few rows there are; it may be negative.

    Returns
    -------
    float
        In [0, 1], or below if debiased; NaN where a side is constant, and debiased for fewer than four rows.
    """
    _check(X_ND, Y_NE)
    n = len(X_ND)
    x_D, y_E = (_column_means(X) for X in (X_ND, Y_NE))
    grams = [np.zeros((len(a), len(b))) for a, b in ((x_D, x_D), (y_E, y_E), (x_D, y_E))]
    p_N, q_N = np.zeros(n), np.zeros(n)
    for start, (x_BD, y_BE) in enumerate(zip(_blocks(X_ND), _blocks(Y_NE), strict=True)):
        x_BD, y_BE = x_BD - x_D, y_BE - y_E
        for gram, one, other in zip(grams, (x_BD, y_BE, x_BD), (x_BD, y_BE, y_BE), strict=True):
            gram += one.T @ other
        rows = slice(start * _ROWS, start * _ROWS + len(x_BD))
        p_N[rows], q_N[rows] = np.vecdot(x_BD, x_BD), np.vecdot(y_BE, y_BE)
    if _constant(p_N.sum(), x_D, n) or _constant(q_N.sum(), y_E, n):
        return math.nan
    xx, yy, xy = (float(np.vdot(gram, gram)) for gram in grams)
    if debiased:
        if n < 4:
            return math.nan
        xx, yy, xy = (
            total - n / (n - 2) * float(p @ q) + float(p.sum() * q.sum()) / ((n - 1) * (n - 2))
            for total, p, q in ((xx, p_N, p_N), (yy, q_N, q_N), (xy, p_N, q_N))
        )
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan


class Cca(NamedTuple):
    """A similarity by canonical correlations, and how many dimensions of each side it kept.

    Fewer rows than about five times these say little: with as many dimensions as rows every correlation is 1.
    """

    value: float
    kept_x: int
    kept_y: int


def svcca(X_ND: Matrix, Y_NE: Matrix, *, variance: float = 0.99) -> Cca:
    """Mean canonical correlation of the first principal components of each side (Raghu et al. 2017).

    Parameters
    ----------
    variance
        Of each side as many components are kept as are needed for this share of the variance.

    Returns
    -------
    Cca
        Value in [0, 1], the mean over the smaller of both numbers of components; NaN where a side is constant.
    """
    _check(X_ND, Y_NE)
    x, y = (_components(X, variance) for X in (X_ND, Y_NE))
    rho_K = np.linalg.svd(x.Q_NK.T @ y.Q_NK, compute_uv=False)
    return Cca(float(rho_K.mean()) if len(rho_K) else math.nan, x.Q_NK.shape[1], y.Q_NK.shape[1])


def pwcca(X_ND: Matrix, Y_NE: Matrix) -> Cca:
    """Canonical correlations weighted by how much of X their variates account for (Morcos et al. 2018).

    rho_i has the weight a_i = sum_j |<u_i, x_j>| of the i-th unit-norm canonical variate u_i of X and the columns x_j
    of X, centred. Every dimension is kept that is not constant or a combination of others up to rounding. Not
    symmetric.

    Returns
    -------
    Cca
        Value in [0, 1]; NaN where a side is constant.
    """
    _check(X_ND, Y_NE)
    x, y = (_components(X, 1.0) for X in (X_ND, Y_NE))
    left_KK, rho_K, _ = np.linalg.svd(x.Q_NK.T @ y.Q_NK, full_matrices=False)
    weight_K = np.abs(left_KK.T @ x.R_KD).sum(1)
    value = float(weight_K @ rho_K / weight_K.sum()) if len(rho_K) else math.nan
    return Cca(value, x.Q_NK.shape[1], y.Q_NK.shape[1])


def procrustes(X_ND: Matrix, Y_NE: Matrix) -> float:
    """Overlap under the best rotation: ||Y'X||_* / (||X||_F ||Y||_F) of column-centred X and Y (Ding et al. 2021).

    Returns
    -------
    float
        s in [0, 1]; with both sides scaled to norm 1 the orthogonal Procrustes distance is sqrt(2 - 2 s). NaN where a
        side is constant.
    """
    _check(X_ND, Y_NE)
    x_D, y_E = (_column_means(X) for X in (X_ND, Y_NE))
    cross_DE = np.zeros((len(x_D), len(y_E)))
    norms = np.zeros(2)
    for x_BD, y_BE in zip(_blocks(X_ND), _blocks(Y_NE), strict=True):
        x_BD, y_BE = x_BD - x_D, y_BE - y_E
        cross_DE += x_BD.T @ y_BE
        norms += np.vdot(x_BD, x_BD), np.vdot(y_BE, y_BE)
    if _constant(norms[0], x_D, len(X_ND)) or _constant(norms[1], y_E, len(X_ND)):
        return math.nan
    return float(np.linalg.svd(cross_DE, compute_uv=False).sum() / math.sqrt(norms[0] * norms[1]))


def neighbour_overlap(X_ND: Matrix, Y_NE: Matrix, *, k: int = 10) -> float:
    """Mean share of a row's k nearest neighbours, by cosine, that are the same on both sides.

    Of equally near neighbours the earlier rows are taken.

    Returns
    -------
    float
        In [0, 1]; k / (N - 1) by chance. NaN for fewer than k + 1 rows with a direction.
    """
    kept = directed_rows(X_ND, Y_NE)
    if len(kept) <= k:
        return math.nan
    shared = 0
    sides = [directions(X, kept) for X in (X_ND, Y_NE)]
    for start in range(0, len(kept), _ROWS):
        members = [_nearest(a_ND, slice(start, start + _ROWS), k) for a_ND in sides]
        shared += int((members[0] & members[1]).sum())
    return shared / (k * len(kept))


def _check(X_ND: Matrix, Y_NE: Matrix) -> None:
    if X_ND.ndim != 2 or Y_NE.ndim != 2 or len(X_ND) != len(Y_NE) or len(X_ND) == 0:
        raise ValueError(f"two matrices over the same rows are compared, not {X_ND.shape} and {Y_NE.shape}")


def _blocks(X_ND: Matrix) -> Iterator[_Float]:
    for start in range(0, len(X_ND), _ROWS):
        yield np.asarray(X_ND[start : start + _ROWS], np.float64)


def _column_means(X_ND: Matrix) -> _Float:
    total_D = np.zeros(X_ND.shape[1])
    for block in _blocks(X_ND):
        total_D += block.sum(0)
    return total_D / len(X_ND)


def _constant(centred: float, mean_D: _Float, n: int) -> bool:
    """Whether a centred matrix of this squared norm is nothing but rounding of its mean."""
    return bool(centred <= _ROUNDING**2 * (centred + n * (mean_D @ mean_D)))


def _row_blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def directions(X_ND: Matrix, rows: NDArray[np.int64]) -> _Float:
    """Rows at length 1; first divided by their largest entry, so that no square under- or overflows."""
    x_BD = np.asarray(X_ND[rows], np.float64)
    x_BD = x_BD / np.abs(x_BD).max(1, keepdims=True)
    directed: _Float = x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True)
    return directed


def _mean_direction(X_ND: Matrix, rows: NDArray[np.int64]) -> _Float:
    total_D = np.zeros(X_ND.shape[1])
    for block in _row_blocks(rows):
        total_D += directions(X_ND, block).sum(0)
    return total_D / len(rows)


class _Components(NamedTuple):
    """Centred X = `Q_NK R_KD`, the columns of Q orthonormal."""

    Q_NK: _Float
    R_KD: _Float


def _components(X_ND: Matrix, variance: float) -> _Components:
    X, mean_D = np.array(X_ND, np.float64), _column_means(X_ND)
    X -= mean_D
    Q_NK, s_K, R_KD = np.linalg.svd(X, full_matrices=False)
    kept = int((s_K > s_K[0] * max(X.shape) * np.finfo(np.float64).eps).sum())
    if _constant(float(s_K @ s_K), mean_D, len(X)):
        kept = 0
    if variance < 1 and kept:
        share_K = np.cumsum(s_K**2) / np.sum(s_K**2)
        kept = min(kept, int(np.searchsorted(share_K, variance)) + 1)
    return _Components(Q_NK[:, :kept], s_K[:kept, None] * R_KD[:kept])


def _nearest(a_ND: _Float, rows: slice, k: int) -> NDArray[np.bool_]:
    """Which rows (N) are among the k nearest of each row of a block (B)."""
    cosine_BN = a_ND[rows] @ a_ND.T
    own_B = np.arange(len(cosine_BN))
    cosine_BN[own_B, own_B + rows.start] = -np.inf
    kth_B1 = np.partition(cosine_BN, -k, axis=1)[:, [-k]]
    nearer_BN, equal_BN = cosine_BN > kth_B1, cosine_BN == kth_B1
    room_B1 = k - nearer_BN.sum(1, keepdims=True)
    members_BN: NDArray[np.bool_] = nearer_BN | (equal_BN & (equal_BN.cumsum(1) <= room_B1))
    return members_BN
