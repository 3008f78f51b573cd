"""STREUSLE: the official counts, the words of the treebank it annotates, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ftprobe.errors import InputError
from ftprobe.tasks import locate, warnings
from ftprobe.tasks.treebank import read_trees
from ftprobe.tasks.types import TaskData

UD = "{}\t{}\t_\tX\tX\t_\t{}\tdep\t_\t_\t"
GOOD = (
    "# newdoc id = d\n# sent_id = s\n# text = He ran out of it.\n"
    + UD.format(1, "He", 2) + "_\tPRON\the\t_\t_\t_\t_\t_\tO-PRON\n"
    + UD.format(2, "ran", 0) + "_\tV\trun\tv.motion\t_\t_\t_\t_\tO-V-v.motion\n"
    + UD.format(3, "out", 2) + "1:1\tP\tout of\tp.Source\tp.Source\t_\t_\t_\tB-P-p.Source\n"
    + UD.format(4, "of", 3) + "1:2\t_\t_\t_\t_\t_\t_\t_\tI_\n"
    + UD.format(5, "its", 2) + "_\tPRON.POSS\tits\tp.Whole\tp.Gestalt\t_\t_\t_\tO-PRON.POSS-p.Whole|p.Gestalt\n"
    + UD.format(6, "to", 2) + "_\tP\tto\t??\t??\t_\t_\t_\tO-P-??\n\n"
)  # fmt: skip
NAMES = {split: f"streusle.ud_{split}.conllulex" for split in ("train", "dev", "test")}


def read(task: str, folder: Path, **contents: str) -> TaskData:
    for split, name in NAMES.items():
        (folder / name).write_text(contents.get(split, GOOD), "utf-8")
    return locate(f"{task}@mine", data={"mine": str(folder)}).read()


@pytest.mark.parametrize(("task", "labels"), [("ps_role", (46, 39, 39)), ("ps_fxn", (38, 35, 33))])
def test_items_and_labels_have_their_counts(task: str, labels: tuple[int, ...], shared_data: Path) -> None:
    data = locate(task, data={}, data_dir=str(shared_data)).read()
    of_item = [data.corpus.sentences[s].split for s in data.labels.sentence_N]
    assert Counter(of_item) == {"train": 4285, "dev": 433, "test": 457}
    assert Counter(s.split for s in data.corpus.sentences) == {"train": 2725, "dev": 554, "test": 535}
    found = [{label for label, at in zip(data.labels.label_N, of_item, strict=True) if at == split} for split in NAMES]
    assert tuple(map(len, found)) == labels
    assert all(label.startswith("p.") for label in data.labels.label_N)
    unseen = (found[1] | found[2]) - found[0]
    assert [line.partition(" never")[0] for line in warnings(data)] == [f"label '{name}'" for name in sorted(unseen)]


def test_every_word_of_the_treebank_is_in_the_corpus(shared_data: Path) -> None:
    role, function = (locate(name, data={}, data_dir=str(shared_data)) for name in ("ps_role", "ps_fxn"))
    assert role.corpus_spec == function.corpus_spec
    data, other = role.read(), function.read()
    assert data.corpus == other.corpus
    assert data.labels[1:3] == other.labels[1:3]
    files = sorted((shared_data / "ud_ewt").glob("*.conllu"))
    treebank = {tree.id: tuple(word.form for word in tree.words) for path in files for tree in read_trees(path)}
    assert [s.words for s in data.corpus.sentences] == [treebank[s.id] for s in data.corpus.sentences]


def test_items_have_the_lexical_categories_of_the_paper_and_their_rows(shared_data: Path) -> None:
    rows = [
        line.split("\t")
        for line in (shared_data / "streusle" / NAMES["train"]).read_text("utf-8").split("\n")
        if line[:1].isdigit()
    ]
    items = [row for row in rows if row[10] == "_" and row[13].startswith("p.")]
    assert Counter(row[11] for row in items) == {"P": 3163, "PRON.POSS": 866, "INF.P": 205, "POSS": 51}
    for task, column in (("ps_role", 13), ("ps_fxn", 14)):
        data = locate(task, data={}, data_dir=str(shared_data)).read()
        places = zip(data.labels.sentence_N, data.labels.word_N, data.labels.label_N, strict=True)
        found = [((data.corpus.sentences[s].words or ())[word], label) for s, word, label in places]
        assert found[: len(items)] == [(row[1], row[column]) for row in items]


def test_only_single_tokens_with_an_adposition_supersense_are_items(tmp_path: Path) -> None:
    role, function = (read(task, tmp_path).labels for task in ("ps_role", "ps_fxn"))
    assert role.word_N == function.word_N == (4, 4, 4)
    assert role.label_N == ("p.Whole",) * 3
    assert function.label_N == ("p.Gestalt",) * 3
    assert role.head_N == ()


def test_files_lie_flat_or_by_split_as_in_the_repository(tmp_path: Path) -> None:
    flat = read("ps_role", tmp_path)
    clone = tmp_path / "clone"
    for split, name in NAMES.items():
        (clone / split).mkdir(parents=True)
        (clone / split / name).write_text(GOOD, "utf-8")
    source = locate("ps_role@mine", data={"mine": str(clone)})
    assert source.read() == flat
    assert source.corpus_spec == locate("ps_role@mine", data={"mine": str(tmp_path)}).corpus_spec


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("\tO-PRON\n", "\n", 4, "18 tab-separated columns instead of 19"),
        ("6\tto", "7\tto", 9, "word id 7 where 6 was expected"),
        ("\tX\tX\t_\t0\t", "\tX\tX\t_\t9\t", 5, "head 9 lies outside the sentence"),
        ("\tV\trun\tv.motion\t_", "\tV\trun\t\t_", 5, "empty column SS; write _ where there is no value"),
        ("1:2", "1-2", 7, "SMWE '1-2' is not a place in an expression"),
        ("p.Whole\tp.Gestalt", "p.Whole\t_", 8, "role 'p.Whole' has no function (SS2 is '_'); fill in column 15"),
        ("p.Whole\tp.Gestalt", "_\tp.Gestalt", 8, "function 'p.Gestalt' has no role (SS is '_'); fill in column 14"),
    ],
)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_malformed_files(split: str, old: str, new: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("ps_fxn", tmp_path, **{split: GOOD.replace(old, new)})
    assert str(error.value).startswith(f"{tmp_path / NAMES[split]}:{line}: {said}")
    assert len(error.value.problems) == 1


def test_all_problems_come_at_once_and_twenty_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("ps_role", tmp_path, train=GOOD.replace("1:1", "x") * 25)
    assert [problem.place.rpartition(":")[2] for problem in error.value.problems[:3]] == ["6", "16", "26"]
    assert [problem.what for problem in error.value.problems[20:]] == ["5 more problems like these"]


def test_missing_files_and_folders_are_named_with_the_repository(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        locate("ps_role", data={}, data_dir=str(tmp_path))
    assert "declare 'data: {streusle: FOLDER}'" in str(error.value)
    assert "https://github.com/nert-nlp/streusle" in str(error.value)
    read("ps_role", tmp_path)
    (tmp_path / NAMES["dev"]).unlink()
    with pytest.raises(InputError, match="no dev split: no such file"):
        locate("ps_role@mine", data={"mine": str(tmp_path)})
    with pytest.raises(InputError, match=r"give the folder that holds streusle\.ud_train\.conllulex"):
        locate("ps_role@mine", data={"mine": str(tmp_path / NAMES["train"])})
