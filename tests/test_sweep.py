"""The sweep on a real local Ray: order, failures, lost workers, overhead, impossible requests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftprobe.cost import Cost
from ftprobe.errors import InputError
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.shares import Admission, Share, shares_of
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import run_ray
from ftprobe.sweep.searcher import DagSearcher

pytestmark = pytest.mark.ray
OUTCOME = {"state": "done", "error": "", "corrupt": [], "wall_s": 0.0, "metrics": {}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def trial(key: str, *parents: str, stage: str = "probe") -> Trial:
    return Trial(key, cast(Any, stage), key, {}, parents, key, {}, {}, Cost(1.0, 0.0, 0))


def schedule_of(*trials: Trial, resources: Mapping[str, Resources] | None = None) -> Schedule:
    study = cast(Any, SimpleNamespace(resources=resources or {}, track=()))
    return Schedule(Plan(study, {t.id: t for t in trials}, (), (), len(trials), frozenset()))


def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_parents_end_before_children_start_and_failures_skip(cluster: None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcome = OUTCOME

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        with log.open("a") as file:
            file.write(f"start {payloads[0]['id']} {how['threads']} {how['device']}\n")
        failed = payloads[0]["id"] == "bad"
        with log.open("a") as file:
            file.write(f"end {payloads[0]['id']}\n")
        return {**outcome, "state": "failed", "error": "ValueError: planted"} if failed else dict(outcome)

    schedule = schedule_of(
        trial("f", stage="finetune"),
        trial("bad", stage="finetune"),
        trial("a", "f", stage="activations"),
        trial("p", "a"),
        trial("q", "bad"),
    )
    run_ray(schedule, store(tmp_path), Silent(), execute=execute)
    lines = log.read_text().split("\n")
    assert lines.index("end f") < lines.index("start a 1 cpu") < lines.index("start p 1 cpu")
    assert schedule.states == {"f": "done", "bad": "failed", "a": "done", "p": "done", "q": "skipped"}
    assert schedule.errors["bad"] == "ValueError: planted"


def test_a_killed_worker_is_retried(cluster: None, tmp_path: Path) -> None:
    marks = tmp_path
    outcome, kill = OUTCOME, int(signal.SIGKILL)

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        mark = marks / payloads[0]["id"]
        if not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), kill)
        return dict(outcome)

    schedule = schedule_of(trial("a"), trial("b", "a"))
    run_ray(schedule, store(tmp_path), Silent(), execute=execute)
    assert schedule.states == {"a": "done", "b": "done"}


def test_a_worker_that_is_always_lost_is_a_failure(cluster: None, tmp_path: Path) -> None:
    outcome, kill = OUTCOME, int(signal.SIGKILL)

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        if payloads[0]["id"] == "a":
            os.kill(os.getpid(), kill)
        return dict(outcome)

    schedule = schedule_of(trial("a"), trial("b", "a"), trial("c"))
    run_ray(schedule, store(tmp_path), Silent(), execute=execute)
    assert schedule.states == {"a": "failed", "b": "skipped", "c": "done"}
    assert "lost" in schedule.errors["a"]


def test_a_thousand_trivial_trials_take_at_most_90_seconds(cluster: None, tmp_path: Path) -> None:
    outcome = OUTCOME

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        return dict(outcome)

    layers = [trial(f"{i}", *([f"{i - 10}"] if i >= 10 else [])) for i in range(1000)]
    schedule = schedule_of(*layers)
    begun = time.time()
    run_ray(schedule, store(tmp_path), Silent(), execute=execute)
    wall = time.time() - begun
    assert len(schedule.states) == 1000
    assert set(schedule.states.values()) == {"done"}
    assert wall <= 90, wall
    print(f"1,000 trivial trials: {wall:.1f} s")


def test_an_impossible_request_is_refused_with_the_numbers() -> None:
    study = cast(Any, SimpleNamespace(resources={"finetune": Resources(gpu=2), "probe": Resources(cpu=64)}))
    with pytest.raises(InputError) as caught:
        shares_of(study, [{"CPU": 8, "GPU": 1, "memory": 1e10}, {"CPU": 16, "memory": 1e10}])
    problems = {p.place: p for p in caught.value.problems}
    assert set(problems) == {"resources.finetune", "resources.probe"}
    assert "2 GPU" in problems["resources.finetune"].what
    assert "16 CPU" in problems["resources.probe"].repair


def test_defaults_take_a_gpu_where_there_is_one() -> None:
    study = cast(Any, SimpleNamespace(resources={}))
    with_gpu = shares_of(study, [{"CPU": 16, "GPU": 1, "memory": 1e10}])
    assert (with_gpu["finetune"].gpu, with_gpu["probe"].gpu, with_gpu["finetune"].cpu) == (1.0, 0.25, 4.0)
    without = shares_of(study, [{"CPU": 2, "memory": 1e10}])
    assert {share.gpu for share in without.values()} == {0.0}
    assert {share.cpu for stage, share in without.items() if stage != "search"} == {1.0}
    assert without["search"].cpu == 0  # it only waits for its runs


def test_two_trials_share_one_logical_gpu(tmp_path: Path) -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    ray.init("local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
    log, outcome = tmp_path / "devices", OUTCOME

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        with log.open("a") as file:
            file.write(f"{how['device']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        return dict(outcome)

    try:
        schedule = schedule_of(trial("a"), trial("b"), resources={"probe": Resources(gpu=0.5)})
        run_ray(schedule, store(tmp_path), Silent(), execute=execute)
        cpu_only = schedule_of(trial("c"), resources={"probe": Resources(gpu=0)})
        run_ray(cpu_only, store(tmp_path), Silent(), execute=execute)
    finally:
        ray.shutdown()
    assert log.read_text().split("\n")[:3] == ["cuda 0", "cuda 0", "cpu "]


def test_a_worker_lost_after_the_run_was_stopped_is_no_failure_of_its_trial(tmp_path: Path) -> None:
    share = dict.fromkeys(("finetune", "activations", "probe"), Share(1.0, 0.0, 0.0))
    schedule = schedule_of(trial("a"))
    admission = Admission(cast(Any, share), {}, [{"CPU": 1.0}])
    searcher = DagSearcher(schedule, store(tmp_path), Silent(), admission, lambda: [])
    assert searcher.suggest("t1") is not None
    schedule.start("a")
    schedule.stop("the store is full")
    searcher.on_trial_complete("t1", error=True)
    assert schedule.states == {"a": "skipped"}
    assert schedule.errors == {"a": "the store is full"}
    assert schedule.finished
