"""A study whose MLP probes are cross-validated: planned, run by the command, and run again in other packs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

import ftprobe
import ftprobe.schedule as schedule

MLP = {"kind": "mlp", "hidden1": [4, 8], "hidden2": [4], "alpha": [1.0e-4, 1.0e-2], "max_epochs": 20,
       "initialisations": 2, "control_seeds": 1}  # fmt: skip


def study_file(folder: Path, minilm: str, selection: object) -> Path:
    entry = {"task": "upos@grammar", "on": "pretrained", "layers": [6], "train_items": 60, "dev_items": 20}
    document = {
        "name": "folds",
        "models": {"minilm": {"checkpoint": minilm}},
        "probe": [{**entry, "test_items": 40, "probe": {**MLP, "selection": selection}}],
    }
    path = folder / "folds.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(verb: str, study: Path, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "ftprobe.cli", verb, str(study), "--store", str(store), "--offline", *more]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("folds")
    study, store = study_file(folder, minilm, ["dev", "cv5"]), folder / "store"
    done = command("run", study, store, "--inline", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return study, store


def numbers(study: Path, store: Path) -> pl.DataFrame:
    frame = ftprobe.records(study, store=store).filter(pl.col("method") == "mlp").collect()
    return frame.sort(frame.columns)


def test_records_tell_the_two_selections_apart(both: tuple[Path, Path]) -> None:
    study, store = both
    rows = numbers(study, store)
    for config_id in rows["config_id"].unique():
        own = rows.filter(pl.col("config_id") == config_id)
        (detail,) = own.filter(pl.col("metric") == "accuracy", pl.col("probe_seed") == 0)["detail"].to_list()
        (config,) = own["config"].unique()
        (score,) = own.filter(pl.col("metric") == "dev_accuracy").to_dicts()
        told, selection = json.loads(detail), json.loads(config)["probe"].get("selection", "dev")
        assert told["selection"] == selection
        assert score["split"] == ("dev" if selection == "dev" else "train")
        assert score["value"] == max(cell["dev_accuracy"] for cell in told["cells"])
        if selection == "cv5":
            assert score["n_items"] == told["n_train"] == told["n_refit"]
            for cell in told["cells"]:
                assert cell["dev_accuracy"] == pytest.approx(np.mean(cell["fold_accuracy"]), abs=1e-12)
    assert rows["config_id"].n_unique() == 2


def test_the_plan_counts_the_fits_of_all_folds(both: tuple[Path, Path], tmp_path: Path) -> None:
    planned = ftprobe.plan(both[0], store=tmp_path, offline=True)
    cells = {
        trial.spec["options"].get("selection", "dev"): trial.cost.cells
        for trial in planned.trials.values()
        if trial.stage == "probe" and not trial.scored
    }
    assert cells == {"dev": 2, "cv5": 10}


def test_trials_alone_give_the_records_of_trials_that_shared_a_worker(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, reference = both
    monkeypatch.setattr(schedule, "PACK_S", 0.0)
    summary = ftprobe.run(study, store=tmp_path, offline=True, inline=True, threads=1, device="cpu")
    assert not summary.failed
    assert_frame_equal(numbers(study, tmp_path), numbers(study, reference), check_exact=True)


def test_another_selection_is_refused_by_name(tmp_path: Path, minilm: str) -> None:
    done = command("plan", study_file(tmp_path, minilm, "cv10"), tmp_path / "store")
    assert done.returncode == 2
    assert done.stderr == "error: probe[0].probe.selection: unknown selection 'cv10'; one of: cv5, dev\n"
