"""Words of a corpus as items: what a reader of word labels gives for each sentence, and the label set it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ftprobe.tasks.lines import fingerprint
from ftprobe.tasks.task import Found, Request
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

Files = tuple[tuple[Split, Path], ...]


class Labelled(NamedTuple):
    """One sentence and its items: places of their words, their labels and, of word pairs, places of the heads."""

    sentence: Sentence
    places: Sequence[int]
    labels: Sequence[str]
    heads: Sequence[int] = ()


def assemble(task: str, corpus: str, labelled: Iterable[Labelled]) -> TaskData:
    """The corpus of all sentences in their order, also of those without an item, and the labels of the items."""
    sentences: list[Sentence] = []
    sentence_N: list[int] = []
    word_N: list[int] = []
    label_N: list[str] = []
    head_N: list[int] = []
    for sentence, places, labels, heads in labelled:
        sentence_N += [len(sentences)] * len(places)
        word_N += places
        label_N += labels
        head_N += heads
        sentences.append(sentence)
    label_set = LabelSet(task, tuple(sentence_N), tuple(word_N), tuple(label_N), tuple(head_N))
    return TaskData(Corpus(corpus, tuple(sentences)), label_set)


def found_files(
    request: Request, files: Files, read: Callable[[str, Files, str], TaskData], *, family: str, version: int
) -> Found:
    """A corpus that is its files, to be read by `read(task, files, corpus)`."""
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": version,
        "family": family,
        "fingerprint": fingerprint(files),
    }
    return Found(request.corpus, spec, None, partial(read, request.task, files, request.corpus))
