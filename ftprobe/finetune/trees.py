"""Dependency trees as examples: sentences, the head of each word, and the relation between them (METHODS 1.1).

Axes: N items (all words of all sentences), W words of one sentence, S sub-words of a padded batch, T words of its
longest sentence. Head 0 of a sentence is its root, head t + 1 the t-th of its words that truncation left.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.finetune.words import Text, padded, read_texts
from ftprobe.models.load import Encoder
from ftprobe.tasks.types import TaskData

ROOT = -1
_IGNORED = -100


class _Unit(NamedTuple):
    """A sentence: its text, and items (t) and heads (t) of the words that are left; `_IGNORED` if the head is not."""

    text: Text
    items: NDArray[np.int64]
    heads: NDArray[np.int64]


class Trees:
    """One split as `Examples`: its sentences in their order, without those that have no arc left.

    `word_N`, `head_N` (places in the sentence, -1 for the root), `label_N`, `sentence_N`, `lost_N` and `counted_N` are
    of all words; `n_items` is the number of those that are counted.
    """

    def __init__(
        self,
        encoder: Encoder,
        task: TaskData,
        rows: Sequence[int],
        label_N: NDArray[np.int64],
        *,
        max_length: int,
        punctuation: Literal["keep", "ignore"],
    ) -> None:
        given, self.encoder, self.label_N = task.labels, encoder, label_N
        self.sentence_N, self.word_N, self.head_N = (
            np.array([column[row] for row in rows], dtype=np.int32)
            for column in (given.sentence_N, given.word_N, given.head_N)
        )
        sentences, unit_N = np.unique(self.sentence_N, return_inverse=True)
        texts, self.n_truncated = read_texts(encoder, task, sentences.tolist(), max_length=max_length)
        words = [task.corpus.sentences[s].words or () for s in self.sentence_N]
        marks_N = np.array([is_punctuation(words[n][at]) for n, at in enumerate(self.word_N)], dtype=bool)
        self.counted_N = ~marks_N if punctuation == "ignore" else np.ones_like(marks_N)
        self.n_items = int(self.counted_N.sum())
        self.lost_N = np.ones(len(rows), dtype=bool)
        self._units: list[_Unit] = []
        order_N = np.lexsort((self.word_N, unit_N))
        for text, items in zip(texts, np.split(order_N, np.flatnonzero(np.diff(unit_N[order_N])) + 1), strict=True):
            unit = self._unit(text, items)
            if (unit.heads >= 0).any():
                self._units.append(unit)
                self.lost_N[unit.items] = False

    def _unit(self, text: Text, items: NDArray[np.int64]) -> _Unit:
        there_W = text.end_W > text.start_W
        left = items[there_W[self.word_N[items]]]
        slot_W = np.full(len(there_W) + 1, _IGNORED)
        slot_W[self.word_N[left]] = np.arange(1, len(left) + 1)
        slot_W[ROOT] = 0  # the last place, which no word has
        return _Unit(text, left, slot_W[self.head_N[left]])

    def __len__(self) -> int:
        return len(self._units)

    def lengths(self) -> list[int]:
        """Sub-words of each sentence, special tokens included."""
        return [len(unit.text.features["input_ids"]) for unit in self._units]

    def items(self, index: int) -> NDArray[np.int64]:
        """The items of the words that are left of the sentence at `index`, in their order."""
        return self._units[index].items

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The sentences at `indices`, padded, with `place_NT` as `Parser` takes it.

        `labels` are the head and the label of each word (N, T, 2), -100 for words to leave out.
        """
        units = [self._units[index] for index in indices]
        inputs, width, first_n = padded(self.encoder, [unit.text for unit in units])
        longest = max(len(unit.items) for unit in units)
        place_NT = np.full((len(units), 1 + longest), -1)
        gold_NT2 = np.full((len(units), longest, 2), _IGNORED)
        for n, (text, items, heads) in enumerate(units):
            root = 0 if self.encoder.classification == "first" else len(text.features["input_ids"]) - 1
            place_NT[n, : len(items) + 1] = np.append(root, text.start_W[self.word_N[items]]) + first_n[n] + n * width
            gold_NT2[n, : len(items), 0] = heads
            gold_NT2[n, : len(items), 1] = np.where(heads >= 0, self.label_N[items], _IGNORED)
        return {**inputs, "place_NT": torch.from_numpy(place_NT), "labels": torch.from_numpy(gold_NT2)}


def is_punctuation(form: str) -> bool:
    """Whether every character of a word is Unicode punctuation (the rule of CoNLL-X; Buchholz and Marsi 2006).

    >>> [is_punctuation(form) for form in ("...", "—", "$", "n't")]
    [True, True, False, False]
    """
    return all(unicodedata.category(character).startswith("P") for character in form)
