"""What the scheduling of trials costs, on a simulated Ray cluster of several nodes.

    python benchmarks/overhead.py [utilisation] [trivial]

`utilisation`: 200 trials of 5 s, of which half wait for another, on 8 logical CPUs of 4 nodes: busy time over allotted
time (nodes x wall from the first start to the last end). `trivial`: 5,000 trials that do nothing: wall time a trial and
the driver's peak memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ray
from ray.cluster_utils import Cluster

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.study import Resources
from ftprobe.sweep import run_ray

NODES, CPUS = 4, 2


def sleeping(seconds: float) -> Any:
    """What a trial does: nothing, for a while."""

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        import time

        begun = time.time()
        time.sleep(seconds)
        metrics = {"begun": begun, "ended": time.time()}
        return {"state": "done", "error": "", "corrupt": [], "wall_s": seconds, "metrics": metrics}

    return execute


class Times(Silent):
    """Keeps when each trial ran."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came back."""
        self.spans.append((cast(float, result.metrics["begun"]), cast(float, result.metrics["ended"])))


def schedule_of(count: int, *, chained: bool) -> Schedule:
    """Trials of one core each; with `chained`, the second half have a parent in the first."""
    half = count // 2 if chained else count
    trials = [
        Trial(str(i), "probe", str(i), {}, (str(i - half),) if i >= half else (), str(i), {}, {}, Cost(1.0, 0.0, 0))
        for i in range(count)
    ]
    study = cast(Any, SimpleNamespace(resources={"probe": Resources(cpu=1)}, track=()))
    return Schedule(Plan(study, {t.id: t for t in trials}, (), (), count, frozenset()))


def run(schedule: Schedule, seconds: float) -> Times:
    """Run a schedule of sleeping trials."""
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        run_ray(schedule, Store.open(Path(folder)), times, execute=sleeping(seconds))
    return times


def utilisation() -> None:
    """200 trials of 5 s."""
    times = run(schedule_of(200, chained=True), 5.0)
    busy = sum(end - begin for begin, end in times.spans)
    wall = max(end for _, end in times.spans) - min(begin for begin, _ in times.spans)
    print(
        f"200 trials of 5 s on {NODES * CPUS} CPUs: {wall:.1f} s, {busy / (wall * NODES * CPUS):.1%} of the time busy"
    )


def trivial() -> None:
    """5,000 trials of nothing."""
    begun = time.time()
    run(schedule_of(5000, chained=False), 0.0)
    wall, peak = time.time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"5,000 trivial trials: {wall:.0f} s, {wall / 5:.0f} ms a trial, driver's peak memory {peak:.2f} GiB")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=["utilisation", "trivial", []])
    sections = parser.parse_args().sections or ["utilisation", "trivial"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        cluster.add_node(num_cpus=CPUS)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        for section in sections:
            {"utilisation": utilisation, "trivial": trivial}[section]()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
