"""A small real study on real weights, and how to run, watch and compare it: what tests of faults share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import yaml
from polars.testing import assert_frame_equal

import ftprobe

PATIENCE_S = 700  # for one run of the study, which takes 30 s of CPU time: a busy machine needs minutes
STAGES = ("finetune", "activations", "probe")


def study_file(folder: Path, minilm: str, **changes: object) -> Path:
    document = {
        "name": "faults",
        "models": {"minilm": {"checkpoint": minilm}},
        "finetune": [
            {
                "task": "acceptability@grammar",
                "seed": [0, 1],
                "epochs": 1,
                "batch_size": 16,
                "train_items": 48,
                "dev_items": 32,
            }
        ],
        "probe": [
            {
                "task": ["word_order@grammar", "acceptability@grammar"],
                "pooling": ["cls", "mean"],
                "train_items": 120,
                "dev_items": 40,
                "test_items": 40,
                "probe": {"kind": "linear", "strength": [1.0e-3, 1.0e-2]},
            }
        ],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(study: Path, store: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "ftprobe.cli", "run", str(study), "--store", str(store), "--offline", *more]


def run(study: Path, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(study, store, *more), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def artifacts(store: Path) -> dict[str, float]:
    """When each finished trial was finished."""
    return {
        path.parent.name: path.stat().st_mtime
        for stage in STAGES
        for path in (store / "artifacts" / stage).glob("*/manifest.json")
    }


def numbers(study: Path, store: Path) -> pl.DataFrame:
    frame = ftprobe.records(study, store=store).collect()
    return frame.sort(frame.columns)


def same(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """Equal rows: every column to the last bit, except throughput facts that no record holds."""
    assert left.height > 100
    assert_frame_equal(left, right, check_exact=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = PATIENCE_S) -> None:
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"never happened; exit code {process.poll()}")
