"""Task: a named label set over a corpus, and how its text is found. Finding is cheap; only `TaskSource.read` parses.

A family of tasks is a module that makes `Task(...)` values, each with a `find` that turns a `Request` into `Found`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ftprobe.errors import InputError, nearest
from ftprobe.hashing import content_id
from ftprobe.tasks.types import Level, Objective, Split, TaskData

OBJECTIVES: Mapping[Level, Objective] = {
    "sentence": "classify",
    "pair": "classify",
    "word": "tag",
    "word_pair": "token_pair",
    "question": "span",
    "tree": "biaffine",
}
CLASSES: frozenset[Objective | None] = frozenset({"classify", "tag", "token_pair", "biaffine"})


class Found(NamedTuple):
    """A corpus that was found, not yet read.

    `corpus_spec` is JSON and says what the text is (never where it lies); `sizes` are sentences per split where
    they are known without reading; `read` parses and may raise `InputError`. `cut` says that the text is one file,
    whose splits are ftprobe's own.
    """

    corpus: str
    corpus_spec: dict[str, object]
    sizes: dict[Split, int] | None
    read: Callable[[], TaskData]
    cut: bool = False


@dataclass(frozen=True)
class Request:
    """One question to a family of tasks: find the text of `task` on `corpus`.

    `data` maps corpus names to local paths and comes before `data_dir`; `place` is where the study asked.
    """

    task: str
    corpus: str
    data: Mapping[str, str]
    data_dir: str | None
    seed: int
    offline: bool
    place: str

    def local(self, *names: str) -> Path | None:
        """The first existing local path of a corpus known under any of `names`; None if nothing is declared.

        Raises
        ------
        InputError
            If `data` declares one of the names and its path is missing.
        """
        for name in names:
            if name in self.data:
                path = Path(self.data[name]).expanduser()
                if not path.exists():
                    raise InputError.one(f"data.{name}", f"'{path}' does not exist", "give an existing folder or file")
                return path
        if self.data_dir is not None:
            for name in names:
                path = Path(self.data_dir).expanduser() / name
                if path.exists():
                    return path
        return None

    def absent(self, *names: str, hint: str = "") -> InputError:
        """The error for a corpus that lies nowhere: names each place that was looked at, and the repair."""
        places = [f"data.{name}" for name in names]
        if self.data_dir is not None:
            places += [str(Path(self.data_dir) / name) for name in names]
        here = [] if self.data_dir is None else [path.name for path in Path(self.data_dir).expanduser().glob("*/")]
        guess = nearest(names[0], [*self.data, *here])
        where = f"{guess} or " if guess.startswith("did") else ""
        where += f"declare 'data: {{{names[0]}: FOLDER}}' or put it under --data DIR as DIR/{names[0]}"
        return InputError.one(
            self.place,
            f"no text for corpus '{self.corpus}' of task '{self.task}' (looked for {', '.join(places)})",
            where + (f"; {hint}" if hint else ""),
        )


@dataclass(frozen=True)
class Task:
    """A named label set: what its items are, how it is scored, and how its text is found.

    Adding one is one module with such a value; a package of yours joins under the entry point group
    `ftprobe.tasks`.
    """

    name: str
    level: Level
    """What an item is: a sentence, a pair of sentences, a word, a pair of words, a question, or a word in its tree."""
    corpus: str
    """The corpus a bare reference means."""
    metrics: tuple[str, ...]
    """Scores of fine-tuning, the main one first, by the names of METHODS 1.3."""
    find: Callable[[Request], Found]
    version: int = 1
    """Raised when the same files give other labels."""
    description: str = ""
    objective: Objective | None = None
    """What fine-tuning learns; by default what `OBJECTIVES` says of the level, None where there is nothing to learn."""
    positive: str | None = None
    """The label whose F1 is the metric `f1` of a task of two classes."""

    def __post_init__(self) -> None:
        if self.objective is None:
            object.__setattr__(self, "objective", OBJECTIVES.get(self.level))

    @property
    def classes(self) -> bool:
        """Whether labels are names of classes: neither numbers nor JSON."""
        return self.objective in CLASSES


@dataclass(frozen=True)
class TaskSource:
    """A task on a corpus that exists: its identity before reading, and `read`.

    `content_id` of `corpus_spec` and of `labels_spec` are the ids of the artifacts of the stages corpus and labels.
    """

    reference: str
    task: Task
    corpus: str
    corpus_spec: dict[str, object]
    labels_spec: dict[str, object]
    sizes: dict[Split, int] | None
    parse: Callable[[], TaskData]

    @classmethod
    def of(cls, reference: str, task: Task, found: Found) -> TaskSource:
        """The source of `task` on the text that was found for it."""
        labels_spec: dict[str, object] = {
            "stage": "labels",
            "version": task.version,
            "task": task.name,
            "parents": [content_id(found.corpus_spec)],
        }
        return cls(reference, task, found.corpus, found.corpus_spec, labels_spec, found.sizes, found.read)

    def read(self) -> TaskData:
        """Parse, download or generate the text and its labels.

        Raises
        ------
        InputError
            For malformed input: every problem of a file at once with file and line, at most 20 listed.
        """
        return self.parse()
