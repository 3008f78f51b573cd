"""What comparisons put into encoders: rows of sub-words as padded batches, and the identity of a tokenizer.

Axes: N sequences, S positions of the longest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.hashing import content_id
from ftprobe.models.inputs import takes_segments
from ftprobe.models.load import Encoder
from ftprobe.tasks.types import Corpus


class Row(NamedTuple):
    """One sequence: sub-words and their segments, special ones included."""

    ids: NDArray[np.integer]
    segments: NDArray[np.integer]


def padded(encoder: Encoder, rows: Sequence[Row], device: str) -> dict[str, Tensor]:
    """A batch (N, S) of int64, padded on the right, where no family's positions notice it."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    batch = {
        "input_ids": torch.full(shape, encoder.tokenizer.pad_token_id),
        "attention_mask": torch.zeros(shape).long(),
    }
    if takes_segments(encoder):
        batch["token_type_ids"] = torch.zeros(shape).long()
    for n, row in enumerate(rows):
        inside = slice(len(row.ids))
        batch["input_ids"][n, inside] = torch.from_numpy(row.ids.astype(np.int64))
        batch["attention_mask"][n, inside] = 1
        if "token_type_ids" in batch:
            batch["token_type_ids"][n, inside] = torch.from_numpy(row.segments.astype(np.int64))
    return {name: value.to(device) for name, value in batch.items()}


def tokenizer_hash(encoder: Encoder) -> str:
    """32 hexadecimal digits: the tokenizer's vocabulary and rules, without how it was last asked to pad and cut."""
    state = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    return content_id({name: value for name, value in state.items() if name not in ("padding", "truncation")})


def split_of(corpus: Corpus, rows: Sequence[int]) -> str:
    """The split that all of these texts belong to, or "all"."""
    splits = {corpus.sentences[row].split for row in rows}
    return splits.pop() if len(splits) == 1 else "all"
