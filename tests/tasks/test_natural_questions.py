"""Natural Questions: the simplified lines, the original ones that dev is made of, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ftprobe.errors import InputError
from ftprobe.finetune.nq_scores import Annotation, judge_long, read_annotations
from ftprobe.tasks import TASKS, locate
from ftprobe.tasks.types import TaskData

PAGE = '<P> A string is a_list of characters . </P> <Table colspan="2" > x </Table>'


def annotation(long: tuple[int, int] = (-1, -1), short: tuple[tuple[int, int], ...] = (), said: str = "NONE") -> Any:
    spans = [{"start_token": start, "end_token": end} for start, end in short]
    own = {"start_token": long[0], "end_token": long[1], "candidate_index": 0 if long[0] >= 0 else -1}
    return {"annotation_id": 1, "long_answer": own, "short_answers": spans, "yes_no_answer": said}


def line(key: int, *annotations: Any, **more: Any) -> dict[str, Any]:
    candidates = [
        {"start_token": 0, "end_token": 9, "top_level": True},
        {"start_token": 1, "end_token": 8, "top_level": False},
    ]
    own = {"example_id": key, "question_text": "what is a string", "document_url": "http://x/string"}
    said = {"long_answer_candidates": candidates, "annotations": list(annotations)}
    return {**own, "document_text": PAGE, **said, **more}


TRAIN = line(3902, annotation((0, 9), ((4, 5), (6, 7))))
DEV = line(-7, annotation((0, 9), said="YES"), annotation(), annotation((1, 8)), annotation(), annotation())


def read(folder: Path, train: list[Any], dev: list[Any]) -> TaskData:
    with gzip.open(folder / "v1.0-simplified_simplified-nq-train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, train)))
    (folder / "nq-dev-00.jsonl").write_text("\n".join(map(json.dumps, dev)), "utf-8")
    return locate("natural_questions", data={"natural_questions": str(folder)}).read()


def test_the_simplified_format(tmp_path: Path) -> None:
    data = read(tmp_path, [TRAIN], [DEV])
    first = data.corpus.sentences[0]
    assert first == ("3902", "train", "what is a string", PAGE, None, "http://x/string")
    assert (first.text_b or "").split(" ")[4:5] == ["a_list"]
    assert json.loads(data.labels.label_N[0]) == {
        "candidates": [[0, 9, True], [1, 8, False]],
        "long": [[0, 9]],
        "short": [[[4, 5], [6, 7]]],
        "yes_no": ["none"],
    }
    assert data.corpus.sentences[1].split == "test"
    assert json.loads(data.labels.label_N[1])["long"] == [[0, 9], None, [1, 8], None, None]
    assert (TASKS["natural_questions"].objective, TASKS["natural_questions"].classes) == ("span_type", False)


def test_labels_are_what_the_scores_read(tmp_path: Path) -> None:
    given = read_annotations(read(tmp_path, [TRAIN], [DEV]).labels.label_N[1])
    assert given[0] == Annotation((0, 9), (), "yes")
    assert judge_long([given], [Annotation((1, 8))], [0.0]).correct_N.tolist() == [True]


def test_original_lines_give_the_simplified_page(tmp_path: Path) -> None:
    tokens = [{"token": token.replace("_", " "), "html_token": False} for token in PAGE.split(" ")]
    original = {key: value for key, value in DEV.items() if key != "document_text"}
    data = read(tmp_path, [TRAIN], [{**original, "document_tokens": tokens}])
    assert data.corpus.sentences[1].text_b == PAGE


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (line(1), "no annotation; use the annotated files"),
        (line(1, annotation((0, 99))), "span 0:99 of a page of 14 tokens"),
        (line(1, annotation((0, 9), ((5, 5),))), "span 5:5"),
        (line(1, annotation(said="MAYBE")), "yes_no_answer 'maybe'; one of: none, yes, no"),
        (line(1, annotation(), document_text=3), "no field 'document_text' that is a str"),
        (line(1, annotation(), document_text=" "), "field 'document_text' is empty"),
        (line(1, {**annotation(), "long_answer": {}}), "no field 'start_token' that is a int"),
        (line(1, 3), "no field 'long_answer' that is a dict"),
        (line(1, annotation(), long_answer_candidates=[{"start_token": 0, "end_token": 1}]), "no field 'top_level'"),
    ],
)
def test_malformed_lines(bad: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, [TRAIN, bad], [DEV])
    assert said in str(error.value)
    assert "train.jsonl.gz:2" in str(error.value)


GZIPPED = gzip.compress(json.dumps(TRAIN).encode(), mtime=0)


@pytest.mark.parametrize(
    "content", [b"not gzip", GZIPPED[:-12], GZIPPED[:40] + b"\0\0" + GZIPPED[42:], gzip.compress(b"\xff{", mtime=0)]
)
def test_files_that_are_not_what_their_name_says(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.gz").write_bytes(content)
    (tmp_path / "dev.jsonl").write_text(json.dumps(DEV), "utf-8")
    with pytest.raises(InputError, match=r"train\.jsonl\.gz(:1)?: (cannot be read|not JSON)"):
        locate("natural_questions", data={"natural_questions": str(tmp_path)}).read()


def test_a_single_file_is_cut_by_question(tmp_path: Path) -> None:
    (tmp_path / "part.jsonl").write_text("\n".join(json.dumps({**TRAIN, "example_id": k}) for k in range(10)), "utf-8")
    data = locate("natural_questions@mine", data={"mine": str(tmp_path)}).read()
    assert [s.split for s in data.corpus.sentences].count("test") == 2
