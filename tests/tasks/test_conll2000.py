"""CoNLL-2000: the official counts, the chunks that the shared task counts, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ftprobe.errors import InputError
from ftprobe.tasks import locate, warnings
from ftprobe.tasks.types import TaskData

GOOD = "He PRP B-NP\nran VBD B-VP\nup RP B-PRT\nthe DT B-NP\nhill NN I-NP\n. . O\n\nWe PRP B-NP\nran VBD B-VP\n\n"


def read(task: str, folder: Path, train: str = GOOD, test: str = GOOD) -> TaskData:
    (folder / "train.txt").write_text(train, "utf-8")
    (folder / "test.txt").write_text(test, "utf-8")
    return locate(f"{task}@mine", data={"mine": str(folder)}).read()


@pytest.mark.parametrize(("task", "labels"), [("chunk", (22, 19)), ("ptb_pos", (44, 43))])
def test_words_and_tags_have_their_counts(task: str, labels: tuple[int, int], shared_data: Path) -> None:
    data = locate(task, data={}, data_dir=str(shared_data)).read()
    of_item = [data.corpus.sentences[s].split for s in data.labels.sentence_N]
    assert Counter(of_item) == {"train": 211727, "test": 47377}
    assert Counter(s.split for s in data.corpus.sentences) == {"train": 8936, "test": 2012}
    both = zip(data.labels.label_N, of_item, strict=True)
    found = Counter(split for _, split in set(both))
    assert (found["train"], found["test"]) == labels
    assert Counter(len(s.words or ()) for s in data.corpus.sentences) == Counter(
        Counter(data.labels.sentence_N).values()
    )


def test_the_tags_of_a_label_set_are_those_of_the_file(shared_data: Path) -> None:
    rows = [line.split(" ") for line in (shared_data / "conll2000" / "test.txt").read_text("utf-8").split("\n") if line]
    for task, column in (("ptb_pos", 1), ("chunk", 2)):
        data = locate(task, data={}, data_dir=str(shared_data)).read()
        words = [word for s in data.corpus.sentences if s.split == "test" for word in s.words or ()]
        assert words == [row[0] for row in rows]
        assert list(data.labels.label_N[-len(rows) :]) == [row[column] for row in rows]


def test_the_label_that_only_test_has_keeps_its_items(shared_data: Path) -> None:
    chunk, pos = (locate(name, data={}, data_dir=str(shared_data)) for name in ("chunk", "ptb_pos"))
    assert chunk.corpus_spec == pos.corpus_spec
    data = chunk.read()
    assert data.labels.label_N.count("I-LST") == 2
    assert warnings(data) == ["label 'I-LST' never occurs in train: 2 test items count as errors"]


def test_a_blank_line_ends_a_sentence_and_the_file_may_end_without_one(tmp_path: Path) -> None:
    data = read("chunk", tmp_path, train="\n\n" + GOOD + "\n", test=GOOD.rstrip("\n"))
    texts = ["He ran up the hill .", "We ran"]
    assert [(s.id, s.text) for s in data.corpus.sentences] == list(
        zip(["train-0", "train-1", "test-0", "test-1"], texts * 2, strict=True)
    )
    assert data.labels.sentence_N[:8] == (0, 0, 0, 0, 0, 0, 1, 1)
    assert data.labels.word_N[:8] == (0, 1, 2, 3, 4, 5, 0, 1)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("ran VBD B-VP\nup", "ran VBD\nup", 2, "2 columns instead of 3"),
        ("hill NN", "hill  NN", 5, "4 columns instead of 3"),
        ("hill NN", "hill\tNN", 5, "2 columns instead of 3"),
        ("the DT", " DT", 4, "empty word"),
        ("the DT", "the ", 4, "no part of speech"),
        (". . O", ". . o", 6, "'o' is not a chunk tag; expected O, B-TYPE or I-TYPE"),
        ("B-PRT", "PRT", 3, "'PRT' is not a chunk tag"),
        ("the DT B-NP", "the DT O", 5, "'I-NP' continues no chunk (after 'O'); begin it with B-NP"),
        ("the DT B-NP", "the DT B-VP", 5, "'I-NP' continues no chunk (after 'B-VP')"),
        ("\n\nWe PRP B-NP", "\n\nWe PRP I-NP", 8, "'I-NP' continues no chunk (after 'O')"),
        ("the DT B-NP", "the DT NP", 4, "'NP' is not a chunk tag"),
    ],
)
def test_malformed_files(old: str, new: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("ptb_pos", tmp_path, test=GOOD.replace(old, new, 1))
    assert str(error.value).startswith(f"{tmp_path / 'test.txt'}:{line}: {said}")
    assert len(error.value.problems) == 1


def test_missing_files_and_folders_are_named_with_their_home(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        locate("chunk", data={}, data_dir=str(tmp_path))
    assert "declare 'data: {conll2000: FOLDER}'" in str(error.value)
    assert "https://www.clips.uantwerpen.be/conll2000/chunking/" in str(error.value)
    (tmp_path / "train.txt").write_text(GOOD, "utf-8")
    with pytest.raises(InputError, match=r"test\.txt: no test split: no such file"):
        locate("chunk@mine", data={"mine": str(tmp_path)})
