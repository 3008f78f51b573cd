"""The sweep: a plan's missing trials as Ray Tune trials, or one after another in this process.

The only module that imports ray. One Tuner runs a searcher over the plan's DAG: it hands out packs whose parents are
done, and FINISHED when none is left. A lost worker or node is retried by Tune; an error inside a trial is a result.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ftprobe.corpora import prepare
from ftprobe.errors import InputError, Problem
from ftprobe.planner import Stage
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.study import Resources, Study
from ftprobe.worker import run_pack

RETRIES = 3  # of a lost worker or node; errors of a trial itself are never retried


class Observer(Protocol):
    """What a terminal view is told while a sweep runs."""

    def begin(self, schedule: Schedule, slots: str) -> None:
        """The sweep starts; `slots` says on what."""

    def started(self, pack: Pack) -> None:
        """A pack has been given to a worker."""

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """A running pack reported."""

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came back."""


class Share(NamedTuple):
    """What one trial of a stage asks for."""

    cpu: float
    gpu: float
    memory: float


Execute = Callable[..., dict[str, Any]]


def run_inline(schedule: Schedule, store: Store, observer: Observer, *, device: str, threads: int) -> None:
    """Run every pack in this process, one after another: no ray, and a debugger works."""
    observer.begin(schedule, f"this process, {threads} threads, {device}")
    while (pack := schedule.next()) is not None:
        observer.started(pack)
        payloads = [t.payload() for t in pack.trials]
        report = functools.partial(observer.metric, pack)
        outcome = run_pack(payloads, store, device=device, threads=threads, report=report)
        _finish(schedule, store, observer, pack, _result(outcome))


def run_ray(
    schedule: Schedule,
    store: Store,
    observer: Observer,
    *,
    address: str | None = None,
    execute: Execute = run_pack,
) -> None:
    """Run the schedule on Ray Tune: a local Ray, or the cluster at `address`.

    Raises
    ------
    InputError
        A stage asks for more than any node of the cluster has.
    """
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=True)
    scratch = Path(tempfile.mkdtemp(prefix="ftprobe-tune-"))
    try:
        shares = preflight(schedule.plan.study, [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]])
        observer.begin(schedule, _slots(ray.cluster_resources()))
        _tune(schedule, store, observer, shares, execute, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if started_here:
            ray.shutdown()


def preflight(study: Study, nodes: list[Mapping[str, float]]) -> dict[Stage, Share]:
    """Each stage's share, checked against the nodes: a request that no node can meet would wait for ever.

    Defaults: where any node has a GPU, fine-tuning and extraction take one and probes a quarter; CPUs are a quarter
    of the largest node, between 1 and 4.
    """
    most_cpu = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    most_gpu = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    cpu = float(max(1, min(4, int(most_cpu) // 4)))
    gpus: dict[Stage, float] = {"finetune": 1.0, "activations": 1.0, "probe": 0.25}
    shares: dict[Stage, Share] = {}
    problems = []
    for stage, gpu in gpus.items():
        asked = study.resources.get(stage, Resources())
        share = Share(
            cpu if asked.cpu is None else asked.cpu,
            (gpu if most_gpu else 0.0) if asked.gpu is None else asked.gpu,
            (asked.memory_gb or 0.0) * 1e9,
        )
        shares[stage] = share
        if not any(_fits(share, node) for node in nodes):
            have = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes) or "no node"
            problems.append(
                Problem(
                    f"resources.{stage}",
                    f"a trial asks for {share.cpu:g} CPU, {share.gpu:g} GPU, {share.memory / 1e9:g} GB and no node has that",
                    f"the cluster has: {have}",
                )
            )
    if problems:
        raise InputError(problems)
    return shares


def _fits(share: Share, node: Mapping[str, float]) -> bool:
    return (
        share.cpu <= node.get("CPU", 0.0)
        and share.gpu <= node.get("GPU", 0.0)
        and share.memory <= node.get("memory", 0.0)
    )


def _slots(resources: Mapping[str, float]) -> str:
    nodes = sum(key.startswith("node:") and key != "node:__internal_head__" for key in resources)
    return f"Ray: {nodes} node(s), {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"


def _tune(
    schedule: Schedule,
    store: Store,
    observer: Observer,
    shares: Mapping[Stage, Share],
    execute: Execute,
    scratch: Path,
) -> None:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "64")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    searcher, watcher = _searcher(schedule, store, observer)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, store=store, execute=execute),
        lambda config: _request(shares[config["stage"]]),
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=1024,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trial.config['stage']}-{trial.config['pack'][:12]}",
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    tuner.fit()


def _request(share: Share) -> dict[str, float]:
    request = {"cpu": share.cpu, "gpu": share.gpu, "memory": share.memory}
    return {key: value for key, value in request.items() if value or key == "cpu"}


def _trainable(config: dict[str, Any], *, store: Store, execute: Execute) -> None:
    """One pack in a Tune worker: reports as it goes, and what became of it last."""
    import ray
    from ray import tune

    gpus = ray.get_gpu_ids()
    assigned = ray.get_runtime_context().get_assigned_resources()
    payloads = json.loads(config["trials"])
    outcome = execute(
        payloads,
        store,
        device="cuda" if gpus else "cpu",
        threads=max(1, int(assigned.get("CPU", 1))),
        report=lambda metrics: tune.report({"metrics": json.dumps(metrics, default=float)}),
    )
    tune.report({"outcome": json.dumps(outcome, default=float)})


def _searcher(schedule: Schedule, store: Store, observer: Observer) -> tuple[Any, Any]:
    """The searcher over the plan's DAG, and the callback that hears of running trials."""
    from ray.tune import Callback
    from ray.tune.search import Searcher

    packs: dict[str, Pack] = {}

    class DagSearcher(Searcher):  # type: ignore[misc]
        """Hands out packs whose parents are done."""

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            pack = schedule.next()
            if pack is None:
                return str(Searcher.FINISHED) if schedule.finished else None
            packs[trial_id] = pack
            trials = json.dumps([trial.payload() for trial in pack.trials])
            return {"stage": pack.stage, "pack": pack.id, "trials": trials}

        def on_trial_complete(
            self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
        ) -> None:
            pack = packs.pop(trial_id)
            if error or not result or "outcome" not in result:
                lost = f"its worker or node was lost {RETRIES + 1} times"
                _finish(schedule, store, observer, pack, Result("failed", lost))
            else:
                _finish(schedule, store, observer, pack, _result(json.loads(result["outcome"])))

        def save(self, checkpoint_path: str) -> None:
            """The store is the checkpoint."""

        def restore(self, checkpoint_path: str) -> None:
            """The store is the checkpoint."""

    class Watcher(Callback):  # type: ignore[misc]
        """Passes starts and reports on to the view."""

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if trial.trial_id in packs:
                observer.started(packs[trial.trial_id])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
        ) -> None:
            if "metrics" in result and trial.trial_id in packs:
                observer.metric(packs[trial.trial_id], json.loads(result["metrics"]))

    return DagSearcher(), Watcher()


def _result(outcome: Mapping[str, Any]) -> Result:
    corrupt = tuple((stage, artifact) for stage, artifact in outcome["corrupt"])
    return Result(outcome["state"], outcome["error"], corrupt, outcome["wall_s"], outcome["metrics"])


def _finish(schedule: Schedule, store: Store, observer: Observer, pack: Pack, result: Result) -> None:
    for stage, artifact in result.corrupt:
        store.remove(stage, artifact)
        if artifact not in schedule.plan.trials:
            prepare(schedule.plan.sources, store)
    if result.state == "store":
        schedule.stop(result.error)
    schedule.complete(pack.id, result)
    observer.ended(pack, result)


class Silent:
    """An observer that shows nothing."""

    def begin(self, schedule: Schedule, slots: str) -> None:
        """Nothing."""

    def started(self, pack: Pack) -> None:
        """Nothing."""

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """Nothing."""

    def ended(self, pack: Pack, result: Result) -> None:
        """Nothing."""
