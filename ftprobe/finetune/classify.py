"""Classification of texts and text pairs: cross-entropy over the labels of a task (METHODS 1.1).

Axes: N texts, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ftprobe.finetune.examples import classes_to_tell_apart
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.scores import METRICS, f1
from ftprobe.finetune.texts import Texts, in_batches
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.heads import Classifier
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

_BATCH = 64


class Classification:
    """The objective (see `Objective`)."""

    def __init__(
        self,
        head: Classifier,
        splits: Mapping[str, Texts],
        labels: tuple[str, ...],
        metrics: tuple[str, ...],
        positive: str | None,
    ) -> None:
        self.head, self.splits = head, splits
        self.labels, self.metrics, self.positive = labels, metrics, positive
        self.facts: dict[str, object] = {"pooler": head.pooler}

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(outputs, labels), len(labels)

    def answers(self, split: str) -> Answers:
        """Ids and probabilities of the most probable labels."""
        n = len(self.splits[split])
        predicted_N, score_N = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.float32)
        for part_n, logits_nK in in_batches(self.head, self.splits[split], _BATCH):
            best = logits_nK.softmax(-1).max(-1)
            predicted_N[part_n], score_N[part_n] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        return {"predicted_N": predicted_N, "score_N": score_N}

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Of `METRICS`, or the F1 of the positive label."""
        return Score(self._value(metric, self.splits[split].label_N, answers["predicted_N"]))

    def _value(self, metric: str, gold_N: NDArray[np.integer], predicted_N: NDArray[np.integer]) -> float:
        if metric == "f1" and self.positive in self.labels:
            return f1(gold_N, predicted_N, positive=self.labels.index(self.positive))
        return METRICS[metric](gold_N, predicted_N)

    def collapsed(self, answers: Answers) -> bool:
        """No better than always saying the most frequent label."""
        gold_N = self.splits["test"].label_N
        chance = self._value(self.metrics[0], gold_N, np.full_like(gold_N, np.bincount(gold_N).argmax()))
        return self.score(self.metrics[0], "test", answers).value <= chance

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """One for each text."""
        test = self.splits["test"]
        return (
            Predictions(
                split="test",
                layer=None,
                probe_seed=None,
                sentence_N=test.sentence_N,
                word_N=np.full_like(test.sentence_N, -1),
                gold_N=test.label_N.astype(np.int32),
                predicted_N=answers["predicted_N"],
                score_N=answers["score_N"],
                labels=self.labels,
            ),
        )

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `Classifier.save`."""
        self.head.save(folder, encoder, self.labels)


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Two classes or more in train, and metrics of labels."""
    known_metrics(metrics, (*METRICS, "f1"))
    classes_to_tell_apart(task, rows["train"])


def make(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    metrics: tuple[str, ...],
    seed: int,
    positive: str | None = None,
) -> Classification:
    """The texts of each split and a fresh head; label ids are ranks over the labels of all splits."""
    labels = tuple(sorted(set(task.labels.label_N)))
    rank = {label: index for index, label in enumerate(labels)}
    splits = {
        split: Texts(encoder, task, own, np.array([rank[task.labels.label_N[row]] for row in own]), options.max_length)
        for split, own in rows.items()
    }
    head = Classifier(
        encoder,
        len(labels),
        pooled="mean" if options.head_pooling == "mean" else "cls",
        pooler=options.pooler,
        dropout=options.dropout,
        seed=derive_seed(seed, "head_init"),
    )
    return Classification(head, splits, labels, metrics, positive)
