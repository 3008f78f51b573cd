"""Corpora and label sets: text owned by nobody's labels, labels over its items.

Axes: N items of a label set. A sentence item has word index -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ftprobe.measurement import Measurement

Split = Literal["train", "dev", "test"]
Level = Literal["sentence", "pair", "word", "word_pair"]


class Sentence(NamedTuple):
    """One text of a corpus: raw `text` (and `text_b` of a pair); `words` where the corpus fixes the words."""

    id: str
    split: Split
    text: str
    text_b: str | None = None
    words: tuple[str, ...] | None = None
    document: str = ""


class Corpus(NamedTuple):
    """Texts in a fixed order; items refer to them by position."""

    name: str
    sentences: tuple[Sentence, ...]


class LabelSet(NamedTuple):
    """Labels of one task over a corpus: parallel columns (N).

    An item of a word-pair task is (`head_N`, `word_N`) in this order: `word_N` is its own word, which no other item of
    the sentence has (of a dependency the modifier). At other levels `head_N` is empty.
    """

    task: str
    sentence_N: tuple[int, ...]
    word_N: tuple[int, ...]
    label_N: tuple[str, ...]
    head_N: tuple[int, ...] = ()


class TaskData(NamedTuple):
    """A corpus and one label set over it; `measurements` are the counts of text that was generated (METHODS 15)."""

    corpus: Corpus
    labels: LabelSet
    measurements: tuple[Measurement, ...] = ()
