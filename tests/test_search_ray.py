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
from ftprobe.store import Store
from ftprobe.study import parse_study

SPACE = {"learning_rate": {"log": [1.0e-5, 1.0e-3]}, "batch_size": [8, 16]}
ENTRY = {"task": "acceptability@grammar", "train_items": 64, "dev_items": 32, "max_length": 16, "epochs": 2}
ONE_CPU = {"finetune": {"cpu": 1}, "activations": {"cpu": 1}, "probe": {"cpu": 1}}


def document(model: str, search: Mapping[str, Any], **entry: object) -> dict[str, Any]:
    return {
        "name": "searched",
        "models": {"minilm": {"checkpoint": model}},
        "finetune": [{**ENTRY, "search": search, **entry}],
        "resources": ONE_CPU,
    }


def probing(model: str, search: Mapping[str, Any]) -> dict[str, Any]:
    probe = {"kind": "linear", "strength": [1.0e-2]}
    entry = {"task": "word_order@grammar", "on": "finetuned", "train_items": 40, "dev_items": 20, "test_items": 20}
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
    assert records.filter(method="linear").height > 0

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
def test_a_search_that_was_killed_goes_on_with_what_is_finished(minilm: str, tmp_path: Path) -> None:
    path, store = tmp_path / "study.yaml", tmp_path / "store"
    study = document(minilm, {"space": SPACE, "trials": 3}, epochs=3)
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
    assert [run["status"] for run in runs] == ["done"] * 3


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs optuna")
def test_optuna_tries_as_many_points_as_it_is_given(cluster: None, minilm: str, tmp_path: Path) -> None:
    study = parse_study(document(minilm, {"algorithm": "optuna", "trials": 3, "space": SPACE}, epochs=1))
    assert not ftprobe.run(study, store=tmp_path, offline=True).failed
    runs = runs_of(ftprobe.records(study, store=tmp_path).collect())
    assert [run["status"] for run in runs] == ["done"] * 3
    assert {run["search"]["batch_size"] for run in runs} <= {8, 16}
