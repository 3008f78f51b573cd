"""Maximum spanning arborescences with one root child: the trees of a dependency parser (METHODS 1.1).

Chu and Liu 1965, Edmonds 1967, on dense scores: O(T^2) and one pass of O(T n) for each contracted cycle of n nodes.
That exactly one word hangs from the root costs nothing more: arcs are compared by (penalty, score) in this order,
with a penalty of 1 for an arc from the root and more than all of these for a forbidden one. Sums of such pairs order
trees as asked, so that the algorithm is exact where subtracting a large constant from root scores would round.

Axes: T words, H = T + 1 heads (0 is the root, h is word h - 1), V = H nodes of the graph.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NEVER = -(1 << 40)  # the penalty of an arc that does not exist


class _Graph(NamedTuple):
    """Penalties and scores of arcs [dependant, head], rewritten as cycles are contracted; each node's best head."""

    penalty_VV: NDArray[np.int64]
    score_VV: NDArray[np.float64]
    best_V: NDArray[np.int64]


class _Cycle(NamedTuple):
    """A contracted cycle: its nodes and their heads in it, and which of them arcs to and from it really touch.

    `entered_V[v]` is the node that an arc from v into the cycle ends in, `left_V[v]` the one that an arc to v leaves.
    """

    node: int
    nodes_n: NDArray[np.int64]
    heads_n: NDArray[np.int64]
    entered_V: NDArray[np.int64]
    left_V: NDArray[np.int64]


def arborescence(score_TH: NDArray[np.floating]) -> NDArray[np.int64]:
    """The heads of the tree with the greatest sum of scores among those with exactly one child of the root.

    Parameters
    ----------
    score_TH : float array of shape (T, T + 1)
        Score of head h for word t; column 0 is the root, column h > 0 word h - 1. Those of a word for itself are not
        read. -inf forbids an arc.

    Returns
    -------
    int array of shape (T,)
        0-based position of each word's head, -1 for the root child; of equally good trees, the same one every time.

    Raises
    ------
    ValueError
        Another shape, a score that is nan or +inf, or no such tree without a forbidden arc.

    Examples
    --------
    >>> arborescence(np.array([[1.0, 0.0, 5.0], [3.0, 6.0, 0.0]])).tolist()
    [1, -1]
    """
    words = len(score_TH)
    if not words or score_TH.shape != (words, words + 1):
        raise ValueError(f"scores of shape {score_TH.shape}; expected (T, T + 1) with T > 0")
    graph = _graph(np.asarray(score_TH, dtype=np.float64))
    cycles = _contract(graph)
    for cycle in reversed(cycles):
        _expand(cycle, graph.best_V)
    head_T = graph.best_V[1:]
    if (head_T == 0).sum() != 1 or np.isneginf(score_TH[np.arange(words), head_T]).any():
        raise ValueError("no tree with one root child avoids the forbidden arcs")
    return head_T - 1


def _graph(score_TH: NDArray[np.float64]) -> _Graph:
    nodes = score_TH.shape[1]
    penalty_VV = np.full((nodes, nodes), _NEVER, dtype=np.int64)
    score_VV = np.zeros((nodes, nodes))
    score_VV[1:] = score_TH
    np.fill_diagonal(score_VV, 0.0)
    if np.isnan(score_VV).any() or np.isposinf(score_VV).any():
        raise ValueError("scores are finite or -inf")
    forbidden_VV = np.isneginf(score_VV)
    score_VV[forbidden_VV] = 0.0
    penalty_VV[1:] = np.where(forbidden_VV[1:], -(nodes + 1), 0)
    penalty_VV[1:, 0] -= 1
    np.fill_diagonal(penalty_VV, _NEVER)
    best_V = np.zeros(nodes, dtype=np.int64)
    for node in range(1, nodes):
        best_V[node] = _best(penalty_VV[node], score_VV[node])
    return _Graph(penalty_VV, score_VV, best_V)


def _best(penalty_n: NDArray[np.int64], score_n: NDArray[np.float64]) -> int:
    """The place of the greatest pair (penalty, score); the first of equal ones."""
    return int(np.where(penalty_n == penalty_n.max(), score_n, -np.inf).argmax())


def _contract(graph: _Graph) -> list[_Cycle]:
    """Follow best heads from every node and contract each cycle that closes, until all lead to the root."""
    cycles: list[_Cycle] = []
    done = {0}
    gone: set[int] = set()
    for start in range(1, len(graph.best_V)):
        path: list[int] = []
        node = start
        while node not in done and node not in gone:
            if node in path:
                first = path.index(node)
                cycles.append(_contracted(graph, np.array(path[first:])))
                gone.update(path[first + 1 :])
                node = path[first]
                del path[first:]
            path.append(node)
            node = int(graph.best_V[node])
        done.update(path)
    return cycles


def _contracted(graph: _Graph, nodes_n: NDArray[np.int64]) -> _Cycle:
    """Make one node, the first of the cycle, of all of them; its arcs are the best into and out of the cycle."""
    penalty_VV, score_VV, best_V = graph
    heads_n = best_V[nodes_n]
    node, others = int(nodes_n[0]), nodes_n[1:]
    # into the cycle: what the arc gains over the arc of the cycle that it replaces
    into_penalty_nV = penalty_VV[nodes_n] - penalty_VV[nodes_n, heads_n][:, None]
    into_score_nV = score_VV[nodes_n] - score_VV[nodes_n, heads_n][:, None]
    entered_V = _best_of_columns(into_penalty_nV, into_score_nV)
    left_V = _best_of_columns(penalty_VV[:, nodes_n].T, score_VV[:, nodes_n].T)
    every_V = np.arange(len(best_V))
    penalty_VV[:, node] = penalty_VV[every_V, nodes_n[left_V]]
    score_VV[:, node] = score_VV[every_V, nodes_n[left_V]]
    penalty_VV[node] = into_penalty_nV[entered_V, every_V]
    score_VV[node] = into_score_nV[entered_V, every_V]
    penalty_VV[node, nodes_n] = _NEVER
    penalty_VV[:, others] = _NEVER
    best_V[np.isin(best_V, others)] = node
    best_V[node] = _best(penalty_VV[node], score_VV[node])
    return _Cycle(node, nodes_n, heads_n, nodes_n[entered_V], nodes_n[left_V])


def _best_of_columns(penalty_nV: NDArray[np.int64], score_nV: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.where(penalty_nV == penalty_nV.max(axis=0), score_nV, -np.inf).argmax(axis=0))


def _expand(cycle: _Cycle, best_V: NDArray[np.int64]) -> None:
    """Put the nodes of a cycle back: the arc into it replaces one of its own, arcs out of it leave their real node."""
    outer = int(best_V[cycle.node])
    from_cycle_V = best_V == cycle.node
    best_V[from_cycle_V] = cycle.left_V[from_cycle_V]
    best_V[cycle.nodes_n] = cycle.heads_n
    best_V[cycle.entered_V[outer]] = outer
