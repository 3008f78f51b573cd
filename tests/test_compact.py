"""Compact records: the same rows in the same order, whatever became of the files that hold them together."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

import ftprobe
from ftprobe import api, compact
from ftprobe.planner import Plan
from ftprobe.schedule import Result, Schedule
from ftprobe.store import Store
from ftprobe.store.faults import store_error
from ftprobe.store.local import LocalVolume
from ftprobe.study import Study, parse_study
from tests.conftest import Fill


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few parts: publishing hundreds takes the disk too long."""
    monkeypatch.setattr(compact, "LEAST_PARTS", 40)
    monkeypatch.setattr(compact, "CHUNK_PARTS", 8)


def study(minilm: str, n_seeds: int = 14, **models: str) -> Study:
    return parse_study(
        {
            "name": "many",
            "models": {alias: {"checkpoint": path} for alias, path in {"minilm": minilm, **models}.items()},
            "finetune": [{"task": "word_order@grammar", "seed": list(range(n_seeds))}],
            "probe": [{"task": "acceptability@grammar", "probe": {"kind": "linear"}}],
        }
    )


def filled(asked: Study, store: Store, fill: Fill) -> Plan:
    planned = ftprobe.plan(asked, store=store, offline=True)
    fill(planned, store)
    return planned.looked_up(store)


def loose(planned: Plan, store: Store, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """The records as they are without compact files."""
    with monkeypatch.context() as patch:
        patch.setattr(compact, "_held", lambda made, study, store: set())
        return compact.scan_study(planned, store).collect()


def files(store: Store) -> list[str]:
    return store.volume.names("artifacts/compact")


def test_rows_and_their_order_are_those_of_the_parts(
    minilm: str, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(minilm, again=minilm)  # every trial has two names
    planned = filled(asked, store, fill)
    before = loose(planned, store, monkeypatch)
    frame = ftprobe.records(asked, store=store)
    assert files(store)
    assert_frame_equal(frame.collect(), before)
    assert set(before["model"]) == {"again", "minilm", None}


def test_a_filter_reads_the_row_groups_it_needs(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path)
    asked = study(minilm)
    filled(asked, store, fill)
    found = ftprobe.records(asked, store=store).filter(pl.col("method") == "linear", pl.col("layer") == 2).collect()
    assert found.height == 15 * 2
    assert set(found["value"]) == {0.7}
    for path in (tmp_path / "artifacts" / "compact").glob("*/records.parquet"):
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
        assert all(columns[name].has_min_max for name in ("model", "method", "metric", "layer", "value"))
    wanted = ftprobe.records(asked, store=store).select("value")
    assert "artifacts/compact" in wanted.explain()
    assert wanted.explain().count("artifacts/probe") <= 4  # those alone in their chunk


def test_small_studies_have_none(minilm: str, store: Store, fill: Fill) -> None:
    asked = study(minilm, 8)
    filled(asked, store, fill)
    assert ftprobe.records(asked, store=store).collect().height > 0
    assert files(store) == []


def test_a_damaged_file_changes_nothing_and_is_made_again(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path)
    asked = study(minilm)
    filled(asked, store, fill)
    good = ftprobe.records(asked, store=store).collect()
    for name in files(store):
        path = tmp_path / "artifacts" / "compact" / name / "records.parquet"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    damaged = set(files(store))
    assert_frame_equal(ftprobe.records(asked, store=store).collect(), good)
    assert files(store) == []
    assert_frame_equal(ftprobe.records(asked, store=store).collect(), good)
    assert set(files(store)) == damaged


def test_a_trial_that_was_made_again_gives_its_new_rows(minilm: str, store: Store, fill: Fill) -> None:
    asked = study(minilm)
    planned = filled(asked, store, fill)
    ftprobe.records(asked, store=store)
    again = next(t for t in planned.trials.values() if t.stage == "probe")
    store.remove("probe", again.id)
    without = ftprobe.records(asked, store=store).collect()
    assert again.id not in set(without["trial"])
    fill(planned, store, again.id, value=0.25)
    rows = ftprobe.records(asked, store=store).collect()
    assert rows.filter(pl.col("trial") == again.id)["value"].min() == 0.25
    assert rows.filter(pl.col("trial") != again.id)["value"].min() == 0.5


def test_a_study_that_grows_keeps_most_of_its_files(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path)
    before = {chunk.id for chunk in compact.chunks(filled(study(minilm, 20), store, fill))}
    after = {chunk.id for chunk in compact.chunks(filled(study(minilm, 21), store, fill))}
    assert len(before) > 4
    assert len(before - after) <= 2  # where the new run, its extraction and its probe fall


def test_names_that_change_are_other_files(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path)
    asked = study(minilm)
    filled(asked, store, fill)
    ftprobe.records(asked, store=store)
    renamed = parse_study(
        {
            "name": "other",
            "models": {"small": {"checkpoint": minilm}},
            "finetune": [{"task": "word_order@grammar", "seed": list(range(14))}],
            "probe": [{"task": "acceptability@grammar", "probe": {"kind": "linear"}}],
        }
    )
    rows = ftprobe.records(renamed, store=store).collect()
    assert rows["study"].unique().to_list() == ["other"]
    assert "minilm" not in set(rows["model"])


def test_writers_at_once_and_readers_among_them(
    minilm: str, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(minilm)
    good = loose(filled(asked, store, fill), store, monkeypatch)
    seen: list[pl.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: seen.append(ftprobe.records(asked, store=store).collect())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3
    for frame in seen:
        assert_frame_equal(frame, good)


def test_a_full_store_is_read_all_the_same(
    minilm: str, tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    asked = study(minilm)
    planned = filled(asked, store, fill)

    def full(self: LocalVolume, folder: Path, name: str, manifest: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        raise store_error(name, "publish", OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(LocalVolume, "publish", full)
    assert ftprobe.records(asked, store=store).collect().height == loose(planned, store, monkeypatch).height
    assert files(store) == []


def test_a_run_of_many_trials_ends_with_compact_files(
    minilm: str, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(schedule: Schedule, opened: Store, *rest: object) -> bool:
        fill(schedule.plan, opened)
        while (pack := schedule.next()) is not None:
            schedule.start(pack.id)
            schedule.complete(pack.id, Result("done"))
        return False

    monkeypatch.setattr(api, "_execute", execute)
    monkeypatch.setattr(api, "LEAST_PARTS", 40)
    assert api.run(study(minilm), store=store, offline=True).counts["probe"] == {"done": 15}
    written = files(store)
    assert written
    rows = ftprobe.records(study(minilm), store=store).filter(pl.col("layer").is_not_null()).collect()
    assert rows.height == 6 * (14 + 15 + 15)
    assert files(store) == written
