"""RSA and CKA without each group of rows in turn: what a jackknife over blocks of text is made of (METHODS 16.2).

All groups together cost about as much as the measure itself twice: with G = A'B of all rows and G_g of a group's,
||G - G_g||_F^2 = ||G||_F^2 - 2 sum_i a_i'G b_i + sum_ij (a_i.a_j)(b_i.b_j), the sums over the group's rows.

Axes: N rows, D and E dimensions of the two sides, K groups, n rows of a group. Everything is computed in float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.solvers.similarity import directed_rows, directions

Matrix = NDArray[np.floating[Any]]
_Float = NDArray[np.float64]
_ROUNDING = 1e-13  # as of `similarity`: a smaller spread, relative to what it is of, is rounding


def rsa_without(X_ND: Matrix, Y_NE: Matrix, group_N: NDArray[np.integer[Any]], n_groups: int) -> _Float:
    """`similarity.rsa` without the rows of each group (K).

    Parameters
    ----------
    group_N
        The group of each row, from 0 to `n_groups` - 1; a group without rows gives the value of all rows.

    Returns
    -------
    array of shape (K,)
        NaN where fewer than three rows with a direction are left, or all cosines of a side are equal.
    """
    kept = directed_rows(X_ND, Y_NE)
    a_ND, b_NE = directions(X_ND, kept), directions(Y_NE, kept)
    m_D, k_E = a_ND.mean(0), b_NE.mean(0)
    a_ND -= m_D
    b_NE -= k_E
    sides = (_Side(a_ND, m_D), _Side(b_NE, k_E))
    grams = _grams(a_ND, b_NE)
    found = np.full(n_groups, math.nan)
    for group, rows in enumerate(_members(group_N[kept], n_groups)):
        left = len(kept) - len(rows)
        if left < 3:
            continue
        xx, yy, xy = (
            _Rest.of(grams[i, j], sides[i].d_ND, sides[j].d_ND, rows).cosines(sides[i], sides[j], rows, left)
            for i, j in ((0, 0), (1, 1), (0, 1))
        )
        if min(xx, yy) > _ROUNDING**2:
            found[group] = xy / math.sqrt(xx * yy)
    return found


def cka_without(X_ND: Matrix, Y_NE: Matrix, group_N: NDArray[np.integer[Any]], n_groups: int) -> _Float:
    """`similarity.cka`, not debiased, without the rows of each group (K); as `rsa_without`."""
    a_ND, b_NE = np.array(X_ND, np.float64), np.array(Y_NE, np.float64)
    squares = np.vdot(a_ND, a_ND), np.vdot(b_NE, b_NE)
    a_ND -= a_ND.mean(0)
    b_NE -= b_NE.mean(0)
    pair = (a_ND, b_NE)
    grams = _grams(a_ND, b_NE)
    found = np.full(n_groups, math.nan)
    if any(np.vdot(own, own) <= _ROUNDING**2 * square for own, square in zip(pair, squares, strict=True)):
        return found
    least = [_ROUNDING * float(np.vdot(grams[i, i], grams[i, i])) for i in (0, 1)]
    for group, rows in enumerate(_members(group_N, n_groups)):
        left = len(a_ND) - len(rows)
        xx, yy, xy = (
            _Rest.of(grams[i, j], pair[i], pair[j], rows).centred(pair[i], pair[j], rows, left)
            for i, j in ((0, 0), (1, 1), (0, 1))
        )
        if left and xx > least[0] and yy > least[1]:
            found[group] = xy / math.sqrt(xx * yy)
    return found


def _members(group_N: NDArray[np.integer[Any]], n_groups: int) -> list[NDArray[np.int64]]:
    order_N = np.argsort(group_N, kind="stable")
    return list(np.split(order_N, np.searchsorted(group_N[order_N], np.arange(1, n_groups))))


def _grams(a_ND: _Float, b_NE: _Float) -> dict[tuple[int, int], _Float]:
    pair = (a_ND, b_NE)
    return {(i, j): pair[i].T @ pair[j] for i, j in ((0, 0), (1, 1), (0, 1))}


class _Side(NamedTuple):
    """Rows of length 1 as deviations from their mean m."""

    d_ND: _Float
    m_D: _Float


class _Rest(NamedTuple):
    """A'B of all rows but a group's, as what is asked of it: ||A'B||_F^2 and p'(A'B)q."""

    square: float
    gram_DE: _Float
    a_nD: _Float
    b_nE: _Float

    @classmethod
    def of(cls, gram_DE: _Float, a_ND: _Float, b_NE: _Float, rows: NDArray[np.int64]) -> _Rest:
        a_nD, b_nE = a_ND[rows], b_NE[rows]
        inner = float(np.vdot(a_nD @ gram_DE, b_nE))
        own = float(np.vdot(a_nD @ a_nD.T, b_nE @ b_nE.T))
        return cls(float(np.vdot(gram_DE, gram_DE)) - 2 * inner + own, gram_DE, a_nD, b_nE)

    def form(self, p_D: _Float, q_E: _Float) -> float:
        return float(p_D @ self.gram_DE @ q_E - (self.a_nD @ p_D) @ (self.b_nE @ q_E))

    def cosines(self, one: _Side, other: _Side, rows: NDArray[np.int64], n: int) -> float:
        """Covariance, over pairs of the n rows that are left, of the cosines of both sides.

        A cosine is |m|^2 + u_i + u_j + d_i.d_j with u_i = m.d_i, and 1 on the diagonal (`similarity.rsa`); the rows
        that are left have the sum s of deviations, which is 0 for all rows together.
        """
        (d_ND, m_D), (e_NE, k_E) = one, other
        s_D, t_E = -d_ND[rows].sum(0), -e_NE[rows].sum(0)
        u, v = float(m_D @ s_D), float(k_E @ t_E)
        alpha, beta = 1 - float(m_D @ m_D), 1 - float(k_E @ k_E)
        product = 2 * n * self.form(m_D, k_E) + 2 * u * v + self.square
        product += 2 * self.form(m_D, t_E) + 2 * self.form(s_D, k_E) - n * alpha * beta
        pairs = n * (n - 1)
        means = (2 * n * u + float(s_D @ s_D) - n * alpha) / pairs, (2 * n * v + float(t_E @ t_E) - n * beta) / pairs
        return product / pairs - means[0] * means[1]

    def centred(self, a_ND: _Float, b_NE: _Float, rows: NDArray[np.int64], n: int) -> float:
        """||A'B||_F^2 of the n rows that are left, each side less its mean over them."""
        s_D, t_E = -a_ND[rows].sum(0), -b_NE[rows].sum(0)
        return self.square - 2 * self.form(s_D, t_E) / n + float(s_D @ s_D) * float(t_E @ t_E) / n**2 if n else 0.0
