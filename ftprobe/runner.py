"""The in-process runner: a schedule's packs one after another, and what every runner tells its observer.

Needs no ray: for a debugger, and for machines that have only torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol

from ftprobe.corpora import prepare
from ftprobe.errors import StoreError
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.worker import run_pack

LOST = "lost its worker"
RETURNS = 2  # how often a pack is run again whose worker could not use the store or its own disk while others can


class Observer(Protocol):
    """What a view is told while a study runs."""

    def begin(self, schedule: Schedule, slots: str) -> None:
        """The run starts; `slots` says on what."""

    def started(self, pack: Pack) -> None:
        """A pack has been given to a worker."""

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """A running pack reported."""

    def lost(self, pack: Pack, why: str = LOST) -> None:
        """A running pack lost its worker or node; it is run again."""

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came back."""

    def tick(self) -> None:
        """Time passed; called many times a second."""


class Silent:
    """An observer that shows nothing."""

    def begin(self, schedule: Schedule, slots: str) -> None:
        """Nothing."""

    def started(self, pack: Pack) -> None:
        """Nothing."""

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """Nothing."""

    def lost(self, pack: Pack, why: str = LOST) -> None:
        """Nothing."""

    def ended(self, pack: Pack, result: Result) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""


def run_inline(schedule: Schedule, store: Store, observer: Observer, *, device: str, threads: int) -> None:
    """Run every pack in this process, one after another."""
    observer.begin(schedule, f"this process, {threads} threads, {device}")
    while (pack := schedule.next()) is not None:
        schedule.start(pack.id)
        observer.started(pack)
        payloads = [t.payload() for t in pack.trials]
        report = functools.partial(observer.metric, pack)
        outcome = run_pack(payloads, store, device=device, threads=threads, report=report)
        finish(schedule, store, observer, pack, as_result(outcome))


def as_result(outcome: Mapping[str, Any]) -> Result:
    """A worker's answer as a result."""
    corrupt = tuple((stage, artifact) for stage, artifact in outcome["corrupt"])
    return Result(
        outcome["state"], outcome["error"], corrupt, outcome["wall_s"], outcome["metrics"], outcome.get("failed", {})
    )


def finish(schedule: Schedule, store: Store, observer: Observer, pack: Pack, result: Result) -> None:
    """Take a pack's result: remove what it found damaged, and tell the observer.

    A worker that could not use the store or its own disk has its pack run again, perhaps on another node. If that
    happens too often the pack fails; if it is the store, or this process cannot write it either, the run stops.
    """
    if result.state in ("store", "node") and _reachable(store) and schedule.again(pack.id, "store", RETURNS):
        observer.lost(pack)
        return
    try:
        for stage, artifact in result.corrupt:
            store.remove(stage, artifact)
            if artifact not in schedule.plan.trials:
                prepare(schedule.plan.sources, store)
    except StoreError as error:
        result = result._replace(state="store", error=str(error))
    if result.state == "store":
        schedule.stop(result.error)
    note = _truncation(pack, result)
    if note and note not in schedule.notes:
        schedule.notes.append(note)
    schedule.complete(pack.id, result)
    observer.ended(pack, result)


def _reachable(store: Store) -> bool:
    try:
        store.volume.write("checks/driver", b"ftprobe")
        store.volume.delete("checks/driver")
    except StoreError:
        return False
    return True


def _truncation(pack: Pack, result: Result) -> str:
    """`cola: 3 texts were cut at 64 sub-words when fine-tuning`, or nothing."""
    n, spec = result.metrics.get("n_truncated"), pack.trials[0].spec
    if not n:
        return ""
    length = spec.get("max_length") or spec["options"].get("max_length", "their")
    when = "fine-tuning" if pack.stage in ("finetune", "search") else "extracting"
    return f"{pack.trials[0].columns['corpus']}: {n} texts were cut at {length} sub-words when {when}"
