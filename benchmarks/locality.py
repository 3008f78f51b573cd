"""How much travels between nodes, with and without the preference for what a node holds.

    python benchmarks/locality.py [without] [with]

8 activation artifacts of 4 MB are made and each is read by 12 probe packs of half a second, on 3 nodes of 2 CPUs with a
cache of their own, from a store that is used as an object store is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import ray
from pyarrow.fs import LocalFileSystem
from ray.cluster_utils import Cluster

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume
from ftprobe.study import Resources
from ftprobe.sweep import run_ray
from ftprobe.sweep.searcher import DagSearcher

NODES, CPUS, ARTIFACTS, READERS, SIZE = 3, 2, 8, 12, 4_000_000
PACK_S = 0.5


class Counting(RemoteVolume):
    """A volume that counts the bytes it brings to a machine."""

    n_bytes = 0

    def _get(self, name: str, target: Path) -> None:
        super()._get(name, target)
        self.n_bytes += target.stat().st_size


class Fetched(Silent):
    """Sums the bytes that packs report."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came back."""
        assert result.state == "done", result.error
        self.n_bytes += cast(int, result.metrics["n_bytes"])


def execute(payloads: Any, store: Store, **how: Any) -> dict[str, Any]:
    """Make an artifact, or read one."""
    volume, (payload, *_) = cast(Any, store.volume), payloads
    before = volume.n_bytes
    if payload["stage"] == "activations":
        with store.workdir() as folder:
            (folder / "layer").write_bytes(payload["id"].encode() * (SIZE // len(payload["id"])))
            store.publish("activations", payload["id"], folder, {"id": payload["id"]})
    else:
        store.fetch("activations", payload["parents"][0])
    store.release()
    time.sleep(PACK_S)
    metrics = {"n_bytes": volume.n_bytes - before}
    return {"state": "done", "error": "", "corrupt": [], "wall_s": PACK_S, "metrics": metrics}


def schedule_of() -> Schedule:
    """Activations, and packs that read them."""
    trials = {}
    for i in range(ARTIFACTS):
        made = f"set{i}"
        trials[made] = Trial(made, "activations", made, {}, (), made, {}, {}, Cost(1.0, 0.0, SIZE))
        for j in range(READERS):
            id = f"{made}-{j}"
            trials[id] = Trial(id, "probe", id, {}, (made,), id, {}, {}, Cost(1.0, 0.0, 0))
    asked = {"activations": Resources(cpu=1), "probe": Resources(cpu=1)}
    study = cast(Any, SimpleNamespace(resources=asked, track=()))
    return Schedule(Plan(study, trials, (), (), len(trials), frozenset()))


def measure(section: str) -> None:
    """One run on a new cluster, with empty caches."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "store").mkdir()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for i in range(NODES):
            cluster.add_node(num_cpus=CPUS, env_vars={"FTPROBE_CACHE": str(root / f"cache{i}")})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            fetched, begun = Fetched(), time.time()
            store = Store(Counting(LocalFileSystem(), str(root / "store"), "test://bucket"))
            run_ray(schedule_of(), store, fetched, execute=execute)
            wall = time.time() - begun
        finally:
            ray.shutdown()
            cluster.shutdown()
    print(f"{section}: {fetched.n_bytes / SIZE:.0f} transfers of an artifact, {wall:.0f} s", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=["without", "with", []])
    for section in parser.parse_args().sections or ["without", "with"]:
        blind = patch.object(DagSearcher, "prefers", property(lambda searcher: False))
        with blind if section == "without" else nullcontext():
            measure(section)


if __name__ == "__main__":
    main()
