"""Text without labels: every line that is not blank, in order; articles; treebanks and the grammar as text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe import corpora
from ftprobe.errors import InputError
from ftprobe.store import Store
from ftprobe.tasks import TASKS, locate, warnings
from ftprobe.tasks.text import assemble, from_columns
from ftprobe.tasks.types import LabelSet, Sentence


def lines(sentences: Iterable[Sentence]) -> list[str]:
    """All lines of one split up to its last one that is not blank, by the numbers in ids; blank ones are empty."""
    out: list[str] = []
    for sentence in sentences:
        number = int(sentence.id.rpartition("-")[2])
        out += [""] * (number - len(out) - 1)
        out.append(sentence.text)
    return out


def test_wikitext_gives_all_its_lines_back(shared_data: Path) -> None:
    data = locate("text", data={}, data_dir=str(shared_data)).read()
    by_split = {name: list(group) for name, group in groupby(data.corpus.sentences, lambda s: s.split)}
    assert {name: len(group) for name, group in by_split.items()} == {"dev": 2461, "test": 2891}
    for name, file in (("dev", "valid.txt"), ("test", "test.txt")):
        raw = (shared_data / "wikitext2" / file).read_text("utf-8").split("\n")
        while not raw[-1].strip():
            raw.pop()
        assert lines(by_split[name]) == [line if line.strip() else "" for line in raw]
    articles = {name: len({s.document for s in group}) for name, group in by_split.items()}
    assert articles == {"dev": 60, "test": 60}


@given(st.lists(st.sampled_from(["a b", " c ", "", " ", "\t", " = T = ", "\u2028"]), max_size=12))
def test_lines_come_back_but_for_blank_ones_at_the_end(raw: list[str]) -> None:
    sentences = assemble("text", "mine", [("test", raw)]).corpus.sentences
    kept = [line if line.strip() else "" for line in raw]
    while kept and not kept[-1]:
        kept.pop()
    assert lines(sentences) == kept
    assert len({s.id for s in sentences}) == len(sentences)


def test_a_title_begins_an_article_and_a_section_does_not() -> None:
    raw = ["Before .", "", " = One = ", "", "A .", " = no title = ", "", " = = Part = = ", "", "B .", "", " = Two = "]
    sentences = assemble("text", "mine", [("train", raw)]).corpus.sentences
    articles = [(key, [s.text for s in group]) for key, group in groupby(sentences, lambda s: s.document)]
    assert articles == [
        ("train", ["Before ."]),
        ("train-3 One", [" = One = ", "A .", " = no title = ", " = = Part = = ", "B ."]),
        ("train-12 Two", [" = Two = "]),
    ]


def test_text_has_no_labels_and_nothing_to_learn(shared_data: Path, tmp_path: Path) -> None:
    source = locate("text", data={}, data_dir=str(shared_data))
    data = source.read()
    assert data.labels == LabelSet("text", (), (), ())
    assert (TASKS["text"].objective, TASKS["text"].classes) == (None, False)
    assert warnings(data, classes=source.task.classes) == []
    store = Store.open(tmp_path / "store")
    corpora.prepare([source], store)
    assert corpora.load_labels(store, corpora.labels_id(source)) == data.labels
    assert corpora.load_corpus(store, corpora.corpus_id(source)) == data.corpus
    counts = corpora.counts(source, store)
    assert counts is not None
    assert (counts["sentences"], counts["items"]) == ({"dev": 2461, "test": 2891}, {})


def test_a_treebank_and_the_grammar_as_text_are_the_corpora_of_their_tasks(tmp_path: Path) -> None:
    (tmp_path / "x-train.conllu").write_text("# text = We ran\n1\tWe\t_\tX\tX\t_\t0\troot\t_\t_\n\n", "utf-8")
    for text, task in (("text@mine", "upos@mine"), ("text@grammar", "acceptability")):
        as_text, labelled = (locate(name, data={"mine": str(tmp_path)}, seed=3) for name in (text, task))
        assert as_text.corpus_spec == labelled.corpus_spec
        data = as_text.read()
        assert data.labels == LabelSet("text", (), (), ())
        assert data.corpus == labelled.read().corpus


def test_columns_of_the_hub_give_what_files_give(tmp_path: Path) -> None:
    files = {"train": "One .\n\nTwo .\n", "valid": " = T = \n", "test": "\nThree .\n"}
    for name, content in files.items():
        (tmp_path / f"wiki.{name}.tokens").write_text(content, "utf-8")
    local = locate("text", data={"wikitext2": str(tmp_path)}).read()
    names = {"train": "train", "valid": "validation", "test": "test"}
    rows = {names[name]: {"text": content.splitlines(keepends=True)} for name, content in files.items()}
    assert from_columns("text", rows) == local
    source = locate("text", data={})
    assert source.sizes == {"train": 23767, "dev": 2461, "test": 2891}
    assert str(source.corpus_spec["fingerprint"]).endswith(":wikitext-2-v1")


def test_folders_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found none\); expected train\.txt, valid\.txt or test\.txt"):
        locate("text@mine", data={"mine": str(tmp_path)})
    (tmp_path / "notes.txt").write_text("Some .\n", "utf-8")
    with pytest.raises(InputError, match=r"found notes\.txt"):
        locate("text@mine", data={"mine": str(tmp_path)})
    with pytest.raises(InputError, match="give a folder that holds it"):
        locate("text@mine", data={"mine": str(tmp_path / "notes.txt")})
    for name in ("dev.txt", "valid.txt"):
        (tmp_path / name).write_text("Some .\n", "utf-8")
    with pytest.raises(InputError, match="two files of one split"):
        locate("text@mine", data={"mine": str(tmp_path)})
