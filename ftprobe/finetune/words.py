"""Words as examples, and their classification: a label for each word, or for each pair of words (METHODS 1.1).

Sentences fill the batches; only their labelled words are items. A word of which truncation cut a sub-word, or which has
none, leaves the loss and counts as an error in the score (METHODS 1.3).

Axes: N items, W words of a sentence, S sub-words of a padded batch, M items of a batch that still have all their
words, C words that an item is made of, P sub-words that words are read from, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.finetune.examples import classes_to_tell_apart
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.scores import METRICS
from ftprobe.finetune.texts import in_batches
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.align import align
from ftprobe.models.heads import WordClassifier
from ftprobe.models.inputs import Features, check_length, has_segments, pad
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

Pooling = Literal["first", "last", "mean"]
LOST = -1  # the predicted label of a word that was cut off
_METRICS = ("accuracy", "mcc")  # an answer that is no label has no place in a mean over labels
_BATCH = 64


class Text(NamedTuple):
    """One sentence as sub-words; word w is `[start_W[w], end_W[w])` of them, empty where it was cut off."""

    features: Features
    start_W: NDArray[np.int64]
    end_W: NDArray[np.int64]


class Padded(NamedTuple):
    """A batch: inputs by name, their width S, and the column of each sentence's first sub-word."""

    inputs: dict[str, Tensor]
    width: int
    first_n: NDArray[np.int64]


def read_texts(
    encoder: Encoder, task: TaskData, sentences: Sequence[int], *, max_length: int
) -> tuple[list[Text], int]:
    """Sentences with fixed words, in pre-split mode, and how many of them lost sub-words to `max_length`."""
    check_length(encoder, max_length)
    tokens, text_S = align(encoder, task.corpus, sentences, max_length=max_length, overflow="truncate")
    segments = has_segments(encoder)
    texts = []
    for u in text_S:
        own = slice(tokens.start_U1[u], tokens.start_U1[u + 1])
        ids = tokens.id_K[own].tolist()
        features = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if segments:
            features["token_type_ids"] = tokens.segment_K[own].tolist()
        word_s = tokens.word_K[own]
        place_p = np.flatnonzero(word_s >= 0)
        words_W = np.arange(tokens.n_words_U[u])
        left_W, right_W = (np.searchsorted(word_s[place_p], words_W, side) for side in ("left", "right"))
        start_W = np.append(place_p, len(ids))[left_W]
        texts.append(Text(features, start_W, start_W + right_W - left_W))
    return texts, int(tokens.truncated_U[text_S].sum())


def padded(encoder: Encoder, texts: Sequence[Text]) -> Padded:
    """The sentences as one batch."""
    inputs = pad(encoder, [text.features for text in texts])
    width = inputs["input_ids"].shape[1]
    left = encoder.tokenizer.padding_side == "left"
    return Padded(inputs, width, np.array([left * (width - len(text.features["input_ids"])) for text in texts]))


class Words:
    """One split as `Examples`: its sentences in their order, without those that have no item left.

    `word_NC` are the places of the words that an item is made of; `label_N`, `sentence_N` and `lost_N` are of items.
    """

    def __init__(
        self,
        encoder: Encoder,
        task: TaskData,
        rows: Sequence[int],
        word_NC: NDArray[np.int32],
        label_N: NDArray[Any],
        *,
        max_length: int,
        pooling: Pooling,
    ) -> None:
        self.encoder, self.pooling, self.word_NC, self.label_N = encoder, pooling, word_NC, label_N
        self.sentence_N = np.array([task.labels.sentence_N[row] for row in rows], dtype=np.int32)
        self.n_items = len(rows)
        sentences, unit_N = np.unique(self.sentence_N, return_inverse=True)
        texts, self.n_truncated = read_texts(encoder, task, sentences.tolist(), max_length=max_length)
        ends = [(texts[u].start_W[at], texts[u].end_W[at]) for u, at in zip(unit_N, word_NC, strict=True)]
        self._start_NC, self._end_NC = (np.array([each[k] for each in ends]).reshape(word_NC.shape) for k in (0, 1))
        self.lost_N = (self._start_NC == self._end_NC).any(1)
        items: list[list[int]] = [[] for _ in texts]
        for item in np.flatnonzero(~self.lost_N).tolist():
            items[unit_N[item]].append(item)
        self._texts = [text for text, own in zip(texts, items, strict=True) if own]
        self._items = [own for own in items if own]

    def __len__(self) -> int:
        return len(self._texts)

    def lengths(self) -> list[int]:
        """Sub-words of each sentence, special tokens included."""
        return [len(text.features["input_ids"]) for text in self._texts]

    def items(self, units: Sequence[int]) -> NDArray[np.int64]:
        """The items (M) of the sentences at `units` in the order of a batch of them."""
        return np.array([item for unit in units for item in self._items[unit]], dtype=np.int64)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The sentences at `indices`, padded; what their words are read from; and labels (M).

        `piece_P` are places in the batch's N x S sub-words, word by word; `count_MC` how many each word has.
        """
        inputs, width, first_n = padded(self.encoder, [self._texts[index] for index in indices])
        item_M = self.items(indices)
        shift_n = first_n + width * np.arange(len(indices))
        shift_M = np.repeat(shift_n, [len(self._items[index]) for index in indices])
        start_MC, end_MC = (place_NC[item_M] + shift_M[:, None] for place_NC in (self._start_NC, self._end_NC))
        if self.pooling == "first":
            end_MC = start_MC + 1
        elif self.pooling == "last":
            start_MC = end_MC - 1
        pieces = [np.arange(*ends) for ends in zip(start_MC.flat, end_MC.flat, strict=True)]
        return {
            **inputs,
            "piece_P": torch.from_numpy(np.concatenate(pieces)),
            "count_MC": torch.from_numpy(end_MC - start_MC),
            "labels": torch.from_numpy(self.label_N[item_M]),
        }


class WordClassification:
    """The objective of words and of pairs of words (see `Objective`)."""

    def __init__(
        self,
        encoder: Encoder,
        head: WordClassifier,
        splits: Mapping[str, Words],
        labels: tuple[str, ...],
        metrics: tuple[str, ...],
    ) -> None:
        self.encoder, self.head, self.splits = encoder, head, splits
        self.labels, self.metrics = labels, metrics
        lost = {split: int(words.lost_N.sum()) for split, words in splits.items()}
        self.facts: dict[str, object] = {"word_pooling": splits["train"].pooling, "items_cut_off": lost}

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy over the items of the batch."""
        return nn.functional.cross_entropy(outputs, labels), len(labels)

    def answers(self, split: str) -> Answers:
        """Ids and probabilities of the most probable labels; -1 and 0 for items that were cut off."""
        words = self.splits[split]
        predicted_N, score_N = np.full(words.n_items, LOST, np.int32), np.zeros(words.n_items, np.float32)
        for part_n, logits_MK in in_batches(self.head, words, _BATCH):
            item_M, best = words.items(part_n.tolist()), logits_MK.softmax(-1).max(-1)
            predicted_N[item_M], score_N[item_M] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        return {"predicted_N": predicted_N, "score_N": score_N}

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Accuracy, or MCC, in which an item that was cut off is of a class of its own."""
        return Score(METRICS[metric](self.splits[split].label_N, answers["predicted_N"]))

    def collapsed(self, answers: Answers) -> bool:
        """No better than always saying the most frequent label."""
        gold_N = self.splits["test"].label_N
        chance = METRICS[self.metrics[0]](gold_N, np.full_like(gold_N, np.bincount(gold_N).argmax()))
        return self.score(self.metrics[0], "test", answers).value <= chance

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """One for each item; of a pair under its own word."""
        test = self.splits["test"]
        return (
            Predictions(
                split="test",
                layer=None,
                probe_seed=None,
                sentence_N=test.sentence_N,
                word_N=test.word_NC[:, -1],
                gold_N=test.label_N.astype(np.int32),
                predicted_N=answers["predicted_N"],
                score_N=answers["score_N"],
                labels=self.labels,
            ),
        )

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `WordClassifier.save`."""
        self.head.save(folder, encoder, self.labels)


def check_words(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Items that are words of sentences with fixed words, two classes or more in train, and metrics of labels."""
    known_metrics(metrics, _METRICS)
    check_fixed_words(task, rows)
    classes_to_tell_apart(task, rows["train"])


def check_fixed_words(task: TaskData, rows: Rows) -> None:
    """Raise InputError where an item is no word of its sentence."""
    labels, sentences = task.labels, task.corpus.sentences
    for row in (row for own in rows.values() for row in own):
        sentence = sentences[labels.sentence_N[row]]
        places = (labels.word_N[row], *(labels.head_N[row : row + 1]))
        if sentence.words is None or labels.word_N[row] < 0 or max(places) >= len(sentence.words):
            what = f"'{labels.task}' has an item that is no word of sentence {sentence.id!r}"
            raise InputError.one("finetune.task", what, "train it with another objective, or give words to the corpus")


def make_words(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    pairs: bool,
    metrics: tuple[str, ...],
    seed: int,
) -> WordClassification:
    """The items of each split and a fresh head; label ids are ranks over the labels of all splits."""
    given = task.labels
    labels = tuple(sorted(set(given.label_N)))
    rank = {label: index for index, label in enumerate(labels)}
    columns = (given.head_N, given.word_N) if pairs else (given.word_N,)
    # `cls` says how texts are pooled; of words the default is the mean.
    pooling: Pooling = "mean" if options.head_pooling == "cls" else options.head_pooling
    splits = {
        split: Words(
            encoder,
            task,
            own,
            np.array([[column[row] for column in columns] for row in own], dtype=np.int32).reshape(-1, len(columns)),
            np.array([rank[given.label_N[row]] for row in own], dtype=np.int64),
            max_length=options.max_length,
            pooling=pooling,
        )
        for split, own in rows.items()
    }
    refuse_nothing_left(len(splits["train"]), options.max_length)
    head = WordClassifier(
        encoder, len(labels), n_words=len(columns), dropout=options.dropout, seed=derive_seed(seed, "head_init")
    )
    return WordClassification(encoder, head, splits, labels, metrics)


def refuse_nothing_left(n_units: int, max_length: int) -> None:
    """Raise InputError where truncation left nothing to train on."""
    if not n_units:
        raise InputError.one("max_length", f"no training item is left of {max_length} sub-words", "raise it")
