"""GLUE's pair tasks from files as GLUE distributes them, and from the hub's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftprobe.errors import InputError
from ftprobe.tasks import TASKS, glue, locate, warnings
from ftprobe.tasks.types import TaskData

MRPC = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said "no .\tHe said no .\n0\t9\t1\tA .\tB .\n'
QQP = (
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWho ?\tWho is it ?\t1\n"
    "4\t5\t6\tHow ?\t\t0\n7\t8\t9\tbroken ?\n"
)
STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    "0\tnews\tMSR\t2012\t1\tnone\tnone\tA plane .\tAn air plane .\t5.000\n"
    "1\tnews\tMSR\t2012\t4\tnone\tnone\tA man .\tA dog .\t0.6\n"
)
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tlabel1\tgold_label\n"
    "0\t1\t1n\tfiction\t( A )\t( B )\t(A)\t(B)\tA b .\tB a .\tneutral\t{}\n"
)
QNLI = "index\tquestion\tsentence\tlabel\n0\tWho ?\tHe did .\tentailment\n1\tWhen ?\tHe did .\tnot_entailment\n"
FILES = {
    "mrpc": {"train.tsv": MRPC, "dev.tsv": MRPC},
    "qqp": {"train.tsv": QQP, "dev.tsv": QQP},
    "stsb": {"train.tsv": STSB, "dev.tsv": STSB},
    "mnli": {
        "train.tsv": MNLI.format("neutral"),
        "dev_matched.tsv": MNLI.format("entailment"),
        "dev_mismatched.tsv": MNLI.format("contradiction"),
    },
    "qnli": {"train.tsv": QNLI, "dev.tsv": QNLI},
}


def read(task: str, folder: Path, files: dict[str, str]) -> TaskData:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, "utf-8")
    return locate(task, data={task: str(folder)}).read()


@pytest.mark.parametrize(
    ("task", "pair", "labels"),
    [
        ("mrpc", ('He said "no .', "He said no ."), ("equivalent", "not_equivalent") * 2),
        ("qqp", ("Who ?", "Who is it ?"), ("duplicate", "not_duplicate") * 2),
        ("stsb", ("A plane .", "An air plane ."), ("5.000", "0.600") * 2),
        ("mnli", ("A b .", "B a ."), ("neutral", "entailment", "contradiction")),
        ("qnli", ("Who ?", "He did ."), ("entailment", "not_entailment") * 2),
    ],
)
def test_distributed_files(task: str, pair: tuple[str, str], labels: tuple[str, ...], tmp_path: Path) -> None:
    data = read(task, tmp_path, FILES[task])
    first = data.corpus.sentences[0]
    assert (first.text, first.text_b) == pair
    assert data.labels.label_N == labels
    splits = [s.split for s in data.corpus.sentences]
    assert splits == (["train", "test", "mismatched"] if task == "mnli" else ["train"] * 2 + ["test"] * 2)


def test_broken_rows_of_qqp_are_left_out_and_counted_and_empty_questions_kept(tmp_path: Path) -> None:
    data = read("qqp", tmp_path, FILES["qqp"])
    assert data.corpus.sentences[1][2:4] == ("How ?", "")
    assert warnings(data) == [
        "1 train items dropped: their rows lack columns",
        "1 test items dropped: their rows lack columns",
    ]
    with pytest.raises(InputError, match=r"train\.tsv:4: 1 tab-separated columns instead of 4"):
        read("qnli", tmp_path, {"train.tsv": QNLI + "broken\n", "dev.tsv": QNLI})


@pytest.mark.parametrize(
    ("task", "name", "old", "new", "said"),
    [
        ("stsb", "train.tsv", "5.000", "5.1", "train.tsv:2: '5.1' is not a score; expected a number from 0 to 5"),
        ("stsb", "train.tsv", "5.000", "nan", "train.tsv:2: 'nan' is not a score"),
        ("stsb", "dev.tsv", "0.6", "much", "dev.tsv:3: 'much' is not a score"),
        ("stsb", "dev.tsv", "\tscore", "", "dev.tsv:1: unlabelled: the header has no column 'score'"),
        (
            "mnli",
            "dev_mismatched.tsv",
            "\tcontradiction",
            "\t-",
            "dev_mismatched.tsv:2: unknown label '-'; one of: c",
        ),
        ("mrpc", "train.tsv", "Quality", "label", "train.tsv:1: unlabelled: the header has no column 'Quality'"),
    ],
)
def test_malformed_files(task: str, name: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    files = FILES[task]
    with pytest.raises(InputError) as error:
        read(task, tmp_path, {**files, name: files[name].replace(old, new)})
    assert said in str(error.value)


def test_mnli_needs_both_of_its_dev_sets(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES["mnli"].items() if name != "dev_mismatched.tsv"}
    with pytest.raises(InputError, match=r"no mismatched split of mnli; expected dev_mismatched\.tsv"):
        read("mnli", tmp_path, files)
    assert locate("mnli", data={}).sizes == {"train": 392702, "test": 9815, "mismatched": 9832}


def hub(task: str, rows: dict[str, dict[str, list[Any]]]) -> TaskData:
    datasets = pytest.importorskip("datasets")
    names = {
        "mnli": ["entailment", "neutral", "contradiction"],
        "mrpc": ["not_equivalent", "equivalent"],
    }.get(task)
    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    parts = {}
    for split, columns in rows.items():
        texts = {name: datasets.Value("string") for name in columns if name != "label"}
        features = datasets.Features({**texts, "label": label})
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    return glue.from_columns(glue.LAYOUTS[task], datasets.DatasetDict(parts))


def test_hub_columns_give_what_local_files_give(tmp_path: Path) -> None:
    def pair(label: int) -> dict[str, list[Any]]:
        return {"premise": ["A b ."], "hypothesis": ["B a . "], "label": [label]}

    mnli = {"train": pair(1), "validation_matched": pair(0), "validation_mismatched": pair(2)}
    assert hub("mnli", mnli) == read("mnli", tmp_path / "mnli", FILES["mnli"])
    scores = {"sentence1": ["A plane .", "A man ."], "sentence2": ["An air plane .", "A dog ."], "label": [5.0, 0.6]}
    assert hub("stsb", {"train": scores, "validation": scores}) == read("stsb", tmp_path / "stsb", FILES["stsb"])
    same = {"sentence1": ['He said "no .', "A ."], "sentence2": ["He said no .", "B ."], "label": [1, 0]}
    assert hub("mrpc", {"train": same, "validation": same}) == read("mrpc", tmp_path / "mrpc", FILES["mrpc"])


def test_unlabelled_rows_of_the_hub_are_refused() -> None:
    rows = {"sentence1": ["A ."], "sentence2": ["B ."], "label": [-1]}
    with pytest.raises(InputError, match="label -1 in train"):
        hub("mrpc", {"train": rows, "validation": rows})


def test_tasks_say_how_they_are_scored() -> None:
    assert (TASKS["stsb"].objective, TASKS["stsb"].classes) == ("regress", False)
    for name in ("mrpc", "qqp"):
        task = TASKS[name]
        assert task.metrics == ("accuracy", "f1")
        assert task.positive in glue.LAYOUTS[name].labels.values()
        assert glue.LAYOUTS[name].labels["1"] == task.positive
