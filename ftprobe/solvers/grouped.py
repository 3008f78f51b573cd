"""Rows in groups: their sums, their differences from centres, and least values, in one pass each, compiled.

Axes: N rows, D dimensions, M groups, K columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def group_sums(X_ND: Array, group_N: Ints) -> Array:
    """Sum of the rows of each group 0 to M - 1 (M, D), added in their order."""
    sum_MD = np.zeros((group_N.max() + 1, X_ND.shape[1]))
    for n in range(X_ND.shape[0]):
        g = group_N[n]
        for d in range(X_ND.shape[1]):
            sum_MD[g, d] += X_ND[n, d]
    return sum_MD


@njit(cache=True, nogil=True)
def group_least(X_NK: Array, group_N: Ints, M: int) -> Array:
    """Least value of each column in each group (M, K); infinite for a group without rows."""
    least_MK = np.full((M, X_NK.shape[1]), np.inf)
    for n in range(X_NK.shape[0]):
        g = group_N[n]
        for k in range(X_NK.shape[1]):
            least_MK[g, k] = min(least_MK[g, k], X_NK[n, k])
    return least_MK


@njit(cache=True, nogil=True)
def from_centres(X_ND: Array, group_N: Ints, centre_MD: Array, unit: float, out_ND: NDArray[np.floating]) -> None:
    """Write (x - centre of its group) * unit to `out`, of any precision."""
    for n in range(X_ND.shape[0]):
        g = group_N[n]
        for d in range(X_ND.shape[1]):
            out_ND[n, d] = (X_ND[n, d] - centre_MD[g, d]) * unit
