"""The geometry of METHODS 7 executed as it is written, with linear programs and non-negative least squares: slow.

Axes: N items, D dimensions.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.optimize import linprog, nnls


def overlap(a_ND, b_ND) -> bool:
    """Whether no w, b has w.x + b >= 1 on A and <= -1 on B."""
    signed_ND = np.concatenate([-a_ND, b_ND])
    signs_N = np.repeat([-1.0, 1.0], [len(a_ND), len(b_ND)])
    found = linprog(
        np.zeros(a_ND.shape[1] + 1),
        A_ub=np.column_stack([signed_ND, signs_N]),
        b_ub=-np.ones(len(signed_ND)),
        bounds=(None, None),
    )
    assert found.status in (0, 2), found.message
    return found.status == 2


def distance(a_ND, b_ND) -> float:
    """Between two hulls: the convex weights as non-negative least squares, their sums held at 1 by a large weight."""
    heavy = 1e4 * max(1.0, np.abs(a_ND).max(), np.abs(b_ND).max())
    sums_2N = np.repeat(np.eye(2), [len(a_ND), len(b_ND)], axis=1)
    weights_N, _ = nnls(
        np.concatenate([np.concatenate([a_ND, -b_ND]).T, heavy * sums_2N]),
        np.append(np.zeros(a_ND.shape[1]), [heavy, heavy]),
        maxiter=10_000,
    )
    p_N, q_N = weights_N[: len(a_ND)], weights_N[len(a_ND) :]
    return float(np.linalg.norm(p_N @ a_ND / p_N.sum() - q_N @ b_ND / q_N.sum()))


def clusters(x_ND, y_N) -> list[set[int]]:
    """METHODS 7.1, steps 1 to 4: the rows of each cluster."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    same: dict[tuple[object, ...], set[int]] = {}
    for i, (x_D, y) in enumerate(zip(x_ND, y_N, strict=True)):
        same.setdefault((y, *x_D), set()).add(i)
    active = list(same.values())
    label = {frozenset(each): y_N[min(each)] for each in active}
    discarded: set[frozenset[frozenset[int]]] = set()
    while True:
        pairs = []
        for one, other in combinations(map(frozenset, active), 2):
            if label[one] == label[other] and frozenset((one, other)) not in discarded:
                apart = np.linalg.norm(x_ND[list(one)].mean(0) - x_ND[list(other)].mean(0))
                pairs.append((apart, *sorted((min(one), min(other))), one, other))
        if not pairs:
            return active
        *_, one, other = min(pairs, key=lambda pair: pair[:3])
        union = one | other
        others = [each for each in map(frozenset, active) if label[each] != label[one]]
        if any(overlap(x_ND[list(union)], x_ND[list(each)]) for each in others):
            discarded.add(frozenset((one, other)))
        else:
            active = [each for each in active if each not in (one, other)] + [set(union)]
            label[union] = label[one]


def distances(x_ND, y_N) -> dict[tuple[int, int], float]:
    """Between the hulls of all labels; 0 where they overlap."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    found = {}
    for a, b in combinations(np.unique(y_N).tolist(), 2):
        one, other = x_ND[y_N == a], x_ND[y_N == b]
        found[a, b] = 0.0 if overlap(one, other) else distance(one, other)
    return found
