"""The greedy loop of DirectProbe over clusters of X, compiled: merge the closest pair of a label unless hulls meet.

A cluster is named by its lowest row, its slot; arrays of length N are read at slots that are active. Pairs of slots of
one label are kept at the lower one. A union is tested against each active cluster of the labels that `meets_KK` names:
linear scores of the labels, bounding spheres, bounding boxes, the directions that told its parts from the cluster, then
Wolfe's algorithm decide; where it does not, `advance` returns to its caller with the question and is called again with
the answer.

Axes: N distinct items, D dimensions, K labels, S places for directions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ftprobe.solvers.hulls_corral import OVERLAP, ROUNDING, SEPARABLE, UNDECIDED, dot, nearest_points

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_TIE = 1e-10  # of squared distances: closer than this, relatively, they are equal up to rounding
_PLACES = 2**23  # numbers in all directions kept, at most: 64 MiB
_MIX = 0x1E3779B97F4A7C15  # spreads pairs of slots over places


class Loop(NamedTuple):
    """State of the loop. `apart` holds, for each label, a square of its items: the pairs that never merge."""

    X_ND: Array
    weight_N: Array
    label_N: Ints
    meets_KK: NDArray[np.bool_]
    slots_N: Ints  # rows, by label; those of label k from start[k]
    start_K: Ints  # K + 1 of them
    place_N: Ints  # of a row among those of its label
    square_K: Ints  # where the square of a label starts in apart
    apart: NDArray[np.bool_]
    active_N: NDArray[np.bool_]
    slot_N: Ints  # the slot of each row
    next_N: Ints  # the next row of the cluster, -1 at its end
    last_N: Ints
    size_N: Ints
    centroid_ND: Array
    radius_N: Array
    low_ND: Array
    high_ND: Array
    margin_NK: Array  # least lead of a cluster's own label over label b, by one linear score for each label
    near_N: Ints  # the closest slot above this one that it may merge with, -1 for none
    near_distance_N: Array
    answer_N: Ints  # of the caller, for clusters the pending union was undecided about
    pair_S: Ints  # slot * N + slot of the two clusters that a direction told apart, -1 for none
    direction_SD: Array  # unit vectors
    guard: float  # more than rounding adds to a product with one of them


def start_loop(X_ND: Array, weight_N: Array, label_N: Ints, meets_KK: NDArray[np.bool_], margin_NK: Array) -> Loop:
    """The state in which each item is a cluster."""
    N, K = len(X_ND), len(meets_KK)
    slots_N = np.argsort(label_N, kind="stable")
    start_K = np.searchsorted(label_N[slots_N], np.arange(K + 1))
    place_N = np.empty(N, np.int64)
    place_N[slots_N] = np.arange(N) - start_K[label_N[slots_N]]
    square_K = np.r_[0, np.cumsum(np.diff(start_K) ** 2)]
    S = 1 << int(np.log2(max(1, min(4 * N, _PLACES // X_ND.shape[1]))))
    loop = Loop(
        X_ND, weight_N.copy(), label_N, meets_KK, slots_N, start_K, place_N, square_K,
        np.zeros(square_K[-1], np.bool_), np.ones(N, np.bool_), np.arange(N), np.full(N, -1), np.arange(N),
        np.ones(N, np.int64),
        X_ND.copy(), np.zeros(N), X_ND.copy(), X_ND.copy(), margin_NK.copy(), np.full(N, -1), np.full(N, np.inf),
        np.zeros(N, np.int64), np.full(S, -1), np.zeros((S, X_ND.shape[1])),
        ROUNDING * float(np.sqrt(np.einsum("nd,nd->n", X_ND, X_ND).max())),
    )  # fmt: skip
    _seek_all(loop)
    return loop


def keep_apart(loop: Loop, rows_n: Ints) -> None:
    """Let these rows stay clusters of their own: they merge with nothing, and others may not enclose them."""
    for i in rows_n:
        k = loop.label_N[i]
        n = loop.start_K[k + 1] - loop.start_K[k]
        square_nn = loop.apart[loop.square_K[k] : loop.square_K[k + 1]].reshape(n, n)
        square_nn[loop.place_N[i]] = square_nn[:, loop.place_N[i]] = True
    _seek_all(loop)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _squared(x_D: Array, y_D: Array) -> float:
    """Squared Euclidean distance of two vectors (D,)."""
    total = 0.0
    for d in range(x_D.shape[0]):
        step = x_D[d] - y_D[d]
        total += step * step
    return total


@njit(cache=True, nogil=True)
def _above(loop: Loop, i: int) -> tuple[Ints, NDArray[np.bool_]]:
    """The slots of its label above slot i, and whether they are apart from it."""
    k, place = loop.label_N[i], loop.place_N[i]
    n = loop.start_K[k + 1] - loop.start_K[k]
    row = loop.square_K[k] + place * n
    return loop.slots_N[loop.start_K[k] + place + 1 : loop.start_K[k + 1]], loop.apart[row + place + 1 : row + n]


@njit(cache=True, nogil=True)
def _first_within(
    slots_n: Ints, apart_n: NDArray[np.bool_], active_N: NDArray[np.bool_], centre_ND: Array, i: int, reach: float
) -> tuple[int, float]:
    """The first of these slots within reach of i, else the closest to it, -1 for none; its squared distance."""
    best, partner = np.inf, -1
    for p in range(slots_n.shape[0]):
        j = slots_n[p]
        if active_N[j] and not apart_n[p]:
            distance = _squared(centre_ND[i], centre_ND[j])
            if distance < best:
                best, partner = distance, j
                if distance <= reach:
                    break
    return partner, best


@njit(cache=True, nogil=True)
def _seek(loop: Loop, i: int) -> None:
    """Find the closest partner of slot i among the slots above it."""
    slots_n, apart_n = _above(loop, i)
    partner, best = _first_within(slots_n, apart_n, loop.active_N, loop.centroid_ND, i, -1.0)
    loop.near_N[i], loop.near_distance_N[i] = partner, best


@njit(cache=True, nogil=True)
def _seek_all(loop: Loop) -> None:
    """Find the closest partner of every slot."""
    for i in range(loop.X_ND.shape[0]):
        _seek(loop, i)


@njit(cache=True, nogil=True)
def _closest(loop: Loop) -> tuple[int, int]:
    """The pair to merge next, (-1, -1) for none: of those at the smallest distance up to rounding the lowest slots."""
    smallest = np.inf
    for distance in loop.near_distance_N:
        smallest = min(smallest, distance)
    if smallest == np.inf:
        return -1, -1
    i, reach = 0, smallest * (1.0 + _TIE)
    while loop.near_distance_N[i] > reach:
        i += 1
    slots_n, apart_n = _above(loop, i)
    j, _ = _first_within(slots_n, apart_n, loop.active_N, loop.centroid_ND, i, reach)
    return i, j


@njit(cache=True, nogil=True)
def _gather(loop: Loop, slot: int, out_ND: Array, n: int) -> int:
    """Append the rows of a cluster to `out_ND` after its first n; how many it then holds."""
    row = slot
    while row >= 0:
        out_ND[n] = loop.X_ND[row]
        n += 1
        row = loop.next_N[row]
    return n


@njit(cache=True, nogil=True)
def _boxes_meet(low_D: Array, high_D: Array, other_low_D: Array, other_high_D: Array) -> bool:
    """Whether two boxes have a common point."""
    d = 0
    while d < low_D.shape[0] and low_D[d] <= other_high_D[d] and other_low_D[d] <= high_D[d]:
        d += 1
    return bool(d == low_D.shape[0])


@njit(cache=True, nogil=True)
def _place(loop: Loop, i: int, c: int) -> tuple[int, int]:
    """Name of a pair of slots, and the place where a direction that tells them apart is kept."""
    pair = min(i, c) * loop.X_ND.shape[0] + max(i, c)
    return pair, ((pair * _MIX) >> 32) & (loop.pair_S.shape[0] - 1)


@njit(cache=True, nogil=True)
def _keep(loop: Loop, i: int, c: int, v_D: Array) -> None:
    """Keep a direction that tells slots i and c apart, in place of the last one there, unless its length underflows."""
    squared = dot(v_D, v_D)
    if squared > 0.0:
        pair, place = _place(loop, i, c)
        loop.pair_S[place] = pair
        loop.direction_SD[place] = v_D / np.sqrt(squared)


@njit(cache=True, nogil=True)
def _told_apart(loop: Loop, old: int, new: int, c: int) -> bool:
    """Whether the direction kept for slots old and c separates the union of old and new from c: a proof."""
    pair, place = _place(loop, old, c)
    if loop.pair_S[place] != pair:
        return False
    v_D = loop.direction_SD[place]
    low, high = np.inf, -np.inf
    row = c
    while row >= 0:
        product = dot(v_D, loop.X_ND[row])
        low, high = min(low, product), max(high, product)
        row = loop.next_N[row]
    above = below = True
    for slot in (new, old):
        row = slot
        while row >= 0 and (above or below):
            product = dot(v_D, loop.X_ND[row])
            above, below = above and product > high + loop.guard, below and product < low - loop.guard
            row = loop.next_N[row]
    return above or below


@njit(cache=True, nogil=True)
def _pair_verdict(
    loop: Loop, i: int, j: int, c: int, U_ND: Array, C_ND: Array, v_D: Array, scale: float, max_iterations: int
) -> int:
    """Verdict on the union of i and j against cluster c; `v_D` is the first direction to try without a kept one."""
    verdict = int(loop.answer_N[c])
    if verdict != UNDECIDED:
        return verdict
    if _told_apart(loop, i, j, c):
        return SEPARABLE
    if _told_apart(loop, j, i, c):
        v_D[:] = loop.direction_SD[_place(loop, j, c)[1]]
        verdict = SEPARABLE
    else:
        n = _gather(loop, c, C_ND, 0)
        verdict, _, _ = nearest_points(U_ND, C_ND[:n], v_D, scale, -1.0, max_iterations)
    if verdict == SEPARABLE:
        _keep(loop, i, c, v_D)
    return verdict


@njit(cache=True, nogil=True)
def _union_verdict(
    loop: Loop, i: int, j: int, U_ND: Array, C_ND: Array, scale: float, max_iterations: int
) -> tuple[int, int]:
    """Verdict on the union of i and j against all clusters, and the cluster it was not settled with or overlaps."""
    D = U_ND.shape[1]
    centre_D = (loop.weight_N[i] * loop.centroid_ND[i] + loop.weight_N[j] * loop.centroid_ND[j]) / (
        loop.weight_N[i] + loop.weight_N[j]
    )
    radius = 0.0
    low_D, high_D = np.minimum(loop.low_ND[i], loop.low_ND[j]), np.maximum(loop.high_ND[i], loop.high_ND[j])
    for r in range(U_ND.shape[0]):
        radius = max(radius, _squared(centre_D, U_ND[r]))
    radius = np.sqrt(radius)
    v_D = np.empty(D)
    for b in range(loop.meets_KK.shape[0]):
        if not loop.meets_KK[loop.label_N[i], b]:
            continue
        lead = min(loop.margin_NK[i, b], loop.margin_NK[j, b])
        for s in range(loop.start_K[b], loop.start_K[b + 1]):
            c = loop.slots_N[s]
            if not loop.active_N[c] or lead + loop.margin_NK[c, loop.label_N[i]] > 0.0:
                continue
            reach = radius + loop.radius_N[c]
            if _squared(centre_D, loop.centroid_ND[c]) > reach * reach * (1.0 + 1e-9):
                continue
            if not _boxes_meet(low_D, high_D, loop.low_ND[c], loop.high_ND[c]):
                continue
            v_D[:] = centre_D - loop.centroid_ND[c]
            verdict = _pair_verdict(loop, i, j, c, U_ND, C_ND, v_D, scale, max_iterations)
            if verdict != SEPARABLE:
                return verdict, c
    return SEPARABLE, -1


@njit(cache=True, nogil=True)
def _part(loop: Loop, i: int, j: int) -> None:
    """Never merge slots i < j."""
    k = loop.label_N[i]
    n = loop.start_K[k + 1] - loop.start_K[k]
    loop.apart[loop.square_K[k] + loop.place_N[i] * n + loop.place_N[j]] = True
    loop.apart[loop.square_K[k] + loop.place_N[j] * n + loop.place_N[i]] = True
    _seek(loop, i)


@njit(cache=True, nogil=True)
def _merge(loop: Loop, i: int, j: int, U_ND: Array) -> None:
    """Make one cluster, slot i, of slots i < j with rows U; what is apart from either is apart from both."""
    k = loop.label_N[i]
    n = loop.start_K[k + 1] - loop.start_K[k]
    square = loop.square_K[k]
    both = loop.weight_N[i] + loop.weight_N[j]
    loop.centroid_ND[i] = (loop.weight_N[i] * loop.centroid_ND[i] + loop.weight_N[j] * loop.centroid_ND[j]) / both
    loop.weight_N[i] = both
    loop.margin_NK[i] = np.minimum(loop.margin_NK[i], loop.margin_NK[j])
    loop.low_ND[i] = np.minimum(loop.low_ND[i], loop.low_ND[j])
    loop.high_ND[i] = np.maximum(loop.high_ND[i], loop.high_ND[j])
    radius = 0.0
    for r in range(U_ND.shape[0]):
        radius = max(radius, _squared(loop.centroid_ND[i], U_ND[r]))
    loop.radius_N[i] = np.sqrt(radius)
    loop.next_N[loop.last_N[i]], loop.last_N[i] = j, loop.last_N[j]
    row = j
    while row >= 0:
        loop.slot_N[row] = i
        row = loop.next_N[row]
    loop.size_N[i] += loop.size_N[j]
    loop.active_N[j], loop.near_N[j], loop.near_distance_N[j] = False, -1, np.inf
    for p in range(n):
        if loop.apart[square + loop.place_N[j] * n + p]:
            loop.apart[square + loop.place_N[i] * n + p] = True
            loop.apart[square + p * n + loop.place_N[i]] = True
    _seek(loop, i)
    for s in range(loop.start_K[k], loop.start_K[k] + loop.place_N[j]):
        r = loop.slots_N[s]
        if loop.active_N[r] and r != i:
            if loop.near_N[r] == i or loop.near_N[r] == j:
                _seek(loop, r)
            elif r < i and not loop.apart[square + loop.place_N[r] * n + loop.place_N[i]]:
                distance = _squared(loop.centroid_ND[r], loop.centroid_ND[i])
                if distance < loop.near_distance_N[r]:
                    loop.near_N[r], loop.near_distance_N[r] = i, distance


@njit(cache=True, nogil=True)
def advance(loop: Loop, scale: float, max_iterations: int) -> tuple[int, int, int]:
    """Run the loop to its end, (-1, -1, -1), or to a union of slots i, j that is undecided against cluster c."""
    N, D = loop.X_ND.shape
    U_ND, C_ND = np.empty((N, D)), np.empty((N, D))
    while True:
        i, j = _closest(loop)
        if i < 0:
            return -1, -1, -1
        n = _gather(loop, j, U_ND, _gather(loop, i, U_ND, 0))
        verdict, c = _union_verdict(loop, i, j, U_ND[:n], C_ND, scale, max_iterations)
        if verdict == UNDECIDED:
            return i, j, c
        loop.answer_N[:] = 0
        if verdict == OVERLAP:
            _part(loop, i, j)
        else:
            _merge(loop, i, j, U_ND[:n])
