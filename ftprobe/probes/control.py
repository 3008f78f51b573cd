"""Labels of a control task: each word type has one, drawn by a hash of (seed, type) alone (METHODS 5).

Every token of a type carries its label in train, dev and test, whatever the corpus's order, its other words and the
process. The type of a word pair is both forms joined by a tab.

Axes: N items, V word types, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.hashing import derive_seed

Draw = Literal["empirical", "uniform"]
Case = Literal["sensitive", "lower"]


class WordTypes(NamedTuple):
    """Distinct types in sorted order, and the place among them of each item's type (N,)."""

    types: tuple[str, ...]
    of_N: NDArray[np.int64]


def control_labels(
    type_N: Iterable[str],
    y_N: NDArray[np.integer],
    train_N: NDArray[np.bool_],
    *,
    seed: int,
    draw: Draw = "empirical",
    case: Case = "sensitive",
) -> NDArray[np.int32]:
    """Control label of every item (Hewitt and Liang 2019; Durrani et al. 2021, A.6).

    Parameters
    ----------
    type_N : iterable of N str
        Word type of each item, of all splits.
    y_N : int array of shape (N,)
        Label ids of the task: ranks of the label strings in sorted order.
    train_N : bool array of shape (N,)
        Training items. Their labels make the distribution drawn from; nothing else of the corpus enters.
    seed : int
    draw : {"empirical", "uniform"}
        From the labels' shares of the training items, or evenly among the labels that occur there.
    case : {"sensitive", "lower"}
        Whether types that differ by case alone are one.

    Returns
    -------
    int32 array of shape (N,)
        Label ids among those of `y_N`.

    Raises
    ------
    ValueError
        No training item.
    """
    types = word_types(type_N, case=case)
    label_V = drawn_labels(types.types, draw_distribution(y_N[train_N], draw), seed=seed)
    return np.asarray(label_V[types.of_N])


def word_types(type_N: Iterable[str], *, case: Case = "sensitive") -> WordTypes:
    """The distinct types of N items.

    >>> word_types(["The", "cat", "the"], case="lower")
    WordTypes(types=('cat', 'the'), of_N=array([1, 0, 1]))
    """
    names = [str(name).lower() if case == "lower" else str(name) for name in type_N]
    types = sorted(set(names))
    place = {name: v for v, name in enumerate(types)}
    return WordTypes(tuple(types), np.fromiter((place[name] for name in names), np.int64, len(names)))


def draw_distribution(y_train_N: NDArray[np.integer], draw: Draw = "empirical") -> NDArray[np.float64]:
    """Probability of each label id, from the labels of the training items.

    Returns
    -------
    float64 array of shape (K,)
        Up to the largest label that occurs; 0 for labels that do not.

    Raises
    ------
    ValueError
        No training item.

    Examples
    --------
    >>> draw_distribution(np.array([0, 3, 3, 3])), draw_distribution(np.array([0, 3, 3, 3]), "uniform")
    (array([0.25, 0.  , 0.  , 0.75]), array([0.5, 0. , 0. , 0.5]))
    """
    if not len(y_train_N):
        raise ValueError("control labels are drawn from the labels of training items, and there is none")
    n_K = np.bincount(y_train_N)
    weight_K = (n_K > 0).astype(np.int64) if draw == "uniform" else n_K
    return np.asarray(weight_K / weight_K.sum())


def drawn_labels(types: Iterable[str], share_K: NDArray[np.float64], *, seed: int) -> NDArray[np.int32]:
    """Label of each type: a uniform number hashed from (seed, type), put through the inverse of the distribution.

    Returns
    -------
    int32 array of shape (V,)
    """
    u_V = np.array([derive_seed(seed, "control", name) for name in types]) / 2**32
    return np.searchsorted(np.cumsum(share_K), u_V, side="right").astype(np.int32)


def seen_in_train(type_N: Iterable[str], train_N: NDArray[np.bool_], *, case: Case = "sensitive") -> NDArray[np.bool_]:
    """Whether each item's type occurs among the training items (N,)."""
    types = word_types(type_N, case=case)
    seen_V = np.zeros(len(types.types), dtype=bool)
    seen_V[types.of_N[train_N]] = True
    return np.asarray(seen_V[types.of_N])
