"""Natural Questions (Kwiatkowski et al. 2019): the simplified JSON lines, or the original ones, of which dev is made.

An item is a question about a Wikipedia page. The passage is the page's tokens joined by single blanks, HTML tags among
them; `passage.split(" ")` gives them back. Every place counts these tokens, ends exclusive. The label is JSON:
`{"candidates": [[start, end, top_level], ...], "long": [span or null, ...], "short": [[span, ...], ...],
"yes_no": ["none" | "yes" | "no", ...]}`, the last three with one entry an annotator (train 1, dev 5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ftprobe.errors import InputError
from ftprobe.tasks.lines import fingerprint
from ftprobe.tasks.questions import Files, Question, assemble, field, json_lines, split_files
from ftprobe.tasks.sampling import cut_test
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import TaskData

VERSION = 1
SUFFIXES = (".jsonl", ".jsonl.gz")
HOME = "https://ai.google.com/research/NaturalQuestions/download"
YES_NO = ("none", "yes", "no")
Span = tuple[int, int]


def find(request: Request) -> Found:
    """Local files of `request.corpus` (see `Task.find`)."""
    path = request.local(request.corpus)
    if path is None:
        raise request.absent(request.corpus, hint=f"v1.0-simplified_simplified-nq-train.jsonl.gz is at {HOME}")
    files = split_files(path, SUFFIXES)
    cut = files[0][0] == "all"
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": "natural_questions",
        "fingerprint": fingerprint(files),
    }
    if cut:
        spec["split"] = "80/20 by question"
    return Found(request.corpus, spec, None, partial(read, request.task, files, request.corpus), cut)


def read(task: str, files: Files, corpus: str) -> TaskData:
    """Parse the files; a single file is cut 80/20 by question.

    Raises
    ------
    InputError
        With file and line: no JSON, a missing or mistyped field, a span outside the page, a yes/no answer that is none
        of `YES_NO`, an id that occurs twice; too few questions to cut.
    """
    questions: list[Question] = []
    for role, path in files:
        made = list(_questions(path))
        if role == "all":
            test = cut_test(question.id for question in made)
            if not test:
                raise InputError.one(str(path), f"{len(made)} questions are too few to split 80/20", "give train too")
            made = [question._replace(split="test" if question.id in test else "train") for question in made]
        else:
            made = [question._replace(split=role) for question in made]
        questions += made
    return assemble(task, corpus, questions, ())


def _questions(path: Path) -> Iterator[Question]:
    for number, line in json_lines(path):
        where = f"{path}:{number}"
        passage = _passage(line, where)
        length = passage.count(" ") + 1
        label = json.dumps(_label(line, length, where))
        text = field(line, "question_text", str, where).strip()
        document = str(line.get("document_url") or line.get("document_title") or "")
        yield Question(str(line.get("example_id", number)), "train", text, passage, label, document)


def _passage(line: Mapping[str, Any], where: str) -> str:
    """The page as the simplified files have it, which of the original ones Google's `simplify_nq_example` makes."""
    if "document_text" in line:
        return field(line, "document_text", str, where)
    tokens = field(line, "document_tokens", list, where)
    return " ".join(field(token, "token", str, where).replace(" ", "_") for token in tokens)


def _label(line: Mapping[str, Any], length: int, where: str) -> dict[str, object]:
    annotations = field(line, "annotations", list, where)
    if not annotations:
        raise InputError.one(where, "no annotation", "use the annotated files (train or dev)")
    candidates = [
        (*_span(candidate, length, where), bool(field(candidate, "top_level", bool, where)))
        for candidate in field(line, "long_answer_candidates", list, where)
    ]
    long: list[Span | None] = []
    short: list[list[Span]] = []
    yes_no: list[str] = []
    for annotation in annotations:
        answer = field(annotation, "long_answer", dict, where)
        long.append(None if field(answer, "start_token", int, where) < 0 else _span(answer, length, where))
        spans = field(annotation, "short_answers", list, where)
        short.append([_span(span, length, where) for span in spans])
        said = field(annotation, "yes_no_answer", str, where).lower()
        if said not in YES_NO:
            raise InputError.one(where, f"yes_no_answer '{said}'", f"one of: {', '.join(YES_NO)}")
        yes_no.append(said)
    return {"candidates": candidates, "long": long, "short": short, "yes_no": yes_no}


def _span(value: object, length: int, where: str) -> Span:
    start, end = field(value, "start_token", int, where), field(value, "end_token", int, where)
    if not 0 <= start < end <= length:
        raise InputError.one(where, f"span {start}:{end} of a page of {length} tokens", "fetch the file again")
    return start, end


TASKS = (
    Task(
        name="natural_questions",
        level="question",
        corpus="natural_questions",
        metrics=("short_f1", "short_p", "short_r", "long_f1", "long_p", "long_r"),
        find=find,
        description="long and short answers to questions in Wikipedia pages (Kwiatkowski et al. 2019)",
        objective="span_type",
    ),
)
