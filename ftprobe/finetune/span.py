"""Answers as spans of passages: cross-entropy over the first and the last sub-word (METHODS 1.1; SQuAD).

Axes: N questions, W windows, S sub-words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.span_decoding import best_windows, decode
from ftprobe.finetune.squad_scores import Version, scores
from ftprobe.finetune.windows import Question, Windows
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.heads import SpanHead, SpanLogits
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Sentence, TaskData

METRICS = ("f1", "em")


class Gold(NamedTuple):
    """The label of a question: characters before an answer (-1 where its place is not known) and its text."""

    answers: tuple[tuple[int, str], ...]
    impossible: bool


class SpanExtraction:
    """The objective (see `Objective`).

    Where the task has unanswerable questions, whatever their split, the answer is empty if the classification token's
    logits sum to no less than the best span's; of a question of several windows the least such sum counts, as in
    BERT's run_squad (Devlin et al. 2019). Elsewhere the best span is the answer.
    """

    labels: tuple[str, ...] = ()

    def __init__(
        self,
        head: SpanHead,
        splits: Mapping[str, Windows],
        gold: Mapping[str, Sequence[Gold]],
        metrics: tuple[str, ...],
        *,
        version: Version,
        length: int,
    ) -> None:
        self.head, self.splits, self.gold, self.metrics = head, splits, gold, metrics
        self.version, self.length = version, length
        self.facts: dict[str, object] = {"windows": {split: len(windows) for split, windows in splits.items()}}

    def loss(self, outputs: SpanLogits, labels: Tensor) -> tuple[Tensor, int]:
        """Mean over windows of the mean cross-entropy of first and last sub-word."""
        first, last = (nn.functional.cross_entropy(outputs.span_NS2[..., k], labels[:, k]) for k in (0, 1))
        return (first + last) / 2, len(labels)

    def answers(self, split: str) -> Answers:
        """Characters of the best span, end exclusive (-1 where there is none), its score, and that of no answer."""
        windows = self.splits[split]
        found = decode(self.head, windows, length=self.length)
        best_N = best_windows(windows.question_W, found.score_W)
        begin_N, end_N = windows.characters(best_N.tolist(), found.first_W[best_N], found.last_W[best_N])
        null_N = found.null_W[best_windows(windows.question_W, -found.null_W)]
        return {"begin_N": begin_N, "end_N": end_N, "score_N": found.score_W[best_N], "null_N": null_N}

    def texts(self, split: str, answers: Answers) -> list[str]:
        """What is answered (N); empty for no answer."""
        none_N = answers["begin_N"] < 0
        if self.version == "2.0":
            none_N = none_N | (answers["null_N"] >= answers["score_N"])
        asked = self.splits[split].questions
        return [
            "" if none else question.passage[begin:end]
            for question, none, begin, end in zip(asked, none_N, answers["begin_N"], answers["end_N"], strict=True)
        ]

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Exact match or F1, as the official script of the task's version computes it."""
        return Score(self._score(metric, split, self.texts(split, answers)))

    def _score(self, metric: str, split: str, texts: Sequence[str]) -> float:
        gold = [[text for _, text in one.answers] for one in self.gold[split]]
        return float(getattr(scores(texts, gold, version=self.version), metric))

    def collapsed(self, answers: Answers) -> bool:
        """No better than never answering, or than always naming the first sub-words of the passage."""
        windows, main = self.splits["test"], self.metrics[0]
        first_N = np.flatnonzero(np.append(True, np.diff(windows.question_W) > 0)).tolist()
        count_N = windows.columns(first_N, max(windows.lengths()))[1]
        last_N = np.minimum(count_N, self.length) - 1
        begin_N, end_N = windows.characters(first_N, np.minimum(last_N, 0), last_N)
        constant = [q.passage[max(b, 0) : max(e, 0)] for q, b, e in zip(windows.questions, begin_N, end_N, strict=True)]
        chance = max(self._score(main, "test", texts) for texts in (constant, [""] * len(constant)))
        return self.score(main, "test", answers).value <= chance

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """None: `Predictions` are of labels."""
        return ()

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `SpanHead.save`."""
        self.head.save(folder, encoder, ())


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Every item has a passage and answers, or is impossible; train has an answer whose place is known."""
    known_metrics(metrics, METRICS)
    gold = {split: [_gold(task, row) for row in own] for split, own in rows.items()}
    if not any(_first(one) for one in gold["train"]):
        what = f"'{task.labels.task}' has no answer in train whose place in its passage is known"
        raise InputError.one("finetune.task", what, "answers need their offsets")


def make(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    metrics: tuple[str, ...],
    seed: int,
) -> SpanExtraction:
    """The windows of each split and a fresh head; the first answer of a question is learnt."""
    gold = {split: [_gold(task, row) for row in own] for split, own in rows.items()}
    splits = {
        split: Windows(
            encoder, [_question(task, row, _first(one)) for row, one in zip(own, gold[split], strict=True)], options
        )
        for split, own in rows.items()
    }
    impossible = any(_gold(task, row).impossible for row in range(len(task.labels.label_N)))
    head = SpanHead(encoder, dropout=options.dropout, seed=derive_seed(seed, "head_init"))
    return SpanExtraction(
        head, splits, gold, metrics, version="2.0" if impossible else "1.1", length=options.answer_length
    )


def _question(task: TaskData, row: int, answer: tuple[int, int] | None) -> Question:
    sentence = task.corpus.sentences[task.labels.sentence_N[row]]
    return Question(sentence.id, sentence.text, sentence.text_b or "", answer)


def _first(gold: Gold) -> tuple[int, int] | None:
    """Characters of the first answer whose place is known."""
    return next(((start, start + len(text)) for start, text in gold.answers if start >= 0 and text), None)


def _gold(task: TaskData, row: int) -> Gold:
    sentence, said = label_of(task, row)
    answers, impossible = said.get("answers"), said.get("impossible", False)
    if not isinstance(answers, list) or not (answers or impossible):
        raise InputError.one(f"question {sentence.id}", "neither an answer nor marked as impossible", "see task squad")
    return Gold(tuple((int(start), str(text)) for start, text in answers), bool(impossible))


def label_of(task: TaskData, row: int) -> tuple[Sentence, dict[str, Any]]:
    """The question of a row and its label, which is a JSON object.

    Raises
    ------
    InputError
        There is no passage, or the label is none.
    """
    sentence, text = task.corpus.sentences[task.labels.sentence_N[row]], task.labels.label_N[row]
    if sentence.text_b is None:
        raise InputError.one(f"question {sentence.id}", "no passage", "this objective needs a task of questions")
    try:
        said = json.loads(text)
    except json.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        what = f"the label '{text[:40]}' is no JSON object"
        raise InputError.one(f"question {sentence.id}", what, "this objective needs a task of questions")
    return sentence, said
