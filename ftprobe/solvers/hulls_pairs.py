"""Many pairs of hulls among a few sets of points, in many dimensions: working sets, solved by exchanging weights.

A pair starts with the points of each set that lie furthest towards the other. Over those, convex weights of least
norm ||v|| are found by sequential minimal optimisation on their Gram matrix (Platt 1998; Mitchell, Demyanov and
Malozemov 1974 for this problem); then one matrix product per set rates all its points in the directions of all its
pairs, which gives both bounds, and the points that lie beyond the working set join it.

Axes: N items of a set, D dimensions, P pairs, W points of a working set, signed: rows of A as they are, of B negated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ftprobe.solvers.hulls_corral import SEPARABLE, UNDECIDED

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_JOIN = 16  # points of each side that join a working set at a time
_ROUNDS = 60
_TOGETHER = 128  # pairs at a time: their working sets are in memory together
_ROUGH = 0.3  # how far a run for the verdict alone goes within a working set
_ROUNDING = 1e-13  # of a product with v, relative to ||v|| and the largest row


class Found(NamedTuple):
    """Of each pair (P,): 1 where separable is proved, else 0; bounds of its distance."""

    verdict_P: Ints
    upper_P: Array
    lower_P: Array


class _Working:
    """The working set of a pair: signed points of both sides, weights, Gram matrix, and products with v."""

    def __init__(self, D: int) -> None:
        self.n, self.solved_to = 0, np.inf
        self.side_W = np.empty(0, np.int64)
        self.weight_W = np.empty(0)
        self.product_W = np.empty(0)
        self.Z_WD = np.empty((0, D))
        self.gram_WW = np.empty((0, 0))

    def improve(
        self, sides: tuple[Array, Array], rated: tuple[Array, Array], gap: float, tol: float, floor: float, most: int
    ) -> bool:
        """Take in what lies beyond the set and solve again; False once that leads no further or to no distance."""
        target = tol / 3 if tol >= 0 else _ROUGH
        fresh = (self.beyond(0, rated[0]), self.beyond(1, rated[1]))
        if len(fresh[0]) + len(fresh[1]):
            self.join(sides, fresh)
        elif self.solved_to <= target:
            return False
        self.solved_to = max(target, 0.1 * gap) if len(fresh[0]) + len(fresh[1]) else target
        n, arrays = self.n, (self.gram_WW, self.side_W, self.weight_W, self.product_W)
        return bool(exchange(n, *arrays, self.solved_to, floor, most * n) > floor)

    def point(self) -> Array:
        """v (D,)."""
        return np.asarray(self.weight_W[: self.n] @ self.Z_WD[: self.n])

    def beyond(self, side: int, product_N: Array) -> Ints:
        """The rows with the smallest products, of those smaller than any in the set: no row of it is among them."""
        if self.n:
            least = self.product_W[: self.n][self.side_W[: self.n] == side].min()
            out_n = np.flatnonzero(product_N < least - 1e-9 * abs(least))
        else:
            out_n = np.arange(len(product_N))
        return out_n if len(out_n) <= _JOIN else out_n[np.argpartition(product_N[out_n], _JOIN)[:_JOIN]]

    def join(self, sides: tuple[Array, Array], fresh: tuple[Ints, Ints]) -> None:
        """Take in rows; the first of each side gets all weight where there was none."""
        old, n = self.n, self.n + len(fresh[0]) + len(fresh[1])
        if n > len(self.Z_WD):
            self._grow(2 * n)
        middle = old + len(fresh[0])
        self.Z_WD[old:middle] = sides[0][fresh[0]]
        np.negative(sides[1][fresh[1]], out=self.Z_WD[middle:n])
        self.side_W[old:middle], self.side_W[middle:n] = 0, 1
        self.gram_WW[old:n, :n] = self.Z_WD[old:n] @ self.Z_WD[:n].T
        self.gram_WW[:old, old:n] = self.gram_WW[old:n, :old].T
        if not old:
            self.weight_W[0] = self.weight_W[middle] = 1.0
        self.product_W[old:n] = self.gram_WW[old:n, :n] @ self.weight_W[:n]
        if not old:
            self.product_W[:n] = self.gram_WW[:n, :n] @ self.weight_W[:n]
        self.n = n

    def _grow(self, size: int) -> None:
        n = self.n
        for name in ("side_W", "weight_W", "product_W", "Z_WD"):
            held = getattr(self, name)
            larger = np.zeros((size, *held.shape[1:]), held.dtype)
            larger[:n] = held[:n]
            setattr(self, name, larger)
        gram_WW = np.empty((size, size))
        gram_WW[:n, :n] = self.gram_WW[:n, :n]
        self.gram_WW = gram_WW


@njit(cache=True, nogil=True)
def _steepest(W: int, side_W: Ints, weight_W: Array, product_W: Array) -> tuple[int, float]:
    """The point that should gain weight, on the side with the wider products; the least sum of products."""
    low0, low1, high0, high1 = np.inf, np.inf, -np.inf, -np.inf
    to0, to1 = 0, 0
    for r in range(W):
        s, held = product_W[r], weight_W[r] > 0.0
        if side_W[r] == 0:
            if s < low0:
                low0, to0 = s, r
            high0 = max(high0, s) if held else high0
        else:
            if s < low1:
                low1, to1 = s, r
            high1 = max(high1, s) if held else high1
    return (to0 if high0 - low0 >= high1 - low1 else to1), low0 + low1


@njit(cache=True, nogil=True)
def _source(W: int, to: int, gram_WW: Array, side_W: Ints, weight_W: Array, product_W: Array) -> int:
    """The point of the same side whose weight moves to `to` with the greatest gain, -1 for none."""
    best, source = 0.0, -1
    for r in range(W):
        slope = product_W[r] - product_W[to]
        if weight_W[r] > 0.0 and slope > 0.0 and side_W[r] == side_W[to]:
            gain = slope * slope / max(gram_WW[r, r] + gram_WW[to, to] - 2.0 * gram_WW[to, r], 1e-300)
            if gain > best:
                best, source = gain, r
    return source


@njit(cache=True, nogil=True)
def exchange(
    W: int, gram_WW: Array, side_W: Ints, weight_W: Array, product_W: Array, tol: float, floor: float, most: int
) -> float:
    """Move weight between points of a side until ||v||^2 is within `tol`, relatively, of its least, or below `floor`.

    Of arrays that hold W points. Changes the weights and the products <v, z>; returns ||v||^2.
    """
    square = 0.0
    for r in range(W):
        square += weight_W[r] * product_W[r]
    for _ in range(most):
        to, gap = _steepest(W, side_W, weight_W, product_W)
        if square - gap <= tol * square or square <= floor:
            break
        source = _source(W, to, gram_WW, side_W, weight_W, product_W)
        if source < 0:
            break
        slope = product_W[source] - product_W[to]
        curve = gram_WW[source, source] + gram_WW[to, to] - 2.0 * gram_WW[to, source]
        step = min(weight_W[source], slope / max(curve, 1e-300))
        square += step * (step * curve - 2.0 * slope)
        weight_W[to] += step
        weight_W[source] = 0.0 if step == weight_W[source] else weight_W[source] - step
        for r in range(W):
            product_W[r] += step * (gram_WW[to, r] - gram_WW[source, r])
    return square


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
    centre_MD = np.stack([side.mean(0) for side in sides])
    v_PD = centre_MD[pairs[:, 0]] - centre_MD[pairs[:, 1]]
    guard = _ROUNDING * max(float(np.sqrt((side**2).sum(1).max())) for side in sides)
    found = Found(np.zeros(len(pairs), np.int64), np.full(len(pairs), np.inf), np.zeros(len(pairs)))
    for start in range(0, len(pairs), _TOGETHER):
        open_p = np.arange(start, min(start + _TOGETHER, len(pairs)))
        working = {int(p): _Working(v_PD.shape[1]) for p in open_p}
        for _ in range(_ROUNDS):
            left = []
            for p, rated in zip(open_p, _rate(sides, pairs[open_p], v_PD[open_p]), strict=True):
                if not _note(found, int(p), v_PD[p], float(rated[0].min() + rated[1].min()), guard, tol):
                    del working[int(p)]
                    continue
                two = (sides[pairs[p, 0]], sides[pairs[p, 1]])
                gap = 1.0 - found.lower_P[p] / max(found.upper_P[p], 1e-300)
                if working[int(p)].improve(two, rated, gap, tol, overlap_eps * scale, max_iterations):
                    v_PD[p] = working[int(p)].point()
                    left.append(p)
            open_p = np.array(left, dtype=np.int64)
            if not left:
                break
    return found


def _rate(sides: Sequence[Array], pairs_p2: Ints, v_pD: Array) -> list[tuple[Array, Array]]:
    """Of each pair the products of v with the rows of A, and of -v with those of B."""
    out: list[list[Array]] = [[np.empty(0), np.empty(0)] for _ in pairs_p2]
    for column, sign in ((0, 1.0), (1, -1.0)):
        order_p = np.argsort(pairs_p2[:, column], kind="stable")
        places, first = np.unique(pairs_p2[order_p, column], return_index=True)
        for place, at in zip(places, np.split(order_p, first[1:]), strict=True):
            products_pN = sign * v_pD[at] @ sides[place].T
            for row, p in enumerate(at):
                out[p][column] = products_pN[row]
    return [(a_N, b_N) for a_N, b_N in out]


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
