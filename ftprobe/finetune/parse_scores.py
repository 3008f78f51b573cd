"""Attachment scores of dependency trees (METHODS 1.1). Axes: N words of all sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

PUNCTUATION = "punct"


class AttachmentScores(NamedTuple):
    """Fractions of the `n_words` that count: head right, head and relation right; nan where none counts."""

    uas: float
    las: float
    n_words: int


def attachment_scores(
    gold_head_N: NDArray[np.integer],
    gold_label_N: Sequence[str],
    head_N: NDArray[np.integer],
    label_N: Sequence[str],
    *,
    punctuation: Literal["keep", "ignore"] = "keep",
    subtypes: Literal["ignore", "keep"] = "ignore",
) -> AttachmentScores:
    """Unlabelled and labelled attachment score over all words.

    Parameters
    ----------
    gold_head_N, head_N : int arrays of shape (N,)
        Position of each word's head in its sentence, -1 for a root.
    gold_label_N, label_N : sequences of N strings
        Universal relations, with or without subtypes (`nsubj:pass`).
    punctuation : {"keep", "ignore"}
        `ignore` leaves out words whose gold relation is `punct`.
    subtypes : {"ignore", "keep"}
        `ignore` compares what stands before the colon, as CoNLL 2017 does.

    Examples
    --------
    >>> attachment_scores(np.array([1, -1]), ["nsubj:pass", "root"], np.array([1, 0]), ["nsubj", "root"])
    AttachmentScores(uas=0.5, las=0.5, n_words=2)
    """
    counted_N = np.array([punctuation == "keep" or _plain(label) != PUNCTUATION for label in gold_label_N], dtype=bool)
    cut = _plain if subtypes == "ignore" else str
    same_N = np.array([cut(a) == cut(b) for a, b in zip(gold_label_N, label_N, strict=True)], dtype=bool)
    right_N = np.asarray(gold_head_N == head_N)
    if right_N.shape != counted_N.shape:
        raise ValueError(f"{right_N.shape} heads for {counted_N.shape} labels")
    n_words = int(counted_N.sum())
    if not n_words:
        return AttachmentScores(float("nan"), float("nan"), 0)
    uas = float(right_N[counted_N].mean())
    return AttachmentScores(uas, float((right_N & same_N)[counted_N].mean()), n_words)


def _plain(label: str) -> str:
    return label.partition(":")[0]
