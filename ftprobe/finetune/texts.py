"""Texts and text pairs as examples, and a head's output over a whole split.

Axes: N texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftprobe.finetune.objective import Examples
from ftprobe.models.inputs import encode, pad
from ftprobe.models.load import Encoder
from ftprobe.tasks.types import TaskData


class Texts:
    """One split as `Examples`: texts as sub-words, what is to be learnt, and their places in the corpus, all (N)."""

    def __init__(
        self, encoder: Encoder, task: TaskData, rows: Sequence[int], label_N: NDArray[Any], max_length: int
    ) -> None:
        self.encoder, self.label_N = encoder, label_N
        self.sentence_N = np.array([task.labels.sentence_N[row] for row in rows], dtype=np.int32)
        self._texts = encode(encoder, [task.corpus.sentences[i] for i in self.sentence_N], max_length=max_length)
        self.n_items, self.n_truncated = len(rows), self._texts.n_truncated

    def __len__(self) -> int:
        return self.n_items

    def lengths(self) -> list[int]:
        """Sub-words of each text (N), special tokens included."""
        return self._texts.lengths()

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The texts at `indices`, padded, with their labels (N)."""
        padded = pad(self.encoder, [self._texts.features_N[index] for index in indices])
        padded["labels"] = torch.from_numpy(self.label_N[list(indices)])
        return padded


def in_batches(head: nn.Module, examples: Examples, batch_size: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """What a head says of the units of a split, in evaluation mode; units of like length share a batch.

    Yields the places of a batch's units and the head's output for them.
    """
    device = next(head.parameters()).device
    order_N = np.argsort(np.array(examples.lengths()), kind="stable")
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order_N), batch_size):
                part_n = order_N[start : start + batch_size]
                batch = examples.batch(part_n.tolist())
                batch.pop("labels")
                yield part_n, head(**{name: tensor.to(device) for name, tensor in batch.items()})
    finally:
        head.train(was_training)
