"""Train, development and test items of a probe, and folds of train for cross-validation.

A development part is cut from train where a corpus has none and the probe selects on it.

Axes: N items, K labels, F folds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.errors import InputError, Problem
from ftprobe.hashing import derive_seed
from ftprobe.probes.probe import ProbeData

DEV_SHARE = 0.1
FOLDS = 5
_REPAIR = "take more items, or a corpus that has this split"


class Parts(NamedTuple):
    """Item positions of each part; `held_out` says that dev was cut from train."""

    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    test: NDArray[np.int64]
    held_out: bool


def split(data: ProbeData, *, seed: int, needs_dev: bool = True) -> Parts:
    """The parts of `data`: its official splits; without a dev split, 10 % of train's sentences (METHODS 0).

    A probe that does not select on dev (`needs_dev=False`) keeps the whole of train: its dev may have no item.

    Raises
    ------
    InputError
        A part would have no item.
    """
    train, dev, test = (np.flatnonzero(data.split_N == name) for name in ("train", "dev", "test"))
    held_out = needs_dev and not len(dev)
    if held_out:
        out_N = hold_out(data.y_N[train], data.sentence_N[train], seed=derive_seed(seed, "split", "probe dev"))
        train, dev = train[~out_N], train[out_N]
    parts = Parts(train, dev, test, held_out)
    sizes = {"train": len(train), "test": len(test), **({"dev": len(dev)} if needs_dev else {})}
    if not all(sizes.values()):
        what = f"no item of {len(data.y_N)} to probe on"
        raise InputError(Problem(name, what, _REPAIR) for name, size in sizes.items() if not size)
    return parts


def hold_out(
    y_N: NDArray[np.int32], sentence_N: NDArray[np.int32], *, seed: int, share: float = DEV_SHARE
) -> NDArray[np.bool_]:
    """Which items to hold out: `share` of the sentences, all words of a sentence together, stratified by label.

    A sentence's stratum is its most frequent label (ties: the smaller one), which for sentence tasks is its label.
    Each stratum of n sentences gives up floor or ceil of share * n; the roundings add up to share of all sentences,
    and one sentence at least is held out and kept where there are two.

    Parameters
    ----------
    y_N, sentence_N : int arrays of shape (N,)
        Label and sentence of every item.
    seed : int
    share : float
        In (0, 1).

    Returns
    -------
    bool array of shape (N,)
    """
    sentences, of_N = np.unique(sentence_N, return_inverse=True)
    counts = np.zeros((len(sentences), int(y_N.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (of_N, y_N), 1)
    order = np.random.default_rng(seed).permutation(len(sentences))
    order = order[np.argsort(counts.argmax(1)[order], kind="stable")]
    # shuffled within strata, strata one after the other: every (1/share)-th place takes an even share of each
    phase = np.random.default_rng(derive_seed(seed, "split", "phase")).random()
    places = np.floor(share * np.arange(len(order) + 1) + phase)
    out = np.zeros(len(sentences), dtype=bool)
    out[order[np.diff(places) > 0]] = True
    if len(sentences) > 1 and not out.any():
        out[order[-1]] = True
    return np.asarray(out[of_N])


def folds(y_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """The fold that scores each item: those of scikit-learn's `GridSearchCV(cv=5)`, which are stratified by label.

    They are `StratifiedKFold(5)` without shuffling. Every fifth of the items sorted by label says how many items of
    each label a fold has; they are the label's first, next and so on in the order given. Two folds of a label differ by
    one item at most, so a label of fewer than five items is missing from some. Words of a sentence may part.

    Parameters
    ----------
    y_N : int array of shape (N,)
        Label of every item.

    Returns
    -------
    int64 array of shape (N,)
        In [0, 5).

    Raises
    ------
    InputError
        Fewer items than folds.

    >>> folds(np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 1])).tolist()
    [0, 0, 1, 1, 2, 3, 4, 2, 3, 4]
    """
    if len(y_N) < FOLDS:
        what = f"{len(y_N)} items cannot be cut into {FOLDS} folds"
        raise InputError.one("train", what, "take more items, or `selection: dev`")
    _, first_K, label_N = np.unique(y_N, return_index=True, return_inverse=True)
    rank_N = np.argsort(np.argsort(first_K))[label_N]  # labels in the order of their first items, as scikit-learn does
    sorted_N = np.sort(rank_N)
    n_FK = np.stack([np.bincount(sorted_N[fold::FOLDS], minlength=len(first_K)) for fold in range(FOLDS)])
    fold_N = np.empty(len(y_N), dtype=np.int64)
    for rank, n_F in enumerate(n_FK.T):
        fold_N[rank_N == rank] = np.repeat(np.arange(FOLDS), n_F)
    return fold_N
