"""Many pairs of hulls among a few sets of points, in many dimensions: working sets, solved by exchanging weights.

A pair starts with the points of each set that lie furthest towards the other. Over those, convex weights of least
norm ||v|| are found by sequential minimal optimisation on their Gram matrix (Platt 1998; Mitchell, Demyanov and
Malozemov 1974 for this problem). Then one matrix product per set gives the points v of all its pairs, and one rates
all its points in those directions: that gives both bounds, and the points that lie beyond the working set join it.

Gram matrices are in single precision: they say how products change by an exchange of weights. The products it starts
from, and those that prove the bounds, are in double precision, so that each round removes what the last one left.

Axes: N items of a set, D dimensions, P pairs, Q pairs of one set, 2 sides, C places for points of a side, n points of
a side; B's are negated in products and Gram matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ftprobe.solvers.hulls_corral import SEPARABLE, UNDECIDED

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

_JOIN = 32  # points of each side that join a working set at a time
_PLACES = 128  # for points of each side at first
_ROUNDS = 60
_TOGETHER = 128  # pairs at a time: their working sets are in memory together
_ROUGH = 0.3  # how far a run for the verdict alone goes within a working set
_AHEAD = 0.02  # how far one for the distance goes, relative to the gap, while points join
_ROUNDING = 1e-13  # of a product with v, relative to ||v|| and the largest row
_CLOSEST = 1e-6  # a squared distance of two points, relative to their squared norms, that single precision tells from 0
_SIGN_2 = np.array([1.0, -1.0])


class Found(NamedTuple):
    """Of each pair (P,): 1 where separable is proved, else 0; bounds of its distance."""

    verdict_P: Ints
    upper_P: Array
    lower_P: Array


class _Limits(NamedTuple):
    """When the exchanges of a round end: relatively, below ||v||^2 of, after how many for each point; unit of ||v||^2.

    The vectors of working sets are divided by the largest norm: products with v are multiplied by `unit`.
    """

    target: float
    floor: float
    most: int
    unit: float


class _Held(NamedTuple):
    """A working set: how many points of each side, their rows, weights, products with v, vectors and Gram matrix."""

    size_2: Ints
    row_2C: Ints
    weight_2C: Array
    product_2C: Array
    Z_2CD: Singles
    gram_2C2C: Singles


class _Working:
    """The working set of a pair and how far it is solved; `inner` has the Gram matrix of each whole set or is empty."""

    def __init__(self, inner: tuple[Singles, Singles], Z_2CD: Singles, gram_2C2C: Singles) -> None:
        shape, self.inner = Z_2CD.shape[:2], inner
        self.solved_to, self.width = np.inf, np.inf
        self.held = _Held(
            np.zeros(2, np.int64), np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape), Z_2CD, gram_2C2C
        )

    def improve(
        self, sides: tuple[Singles, Singles], rated: tuple[Array, Array], upper: float, lower: float, limits: _Limits
    ) -> bool:
        """Take in what lies beyond the set and solve again; False once that leads no further."""
        size, C = int(self.held.size_2.max()), self.held.row_2C.shape[1]
        if size == C:
            self.held, C = _grown(self.held), 2 * C
        fresh = join(*sides, *rated, limits.unit, *self.inner, min(_JOIN, C - size), self.held)
        if not fresh and self.solved_to <= limits.target and upper - lower > 0.5 * self.width:
            return False
        self.width = upper - lower
        ahead = _AHEAD * self.width / max(upper, 1e-300) if fresh else 0.0
        self.solved_to = max(limits.target, ahead)
        exchange(self.held, self.solved_to, limits.floor, limits.most)
        return True


def _grown(held: _Held) -> _Held:
    """The same with twice the places."""
    C = held.row_2C.shape[1]
    more = ((0, 0), (0, C))
    return _Held(
        held.size_2,
        np.pad(held.row_2C, more),
        np.pad(held.weight_2C, more),
        np.pad(held.product_2C, more),
        np.pad(held.Z_2CD, (*more, (0, 0))),
        np.pad(held.gram_2C2C, more * 2),
    )


@njit(cache=True, nogil=True)
def _beyond(product_N: Array, row_C: Ints, size: int, most: int) -> Ints:
    """The rows with the smallest products, of those smaller than any in the set: no row of it is among them."""
    least = np.inf
    for k in range(size):
        least = min(least, product_N[row_C[k]])
    if size:
        least -= 1e-9 * abs(least)
    out_n = np.flatnonzero(product_N < least)
    if len(out_n) > most:
        edge = np.partition(product_N[out_n], most)[most]
        out_n = out_n[product_N[out_n] < edge][:most] if edge > product_N[out_n].min() else out_n[:most]
    return out_n


@njit(cache=True, nogil=True)
def _inner_products(held: _Held, s: int, old: int, inner_NN: Singles) -> None:
    """Enter the Gram matrix of side s, whose points from `old` on are new."""
    n, row_C, gram_2C2C = held.size_2[s], held.row_2C[s], held.gram_2C2C
    if len(inner_NN):
        for i in range(old, n):
            for j in range(n):
                gram_2C2C[s, i, s, j] = gram_2C2C[s, j, s, i] = inner_NN[row_C[i], row_C[j]]
    elif n > old:
        products_nn = np.dot(held.Z_2CD[s, old:n], held.Z_2CD[s, :n].T)
        for i in range(old, n):
            for j in range(n):
                gram_2C2C[s, i, s, j] = gram_2C2C[s, j, s, i] = products_nn[i - old, j]


@njit(cache=True, nogil=True)
def _cross_products(held: _Held, s: int, old: int, n: int) -> None:
    """Enter the products of the points of side s from `old` on with the first n of the other."""
    t, gram_2C2C = 1 - s, held.gram_2C2C
    if n and held.size_2[s] > old:
        products_nn = np.dot(held.Z_2CD[s, old : held.size_2[s]], held.Z_2CD[t, :n].T)
        for i in range(products_nn.shape[0]):
            for j in range(n):
                gram_2C2C[s, old + i, t, j] = gram_2C2C[t, j, s, old + i] = -products_nn[i, j]


@njit(cache=True, nogil=True)
def join(
    A_ND: Singles,
    B_ND: Singles,
    a_N: Array,
    b_N: Array,
    unit: float,
    inner0_NN: Singles,
    inner1_NN: Singles,
    most: int,
    held: _Held,
) -> int:
    """Take in up to `most` rows of each side by their products with v, and set all products; how many joined.

    In an empty set all that join get the same weight.
    """
    size_2, row_2C, weight_2C, product_2C = held.size_2, held.row_2C, held.weight_2C, held.product_2C
    old0, old1 = size_2[0], size_2[1]
    for s, rated_N, X_ND in ((0, a_N, A_ND), (1, b_N, B_ND)):
        for row in _beyond(rated_N, row_2C[s], size_2[s], most):
            row_2C[s, size_2[s]] = row
            held.Z_2CD[s, size_2[s]] = X_ND[row]
            size_2[s] += 1
    _inner_products(held, 0, old0, inner0_NN)
    _inner_products(held, 1, old1, inner1_NN)
    _cross_products(held, 0, old0, size_2[1])
    _cross_products(held, 1, old1, old0)
    n0, n1 = size_2[0], size_2[1]
    if old0:
        for s, rated_N in ((0, a_N), (1, b_N)):
            for k in range(size_2[s]):
                product_2C[s, k] = unit * rated_N[row_2C[s, k]]
    else:
        weight_2C[0, :n0], weight_2C[1, :n1] = 1.0 / n0, 1.0 / n1
        for s in range(2):
            for k in range(size_2[s]):
                product_2C[s, k] = held.gram_2C2C[s, k, 0, :n0].mean() + held.gram_2C2C[s, k, 1, :n1].mean()
    return int(n0 + n1 - old0 - old1)


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "nnan", "contract"})
def _range(weight_c: Array, product_c: Array) -> tuple[float, float]:
    """The least product, and the greatest of those with weight."""
    low, high = 1e300, -1e300
    for r in range(len(product_c)):
        s = product_c[r]
        low = min(low, s)
        high = max(high, s if weight_c[r] > 0.0 else -1e300)
    return low, high


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "nnan", "contract"})
def _source(to: int, own_c: Array, gram_c: Singles, weight_c: Array, product_c: Array, gain_c: Array) -> int:
    """The point of the same side whose weight moves to `to` with the greatest gain, -1 for none."""
    best, base = 0.0, product_c[to]
    for r in range(len(product_c)):
        slope = product_c[r] - base
        whole = own_c[r] + own_c[to]
        gain = slope * slope / max(whole - 2.0 * gram_c[r], _CLOSEST * whole + 1e-300)
        gain_c[r] = gain if weight_c[r] > 0.0 and slope > 0.0 else 0.0
        best = max(best, gain_c[r])
    if best > 0.0:
        for r in range(len(product_c)):
            if gain_c[r] == best:
                return r
    return -1


@njit(cache=True, nogil=True)
def exchange(held: _Held, tol: float, floor: float, most: int) -> None:
    """Move weight between points of a side until ||v||^2 is within `tol`, relatively, of its least, or below `floor`.

    Changes the weights and the products <v, z>.
    """
    size_2, weight_2C, product_2C, gram_2C2C = held.size_2, held.weight_2C, held.product_2C, held.gram_2C2C
    n0, n1, square = size_2[0], size_2[1], 0.0
    own_2C, gain_C = np.empty(weight_2C.shape), np.empty(weight_2C.shape[1])
    for s in range(2):
        for r in range(size_2[s]):
            square += weight_2C[s, r] * product_2C[s, r]
            own_2C[s, r] = gram_2C2C[s, r, s, r]
    for _ in range(most * (n0 + n1)):
        low0, high0 = _range(weight_2C[0, :n0], product_2C[0, :n0])
        low1, high1 = _range(weight_2C[1, :n1], product_2C[1, :n1])
        if square - low0 - low1 <= tol * square or square <= floor:
            break
        s, low = (0, low0) if high0 - low0 >= high1 - low1 else (1, low1)
        n, to = size_2[s], 0
        while product_2C[s, to] > low:
            to += 1
        source = _source(to, own_2C[s, :n], gram_2C2C[s, to, s, :n], weight_2C[s, :n], product_2C[s, :n], gain_C)
        if source < 0:
            break
        whole, slope = own_2C[s, to] + own_2C[s, source], product_2C[s, source] - low
        curve = max(whole - 2.0 * gram_2C2C[s, to, s, source], _CLOSEST * whole + 1e-300)
        step = min(weight_2C[s, source], slope / curve)
        square += step * (step * curve - 2.0 * slope)
        weight_2C[s, to] += step
        weight_2C[s, source] = 0.0 if step == weight_2C[s, source] else weight_2C[s, source] - step
        for t in range(2):
            gain_c, loss_c, product_c = gram_2C2C[s, to, t], gram_2C2C[s, source, t], product_2C[t]
            for r in range(size_2[t]):
                product_c[r] += step * (gain_c[r] - loss_c[r])


def pair_bounds(
    sides: Sequence[Array], pairs: Ints, *, scale: float, tol: float, overlap_eps: float, max_iterations: int
) -> Found:
    """Bounds of the distances of pairs of hulls, upper - lower <= tol * upper for most that are proved separable.

    Parameters
    ----------
    sides : sequence of float64 arrays of shapes (N, D)
    pairs : int array of shape (P, 2)
        Places in `sides`.
    scale, overlap_eps : float
        A pair whose ||v||^2 falls below overlap_eps * scale without a proof is given up.
    tol : float
        Negative: the verdict is enough.
    max_iterations : int
        Exchanges in a round, for each point of a working set.
    """
    size = max(float(np.sqrt(np.einsum("nd,nd->n", side, side).max())) for side in sides) or 1.0
    single = [(side / size).astype(np.float32) for side in sides]
    limits = _Limits(tol / 3 if tol >= 0 else _ROUGH, overlap_eps * scale / size**2, max_iterations, size**-2)
    found = Found(np.zeros(len(pairs), np.int64), np.full(len(pairs), np.inf), np.zeros(len(pairs)))
    for start in range(0, len(pairs), _TOGETHER):
        open_p = np.arange(start, min(start + _TOGETHER, len(pairs)))
        working = _begin(single, pairs[open_p])
        for _ in range(_ROUNDS):
            v_pD, left = _points(sides, pairs[open_p], working), []
            for k, (p, rated) in enumerate(zip(open_p, _rate(sides, pairs[open_p], v_pD), strict=True)):
                wide = _note(found, int(p), v_pD[k], float(rated[0].min() + rated[1].min()), _ROUNDING * size, tol)
                two, upper = (single[pairs[p, 0]], single[pairs[p, 1]]), float(found.upper_P[p])
                given_up = upper * upper <= overlap_eps * scale
                if wide and not given_up and working[k].improve(two, rated, upper, found.lower_P[p], limits):
                    left.append(k)
            open_p, working = open_p[left], [working[k] for k in left]
            if not left:
                break
    return found


def _begin(single: Sequence[Singles], pairs_p2: Ints) -> list[_Working]:
    """An empty working set for each pair."""
    places, D = (len(pairs_p2), 2, _PLACES), single[0].shape[1]
    Z_p2CD, gram_p2C2C = np.empty((*places, D), np.float32), np.empty((*places, 2, _PLACES), np.float32)
    inner = _inner(single, pairs_p2)
    return [
        _Working((inner[a], inner[b]), Z_2CD, gram_2C2C)
        for (a, b), Z_2CD, gram_2C2C in zip(pairs_p2.tolist(), Z_p2CD, gram_p2C2C, strict=True)
    ]


def _of_sides(pairs_p2: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """Of each place in the pairs: the pairs it is in, and on which side of them (Q,)."""
    flat_q = pairs_p2.ravel()
    for place in np.unique(flat_q):
        at_Q = np.flatnonzero(flat_q == place)
        yield int(place), at_Q // 2, at_Q % 2


def _inner(single: Sequence[Singles], pairs_p2: Ints) -> dict[int, Singles]:
    """Gram matrices of the sets that are in so many pairs that it is less work than theirs, else empty ones."""
    out = {}
    for place, pair_Q, _ in _of_sides(pairs_p2):
        few = len(single[place]) ** 2 <= len(pair_Q) * _PLACES**2
        out[place] = single[place] @ single[place].T if few else np.empty((0, 0), np.float32)
    return out


def _rate(sides: Sequence[Array], pairs_p2: Ints, v_pD: Array) -> list[tuple[Array, Array]]:
    """Of each pair the products of v with the rows of A, and of -v with those of B."""
    out: list[list[Array]] = [[np.empty(0), np.empty(0)] for _ in pairs_p2]
    for place, pair_Q, side_Q in _of_sides(pairs_p2):
        products_QN = (v_pD[pair_Q] * _SIGN_2[side_Q, None]) @ sides[place].T
        for row, (p, s) in enumerate(zip(pair_Q, side_Q, strict=True)):
            out[p][s] = products_QN[row]
    return [(a_N, b_N) for a_N, b_N in out]


def _points(sides: Sequence[Array], pairs_p2: Ints, working: list[_Working]) -> Array:
    """v of each pair (p, D): from the centroid of B to that of A while the working set is empty."""
    v_pD = np.zeros((len(pairs_p2), sides[0].shape[1]))
    for place, pair_Q, side_Q in _of_sides(pairs_p2):
        weight_QN = np.full((len(pair_Q), len(sides[place])), 1.0 / len(sides[place]))
        for row, (p, s) in enumerate(zip(pair_Q, side_Q, strict=True)):
            held = working[p].held
            n = held.size_2[s]
            if n:
                weight_QN[row] = 0.0
                weight_QN[row, held.row_2C[s, :n]] = held.weight_2C[s, :n]
        v_pD[pair_Q] += (_SIGN_2[side_Q, None] * weight_QN) @ sides[place]
    return v_pD


def _note(found: Found, p: int, v_D: Array, gap: float, guard: float, tol: float) -> bool:
    """Enter what v and the least sum of products prove about pair p; whether it stays open."""
    norm = float(np.sqrt(v_D @ v_D))
    found.upper_P[p] = min(found.upper_P[p], norm)
    if gap > guard * norm:
        found.verdict_P[p] = SEPARABLE
        found.lower_P[p] = min(max(found.lower_P[p], gap / norm), found.upper_P[p])
    if found.verdict_P[p] == UNDECIDED:
        return True
    return tol >= 0 and found.upper_P[p] - found.lower_P[p] > tol * found.upper_P[p]
