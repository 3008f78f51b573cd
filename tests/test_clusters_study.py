"""A whole study of clusters: words of a treebank, a tiny model before tuning, on the way and after it."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import geometrylab
import numpy as np
import polars as pl
import pytest
import tinylm
from statelab import Document, plan, records, run, stage

from ftprobe.planner import Plan
from ftprobe.probe_inputs import probe_data
from ftprobe.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")
Ran = tuple[Document, Path, Plan]
TAGS = ("ADJ", "NOUN", "NUM", "VERB")
LAYERS = 2


def treebank(folder: Path) -> str:
    """Sentences of four words; the tag of a word is its number's remainder by 4."""
    rng = random.Random(0)
    folder.mkdir()
    for split, n in (("train", 16), ("dev", 4), ("test", 10)):
        blocks = []
        for at in range(n):
            numbers = [rng.randrange(40) for _ in range(4)]
            words = [f"{i + 1}\tw{w}\tw{w}\t{TAGS[w % 4]}\t_\t_\t{i}\tdep\t_\t_" for i, w in enumerate(numbers)]
            blocks.append("\n".join([f"# sent_id = {split}-{at}", *words]) + "\n\n")
        (folder / f"toy-ud-{split}.conllu").write_text("".join(blocks))
    return str(folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("clusters")
    tinylm.save(root / "base", "bert", num_hidden_layers=LAYERS)
    tuning = {"task": "upos@toy", "epochs": 16, "batch_size": 4, "learning_rate": 5e-3, "max_length": 16}
    probing = {"task": "upos@toy", "pooling": "mean", "max_length": 16, "probe": {"kind": "clusters", "predict": True}}
    document = {
        "name": "clusters",
        "models": {"base": {"checkpoint": str(root / "base")}},
        "data": {"toy": treebank(root / "toy")},
        "finetune": [{**tuning, "snapshots": {"count": 2}}],
        "probe": [probing],
    }
    planned = plan(document, root / "store")
    run(document, root / "store")
    return document, root / "store", planned


@pytest.fixture(scope="module")
def rows(ran: Ran) -> pl.DataFrame:
    return records(*ran[:2]).filter(pl.col("method") == "clusters")


def test_every_state_and_layer_is_a_trial(ran: Ran) -> None:
    trials = stage(ran[2], "probe")
    assert len(trials) == 5 * (LAYERS + 1)
    assert all(trial.cost.cells == 1 and trial.cost.flops > 0 for trial in trials)


def test_rows_of_snapshots_say_their_update(rows: pl.DataFrame) -> None:
    states = rows.select("variant", "update", "epoch").unique().sort("variant", "update", nulls_last=True)
    assert states.rows() == [
        ("finetuned", 0, 0.0),
        ("finetuned", 32, 8.0),
        ("finetuned", 64, 16.0),
        ("finetuned", None, None),
        ("pretrained", None, None),
    ]
    per_layer = rows.group_by("variant", "update", "layer").agg(pl.col("metric").unique().sort())
    assert per_layer.height == 5 * (LAYERS + 1)
    assert per_layer["metric"].n_unique() == 1
    assert per_layer["metric"][0].to_list() == [
        *("accuracy", "centroid", "hull_distance", "is_linear", "min_distance", "min_distance_mean"),
        *("n_clusters", "n_conflicts", "n_labels", "n_undecided", "spatial_similarity"),
    ]
    assert rows["probe_seed"].null_count() == rows.height
    assert rows["config_id"].n_unique() == 1


def test_update_0_is_the_pretrained_state_and_the_last_is_the_tuned_one(rows: pl.DataFrame) -> None:
    def state(variant: str, update: int | None) -> list[tuple[object, ...]]:
        own = rows.filter(pl.col("variant") == variant, pl.col("update").eq_missing(update))
        found = own.select("layer", "metric", "split", "value", "status", "detail").rows()
        return sorted(found, key=str)

    assert str(state("finetuned", 0)) == str(state("pretrained", None))
    assert str(state("finetuned", 64)) == str(state("finetuned", None))
    assert str(state("finetuned", 32)) not in (str(state("finetuned", 0)), str(state("finetuned", 64)))


def test_distances_are_those_of_the_activations_that_are_stored(ran: Ran, rows: pl.DataFrame) -> None:
    _, root, planned = ran
    store = Store.open(root)
    (trial,) = [t for t in stage(planned, "probe") if t.name == "base/upos@toy/mean/s0/toy/mean/upos/clusters/layer2"]
    data = probe_data(store, trial.spec["parents"][0], trial.spec["labels"], (2,))
    assert data.labels == TAGS
    own = rows.filter(pl.col("trial") == trial.id)
    x_ND = data.layer(2).astype(np.float64)
    for part in ("train", "test"):
        at_N = data.split_N == part
        expected = geometrylab.distances(x_ND[at_N], data.y_N[at_N])
        found = own.filter(pl.col("metric") == "hull_distance", pl.col("split") == part)
        said = {tuple(json.loads(d)["labels"]): value for value, d in found.select("value", "detail").rows()}
        assert said == pytest.approx({(TAGS[a], TAGS[b]): d for (a, b), d in expected.items()}, rel=1e-3, abs=1e-6)
    arrays = np.load(store.fetch("probe", trial.id) / "arrays.npz")
    cluster_N, at_N = arrays["cluster_N"], data.split_N == "train"
    (n_clusters,) = own.filter(pl.col("metric") == "n_clusters")["value"]
    assert len(np.unique(cluster_N)) == n_clusters
    np.testing.assert_array_equal(arrays["label_M"][cluster_N], np.asarray(TAGS)[data.y_N[at_N]])


def test_predictions_stand_beside_the_rows(ran: Ran, rows: pl.DataFrame) -> None:
    _, root, planned = ran
    for trial in stage(planned, "probe"):
        said = pl.read_parquet(Store.open(root).fetch("probe", trial.id) / "predictions.parquet")
        (accuracy,) = rows.filter(pl.col("trial") == trial.id, pl.col("metric") == "accuracy")["value"].unique()
        assert accuracy == (said["gold"] == said["predicted"]).mean()


def test_tuning_moves_the_words_of_a_tag_apart(rows: pl.DataFrame) -> None:
    """The last layer of a model that was trained on these very tags."""
    last = rows.filter(pl.col("layer") == LAYERS, pl.col("split") == "train", pl.col("update").is_not_null())
    distances, clusters = (
        last.filter(pl.col("metric") == metric).sort("update")["value"].to_list()
        for metric in ("min_distance_mean", "n_clusters")
    )
    assert all(later > 2 * earlier for earlier, later in pairwise(distances))
    assert clusters[0] > clusters[-1] == len(TAGS)
