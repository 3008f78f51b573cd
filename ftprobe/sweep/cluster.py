"""The cluster: its nodes, those an autoscaler may add, and whether every node sees what its trials need."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ftprobe.errors import InputError, Problem, StoreError
from ftprobe.planner import Plan
from ftprobe.store import Store
from ftprobe.sweep.losses import leaving_nodes

LOOK_S = 120.0  # a node that has not answered by then is taken for one that does not answer


def alive_nodes() -> list[dict[str, float]]:
    """Resources of every node that trials may run on."""
    return [dict(node["Resources"]) for node in _open_nodes()]


def _open_nodes() -> list[dict[str, Any]]:
    """Every node that is alive and not about to be taken away."""
    leaving = leaving_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def nodes_to_come() -> list[dict[str, float]]:
    """Resources of every node that the cluster's autoscaler may start, those that it has started included.

    Read from the file that the autoscaler on this machine was given; none where the driver is not on the head.
    """
    path = _autoscaling_file(ray._private.worker.global_worker.gcs_client.address)
    if path is None:
        return []
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        types = document["available_node_types"]
        each_type = [(each.get("max_workers", 0), each["resources"]) for each in types.values()]
        return [dict(resources) for most, resources in each_type if resources for _ in range(most)]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []


def _autoscaling_file(gcs_address: str) -> Path | None:
    """The configuration of the autoscaler that serves a cluster, from its command line."""
    for process in psutil.process_iter(["cmdline"]):
        flags = (part for part in process.info["cmdline"] or () if part.startswith("--") and "=" in part)
        said = dict(part[2:].split("=", 1) for part in flags)
        if "autoscaling-config" in said and said.get("gcs-address") == gcs_address:
            return Path(said["autoscaling-config"]).expanduser()
    return None


def check_nodes(plan: Plan, store: Store) -> None:
    """Have every other node read what this one wrote to the store, write to it, and look for local checkpoints.

    Raises
    ------
    InputError
        A node that does not see the store or a checkpoint, by name.
    """
    nodes = _open_nodes()
    if len(nodes) < 2:
        return
    token = uuid.uuid4().hex
    locations = {str(t.where["location"]) for t in plan.trials.values() if t.where.get("location")}
    folders = sorted(path for path in locations if Path(path).is_dir())
    names = [f"checks/{token}", *(f"checks/{token}-{node['NodeID']}" for node in nodes)]
    store.volume.write(names[0], token.encode())
    try:
        problems = _asked(nodes, names, store, folders)
    finally:
        for name in names:
            store.volume.delete(name)
    if problems:
        raise InputError(problems)


def _asked(nodes: Sequence[dict[str, Any]], names: Sequence[str], store: Store, folders: list[str]) -> list[Problem]:
    look = ray.remote(num_cpus=0, max_retries=0)(sees)
    asked = {}
    for node, own in zip(nodes, names[1:], strict=True):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(store, names[0], own, folders)] = (node, own)
    ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)
    problems: list[Problem] = []
    for answer, (node, own) in asked.items():
        place = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            said = ray.get(answer, timeout=0)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {each["NodeID"] for each in _open_nodes()}:
                continue  # it left meanwhile
            short = str(error).strip().splitlines()[-1]
            problems.append(Problem(place, f"does not run ftprobe: {short}", "install the same version on every node"))
            continue
        problems += [Problem(place, *each) for each in said]
        if not said and store.volume.read(own) is None:
            what = f"has a folder of its own where the store {store.url} is"
            problems.append(Problem(place, what, "give a shared folder or an object store with --store"))
    return problems


def smallest_gpu(nodes: Sequence[Mapping[str, float]]) -> float:
    """Bytes of the smallest GPU of the cluster, as each node's driver says; infinite where none does."""
    if not any(node.get("GPU") for node in nodes):
        return math.inf
    ask = ray.remote(num_cpus=0, max_retries=0)(gpu_bytes)
    there = [node["NodeID"] for node in _open_nodes() if node["Resources"].get("GPU")]
    asked = [ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote() for n in there]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=LOOK_S)
    said: list[float] = []
    for answer in ready:
        with contextlib.suppress(ray.exceptions.RayError):  # it left meanwhile
            said.append(ray.get(answer))
    return min(said, default=math.inf)


def gpu_bytes() -> float:
    """Memory of this machine's smallest GPU; infinite where `nvidia-smi` does not say."""
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout
        return min((float(line) * 2**20 for line in said.split()), default=math.inf)
    except (OSError, subprocess.SubprocessError, ValueError):
        return math.inf


def sees(store: Store, token: str, own: str, folders: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong with this node, and the repair: empty if it reads and writes the store and has the folders."""
    wrong = []
    try:
        if store.volume.read(token) is None:
            shared = "give a shared folder or an object store with --store"
            wrong.append((f"does not see the store {store.url}", shared))
        else:
            store.volume.write(own, socket.gethostname().encode())
    except StoreError as error:
        wrong.append((str(error), "mount the store there, or allow that node to read and write it"))
    for folder in folders:
        if not os.path.isdir(folder):
            wrong.append((f"has no checkpoint {folder}", "install the package or copy the folder to every node"))
    return wrong
