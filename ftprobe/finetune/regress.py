"""Regression: a number for each text or text pair, learnt by mean squared error (METHODS 1.1; STS-B).

Axes: N texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.scores import NUMBER_METRICS, pearson
from ftprobe.finetune.texts import Texts, in_batches
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.heads import Classifier
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

_BATCH = 64
_CHANCE = 0.05


class Regression:
    """The objective (see `Objective`): the classifier's head with one output, which nothing squashes."""

    labels: tuple[str, ...] = ()

    def __init__(self, head: Classifier, splits: Mapping[str, Texts], metrics: tuple[str, ...]) -> None:
        self.head, self.splits, self.metrics = head, splits, metrics
        self.facts: dict[str, object] = {"pooler": head.pooler}

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean squared error."""
        return nn.functional.mse_loss(outputs[:, 0], labels), len(labels)

    def answers(self, split: str) -> Answers:
        """The numbers."""
        predicted_N = np.empty(len(self.splits[split]), dtype=np.float32)
        for part_n, output_n1 in in_batches(self.head, self.splits[split], _BATCH):
            predicted_N[part_n] = output_n1[:, 0].float().cpu().numpy()
        return {"predicted_N": predicted_N}

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Of `NUMBER_METRICS`; undefined where the answers, or what is right, are all the same."""
        value = NUMBER_METRICS[metric](self.splits[split].label_N, answers["predicted_N"])
        return Score(value, status="undefined" if math.isnan(value) else "ok")

    def collapsed(self, answers: Answers) -> bool:
        """Whether |r| < 0.05, or is undefined."""
        r = pearson(self.splits["test"].label_N, answers["predicted_N"])
        return not abs(r) >= _CHANCE

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """None: `Predictions` are of labels."""
        return ()

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `Classifier.save`."""
        self.head.save(folder, encoder, self.labels)


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Labels are finite numbers, two different ones or more in train, and metrics those of numbers."""
    known_metrics(metrics, tuple(NUMBER_METRICS))
    present = {_number(task, row) for row in rows["train"]}
    for own in rows.values():
        for row in own:
            _number(task, row)
    if len(present) < 2:
        what = f"'{task.labels.task}' has only the number {min(present)} in train"
        raise InputError.one("finetune.task", what, "two numbers or more are needed")


def make(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    metrics: tuple[str, ...],
    seed: int,
) -> Regression:
    """The texts of each split and a fresh head."""
    splits = {
        split: Texts(
            encoder, task, own, np.array([_number(task, row) for row in own], dtype=np.float32), options.max_length
        )
        for split, own in rows.items()
    }
    head = Classifier(
        encoder,
        1,
        pooled="mean" if options.head_pooling == "mean" else "cls",
        pooler=options.pooler,
        dropout=options.dropout,
        seed=derive_seed(seed, "head_init"),
    )
    return Regression(head, splits, metrics)


def _number(task: TaskData, row: int) -> float:
    text = task.labels.label_N[row]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        sentence = task.corpus.sentences[task.labels.sentence_N[row]].id
        raise InputError.one(f"sentence {sentence}", f"the label '{text}' is no number", "regression needs numbers")
    return value
