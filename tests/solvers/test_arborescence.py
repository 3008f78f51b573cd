"""Trees against a search through all trees of up to five words, and properties of larger ones."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from ftprobe.solvers.arborescence import arborescence

INF = float("inf")


def is_tree(heads: tuple[int, ...]) -> bool:
    """Whether heads (0-based, -1 = root) lead every word to the root, and exactly one of them straight."""
    for start in range(len(heads)):
        node, steps = start, 0
        while node >= 0 and steps <= len(heads):
            node, steps = heads[node], steps + 1
        if node >= 0:
            return False
    return heads.count(-1) == 1


@cache
def trees(words: int) -> NDArray[np.int64]:
    """Every tree of `words` words, a row each."""
    return np.array([heads for heads in itertools.product(range(-1, words), repeat=words) if is_tree(heads)])


def total(score_TH: NDArray[np.floating], head_T: NDArray[np.int64]) -> float:
    return float(score_TH[np.arange(len(score_TH)), head_T + 1].sum())


def best(score_TH: NDArray[np.floating]) -> float:
    return max(total(score_TH, heads) for heads in trees(len(score_TH)))


def scores(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float64]]:
    return st.integers(1, 5).flatmap(lambda words: arrays(np.float64, (words, words + 1), elements=values))


def test_the_number_of_trees_is_that_of_cayley() -> None:
    # rooted labelled trees of n words: n ** (n - 1)
    assert [len(trees(words)) for words in range(1, 6)] == [1, 2, 9, 64, 625]


@settings(max_examples=150, deadline=None)
@given(scores(st.integers(-2, 2).map(float)))
def test_whole_scores_with_ties_give_a_best_tree_exactly(score_TH: NDArray[np.float64]) -> None:
    head_T = arborescence(score_TH)
    assert is_tree(tuple(head_T.tolist()))
    assert total(score_TH, head_T) == best(score_TH)


@settings(max_examples=150, deadline=None)
@given(scores(st.one_of(st.floats(-1e3, 1e3), st.just(-INF))))
@example(np.array([[0.0, -INF]]))
@example(np.array([[-INF, 0.0]]))
def test_real_scores_and_forbidden_arcs_give_a_best_tree_or_say_that_there_is_none(
    score_TH: NDArray[np.float64],
) -> None:
    wanted = best(score_TH)
    if wanted == -INF:
        with pytest.raises(ValueError, match="no tree with one root child"):
            arborescence(score_TH)
        return
    head_T = arborescence(score_TH)
    assert is_tree(tuple(head_T.tolist()))
    assert total(score_TH, head_T) == pytest.approx(wanted, rel=1e-12, abs=1e-9)


def test_one_root_child_though_many_would_score_more() -> None:
    score_TH = np.array([[9.0, 0.0, 1.0], [9.5, 2.0, 0.0]])
    assert arborescence(score_TH).tolist() == [-1, 0]  # 9 + 2 > 9.5 + 1; both from the root would be 18.5


def test_root_scores_of_any_size_cost_no_precision() -> None:
    rng = np.random.default_rng(0)
    score_TH = rng.integers(0, 1000, (5, 6)).astype(np.float64)
    far_TH = score_TH.copy()
    far_TH[:, 0] += 2.0**60  # the same for every root child: the choice of the rest stays
    picked = arborescence(far_TH)
    rest_TH = score_TH.copy()
    rest_TH[:, 0] = 0.0
    root = int(np.flatnonzero(picked < 0)[0])
    rest_TH[:, 0] = np.where(np.arange(5) == root, 0.0, -INF)
    assert total(rest_TH, picked) == best(rest_TH)


@pytest.mark.parametrize("words", [20, 60])
def test_symmetric_scores_give_the_spanning_tree_of_scipy(words: int) -> None:
    rng = np.random.default_rng(words)
    weight_TT = rng.uniform(1, 2, (words, words))
    weight_TT = np.triu(weight_TT, 1) + np.triu(weight_TT, 1).T
    score_TH = np.concatenate([np.zeros((words, 1)), -weight_TT], axis=1)
    head_T = arborescence(score_TH)
    assert is_tree(tuple(head_T.tolist()))
    assert -total(score_TH, head_T) == pytest.approx(float(minimum_spanning_tree(weight_TT).sum()))


def test_cycles_in_cycles_are_taken_apart() -> None:
    # each word's best head is the next one, then the one before: contraction nests to the last word
    words = 40
    distance_TH = np.abs(np.arange(1, words + 1)[:, None] - np.arange(words + 1)[None, :]).astype(np.float64)
    head_T = arborescence(-distance_TH)
    assert is_tree(tuple(head_T.tolist()))
    assert total(-distance_TH, head_T) == -words  # a chain from the first word


@pytest.mark.parametrize("bad", [np.zeros((0, 1)), np.zeros((2, 2)), np.full((1, 2), np.nan), np.full((1, 2), np.inf)])
def test_scores_that_are_none_are_refused(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="scores"):
        arborescence(bad)
