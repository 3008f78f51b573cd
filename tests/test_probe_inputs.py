"""Inputs of probes: words, pairs of words and sentences joined with real activations of a small treebank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ftprobe
from ftprobe.planner import Trial
from ftprobe.probe_inputs import probe_data
from ftprobe.shards import items
from ftprobe.store import Store
from ftprobe.study import parse_study

SENTENCES = [
    [("Dogs", "NOUN", 2, "nsubj"), ("bark", "VERB", 0, "root"), ("loudly", "ADV", 2, "advmod")],
    [("The", "DET", 2, "det"), ("cat", "NOUN", 3, "nsubj"), ("sleeps", "VERB", 0, "root")],
    [("She", "PRON", 2, "nsubj"), ("saw", "VERB", 0, "root"), ("the", "DET", 4, "det"), ("cat", "NOUN", 2, "obj")],
]


def treebank(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "dev", "test"):
        blocks = []
        for number, words in enumerate(SENTENCES):
            rows = [
                "\t".join([str(i), form, form.lower(), tag, tag, "_", str(head), relation, "_", "_"])
                for i, (form, tag, head, relation) in enumerate(words, start=1)
            ]
            blocks.append("\n".join([f"# sent_id = {split}-{number}", *rows]))
        (folder / f"small-ud-{split}.conllu").write_text("\n\n".join(blocks) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[Store, dict[str, Trial]]:
    """The store, and the probe trial of each task."""
    folder = tmp_path_factory.mktemp("inputs")
    study = parse_study(
        {
            "name": "inputs",
            "models": {"minilm": {"checkpoint": minilm}},
            "data": {"small": str(treebank(folder / "small"))},
            "probe": [
                {
                    "task": ["upos@small", "dep@small"],
                    "pooling": "mean",
                    "probe": {"kind": "linear", "control_seeds": 2},
                }
            ],
        }
    )
    store = Store.open(folder / "store")
    summary = ftprobe.run(study, store=store, offline=True, inline=True, threads=1, device="cpu")
    assert not summary.failed
    planned = ftprobe.plan(study, store=store, offline=True)
    return store, {str(t.columns["task"]): t for t in planned.trials.values() if t.stage == "probe"}


def inputs(extracted, task):
    store, trials = extracted
    spec = trials[task].spec
    return probe_data(store, spec["parents"][0], spec["labels"], spec["layers"])


def test_one_extraction_serves_words_and_pairs(extracted):
    _, trials = extracted
    assert trials["upos"].parents == trials["dep"].parents


def test_a_pair_is_the_heads_vector_then_the_modifiers(extracted):
    words, pairs = inputs(extracted, "upos"), inputs(extracted, "dep")
    row_of = {(s, w): i for i, (s, w) in enumerate(zip(words.sentence_N, words.word_N, strict=True))}
    n_arcs = sum(head != 0 for sentence in SENTENCES for *_, head, _ in sentence)
    assert len(pairs.y_N) == 3 * n_arcs
    for layer in (0, 6):
        h_ND, pair_ND = words.layer(layer), pairs.layer(layer)
        assert pair_ND.shape == (3 * n_arcs, 2 * h_ND.shape[1])
        for i, (s, w) in enumerate(zip(pairs.sentence_N, pairs.word_N, strict=True)):
            form, _, head, relation = SENTENCES[s % 3][w]
            assert pairs.labels[pairs.y_N[i]] == relation
            np.testing.assert_array_equal(pair_ND[i], np.concatenate([h_ND[row_of[s, head - 1]], h_ND[row_of[s, w]]]))
            assert pairs.type_N[i] == f"{SENTENCES[s % 3][head - 1][0]}\t{form}"


def test_words_keep_their_type_tag_and_stored_row(extracted):
    data = inputs(extracted, "upos")
    flat = [word for _ in range(3) for sentence in SENTENCES for word in sentence]
    assert [data.labels[y] for y in data.y_N] == [tag for _, tag, *_ in flat]
    assert data.type_N.tolist() == [form for form, *_ in flat]
    np.testing.assert_array_equal(data.layer(3), np.asarray(data.stored(3)[data.row_N], np.float32))
    assert data.n_dropped == 0


def test_selectivity_of_a_pair_task_is_a_record(extracted):
    store, trials = extracted
    folder = store.fetch("activations", trials["dep"].parents[0])
    assert len(items(folder).form_N) == 3 * sum(map(len, SENTENCES))
    import polars as pl

    frame = pl.read_parquet(store.file("probe", trials["dep"].id, "records.parquet"))
    rows = frame.filter(pl.col("metric") == "selectivity")
    assert rows["probe_seed"].unique().sort().to_list() == [0, 1]
    assert rows.height == 2 * 7
