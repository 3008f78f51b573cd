"""Tasks: every label set ftprobe knows by name, and `locate`, which finds the text of one without reading it.

`TASKS` and `CORPORA` map names to what they are. An installed package adds a task under the entry point group
`ftprobe.tasks`; entry points are loaded when `TASKS` is first asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ftprobe.errors import InputError, nearest
from ftprobe.tasks import (
    conll2000,
    conllu_words,
    glue,
    grammar,
    natural_questions,
    pmb,
    senteval,
    squad,
    streusle,
    text,
    trec,
)
from ftprobe.tasks.joined import join_named
from ftprobe.tasks.task import Found as Found
from ftprobe.tasks.task import Request as Request
from ftprobe.tasks.task import Task as Task
from ftprobe.tasks.task import TaskSource as TaskSource
from ftprobe.tasks.types import TaskData

if TYPE_CHECKING:
    TASKS: dict[str, Task]
    CORPORA: dict[str, tuple[str, ...]]

FAMILIES = (
    glue,
    trec,
    senteval,
    conllu_words,
    streusle,
    conll2000,
    pmb,
    grammar,
    squad,
    natural_questions,
    text,
)
FEW = 1000


@cache
def _tasks() -> dict[str, Task]:
    tasks = {task.name: task for family in FAMILIES for task in family.TASKS}
    for point in entry_points(group="ftprobe.tasks"):
        task = point.load()
        if not isinstance(task, Task):
            what = f"is {type(task).__name__}, not a ftprobe.tasks.Task"
            raise InputError.one(f"entry point {point.name} = {point.value}", what, "correct or uninstall the package")
        tasks.setdefault(task.name, task)
    return tasks


@cache
def _corpora() -> dict[str, tuple[str, ...]]:
    names = sorted({task.corpus for task in _tasks().values()})
    return {name: tuple(task.name for task in _tasks().values() if task.corpus == name) for name in names}


def __getattr__(name: str) -> Any:
    if name == "TASKS":
        return _tasks()
    if name == "CORPORA":
        return _corpora()
    raise AttributeError(f"module 'ftprobe.tasks' has no attribute '{name}'")


def locate(
    reference: str,
    *,
    data: Mapping[str, str],
    data_dir: str | None = None,
    seed: int = 0,
    offline: bool = False,
    place: str = "task",
) -> TaskSource:
    """Find the text of a task without parsing it (files are hashed, which takes milliseconds).

    Parameters
    ----------
    reference : str
        `NAME`, the task on its own corpus, or `NAME@CORPUS`. CORPUS is any name of a folder in `data`; the
        sentence sets (`bigram_shift@ud_ewt`) are generated from it. `NAME@A+B` is trained on corpus A and tested on B.
    data : mapping of str to str
        Corpus name -> local folder or file; comes before `data_dir`.
    data_dir : str, optional
        Folder with one sub-folder per corpus; comes before the hub.
    seed : int
        The study's seed, for text that is generated.
    offline : bool
        Whether the hub is out of reach on purpose.
    place : str
        Where the study asks, for errors.

    Raises
    ------
    InputError
        Unknown task or corpus (with the nearest name), a missing folder or file.

    Examples
    --------
    >>> source = locate("acceptability", data={})
    >>> source.corpus, source.sizes["train"]
    ('grammar', 1200)
    """
    name, at, corpus = reference.partition("@")
    tasks = _tasks()
    if name not in tasks:
        raise InputError.one(place, f"unknown task '{name}'", nearest(name, tasks))
    if at and not corpus:
        raise InputError.one(place, f"'{reference}' names no corpus after @", f"write '{name}' or '{name}@CORPUS'")
    task = tasks[name]
    request = Request(name, corpus or task.corpus, data, data_dir, seed, offline, place)
    found = join_named(reference, request.corpus, lambda each: task.find(replace(request, corpus=each)), place)
    return TaskSource.of(reference, task, found)


def warnings(data: TaskData, *, classes: bool = True) -> list[str]:
    """What the user should know about a label set, one line each.

    Labels that occur in dev or test and never in train (they are kept: their items count as errors, METHODS 0), if
    labels are classes (`Task.classes`); splits of generated sets with fewer than 1,000 sentences (METHODS 15); what a
    reader left out or put right.
    """
    changed = [
        f"{row.n_items} {row.split} items {row.metric.removeprefix('n_')}: {row.detail['reason']}"
        for row in data.measurements
        if "reason" in row.detail
    ]
    small = [
        f"only {row.n_items} generated sentences in {row.split}: report intervals"
        for row in data.measurements
        if row.metric == "n_sentences" and row.n_items < FEW
    ]
    return (_unseen(data) if classes else []) + small + changed


def _unseen(data: TaskData) -> list[str]:
    seen: dict[str, Counter[str]] = {}
    for sentence, label in zip(data.labels.sentence_N, data.labels.label_N, strict=True):
        seen.setdefault(label, Counter())[data.corpus.sentences[sentence].split] += 1
    return [
        f"label '{label}' never occurs in train: "
        + ", ".join(f"{count} {split} items" for split, count in sorted(counts.items()))
        + " count as errors"
        for label, counts in sorted(seen.items())
        if not counts["train"]
    ]
