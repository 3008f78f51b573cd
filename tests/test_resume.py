"""A fine-tuning of real weights whose worker is lost: the next attempt goes on from the last epoch, and none shows."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ftprobe.api import plan
from ftprobe.corpora import prepare
from ftprobe.cost import speeds
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.sweep import run_ray
from ftprobe.worker import run_pack

EPOCHS = 4
WORKER = """
import json, math, sys
from ftprobe.finetune import checkpoints
from ftprobe.store import Store
from ftprobe.worker import run_pack

checkpoints.EVERY_S, checkpoints.SHARE = 0.0, math.inf
report = lambda metrics: print(metrics["epoch"], file=sys.__stdout__, flush=True)
print(run_pack([json.loads(sys.argv[1])], Store.open(sys.argv[2]), device="cpu", threads=1, report=report)["state"])
"""


class Work(NamedTuple):
    """One fine-tuning trial, its study's plan, and the files of its artifact when nothing disturbs it."""

    plan: Plan
    trial: Trial
    digests: dict[str, str]


@pytest.fixture(scope="module")
def work(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("undisturbed")
    finetune = {"task": "acceptability@grammar", "epochs": EPOCHS, "batch_size": 16, "train_items": 32, "dev_items": 8}
    probe = {"task": "acceptability@grammar", "train_items": 40, "dev_items": 10, "test_items": 10}
    study = {
        "name": "resume",
        "models": {"minilm": {"checkpoint": minilm}},
        "finetune": [finetune],
        "probe": [{**probe, "on": "finetuned", "probe": {"kind": "linear"}}],
    }
    (folder / "resume.yaml").write_text(yaml.safe_dump(study))
    store = prepared(folder / "resume.yaml", folder / "store")
    planned = plan(folder / "resume.yaml", store=store, offline=True)
    (trial,) = (each for each in planned.trials.values() if each.stage == "finetune")
    done = run_pack([trial.payload()], store, device="cpu", threads=1, report=lambda metrics: None)
    assert done["state"] == "done", done
    return Work(planned, trial, digests(store, trial))


def prepared(study: Path | Plan, root: Path) -> Store:
    store = Store.open(root)
    prepare((study if isinstance(study, Plan) else plan(study, store=store, offline=True)).sources, store)
    return store


def digests(store: Store, trial: Trial) -> dict[str, str]:
    return {name: entry["blake2b"] for name, entry in store.manifest("finetune", trial.id)["files"].items()}


def started(work: Work, store: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WORKER, json.dumps(work.trial.payload()), str(store)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
def test_a_signal_costs_at_most_the_epoch_that_was_running(work: Work, tmp_path: Path, sent: signal.Signals) -> None:
    store = prepared(work.plan, tmp_path / "store")
    with started(work, tmp_path / "store") as worker:
        assert worker.stdout is not None
        lines = [worker.stdout.readline() for _ in range(2)]
        worker.send_signal(sent)
        begun = time.monotonic()
        rest, _ = worker.communicate(timeout=60)
        assert time.monotonic() - begun < 5
    assert worker.returncode == -sent
    finished = len([*lines, *rest.split()])
    begun = time.monotonic()
    with started(work, tmp_path / "store") as worker:
        said, _ = worker.communicate(timeout=200)
    wall = time.monotonic() - begun
    again, state = [int(line) for line in said.split()[:-1]], said.split()[-1]
    assert state == "done"
    assert finished + 1 <= again[0] <= finished + 2  # a checkpoint is there before its epoch is reported
    manifest = store.manifest("finetune", work.trial.id)
    assert manifest["resumed_from_epoch"] == again[0] - 1
    assert manifest["cpu_s"] <= manifest["wall_s"] + 1 <= wall + 1
    assert digests(store, work.trial) == work.digests
    assert not (tmp_path / "store" / "checkpoints" / work.trial.id).exists()


@pytest.mark.slow
def test_two_workers_of_one_trial_make_one_artifact(work: Work, tmp_path: Path) -> None:
    store = prepared(work.plan, tmp_path / "store")
    with started(work, tmp_path / "store") as one, started(work, tmp_path / "store") as other:
        said = [worker.communicate(timeout=250)[0].split()[-1] for worker in (one, other)]
    assert said == ["done", "done"]
    assert digests(store, work.trial) == work.digests


@pytest.mark.slow
def test_signals_at_random_moments_leave_no_trace(work: Work, tmp_path: Path) -> None:
    store, rng = prepared(work.plan, tmp_path / "store"), random.Random(0)
    for _ in range(8):
        with started(work, tmp_path / "store") as worker:
            assert worker.stdout is not None
            for _ in range(rng.randrange(2)):
                worker.stdout.readline()
            time.sleep(rng.uniform(0, 2))
            worker.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    with started(work, tmp_path / "store") as worker:
        assert worker.communicate(timeout=250)[0].split()[-1] == "done"
    assert store.manifest("finetune", work.trial.id)["resumed_from_epoch"] > 0
    assert digests(store, work.trial) == work.digests


class Cut(BaseException):
    """What ends a run as a signal would: nothing catches it."""


def test_scratch_of_a_long_training_looks_alive_to_other_machines(work: Work, tmp_path: Path) -> None:
    store, seen = prepared(work.plan, tmp_path / "store"), []

    def report(metrics: dict[str, object]) -> None:
        (folder,) = (tmp_path / "store" / "tmp").iterdir()
        seen.append(folder.stat().st_mtime)
        if metrics["epoch"] == 2:
            raise Cut
        os.utime(folder, (0, 0))

    with pytest.raises(Cut):
        run_pack([work.trial.payload()], store, device="cpu", threads=1, report=report)
    assert time.time() - 600 < seen[1]


def test_a_resumed_trial_says_nothing_of_the_speed() -> None:
    whole = {"stage": "finetune", "planned_flops": 6e9, "wall_s": 3.0, "resumed_from_epoch": 0}
    set_back = {**whole, "wall_s": -3.0}
    assert speeds([whole])["finetune"] == 2e9
    assert speeds([{**whole, "wall_s": 1.0, "resumed_from_epoch": 2}, set_back, whole]) == speeds([whole])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
def test_tune_retries_a_lost_worker_from_its_checkpoint(
    cluster: None, work: Work, tmp_path: Path, sent: signal.Signals
) -> None:
    store, log, number = prepared(work.plan, tmp_path / "store"), tmp_path / "log", int(sent)

    def execute(payloads: Any, store: Store, *, report: Any, **how: Any) -> dict[str, Any]:
        from ftprobe.finetune import checkpoints

        checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
        first = not log.exists()

        def watched(metrics: dict[str, object]) -> None:
            with log.open("a") as file:
                file.write(f"{metrics['epoch']}\n")
            report(metrics)
            if first and metrics["epoch"] == 2:
                os.kill(os.getpid(), number)

        return run_pack(payloads, store, report=watched, **how)

    alone = Plan(work.plan.study, {work.trial.id: work.trial}, (), (), 1, frozenset())
    schedule = Schedule(alone)
    run_ray(schedule, store, Silent(), execute=execute)
    assert schedule.states == {work.trial.id: "done"}, schedule.errors
    epochs = [int(line) for line in log.read_text().split()]
    assert EPOCHS <= len(epochs) <= EPOCHS + 1  # one at most was run again
    resumed = int(store.manifest("finetune", work.trial.id)["resumed_from_epoch"])
    assert resumed >= 2
    assert epochs[-(EPOCHS - resumed) :] == list(range(resumed + 1, EPOCHS + 1))
    assert digests(store, work.trial) == work.digests
