"""Demand: trials that wait make Ray's own autoscaler start nodes, of which there are none at first."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from ftprobe.cost import Cost
from ftprobe.errors import InputError
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import run_ray

pytestmark = pytest.mark.ray
LISTS = (
    *(f"{who}setup_commands" for who in ("", "head_", "worker_")),
    *(f"{who}_start_ray_commands" for who in ("head", "worker")),
    *("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


@pytest.fixture
def autoscaled(tmp_path: Path) -> Iterator[str]:
    """The address of a head that runs nothing, whose autoscaler starts one-core nodes as processes here."""
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "cluster_name": "fake_multinode",
        "max_workers": 8,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "file_mounts_sync_continuously": False,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in LISTS},
    }
    (tmp_path / "cluster.yaml").write_text(json.dumps(config))
    # a Ray of its own that this process started before has switched the process to tokens
    first, fake = {"RAY_AUTH_MODE": "disabled"}, {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    environment = {**first, **os.environ, **fake}
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false", f"--autoscaling-config={tmp_path / 'cluster.yaml'}",
    ]  # fmt: skip
    with (
        (tmp_path / "head.log").open("w") as log,
        subprocess.Popen(start, stdout=log, stderr=log, env=environment) as head,
    ):
        try:
            wait_for_port(port)
            yield f"127.0.0.1:{port}"
        finally:
            if ray.is_initialized():
                ray.shutdown()
            for process in psutil.Process(head.pid).children(recursive=True):
                process.kill()
            head.kill()


def wait_for_port(port: int) -> None:
    end = time.time() + 90
    while time.time() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    raise AssertionError("the head never answered")


def schedule_of(count: int, cpu: float) -> Schedule:
    trials = {str(i): Trial(str(i), "probe", str(i), {}, (), str(i), {}, {}, Cost(1.0, 0.0, 0)) for i in range(count)}
    study = cast(Any, SimpleNamespace(resources={s: Resources(cpu=cpu) for s in ("finetune", "activations", "probe")},
                                      track=()))  # fmt: skip
    return Schedule(Plan(study, trials, (), (), count, frozenset()))


def test_waiting_trials_start_nodes_and_impossible_ones_are_refused(autoscaled: str, tmp_path: Path) -> None:
    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        import time

        import ray

        # The waiting trials are to start the second node, however slow this machine is at it.
        end = time.monotonic() + 60
        while sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()) < 2:
            assert time.monotonic() < end, "the second node never started"
            time.sleep(0.2)
        time.sleep(2)
        metrics = {"node": ray.get_runtime_context().get_node_id()}
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 2.0, "metrics": metrics}

    class Nodes(Silent):
        def __init__(self) -> None:
            self.seen: set[object] = set()

        def ended(self, pack: Any, result: Any) -> None:
            self.seen.add(result.metrics["node"])

    nodes, schedule = Nodes(), schedule_of(10, 1)
    run_ray(schedule, Store.open(tmp_path / "store"), nodes, address=autoscaled, execute=execute)
    assert set(schedule.states.values()) == {"done"}
    assert len(nodes.seen) == 2
    with pytest.raises(InputError, match="1 CPU"):
        run_ray(schedule_of(1, 2), Store.open(tmp_path / "store"), Silent(), address=autoscaled, execute=execute)
