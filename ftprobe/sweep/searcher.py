"""The searcher that hands Ray Tune the packs of a schedule, and the callback that tells an observer what they do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

from ray.tune import Callback
from ray.tune.search import Searcher

from ftprobe.runner import Observer, as_result, finish
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.shares import Admission
from ftprobe.store import Store
from ftprobe.sweep.locality import Locality
from ftprobe.sweep.losses import loss_of
from ftprobe.sweep.workers import actor_of, give, place_of

STARTS = 20  # attempts that end before a worker has the pack, as when nodes come and go, after which it is tried again
_LOOK_S = 5.0  # how often the cluster is asked for its nodes


class DagSearcher(Searcher):  # type: ignore[misc]
    """Hands out packs whose parents are done and that `admission` lets through, and FINISHED when none is left.

    Attributes
    ----------
    packs : dict of str to Pack
        What runs, by Tune's trial id; before a worker has taken the trial, one that another may still get instead.
    actors : dict of str to str
        Ray's id of the worker that has it, likewise.
    locality : Locality
        What nodes hold.
    """

    def __init__(
        self,
        schedule: Schedule,
        store: Store,
        observer: Observer,
        admission: Admission,
        nodes: Callable[[], list[dict[str, float]]],
    ) -> None:
        super().__init__()
        self.schedule, self.store, self.observer = schedule, store, observer
        self.admission, self.nodes = admission, nodes
        self.packs: dict[str, Pack] = {}
        self.actors: dict[str, str] = {}
        self.locality = Locality(schedule.plan)
        self._nodes: dict[str, str] = {}  # of trials that a worker has
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore runs, and ours resume from the store."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial of the next pack's stage: which pack it gets is settled when a worker takes it."""
        if time.monotonic() - self._looked > _LOOK_S:
            self.admission.nodes, self._looked = self.nodes(), time.monotonic()
        loads = self.schedule.loads()
        pack = self.schedule.next(lambda stage: self.admission.admits(stage, loads))
        if pack is None:
            return str(Searcher.FINISHED) if self.schedule.finished else None
        self.packs[trial_id] = pack
        return {"stage": pack.stage}

    @property
    def prefers(self) -> bool:
        """Whether it matters which pack a worker gets: where several nodes run trials."""
        return sum(bool(node.get("CPU") or node.get("GPU")) for node in self.admission.nodes) > 1

    def take(self, trial_id: str, node: str | None) -> Pack:
        """Settle the pack of a trial that a worker took, on a node if that is known."""
        own = self.packs[trial_id]
        waiting = self.schedule.waiting(own.stage)
        if node is None:
            _, pack = next(waiting)
        else:
            loads = self.schedule.loads()
            pack = self.locality.choose(node, waiting, loads.out[own.stage] - loads.queued[own.stage] + 1)
            self._nodes[trial_id] = node
        if pack.id != own.id and not self.schedule.exchange(own.id, pack.id):
            other = next(key for key, each in self.packs.items() if each.id == pack.id)
            self.packs[other] = own
        self.packs[trial_id] = pack
        self.schedule.start(pack.id)
        return pack

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A pack came back, or lost its worker: then it is handed out again, as another of Tune's trials."""
        pack, node = self.packs.pop(trial_id), self._nodes.pop(trial_id, None)
        actor = self.actors.pop(trial_id, "")
        if node is not None and error:
            self.locality.forget(node)
        elif node is not None and pack.stage != "probe":
            self.locality.hold(node, (trial.id for trial in pack.trials))
        if not error and result and "outcome" in result:
            finish(self.schedule, self.store, self.observer, pack, as_result(json.loads(result["outcome"])))
        elif self.schedule.has_started(pack.id):
            self._lost(pack, *loss_of(actor, pack.stage))
        else:
            self._lost(pack, "not started", STARTS, f"no worker could be started for it {STARTS + 1} times")

    def _lost(self, pack: Pack, why: str, times: int, error: str) -> None:
        if self.schedule.again(pack.id, why, times):
            self.observer.lost(pack, why)
        elif self.schedule.stopped:  # nothing is run again then, and this loss is not the pack's fault
            finish(self.schedule, self.store, self.observer, pack, Result("store", self.schedule.stopped))
        else:
            finish(self.schedule, self.store, self.observer, pack, Result("failed", error))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the checkpoint."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the checkpoint."""


class Watcher(Callback):  # type: ignore[misc]
    """Gives workers their packs, and tells the observer of starts, reports and time."""

    def __init__(self, searcher: DagSearcher) -> None:
        self.searcher = searcher
        self._nodes: MutableMapping[Any, str] = WeakKeyDictionary()  # by actor, which must not live longer for it

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker is there and waits for its pack."""
        if trial.trial_id in self.searcher.packs:
            pack = self.searcher.take(trial.trial_id, self._node(trial) if self.searcher.prefers else None)
            give(trial, pack)
            self.searcher.actors[trial.trial_id] = actor_of(trial)._actor_id.hex()
            self.searcher.observer.started(pack)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A running pack reported."""
        pack = self.searcher.packs.get(trial.trial_id)
        if "metrics" in result and pack is not None:
            self.searcher.observer.metric(pack, json.loads(result["metrics"]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Time passed."""
        self.searcher.observer.tick()

    def _node(self, trial: Any) -> str | None:
        """The node of a trial's worker: asked when the worker is new, or its node may be."""
        known, locality = self._nodes.get(actor_of(trial)), self.searcher.locality
        if known is None or not locality.has_met(known):
            place = place_of(trial)
            if place is None:
                return None
            known = self._nodes[actor_of(trial)] = place.node
            locality.meet(place.node, place.held)
        return known
