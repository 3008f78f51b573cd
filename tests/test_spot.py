"""Spot nodes: the cloud's notice drains a node, trials leave it with a checkpoint, and its loss is not their fault."""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from ftprobe import spot
from ftprobe.api import plan
from ftprobe.corpora import prepare
from ftprobe.cost import Cost
from ftprobe.journal import Journal
from ftprobe.planner import Plan, Trial
from ftprobe.progress import progress, status_lines
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import losses, run_ray
from ftprobe.worker import run_pack


class Metadata(ThreadingHTTPServer):
    """The metadata service of an instance: AWS's, which answers to its own tokens only, or Google Cloud's."""

    def __init__(self, cloud: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.cloud, self.tokens, self.left_s = cloud, ["t0"], cast("float | None", None)
        self.faults: list[int] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a watch ask this server, and nobody else."""
        here = f"127.0.0.1:{self.server_port}"
        nobody = "127.0.0.1:9"
        aws = here if self.cloud == "aws" else nobody
        google = here if self.cloud == "google" else nobody
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{aws}", "GCE_METADATA_HOST": google}


class _Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        if self.server.cloud == "aws" and self.path == "/latest/api/token" and life:
            self.server.tokens.append(f"t{len(self.server.tokens)}")
            self._answer(200, self.server.tokens[-1])
        else:
            self._answer(404)

    def do_GET(self) -> None:
        left_s, aws = self.server.left_s, self.server.cloud == "aws"
        if self.server.faults:
            self._answer(self.server.faults.pop())
        elif aws and self.headers.get("X-aws-ec2-metadata-token") != self.server.tokens[-1]:
            self._answer(401)
        elif aws and self.path == "/latest/meta-data/spot/instance-action":
            at = datetime.now(UTC) + timedelta(seconds=left_s or 0)
            notice = {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
            self._answer(404 if left_s is None else 200, json.dumps(notice))
        elif not aws and self.path == "/computeMetadata/v1/instance/preempted":
            flavored = self.headers.get("Metadata-Flavor") == "Google"
            self._answer(200 if flavored else 403, "FALSE" if left_s is None else "TRUE")
        else:
            self._answer(404)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def metadata(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    server = Metadata(getattr(request, "param", "aws"))
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("metadata", ["aws", "google"], indirect=True)
def test_the_service_of_each_cloud_is_found_and_understood(metadata: Metadata) -> None:
    service = spot._service()
    assert service is not None
    assert service.name == {"aws": "AWS", "google": "Google Cloud"}[metadata.cloud]
    assert service.left_s() is None
    metadata.left_s = 100.0
    left = service.left_s()
    assert left is not None
    assert 95 < left <= 100 if metadata.cloud == "aws" else left == spot.GOOGLE_LEFT_S
    metadata.left_s = 9000.0  # a machine whose clock is wrong
    left = service.left_s()
    assert left is not None
    assert left <= spot.AWS_LEFT_S


def test_a_token_that_expired_is_replaced_and_a_service_in_trouble_is_asked_again(metadata: Metadata) -> None:
    service = spot._service()
    assert service is not None
    metadata.tokens.append("another")
    metadata.left_s = 60.0
    assert spot._left_s(service) is None
    assert spot._left_s(service) is not None
    metadata.faults = [500, 503]
    assert [spot._left_s(service) is None for _ in range(3)] == [True, True, False]


def test_where_nobody_answers_the_watch_ends_with_one_line() -> None:
    nobody = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9", "GCE_METADATA_HOST": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "ftprobe.cli", "spot-watch"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **nobody},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["neither AWS nor Google Cloud answers here: no notice to watch for"]


def test_a_machine_without_ray_has_nothing_to_watch(metadata: Metadata) -> None:
    said: list[str] = []
    spot.watch(said.append, node="no such node")
    assert said == ["no node of Ray runs on this machine: nothing to watch for"]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that runs no trials; tests add nodes."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Work in a thread beside the block; its error interrupts the block."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            traceback.print_exc()
            failed.append(error)
            _thread.interrupt_main()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
        if failed:
            raise failed[0]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.05)


def notice(metadata: Metadata, node: Any, left_s: float) -> None:
    """Have the cloud give notice while `ftprobe spot-watch` runs for the node, until the watch has done its work."""
    watch = [sys.executable, "-m", "ftprobe.cli", "spot-watch", "--node", node.node_id]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"watching for AWS's notice, for node {node.node_id}\n"
        time.sleep(0.5)
        assert watching.poll() is None
        metadata.left_s = left_s
        rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert rest.splitlines()[-1].endswith(f"; Ray drains node {node.node_id}"), rest


@pytest.mark.ray
def test_nothing_new_starts_on_a_node_that_is_to_go(
    cluster: Any, metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(losses, "LOSSES", 0)
    doomed, _ = (cluster.add_node(num_cpus=2) for _ in range(2))
    folder, drained = tmp_path / "ran", [float("inf")]
    folder.mkdir()

    def execute(payloads: Any, store: Store, **how: Any) -> dict[str, Any]:
        import time

        import ray

        node, begun = ray.get_runtime_context().get_node_id(), time.time()
        time.sleep(1.0)
        (folder / payloads[0]["id"]).write_text(json.dumps({"node": node, "begun": begun}))
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 1.0, "metrics": {}}

    def cloud() -> None:
        until(lambda: len(list(folder.iterdir())) >= 4)
        notice(metadata, doomed, 100.0)
        drained[0] = time.time()

    names = [f"probe{i}" for i in range(60)]
    trials = {n: Trial(n, "probe", n, {}, (), n, {}, {}, Cost(1.0, 0.0, 0)) for n in names}
    study = cast(Any, SimpleNamespace(name="study", resources={"probe": Resources(cpu=1)}, track=()))
    schedule = Schedule(Plan(study, trials, (), (), len(trials), frozenset()))
    store = Store.open(tmp_path / "store")
    journal = Journal(store, "study", Silent())
    ray.init(address=cluster.address, log_to_driver=False)
    with meanwhile(cloud):
        run_ray(schedule, store, journal, execute=execute)
    journal.close(interrupted=False)
    assert set(schedule.states.values()) == {"done"}, schedule.errors
    ran = [json.loads(path.read_text()) for path in folder.iterdir()]
    late = [each for each in ran if each["begun"] > drained[0] + losses._ASK_S + 2]
    assert len(late) > 5
    assert doomed.node_id in {each["node"] for each in ran}
    assert doomed.node_id not in {each["node"] for each in late}
    document = {"name": "study", "trials": [{"id": n, "stage": "probe", "name": n} for n in names]}
    said = "\n".join(status_lines(progress(document, store), now=time.time()))
    assert "preempted" in said
    assert "lost its worker" not in said


@pytest.mark.ray
def test_a_fine_tuning_leaves_a_node_that_is_to_go_from_where_it_was(
    cluster: Any, metadata: Metadata, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(losses, "LOSSES", 0)
    finetune = {"task": "acceptability@grammar", "epochs": 1, "batch_size": 2, "train_items": 120, "dev_items": 8}
    probe = {"task": "acceptability@grammar", "train_items": 40, "dev_items": 10, "test_items": 10}
    study = {
        "name": "spot",
        "models": {"minilm": {"checkpoint": minilm}},
        "finetune": [finetune],
        "probe": [{**probe, "on": "finetuned", "probe": {"kind": "linear"}}],
        "resources": {"finetune": {"cpu": 1}},
    }
    (tmp_path / "spot.yaml").write_text(yaml.safe_dump(study))
    store, undisturbed = Store.open(tmp_path / "store"), Store.open(tmp_path / "undisturbed")
    planned = plan(tmp_path / "spot.yaml", store=store, offline=True)
    for each in (store, undisturbed):
        prepare(planned.sources, each)
    (trial,) = (each for each in planned.trials.values() if each.stage == "finetune")
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    checkpoints = tmp_path / "store" / "checkpoints" / trial.id

    def execute(payloads: Any, store: Store, **how: Any) -> dict[str, Any]:
        import time

        import torch

        step = torch.optim.AdamW.step
        if not checkpoints.exists():  # the first attempt has time for a notice

            def slow_step(*args: Any, **named: Any) -> Any:
                time.sleep(0.3)
                return step(*args, **named)

            torch.optim.AdamW.step = slow_step  # type: ignore[method-assign]
        return run_pack(payloads, store, **how)

    def working() -> list[str]:
        return [a["Address"]["NodeID"] for a in ray._private.state.actors().values() if a["State"] == "ALIVE"]

    def cloud() -> None:
        until(lambda: bool(working()) and any((tmp_path / "store" / "tmp").iterdir()))
        (at,) = working()
        notice(metadata, nodes[at], 100.0)
        until(lambda: any(checkpoints.glob("*/manifest.json")), 30)
        cluster.remove_node(nodes[at], allow_graceful=False)

    schedule = Schedule(Plan(planned.study, {trial.id: trial}, (), (), 1, frozenset()))
    journal = Journal(store, "spot", Silent())
    ray.init(address=cluster.address, log_to_driver=False)
    with meanwhile(cloud):
        run_ray(schedule, store, journal, execute=execute)
    journal.close(interrupted=False)
    assert schedule.states == {trial.id: "done"}, schedule.errors
    manifest = store.manifest("finetune", trial.id)
    assert 0 < manifest["resumed_from_epoch"] < 1
    assert json.loads((tmp_path / "store" / "runs" / "spot.json").read_text())["retries"] == {
        "preempted": {f"finetune {trial.name}": 1}
    }
    run_pack([trial.payload()], undisturbed, device="cpu", threads=1, report=lambda metrics: None)
    expected = undisturbed.manifest("finetune", trial.id)["files"]
    assert {name: each["blake2b"] for name, each in manifest["files"].items()} == {
        name: each["blake2b"] for name, each in expected.items()
    }
