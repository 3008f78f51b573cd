"""TREC questions by the kind of answer they ask for: 6 coarse or 50 fine classes over one corpus.

Lines are `COARSE:fine question`; the files are UTF-8 or, as first published, Latin-1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ftprobe.errors import InputError, Problem
from ftprobe.tasks.lines import fingerprint, local_files, refuse, text_lines
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HUB = "CogComp/trec"
REVISION = "65752bf53af25bc935a0dce92fb5b6c930728450"
"""A commit of the branch refs/convert/parquet: the data without the loading script."""
FILES: tuple[tuple[Split, str], ...] = (("train", "train_5500.label"), ("test", "TREC_10.label"))
PARQUET = {split: f"default/{split}/0000.parquet" for split, _ in FILES}
COARSE = {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}


class Question(NamedTuple):
    """One question with its fine class (`HUM:ind`)."""

    split: Split
    text: str
    label: str


def find(request: Request) -> Found:
    """Local files of `request.corpus`, else the hub (see `Task.find`)."""
    folder = request.local(request.corpus)
    if folder is not None:
        files = local_files(folder, FILES)
        spec = _spec(fingerprint(files))
        return Found(request.corpus, spec, None, partial(read_local, request.task, files, request.corpus))
    if request.offline or request.corpus != "trec":
        raise request.absent(request.corpus)
    sizes: dict[Split, int] = {"train": 5452, "test": 500}
    return Found("trec", _spec(f"hub:{HUB}@{REVISION}:default"), sizes, partial(read_hub, request.task))


def _spec(print_: str) -> dict[str, object]:
    return {"stage": "corpus", "version": VERSION, "family": "trec", "fingerprint": print_}


def read_local(task: str, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse the two files; `InputError` with file and line for every malformed row."""
    return assemble(task, corpus, [question for split, path in files for question in _questions(split, path)])


def _questions(split: Split, path: Path) -> list[Question]:
    problems: list[Problem] = []
    questions: list[Question] = []
    for number, line in enumerate(text_lines(path, fallback="latin-1"), start=1):
        label, _, text = line.partition(" ")
        coarse, colon, fine = label.partition(":")
        if not colon or not fine:
            problems.append(Problem(f"{path}:{number}", f"'{label}' is not a label", "expected COARSE:fine question"))
        elif coarse not in COARSE:
            repair = f"one of: {', '.join(sorted(COARSE))}"
            problems.append(Problem(f"{path}:{number}", f"unknown label '{coarse}'", repair))
        elif not text.strip():
            problems.append(Problem(f"{path}:{number}", "empty text", "remove the line or fill in its question"))
        else:
            questions.append(Question(split, text.strip(), label))
    refuse(problems, path)
    return questions


def read_hub(task: str) -> TaskData:
    """Download (or take from the hub's cache) the pinned revision."""
    from datasets import load_dataset

    try:
        data = load_dataset(HUB, revision=REVISION, data_files=PARQUET)
    except (OSError, ValueError, RuntimeError) as error:
        repair = "declare 'data: {trec: FOLDER}' to read local files"
        raise InputError.one(HUB, f"cannot be fetched from the hub ({error})", repair) from error
    return from_columns(task, data)


def from_columns(task: str, data: Any) -> TaskData:
    """The task of a `datasets.DatasetDict` with the splits train and test and the columns text and fine_label."""
    questions: list[Question] = []
    for split, _ in FILES:
        names = data[split].features["fine_label"].names
        rows = zip(data[split]["text"], data[split]["fine_label"], strict=True)
        questions += [Question(split, text.strip(), names[label]) for text, label in rows]
    return assemble(task, "trec", questions)


def assemble(task: str, corpus: str, questions: list[Question]) -> TaskData:
    """Corpus and labels of questions in their order."""
    sentences = tuple(Sentence(f"{q.split}-{number}", q.split, q.text) for number, q in enumerate(questions))
    labels = tuple(q.label if task == "trec_50" else q.label.partition(":")[0] for q in questions)
    items = range(len(labels))
    return TaskData(Corpus(corpus, sentences), LabelSet(task, tuple(items), (-1,) * len(labels), labels))


TASKS = (
    Task(
        name="trec_6",
        level="sentence",
        corpus="trec",
        metrics=("accuracy",),
        find=find,
        description="what a question asks for, 6 coarse classes (Li and Roth 2002)",
    ),
    Task(
        name="trec_50",
        level="sentence",
        corpus="trec",
        metrics=("accuracy",),
        find=find,
        description="what a question asks for, 50 fine classes (Li and Roth 2002)",
    ),
)
