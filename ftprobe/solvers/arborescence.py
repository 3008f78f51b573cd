"""Maximum spanning arborescence with exactly one child of the root (Chu and Liu 1965, Edmonds 1967).

Axes: T words, H = T + 1 heads: 0 is the root, h is word h - 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Heads = NDArray[np.int64]


def arborescence(score_TH: NDArray[np.floating]) -> Heads:
    """The tree of the largest sum of scores in which exactly one word hangs from the root.

    Parameters
    ----------
    score_TH : float array of shape (T, T + 1)
        Finite scores of head h for word t; those of a word for itself are not read.

    Returns
    -------
    int array of shape (T,)
        0-based position of each word's head, -1 for the root child.
    """
    n_words = len(score_TH)
    score_HH = np.full((n_words + 1, n_words + 1), -np.inf)
    score_HH[1:] = score_TH
    np.fill_diagonal(score_HH, -np.inf)
    head_H = _best(score_HH)
    if np.count_nonzero(head_H[1:] == 0) > 1:
        # No gain elsewhere outweighs a second arc from the root, so that the best tree has the fewest there can be.
        score_HH[1:, 0] -= 1.0 + n_words * (score_TH.max() - score_TH.min())
        head_H = _best(score_HH)
    return np.asarray(head_H[1:] - 1)


def _best(score_HH: Scores) -> Heads:
    """Heads of the best arborescence; node 0 is the root, its own head is 0."""
    head_H: Heads = score_HH.argmax(1)
    head_H[0] = 0
    cycle = _cycle(head_H)
    if cycle is None:
        return head_H
    outside = np.setdiff1d(np.arange(len(head_H)), cycle)
    # Who enters the cycle at i breaks the arc of i; the cycle becomes the last node of a smaller graph.
    entering = score_HH[np.ix_(cycle, outside)] - score_HH[cycle, head_H[cycle]][:, None]
    leaving = score_HH[np.ix_(outside, cycle)]
    smaller = np.full((len(outside) + 1,) * 2, -np.inf)
    smaller[:-1, :-1] = score_HH[np.ix_(outside, outside)]
    smaller[-1, :-1], smaller[:-1, -1] = entering.max(0), leaving.max(1)
    found = _best(smaller)
    hung = np.where(found[:-1] == len(outside), cycle[leaving.argmax(1)], np.append(outside, 0)[found[:-1]])
    head_H[outside] = hung
    into = found[-1]
    head_H[cycle[entering[:, into].argmax()]] = outside[into]
    return head_H


def _cycle(head_H: Heads) -> NDArray[np.int64] | None:
    """The nodes of a cycle, sorted; None if every node leads to the root."""
    state = np.zeros(len(head_H), dtype=np.int64)  # the walk that saw a node first
    state[0] = -1
    for start in range(1, len(head_H)):
        node = start
        while state[node] == 0:
            state[node] = start
            node = head_H[node]
        if state[node] == start:
            cycle = [node]
            while head_H[cycle[-1]] != node:
                cycle.append(head_H[cycle[-1]])
            return np.asarray(np.sort(cycle))
    return None
