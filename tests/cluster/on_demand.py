"""A cluster that grows with what waits: cluster.yaml's node types, one core each, under Ray's autoscaler v2.

    python tests/cluster/on_demand.py FOLDER    # needs root on Linux; writes facts.json there

Its nodes are processes of Ray's fake provider, in a lab (lab.py) since that provider stops every Ray it sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lab
import ray
import yaml
from run import HERE, PLACES, REPO

STAGES = ("finetune", "activations", "probe")
CPU_ONLY = [f"resources.{stage}={{gpu: 0, max_concurrent: 1}}" for stage in STAGES]


def main() -> None:
    """Everything, inside the lab."""
    out = Path(sys.argv[1]).resolve()
    os.environ["FTPROBE_LAB_KEEP"] = ":".join(map(str, [*PLACES, out]))
    lab.enter()
    lab.run_here("ip route add default via 10.77.0.2")
    os.environ.update(
        PATH=f"{sys.prefix}/bin:{os.environ['PATH']}", PYTHONPATH=str(REPO), OMP_NUM_THREADS="1",
        RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", COLUMNS="200",
    )  # fmt: skip
    _start(_cluster_file())
    facts: dict[str, Any] = {"before": _nodes()}
    facts["run"] = _ftprobe("finetune[0].seed=[0]", *CPU_ONLY)
    facts["grown"] = _nodes()
    facts["too much"] = _ftprobe("finetune[0].seed=[1]", *CPU_ONLY, "resources.probe.cpu=9")
    until = time.monotonic() + 90
    while len(_nodes()) > 1 and time.monotonic() < until:
        time.sleep(1)
    facts["idle"] = _nodes()
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _cluster_file() -> dict[str, Any]:
    """cluster.yaml with nodes that are processes; its own commands and files are for machines."""
    from ray.autoscaler._private.util import prepare_config

    document = prepare_config(yaml.safe_load((REPO / "cluster.yaml").read_text()))
    types = document["available_node_types"]
    for node_type in types.values():
        node_type["node_config"] = {}
        node_type["resources"] = {**node_type["resources"], "object_store_memory": 100_000_000}
    for name in ("gpu", "cpu"):
        types[name].update(max_workers=3, resources={**types[name]["resources"], "CPU": 1})
    for field in [name for name, value in document.items() if isinstance(value, list)]:
        document[field] = []
    head = "f" * 51 + "00000"  # the node id that the provider gives its head
    provider = {"type": "fake_multinode", "launch_multiple": True, "head_node_id": head}
    types["ray.head.default"] = types.pop("head")  # the name that the provider knows
    return {**document, "head_node_type": "ray.head.default", "file_mounts": {}, "auth": {}, "provider": provider,
            "idle_timeout_minutes": 0.1}  # fmt: skip


def _start(document: dict[str, Any]) -> None:
    """The head; the provider's defaults, which Ray's wheel lacks, are put beside it for this lab alone."""
    folder = Path(ray.__file__).parent / "autoscaler" / "_private" / "fake_multi_node"
    lab.run_here(f"cp -r {folder} {lab.LAB}/fake && mount --bind {lab.LAB}/fake {folder}")
    (folder / "example.yaml").write_text(yaml.safe_dump(document))
    (lab.HOME / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(document))
    head = document["provider"]["head_node_id"]
    os.environ.update(RAY_FAKE_CLUSTER="1", RAY_enable_autoscaler_v2="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
    own = {"RAY_CLOUD_INSTANCE_ID": head, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head}
    argv = ["ray", "start", "--head", "--num-cpus=0", "--num-gpus=0", "--object-store-memory=100000000"]
    config = f"--autoscaling-config={lab.HOME}/ray_bootstrap_config.yaml"
    subprocess.run([*argv, config], env={**os.environ, **own}, check=True, stdout=subprocess.DEVNULL)


def _nodes() -> list[dict[str, float]]:
    """The resources of the nodes, from a process of its own as a client leaves traces."""
    ask = "import json, ray; ray.init('auto', log_to_driver=False, logging_level='ERROR')"
    tell = "print(json.dumps([n['Resources'] for n in ray.nodes() if n['Alive']]))"
    done = subprocess.run([sys.executable, "-c", f"{ask}; {tell}"], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def _ftprobe(*overrides: str) -> str:
    argv = [
        "run",
        str(HERE / "study.yaml"),
        *overrides,
        "--address",
        "auto",
        "--offline",
        "--store",
        f"{lab.LAB}/store",
    ]
    done = subprocess.run([sys.executable, "-m", "ftprobe.cli", *argv], capture_output=True, text=True, check=False)
    return f"exit {done.returncode}: {done.stdout}{done.stderr}"


if __name__ == "__main__":
    main()
