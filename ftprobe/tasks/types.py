"""Corpora and label sets: text owned by nobody's labels, labels over its items.

Axes: N items of a label set. A sentence item has word index -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ftprobe.measurement import Measurement

Split = Literal["train", "dev", "test", "mismatched"]
"""`mismatched` is evaluated beside `test` and nothing else: MNLI's second development set (METHODS 1.3)."""
Level = Literal["sentence", "pair", "word", "word_pair", "question", "tree", "text"]
"""What an item is; `question`: a question about a passage, `tree`: a word and its head, `text`: nothing, it is read."""
Objective = Literal["classify", "regress", "span", "span_type", "tag", "token_pair", "biaffine"]
"""What fine-tuning learns: the heads of METHODS 1.1."""


class Sentence(NamedTuple):
    """One text of a corpus: raw `text` (and `text_b` of a pair); `words` where the corpus fixes the words.

    Of a question `text` is the question and `text_b` the passage.
    """

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
    the sentence has (of a dependency the modifier). In a tree every word is an item and the head of a root is -1. At
    other levels `head_N` is empty.

    A label is a name, but a number as text where the task's objective is `regress`, and JSON where it is `span` (see
    `squad`) or `span_type` (see `natural_questions`).
    """

    task: str
    sentence_N: tuple[int, ...]
    word_N: tuple[int, ...]
    label_N: tuple[str, ...]
    head_N: tuple[int, ...] = ()


class TaskData(NamedTuple):
    """A corpus and one label set over it.

    `measurements` are counts by split: of text that was generated (METHODS 15), and, as `n_dropped` and `n_repaired`
    with a `reason` in their detail, of what a reader left out or put right.
    """

    corpus: Corpus
    labels: LabelSet
    measurements: tuple[Measurement, ...] = ()
