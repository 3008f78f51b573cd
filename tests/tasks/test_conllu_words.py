"""Word tasks of treebanks: which pairs `dep` labels, and how a treebank of one file is split."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import conllu
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.errors import InputError
from ftprobe.tasks import locate
from ftprobe.tasks.sampling import cut_test
from ftprobe.tasks.types import TaskData

ROW = "{}\t{}\t_\tX\tX\t_\t{}\t{}\t_\t_\n"
TREE = (
    "# sent_id = s\n"
    + ROW.format(1, "We", 2, "nsubj:pass")
    + ROW.format(2, "ran", 0, "root")
    + ROW.format(3, ".", 2, "punct")
    + "\n"
)


def sentences(ids: list[str]) -> str:
    """Sentences whose one pair carries their own id, so that text and split can be told from the labels."""
    return "".join(
        f"# sent_id = {key}\n" + ROW.format(1, f"w{key}", 2, "dep") + ROW.format(2, "x", 0, "root") + "\n"
        for key in ids
    )


def read(task: str, folder: Path, **files: str) -> TaskData:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name.replace('_', '-')}.conllu").write_text(content, "utf-8")
    return locate(f"{task}@mine", data={"mine": str(folder)}).read()


@pytest.fixture(scope="module")
def dep(shared_data: Path) -> TaskData:
    return locate("dep", data={}, data_dir=str(shared_data)).read()


def test_dep_has_the_arcs_of_the_conllu_package_without_roots(dep: TaskData, shared_data: Path) -> None:
    with (shared_data / "ud_ewt" / "en_ewt-ud-dev.conllu").open(encoding="utf-8") as file:
        expected = [
            (tree.metadata["sent_id"], token["head"] - 1, token["id"] - 1, token["deprel"])
            for tree in conllu.parse_incr(file)
            for token in tree
            if isinstance(token["id"], int) and token["head"] != 0
        ]
    corpus, labels = dep.corpus, dep.labels
    of_dev = [
        (corpus.sentences[s].id, head, word, label)
        for s, head, word, label in zip(labels.sentence_N, labels.head_N, labels.word_N, labels.label_N, strict=True)
        if corpus.sentences[s].split == "dev"
    ]
    assert of_dev == expected


def test_dep_has_the_counts_of_the_treebank_and_a_modifier_once(dep: TaskData) -> None:
    of_item = [dep.corpus.sentences[s].split for s in dep.labels.sentence_N]
    assert Counter(of_item) == {"train": 204577 - 12544, "dev": 25147 - 2001, "test": 25094 - 2077}
    found = set(zip(of_item, dep.labels.label_N, strict=True))
    assert Counter(split for split, _ in found) == {"train": 50, "dev": 48, "test": 48}
    assert {("train", "nsubj:pass"), ("train", "acl:relcl")} < found
    assert ("train", "root") not in found
    assert len(set(zip(dep.labels.sentence_N, dep.labels.word_N, strict=True))) == len(dep.labels.word_N)


def test_parsing_has_every_word_with_its_head(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "ud_ewt" / "en_ewt-ud-test.conllu", tmp_path / "x-train.conllu")
    data = locate("ud_parsing@mine", data={"mine": str(tmp_path)}).read()
    with (tmp_path / "x-train.conllu").open(encoding="utf-8") as file:
        expected = [
            (tree.metadata["sent_id"], token["head"] - 1, token["id"] - 1, token["deprel"])
            for tree in conllu.parse_incr(file)
            for token in tree
            if isinstance(token["id"], int)
        ]
    labels, sentences = data.labels, data.corpus.sentences
    columns = zip(labels.sentence_N, labels.head_N, labels.word_N, labels.label_N, strict=True)
    assert [(sentences[s].id, *item) for s, *item in columns] == expected
    assert len(expected) == 25094


def test_the_three_tasks_of_a_treebank_share_one_text(dep: TaskData, shared_data: Path) -> None:
    upos, xpos, pairs = (locate(name, data={}, data_dir=str(shared_data)) for name in ("upos", "xpos", "dep"))
    assert upos.corpus_spec == xpos.corpus_spec == pairs.corpus_spec
    assert [source.task.level for source in (upos, xpos, pairs)] == ["word", "word", "word_pair"]
    assert upos.read().corpus == dep.corpus


def test_words_are_counted_without_ranges_and_empty_nodes(tmp_path: Path) -> None:
    content = (
        ROW.format(1, "Er", 3, "nsubj")
        + "2-3\tim\t_\t_\t_\t_\t_\t_\t_\t_\n"
        + ROW.format(2, "in", 3, "case")
        + ROW.format(3, "dem", 0, "root")
        + "3.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_\n"
        + ROW.format(4, "!", 3, "punct")
        + "\n"
    )
    labels = read("dep", tmp_path, train=content).labels
    assert labels.word_N == (0, 1, 3)
    assert labels.head_N == (2, 2, 2)
    assert labels.label_N == ("nsubj", "case", "punct")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TREE.replace("nsubj:pass", "_"), "train.conllu, sentence s: word 1 ('We') has no relation (column 8)"),
        (
            TREE.replace("nsubj:pass", "_").replace("punct", "_"),
            "train.conllu: no word has relation (column 8); fill in the relations",
        ),
        (TREE.replace("\t0\troot", "\t1\troot"), "train.conllu:2: word 1 hangs in a cycle of heads"),
    ],
)
def test_what_dep_refuses(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("dep", tmp_path, train=content)
    assert str(error.value).startswith(f"{tmp_path}/{said}")
    assert len(error.value.problems) == 1


def test_a_root_needs_no_relation(tmp_path: Path) -> None:
    assert read("dep", tmp_path, train=TREE.replace("root", "_")).labels.label_N == ("nsubj:pass", "punct")


@pytest.mark.parametrize(("task", "what"), [("dep", "no dependency trees"), ("xpos", "no xpos")])
def test_the_built_in_grammar_has_neither_trees_nor_a_second_tag_set(task: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        locate(f"{task}@grammar", data={}, place="probe[0].task")
    repair = f"write '{task}' or '{task}@CONLLU_FOLDER'"
    assert str(error.value) == f"probe[0].task: the built-in corpus 'grammar' has {what}; {repair}"


def test_one_file_is_split_80_to_20_by_sentence(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "ud_ewt" / "en_ewt-ud-test.conllu", tmp_path / "en_pud-ud-test.conllu")
    sources = [locate(f"{task}@pud", data={"pud": str(tmp_path)}) for task in ("upos", "xpos", "dep")]
    upos, _, dep = (source.read() for source in sources)
    assert Counter(s.split for s in upos.corpus.sentences) == {"train": 1662, "test": 415}
    assert upos.corpus == dep.corpus
    assert [source.corpus_spec for source in sources] == [sources[0].corpus_spec] * 3
    whole = locate("upos", data={}, data_dir=str(shared_data)).read()
    words = [s.words for s in whole.corpus.sentences if s.split == "test"]
    assert [s.words for s in upos.corpus.sentences] == words
    in_test = Counter(upos.corpus.sentences[s].split for s in upos.labels.sentence_N)["test"]
    assert in_test / 25094 == pytest.approx(0.2, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(ids=st.permutations([f"n{number}" for number in range(23)]))
def test_a_sentence_has_its_split_wherever_it_stands_in_the_file(
    ids: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = read("dep", tmp_path_factory.mktemp("pud"), any_test=sentences(ids))
    assert [s.id for s in data.corpus.sentences] == ids
    assert {s.id for s in data.corpus.sentences if s.split == "test"} == cut_test(f"n{number}" for number in range(23))
    assert Counter(s.split for s in data.corpus.sentences) == {"train": 19, "test": 4}
    assert data.labels.sentence_N == tuple(range(23))


def test_the_corpus_tells_a_split_file_from_a_train_file_and_not_its_name(tmp_path: Path) -> None:
    content = sentences([f"n{number}" for number in range(10)])
    found = {}
    for name in ("x-test", "other", "x-train"):
        read("upos", tmp_path / name, **{name.replace("-", "_"): content})
        source = locate("upos@mine", data={"mine": str(tmp_path / name)})
        found[name] = (source.corpus_spec, Counter(s.split for s in source.read().corpus.sentences))
    assert found["x-test"] == found["other"]
    assert found["other"][1] == {"train": 8, "test": 2}
    assert found["x-train"][1] == {"train": 10}
    assert found["x-train"][0] != found["other"][0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"x_dev": TREE * 9}, "no train split (found x-dev.conllu)"),
        ({"x_dev": TREE, "x_test": TREE}, "no train split (found x-dev.conllu, x-test.conllu)"),
        ({"a": TREE, "b": TREE}, "no train split (found a.conllu, b.conllu)"),
        ({"a": sentences(list("wxyz"))}, "4 sentences are too few to split 80/20; give a train file too"),
        ({"a": sentences(list("vwxyz")) + TREE.replace("# sent_id = s\n", "")}, "sentence 6: has no sent_id"),
    ],
)
def test_what_cannot_be_split(files: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("upos", tmp_path, **files)
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    assert len(error.value.problems) == 1
