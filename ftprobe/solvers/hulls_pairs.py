"""Many pairs of hulls among a few sets of points, in many dimensions: their distances, with a proof.

`approach_pairs` finds a working set and weights for each pair in single precision, the pairs shared out to threads.
Then one matrix product per set gives, in double precision, the points v of all its pairs, and one rates all its points
in those directions: that gives both bounds. Where they are not close enough, the points that lie beyond the working
set join it, and it is solved again from those products, so that each round removes what the last one left.

Axes: N items of a set, D dimensions, P pairs, Q pairs of one set, 2 sides, C places for points of a side, n points of
a side; B's are negated in products and Gram matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.solvers.grouped import from_centres
from ftprobe.solvers.hulls_corral import ROUNDING, SEPARABLE, UNDECIDED
from ftprobe.solvers.hulls_working import (
    AHEAD,
    JOIN,
    MOST_PLACES,
    Held,
    Limits,
    Sets,
    Weights,
    approach_pairs,
    empty_set,
    enter,
    exchange,
    select,
)
from ftprobe.solvers.threads import own_threads, share_out

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

_PLACES = 192  # for points of each side in single precision; later twice that, and again
_ROUNDS = 60
_TOGETHER = 256  # pairs at a time
_ROUGH = 0.3  # how far a run for the verdict alone goes within a working set
_ROUNDING_BEYOND = 1e-9  # of products with v, relatively
_SIGN_2 = np.array([1.0, -1.0])


class Found(NamedTuple):
    """Of each pair (P,): 1 where separable is proved, else 0; bounds of its distance."""

    verdict_P: Ints
    upper_P: Array
    lower_P: Array


class _Working:
    """The working set of a pair, from the weights of single precision on, and how far it is solved."""

    def __init__(self, sets: Sets, pair_2: Ints, start: Weights, p: int) -> None:
        self.pair_2, self.solved_to, self.width = pair_2, np.inf, np.inf
        C = start.row_P2C.shape[2]
        self.held = empty_set(2 * C, sets.X_ND.shape[1])
        self.held.size_2[:], self.held.row_2C[:, :C] = start.size_P2[p], start.row_P2C[p]
        self.held.weight_2C[:, :C] = start.weight_P2C[p]
        enter(sets, pair_2, np.zeros(2, np.int64), self.held)

    def improve(self, sets: Sets, rated: tuple[Array, Array], bounds: tuple[float, float], limits: Limits) -> bool:
        """Take in what lies beyond the set and solve again; False once that leads no further."""
        (upper, lower), C = bounds, self.held.row_2C.shape[1]
        if self.held.size_2.max() == C:
            if 2 * C > MOST_PLACES:
                return False
            self.held = _grown(self.held)
        old_2 = self.held.size_2.copy()
        fresh = sum(select(rated[s], s, JOIN, _ROUNDING_BEYOND, self.held) for s in range(2))
        if not fresh and self.solved_to <= limits.tol and upper - lower > 0.5 * self.width:
            return False
        enter(sets, self.pair_2, old_2, self.held)
        for s, n in enumerate(self.held.size_2):
            self.held.product_2C[s, :n] = rated[s][self.held.row_2C[s, :n]]
        self.width = upper - lower
        self.solved_to = max(limits.tol, AHEAD * self.width / max(upper, 1e-300) if fresh else 0.0)
        exchange(self.held, self.solved_to, limits)
        return True


def _grown(held: Held) -> Held:
    """The same with twice the places."""
    C = held.row_2C.shape[1]
    more = ((0, 0), (0, C))
    return Held(
        held.size_2,
        np.pad(held.row_2C, more),
        np.pad(held.weight_2C, more),
        np.pad(held.product_2C, more),
        np.pad(held.Z_2CD, (*more, (0, 0))),
        np.pad(held.gram_2C2C, more * 2),
    )


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
    found = Found(np.zeros(len(pairs), np.int64), np.full(len(pairs), np.inf), np.zeros(len(pairs)))
    with own_threads() as threads:
        for first in range(0, len(pairs), _TOGETHER):
            at_p = np.arange(first, min(first + _TOGETHER, len(pairs)))
            used, pairs_p2 = np.unique(pairs[at_p], return_inverse=True)
            batch = _Batch([sides[m] for m in used], pairs_p2.reshape(-1, 2), scale * overlap_eps, tol, max_iterations)
            share_out(batch.solve, len(at_p), threads)
            for whole_P, part_p in zip(found, batch.found, strict=True):
                whole_P[at_p] = part_p
    return found


class _Batch:
    """Pairs that are solved together; all of `sides` are in some pair."""

    def __init__(self, sides: Sequence[Array], pairs: Ints, floor: float, tol: float, most: int) -> None:
        self.sides, self.pairs, self.floor, self.tol = sides, pairs, floor, tol
        self.size = max(float(np.sqrt(np.einsum("nd,nd->n", side, side).max())) for side in sides) or 1.0
        self.limits = Limits(tol / 3 if tol >= 0 else _ROUGH, floor / self.size**2, tol < 0, most)
        self.sets = _sets(sides, pairs, self.size)
        ends = pairwise(self.sets.start_M)
        self.first_NM = self.sets.X_ND @ np.stack([self.sets.X_ND[first:last].mean(0) for first, last in ends]).T
        P = len(pairs)
        self.found = Found(np.zeros(P, np.int64), np.full(P, np.inf), np.zeros(P))
        places = (P, 2, min(_PLACES, max(map(len, sides))))
        self.start = Weights(np.zeros((P, 2), np.int64), np.zeros(places, np.int64), np.zeros(places, np.float32))

    def solve(self, open_p: Ints) -> None:
        """Find the bounds of some of the pairs."""
        approach_pairs(self.sets, self.first_NM, self.pairs, open_p, self.limits, self.start)
        working: dict[int, _Working] = {}
        for _ in range(_ROUNDS):
            v_pD = self._points(open_p, working)
            left = [
                int(p)
                for p, v_D, rated in zip(open_p, v_pD, self._rate(open_p, v_pD), strict=True)
                if self._note(int(p), v_D, float(rated[0].min() + rated[1].min()))
                and self._improve(int(p), rated, working)
            ]
            open_p = np.array(left, dtype=np.int64)
            if not left:
                break

    def _improve(self, p: int, rated: tuple[Array, Array], working: dict[int, _Working]) -> bool:
        upper, lower = float(self.found.upper_P[p]), float(self.found.lower_P[p])
        if upper * upper <= self.floor:
            return False
        if p not in working:
            working[p] = _Working(self.sets, self.pairs[p], self.start, p)
        unit = self.size**-2
        return working[p].improve(self.sets, (unit * rated[0], unit * rated[1]), (upper, lower), self.limits)

    def _points(self, open_p: Ints, working: dict[int, _Working]) -> Array:
        """v of each open pair (p, D)."""
        v_pD = np.zeros((len(open_p), self.sides[0].shape[1]))
        for place, pair_Q, side_Q in _of_sides(self.pairs[open_p]):
            weight_QN = np.zeros((len(pair_Q), len(self.sides[place])))
            for weight_N, p, s in zip(weight_QN, open_p[pair_Q], side_Q, strict=True):
                if p in working:
                    held = working[p].held
                    n, row_C, weight_C = held.size_2[s], held.row_2C[s], held.weight_2C[s]
                else:
                    n, row_C, weight_C = self.start.size_P2[p, s], self.start.row_P2C[p, s], self.start.weight_P2C[p, s]
                weight_n = weight_C[:n].astype(np.float64)
                weight_N[row_C[:n]] = weight_n / weight_n.sum()
            v_pD[pair_Q] += (_SIGN_2[side_Q, None] * weight_QN) @ self.sides[place]
        return v_pD

    def _rate(self, open_p: Ints, v_pD: Array) -> list[tuple[Array, Array]]:
        """Of each open pair the products of v with the rows of A, and of -v with those of B."""
        out: list[list[Array]] = [[np.empty(0), np.empty(0)] for _ in open_p]
        for place, pair_Q, side_Q in _of_sides(self.pairs[open_p]):
            products_QN = (v_pD[pair_Q] * _SIGN_2[side_Q, None]) @ self.sides[place].T
            for product_N, p, s in zip(products_QN, pair_Q, side_Q, strict=True):
                out[p][s] = product_N
        return [(a_N, b_N) for a_N, b_N in out]

    def _note(self, p: int, v_D: Array, gap: float) -> bool:
        """Enter what v and the least sum of products prove about pair p; whether it stays open."""
        found, norm = self.found, float(np.sqrt(v_D @ v_D))
        found.upper_P[p] = min(found.upper_P[p], norm)
        if gap > ROUNDING * self.size * norm:
            found.verdict_P[p] = SEPARABLE
            found.lower_P[p] = min(max(found.lower_P[p], gap / norm), found.upper_P[p])
        if found.verdict_P[p] == UNDECIDED:
            return True
        return self.tol >= 0 and found.upper_P[p] - found.lower_P[p] > self.tol * found.upper_P[p]


def _sets(sides: Sequence[Array], pairs: Ints, size: float) -> Sets:
    """All points in single precision, in units of `size`.

    Gram matrices are of the sets that are in so many pairs that theirs is less work than those of the working sets.
    """
    n_M = np.array([len(side) for side in sides])
    start_M = np.r_[0, np.cumsum(n_M)]
    X_ND = np.empty((start_M[-1], sides[0].shape[1]), np.float32)
    parts = [X_ND[first:last] for first, last in pairwise(start_M)]
    for side, part_ND in zip(sides, parts, strict=True):
        from_centres(side, np.zeros(len(side), np.int64), np.zeros((1, side.shape[1])), 1 / size, part_ND)
    times_M = np.bincount(pairs.ravel(), minlength=len(sides))
    whole_M = n_M**2 <= times_M * (_PLACES // 2) ** 2
    end_M = np.cumsum(np.where(whole_M, n_M**2, 0))
    inner = np.empty(end_M[-1], np.float32)
    for m in np.flatnonzero(whole_M):
        np.dot(parts[m], parts[m].T, out=inner[end_M[m] - n_M[m] ** 2 : end_M[m]].reshape(n_M[m], n_M[m]))
    return Sets(X_ND, start_M, inner, np.where(whole_M, end_M - n_M**2, -1))


def _of_sides(pairs_p2: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """Of each place in the pairs: the pairs it is in, and on which side of them (Q,)."""
    flat_q = pairs_p2.ravel()
    for place in np.unique(flat_q):
        at_Q = np.flatnonzero(flat_q == place)
        yield int(place), at_Q // 2, at_Q % 2
