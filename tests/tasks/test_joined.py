"""Training on one corpus and testing on another, for any task."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest

from ftprobe.errors import InputError
from ftprobe.study import parse_study
from ftprobe.tasks import locate

TREES = "".join(
    f"# sent_id = s{number}\n1\tWe{{0}}\twe\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2\tran\trun\tVERB\tVBD\t_\t0\troot\t_\t_\n\n"
    for number in range(5)
)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Four treebanks, of which `one` is a single file that ftprobe cuts."""
    files = {"one": "test", "two": "train dev test", "three": "train dev", "none": "train"}
    for corpus, names in files.items():
        (tmp_path / corpus).mkdir()
        for name in names.split():
            (tmp_path / corpus / f"x-{name}.conllu").write_text(TREES.format(f"-{corpus}-x-{name}"), "utf-8")
    return {corpus: str(tmp_path / corpus) for corpus in files}


@pytest.mark.parametrize(
    ("reference", "train", "dev", "test"),
    [
        ("dep@two+one", {"two-x-train"}, {"two-x-dev"}, {"one-x-test"}),
        ("upos@one+two", {"one-x-test"}, set(), {"two-x-test"}),
        ("ud_parsing@two+three", {"two-x-train"}, {"two-x-dev"}, {"three-x-dev"}),
    ],
)
def test_text_is_taken_from_the_splits_that_are_asked_for(
    reference: str, train: set[str], dev: set[str], test: set[str], data: dict[str, str]
) -> None:
    source = locate(reference, data=data)
    task = source.read()
    found: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for sentence in task.corpus.sentences:
        found[sentence.split].add((sentence.words or ("",))[0].removeprefix("We-"))
    assert found == {"train": train, "dev": dev, "test": test}
    assert Counter(s.split for s in task.corpus.sentences) == {k: 5 for k, files in found.items() if files}
    assert len({s.id for s in task.corpus.sentences}) == len(task.corpus.sentences) - 5 * bool(dev)
    assert source.corpus == task.corpus.name == reference.partition("@")[2]
    assert pickle.loads(pickle.dumps(source)).read() == task


def test_items_follow_their_sentences(data: dict[str, str]) -> None:
    alone, joined = locate("ud_parsing@two", data=data).read(), locate("ud_parsing@two+one", data=data).read()
    assert joined.labels.label_N == ("nsubj", "root") * 15
    assert joined.labels.head_N == (1, -1) * 15
    assert joined.labels.word_N == (0, 1) * 15
    assert joined.labels.sentence_N == tuple(sentence for sentence in range(15) for _ in range(2))
    assert joined.corpus.sentences[:10] == alone.corpus.sentences[:10]
    assert joined.corpus.sentences[-1].id == "one:s4"


def test_a_join_is_what_its_parts_are(data: dict[str, str]) -> None:
    specs = [locate(f"upos@{name}", data=data).corpus_spec for name in ("two+one", "one+two", "two+three", "two")]
    assert len({str(spec) for spec in specs}) == 4
    assert locate("xpos@two+one", data=data).corpus_spec == specs[0]


def test_a_part_on_the_hub_leaves_the_whole_unread_in_plans(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("gj04\t1\t\tFine.\ngj04\t0\t*\tFine not.\n", "utf-8")
    source = locate("cola@mine+cola", data={"mine": str(tmp_path)})
    assert str(source.corpus_spec["fingerprint"]).startswith("hub:")
    assert source.sizes is None
    assert locate("acceptability@grammar", data={}).sizes == {"train": 1200, "dev": 200, "test": 400}


@pytest.mark.parametrize("reference", ["upos@two+", "upos@+two", "upos@two+two", "upos@two+one+three"])
def test_references_that_name_no_two_corpora(reference: str, data: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"does not name two corpora after @; write TASK@A\+B"):
        locate(reference, data=data)


def test_a_part_without_the_split_that_is_asked_of_it(data: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"none: no test split to make 'two\+none' of"):
        locate("upos@two+none", data=data).read()


def test_a_study_may_declare_both_folders() -> None:
    document = {
        "name": "x",
        "models": {"m": {"checkpoint": "/m"}},
        "data": {"a": "/a", "b": "/b"},
        "probe": [{"task": "upos@a+b", "probe": {"kind": "linear"}}],
    }
    assert parse_study(document).probe[0].task == "upos@a+b"
