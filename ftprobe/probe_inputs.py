"""The inputs of a probe trial: activations joined with labels on (sentence, word), in item order.

Axes: N items with a label and an activation, M rows of the activations, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.corpora import load_corpus, load_labels
from ftprobe.errors import InputError
from ftprobe.probes import ProbeData
from ftprobe.shards import Items, items, open_layer
from ftprobe.store import Store
from ftprobe.tasks.sampling import sample
from ftprobe.tasks.types import LabelSet

_WORDS = 1 << 32  # more than any sentence has


class _Rows(NamedTuple):
    """Places of the items among the labels, and the rows of their own words and of the first words of pairs."""

    item_N: NDArray[np.int64]
    row_N: NDArray[np.int64]
    head_N: NDArray[np.int64] | None


def probe_data(store: Store, activations: str, labels: str, layers: Sequence[int]) -> ProbeData:
    """Join an activations artifact with a labels artifact.

    A pair of words has the vectors of both, concatenated: the first word's, then the item's own. Items of the sample
    whose label exists but whose activation was dropped are counted in `n_dropped`.

    Raises
    ------
    InputError
        No item has both an activation and a label.
    """
    folder = store.fetch("activations", activations)
    held, labelled = items(folder), load_labels(store, labels)
    rows = _joined(held, labelled)
    if not len(rows.row_N):
        raise InputError.one(
            labelled.task, "no item has both an activation and a label", "check that every word keeps a sub-word"
        )
    names, y_N = np.unique(np.asarray(labelled.label_N, dtype=np.str_), return_inverse=True)
    spec = store.manifest("activations", activations)["spec"]
    sampled = sample(load_corpus(store, spec["corpus"]), spec["sample"])
    wanted = int(np.isin(np.asarray(labelled.sentence_N), np.asarray(sampled)).sum())
    pairs = rows.head_N is not None
    return ProbeData(
        layer=_layers(folder, rows),
        layers=tuple(layers),
        y_N=y_N[rows.item_N].astype(np.int32),
        labels=tuple(names.tolist()),
        split_N=np.asarray(held.split_N)[rows.row_N],
        sentence_N=held.sentence_N[rows.row_N],
        word_N=held.word_N[rows.row_N],
        n_dropped=wanted - len(rows.row_N),
        type_N=_types(held, rows),
        stored=None if pairs else lambda layer: open_layer(folder, layer),
        row_N=None if pairs else rows.row_N,
    )


def _joined(held: Items, labelled: LabelSet) -> _Rows:
    """The labelled items whose words all have an activation, in the order of the rows."""
    key_M = held.sentence_N.astype(np.int64) * _WORDS + held.word_N
    order_M = np.argsort(key_M, kind="stable")
    sorted_M = key_M[order_M]

    def rows_of(word_I: Sequence[int]) -> NDArray[np.int64]:
        """Row of each labelled word, -1 where there is none."""
        key_I = np.asarray(labelled.sentence_N, dtype=np.int64) * _WORDS + np.asarray(word_I, dtype=np.int64)
        place_I = np.minimum(np.searchsorted(sorted_M, key_I), len(sorted_M) - 1)
        return np.where(sorted_M[place_I] == key_I, order_M[place_I], -1)

    own_I = rows_of(labelled.word_N)
    head_I = rows_of(labelled.head_N) if labelled.head_N else None
    here_I = own_I >= 0 if head_I is None else (own_I >= 0) & (head_I >= 0)
    item_N = np.flatnonzero(here_I)
    item_N = item_N[np.argsort(own_I[item_N], kind="stable")]
    return _Rows(item_N, own_I[item_N], None if head_I is None else head_I[item_N])


def _layers(folder: Path, rows: _Rows) -> Callable[[int], NDArray[np.float32]]:
    def layer(index: int) -> NDArray[np.float32]:
        h_MD = open_layer(folder, index)
        if rows.head_N is not None:
            return np.concatenate([h_MD[rows.head_N], h_MD[rows.row_N]], axis=1, dtype=np.float32)
        whole = len(rows.row_N) == len(h_MD)
        return np.asarray(h_MD if whole else h_MD[rows.row_N], dtype=np.float32)

    return layer


def _types(held: Items, rows: _Rows) -> NDArray[np.object_] | None:
    """Word type of each item; None for sentences."""
    if (held.word_N[rows.row_N] < 0).any():
        return None
    own_N = held.form_N[rows.row_N]
    return own_N if rows.head_N is None else np.asarray(held.form_N[rows.head_N] + "\t" + own_N, dtype=object)
