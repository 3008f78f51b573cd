"""The sweep on a simulated cluster of several nodes (ray.cluster_utils): placement, node loss, preflight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faultlab import PATIENCE_S, artifacts, command, numbers, same, wait_for

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import run_ray

pytestmark = pytest.mark.ray


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


def trials(stage: str, count: int, parents: tuple[str, ...] = ()) -> list[Trial]:
    names = [f"{stage}{i}" for i in range(count)]
    return [Trial(n, cast(Any, stage), n, {}, parents, n, {}, {}, Cost(1.0, 0.0, 0)) for n in names]


def wait_for_nodes(cluster: Any, count: int) -> None:
    """Until the head knows that many nodes; `Cluster` itself waits only for those that it added."""
    end = time.time() + 90
    while time.time() < end:
        asked = subprocess.run(
            [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR');"
             "print(sum(node['Alive'] for node in ray.nodes()))", cluster.address],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        if int(asked.stdout.split()[-1]) >= count:
            return
    raise AssertionError(f"never saw {count} nodes")


def schedule_of(made: list[Trial], resources: Mapping[str, Resources]) -> Schedule:
    study = cast(Any, SimpleNamespace(resources=resources, track=()))
    return Schedule(Plan(study, {t.id: t for t in made}, (), (), len(made), frozenset()))


def test_logical_gpus_are_placed_as_asked(cluster: Any, tmp_path: Path) -> None:
    import ray

    gpu_node = cluster.add_node(num_cpus=4, num_gpus=2).node_id
    cpu_node = cluster.add_node(num_cpus=2).node_id
    folder = tmp_path

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        import os
        import time

        import ray

        begun = time.time()
        if payloads[0]["stage"] == "probe":  # waits for another, so that two run at once on a busy machine too
            (folder / f"{payloads[0]['id']}.begun").touch()
            while len(list(folder.glob("probe*.begun"))) < 2 and time.time() < begun + 120:
                time.sleep(0.05)
        time.sleep(0.5)
        said = {
            "stage": payloads[0]["stage"],
            "device": how["device"],
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "node": ray.get_runtime_context().get_node_id(),
            "begun": begun,
            "ended": time.time(),
        }
        (folder / f"{payloads[0]['id']}.json").write_text(json.dumps(said))
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 0.5, "metrics": {}}

    schedule = schedule_of(
        [
            *trials("finetune", 4),
            *trials("activations", 4),
            *trials("probe", 8, tuple(f"activations{i}" for i in range(4))),
        ],
        {
            "finetune": Resources(cpu=1, gpu=1),
            "activations": Resources(cpu=1, gpu=0.5),
            "probe": Resources(cpu=1, gpu=0, max_concurrent=2),
        },
    )
    ray.init(address=cluster.address, log_to_driver=False)
    run_ray(schedule, Store.open(tmp_path / "store"), Silent(), execute=execute)
    ran = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert set(schedule.states.values()) == {"done"}, schedule.errors
    assert len(ran) == 16
    assert set(schedule.states.values()) == {"done"}
    for each in ran:
        if each["stage"] == "probe":
            assert (each["device"], each["visible"]) == ("cpu", "")
        else:
            assert (each["device"], each["node"]) == ("cuda", gpu_node)
            assert each["visible"] in ("0", "1")
    assert {each["node"] for each in ran if each["stage"] == "probe"} <= {gpu_node, cpu_node}
    of_stage = {stage: [each for each in ran if each["stage"] == stage] for stage in ("finetune", "probe")}
    for one in of_stage["finetune"]:  # whole GPUs: two at once never see the same one
        others = (o for o in ran if o is not one and o["begun"] < one["ended"] and one["begun"] < o["ended"])
        assert all(o["visible"] != one["visible"] for o in others if o["device"] == "cuda")
    at_once = [sum(o["begun"] <= p["begun"] < o["ended"] for o in of_stage["probe"]) for p in of_stage["probe"]]
    assert max(at_once) == 2  # max_concurrent


def test_a_node_lost_mid_trial_and_another_added_change_no_record(
    cluster: Any, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    doomed = cluster.add_node(num_cpus=1)
    more = command(study, store, "--address", cluster.address)
    with subprocess.Popen(more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_for(lambda: len(artifacts(store)) >= 2, driver)
        cluster.remove_node(doomed, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, output
    same(numbers(study, store), numbers(study, reference))
    journal = json.loads((store / "runs" / "faults.json").read_text())
    assert journal["ended"] == "finished"
    assert sum(journal["retries"]["lost its worker"].values()) >= 1, "the trial on the lost node was counted as lost"


def test_a_node_that_does_not_see_the_store_is_named(
    cluster: Any, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """A second host whose own empty folder lies where the store is: a raylet in a mount namespace of its own."""
    study, _ = undisturbed
    store = tmp_path / "store"
    store.mkdir()
    cluster.add_node(num_cpus=1)
    start = f"mount -t tmpfs tmpfs {store} && exec {sys.executable} -m ray.scripts.scripts start --block " \
        f"--address {cluster.address} --num-cpus 1"  # fmt: skip
    shut = ["unshare", "--mount", "--propagation", "private", "sh", "-c", start]
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a mount namespace")
    with subprocess.Popen(shut, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as other:
        try:
            wait_for_nodes(cluster, 3)
            done = subprocess.run(
                command(study, store, "--address", cluster.address),
                capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            )  # fmt: skip
        finally:
            other.terminate()
            other.wait(30)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "does not see the store" in done.stderr
    assert done.stderr.count("error: node ") == 1
    assert "Traceback" not in done.stderr


def test_an_address_where_no_cluster_answers_is_bad_input(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, _ = undisturbed
    done = subprocess.run(
        command(study, tmp_path / "store", "--address", "127.0.0.1:1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "2"},
    )
    assert done.returncode == 2
    assert "--address: no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
