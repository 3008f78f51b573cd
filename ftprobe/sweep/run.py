"""One Tuner per run: a schedule's packs as Ray Tune trials, each with its stage's share of a node.

A pack whose worker or node is lost is handed out again; an error inside a trial is a result.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig

from ftprobe.errors import InputError, Problem
from ftprobe.planner import Plan, Stage
from ftprobe.runner import Observer
from ftprobe.schedule import Schedule
from ftprobe.searching import Payload
from ftprobe.shares import Admission, Share, memory_problems, shares_of
from ftprobe.store import Store
from ftprobe.sweep.cluster import alive_nodes, check_nodes, nodes_to_come, smallest_gpu
from ftprobe.sweep.losses import heed_notice, told_of_memory
from ftprobe.sweep.search import Place, explore
from ftprobe.sweep.searcher import DagSearcher, Watcher
from ftprobe.sweep.trackers import trackers
from ftprobe.worker import run_pack

CONCURRENT = 1024  # Tune gives a custom searcher one pending trial unless told otherwise
ANSWER_S = 10.0
# The store is the checkpoint: Tune's own files and tables only cost time.
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune starts a trial of a preempted node again by itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

Execute = Callable[..., dict[str, Any]]


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
        No cluster answers; a stage asks for more than any node of it has; a node does not see the store or a local
        checkpoint; trials are too large for the share of a GPU that they ask for.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # losses are told by the observer
    started_here = not ray.is_initialized()
    if started_here:
        _connect(address)
    scratch = Path(tempfile.mkdtemp(prefix="ftprobe-tune-"))
    try:
        study, nodes, to_come = schedule.plan.study, alive_nodes(), nodes_to_come()
        shares = shares_of(study, nodes, to_come)
        check_nodes(schedule.plan, store)
        if problems := _too_large(schedule.plan, shares, nodes):
            raise InputError(problems)
        limits = {stage: r.max_concurrent for stage, r in study.resources.items() if r.max_concurrent is not None}
        observer.begin(schedule, _slots(nodes))
        admission = Admission(shares, limits, nodes, to_come)
        searcher = DagSearcher(schedule, store, observer, admission, alive_nodes)
        callbacks = [Watcher(searcher), *trackers(study, searcher)]
        with told_of_memory():
            _tuner(searcher, callbacks, store, execute, scratch).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if started_here:
            ray.shutdown()


def _connect(address: str | None) -> None:
    """Start a Ray of our own, or join the cluster at the address.

    Without an address ray would join any cluster that happens to run on this machine.
    """
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()  # ray itself tries for minutes
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise InputError.one(
            "--address",
            f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[0]}",
            "is it running? One with tokens needs RAY_AUTH_MODE=token, and its token in ~/.ray/auth_token",
        ) from error


def _too_large(plan: Plan, shares: Mapping[Stage, Share], nodes: list[dict[str, float]]) -> list[Problem]:
    if not any(0 < share.gpu < 1 for stage, share in shares.items() if stage != "probe"):
        return []
    return memory_problems(plan, shares, smallest_gpu(nodes))


def _slots(nodes: list[dict[str, float]]) -> str:
    total = {key: sum(node.get(key, 0.0) for node in nodes) for key in ("CPU", "GPU")}
    dashboard = ray._private.worker.get_dashboard_url()
    link = f", dashboard http://{dashboard}" if dashboard else ""
    return f"Ray: {len(nodes)} node(s), {total['CPU']:g} CPU, {total['GPU']:g} GPU{link}"


def _tuner(
    searcher: DagSearcher, callbacks: list[tune.Callback], store: Store, execute: Execute, scratch: Path
) -> tune.Tuner:
    shares = searcher.admission.shares
    place = Place(shares["finetune"], searcher.admission.limits.get("finetune"))
    # Tune keeps one idle worker with all that it asked for: the runs of a search might wait for that for ever.
    searches = any(trial.stage == "search" for trial in searcher.schedule.plan.missing())
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, store=store, execute=execute, place=place),
        lambda config: shares[config["stage"]].request(),
    )
    return tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=not searches,
            trial_name_creator=lambda trial: f"{trial.config['stage']}-{trial.trial_id}",
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=0),  # the searcher hands a lost pack out again
            callbacks=callbacks,
            verbose=0,
        ),
    )


def hold_to(share: float) -> None:
    """Let this process take no more than its share of the GPU's memory: a trial that wants more fails alone."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def _trainable(config: dict[str, Any], *, store: Store, execute: Execute, place: Place) -> None:
    """One pack in a Tune worker: reports as it goes, and what became of it last."""
    more: dict[str, Any] = {}
    if config["stage"] == "search":
        os.environ.update({key: os.environ.get(key, value) for key, value in SETTINGS.items()})
        more["explore"] = functools.partial(explore, store=store, call=functools.partial(_call, execute), place=place)
    outcome = _call(
        execute,
        json.loads(config.pop("trials")),  # else every report would carry them back
        store,
        lambda metrics: tune.report({"metrics": json.dumps(metrics, default=float)}),
        **more,
    )
    tune.report({"outcome": json.dumps(outcome, default=float)})


def _call(
    execute: Execute, payloads: Sequence[Payload], store: Store, report: Callable[[Any], None], **more: Any
) -> dict[str, Any]:
    """Run a pack on what Ray gave this worker, and on no more."""
    heed_notice()
    gpus = ray.get_gpu_ids()
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # ray leaves it unset, and torch would see every GPU
    assigned = ray.get_runtime_context().get_assigned_resources()
    if 0 < assigned.get("GPU", 0) < 1:
        hold_to(assigned["GPU"])
    threads = max(1, int(assigned.get("CPU", 1)))
    return execute(payloads, store, device="cuda" if gpus else "cpu", threads=threads, report=report, **more)
