"""Label sets through a store: word pairs keep their heads, other label sets have no such column."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftprobe import corpora
from ftprobe.store import Store
from ftprobe.tasks import TaskSource, locate

TREES = "".join(
    f"# sent_id = s{number}\n"
    "1\tWe\twe\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2\tran\trun\tVERB\tVBD\t_\t0\troot\t_\t_\n"
    "3\tup\tup\tADP\tRP\t_\t2\tcompound:prt\t_\t_\n4\thills\thill\tNOUN\tNNS\t_\t2\tobj\t_\t_\n\n"
    for number in range(5)
)


def source(task: str, folder: Path) -> TaskSource:
    folder.mkdir(exist_ok=True)
    (folder / "x-test.conllu").write_text(TREES, "utf-8")
    return locate(f"{task}@mine", data={"mine": str(folder)})


def columns(store: Store, task: TaskSource) -> list[str]:
    return pq.read_schema(store.fetch("labels", corpora.labels_id(task)) / "items.parquet").names


@pytest.mark.parametrize("task", ["dep", "upos", "ud_parsing", "text"])
def test_a_label_set_comes_back_as_it_was(task: str, tmp_path: Path) -> None:
    store, found = Store.open(tmp_path / "store"), source(task, tmp_path / "data")
    corpora.prepare([found], store)
    data = found.read()
    assert corpora.load_labels(store, corpora.labels_id(found)) == data.labels
    assert corpora.load_corpus(store, corpora.corpus_id(found)) == data.corpus
    counts = corpora.counts(found, store)
    assert counts is not None
    words = {"train": 16, "test": 4}
    assert counts["items"] == {"dep": {"train": 12, "test": 3}, "text": {}}.get(task, words)


def test_only_word_pairs_and_trees_store_heads(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    dep, upos, trees = (source(task, tmp_path / "data") for task in ("dep", "upos", "ud_parsing"))
    corpora.prepare([dep, upos, trees], store)
    assert columns(store, upos) == ["sentence", "word", "label"]
    assert columns(store, dep) == ["sentence", "word", "label", "head"]
    assert corpora.load_labels(store, corpora.labels_id(upos)).head_N == ()
    assert corpora.load_labels(store, corpora.labels_id(dep)).head_N == (1, 1, 1) * 5
    assert corpora.load_labels(store, corpora.labels_id(trees)).head_N == (1, -1, 1, 1) * 5
    assert dep.corpus_spec == upos.corpus_spec == trees.corpus_spec


KNOWN = {
    "trec_6": ("029f6303f88606eb3f65e3622a101747", "502fca8489b15295a197af8b87bfb737"),
    "upos": ("765b85b2e0fa4d4865a1b1ab4d808b41", "bda67d49c2e48e85330acc599e3a7640"),
    "xpos": ("765b85b2e0fa4d4865a1b1ab4d808b41", "8282cb1cdb7988eaeebed89e60a40ffa"),
    "upos@grammar": ("6646151550dab3d6257610066ff1b161", "a2498377d0b30841374c721d47ffd1e9"),
    "acceptability": ("6646151550dab3d6257610066ff1b161", "5b8d72d4c42422afa83cc496a5da4530"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_stores_hold_keeps_its_id_until_a_version_is_raised(name: str, shared_data: Path) -> None:
    found = locate(name, data={}, data_dir=str(shared_data))
    assert (corpora.corpus_id(found), corpora.labels_id(found)) == KNOWN[name]
