"""The journal of a run and what `ftprobe status` makes of it, on a store alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftprobe import journal as journal_module
from ftprobe import runner
from ftprobe.cost import Cost
from ftprobe.journal import Journal, read_journal
from ftprobe.planner import Plan, Trial
from ftprobe.progress import progress, status_lines
from ftprobe.runner import Silent
from ftprobe.schedule import Result, Schedule
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume


def planned(*names: str) -> Schedule:
    trials = {n: Trial(n, "finetune", f"model/{n}", {}, (), n, {}, {}, Cost(10.0, 0.0, 0)) for n in names}
    return Schedule(Plan(cast(Any, SimpleNamespace(name="study")), trials, (), (), len(trials), frozenset()))


def until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def document(*names: str) -> dict[str, Any]:
    return {"name": "study", "trials": [{"id": n, "stage": "finetune", "name": f"model/{n}"} for n in names]}


def publish(store: Store, id: str, finished: str, wall_s: float) -> None:
    with store.workdir() as folder:
        (folder / "file").write_text("content")
        store.publish("finetune", id, folder, {"wall_s": wall_s, "finished": finished})


def test_a_run_is_told_while_it_runs_and_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "EVERY_S", 0.02)
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
    assert until(lambda: (read_journal(store, "study") or {}).get("counts", {}).get("finetune", {}).get("done"))

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


def test_a_silent_trial_does_not_look_like_a_lost_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "EVERY_S", 0.05)
    store, schedule = Store.open(tmp_path), planned("a")

    def silent(payloads: object, *rest: object, **how: object) -> dict[str, Any]:
        first = read_journal(store, "study")
        assert until(lambda: ((read_journal(store, "study") or {}).get("running") or [{"s": 0}])[0]["s"] >= 0.5)
        assert first is None or first["ended"] is None
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 1.0, "metrics": {}}

    monkeypatch.setattr(runner, "run_pack", silent)
    journal = Journal(store, "study", Silent())
    runner.run_inline(schedule, store, journal, device="cpu", threads=1)
    journal.close(interrupted=False)
    kept = read_journal(store, "study")
    assert kept is not None
    assert kept["ended"] == "finished"
    assert kept["counts"]["finetune"] == {"done": 1}


def test_a_store_that_does_not_answer_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("EVERY_S", 0.02), ("LAST_S", 0.2)):
        monkeypatch.setattr(journal_module, name, seconds)
    asked, answers = threading.Event(), threading.Event()
    store, schedule = Store.open(tmp_path), planned("a")
    journal = Journal(store, "study", Silent())
    write = journal.volume.write

    def out_of_reach(name: str, data: bytes) -> None:
        asked.set()
        answers.wait()
        write(name, data)

    monkeypatch.setattr(journal.volume, "write", out_of_reach)
    begun = time.monotonic()
    journal.begin(schedule, "here")
    assert asked.wait(10)
    pack = schedule.next()
    assert pack is not None
    schedule.start(pack.id)
    journal.started(pack)
    for _ in range(1000):
        journal.tick()
        journal.metric(pack, {"epoch": 1})
    schedule.complete(pack.id, Result("done", wall_s=1.0))
    journal.ended(pack, Result("done", wall_s=1.0))
    journal.close(interrupted=False)
    assert time.monotonic() - begun < 5
    answers.set()
    assert until(lambda: (read_journal(store, "study") or {}).get("ended") == "finished")


def test_an_object_store_in_trouble_is_asked_for_seconds_only(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    journal = Journal(store, "study", Silent())
    if isinstance(store.volume, RemoteVolume):
        assert isinstance(journal.volume, RemoteVolume)
        assert journal.volume.patience.limit_s == journal_module.EVERY_S
        assert store.volume.patience.limit_s > 60
    journal.begin(planned("a"), "here")
    journal.close(interrupted=True)
    kept = read_journal(store, "study")
    assert kept is not None
    assert kept["ended"] == "interrupted"


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
