"""Extractive question answering: SQuAD 1.1 and 2.0 JSON, and MRQA's JSON lines.

An item is a question about a passage. Its label is JSON: `{"answers": [[start, text], ...], "impossible": bool}`, where
`start` counts the characters (Unicode code points) of the passage before the answer. An answer that is only accepted,
and whose place is not known (MRQA), has the start -1 and stands after those that have one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ftprobe.errors import InputError
from ftprobe.measurement import Measurement
from ftprobe.tasks.lines import fingerprint
from ftprobe.tasks.questions import (
    Files,
    Question,
    Role,
    assemble,
    count,
    field,
    json_lines,
    json_object,
    split_files,
)
from ftprobe.tasks.sampling import cut_test
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Split, TaskData

VERSION = 1
SUFFIXES = (".json", ".jsonl", ".jsonl.gz")
NEAR = 32
"""An answer that does not stand at its offset is looked for this many characters around it."""
HOME = "https://rajpurkar.github.io/SQuAD-explorer"
MOVED = "an answer did not stand at its offset; it was moved to where it stands once nearby, or left out beside others"
LOST = "no answer stands at its offset, nor once nearby"
Answers = list[tuple[int, str]]


class Hub(NamedTuple):
    """A data set on the Hugging Face hub at a pinned revision, and its sizes."""

    name: str
    revision: str
    sizes: dict[Split, int]


HUB = {
    "squad": Hub("rajpurkar/squad", "7b6d24c440a36b6815f21b70d25016731768db1f", {"train": 87599, "test": 10570}),
    "squad_v2": Hub("rajpurkar/squad_v2", "3ffb306f725f7d2ce8394bc1873b24868140c412", {"train": 130319, "test": 11873}),
}


class Raw(NamedTuple):
    """A question as its file has it; `group` (article, or line) is what one split keeps together."""

    place: str
    group: str
    id: str
    text: str
    passage: str
    answers: Answers
    accepted: tuple[str, ...] = ()
    impossible: bool = False


def find(request: Request) -> Found:
    """Local files of `request.corpus`, else the hub (see `Task.find`)."""
    path = request.local(request.corpus)
    if path is not None:
        files = split_files(path, SUFFIXES)
        cut = files[0][0] == "all"
        spec = _spec(fingerprint(files), cut=cut)
        return Found(request.corpus, spec, None, partial(read_local, request.task, files, request.corpus), cut)
    if request.offline or request.corpus != request.task:
        raise request.absent(request.corpus, hint=f"train-v1.1.json and dev-v1.1.json are at {HOME}")
    hub = HUB[request.task]
    spec = _spec(f"hub:{hub.name}@{hub.revision}", cut=False)
    return Found(request.corpus, spec, dict(hub.sizes), partial(read_hub, request.task))


def _spec(print_: str, *, cut: bool) -> dict[str, object]:
    spec: dict[str, object] = {"stage": "corpus", "version": VERSION, "family": "squad", "fingerprint": print_}
    return {**spec, "split": "80/20 by article"} if cut else spec


def read_local(task: str, files: Files, corpus: str) -> TaskData:
    """Parse the files; a single file is cut 80/20 by article (MRQA: by passage).

    Answers that do not stand at their offset are put right where their text stands once nearby; questions whose
    answers are all lost are left out, and both are counted.

    Raises
    ------
    InputError
        With file and place: no JSON, a missing or mistyped field, a question without answer in a task where every
        question has one, an id that occurs twice; too few articles to cut.
    """
    made: list[Question] = []
    counts: list[Measurement] = []
    for role, path in files:
        raws = list(_mrqa(path) if ".jsonl" in path.name else _squad(path))
        _refuse(task, raws, path)
        questions, counted = located(raws, _splits(role, raws, path))
        made += questions
        counts += counted
    return assemble(task, corpus, made, counts)


def _refuse(task: str, raws: Sequence[Raw], path: Path) -> None:
    if not raws:
        raise InputError.one(str(path), "no question in the file", "fetch it again")
    for raw in raws:
        if not raw.answers and not raw.impossible:
            raise InputError.one(raw.place, f"question '{raw.id}' has no answer", "use the file with answers")
        if raw.impossible and task == "squad":
            raise InputError.one(raw.place, f"question '{raw.id}' is unanswerable", "use the task squad_v2")


def _splits(role: Role, raws: Sequence[Raw], path: Path) -> list[Split]:
    if role != "all":
        return [role] * len(raws)
    groups = {raw.group for raw in raws}
    test = cut_test(groups)
    if not test:
        raise InputError.one(str(path), f"{len(groups)} articles are too few to split 80/20", "give a train file too")
    return ["test" if raw.group in test else "train" for raw in raws]


def located(raws: Sequence[Raw], splits: Sequence[Split]) -> tuple[list[Question], list[Measurement]]:
    """Questions whose answers stand where they say, and counts by split of those moved and left out."""
    questions: list[Question] = []
    moved: Counter[Split] = Counter()
    lost: Counter[Split] = Counter()
    for raw, split in zip(raws, splits, strict=True):
        checked = [(found, text) for start, text in raw.answers if (found := place(raw.passage, start, text)) >= 0]
        if raw.answers and not checked:
            lost[split] += 1
            continue
        moved[split] += checked != raw.answers
        texts = {text for _, text in checked}
        answers = [*checked, *((-1, text) for text in raw.accepted if text not in texts)]
        label = json.dumps({"answers": answers, "impossible": raw.impossible}, ensure_ascii=False)
        questions.append(Question(raw.id, split, raw.text.strip(), raw.passage, label, raw.group))
    counts = [count("n_repaired", split, number, MOVED) for split, number in sorted(moved.items()) if number]
    counts += [count("n_dropped", split, number, LOST) for split, number in sorted(lost.items())]
    return questions, counts


def place(passage: str, start: int, text: str) -> int:
    """Where `text` stands: at `start`, else where it stands once within `NEAR` characters, else -1.

    >>> place("the cat sat", 4, "cat"), place("the cat sat", 5, "cat"), place("cat cat", 1, "cat")
    (4, 4, -1)
    """
    if start >= 0 and text and passage.startswith(text, start):
        return start
    first = max(0, start - NEAR)
    near = passage[first : max(0, start) + len(text) + NEAR]
    at = near.find(text) if text else -1
    return first + at if at >= 0 and near.find(text, at + 1) < 0 else -1


def _squad(path: Path) -> Iterator[Raw]:
    for number, article in enumerate(field(json_object(path), "data", list, str(path))):
        here = f"{path}, data[{number}]"
        group = str(article.get("title") or number) if isinstance(article, dict) else ""
        for position, paragraph in enumerate(field(article, "paragraphs", list, here)):
            there = f"{here}.paragraphs[{position}]"
            passage = field(paragraph, "context", str, there)
            for at, asked in enumerate(field(paragraph, "qas", list, there)):
                where = f"{there}.qas[{at}]"
                answers = [
                    (field(answer, "answer_start", int, where), field(answer, "text", str, where))
                    for answer in field(asked, "answers", list, where)
                ]
                impossible = bool(asked.get("is_impossible", False))
                key, text = field(asked, "id", str, where), field(asked, "question", str, where)
                yield Raw(where, group, key, text, passage, [] if impossible else answers, impossible=impossible)


def _mrqa(path: Path) -> Iterator[Raw]:
    """MRQA 2019: a header line, then a passage a line; spans of detected answers include their last character."""
    for number, line in json_lines(path):
        here = f"{path}:{number}"
        if "header" in line:
            continue
        passage = field(line, "context", str, here)
        for at, asked in enumerate(field(line, "qas", list, here)):
            where = f"{here}, qas[{at}]"
            spans = [
                span
                for answer in field(asked, "detected_answers", list, where)
                for span in field(answer, "char_spans", list, where)
            ]
            if not all(_is_span(span, len(passage)) for span in spans):
                raise InputError.one(where, f"a span of {spans} lies outside the passage", "fetch the file again")
            answers = [(first, passage[first : last + 1]) for first, last in spans]
            key = field(asked, "qid" if "qid" in asked else "id", str, where)
            accepted = tuple(map(str, field(asked, "answers", list, where))) if "answers" in asked else ()
            yield Raw(where, f"line {number}", key, field(asked, "question", str, where), passage, answers, accepted)


def _is_span(span: object, length: int) -> bool:
    """Whether `span` is [first, last], two places of a passage."""
    match span:
        case [int(first), int(last)]:
            return 0 <= first <= last < length
    return False


def read_hub(task: str) -> TaskData:
    """Download (or take from the hub's cache) the pinned revision."""
    from datasets import load_dataset

    hub = HUB[task]
    try:
        data = load_dataset(hub.name, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        repair = f"declare 'data: {{{task}: FOLDER}}' to read local files"
        raise InputError.one(hub.name, f"cannot be fetched from the hub ({error})", repair) from error
    return from_columns(task, data)


def from_columns(task: str, data: Any) -> TaskData:
    """The task of a `datasets.DatasetDict` with the splits train and validation, as SQuAD has on the hub."""
    raws: list[Raw] = []
    splits: list[Split] = []
    parts: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "test"))
    for name, split in parts:
        for row in data[name]:
            answers = list(zip(row["answers"]["answer_start"], row["answers"]["text"], strict=True))
            raw = Raw(name, row["title"], row["id"], row["question"], row["context"], answers)
            raws.append(raw._replace(impossible=not answers))
            splits.append(split)
    return assemble(task, task, *located(raws, splits))


TASKS = (
    Task(
        name="squad",
        level="question",
        corpus="squad",
        metrics=("f1", "em"),
        find=find,
        description="answer spans in passages (SQuAD 1.1, Rajpurkar et al. 2016; MRQA's files too)",
    ),
    Task(
        name="squad_v2",
        level="question",
        corpus="squad_v2",
        metrics=("f1", "em"),
        find=find,
        description="answer spans in passages, or none (SQuAD 2.0, Rajpurkar et al. 2018)",
    ),
)
