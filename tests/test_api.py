"""Results of a study: predictions of the trials asked for, from any store, beside compact records or loose ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import ftprobe
from ftprobe import compact
from ftprobe.errors import CorruptArtifact
from ftprobe.measurement import Measurement, Predictions
from ftprobe.planner import Plan
from ftprobe.rows import write_part, write_predictions
from ftprobe.store import Store
from ftprobe.study import Study, parse_study
from tests.conftest import Fill

LABELS, GOLD = ("no", "yes"), np.array([0, 1, 1, 0], np.int32)


def study(minilm: str) -> Study:
    return parse_study(
        {
            "name": "scored",
            "models": {"minilm": {"checkpoint": minilm}, "again": {"checkpoint": minilm}},
            "finetune": [{"task": "word_order@grammar", "seed": [0, 1, 2]}],
            "probe": [{"task": "acceptability@grammar", "probe": {"kind": "linear"}}],
        }
    )


def right(number: int) -> int:
    """How many of the four items the probe with this number gets right."""
    return 1 + number % 3


def filled(asked: Study, store: Store, fill: Fill) -> Plan:
    """Every trial has records; probes have predictions of one layer as well."""
    planned = ftprobe.plan(asked, store=store, offline=True)
    probes = [trial for trial in planned.trials.values() if trial.stage == "probe"]
    fill(planned, store, *(t for t in planned.trials if planned.trials[t] not in probes))
    for number, trial in enumerate(probes):
        n = np.arange(4, dtype=np.int32)
        said = np.where(n < right(number), GOLD, 1 - GOLD).astype(np.int32)
        with store.workdir() as folder:
            columns = {name: value for name, value in trial.columns.items() if value is not None}
            write_part(folder, [Measurement("accuracy", right(number) / 4, layer=2)], columns)
            scored = Predictions("test", 2, None, n, n - n - 1, GOLD, said, np.ones(4, np.float32), LABELS)
            write_predictions(folder, [scored])
            store.publish(trial.stage, trial.id, folder, {"id": trial.id, "stage": trial.stage})
    return planned


def accuracies(records: pl.LazyFrame) -> dict[str, float]:
    return dict(records.filter(pl.col("method") == "linear").select("trial", "value").collect().rows())


@pytest.mark.parametrize("together", [False, True], ids=["loose", "compact"])
def test_predictions_are_those_of_the_trials_that_records_name(
    together: bool, minilm: str, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "LEAST_PARTS", 4 if together else 10**6)
    asked = study(minilm)
    filled(asked, store, fill)
    found = ftprobe.results(asked, store=store)
    assert bool(store.volume.names("artifacts/compact")) == together
    of = accuracies(found.records)
    assert len(of) == 4
    trials = found.records.select("trial").collect()["trial"]  # each probe has two names; others keep no predictions
    rows = found.predictions(trials).collect()
    hits = rows.group_by("trial").agg((pl.col("gold") == pl.col("predicted")).mean())
    assert dict(hits.rows()) == of
    assert rows["gold"].cast(pl.String).to_list() == ["no", "yes", "yes", "no"] * 4
    assert found.predictions(["of no study"]).collect().shape == (0, 9)


def test_only_the_files_that_are_asked_for_travel(minilm: str, tmp_path: Path, store: Store, fill: Fill) -> None:
    asked = study(minilm)
    filled(asked, store, fill)
    found = ftprobe.results(asked, store=store)
    first, *_ = accuracies(found.records)
    assert not list(tmp_path.glob("cache/**/predictions.parquet"))
    assert found.predictions([first, first]).collect().height == 4
    fetched = list(tmp_path.glob("cache/**/predictions.parquet"))
    assert [path.parent.name for path in fetched] == ([] if store.url.startswith("/") else [first])


def test_a_damaged_file_is_named(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path / "store")
    asked = study(minilm)
    filled(asked, store, fill)
    found = ftprobe.results(asked, store=store)
    first, *_ = accuracies(found.records)
    path = tmp_path / "store" / "artifacts" / "probe" / first / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptArtifact, match=rf"{first}.*predictions\.parquet"):
        found.predictions([first])
