"""Out of memory: Ray's own monitor kills a trial that takes too much; it is tried again, then it fails, and it alone.

Ray and all its workers run in a control group with a little memory, which they see as their machine's: nobody else here
is short of any.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_BYTES = 2_500_000_000
SCRIPT = """
import json, sys, time
from types import SimpleNamespace
from ftprobe.cost import Cost
from ftprobe.journal import Journal
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import losses, run_ray

losses.LOSSES = 1

def execute(payloads, store, **how):
    import time
    eaten = []
    while payloads[0]["id"] == "hungry":
        eaten.append(bytes(b"x" * 40_000_000))
        time.sleep(0.05)
    time.sleep(0.5)
    return {"state": "done", "error": "", "corrupt": [], "wall_s": 0.5, "metrics": {}}

names = ["hungry", *(f"modest{i}" for i in range(6))]
trials = {n: Trial(n, "probe", n, {}, (), n, {}, {}, Cost(1.0, 0.0, 0)) for n in names}
study = SimpleNamespace(resources={"probe": Resources(cpu=1)}, track=())
schedule = Schedule(Plan(study, trials, (), (), len(trials), frozenset()))
store = Store.open(sys.argv[1])
journal = Journal(store, "study", Silent())
run_ray(schedule, store, journal, execute=execute)
journal.close(interrupted=False)
print(json.dumps({"states": schedule.states, "errors": schedule.errors}))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of memory (version 1 or 2) of LIMIT_BYTES, emptied and removed at the end."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a mount namespace")
    first = Path("/sys/fs/cgroup/memory")
    made, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (first.parent, "memory.max")
    made = made / f"ftprobe-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            made.rmdir()
        pytest.skip(f"needs the right to make a control group of memory: {error}")
    yield made
    end = time.monotonic() + 20
    while made.exists() and time.monotonic() < end:
        for process in (made / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        with contextlib.suppress(OSError):  # while its last process ends
            made.rmdir()
        time.sleep(0.1)


@pytest.mark.ray
def test_a_trial_that_takes_too_much_memory_fails_alone_after_a_few_tries(group: Path, tmp_path: Path) -> None:
    inside = f'echo $$ > {group}/cgroup.procs && mount --bind {group} {group.parent} && exec "$@"'
    limits = {"RAY_memory_usage_threshold": "0.75", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh",
         sys.executable, "-c", SCRIPT, str(tmp_path / "store")],
        capture_output=True, text=True, timeout=250, check=False, env={**os.environ, **limits},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["states"] == {"hungry": "failed", **{f"modest{i}": "done" for i in range(6)}}
    (error,) = said["errors"].values()
    assert error == (
        "its worker was killed 2 times because its node ran out of memory; ask for more with "
        "resources.probe.memory_gb, or for fewer at once with max_concurrent"
    )
    retries = json.loads((tmp_path / "store" / "runs" / "study.json").read_text())["retries"]
    assert retries["out of memory"]["probe hungry"] == 1


@pytest.mark.ray
def test_a_worker_that_was_killed_before_it_said_anything_is_one_that_says_nothing() -> None:
    import ray
    from ray.tune.experiment import Trial

    from ftprobe.sweep.losses import told_of_memory

    @ray.remote(max_retries=0)
    def killed() -> None:
        raise ray.exceptions.OutOfMemoryError("killed")

    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        trial = Trial("x", stub=True)
        trial._default_result_or_future = killed.remote()
        with pytest.raises(ray.exceptions.OutOfMemoryError):
            trial.last_result  # noqa: B018
        with told_of_memory():
            assert trial.last_result == {"trial_id": trial.trial_id}
    finally:
        ray.shutdown()
