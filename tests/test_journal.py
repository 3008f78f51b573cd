"""The journal of a run and what `ftprobe status` makes of it, on a store alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftprobe import journal as journal_module
from ftprobe.cost import Cost
from ftprobe.journal import Journal, read_journal
from ftprobe.planner import Plan, Trial
from ftprobe.progress import progress, status_lines
from ftprobe.runner import Silent
from ftprobe.schedule import Result, Schedule
from ftprobe.store import Store


def planned(*names: str) -> Schedule:
    trials = {n: Trial(n, "finetune", f"model/{n}", {}, (), n, {}, {}, Cost(10.0, 0.0, 0)) for n in names}
    return Schedule(Plan(cast(Any, SimpleNamespace(name="study")), trials, (), (), len(trials), frozenset()))


def document(*names: str) -> dict[str, Any]:
    return {"name": "study", "trials": [{"id": n, "stage": "finetune", "name": f"model/{n}"} for n in names]}


def publish(store: Store, id: str, finished: str, wall_s: float) -> None:
    with store.workdir() as folder:
        (folder / "file").write_text("content")
        store.publish("finetune", id, folder, {"wall_s": wall_s, "finished": finished})


def test_a_run_is_told_while_it_runs_and_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "EVERY_S", -1.0)  # every tick writes
    store, schedule = Store.open(tmp_path), planned("a", "b", "c")
    journal = Journal(store, "study", Silent())
    journal.begin(schedule, "Ray: 2 node(s)")
    first, second = schedule.next(), schedule.next()
    assert first is not None
    assert second is not None
    for pack in (first, second):
        schedule.start(pack.id)
        journal.started(pack)
    assert schedule.again(second.id, "lost", 3)
    journal.lost(second)
    third = schedule.next(lambda stage: stage == "finetune")
    assert third is not None
    fourth = second if third != second else schedule.next()
    assert fourth == second
    publish(store, first.id, "2026-01-01T00:00:00.000+00:00", 7200.0)
    schedule.complete(first.id, Result("done", wall_s=7200.0))
    journal.ended(first, Result("done", wall_s=7200.0))
    schedule.start(second.id)
    journal.started(second)
    journal.tick()

    at = progress(document("a", "b", "c"), store)
    assert at.states["finetune"] == {"done": 1, "running": 1, "missing": 1}
    assert at.device_s["finetune"] == 7200.0
    now = time.time()
    lines = "\n".join(status_lines(at, now=now))
    assert "running finetune model/b" in lines
    assert "lost its worker 1 time(s): finetune model/b" in lines
    assert "Ray: 2 node(s)" in lines
    assert "left" in lines
    assert "no sign of its driver" in "\n".join(status_lines(at, now=now + 300))

    journal.close(interrupted=True)
    after = progress(document("a", "b", "c"), store)
    assert after.states["finetune"] == {"done": 1, "missing": 2}
    assert "last run interrupted" in "\n".join(status_lines(after, now=now))


def test_throughput_is_that_of_the_latest_work(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for i, minute in enumerate((0, 50, 51, 52)):
        publish(store, f"t{i}", f"2026-01-01T00:{minute:02d}:00.000+00:00", 30.0)
    at = progress(document("t0", "t1", "t2", "t3"), store)
    assert at.per_hour == pytest.approx(60.0)
    assert at.states["finetune"] == {"done": 4}
    assert at.failures == []


def test_failures_name_their_log_and_a_damaged_journal_is_none(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.record_failure("a", {"error": "ValueError: planted"})
    store.volume.write("runs/study.json", b'{"cut sho')
    at = progress(document("a", "b"), store)
    assert at.failures == [("finetune", "model/a", "ValueError: planted", store.log_path("a"))]
    assert at.states["finetune"] == {"failed": 1, "missing": 1}
    assert at.journal is None
    assert read_journal(store, "nothing") is None


@pytest.mark.ray
def test_status_of_a_real_run(undisturbed: tuple[Path, Path]) -> None:
    study, store = undisturbed
    said = subprocess.run(
        [sys.executable, "-m", "ftprobe.cli", "status", str(study), "--store", str(store)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "last run finished" in said
    assert "trials an hour" in said
    kept = json.loads((store / "runs" / "faults.json").read_text())
    assert kept["device_s"] > 0
    assert kept["running"] == []
    assert sum(kept["counts"]["probe"].values()) == kept["counts"]["probe"]["done"]
