"""Clusters of one label each whose convex hulls do not meet, in DirectProbe's greedy order (Zhou and Srikumar 2021).

Where all labels are separable from each other the labels are the clusters; only labels that meet another go through
the loop of merges (METHODS 7.1). There the items in conflict are labels of their own: no union contains one, so labels
whose other items are separable as wholes need no tests against each other.

Axes: N items, U distinct items, D dimensions, K labels, M clusters or labels of the loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ftprobe.solvers.clustering_loop import Loop, advance, keep_apart, start_loop
from ftprobe.solvers.grouped import from_centres, group_least, group_sums
from ftprobe.solvers.hulls import Rules, hull_verdict, hull_verdicts
from ftprobe.solvers.hulls_corral import OVERLAP, SEPARABLE, UNDECIDED

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_SHRINKAGE = 1e-2
_SINGLE_DIMS = 4096  # beyond, rounding in single precision comes near the shrinkage


class Items(NamedTuple):
    """Distinct pairs of vector and label.

    `row_U` is the first row of each, `weight_U` how many rows it has, `item_N` which one each row is; `vector_U` names
    its vector, and `conflict_U` says whether that occurs with several labels.
    """

    row_U: Ints
    weight_U: Ints
    item_N: Ints
    vector_U: Ints
    conflict_U: NDArray[np.bool_]


class Clustering(NamedTuple):
    """Cluster of each item (N,), numbered by lowest row; tests no solver settled; label pairs that meet (K, K)."""

    cluster_N: Ints
    n_undecided: int
    meets_KK: NDArray[np.bool_]


def distinct_items(X_ND: Array, y_N: Ints) -> Items:
    """Items with equal vector and label are one; a conflict is a vector that occurs with several labels."""
    vector_N = _equal_rows(X_ND)
    _, row_U, item_N, weight_U = np.unique(
        np.stack([vector_N, y_N]), axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    order_U = np.asarray(np.argsort(row_U))
    rank_U = np.empty_like(order_U)
    rank_U[order_U] = np.arange(len(order_U))
    row_U = row_U[order_U]
    vector_U = vector_N[row_U]
    conflict_U = np.bincount(vector_U, minlength=len(X_ND))[vector_U] > 1
    return Items(row_U, weight_U[order_U], rank_U[item_N.reshape(-1)], vector_U, conflict_U)


def _equal_rows(X_ND: Array) -> Ints:
    """Of each row the first row equal to it; rows are sought by a sum of their bits with random odd factors."""
    plain_ND = X_ND if X_ND.all() else X_ND + 0.0  # 0 and -0 are equal
    bits_ND = np.ascontiguousarray(plain_ND).view(np.uint64)
    factor_D = np.random.default_rng(0).integers(0, 2**63, X_ND.shape[1], dtype=np.uint64) * 2 + 1
    _, first_N, group_N = np.unique(np.einsum("nd,d->n", bits_ND, factor_D), return_index=True, return_inverse=True)
    same_N = np.asarray(first_N[group_N], dtype=np.int64)
    copy_n = np.flatnonzero(same_N != np.arange(len(same_N)))
    if (X_ND[same_N[copy_n]] != X_ND[copy_n]).any():  # two vectors with one sum
        same_N = _equal_rows_by_sorting(X_ND)
    return same_N


def _equal_rows_by_sorting(X_ND: Array) -> Ints:
    _, first_N, group_N = np.unique(X_ND, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first_N[group_N.reshape(-1)], dtype=np.int64)


def cluster_items(X_ND: Array, y_N: Ints, items: Items, rules: Rules, *, shortcut: bool = True) -> Clustering:
    """The greedy clusters of centred items.

    Parameters
    ----------
    X_ND : float64 array of shape (N, D)
    y_N : int array of shape (N,)
        Labels 0..K-1, each with one item at least.
    items : Items
        Of X and y; those in conflict stay clusters of their own.
    rules : Rules
    shortcut : bool
        Whether labels that meet no other are clusters at once; without it every label goes through the loop.

    Returns
    -------
    Clustering
    """
    distinct = len(items.row_U) == len(X_ND)
    X_UD, y_U = (X_ND, y_N) if distinct else (X_ND[items.row_U], y_N[items.row_U])
    margin_UK = label_margins(X_UD, y_U)
    meets_KK, n_undecided = label_verdicts(X_UD, y_U, margin_UK, items, rules)
    if not shortcut:
        meets_KK = np.ones_like(meets_KK)
        np.fill_diagonal(meets_KK, False)
    first_K = np.full(len(meets_KK), len(y_U))
    np.minimum.at(first_K, y_U, np.arange(len(y_U)))
    lowest_U = np.asarray(first_K[y_U])
    loop_u = np.flatnonzero(np.asarray(meets_KK.any(axis=1))[y_U])
    if len(loop_u):
        weight_u, conflict_u = items.weight_U[loop_u].astype(np.float64), items.conflict_U[loop_u]
        loop = _start(X_UD[loop_u], weight_u, y_U[loop_u], conflict_u, margin_UK[loop_u], meets_KK, rules)
        n_undecided += _run(loop, rules)
        lowest_U[loop_u] = loop_u[loop.slot_N]
    _, cluster_U = np.unique(lowest_U, return_inverse=True)
    return Clustering(cluster_U.reshape(-1)[items.item_N], n_undecided, meets_KK)


def label_verdicts(
    X_UD: Array, y_U: Ints, margin_UK: Array, items: Items, rules: Rules
) -> tuple[NDArray[np.bool_], int]:
    """Which labels meet which (K, K), and how many pairs no solver settled: these count as meeting."""
    K = int(y_U.max()) + 1
    meets_KK = np.zeros((K, K), dtype=bool)
    conflict_u = np.flatnonzero(items.conflict_U)
    for vector in np.unique(items.vector_U[conflict_u]):
        labels = y_U[conflict_u[items.vector_U[conflict_u] == vector]]
        meets_KK[np.ix_(labels, labels)] = True
    np.fill_diagonal(meets_KK, False)
    verdict_KK = _verdicts(X_UD, y_U, margin_UK, ~meets_KK, rules)
    return meets_KK | (verdict_KK != SEPARABLE), int((verdict_KK == UNDECIDED).sum()) // 2


def _verdicts(X_ND: Array, y_N: Ints, margin_NK: Array, open_KK: NDArray[np.bool_], rules: Rules) -> Ints:
    """Verdicts on the pairs of labels that are open (K, K); on others and on labels without items it is separable."""
    K = len(open_KK)
    verdict_KK = np.full((K, K), SEPARABLE)
    has_K = np.bincount(y_N, minlength=K) > 0
    lead_KK = group_least(margin_NK, y_N, K)
    unsettled_KK = (lead_KK + lead_KK.T <= 0) | (rules.solver == "lp")
    pairs = np.argwhere(np.triu(open_KK & unsettled_KK & has_K[:, None] & has_K, 1))
    if len(pairs):
        labels, place_P2 = np.unique(pairs, return_inverse=True)
        sides = [X_ND[y_N == k] for k in labels]
        a_P, b_P = pairs.T
        verdict_KK[a_P, b_P] = verdict_KK[b_P, a_P] = hull_verdicts(sides, place_P2.reshape(-1, 2), rules)
    return verdict_KK


def label_margins(X_ND: Array, y_N: Ints) -> Array:
    """By how much the score of an item's own label exceeds that of label b (N, K), less what rounding may add.

    Scores are those of a linear discriminant with a shrunk covariance (Fisher 1936): where the least lead of a cluster
    of label a over b and that of one of b over a sum to more than 0, their hulls are apart.
    """
    mean_KD = group_sums(X_ND, y_N) / np.maximum(np.bincount(y_N), 1)[:, None]
    # A direction needs no more than single precision: its products, in double precision, are the proof.
    size = np.sqrt(np.vdot(X_ND, X_ND) / X_ND.size) or 1.0
    kind = np.float32 if X_ND.shape[1] <= _SINGLE_DIMS else np.float64
    inner_ND = np.empty(X_ND.shape, kind)
    from_centres(X_ND, y_N, mean_KD, 1 / size, inner_ND)
    spread_DD = inner_ND.T @ inner_ND / len(X_ND)
    spread_DD[np.diag_indices_from(spread_DD)] += _SHRINKAGE * np.trace(spread_DD) / len(spread_DD) + 1e-30
    right_DK = (mean_KD / size).T.astype(kind)
    direction_DK = cho_solve(cho_factor(spread_DD, check_finite=False), right_DK, check_finite=False)
    score_NK = X_ND @ direction_DK.astype(np.float64)
    margin_NK = score_NK[np.arange(len(y_N)), y_N][:, None] - score_NK
    return np.asarray(margin_NK - 1e-12 * np.abs(score_NK).max())


def _start(
    X_ND: Array,
    weight_N: Array,
    y_N: Ints,
    conflict_N: NDArray[np.bool_],
    margin_NK: Array,
    meets_KK: NDArray[np.bool_],
    rules: Rules,
) -> Loop:
    """The loop over items of labels that meet, those in conflict as labels of their own."""
    K = len(meets_KK)
    kind_M, label_N = np.unique(y_N + K * conflict_N, return_inverse=True)
    of_M, plain_M = kind_M % K, kind_M < K
    meets_MM = meets_KK[np.ix_(of_M, of_M)]
    if conflict_N.any():
        touched_K = np.bincount(y_N[conflict_N], minlength=K) > 0
        open_KK = meets_KK & (touched_K[:, None] | touched_K)
        rest = X_ND[~conflict_N], y_N[~conflict_N], margin_NK[~conflict_N]
        apart_KK = open_KK & (_verdicts(*rest, open_KK, rules) == SEPARABLE)
        meets_MM &= ~(apart_KK[np.ix_(of_M, of_M)] & plain_M[:, None] & plain_M)
    loop = start_loop(X_ND, weight_N, label_N.reshape(-1), meets_MM, margin_NK[:, of_M])
    keep_apart(loop, np.flatnonzero(conflict_N))
    return loop


def _run(loop: Loop, rules: Rules) -> int:
    """Run the loop to its end, settling what its kernel cannot; the number of tests that stay undecided."""
    n_undecided = 0
    use_kernel = rules.solver != "lp"
    while True:
        i, j, c = advance(loop, rules.scale, rules.max_iterations if use_kernel else 0)
        if i < 0:
            return n_undecided
        union_ND = loop.X_ND[np.r_[members(loop, i), members(loop, j)]]
        verdict = hull_verdict(union_ND, loop.X_ND[members(loop, c)], rules)
        n_undecided += verdict == UNDECIDED
        loop.answer_N[c] = verdict or OVERLAP


def members(loop: Loop, slot: int) -> Ints:
    """The rows of an active cluster."""
    rows = [slot]
    while loop.next_N[rows[-1]] >= 0:
        rows.append(int(loop.next_N[rows[-1]]))
    return np.array(rows)
