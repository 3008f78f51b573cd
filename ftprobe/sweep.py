"""The sweep: a plan's missing trials as Ray Tune trials.

The only module that imports ray. One Tuner runs a searcher over the plan's DAG: it hands out packs whose parents are
done, and FINISHED when none is left. A lost worker or node is retried by Tune; an error inside a trial is a result.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.search import Searcher

from ftprobe.errors import InputError, Problem
from ftprobe.planner import Stage
from ftprobe.runner import Observer, as_result, finish
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.study import Resources, Study
from ftprobe.worker import run_pack

RETRIES = 3  # of a lost worker or node; errors of a trial itself are never retried
CONCURRENT = 1024  # Tune gives a custom searcher one pending trial unless told otherwise
GPUS: Mapping[Stage, float] = {"finetune": 1.0, "activations": 1.0, "probe": 0.25}
# The store is the checkpoint: Tune's own files and tables only cost time.
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

Execute = Callable[..., dict[str, Any]]


class Share(NamedTuple):
    """What one trial of a stage asks for: cores, GPUs, bytes of memory."""

    cpu: float
    gpu: float
    memory: float

    def request(self) -> dict[str, float]:
        """As Tune takes it."""
        return {"cpu": self.cpu, **{k: v for k, v in (("gpu", self.gpu), ("memory", self.memory)) if v}}


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
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    scratch = Path(tempfile.mkdtemp(prefix="ftprobe-tune-"))
    try:
        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        shares = preflight(schedule.plan.study, nodes)
        total = ray.cluster_resources()
        slots = f"Ray: {len(nodes)} node(s), {total.get('CPU', 0):g} CPU, {total.get('GPU', 0):g} GPU"
        observer.begin(schedule, slots)
        _tuner(schedule, store, observer, shares, execute, scratch).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if started_here:
            ray.shutdown()


def preflight(study: Study, nodes: Sequence[Mapping[str, float]]) -> dict[Stage, Share]:
    """Each stage's share, checked against the nodes: a request that no node can meet would wait for ever.

    Defaults: where any node has a GPU, fine-tuning and extraction take one and probes a quarter; CPUs are a quarter
    of the largest node, between 1 and 4.
    """
    cpu = float(max(1, min(4, int(max((node.get("CPU", 0.0) for node in nodes), default=0.0)) // 4)))
    gpus = GPUS if any(node.get("GPU") for node in nodes) else dict.fromkeys(GPUS, 0.0)
    shares: dict[Stage, Share] = {}
    problems = []
    for stage, gpu in gpus.items():
        asked = study.resources.get(stage, Resources())
        share = Share(
            cpu if asked.cpu is None else asked.cpu,
            gpu if asked.gpu is None else asked.gpu,
            (asked.memory_gb or 0.0) * 1e9,
        )
        shares[stage] = share
        if not any(_fits(share, node) for node in nodes):
            have = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes) or "no node"
            want = f"{share.cpu:g} CPU, {share.gpu:g} GPU, {share.memory / 1e9:g} GB"
            problems.append(
                Problem(
                    f"resources.{stage}", f"a trial asks for {want} and no node has that", f"the cluster has: {have}"
                )
            )
    if problems:
        raise InputError(problems)
    return shares


def _fits(share: Share, node: Mapping[str, float]) -> bool:
    have = (node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0))
    return all(asked <= there for asked, there in zip(share, have, strict=True))


def _tuner(
    schedule: Schedule,
    store: Store,
    observer: Observer,
    shares: Mapping[Stage, Share],
    execute: Execute,
    scratch: Path,
) -> tune.Tuner:
    searcher = DagSearcher(schedule, store, observer)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, store=store, execute=execute),
        lambda config: shares[config["stage"]].request(),
    )
    return tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trial.config['stage']}-{trial.config['pack'][:12]}",
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[Watcher(searcher)],
            verbose=0,
        ),
    )


def _trainable(config: dict[str, Any], *, store: Store, execute: Execute) -> None:
    """One pack in a Tune worker: reports as it goes, and what became of it last."""
    gpus = ray.get_gpu_ids()
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ray leaves it unset, and torch would see every GPU
    assigned = ray.get_runtime_context().get_assigned_resources()
    outcome = execute(
        json.loads(config["trials"]),
        store,
        device="cuda" if gpus else "cpu",
        threads=max(1, int(assigned.get("CPU", 1))),
        report=lambda metrics: tune.report({"metrics": json.dumps(metrics, default=float)}),
    )
    tune.report({"outcome": json.dumps(outcome, default=float)})


class DagSearcher(Searcher):  # type: ignore[misc]
    """Hands out packs whose parents are done, and FINISHED when none is left.

    Attributes
    ----------
    packs : dict of str to Pack
        What runs, by Tune's trial id.
    """

    def __init__(self, schedule: Schedule, store: Store, observer: Observer) -> None:
        super().__init__()
        self.schedule, self.store, self.observer = schedule, store, observer
        self.packs: dict[str, Pack] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore runs, and ours resume from the store."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack as a trial's configuration."""
        pack = self.schedule.next()
        if pack is None:
            return str(Searcher.FINISHED) if self.schedule.finished else None
        self.packs[trial_id] = pack
        trials = json.dumps([trial.payload() for trial in pack.trials])
        return {"stage": pack.stage, "pack": pack.id, "trials": trials}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A pack came back, or was lost too often."""
        pack = self.packs.pop(trial_id)
        if error or not result or "outcome" not in result:
            outcome = Result("failed", f"its worker or node was lost {RETRIES + 1} times")
        else:
            outcome = as_result(json.loads(result["outcome"]))
        finish(self.schedule, self.store, self.observer, pack, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the checkpoint."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the checkpoint."""


class Watcher(Callback):  # type: ignore[misc]
    """Tells the observer of starts and reports."""

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
            self.searcher.observer.started(pack)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A running pack reported."""
        pack = self.searcher.packs.get(trial.trial_id)
        if "metrics" in result and pack is not None:
            self.searcher.observer.metric(pack, json.loads(result["metrics"]))
