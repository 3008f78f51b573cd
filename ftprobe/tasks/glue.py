"""GLUE tasks: CoLA, SST-2 and RTE, from local tab-separated files or from the hub at a pinned revision.

Splits are train and dev; GLUE's test is unlabelled, so its dev is returned as the split `test` (METHODS 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ftprobe.errors import InputError, Problem, nearest
from ftprobe.tasks.lines import fingerprint, refuse, text_lines
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HUB = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


class Layout(NamedTuple):
    """How one GLUE task is written: its columns, its labels, and its files in order of preference."""

    name: str
    columns: tuple[str, ...]
    header: bool
    text: tuple[str, ...]
    labels: Mapping[str, str]
    sizes: tuple[int, int]
    train: tuple[tuple[str, ...], ...] = (("train.tsv",),)
    dev: tuple[tuple[str, ...], ...] = (("dev.tsv",),)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="cola",
            columns=("source", "label", "mark", "sentence"),
            header=False,
            text=("sentence",),
            labels={"0": "unacceptable", "1": "acceptable"},
            sizes=(8551, 1043),
            train=(("raw/in_domain_train.tsv",), ("in_domain_train.tsv",), ("train.tsv",)),
            dev=(
                ("raw/in_domain_dev.tsv", "raw/out_of_domain_dev.tsv"),
                ("in_domain_dev.tsv", "out_of_domain_dev.tsv"),
                ("dev.tsv",),
            ),
        ),
        Layout(
            name="sst2",
            columns=("sentence", "label"),
            header=True,
            text=("sentence",),
            labels={"0": "negative", "1": "positive"},
            sizes=(67349, 872),
        ),
        Layout(
            name="rte",
            columns=("index", "sentence1", "sentence2", "label"),
            header=True,
            text=("sentence1", "sentence2"),
            labels={"entailment": "entailment", "not_entailment": "not_entailment"},
            sizes=(2490, 277),
        ),
    )
}


class Row(NamedTuple):
    """One labelled text or pair."""

    split: Split
    texts: tuple[str, ...]
    label: str


def find(request: Request) -> Found:
    """Local files of `request.corpus`, else the hub (see `Task.find`)."""
    layout = LAYOUTS[request.task]
    folder = request.local(request.corpus)
    if folder is not None:
        files = tuple(_files(folder, layout))
        spec = _spec(layout, fingerprint([(split, path) for split, path in files]))
        return Found(request.corpus, spec, None, partial(read_local, layout, files, request.corpus))
    if request.offline or request.corpus != layout.name:
        raise request.absent(request.corpus)
    sizes: dict[Split, int] = {"train": layout.sizes[0], "test": layout.sizes[1]}
    spec = _spec(layout, f"hub:{HUB}@{REVISION}:{layout.name}")
    return Found(request.corpus, spec, sizes, partial(read_hub, layout))


def _spec(layout: Layout, print_: str) -> dict[str, object]:
    return {"stage": "corpus", "version": VERSION, "family": layout.name, "fingerprint": print_}


def _files(folder: Path, layout: Layout) -> list[tuple[Split, Path]]:
    """The files of train and of dev (as test): the first layout of which every file exists."""
    if not folder.is_dir():
        raise InputError.one(str(folder), "is a file", f"give the folder that holds {layout.train[-1][0]}")
    files: list[tuple[Split, Path]] = []
    splits: tuple[tuple[Split, tuple[tuple[str, ...], ...]], ...] = (("train", layout.train), ("test", layout.dev))
    for split, choices in splits:
        chosen = next((names for names in choices if all((folder / name).is_file() for name in names)), None)
        if chosen is None:
            wanted = " or ".join(" + ".join(names) for names in choices)
            what = "no train split" if split == "train" else "no dev split"
            raise InputError.one(str(folder), f"{what} of {layout.name}", f"expected {wanted}")
        files += [(split, folder / name) for name in chosen]
    return files


def read_local(layout: Layout, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse tab-separated files; `InputError` with file and line for every malformed row."""
    return assemble(layout.name, corpus, [row for split, path in files for row in _rows(layout, split, path)])


def _rows(layout: Layout, split: Split, path: Path) -> list[Row]:
    lines = text_lines(path)
    place = _columns(layout, lines[0], path)
    width = len(lines[0].split("\t")) if layout.header else len(layout.columns)
    problems: list[Problem] = []
    rows: list[Row] = []
    for number, line in enumerate(lines[1:] if layout.header else lines, start=2 if layout.header else 1):
        cells = line.split("\t")
        if len(cells) != width:
            what = f"{len(cells)} tab-separated columns instead of {width}"
            problems.append(Problem(f"{path}:{number}", what, f"expected {', '.join(layout.columns)}"))
            continue
        texts = tuple(cells[place[name]].strip() for name in layout.text)
        label = cells[place["label"]].strip()
        if not all(texts):
            problems.append(Problem(f"{path}:{number}", "empty text", "remove the row or fill in its text"))
        elif label not in layout.labels:
            problems.append(Problem(f"{path}:{number}", *_unknown(label, layout)))
        else:
            rows.append(Row(split, texts, layout.labels[label]))
    refuse(problems, path)
    if not rows:
        raise InputError.one(str(path), "no rows below the header", "fetch the file again")
    return rows


def _unknown(label: str, layout: Layout) -> tuple[str, str]:
    if label in ("", "-1"):
        return "unlabelled row", "use the labelled file: GLUE's test.tsv has no labels"
    return f"unknown label '{label}'", nearest(label, layout.labels)


def _columns(layout: Layout, first: str, path: Path) -> dict[str, int]:
    """Position of each column: fixed without a header, by name with one."""
    if not layout.header:
        return {name: position for position, name in enumerate(layout.columns)}
    place = {name.strip(): position for position, name in enumerate(first.split("\t"))}
    if "label" not in place and all(name in place for name in layout.text):
        repair = "use the labelled file: GLUE's test.tsv has no labels"
        raise InputError.one(f"{path}:1", "unlabelled: the header has no column 'label'", repair)
    missing = [name for name in (*layout.text, "label") if name not in place]
    if missing:
        what = f"the header lacks {', '.join(map(repr, missing))}"
        raise InputError.one(f"{path}:1", what, f"expected the columns {', '.join(layout.columns)}")
    return place


def read_hub(layout: Layout) -> TaskData:
    """Download (or take from the hub's cache) the pinned revision."""
    from datasets import load_dataset

    try:
        data = load_dataset(HUB, layout.name, revision=REVISION)
    except (OSError, ValueError, RuntimeError) as error:
        repair = f"declare 'data: {{{layout.name}: FOLDER}}' to read local files"
        raise InputError.one(f"{HUB}:{layout.name}", f"cannot be fetched from the hub ({error})", repair) from error
    return from_columns(layout, data)


def from_columns(layout: Layout, data: Any) -> TaskData:
    """The task of a `datasets.DatasetDict` with the splits train and validation, as GLUE has on the hub."""
    rows: list[Row] = []
    splits: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "test"))
    for name, split in splits:
        part = data[name]
        names = part.features["label"].names
        texts = zip(*(part[column] for column in layout.text), strict=True)
        rows += [
            Row(split, tuple(text.strip() for text in pair), names[label])
            for pair, label in zip(texts, part["label"], strict=True)
        ]
    return assemble(layout.name, layout.name, rows)


def assemble(task: str, corpus: str, rows: list[Row]) -> TaskData:
    """Corpus and labels of rows in their order."""
    sentences = tuple(
        Sentence(f"{row.split}-{number}", row.split, row.texts[0], row.texts[1] if len(row.texts) > 1 else None)
        for number, row in enumerate(rows)
    )
    count = len(rows)
    labels = LabelSet(task, tuple(range(count)), (-1,) * count, tuple(row.label for row in rows))
    return TaskData(Corpus(corpus, sentences), labels)


TASKS = (
    Task(
        name="cola",
        level="sentence",
        corpus="cola",
        metrics=("mcc", "accuracy"),
        find=find,
        description="linguistic acceptability of sentences from the literature (Warstadt et al. 2019)",
    ),
    Task(
        name="sst2",
        level="sentence",
        corpus="sst2",
        metrics=("accuracy",),
        find=find,
        description="sentiment of phrases from film reviews (Socher et al. 2013)",
    ),
    Task(
        name="rte",
        level="pair",
        corpus="rte",
        metrics=("accuracy",),
        find=find,
        description="textual entailment of sentence pairs (GLUE's union of RTE 1, 2, 3 and 5)",
    ),
)
