"""GLUE tasks but WNLI, from local tab-separated files as GLUE distributes them, or from the hub at a pinned revision.

Splits are train and dev; GLUE's test is unlabelled, so its dev is returned as the split `test` (METHODS 0). MNLI has
two dev sets: the matched one is `test`, the other the split `mismatched`. Labels of STS-B are scores from 0 to 5, as
text with three decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ftprobe.errors import InputError, Problem, nearest
from ftprobe.measurement import Measurement
from ftprobe.tasks.lines import fingerprint, refuse, text_lines
from ftprobe.tasks.questions import count
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HUB = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
HIGHEST = 5  # of STS-B's scores


class Layout(NamedTuple):
    """How one GLUE task is written: its columns, its labels, and its files in order of preference.

    `sizes` are rows of train, dev and, where there is one, `mismatched`; `on_hub` the columns of the texts there, where
    they have other names; without `labels`, labels are numbers. A `ragged` file has broken rows, which GLUE's own
    readers leave out, and empty texts, which they keep.
    """

    name: str
    columns: tuple[str, ...]
    header: bool
    text: tuple[str, ...]
    labels: Mapping[str, str]
    sizes: tuple[int, ...]
    train: tuple[tuple[str, ...], ...] = (("train.tsv",),)
    dev: tuple[tuple[str, ...], ...] = (("dev.tsv",),)
    mismatched: tuple[tuple[str, ...], ...] = ()
    label: str = "label"
    on_hub: tuple[str, ...] = ()
    ragged: bool = False

    @property
    def splits(self) -> dict[Split, tuple[tuple[str, ...], ...]]:
        """The files of each split, in order of preference."""
        own: dict[Split, tuple[tuple[str, ...], ...]] = {"train": self.train, "test": self.dev}
        return {**own, "mismatched": self.mismatched} if self.mismatched else own


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
        Layout(
            name="mrpc",
            columns=("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            header=True,
            text=("#1 String", "#2 String"),
            labels={"0": "not_equivalent", "1": "equivalent"},
            sizes=(3668, 408),
            label="Quality",
            on_hub=("sentence1", "sentence2"),
        ),
        Layout(
            name="qqp",
            columns=("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
            header=True,
            text=("question1", "question2"),
            labels={"0": "not_duplicate", "1": "duplicate"},
            sizes=(363846, 40430),
            label="is_duplicate",
            ragged=True,
        ),
        Layout(
            name="stsb",
            columns=("index", "genre", "...", "sentence1", "sentence2", "score"),
            header=True,
            text=("sentence1", "sentence2"),
            labels={},
            sizes=(5749, 1500),
            label="score",
        ),
        Layout(
            name="mnli",
            columns=("index", "...", "sentence1", "sentence2", "...", "gold_label"),
            header=True,
            text=("sentence1", "sentence2"),
            labels={name: name for name in ("entailment", "neutral", "contradiction")},
            sizes=(392702, 9815, 9832),
            dev=(("dev_matched.tsv",),),
            mismatched=(("dev_mismatched.tsv",),),
            label="gold_label",
            on_hub=("premise", "hypothesis"),
        ),
        Layout(
            name="qnli",
            columns=("index", "question", "sentence", "label"),
            header=True,
            text=("question", "sentence"),
            labels={"entailment": "entailment", "not_entailment": "not_entailment"},
            sizes=(104743, 5463),
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
    sizes = dict(zip(layout.splits, layout.sizes, strict=True))
    spec = _spec(layout, f"hub:{HUB}@{REVISION}:{layout.name}")
    return Found(request.corpus, spec, sizes, partial(read_hub, layout))


def _spec(layout: Layout, print_: str) -> dict[str, object]:
    return {"stage": "corpus", "version": VERSION, "family": layout.name, "fingerprint": print_}


def _files(folder: Path, layout: Layout) -> list[tuple[Split, Path]]:
    """The files of each split, dev as test: the first layout of which every file exists."""
    if not folder.is_dir():
        raise InputError.one(str(folder), "is a file", f"give the folder that holds {layout.train[-1][0]}")
    files: list[tuple[Split, Path]] = []
    for split, choices in layout.splits.items():
        chosen = next((names for names in choices if all((folder / name).is_file() for name in names)), None)
        if chosen is None:
            wanted = " or ".join(" + ".join(names) for names in choices)
            what = f"no {'dev' if split == 'test' else split} split"
            raise InputError.one(str(folder), f"{what} of {layout.name}", f"expected {wanted}")
        files += [(split, folder / name) for name in chosen]
    return files


def read_local(layout: Layout, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse tab-separated files; `InputError` with file and line for every malformed row."""
    rows: list[Row] = []
    counts: list[Measurement] = []
    for split, path in files:
        made, broken = _rows(layout, split, path)
        rows += made
        if broken:
            counts.append(count("n_dropped", split, broken, "their rows lack columns"))
    return assemble(layout.name, corpus, rows, counts)


def _rows(layout: Layout, split: Split, path: Path) -> tuple[list[Row], int]:
    """The rows of one file, and how many broken ones were left out."""
    lines = text_lines(path)
    place = _columns(layout, lines[0], path)
    width = len(lines[0].split("\t")) if layout.header else len(layout.columns)
    problems: list[Problem] = []
    rows: list[Row] = []
    broken = 0
    for number, line in enumerate(lines[1:] if layout.header else lines, start=2 if layout.header else 1):
        cells = line.split("\t")
        if len(cells) < width and layout.ragged:
            broken += 1
            continue
        if len(cells) != width:
            what = f"{len(cells)} tab-separated columns instead of {width}"
            problems.append(Problem(f"{path}:{number}", what, f"expected {', '.join(layout.columns)}"))
            continue
        texts = tuple(cells[place[name]].strip() for name in layout.text)
        label = _label(cells[place["label"]].strip(), layout)
        if not all(texts) and not layout.ragged:
            problems.append(Problem(f"{path}:{number}", "empty text", "remove the row or fill in its text"))
        elif label is None:
            problems.append(Problem(f"{path}:{number}", *_unknown(cells[place["label"]].strip(), layout)))
        else:
            rows.append(Row(split, texts, label))
    refuse(problems, path)
    if not rows:
        raise InputError.one(str(path), "no rows below the header", "fetch the file again")
    return rows, broken


def _label(cell: str, layout: Layout) -> str | None:
    """The label a cell means; None if it means none."""
    return layout.labels.get(cell) if layout.labels else _score(cell)


def _score(cell: str | float) -> str | None:
    """A similarity from 0 to 5 as STS-B's files write it."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return f"{value:.3f}" if 0 <= value <= HIGHEST else None


def _unknown(label: str, layout: Layout) -> tuple[str, str]:
    if label in ("", "-1"):
        return "unlabelled row", "use the labelled file: GLUE's test.tsv has no labels"
    if not layout.labels:
        return f"'{label}' is not a score", f"expected a number from 0 to {HIGHEST}"
    return f"unknown label '{label}'", nearest(label, layout.labels)


def _columns(layout: Layout, first: str, path: Path) -> dict[str, int]:
    """Position of each column: fixed without a header, by name with one."""
    if not layout.header:
        return {name: position for position, name in enumerate(layout.columns)}
    place = {name.strip(): position for position, name in enumerate(first.split("\t"))}
    if layout.label not in place and all(name in place for name in layout.text):
        repair = "use the labelled file: GLUE's test.tsv has no labels"
        raise InputError.one(f"{path}:1", f"unlabelled: the header has no column '{layout.label}'", repair)
    missing = [name for name in (*layout.text, layout.label) if name not in place]
    if missing:
        what = f"the header lacks {', '.join(map(repr, missing))}"
        raise InputError.one(f"{path}:1", what, f"expected the columns {', '.join(layout.columns)}")
    return {**{name: place[name] for name in layout.text}, "label": place[layout.label]}


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
    """The task of a `datasets.DatasetDict` with the splits train and validation, as GLUE has on the hub.

    MNLI's are named validation_matched and validation_mismatched there.
    """
    rows: list[Row] = []
    matched = "_matched" if layout.mismatched else ""
    names: dict[Split, str] = {
        "train": "train",
        "test": f"validation{matched}",
        "mismatched": "validation_mismatched",
    }
    for split in layout.splits:
        part = data[names[split]]
        read = _named(part.features["label"].names) if layout.labels else _score
        texts = zip(*(part[column] for column in layout.on_hub or layout.text), strict=True)
        for pair, cell in zip(texts, part["label"], strict=True):
            label = read(cell)
            if label is None:
                raise InputError.one(f"{HUB}:{layout.name}", f"label {cell} in {names[split]}", "report this revision")
            rows.append(Row(split, tuple(text.strip() for text in pair), label))
    return assemble(layout.name, layout.name, rows)


def _named(names: list[str]) -> Callable[[int], str | None]:
    return lambda label: names[label] if label >= 0 else None


def assemble(task: str, corpus: str, rows: list[Row], counts: Sequence[Measurement] = ()) -> TaskData:
    """Corpus and labels of rows in their order."""
    sentences = tuple(
        Sentence(f"{row.split}-{number}", row.split, row.texts[0], row.texts[1] if len(row.texts) > 1 else None)
        for number, row in enumerate(rows)
    )
    labels = LabelSet(task, tuple(range(len(rows))), (-1,) * len(rows), tuple(row.label for row in rows))
    return TaskData(Corpus(corpus, sentences), labels, tuple(counts))


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
    Task(
        name="mrpc",
        level="pair",
        corpus="mrpc",
        metrics=("accuracy", "f1"),
        find=find,
        description="paraphrases among sentence pairs from the news (Dolan and Brockett 2005)",
        positive="equivalent",
    ),
    Task(
        name="qqp",
        level="pair",
        corpus="qqp",
        metrics=("accuracy", "f1"),
        find=find,
        description="duplicates among pairs of Quora questions (Iyer et al. 2017)",
        positive="duplicate",
    ),
    Task(
        name="stsb",
        level="pair",
        corpus="stsb",
        metrics=("pearson", "spearman"),
        find=find,
        description="similarity of sentence pairs from 0 to 5 (STS benchmark, Cer et al. 2017)",
        objective="regress",
    ),
    Task(
        name="mnli",
        level="pair",
        corpus="mnli",
        metrics=("accuracy",),
        find=find,
        description="entailment, contradiction or neither; matched and mismatched genres (Williams et al. 2018)",
    ),
    Task(
        name="qnli",
        level="pair",
        corpus="qnli",
        metrics=("accuracy",),
        find=find,
        description="whether a sentence answers a question (GLUE's pairs of SQuAD, Wang et al. 2019)",
    ),
)
