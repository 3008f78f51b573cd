"""Working sets for pairs of convex hulls, compiled: the points of both sets that may carry the nearest points.

Over a working set, convex weights of least norm ||v||, v = sum w a - sum w b, are found by sequential minimal
optimisation on the Gram matrix (Platt 1998; Mitchell, Demyanov and Malozemov 1974 for this problem). All is in single
precision here, in units of the largest row. What is found is proved, or improved, in double precision by `hulls_pairs`.

Axes: N items of all sets, D dimensions, M sets, P pairs, 2 sides, C places for points of a side, n points of a side;
B's are negated in products and Gram matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Ints = NDArray[np.int64]
Bits = NDArray[np.int32]

FIRST = 48  # points of each side that a working set starts with
JOIN = 32  # that join it at a time
_ROUNDS = 12
AHEAD = 0.02  # how far weights are solved, relative to the gap, while points join
_CLOSEST = 1e-6  # a squared distance of two points, relative to their squared norms, that single precision tells from 0
MOST_PLACES = 65536  # for points of a side: keys hold a place below their value
_NEVER = 2**62  # beyond all keys


class Sets(NamedTuple):
    """Sets of points: rows start[m] to start[m + 1] of X are set m.

    `inner` holds the Gram matrix of set m from inner[m] on, which is negative for a set without one.
    """

    X_ND: Singles
    start_M: Ints
    inner: Singles
    inner_M: Ints


class Limits(NamedTuple):
    """How far to go: until ||v||^2 is within `tol`, relatively, of its least, or below `floor`.

    `rough`: a direction that separates the two is enough. `most`: exchanges at a time, for each point of a working set.
    """

    tol: float
    floor: float
    rough: bool
    most: int


class Weights(NamedTuple):
    """Working sets of pairs: how many points of each side, which rows of their sets, their weights."""

    size_P2: Ints
    row_P2C: Ints
    weight_P2C: Singles


class Held(NamedTuple):
    """One working set: its points and weights, their products with v, vectors and Gram matrix."""

    size_2: Ints
    row_2C: Ints
    weight_2C: Singles
    product_2C: Singles
    Z_2CD: Singles
    gram_2C2C: Singles


@njit(cache=True, nogil=True)
def empty_set(C: int, D: int) -> Held:
    """A working set of no points with C places for each side."""
    return Held(
        np.zeros(2, np.int64),
        np.zeros((2, C), np.int64),
        np.zeros((2, C), np.float32),
        np.zeros((2, C), np.float32),
        np.empty((2, C, D), np.float32),
        np.empty((2, C, 2, C), np.float32),
    )


@njit(cache=True, nogil=True)
def select(product_N: NDArray[np.floating], s: int, most: int, rounding: float, held: Held) -> int:
    """Take in the rows of side s with the smallest products, of those smaller than any in the set; how many."""
    size, row_C = held.size_2[s], held.row_2C[s]
    least = np.inf
    for k in range(size):
        least = min(least, product_N[row_C[k]])
    if size:
        least -= rounding * abs(least)
    out_n = np.flatnonzero(product_N < least)
    most = min(most, len(row_C) - size)
    if len(out_n) > most > 0:
        edge = np.partition(product_N[out_n], most)[most]
        below_n = out_n[product_N[out_n] < edge]
        out_n = below_n if len(below_n) else out_n
    n = min(len(out_n), most)
    row_C[size : size + n] = out_n[:n]
    held.size_2[s] += n
    return n


@njit(cache=True, nogil=True)
def enter(sets: Sets, pair_2: Ints, old_2: Ints, held: Held) -> None:
    """Copy the vectors of the points from `old` on and complete the Gram matrix."""
    for s in range(2):
        first = sets.start_M[pair_2[s]]
        for k in range(old_2[s], held.size_2[s]):
            row = first + held.row_2C[s, k]
            for d in range(sets.X_ND.shape[1]):
                held.Z_2CD[s, k, d] = sets.X_ND[row, d]
    for s in range(2):
        _inner_products(sets, pair_2[s], s, old_2[s], held)
    _cross_products(0, old_2[0], held.size_2[1], held)
    _cross_products(1, old_2[1], old_2[0], held)


@njit(cache=True, nogil=True)
def _inner_products(sets: Sets, m: int, s: int, old: int, held: Held) -> None:
    """Enter the products of the points of side s, which are of set m, from `old` on with all of that side."""
    n, row_C, gram_2C2C, at = held.size_2[s], held.row_2C[s], held.gram_2C2C, sets.inner_M[m]
    if at >= 0:
        N = sets.start_M[m + 1] - sets.start_M[m]
        for i in range(old, n):
            for j in range(n):
                gram_2C2C[s, i, s, j] = sets.inner[at + row_C[i] * N + row_C[j]]
    elif n > old:
        products_nn = np.dot(held.Z_2CD[s, old:n], held.Z_2CD[s, :n].T)
        for i in range(old, n):
            for j in range(n):
                gram_2C2C[s, i, s, j] = products_nn[i - old, j]
    for i in range(old):
        for j in range(old, n):
            gram_2C2C[s, i, s, j] = gram_2C2C[s, j, s, i]


@njit(cache=True, nogil=True)
def _cross_products(s: int, old: int, n: int, held: Held) -> None:
    """Enter the products of the points of side s from `old` on with the first n of the other."""
    t, gram_2C2C = 1 - s, held.gram_2C2C
    if n and held.size_2[s] > old:
        products_nn = np.dot(held.Z_2CD[s, old : held.size_2[s]], held.Z_2CD[t, :n].T)
        for i in range(products_nn.shape[0]):
            for j in range(n):
                gram_2C2C[s, old + i, t, j] = gram_2C2C[t, j, s, old + i] = -products_nn[i, j]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _move(product_n: Singles, gain_n: Singles, loss_n: Singles, step: float) -> None:
    """Change products by a step towards one point, away from another."""
    for r in range(len(product_n)):
        product_n[r] += step * (gain_n[r] - loss_n[r])


@njit(cache=True, nogil=True)
def _ends(bits_n: Bits, weight_n: Singles) -> tuple[int, int]:
    """The places of the least product and of the greatest of those with weight; the bits of a float sort as integers.

    Extrema of integers are found several at a time, those of floats one by one.
    """
    low, high = _NEVER, -_NEVER
    for r in range(len(bits_n)):
        key = int(bits_n[r])
        key = (key ^ ((key >> 63) & 0x7FFFFFFF)) * MOST_PLACES + r
        low = min(low, key)
        high = max(high, key if weight_n[r] > np.float32(0.0) else -_NEVER)
    return low & (MOST_PLACES - 1), high & (MOST_PLACES - 1)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gains(to: int, own_n: Singles, gram_n: Singles, weight_n: Singles, product_n: Singles, gain_n: Singles) -> None:
    """What it gains to move weight from each point of the same side to `to`, 0 where there is none to move."""
    base, own, zero = product_n[to], own_n[to], np.float32(0.0)
    for r in range(len(product_n)):
        slope, whole = product_n[r] - base, own_n[r] + own
        curve, least = whole - np.float32(2.0) * gram_n[r], np.float32(_CLOSEST) * whole + np.float32(1e-30)
        gain = slope * slope / (curve if curve > least else least)
        gain_n[r] = gain if (weight_n[r] > zero) & (slope > zero) else zero


@njit(cache=True, nogil=True)
def _best(bits_n: Bits) -> int:
    """The place of the greatest of numbers >= 0; -1 where all are 0."""
    best = 0
    for r in range(len(bits_n)):
        best = max(best, int(bits_n[r]) * MOST_PLACES + r)
    return best & (MOST_PLACES - 1) if best >= MOST_PLACES else -1


@njit(cache=True, nogil=True)
def exchange(held: Held, tol: float, limits: Limits) -> None:
    """Move weight between points of a side until ||v||^2 is within `tol`, relatively, of its least.

    Changes the weights and the products.
    """
    n0, n1, square, C = held.size_2[0], held.size_2[1], 0.0, held.row_2C.shape[1]
    own_2C, gain_C, closest = np.empty((2, C), np.float32), np.empty(C, np.float32), np.float32(_CLOSEST)
    for s in range(2):
        for r in range(held.size_2[s]):
            square += held.weight_2C[s, r] * held.product_2C[s, r]
            own_2C[s, r] = held.gram_2C2C[s, r, s, r]
    weight_2C, product_2C, gram_2C2C = held.weight_2C, held.product_2C, held.gram_2C2C
    weight0, weight1, product0, product1 = weight_2C[0, :n0], weight_2C[1, :n1], product_2C[0, :n0], product_2C[1, :n1]
    bits0, bits1, gain_bits_C = product0.view(np.int32), product1.view(np.int32), gain_C.view(np.int32)
    for _ in range(limits.most * (n0 + n1)):
        low0, high0 = _ends(bits0, weight0)
        low1, high1 = _ends(bits1, weight1)
        if square - product0[low0] - product1[low1] <= tol * square or square <= limits.floor:
            break
        wider = product0[high0] - product0[low0] >= product1[high1] - product1[low1]
        s, n, to = (0, n0, low0) if wider else (1, n1, low1)
        gain_2C = gram_2C2C[s, to]
        _gains(to, own_2C[s, :n], gain_2C[s, :n], weight_2C[s, :n], product_2C[s, :n], gain_C)
        source = _best(gain_bits_C[:n])
        if source < 0:
            break
        whole, slope = own_2C[s, to] + own_2C[s, source], product_2C[s, source] - product_2C[s, to]
        curve = max(whole - np.float32(2.0) * gain_2C[s, source], closest * whole + np.float32(1e-30))
        step = min(weight_2C[s, source], slope / curve)
        square += step * (step * curve - np.float32(2.0) * slope)
        weight_2C[s, to] += step
        weight_2C[s, source] = np.float32(0.0) if step == weight_2C[s, source] else weight_2C[s, source] - step
        _move(product0, gain_2C[0], gram_2C2C[s, source, 0], step)
        _move(product1, gain_2C[1], gram_2C2C[s, source, 1], step)


@njit(cache=True, nogil=True)
def _start(held: Held) -> None:
    """The same weight for all points of a side, and the products that follow."""
    n0, n1 = held.size_2[0], held.size_2[1]
    held.weight_2C[0, :n0], held.weight_2C[1, :n1] = 1.0 / n0, 1.0 / n1
    for s in range(2):
        for k in range(held.size_2[s]):
            row_2C = held.gram_2C2C[s, k]
            held.product_2C[s, k] = row_2C[0, :n0].mean() + row_2C[1, :n1].mean()


@njit(cache=True, nogil=True)
def _rate(sets: Sets, pair_2: Ints, held: Held, rated_2N: Singles) -> tuple[float, float]:
    """Rate all points of both sets by their products with v; ||v||^2 and a lower bound of its least value."""
    n0, n1, gap = held.size_2[0], held.size_2[1], 0.0
    v_D = np.dot(held.weight_2C[0, :n0], held.Z_2CD[0, :n0]) - np.dot(held.weight_2C[1, :n1], held.Z_2CD[1, :n1])
    for s in range(2):
        first, last = sets.start_M[pair_2[s]], sets.start_M[pair_2[s] + 1]
        found_n = np.dot(sets.X_ND[first:last], v_D if s == 0 else -v_D)
        rated_2N[s, : last - first] = found_n
        gap += found_n.min()
    return np.dot(v_D, v_D), gap


@njit(cache=True, nogil=True)
def _approach(sets: Sets, pair_2: Ints, limits: Limits, rated_2N: Singles, old_2: Ints, held: Held) -> None:
    """Solve one pair from products of its points with a first direction (`rated`), as far as single precision goes."""
    long0, long1 = sets.start_M[pair_2 + 1] - sets.start_M[pair_2]
    width, solved_to = 1.0, np.inf
    held.size_2[:] = 0
    held.weight_2C[:] = 0.0
    for k in range(_ROUNDS):
        old_2[:] = held.size_2
        fresh = select(rated_2N[0, :long0], 0, JOIN if k else FIRST, 1e-6, held)
        fresh += select(rated_2N[1, :long1], 1, JOIN if k else FIRST, 1e-6, held)
        if fresh == 0 and solved_to <= limits.tol:
            break
        enter(sets, pair_2, old_2, held)
        if k == 0:
            _start(held)
        else:
            for s in range(2):
                held.product_2C[s, : held.size_2[s]] = rated_2N[s][held.row_2C[s, : held.size_2[s]]]
        solved_to = max(limits.tol, AHEAD * width) if fresh and not limits.rough else limits.tol
        exchange(held, solved_to, limits)
        square, gap = _rate(sets, pair_2, held, rated_2N)
        if square <= limits.floor or (limits.rough and gap > 1e-5 * np.sqrt(square)):
            break
        width = (square - gap) / square
        if width <= limits.tol:
            break


@njit(cache=True, nogil=True)
def approach_pairs(sets: Sets, first_NM: Singles, pairs: Ints, some: Ints, limits: Limits, out: Weights) -> None:
    """Weights for some of the pairs, one after another.

    Parameters
    ----------
    sets : Sets
    first_NM : float32 array of shape (N, M)
        Products of all points with the centroid of each set.
    pairs : int array of shape (P, 2)
    some : int array
        Which of them.
    limits : Limits
    out : Weights
        Written at these pairs.
    """
    held = empty_set(out.row_P2C.shape[2], sets.X_ND.shape[1])
    rated_2N, old_2 = np.empty((2, np.diff(sets.start_M).max()), np.float32), np.zeros(2, np.int64)
    for p in some:
        for s in range(2):
            m, other = pairs[p, s], pairs[p, 1 - s]
            for r in range(sets.start_M[m + 1] - sets.start_M[m]):
                row = sets.start_M[m] + r
                rated_2N[s, r] = first_NM[row, m] - first_NM[row, other]
        _approach(sets, pairs[p], limits, rated_2N, old_2, held)
        out.size_P2[p] = held.size_2
        out.row_P2C[p] = held.row_2C
        out.weight_P2C[p] = held.weight_2C
