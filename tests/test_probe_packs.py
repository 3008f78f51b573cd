"""A grid of probes killed in the middle, and packed in other ways: the records are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

import ftprobe
import ftprobe.schedule as schedule
from ftprobe.planner import Plan
from ftprobe.store import Store
from ftprobe.worker import run_pack

SIZES = [4, 8, 16]


def study_file(folder: Path, minilm: str) -> Path:
    probes = [
        {"kind": "mlp", "hidden1": SIZES, "hidden2": [4, 8], "alpha": [1.0e-4, 1.0e-2], "max_epochs": 40,
         "initialisations": 2, "control_seeds": 1},
        {"kind": "elastic_net", "l1": [0.0, 1.0e-3], "l2": [0.0, 1.0e-2], "control_seeds": 1},
        {"kind": "neurons", "l1": [0.0, 1.0e-3], "l2": [1.0e-2], "control_seeds": 1, "epochs": 2, "delta": 0.9},
    ]  # fmt: skip
    document = {
        "name": "packs",
        "models": {"minilm": {"checkpoint": minilm}},
        "probe": [
            {
                "task": "upos@grammar",
                "layers": [5, 6],
                "train_items": 200,
                "dev_items": 40,
                "test_items": 40,
                "probe": probes,
            }
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "packs.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(study: Path, store: Path) -> list[str]:
    more = ["--store", str(store), "--offline", "--inline", "--threads", "1"]
    return [sys.executable, "-m", "ftprobe.cli", "run", str(study), *more]


def numbers(study: Path, store: Path) -> pl.DataFrame:
    frame = ftprobe.records(study, store=store).collect()
    return frame.sort(frame.columns)


def cells(store: Path) -> dict[str, float]:
    """When each finished pack of cells was finished."""
    found = {}
    for path in (store / "artifacts" / "probe").glob("*/manifest.json"):
        if "part" in json.loads(path.read_text())["spec"]:
            found[path.parent.name] = path.stat().st_mtime
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    study, store = study_file(folder, minilm), folder / "store"
    subprocess.run(command(study, store), check=True, capture_output=True)
    return study, store


def test_a_killed_grid_goes_on_at_the_pack_of_cells_it_was_in(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    process = subprocess.Popen(command(study, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while time.time() < end and len(cells(store) if store.exists() else ()) < 4:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = cells(store)
    assert 4 <= len(kept) < len(cells(reference))
    subprocess.run(command(study, store), check=True, capture_output=True)
    assert {key: stamp for key, stamp in cells(store).items() if key in kept} == kept
    assert set(cells(store)) == set(cells(reference))
    assert_frame_equal(numbers(study, store), numbers(study, reference), check_exact=True)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_trials_alone_or_all_as_one_give_the_same_records(
    undisturbed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    study, reference = undisturbed
    monkeypatch.setattr(schedule, "PACK_S", seconds)
    planned = ftprobe.plan(study, store=tmp_path, offline=True)
    made = [pack for pack in schedule.packs(planned.missing()) if pack.stage == "probe"]
    probes = [trial for trial in planned.trials.values() if trial.stage == "probe"]
    assert len(made) == (len(probes) if seconds == 0 else 1)
    summary = ftprobe.run(study, store=tmp_path, offline=True, inline=True, threads=1, device="cpu")
    assert not summary.failed
    assert_frame_equal(numbers(study, tmp_path), numbers(study, reference), check_exact=True)


def probe_plan(study: Path, store: Path) -> Plan:
    return ftprobe.plan(study, store=store, offline=True)


def test_packs_of_cells_are_trials_but_not_records(undisturbed: tuple[Path, Path]) -> None:
    study, store = undisturbed
    planned = probe_plan(study, store)
    parts = {t.id for t in planned.trials.values() if not t.scored and t.stage == "probe"}
    assert len(parts) == 2 * len(SIZES) * 2 + 1
    records = numbers(study, store)
    assert not set(records["trial"]) & parts
    assert {"mlp", "elastic_net", "neurons"} <= set(records["method"])
    for trial in planned.trials.values():
        if trial.spec.get("kind") == "mlp" and trial.scored:
            assert set(trial.parents[1:]) <= parts
            assert trial.cost.cells == len(SIZES) * 2 * 2 + 2 + 1


def test_the_grid_that_a_record_names_is_what_its_packs_fitted(undisturbed: tuple[Path, Path]) -> None:
    study, store = undisturbed
    rows = numbers(study, store).filter(pl.col("method") == "mlp", pl.col("layer") == 6)
    (first,) = rows.filter(pl.col("metric") == "accuracy", pl.col("probe_seed") == 0)["detail"].to_list()
    listed = json.loads(first)["cells"]
    assert [cell["hidden"] for cell in listed] == [[h, j] for h in SIZES for j in (4, 8) for _ in range(2)]
    best = max(listed, key=lambda c: (c["dev_accuracy"], c["alpha"], -c["hidden"][0] * c["hidden"][1]))
    value = dict(rows.select("metric", "value").rows())
    assert (value["hidden1"], value["hidden2"], value["alpha"]) == (*best["hidden"], best["alpha"])
    assert value["dev_accuracy"] == best["dev_accuracy"]


def test_one_probe_that_fails_leaves_the_rest_of_its_pack(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """A layer that the artifact does not have fails, and so does the score of a grid whose cells failed."""
    study, store = undisturbed
    planned, opened = probe_plan(study, store), Store.open(store)
    good = next(t for t in planned.trials.values() if t.spec.get("kind") == "elastic_net")
    (cell, whole) = (
        next(t for t in planned.trials.values() if t.spec.get("kind") == "mlp" and t.scored is scored)
        for scored in (False, True)
    )
    broken = {**cell.payload(), "id": "0" * 32, "spec": {**cell.spec, "options": {"hidden1": "none"}}}
    orphan = {**whole.payload(), "id": "1" * 32, "parents": [*whole.parents, "0" * 32]}
    fresh = {**good.payload(), "id": "2" * 32}
    result = run_pack([broken, orphan, fresh], opened, device="cpu", threads=1, report=lambda metrics: None)
    assert result["state"] == "failed"
    assert set(result["failed"]) == {"0" * 32, "1" * 32}
    assert "a pack of its cells failed" in result["failed"]["1" * 32]
    assert opened.exists("probe", "2" * 32)
    assert set(opened.failures()) == {"0" * 32, "1" * 32}
    for key in ("0" * 32, "1" * 32):
        opened.clear_failure(key)
    opened.remove("probe", "2" * 32)
