"""Files of questions about passages: which of a folder's files are which split, and their JSON, read strictly."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ftprobe.errors import InputError, Problem
from ftprobe.measurement import Measurement
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

T = TypeVar("T")
Role = Split | Literal["all"]
Files = tuple[tuple[Role, Path], ...]
NAMES: dict[str, Split] = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
ORDER: tuple[Split, ...] = ("train", "dev", "test")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAMED = re.compile(rf"(?:^|[-_.])({'|'.join(NAMES)})(?=[-_.]|$)")


class Question(NamedTuple):
    """One question, its passage, its label as JSON text, and what keeps its split together with that of others."""

    id: str
    split: Split
    text: str
    passage: str
    label: str
    document: str


def split_files(path: Path, suffixes: Sequence[str]) -> Files:
    """The files of a corpus by split, as their names say (`train-v1.1.json`, `dev.jsonl.gz`).

    A split may have several files. Without a test file, dev is the test set (METHODS 0). A single file whose name says
    no split, or a path to a file, has the role `all`.

    Raises
    ------
    InputError
        No such file in the folder, no train file, or several files whose names say no split.
    """
    if path.is_file():
        return (("all", path),)
    present = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(tuple(suffixes)))
    named = [(_split(file), file) for file in present]
    if len(present) == 1 and named[0][0] is None:
        return (("all", present[0]),)
    expected = f"expected files such as train{suffixes[0]} and dev{suffixes[0]}"
    if not present:
        raise InputError.one(str(path), f"no {' or '.join(suffixes)} file in the folder", expected)
    nameless = [Problem(str(file), "its name says no split", expected) for split, file in named if split is None]
    if nameless:
        raise InputError(nameless)
    if not any(split == "train" for split, _ in named):
        raise InputError.one(str(path), f"no train split (found {', '.join(f.name for f in present)})", expected)
    tested = any(split == "test" for split, _ in named)
    return tuple(
        ("test" if split == "dev" and not tested else split, file)
        for split in ORDER
        for own, file in named
        if own == split
    )


def _split(file: Path) -> Split | None:
    found = _NAMED.search(file.name)
    return NAMES[found[1]] if found else None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of one JSON object a line (gzip where the name ends in .gz), with their line numbers.

    Raises
    ------
    InputError
        The file cannot be read, or a line is no JSON object.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, f"{path}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError.one(str(path), f"cannot be read ({error})", "fetch it again") from None


def json_object(path: Path) -> dict[str, Any]:
    """The one JSON object of a file.

    Raises
    ------
    InputError
        The file cannot be read, or holds no JSON object.
    """
    try:
        return _object(path.read_text("utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.one(str(path), f"cannot be read ({error})", "fetch it again") from None


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError.one(place, f"not JSON ({error})", "fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError.one(place, "not a JSON object", "fetch the file again")
    return value


def field(value: object, name: str, kind: type[T], where: str) -> T:
    """The field `name` of a JSON object.

    Raises
    ------
    InputError
        There is none, it is no `kind`, or it is an empty text or one that has no UTF-8.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
        raise InputError.one(where, f"no field '{name}' that is a {kind.__name__}", "fetch the file again")
    if isinstance(found, str) and (not found.strip() or _SURROGATE.search(found)):
        what = f"field '{name}' is {'not Unicode text' if found.strip() else 'empty'}"
        raise InputError.one(where, what, "remove the item or fill in its text")
    return found


def assemble(task: str, corpus: str, questions: Sequence[Question], counts: Sequence[Measurement]) -> TaskData:
    """Corpus and labels of questions in their order.

    Raises
    ------
    InputError
        Two questions with one id.
    """
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError.one(corpus, f"two questions have the id '{question.id}'", "remove one, or rename it")
        seen.add(question.id)
    sentences = tuple(Sentence(q.id, q.split, q.text, q.passage, None, q.document) for q in questions)
    items = range(len(questions))
    labels = LabelSet(task, tuple(items), (-1,) * len(questions), tuple(q.label for q in questions))
    return TaskData(Corpus(corpus, sentences), labels, tuple(counts))


def count(metric: str, split: Split, number: int, reason: str) -> Measurement:
    """How many items of a split a reader left out (`n_dropped`) or put right (`n_repaired`), and why."""
    return Measurement(metric, float(number), "count", split, n_items=number, detail={"reason": reason})
