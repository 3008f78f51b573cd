"""A search inside a sweep: a Tuner of its own, whose trials are plain fine-tuning trials that report every epoch.

It runs in the worker of the search trial, which asks for nothing; its trials ask for what a fine-tuning asks for.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from ftprobe.errors import CorruptArtifact, NodeError, StoreError
from ftprobe.hashing import derive_seed
from ftprobe.planner.searching import largest_epochs, size_of, tried
from ftprobe.searching import Payload, Report, Tried, dev_scores
from ftprobe.shares import Share
from ftprobe.store import Store
from ftprobe.sweep.losses import LOSSES, told_of_memory

HALVES = 2  # a run goes on after epoch 1, 2, 4, ... if it is among the better 1 / HALVES of those that came there
_BROKEN = ("corrupt", "store", "node")

Call = Callable[[Sequence[Payload], Store, Callable[[Mapping[str, Any]], None]], dict[str, Any]]
"""Runs a pack in a Tune worker."""


class Place(NamedTuple):
    """What each run of a search asks for, and how many may run at once."""

    share: Share
    limit: int | None


def explore(search: Payload, report: Report, *, store: Store, call: Call, place: Place) -> list[Tried]:
    """Run what a search tries, in the order in which it was drawn.

    What an earlier attempt finished is in the store, and answers at once.

    Raises
    ------
    CorruptArtifact, StoreError
        A run could not read its inputs or use the store: the search is not to be judged without it.
    """
    scratch = Path(tempfile.mkdtemp(prefix="ftprobe-search-"))
    watch = _Watch(search, report)
    try:
        with told_of_memory():
            _tuner(search, watch, store, call, place, scratch).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _refuse(watch.broken)
    return [_ended(each, search, store) for each in watch.tried()]


def _tuner(search: Payload, watch: _Watch, store: Store, call: Call, place: Place, scratch: Path) -> tune.Tuner:
    spec = search["spec"]
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, search=search, store=store, call=call), place.share.request()
    )
    # Tune keeps one trainable of a name in a whole job: another search's, or the sweep's own, is not to be replaced.
    trainable.__name__ = f"search_{search['id']}"
    grid = spec["search"]["algorithm"] == "grid"
    return tune.Tuner(
        trainable,
        param_space={key: _axis(axis, grid=grid) for key, axis in sorted(spec["search"]["space"].items())},
        tune_config=TuneConfig(
            metric="value",
            mode="max",
            num_samples=1 if grid else size_of(spec["search"]),
            search_alg=_algorithm(spec, place.limit),
            scheduler=_scheduler(spec),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            name="search",
            storage_path=str(scratch),
            stop=_Broken(watch),
            failure_config=FailureConfig(max_failures=LOSSES),  # of a worker or node: errors of a run are results
            callbacks=[watch],
            verbose=0,
        ),
    )


def _axis(axis: Any, *, grid: bool) -> Any:
    """An axis of the space as Tune's own."""
    if not isinstance(axis, Mapping):
        return tune.grid_search(list(axis)) if grid else tune.choice(list(axis))
    ((kind, (low, high)),) = axis.items()
    if kind == "int":
        return tune.randint(low, high + 1)
    return (tune.loguniform if kind == "log" else tune.uniform)(float(low), float(high))


def _algorithm(spec: Mapping[str, Any], limit: int | None) -> Any:
    """What draws the points. It also holds the limit: Tune ignores its own for `BasicVariantGenerator`."""
    seed = derive_seed(spec["study_seed"], "search", spec["seed"])
    if spec["search"]["algorithm"] == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        drawn = OptunaSearch(seed=seed)
        return ConcurrencyLimiter(drawn, limit) if limit else drawn
    return BasicVariantGenerator(random_state=seed, max_concurrent=limit or 0)


def _scheduler(spec: Mapping[str, Any]) -> TrialScheduler:
    if spec["search"]["scheduler"] == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        max_t=largest_epochs(spec),
        grace_period=1,
        reduction_factor=HALVES,
        stop_last_trials=False,
    )


class _Watch(tune.Callback):  # type: ignore[misc]
    """What the runs of a search have reported; tells it on."""

    def __init__(self, search: Payload, report: Report) -> None:
        self.search, self.report = search, report
        self.broken: dict[str, Any] | None = None
        self._configs: dict[str, Mapping[str, Any]] = {}
        self._results: dict[str, Mapping[str, Any]] = {}
        self._lost: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore runs, and ours resume from the store."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run begins, perhaps once more."""
        self._configs[trial.trial_id] = dict(trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A run ended an epoch, or is over."""
        self._results[trial.trial_id] = result
        outcome = json.loads(result["outcome"]) if "outcome" in result else {}
        if outcome.get("state") in _BROKEN:
            self.broken = outcome
        best = max(each["value"] for each in self._results.values())
        if math.isfinite(best):
            over = sum("outcome" in each for each in self._results.values())
            self.report({"metric": self.search["spec"]["metrics"][0], "value": best, "runs": over})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run lost its worker too often."""
        self._lost.add(trial.trial_id)

    def tried(self) -> list[Tried]:
        """Every run that began; of equal points the first."""
        found: dict[str, Tried] = {}
        for key, config in self._configs.items():
            point = _plain(config)
            trial = tried(self.search, point)["id"]
            found.setdefault(trial, self._one(key, point, trial))
        return list(found.values())

    def _one(self, key: str, point: Mapping[str, Any], trial: str) -> Tried:
        result = self._results.get(key, {"value": -math.inf, "epoch": 0})
        value = result["value"] if math.isfinite(result["value"]) else math.nan
        if key in self._lost:
            return Tried(point, trial, "failed", value, result["epoch"], f"its worker was lost {LOSSES + 1} times")
        if "outcome" not in result:
            return Tried(point, trial, "stopped", value, result["epoch"])
        outcome = json.loads(result["outcome"])
        if outcome["state"] == "done":
            return Tried(point, trial, "done", value, result["epoch"])
        return Tried(point, trial, "failed", value, result["epoch"], outcome["error"])


class _Broken(Stopper):  # type: ignore[misc]
    """Ends a search once one of its runs could not use the store: the others would not either."""

    def __init__(self, watch: _Watch) -> None:
        self.watch = watch

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Never for one run alone."""
        return False

    def stop_all(self) -> bool:
        """Whether to end."""
        return self.watch.broken is not None


class _Stopped(BaseException):
    """The scheduler gave a run up. No error: nothing of the run is to catch it."""


def _trainable(config: dict[str, Any], *, search: Payload, store: Store, call: Call) -> None:
    """One run in a Tune worker: its best development score after every epoch, and what became of it last."""
    gc.collect()  # a run that was given up leaves its model in cycles, and this one needs the memory
    payload = tried(search, _plain(config))
    metric, epochs = payload["spec"]["metrics"][0], payload["spec"]["options"]["epochs"]
    last: dict[str, Any] = {"epoch": 0, "value": -math.inf}

    def scored(metrics: Mapping[str, Any]) -> None:
        value = metrics["value"] if math.isfinite(metrics["value"]) else -math.inf
        last.update(epoch=metrics["epoch"], value=max(last["value"], value))
        if metrics["epoch"] < epochs:  # the last comes with the outcome: a run given up before would leave no state
            _tell(last)

    try:
        if store.exists("finetune", payload["id"]):
            outcome: dict[str, Any] = {"state": "done", "error": ""}
            for epoch, value in enumerate(dev_scores(store, payload["id"], metric), 1):
                scored({"epoch": epoch, "value": value})
        else:
            outcome = call([payload], store, scored)
        if outcome["state"] == "done":  # a run that went on from a checkpoint has not reported the epochs before it
            scores = dev_scores(store, payload["id"], metric)
            last.update(epoch=len(scores), value=max(filter(math.isfinite, scores), default=-math.inf))
        _tell({**last, "outcome": json.dumps(outcome, default=float)})
    except _Stopped:
        sys.exit(0)  # a thread that returned would wait for Tune to take its last result


def _tell(metrics: dict[str, Any]) -> None:
    """Report to Tune, which answers a run that it has given up by an exit."""
    try:
        tune.report(metrics)
    except SystemExit as told:
        raise _Stopped from told


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A point as JSON values: Tune draws some with numpy."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in config.items()}


def _ended(run: Tried, search: Payload, store: Store) -> Tried:
    """A run as the store has it: one that an earlier attempt finished counts, whenever the scheduler gave it up."""
    if run.status != "stopped" or not store.exists("finetune", run.trial):
        return run
    scores = dev_scores(store, run.trial, search["spec"]["metrics"][0])
    return run._replace(status="done", value=max(filter(math.isfinite, scores), default=math.nan), epoch=len(scores))


def _refuse(broken: Mapping[str, Any] | None) -> None:
    if broken is None:
        return
    if broken["state"] == "corrupt":
        stage, artifact = broken["corrupt"][0]
        raise CorruptArtifact(stage, artifact, broken["error"])
    raise (NodeError if broken["state"] == "node" else StoreError)(broken["error"])
