"""Locality: which pack a worker gets by what its node holds, alone and on a simulated cluster with a cache a node."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faultlab import command, numbers, same
from pyarrow.fs import LocalFileSystem

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Pack, Schedule
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume
from ftprobe.study import Resources
from ftprobe.sweep import run_ray
from ftprobe.sweep.locality import LOOK, ROUNDS, Locality

SETS = ("a0", "a1")
WAIT_S = 150.0
PADDING = "x" * 300_000  # Ray sends what is that large by another way than a call's other arguments


def trial(key: str, *parents: str, stage: str = "probe", flops: float = 1.0, **more: Mapping[str, Any]) -> Trial:
    spec, where = more.get("spec", {}), more.get("where", {})
    return Trial(key, cast(Any, stage), key, spec, parents, key, where, {}, Cost(flops, 0.0, 0))


def plan(*trials: Trial) -> Plan:
    asked = {stage: Resources(cpu=1) for stage in ("finetune", "activations", "probe")}
    study = cast(Any, SimpleNamespace(resources=asked, track=()))
    return Plan(study, {t.id: t for t in trials}, (), (), len(trials), frozenset())


def readers(count: int, **more: Mapping[str, Any]) -> list[Trial]:
    return [trial(f"{made}-{i}", made, **more) for made in SETS for i in range(count)]


class Line:
    """Packs that wait, and a locality to choose among them."""

    def __init__(self, *trials: Trial, made: tuple[Trial, ...] = ()) -> None:
        self.locality = Locality(plan(*made, *trials))
        self.packs = [(t.cost.flops, Pack(t.id, t.stage, (t,), frozenset(t.parents))) for t in trials]

    def take(self, node: str, workers: int = 100) -> str:
        pack = self.locality.choose(node, iter(self.packs), workers)
        self.packs = [each for each in self.packs if each[1].id != pack.id]
        return pack.id


MADE = tuple(trial(key, stage="activations") for key in SETS)


def test_a_node_gets_what_it_holds_then_what_nobody_holds_then_the_first() -> None:
    line = Line(*readers(3), made=MADE)
    assert line.take("n1") == "a0-0"
    assert line.take("n2") == "a1-0", "n1 is at a0"
    assert [line.take("n1"), line.take("n1")] == ["a0-1", "a0-2"]
    assert line.take("n1") == "a1-1", "work does not wait for n2"
    assert line.take("n2") == "a1-2"


def test_what_a_cache_had_counts_and_what_a_lost_node_had_does_not() -> None:
    line = Line(*readers(2), made=MADE)
    line.locality.meet("n2", {"a0"})
    assert line.take("n1") == "a0-0", "n2 has asked for no probe so far: nothing is left for it"
    assert line.take("n2") == "a0-1"
    line.locality.forget("n2")
    assert not line.locality.has_met("n2")
    assert line.take("n3") == "a1-0"


def test_a_node_that_takes_no_packs_of_a_stage_is_left_none() -> None:
    line = Line(*readers(1), made=MADE)
    line.locality.meet("gpu", {"a0"})
    line.locality.choose("gpu", iter([(1.0, Pack("a1", "activations", (MADE[1],), frozenset()))]), 1)
    assert line.take("cpu") == "a0-0"


def test_a_pack_is_passed_over_for_some_rounds_of_the_workers() -> None:
    line = Line(*readers(20), made=MADE)
    assert line.take("n1", workers=2) == "a0-0"
    others = [line.take("n2", workers=2) for _ in range(2 * ROUNDS)]
    assert others == [f"a1-{i}" for i in range(2 * ROUNDS)]
    assert [line.take("n2", workers=2) for _ in range(2)] == ["a0-1", "a0-2"]


def test_a_long_path_is_not_passed_over_for_a_short_one() -> None:
    line = Line(trial("a0-0", "a0", flops=10.0), trial("a0-1", "a0", flops=10.0), trial("a1-0", "a1", flops=4.0),
                made=MADE)  # fmt: skip
    assert line.take("n1") == "a0-0"
    assert line.take("n2") == "a0-1"


def test_only_the_beginning_of_a_long_line_is_looked_through() -> None:
    line = Line(*(trial(f"a0-{i}", "a0") for i in range(LOOK + 1)), trial("a1-0", "a1"), made=MADE)
    line.locality.meet("n2", {"a1"})
    assert line.take("n1") == "a0-0"
    assert line.take("n2") == "a0-1"
    assert line.take("n2") == "a0-2"
    line.packs = line.packs[5:]
    line.locality.forget("n2")
    assert line.take("n3") == "a1-0"


def test_a_checkpoint_of_the_hub_counts_and_a_folder_does_not(tmp_path: Path) -> None:
    def extraction(key: str, location: str) -> Trial:
        return trial(key, stage="activations", spec={"model": {"hub": location}}, where={"location": location})

    hub = Line(extraction("x0", "org/one"), extraction("x1", "org/one"), extraction("y0", "org/two"))
    assert [hub.take("n1"), hub.take("n2"), hub.take("n1")] == ["x0", "y0", "x1"]
    folders = Line(extraction("x0", str(tmp_path)), extraction("x1", str(tmp_path)), extraction("y0", "org/two"))
    assert [folders.take("n1"), folders.take("n2")] == ["x0", "x1"]


def counting(root: Path) -> Store:
    """A store whose volume counts the files that it brings to a machine; workers need not import this module."""

    class Counting(RemoteVolume):
        n_brought = 0

        def _get(self, name: str, target: Path) -> None:
            RemoteVolume._get(self, name, target)
            self.n_brought += 1

    root.mkdir()
    return Store(Counting(LocalFileSystem(), str(root), "test://bucket"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A head that runs no trials, and two nodes of one core and a cache of their own; joined by this process."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for i in range(2):
        made.add_node(num_cpus=1, env_vars={"FTPROBE_CACHE": str(tmp_path / f"cache{i}")})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def executing(folder: Path, *, abreast: bool = True, blocker: int = 0) -> Any:
    """What trials do: make an artifact or read one, and note on which node.

    `abreast`: nodes take turns, the next begins nowhere before the one before has begun on both. A trial of fine-tuning
    takes its node until `blocker` probes are done.
    """
    wait_s = WAIT_S

    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        import time

        import ray

        (payload,), node, before = payloads, ray.get_runtime_context().get_node_id(), store.volume.n_brought
        mine = folder / node
        mine.mkdir(exist_ok=True)
        (mine / f"{time.time_ns()}").touch()
        turn, end = len(list(mine.iterdir())), time.time() + wait_s
        if payload["stage"] == "activations":
            with store.workdir() as made:
                (made / "layer").write_text(payload["id"] * 1000)
                store.publish("activations", payload["id"], made, {"id": payload["id"]})
        elif payload["stage"] == "probe":
            store.fetch("activations", payload["parents"][0])
        store.release()
        while payload["stage"] == "finetune" and len(list(folder.glob("done-*"))) < blocker and time.time() < end:
            time.sleep(0.05)
        while payload["stage"] == "activations" or (abreast and payload["stage"] == "probe"):
            turns = [len(list(each.iterdir())) for each in folder.iterdir() if each.is_dir()]
            if (len(turns) == 2 and min(turns) >= turn) or time.time() > end:
                break
            time.sleep(0.05)
        if payload["stage"] == "probe":
            (folder / f"done-{payload['id']}").touch()
        metrics = {"node": node, "n_brought": store.volume.n_brought - before, "late": time.time() > end}
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 0.0, "metrics": metrics}

    return execute


class Ran(Silent):
    """Keeps where each pack ran, and how many files were brought for it."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.n_brought: Counter[str] = Counter()

    def ended(self, pack: Pack, result: Any) -> None:
        assert not result.metrics["late"], pack.id
        self.nodes[pack.id] = result.metrics["node"]
        self.n_brought[pack.id] += result.metrics["n_brought"]

    def homes(self) -> dict[str, str]:
        return {made: self.nodes[made] for made in SETS}


@pytest.mark.ray
def test_packs_run_where_their_activations_were_made(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    schedule, ran = Schedule(plan(*MADE, *readers(5, spec={"padding": PADDING}))), Ran()
    store = counting(tmp_path / "store")
    run_ray(schedule, store, ran, execute=executing(tmp_path / "log"))
    assert set(schedule.states.values()) == {"done"}, schedule.errors
    homes = ran.homes()
    assert len(set(homes.values())) == 2
    assert all(ran.nodes[f"{made}-{i}"] == homes[made] for made in SETS for i in range(5))
    assert ran.n_brought.total() == 0, "a node's cache keeps what was made there"

    # another driver, which asks the nodes what they hold
    asked = plan(*MADE, *readers(3))
    again, other = Schedule(dataclasses.replace(asked, existing=frozenset(SETS))), Ran()
    (tmp_path / "again").mkdir()
    run_ray(again, store, other, execute=executing(tmp_path / "again"))
    assert all(other.nodes[f"{made}-{i}"] == homes[made] for made in SETS for i in range(3))
    assert other.n_brought.total() == 0


@pytest.mark.ray
def test_work_does_not_wait_for_a_node_that_is_busy(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    blocker = trial("blocker", *SETS, stage="finetune", flops=100.0)
    schedule, ran = Schedule(plan(*MADE, blocker, *readers(3))), Ran()
    execute = executing(tmp_path / "log", abreast=False, blocker=6)
    run_ray(schedule, counting(tmp_path / "store"), ran, execute=execute)
    assert set(schedule.states.values()) == {"done"}, schedule.errors
    homes = ran.homes()
    (held,) = (made for made in SETS if homes[made] == ran.nodes["blocker"])
    away = [i for i in range(3) if ran.nodes[f"{held}-{i}"] != homes[held]]
    assert len(away) >= 1, "read on the other node, though its home was busy until the end"
    assert ran.n_brought.total() == 1, "one transfer for all of them"


@pytest.mark.ray
def test_packs_of_a_node_that_is_lost_run_elsewhere(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    class Removes(Ran):
        lost_packs: tuple[str, ...] = ()
        gone = ""

        def started(self, pack: Pack) -> None:
            if pack.parents == {"a0"} and not self.gone:
                self.gone = self.nodes["a0"]
                (node,) = (each for each in cluster.worker_nodes if each.node_id == self.gone)
                cluster.remove_node(node, allow_graceful=False)

        def lost(self, pack: Pack, why: str = "") -> None:
            self.lost_packs += (pack.id,)

    schedule, ran = Schedule(plan(*MADE, *readers(4))), Removes()
    run_ray(schedule, counting(tmp_path / "store"), ran, execute=executing(tmp_path / "log", abreast=False))
    assert set(schedule.states.values()) == {"done"}, schedule.errors
    assert ran.lost_packs
    assert {ran.nodes[f"a0-{i}"] for i in range(4)} == {ran.nodes["a1"]} != {ran.gone}
    assert ran.n_brought.total() == 1


@pytest.mark.ray
def test_a_study_on_nodes_with_caches_has_the_records_of_a_plain_run(
    cluster: Any, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    study, reference = undisturbed
    store = f"local://{tmp_path / 'store'}"
    done = subprocess.run(
        command(study, cast(Path, store), "--address", cluster.address),
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    same(numbers(study, cast(Path, store)), numbers(study, reference))
    held = {path.name.partition("-")[0] for path in tmp_path.glob("cache?/held/*")}
    assert {"finetune", "activations"} <= held
    assert json.loads((tmp_path / "store" / "runs" / "faults.json").read_text())["ended"] == "finished"
