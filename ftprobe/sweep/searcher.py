"""The searcher that hands Ray Tune the packs of a schedule, and the callback that tells an observer what they do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from ftprobe.runner import Observer, as_result, finish
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.shares import Admission
from ftprobe.store import Store
from ftprobe.sweep.losses import loss_of

STARTS = 20  # attempts that end before a worker has the pack, as when nodes come and go, after which it is tried again
_LOOK_S = 5.0  # how often the cluster is asked for its nodes


class DagSearcher(Searcher):  # type: ignore[misc]
    """Hands out packs whose parents are done and that `admission` lets through, and FINISHED when none is left.

    Attributes
    ----------
    packs : dict of str to Pack
        What runs, by Tune's trial id.
    actors : dict of str to str
        Ray's id of the worker that has it, likewise.
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
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore runs, and ours resume from the store."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack as a trial's configuration."""
        if time.monotonic() - self._looked > _LOOK_S:
            self.admission.nodes, self._looked = self.nodes(), time.monotonic()
        loads = self.schedule.loads()
        pack = self.schedule.next(lambda stage: self.admission.admits(stage, loads))
        if pack is None:
            return str(Searcher.FINISHED) if self.schedule.finished else None
        self.packs[trial_id] = pack
        trials = json.dumps([trial.payload() for trial in pack.trials])
        return {"stage": pack.stage, "pack": pack.id, "trials": trials}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A pack came back, or lost its worker: then it is handed out again, as another of Tune's trials."""
        pack, actor = self.packs.pop(trial_id), self.actors.pop(trial_id, "")
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
    """Tells the schedule and the observer of starts, reports and time."""

    def __init__(self, searcher: DagSearcher) -> None:
        self.searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a pack."""
        pack = self.searcher.packs.get(trial.trial_id)
        if pack is not None:
            self.searcher.schedule.start(pack.id)
            self.searcher.actors[trial.trial_id] = trial.temporary_state.ray_actor._actor_id.hex()
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
