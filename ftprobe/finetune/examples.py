"""Examples: which texts of a task a run trains on, selects on and is evaluated on, as the encoder reads them.

Nothing here depends on the seed of the run. Axes: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.models.inputs import EncodedTexts, encode, pad
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.sampling import hold_out, sample
from ftprobe.tasks.types import LabelSet, TaskData


class Examples(NamedTuple):
    """One split, ready for the model: texts, their labels and their places in the corpus, all (N)."""

    split: str
    texts: EncodedTexts
    label_N: NDArray[np.int32]
    sentence_N: NDArray[np.int32]


def choose(task: TaskData, options: FinetuneOptions) -> dict[str, list[int]]:
    """Rows of the label set: `train`, `test` (dev where there is no test), and `dev` where it selects the epoch."""
    caps = {"train": options.train_items, "dev": options.dev_items, "test": options.dev_items}
    kept = set(sample(task.corpus, caps))
    by_split: dict[str, list[int]] = {"train": [], "dev": [], "test": []}
    for row, index in enumerate(task.labels.sentence_N):
        if index in kept:
            by_split[task.corpus.sentences[index].split].append(row)
    if not by_split["test"]:
        by_split["test"], by_split["dev"] = by_split["dev"], []
    name = task.labels.task
    if not by_split["test"]:
        raise InputError.one("finetune.task", f"'{name}' has nothing to evaluate on", "give it a dev or test split")
    rows = {"train": by_split["train"], "test": by_split["test"]}
    if options.select == "best_dev":
        rows.update({"dev": by_split["dev"]} if by_split["dev"] else _held_out(task, by_split["train"]))
    present = {task.labels.label_N[row] for row in rows["train"]}
    if len(present) < 2:
        found = f"only the label '{min(present)}'" if present else "no items"
        raise InputError.one("finetune.task", f"'{name}' has {found} in train", "two classes or more are needed")
    return rows


def _held_out(task: TaskData, train: Sequence[int]) -> dict[str, list[int]]:
    labels = task.labels
    held = set(hold_out(_pick(labels, train), task.corpus))
    if not held:
        what = f"'{labels.task}' has {len(train)} training items, too few to hold out 10 %"
        raise InputError.one("finetune.select", what, "use select: last, or more items")
    return {
        "train": [row for row in train if labels.sentence_N[row] not in held],
        "dev": [row for row in train if labels.sentence_N[row] in held],
    }


def _pick(labels: LabelSet, rows: Sequence[int]) -> LabelSet:
    return LabelSet(
        labels.task,
        tuple(labels.sentence_N[row] for row in rows),
        tuple(labels.word_N[row] for row in rows),
        tuple(labels.label_N[row] for row in rows),
    )


def encode_examples(
    split: str, task: TaskData, labels: tuple[str, ...], rows: Sequence[int], encoder: Encoder, max_length: int
) -> Examples:
    """The label set's `rows` with their texts as sub-words; label ids are ranks in `labels`."""
    rank = {label: index for index, label in enumerate(labels)}
    sentence_N = np.array([task.labels.sentence_N[row] for row in rows], dtype=np.int32)
    return Examples(
        split,
        encode(encoder, [task.corpus.sentences[index] for index in sentence_N], max_length=max_length),
        label_N=np.array([rank[task.labels.label_N[row]] for row in rows], dtype=np.int32),
        sentence_N=sentence_N,
    )


def batch(encoder: Encoder, examples: Examples, indices: Sequence[int]) -> dict[str, Tensor]:
    """The examples at `indices`, padded, with their labels (N) as int64."""
    padded = pad(encoder, [examples.texts.features_N[index] for index in indices])
    padded["labels"] = torch.from_numpy(examples.label_N[list(indices)].astype(np.int64))
    return padded
