"""The greedy clusters against the definition executed step by step with a linear program."""

from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.solvers import clustering_loop
from ftprobe.solvers.clustering import cluster_items, distinct_items
from ftprobe.solvers.hulls import Rules, lp_verdict
from ftprobe.solvers.hulls_corral import SEPARABLE


def by_definition(X_ND, y_N):
    """METHODS 7.1, steps 1 to 4, as they stand: every union against every active cluster of another label, by LP."""
    rows, first = {}, {}
    for n, (x_D, k) in enumerate(zip(X_ND.tolist(), y_N.tolist(), strict=True)):
        lowest = first.setdefault((tuple(x_D), k), n)
        rows.setdefault(lowest, []).append(n)
    labels_of = {}
    for vector, k in first:
        labels_of.setdefault(vector, set()).add(k)
    alone = {n for (vector, _), n in first.items() if len(labels_of[vector]) > 1}
    apart = {frozenset(pair) for pair in combinations(rows, 2) if set(pair) & alone}
    while True:
        pairs = [p for p in combinations(sorted(rows), 2) if y_N[p[0]] == y_N[p[1]] and frozenset(p) not in apart]
        if not pairs:
            return np.array([next(c for c, members in rows.items() if n in members) for n in range(len(X_ND))])
        centre = {c: X_ND[members].mean(0) for c, members in rows.items()}
        i, j = min(pairs, key=lambda p: (np.linalg.norm(centre[p[0]] - centre[p[1]]), p))
        union_nD = X_ND[rows[i] + rows[j]]
        others = [c for c in rows if y_N[c] != y_N[i]]
        if all(lp_verdict(union_nD, X_ND[rows[c]]) == SEPARABLE for c in others):
            rows[i] += rows.pop(j)
            apart |= {frozenset({i, c}) for c in rows if frozenset({j, c}) in apart}
        else:
            apart.add(frozenset({i, j}))


def clusters(X_ND, y_N, solver="auto", **options):
    X_ND = X_ND - X_ND.mean(0)
    items = distinct_items(X_ND, y_N)
    found = cluster_items(X_ND, y_N, items, Rules(float((X_ND**2).sum(1).mean()) or 1.0, solver), **options)
    return found.cluster_N


def by_first_row(cluster_N):
    _, first, inverse = np.unique(cluster_N, return_index=True, return_inverse=True)
    return first[inverse].tolist()


def cloud(seed, n, D, K, apart):
    rng = np.random.default_rng(seed)
    y_N = np.r_[np.arange(K), rng.integers(0, K, n - K)]
    return apart * rng.normal(size=(K, D))[y_N] + rng.normal(size=(n, D)), y_N


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(4, 22), D=st.integers(1, 4), K=st.integers(2, 4), apart=st.floats(0, 2)
)
def test_the_partition_is_that_of_the_definition(seed, n, D, K, apart):
    X_ND, y_N = cloud(seed, n, D, K, apart)
    assert by_first_row(clusters(X_ND, y_N)) == by_definition(X_ND, y_N).tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 16), D=st.integers(1, 3))
def test_grids_with_ties_copies_and_conflicts_are_those_of_the_definition(seed, n, D):
    """Whole numbers far apart: distances that tie do so exactly, after centring only up to rounding."""
    rng = np.random.default_rng(seed)
    X_ND, y_N = rng.integers(0, 3, (n, D)).astype(float), np.r_[0, 1, rng.integers(0, 2, n - 2)]
    X_ND = np.where(rng.random((n, 1)) < 0.3, X_ND, X_ND + np.round(rng.random((n, D)), 2))
    assert by_first_row(clusters(X_ND, y_N)) == by_definition(X_ND, y_N).tolist()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(6, 18), D=st.integers(1, 3), K=st.integers(2, 4), apart=st.floats(0, 8)
)
def test_labels_that_share_vectors_are_those_of_the_definition(seed, n, D, K, apart):
    """Labels that would be apart but for a few copies of items of others, and some that meet anyway."""
    X_ND, y_N = cloud(seed, n, D, K, apart)
    rng = np.random.default_rng(seed)
    copy_n, of_n = rng.integers(0, n, (2, 3))
    X_ND[copy_n] = X_ND[of_n]
    assert by_first_row(clusters(X_ND, y_N)) == by_definition(X_ND, y_N).tolist()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(60, 200),
    D=st.integers(2, 12),
    K=st.integers(2, 6),
    apart=st.floats(0, 1),
    steps=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_directions_that_are_forgotten_change_nothing(seed, n, D, K, apart, steps):
    """With a single place for directions nearly every union is tested afresh; steps put items on a grid."""
    X_ND, y_N = cloud(seed, n, D, K, apart)
    X_ND = np.round(X_ND / steps) * steps if steps else X_ND
    kept = clusters(X_ND, y_N)
    with patch.object(clustering_loop, "_PLACES", 0):
        assert clusters(X_ND, y_N).tolist() == kept.tolist()


@pytest.mark.parametrize("solver", ["minnorm", "lp"])
@pytest.mark.parametrize("D", [3, 70])
def test_solvers_agree(solver, D):
    X_ND, y_N = cloud(1, 60, D, 3, 0.2)
    assert clusters(X_ND, y_N, solver).tolist() == clusters(X_ND, y_N).tolist()


@pytest.mark.parametrize("D", [2, 6, 66])
def test_the_shortcut_changes_nothing(D):
    X_ND, y_N = cloud(D, 90, D, 4, 1.0)
    assert clusters(X_ND, y_N, shortcut=False).tolist() == clusters(X_ND, y_N).tolist()


@pytest.mark.parametrize("change", ["order", "shift", "turn", "scale"])
def test_invariance(change):
    X_ND, y_N = cloud(7, 120, 3, 3, 0.8)
    rng = np.random.default_rng(0)
    order_N = rng.permutation(len(X_ND)) if change == "order" else np.arange(len(X_ND))
    moved_ND = X_ND[order_N]
    if change == "shift":
        moved_ND = X_ND + 1e3 * rng.normal(size=3)
    elif change == "turn":
        moved_ND = X_ND @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    elif change == "scale":
        moved_ND = X_ND * 1e-4
    expected = clusters(X_ND, y_N)
    assert len(set(expected)) > 3
    assert by_first_row(clusters(moved_ND, y_N[order_N])) == by_first_row(expected[order_N])


def test_an_outer_ring_is_more_than_one_cluster():
    angle_N = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    X_ND, y_N = np.vstack([ring_ND, 3 * ring_ND]), np.repeat([0, 1], 40)
    assert len(set(clusters(X_ND, y_N)[40:])) > 1


def test_a_label_of_one_item_is_a_cluster():
    X_ND = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [1.0, 1.0]])
    assert clusters(X_ND, np.array([0, 0, 0, 0, 1])).tolist() == [0, 0, 1, 1, 2]
