"""Questions about passages: SQuAD's JSON, MRQA's JSON lines, offsets, splits, training on one corpus for another."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe.errors import InputError
from ftprobe.tasks import locate, warnings
from ftprobe.tasks.squad import NEAR, from_columns, place
from ftprobe.tasks.types import TaskData

PASSAGE = "Émile 𝒳 met a cat. The cat sat."


def asked(key: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    said = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": key, "question": f" Who is {key} ? ", "answers": said, **more}


def squad(*articles: list[dict[str, Any]], passage: str = PASSAGE) -> str:
    data = [
        {"title": f"T{number}", "paragraphs": [{"context": passage, "qas": qas}]} for number, qas in enumerate(articles)
    ]
    return json.dumps({"version": "1.1", "data": data})


GOOD = {
    "train-v1.1.json": squad([asked("a", ("cat", 14)), asked("b", ("cat", 23), ("The cat", 19))]),
    "dev-v1.1.json": squad([asked("c", ("𝒳", 6))]),
}


def read(folder: Path, files: dict[str, str], task: str = "squad") -> TaskData:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, "utf-8")
    return locate(f"{task}@mine", data={"mine": str(folder)}).read()


def answers(data: TaskData, item: int = 0) -> Any:
    return json.loads(data.labels.label_N[item])["answers"]


def test_official_files(tmp_path: Path) -> None:
    data = read(tmp_path, GOOD)
    assert [(s.id, s.split, s.text, s.text_b, s.document) for s in data.corpus.sentences] == [
        ("a", "train", "Who is a ?", PASSAGE, "T0"),
        ("b", "train", "Who is b ?", PASSAGE, "T0"),
        ("c", "test", "Who is c ?", PASSAGE, "T0"),
    ]
    assert json.loads(data.labels.label_N[1]) == {"answers": [[23, "cat"], [19, "The cat"]], "impossible": False}
    assert answers(data, 2) == [[6, "𝒳"]]  # code points: 𝒳 is one
    assert data.labels.word_N == (-1, -1, -1)
    assert warnings(data, classes=False) == []


@pytest.mark.parametrize("reference", ["squad@squadshifts", "squad@xquad_en"])
def test_every_answer_of_real_corpora_stands_at_its_offset(reference: str, shared_data: Path) -> None:
    data = locate(reference, data={}, data_dir=str(shared_data)).read()
    assert len(data.labels.label_N) == {"squad@squadshifts": 7938, "squad@xquad_en": 1190}[reference]
    assert not data.measurements
    for sentence, label in zip(data.corpus.sentences, data.labels.label_N, strict=True):
        for start, text in json.loads(label)["answers"]:
            assert (sentence.text_b or "")[start : start + len(text)] == text


def test_a_single_file_is_cut_by_article(shared_data: Path) -> None:
    source = locate("squad@xquad_en", data={}, data_dir=str(shared_data))
    data = source.read()
    assert source.corpus_spec["split"] == "80/20 by article"
    split_of: dict[str, set[str]] = {}
    for sentence in data.corpus.sentences:
        split_of.setdefault(sentence.document, set()).add(sentence.split)
    assert Counter(split for splits in split_of.values() for split in splits) == {"train": 39, "test": 9}
    assert all(len(splits) == 1 for splits in split_of.values())


def test_training_on_one_corpus_and_testing_on_another(shared_data: Path) -> None:
    source = locate("squad@squadshifts+xquad_en", data={}, data_dir=str(shared_data))
    data = source.read()
    assert Counter(s.split for s in data.corpus.sentences) == {"train": 7938, "test": 1190}
    assert data.corpus.sentences[7938].text == "How many points did the Panthers defense surrender?"
    assert answers(data, 7938) == [[34, "308"]]


def test_unanswerable_questions_are_those_of_squad_v2(tmp_path: Path) -> None:
    files = {"train.json": squad([asked("a", ("cat", 14)), asked("b", is_impossible=True)]), "dev.json": squad([])}
    with pytest.raises(InputError, match=r"qas\[1\]: question 'b' is unanswerable; use the task squad_v2"):
        read(tmp_path, files)
    files["dev.json"] = GOOD["dev-v1.1.json"]
    data = read(tmp_path, files, "squad_v2")
    assert json.loads(data.labels.label_N[1]) == {"answers": [], "impossible": True}


def test_answers_that_do_not_stand_at_their_offset_are_put_right_or_left_out_and_counted(tmp_path: Path) -> None:
    files = {
        **GOOD,
        "train-v1.1.json": squad(
            [asked("near", ("met", 9)), asked("twice", ("cat", 15)), asked("one", ("dog", 3), ("cat", 14))]
        ),
    }
    data = read(tmp_path, files)
    assert [s.id for s in data.corpus.sentences] == ["near", "one", "c"]
    assert answers(data) == [[8, "met"]]
    assert answers(data, 1) == [[14, "cat"]]
    assert warnings(data, classes=False) == [
        "2 train items repaired: an answer did not stand at its offset; it was moved to where it stands once nearby, "
        "or left out beside others",
        "1 train items dropped: no answer stands at its offset, nor once nearby",
    ]


@given(st.text("ab", max_size=80), st.integers(-5, 90), st.text("ab", min_size=1, max_size=3))
def test_a_place_is_the_offset_or_the_only_one_nearby(passage: str, start: int, text: str) -> None:
    found = place(passage, start, text)
    everywhere = [at for at in range(len(passage)) if passage.startswith(text, at)]
    near = [at for at in everywhere if max(0, start - NEAR) <= at <= max(0, start) + NEAR]
    if start in everywhere:
        assert found == start
    else:
        assert found == (near[0] if len(near) == 1 else -1)


MRQA = [
    {"header": {"dataset": "mine", "split": "train"}},
    {
        "context": PASSAGE,
        "qas": [
            {
                "qid": "q1",
                "question": "Who sat ?",
                "answers": ["The cat", "Felix"],
                "detected_answers": [{"text": "the cat", "char_spans": [[19, 25]], "token_spans": [[5, 6]]}],
            }
        ],
    },
]


def test_mrqa_files_with_inclusive_ends_and_answers_without_a_place(tmp_path: Path) -> None:
    tmp_path.joinpath("mine").mkdir()
    lines = "\n".join(map(json.dumps, MRQA))
    with gzip.open(tmp_path / "mine" / "Mine-train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    (tmp_path / "mine" / "Mine-dev.jsonl").write_text(lines.replace("q1", "q2"), "utf-8")
    data = locate("squad@mine", data={"mine": str(tmp_path / "mine")}).read()
    assert [(s.id, s.split) for s in data.corpus.sentences] == [("q1", "train"), ("q2", "test")]
    assert answers(data) == [[19, "The cat"], [-1, "Felix"]]


@pytest.mark.parametrize("bad", ["[19, 99]", "[25, 19]", "[-1, 3]", "[19]", "3", '["a", 3]'])
def test_mrqa_spans_outside_the_passage_are_refused(bad: str, tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, MRQA)).replace("[19, 25]", bad)
    (tmp_path / "train.jsonl").write_text(lines, "utf-8")
    (tmp_path / "dev.jsonl").write_text(lines, "utf-8")
    with pytest.raises(InputError, match=r"train\.jsonl:2, qas\[0\]: a span of .* lies outside the passage"):
        locate("squad@mine", data={"mine": str(tmp_path)}).read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"data": {}}', "no field 'data' that is a list"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "data[0].paragraphs[0]: no field 'context' that is a str"),
        ('{"data": []}', "no question in the file"),
        (squad([asked("a")]), "question 'a' has no answer; use the file with answers"),
        (squad([asked("a", ("cat", 14)), asked("a", ("cat", 14))]), "two questions have the id 'a'"),
        (squad([{"id": 3, "question": "?", "answers": []}]), "qas[0]: no field 'id' that is a str"),
        (squad([asked("a", ("cat", True))]), "qas[0]: no field 'answer_start' that is a int"),
        (squad([{**asked("a", ("cat", 14)), "question": " "}]), "qas[0]: field 'question' is empty"),
        (squad([asked("a", ("cat", 14))], passage="\ud800"), "field 'context' is not Unicode text"),
        ('{"data": [' * 5000, "not JSON"),
    ],
)
def test_malformed_files(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, {**GOOD, "train-v1.1.json": content})
    assert said in str(error.value)


def test_files_whose_split_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json or \.jsonl or \.jsonl\.gz file in the folder"):
        locate("squad@mine", data={"mine": str(tmp_path)})
    (tmp_path / "wiki.json").write_text(GOOD["dev-v1.1.json"], "utf-8")
    with pytest.raises(InputError, match="1 articles are too few to split 80/20"):
        locate("squad@mine", data={"mine": str(tmp_path)}).read()
    (tmp_path / "news.json").write_text(GOOD["dev-v1.1.json"], "utf-8")
    with pytest.raises(InputError, match=r"wiki\.json: its name says no split"):
        locate("squad@mine", data={"mine": str(tmp_path)})
    for name in ("wiki.json", "news.json"):
        (tmp_path / name).unlink()
    (tmp_path / "dev-v1.1.json").write_text(GOOD["dev-v1.1.json"], "utf-8")
    (tmp_path / "test.json").write_text(GOOD["dev-v1.1.json"], "utf-8")
    with pytest.raises(InputError, match="no train split"):
        locate("squad@mine", data={"mine": str(tmp_path)})


def test_hub_rows_give_what_local_files_give(tmp_path: Path) -> None:
    def row(key: str, *said: tuple[str, int]) -> dict[str, Any]:
        columns = {"answer_start": [start for _, start in said], "text": [text for text, _ in said]}
        return {"id": key, "title": "T0", "question": f"Who is {key} ?", "context": PASSAGE, "answers": columns}

    hub = {"train": [row("a", ("cat", 14)), row("b")], "validation": [row("c", ("𝒳", 6))]}
    files = {
        "train.json": squad([asked("a", ("cat", 14)), asked("b", is_impossible=True)]),
        "dev.json": GOOD["dev-v1.1.json"],
    }
    local = read(tmp_path, files, "squad_v2")
    assert from_columns("squad_v2", hub).labels == local.labels
    assert from_columns("squad_v2", hub).corpus.sentences == local.corpus.sentences
    assert locate("squad", data={}).sizes == {"train": 87599, "test": 10570}
