"""The schedule: order, skipping, rebuilding, stopping."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe.cost import DEFAULT_SPEED, Cost
from ftprobe.planner import Plan, Trial
from ftprobe.runner import RETURNS, Silent, finish
from ftprobe.schedule import PACK_S, REBUILDS, Pack, Result, Schedule, packs
from ftprobe.store import Store

DONE = Result("done")


MINUTE = PACK_S * DEFAULT_SPEED["probe"]


def trial(
    key: str, *parents: str, stage: str = "probe", group: str = "", minutes: float = 1.0, part: bool = False
) -> Trial:
    spec = {"part": {"first": key}} if part else {}
    cost = Cost(minutes * MINUTE, 0.0, 0)
    return Trial(key, cast(Any, stage), f"name-{key}", spec, parents, group or key, {}, {}, cost)


def plan(*trials: Trial, existing: frozenset[str] = frozenset()) -> Plan:
    return Plan(cast(Any, None), {t.id: t for t in trials}, (), (), len(trials), existing)


def drive(schedule: Schedule, outcomes: Mapping[str, Result] | None = None) -> list[str]:
    order = []
    while (pack := schedule.next()) is not None:
        order.append(pack.id)
        schedule.complete(pack.id, (outcomes or {}).get(pack.id, DONE))
    assert schedule.finished
    return order


class Losses(Silent):
    """Counts what is run again."""

    def __init__(self) -> None:
        self.lost_packs: list[str] = []

    def lost(self, pack: Pack, why: str = "") -> None:
        self.lost_packs.append(pack.id)


def chain() -> list[Trial]:
    return [
        trial("f", stage="finetune", minutes=10),
        trial("a", "f", stage="activations"),
        trial("p1", "a"),
        trial("p2", "a"),
        trial("base", stage="activations"),
        trial("p0", "base"),
    ]


def test_parents_come_first_and_the_longest_path_starts_first() -> None:
    order = drive(Schedule(plan(*chain())))
    assert order[0] == "f"
    assert order.index("a") < order.index("p1")
    assert order.index("base") < order.index("p0")
    assert len(order) == 6


def test_a_failure_skips_its_descendants_and_nothing_else() -> None:
    schedule = Schedule(plan(*chain()))
    order = drive(schedule, {"f": Result("failed", "ValueError: no")})
    assert sorted(order) == ["base", "f", "p0"]
    assert schedule.states == {
        "f": "failed", "a": "skipped", "p1": "skipped", "p2": "skipped", "base": "done", "p0": "done",
    }  # fmt: skip
    assert schedule.errors["f"] == "ValueError: no"
    assert schedule.errors["p2"] == "skipped: name-f failed"


def test_what_exists_is_reused_and_unneeded_parents_are_not_rebuilt() -> None:
    everything_but_a = frozenset({"f", "p1", "p2", "base", "p0"})
    schedule = Schedule(plan(*chain(), existing=everything_but_a))
    assert schedule.total == 0
    assert schedule.next() is None
    assert schedule.finished


def test_a_missing_probe_brings_back_its_missing_activations() -> None:
    schedule = Schedule(plan(*chain(), existing=frozenset({"f", "p1", "base", "p0"})))
    assert drive(schedule) == ["a", "p2"]
    assert schedule.counts()["finetune"] == {"reused": 1}


def test_one_group_is_one_pack() -> None:
    both = [trial("c", "f", stage="activations", group="g"), trial("m", "f", stage="activations", group="g")]
    (only,) = packs(both)
    assert [t.id for t in only.trials] == ["c", "m"]
    schedule = Schedule(plan(trial("f", stage="finetune"), *both, trial("pc", "c"), trial("pm", "m")))
    assert drive(schedule) == ["f", "c", "pc", "pm"]


def test_a_corrupt_input_is_rebuilt_then_its_reader_runs_again() -> None:
    schedule = Schedule(plan(*chain(), existing=frozenset({"f", "a", "base", "p0", "p1"})))
    reader = schedule.next()
    assert reader is not None
    assert reader.id == "p2"
    schedule.complete("p2", Result("corrupt", "a is short", (("activations", "a"),)))
    again = schedule.next()
    assert again is not None
    assert [t.id for t in again.trials] == ["a"]
    assert schedule.next() is None
    schedule.complete(again.id, DONE)
    assert drive(schedule) == ["p2"]
    assert schedule.states["a"] == schedule.states["p2"] == "done"


def test_an_input_that_stays_corrupt_fails_its_reader() -> None:
    schedule = Schedule(plan(*chain(), existing=frozenset({"f", "a", "base", "p0", "p1"})))
    corrupt = Result("corrupt", "a is short", (("activations", "a"),))
    for _ in range(REBUILDS):
        reader = schedule.next()
        assert reader is not None
        schedule.complete(reader.id, corrupt)
        rebuild = schedule.next()
        assert rebuild is not None
        schedule.complete(rebuild.id, DONE)
    drive(schedule, {"p2": corrupt})
    assert schedule.states["p2"] == "failed"


def test_two_readers_of_one_corrupt_input_rebuild_it_once() -> None:
    schedule = Schedule(plan(*chain(), existing=frozenset({"f", "a", "base", "p0"})))
    first, second = schedule.next(), schedule.next()
    assert first is not None
    assert second is not None
    corrupt = Result("corrupt", "a is short", (("activations", "a"),))
    schedule.complete(first.id, corrupt)
    schedule.complete(second.id, corrupt)
    order = drive(schedule)
    assert sorted(order[1:]) == ["p1", "p2"]
    assert order[0].startswith("a")


def test_stop_skips_what_has_not_started() -> None:
    schedule = Schedule(plan(*chain()))
    first = schedule.next()
    assert first is not None
    schedule.stop("disk full")
    assert not schedule.finished
    schedule.complete(first.id, Result("store", "disk full"))
    assert schedule.finished
    assert set(schedule.states.values()) == {"skipped"}
    assert len(schedule.states) == 6


def ids(made) -> list[list[str]]:
    return [[t.id for t in pack.trials] for pack in made]


def test_short_probes_of_one_artifact_share_a_worker_for_about_a_minute() -> None:
    short = [trial(f"p{i}", "a", group="a", minutes=0.3) for i in range(7)]
    other = trial("q", "b", group="b", minutes=0.3)
    long = trial("l", "a", group="a", minutes=5)
    made = packs([*short[:4], other, long, *short[4:]])
    assert ids(made) == [["p0", "p1", "p2"], ["p3"], ["l"], ["p4", "p5", "p6"], ["q"]]
    assert {pack.parents for pack in made} == {frozenset("a"), frozenset("b")}


def test_what_past_trials_reached_decides_how_many_fit_a_minute() -> None:
    short = [trial(f"p{i}", "a", group="a", minutes=0.3) for i in range(4)]
    assert ids(packs(short, {"probe": DEFAULT_SPEED["probe"] * 10})) == [["p0", "p1", "p2", "p3"]]
    assert ids(packs(short, {"probe": DEFAULT_SPEED["probe"] / 10})) == [["p0"], ["p1"], ["p2"], ["p3"]]


def grid(minutes: float) -> list[Trial]:
    cells = [trial(f"c{i}", "a", group="a", minutes=minutes, part=True) for i in range(4)]
    return [*cells, trial("whole", "a", *(cell.id for cell in cells), group="a", minutes=0.1)]


def test_a_small_grid_runs_as_one_with_its_packs_of_cells_first() -> None:
    (only,) = packs([trial("p", "a", group="a", minutes=0.1), *grid(0.1)])
    assert [t.id for t in only.trials] == ["p", "c0", "c1", "c2", "c3", "whole"]
    assert only.parents == {"a"}


def test_a_large_grid_runs_its_packs_side_by_side_and_then_its_score() -> None:
    made = packs(grid(0.5))
    assert ids(made) == [["c0", "c1"], ["c2", "c3"], ["whole"]]
    assert made[-1].parents == {"a", "c0", "c1", "c2", "c3"}
    assert drive(Schedule(plan(trial("a", stage="activations"), *grid(0.5)))) == ["a", "c0", "c2", "whole"]


def test_a_grid_is_scored_before_another_begins() -> None:
    cells = [trial(f"{name}{i}", "a", group="a", minutes=2, part=True) for name in "xy" for i in range(2)]
    wholes = [trial(name.upper(), "a", f"{name}0", f"{name}1", group="a", minutes=0.1) for name in "xy"]
    trials = [cells[0], cells[1], wholes[0], cells[2], cells[3], wholes[1]]
    assert drive(Schedule(plan(trial("a", stage="activations"), *trials))) == ["a", "x0", "x1", "X", "y0", "y1", "Y"]


def test_packs_of_cells_that_exist_are_not_fitted_again() -> None:
    existing = frozenset({"a", "c0", "c2"})
    schedule = Schedule(plan(trial("a", stage="activations"), *grid(2.0), existing=existing))
    assert drive(schedule) == ["c1", "c3", "whole"]
    done = Schedule(plan(trial("a", stage="activations"), *grid(2.0), existing=frozenset({"whole"})))
    assert done.total == 0


def test_a_probe_that_fails_leaves_the_others_of_its_pack() -> None:
    trials = [trial("a", stage="activations"), *(trial(f"p{i}", "a", group="a", minutes=0.1) for i in range(3))]
    schedule = Schedule(plan(*trials))
    drive(schedule, {"p0": Result("failed", "ValueError: no", failed={"p1": "ValueError: no"})})
    assert schedule.states == {"a": "done", "p0": "done", "p1": "failed", "p2": "done"}
    assert schedule.errors == {"p1": "ValueError: no"}


def test_a_pack_that_breaks_off_leaves_no_trial_done() -> None:
    trials = [trial("a", stage="activations"), *(trial(f"p{i}", "a", group="a", minutes=0.1) for i in range(3))]
    schedule = Schedule(plan(*trials))
    drive(schedule, {"p0": Result("store", "broke off", failed={"p0": "ValueError: no"})})
    assert schedule.states == {"a": "done", "p0": "failed", "p1": "skipped", "p2": "skipped"}
    assert schedule.errors == {"p0": "ValueError: no", "p1": "broke off", "p2": "broke off"}


@given(st.data())
def test_every_trial_ends_and_never_before_its_parents(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    trials = []
    for i in range(n):
        parents = data.draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else []
        trials.append(trial(str(i), *map(str, parents)))
    failing = data.draw(st.sets(st.integers(0, n - 1)))
    schedule = Schedule(plan(*trials))
    order = drive(schedule, {str(i): Result("failed", "x") for i in failing})
    by_id = {t.id: t for t in trials}
    for place, key in enumerate(order):
        assert all(p in order[:place] and int(p) not in failing for p in by_id[key].parents)
    for t in trials:
        doomed = any(schedule.states[p] != "done" for p in t.parents)
        expected = "skipped" if doomed else "failed" if int(t.id) in failing else "done"
        assert schedule.states[t.id] == expected


def test_running_is_counted() -> None:
    schedule = Schedule(plan(*chain()))
    pack = schedule.next()
    assert pack is not None
    assert schedule.counts()["finetune"] == {"waiting": 1}
    schedule.start(pack.id)
    assert schedule.counts()["finetune"] == {"running": 1}
    assert schedule.counts()["probe"] == {"waiting": 3}
    with pytest.raises(KeyError):
        schedule.complete("nothing", DONE)


def test_a_pack_whose_worker_missed_the_store_runs_again_a_few_times(tmp_path: Path) -> None:
    """As long as the driver reaches the store, the node or the moment was at fault."""
    store, schedule, watch = Store.open(tmp_path), Schedule(plan(trial("a"), trial("b", "a"))), Losses()
    for attempt in range(1, RETURNS + 2):
        pack = schedule.next()
        assert pack is not None
        schedule.start(pack.id)
        finish(schedule, store, watch, pack, Result("store", "cannot write: timed out"))
        assert watch.lost_packs == ["a"] * min(attempt, RETURNS)
    assert schedule.next() is None
    assert schedule.finished
    assert schedule.stopped == "cannot write: timed out"
    assert schedule.states == {"a": "skipped", "b": "skipped"}


def test_a_full_disk_on_every_node_fails_the_pack_and_not_the_run(tmp_path: Path) -> None:
    store, schedule, watch = Store.open(tmp_path), Schedule(plan(trial("a"), trial("b"))), Losses()
    seen = []
    while (pack := schedule.next()) is not None:
        seen.append(pack.id)
        full = Result("node", "cannot fill the cache: No space left on device")
        finish(schedule, store, watch, pack, full if pack.id == "a" else DONE)
    assert Counter(seen) == {"a": RETURNS + 1, "b": 1}
    assert schedule.states == {"a": "failed", "b": "done"}
    assert not schedule.stopped


def test_a_store_that_the_driver_cannot_reach_either_stops_the_run(tmp_path: Path) -> None:
    store, schedule, watch = Store.open(tmp_path / "store"), Schedule(plan(trial("a"), trial("b"))), Losses()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file where the folder was")
    pack = schedule.next()
    assert pack is not None
    finish(schedule, store, watch, pack, Result("store", "cannot write: no such folder"))
    assert watch.lost_packs == []
    assert schedule.stopped
    assert schedule.next() is None


def test_stages_that_are_not_admitted_wait() -> None:
    schedule = Schedule(plan(*chain()))
    first = schedule.next(lambda stage: stage != "finetune")
    assert first is not None
    assert first.id == "base"
    assert schedule.next(lambda stage: stage == "probe") is None
    assert schedule.loads().left == {"finetune": 1, "activations": 1, "probe": 3}
    schedule.start("base")
    assert (schedule.loads().out, schedule.loads().queued) == ({"activations": 1}, {})
    assert schedule.has_started("base")
    assert schedule.again("base", "lost", 1)
    assert schedule.loads() == ({}, {}, {"finetune": 1, "activations": 2, "probe": 3})
    assert schedule.next(lambda stage: stage == "activations") == first
    assert not schedule.again("base", "lost", 1)
    schedule.complete("base", DONE)
    assert schedule.loads().left == {"finetune": 1, "activations": 1, "probe": 3}
    drive(schedule)
    assert not +schedule.loads().left


def test_packs_that_no_worker_has_wait_in_order_whether_handed_out_or_not() -> None:
    schedule = Schedule(plan(*(trial(key, minutes=m) for key, m in (("a", 3), ("b", 5), ("c", 4), ("d", 1)))))
    started, handed_out = schedule.next(), schedule.next()
    assert started is not None
    assert handed_out is not None
    schedule.start(started.id)
    assert started.id == "b"
    assert [pack.id for _, pack in schedule.waiting("probe")] == ["c", "a", "d"]
    lengths = [length for length, _ in schedule.waiting("probe")]
    assert lengths == [4 * MINUTE, 3 * MINUTE, MINUTE]


def test_an_exchanged_pack_is_out_and_the_other_waits_again() -> None:
    schedule = Schedule(plan(*(trial(key, minutes=m) for key, m in (("a", 3), ("b", 5), ("c", 4)))))
    first, second = schedule.next(), schedule.next()
    assert (first and first.id, second and second.id) == ("b", "c")
    assert not schedule.exchange("b", "c"), "both are out"
    before = schedule.loads()
    assert schedule.exchange("b", "a")
    assert schedule.loads() == before
    assert [pack.id for _, pack in schedule.waiting("probe")] == ["b", "c", "a"]
    schedule.complete("a", DONE)
    schedule.complete("c", DONE)
    assert drive(schedule) == ["b"]
