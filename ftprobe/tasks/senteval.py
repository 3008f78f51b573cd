"""SentEval's sentence sets: bigram shift, coordination inversion, odd man out, as their original files or generated.

A bare name, or a corpus that holds SentEval's file, means that file (`split<TAB>label<TAB>text`, split tr, va or te);
any other corpus is a CoNLL-U folder from which the set is generated.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ftprobe.errors import InputError, Problem, nearest
from ftprobe.tasks import generated
from ftprobe.tasks.lines import fingerprint, refuse, text_lines
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HOME = "https://github.com/facebookresearch/SentEval/tree/main/data/probing"
SPLITS: dict[str, Split] = {"tr": "train", "va": "dev", "te": "test"}
LABELS = {"bigram_shift": ("O", "I"), "coordination_inversion": ("O", "I"), "odd_man_out": ("O", "C")}
SIZES: dict[Split, int] = {"train": 100_000, "dev": 10_000, "test": 10_000}


def find(request: Request) -> Found:
    """SentEval's file if there is one, else a set generated from a CoNLL-U folder (see `Task.find`)."""
    names = (request.corpus, "senteval") if request.corpus == request.task else (request.corpus,)
    path = request.local(*names)
    if path is not None and path.is_dir() and (path / f"{request.task}.txt").is_file():
        path = path / f"{request.task}.txt"
    if path is None and request.data_dir is not None:
        loose = Path(request.data_dir).expanduser() / f"{request.corpus}.txt"
        path = loose if loose.is_file() else None
    if path is None or path.is_dir():
        if request.corpus != request.task:
            return generated.find(request)
        if path is not None:
            what = f"no {request.task}.txt in the folder"
            raise InputError.one(str(path), what, f"fetch it from {HOME}, or write '{request.task}@CONLLU_FOLDER'")
        hint = f"fetch {request.task}.txt from {HOME}, or generate the set: {request.task}@ud_ewt"
        raise request.absent(*names, hint=hint)
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": "senteval",
        "fingerprint": fingerprint([("all", path)]),
    }
    return Found(request.corpus, spec, dict(SIZES), partial(read, request.task, path, request.corpus))


def read(task: str, path: Path, corpus: str) -> TaskData:
    """Parse one file.

    Raises
    ------
    InputError
        With file and line: a wrong number of columns, an unknown split or label, empty text; no training line.
    """
    problems: list[Problem] = []
    sentences: list[Sentence] = []
    labels: list[str] = []
    for number, line in enumerate(text_lines(path), start=1):
        cells = line.split("\t")
        what = _problem(cells, LABELS[task])
        if what:
            problems.append(Problem(f"{path}:{number}", *what))
            continue
        name, label, text = cells
        sentences.append(Sentence(f"{name}-{number}", SPLITS[name], text.strip()))
        labels.append(label)
    refuse(problems, path)
    if not any(sentence.split == "train" for sentence in sentences):
        raise InputError.one(str(path), "no train split: no line begins with tr", "fetch the whole file again")
    items = range(len(labels))
    return TaskData(Corpus(corpus, tuple(sentences)), LabelSet(task, tuple(items), (-1,) * len(labels), tuple(labels)))


def _problem(cells: list[str], labels: tuple[str, ...]) -> tuple[str, str] | None:
    if len(cells) != 3:
        return f"{len(cells)} tab-separated columns instead of 3", "expected split, label, text"
    if cells[0] not in SPLITS:
        return f"unknown split '{cells[0]}'", "one of: tr, va, te"
    if cells[1] not in labels:
        return f"unknown label '{cells[1]}'", nearest(cells[1], labels)
    return None if cells[2].strip() else ("empty text", "remove the line or fill in its text")


TASKS = (
    Task(
        name="bigram_shift",
        level="sentence",
        corpus="bigram_shift",
        metrics=("accuracy",),
        find=find,
        description="two adjacent words swapped or not (SentEval; @CORPUS generates it from CoNLL-U)",
    ),
    Task(
        name="coordination_inversion",
        level="sentence",
        corpus="coordination_inversion",
        metrics=("accuracy",),
        find=find,
        description="two coordinate clauses swapped or not (SentEval; @CORPUS generates it from CoNLL-U)",
    ),
    Task(
        name="odd_man_out",
        level="sentence",
        corpus="odd_man_out",
        metrics=("accuracy",),
        find=find,
        description="a noun or verb replaced or not (SentEval; @CORPUS generates it, backoff: rank)",
    ),
    Task(
        name="odd_man_out_drop",
        level="sentence",
        corpus="ud_ewt",
        metrics=("accuracy",),
        find=generated.find,
        description="odd_man_out generated from CoNLL-U with backoff: drop (replacements match exactly)",
    ),
)
