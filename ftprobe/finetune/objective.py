"""An objective: what a model is trained to do — its examples, its head, its loss, its answers and their scores.

`OBJECTIVES` names the module of each; a module has `check(task, rows, metrics)`, which refuses what cannot be trained
before any model is loaded, and `make(task, rows, encoder, options, metrics=, seed=)`, which gives an `Objective`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.measurement import Predictions, Status
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

Answers = Mapping[str, NDArray[Any]]
"""What a head says of one split, by name: arrays of numbers, which a checkpoint keeps and every score follows from."""

Rows = Mapping[str, Sequence[int]]
"""Rows of the label set by split: `train`, `test`, and `dev` where it selects the epoch."""

OBJECTIVES = {
    "classify": "ftprobe.finetune.classify",
    "tag": "ftprobe.finetune.tag",
    "token_pair": "ftprobe.finetune.token_pair",
    "biaffine": "ftprobe.finetune.parse",
    "regress": "ftprobe.finetune.regress",
    "span": "ftprobe.finetune.span",
    "span_type": "ftprobe.finetune.natural_questions",
}


class Score(NamedTuple):
    """A metric of answers."""

    value: float
    unit: str = "fraction"
    status: Status = "ok"


class Examples(Protocol):
    """One split, ready for the model, in units that fill a batch: texts, sentences, windows.

    `n_items` counts what is scored (texts, words, questions), `n_truncated` the texts that lost sub-words to the
    maximal length.
    """

    n_items: int
    n_truncated: int

    def __len__(self) -> int:
        """Units."""

    def lengths(self) -> Sequence[int]:
        """Sub-words of each unit, special tokens included."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The units at `indices`: padded inputs by name, and what is to be learnt as `labels`."""


class Objective(Protocol):
    """A head on an encoder with the splits of a task.

    Attributes
    ----------
    head : nn.Module
        Holds the encoder as `encoder`; called with a batch without its `labels`.
    labels : tuple of str
        What label ids are ranks in; empty where there are none.
    facts : mapping
        What the manifest should say of it.
    """

    head: nn.Module
    labels: tuple[str, ...]
    splits: Mapping[str, Examples]
    metrics: tuple[str, ...]
    facts: Mapping[str, object]

    def loss(self, outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
        """Mean loss of a batch, and of how many it is the mean."""

    def answers(self, split: str) -> Answers:
        """What the head says of a split now, in evaluation mode."""

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """A metric of answers on a split."""

    def collapsed(self, answers: Answers) -> bool:
        """Whether these answers on `test` are no better than answers that ignore the input (METHODS 1.2)."""

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """The answers on `test`, item by item."""

    def save(self, folder: Path, encoder: Encoder) -> None:
        """Write the encoder as `load_encoder` reads it, and head.safetensors."""


class Module(Protocol):
    """What a module of `OBJECTIVES` has."""

    def check(self, task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
        """Raise InputError for what cannot be trained."""

    def make(
        self,
        task: TaskData,
        rows: Rows,
        encoder: Encoder,
        options: FinetuneOptions,
        *,
        metrics: tuple[str, ...],
        seed: int,
    ) -> Objective:
        """The objective, its head drawn under `seed`."""


def module_of(objective: str) -> Module:
    """The module of an objective."""
    module: Module = import_module(OBJECTIVES[objective])
    return module


def known_metrics(metrics: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for a metric that is not `known`."""
    for metric in metrics:
        if metric not in known:
            raise InputError.one("finetune.task", f"unknown metric '{metric}'", f"one of: {', '.join(known)}")
