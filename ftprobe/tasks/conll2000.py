"""CoNLL-2000: chunk tags and parts of speech of Wall Street Journal words, over one corpus.

Lines are `word pos chunk`, a blank line ends a sentence. Words stay as they are written there (`-LRB-`, `1\\/2`). The
parts of speech are the Brill tagger's, the chunks come from the treebank (README of the data). There is no dev file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import NamedTuple

from ftprobe.errors import Problem
from ftprobe.tasks.lines import local_files, refuse, text_lines
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Sentence, Split, TaskData
from ftprobe.tasks.words import Labelled, assemble, found_files

VERSION = 1
HOME = "https://www.clips.uantwerpen.be/conll2000/chunking/"
FILES: tuple[tuple[Split, str], ...] = (("train", "train.txt"), ("test", "test.txt"))
CHUNK = re.compile(r"O|[BI]-[A-Z]+")


class Row(NamedTuple):
    """One word with its tags."""

    word: str
    pos: str
    chunk: str


def find(request: Request) -> Found:
    """The folder of train.txt and test.txt (see `Task.find`)."""
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint=f"its files train.txt and test.txt are at {HOME}")
    files = local_files(folder, FILES)
    return found_files(request, files, read, family="conll2000", version=VERSION)


def read(task: str, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse the files; labels are the tags of all words.

    Raises
    ------
    InputError
        With file and line: a wrong number of columns, an empty one, a chunk tag that is not IOB2 or continues no
        chunk.
    """
    return assemble(task, corpus, _labelled(task, files))


def _labelled(task: str, files: tuple[tuple[Split, Path], ...]) -> Iterator[Labelled]:
    for split, path in files:
        for number, rows in enumerate(_sentences(path)):
            words = tuple(row.word for row in rows)
            labels = [row.chunk if task == "chunk" else row.pos for row in rows]
            yield Labelled(Sentence(f"{split}-{number}", split, " ".join(words), None, words), range(len(rows)), labels)


def _sentences(path: Path) -> list[list[Row]]:
    problems: list[Problem] = []
    sentences: list[list[Row]] = [[]]
    before: str | None = "O"
    for number, line in enumerate(text_lines(path), start=1):
        if line == "":
            sentences.append([])
            before = "O"
            continue
        cells = line.split(" ")
        what = _problem(cells, before)
        if what:
            problems.append(Problem(f"{path}:{number}", *what))
            before = None
        else:
            row = Row(*map(intern, cells))
            sentences[-1].append(row)
            before = row.chunk
    refuse(problems, path)
    return [rows for rows in sentences if rows]


def _problem(cells: list[str], before: str | None) -> tuple[str, str] | None:
    """What is wrong with one row after the chunk tag `before` (None if that row was malformed), and the repair."""
    if len(cells) != len(Row._fields):
        return f"{len(cells)} columns instead of 3", "expected word, part of speech and chunk tag between single spaces"
    word, pos, chunk = cells
    if not word.strip() or not pos.strip():
        return ("empty word" if not word.strip() else "no part of speech"), "fill it in"
    if not CHUNK.fullmatch(chunk):
        return f"'{chunk}' is not a chunk tag", "expected O, B-TYPE or I-TYPE"
    if chunk[0] == "I" and before is not None and before[2:] != chunk[2:]:
        return f"'{chunk}' continues no chunk (after '{before}')", f"begin it with B-{chunk[2:]}"
    return None


TASKS = (
    Task(
        name="chunk",
        level="word",
        corpus="conll2000",
        metrics=("accuracy",),
        find=find,
        description="chunk of each word as an IOB2 tag (CoNLL-2000, Tjong Kim Sang and Buchholz 2000)",
    ),
    Task(
        name="ptb_pos",
        level="word",
        corpus="conll2000",
        metrics=("accuracy",),
        find=find,
        description="Penn Treebank part of speech of each word, from the Brill tagger (CoNLL-2000)",
    ),
)
