"""Searches on a real Ray: the best state is kept and read, what fails loses, a kill costs only what was running."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import ftprobe
from ftprobe.frames import final_scores
from ftprobe.planner import Plan
from ftprobe.searching import dev_scores
from ftprobe.store import Store
from ftprobe.study import parse_study

SPACE = {"learning_rate": {"log": [1.0e-5, 1.0e-3]}, "batch_size": [8, 16]}
ENTRY = {"task": "acceptability@grammar", "train_items": 64, "dev_items": 32, "max_length": 16, "epochs": 2}
TAGGING = {"task": "upos@grammar", "train_items": 64, "dev_items": 32, "max_length": 16, "epochs": 3, "batch_size": 8}
"""Learned to 0.9 in an epoch at 1e-3, hardly at 1e-6 and below."""
ONE_CPU = {"finetune": {"cpu": 1, "max_concurrent": 1}, "activations": {"cpu": 1}, "probe": {"cpu": 1}}


def document(model: str, search: Mapping[str, Any], **entry: object) -> dict[str, Any]:
    return {
        "name": "searched",
        "models": {"minilm": {"checkpoint": model}},
        "finetune": [{**ENTRY, "search": search, **entry}],
        "resources": ONE_CPU,
    }


def probing(model: str, search: Mapping[str, Any]) -> dict[str, Any]:
    probe = {"kind": "linear", "strength": [1.0e-2]}
    states = ["pretrained", "finetuned"]
    entry = {"task": "word_order@grammar", "on": states, "train_items": 40, "dev_items": 20, "test_items": 20}
    return {**document(model, search), "probe": [{**entry, "max_length": 16, "pooling": "mean", "probe": probe}]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def runs_of(records: pl.DataFrame) -> list[dict[str, Any]]:
    rows = records.filter(method="search").select("metric", "value", "epoch", "split", "detail").to_dicts()
    return [{**row, **json.loads(row["detail"])} for row in rows]


def kept(store: Path, planned: Plan) -> Path:
    (search,) = (t for t in planned.trials.values() if t.stage == "search")
    return store / "artifacts" / "search" / search.id


@pytest.mark.ray
@pytest.mark.timeout(600)  # one core for the runs and for the probes of the other state: neither may keep it
def test_a_random_search_keeps_the_best_state_and_probes_read_it(cluster: None, minilm: str, tmp_path: Path) -> None:
    study = parse_study(probing(minilm, {"space": SPACE, "trials": 3}))
    summary = ftprobe.run(study, store=tmp_path, offline=True)
    assert not summary.failed
    records = ftprobe.records(study, store=tmp_path).collect()
    runs = runs_of(records)
    assert [run["status"] for run in runs] == ["done"] * 3
    assert len({run["search"]["learning_rate"] for run in runs}) == 3
    (chosen,) = (run for run in runs if run["chosen"])
    assert chosen["value"] == max(run["value"] for run in runs)
    assert {run["split"] for run in runs} == {"dev"}
    folder = kept(tmp_path, ftprobe.plan(study, store=tmp_path, offline=True))
    plain = tmp_path / "artifacts" / "finetune" / chosen["trial"]
    weights = {run["trial"]: (plain.parent / run["trial"] / "model.safetensors").read_bytes() for run in runs}
    assert [id for id in weights if weights[id] == (folder / "model.safetensors").read_bytes()] == [chosen["trial"]]
    scores = final_scores(records.lazy()).collect()
    own = pl.read_parquet(plain / "records.parquet")
    selected = own.filter(pl.col("detail").str.contains("selected"), split="test")
    assert dict(scores.select("metric", "value").iter_rows()) == dict(selected.select("metric", "value").iter_rows())
    assert set(records.filter(method="linear")["variant"]) == {"pretrained", "finetuned"}

    # A search that is not finished reuses what is: the very same files.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/finetune/*/manifest.json")}
    search_rows = sorted(run["trial"] for run in runs)
    Store.open(tmp_path).remove("search", folder.name)
    lost = sorted(before)[0]
    Store.open(tmp_path).remove("finetune", lost.parent.name)
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artifacts/finetune/*/manifest.json")}
    assert {path for path in before if before[path] == after[path]} == set(before) - {lost}
    again = runs_of(ftprobe.records(study, store=tmp_path).collect())
    assert sorted(run["trial"] for run in again) == search_rows
    assert {run["trial"]: run["value"] for run in again} == {run["trial"]: run["value"] for run in runs}


@pytest.mark.ray
@pytest.mark.slow
def test_a_grid_tries_every_point_and_a_run_that_fails_loses(cluster: None, minilm: str, tmp_path: Path) -> None:
    axes = {"learning_rate": [1.0e-3, 1.0e30], "batch_size": [16, 32]}  # of the larger rate the loss is not finite
    study = parse_study(document(minilm, {"algorithm": "grid", "space": axes}, epochs=1))
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    runs = runs_of(ftprobe.records(study, store=tmp_path).collect())
    points = {(run["search"]["learning_rate"], run["search"]["batch_size"]) for run in runs}
    assert points == set(itertools.product(*axes.values()))
    assert {run["status"] for run in runs if run["search"]["learning_rate"] > 1} == {"failed"}
    assert all("training loss" in run["error"] for run in runs if run["status"] == "failed")
    assert [run["status"] for run in runs if run["chosen"]] == ["done"]


@pytest.mark.ray
@pytest.mark.slow
def test_asha_stops_what_is_worse_than_the_median_before_it(cluster: None, minilm: str, tmp_path: Path) -> None:
    rates = [1.0e-3, 1.0e-7, 1.0e-6, 1.0e-4]
    search = {"algorithm": "grid", "scheduler": "asha", "space": {"learning_rate": rates}}
    study = parse_study({**document(minilm, search), "finetune": [{**TAGGING, "search": search}]})
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    first, *others = runs_of(ftprobe.records(study, store=tmp_path).collect())
    assert [run["search"]["learning_rate"] for run in (first, *others)] == rates
    assert (first["status"], first["epoch"], first["chosen"]) == ("done", 3, True)
    # The last is above the median of the three after epoch 1, and below the only one that went on after epoch 2.
    assert [(run["status"], run["epoch"], run["chosen"]) for run in others] == [
        ("stopped", 1, False),
        ("stopped", 1, False),
        ("stopped", 2, False),
    ]
    assert [path.parent.name for path in tmp_path.glob("artifacts/finetune/*/manifest.json")] == [first["trial"]]

    # The same run without a search is not stopped, and had the score that it was stopped at.
    plain = {**TAGGING, "learning_rate": rates[1], "select": "best_dev"}
    alone = parse_study({**document(minilm, {}), "finetune": [plain]})
    assert not ftprobe.run(alone, store=tmp_path, offline=True).failed
    stopped = others[0]["trial"]
    scores = dev_scores(Store.open(tmp_path), stopped, "accuracy")
    assert len(scores) == 3
    assert others[0]["value"] == scores[0]
    assert others[0]["value"] < others[2]["value"] < first["value"]

    # A run that the store has is done, though the scheduler gives it up once more.
    kept_as = kept(tmp_path, ftprobe.plan(study, store=tmp_path, offline=True))
    Store.open(tmp_path).remove("search", kept_as.name)
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    again = runs_of(ftprobe.records(study, store=tmp_path).collect())
    assert [run["status"] for run in again] == ["done", "done", "stopped", "stopped"]
    assert again[1]["value"] == max(scores)
    assert [run["trial"] for run in again if run["chosen"]] == [first["trial"]]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_a_search_that_was_killed_goes_on_with_what_is_finished(scheduler: str, minilm: str, tmp_path: Path) -> None:
    path, store = tmp_path / "study.yaml", tmp_path / "store"
    search = {"algorithm": "grid", "scheduler": scheduler, "space": {"learning_rate": [1.0e-3, 1.0e-7, 1.0e-6]}}
    study = {**document(minilm, search), "finetune": [{**TAGGING, "search": search}]}
    path.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "ftprobe.cli", "run", str(path), "--store", str(store), "--offline"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not (first := list(store.glob("artifacts/finetune/*/manifest.json"))):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(store.glob("artifacts/search/*"))
    made = {manifest: manifest.stat().st_mtime_ns for manifest in first}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {manifest: manifest.stat().st_mtime_ns for manifest in first} == made
    runs = runs_of(ftprobe.records(path, store=store).collect())
    others = "done" if scheduler == "none" else "stopped"  # one at a time, in the order of the grid
    assert [run["status"] for run in runs] == ["done", others, others]
    assert [run["chosen"] for run in runs] == [True, False, False]
    assert runs[0]["trial"] in {manifest.parent.name for manifest in first}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs optuna")
@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_optuna_tries_as_many_points_as_it_is_given(scheduler: str, cluster: None, minilm: str, tmp_path: Path) -> None:
    search = {"algorithm": "optuna", "scheduler": scheduler, "trials": 3, "space": SPACE}
    study = parse_study(document(minilm, search))
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    runs = runs_of(ftprobe.records(study, store=tmp_path).collect())
    assert len({run["trial"] for run in runs}) == 3
    assert {run["search"]["batch_size"] for run in runs} <= {8, 16}
    done = [run for run in runs if run["status"] == "done"]
    assert len(done) == 3 or scheduler == "asha"
    assert {run["status"] for run in runs if run["epoch"] < 2} <= {"stopped"}
    (chosen,) = (run for run in runs if run["chosen"])
    assert chosen["value"] == max(run["value"] for run in done)
