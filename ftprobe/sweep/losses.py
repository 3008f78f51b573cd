"""Losses: why Ray lost a worker, and what a worker does when its node is about to be taken away.

Ray's head knows both: a node of which the cloud has given notice is being drained (`ftprobe.spot` asks for that), and
of a dead actor it keeps the cause.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import ray
from ray.air.execution._internal import RayActorManager
from ray.tune.experiment import Trial

from ftprobe.leaving import LEAVING
from ftprobe.planner import Stage
from ftprobe.runner import LOST

LOSSES = 3  # of a worker or node that ran it, after which a pack is run again; a trial's own errors are results
PREEMPTIONS = 100  # of its node, which are not the pack's fault
_ASK_S = 5.0
_watching = threading.Event()
_left: set[str] = set()  # nodes that were to go when they were last looked at: Ray forgets that of those that are gone


class Loss(NamedTuple):
    """Why a pack lost its worker, how often it is run again for that, and the error of one that was lost more often."""

    why: str
    times: int
    error: str


def leaving_nodes() -> set[str]:
    """Ids of the nodes that are being drained: nothing new starts there."""
    leaving = set(ray._private.state.state.get_draining_nodes())
    _left.update(leaving)
    return leaving


def loss_of(actor: str, stage: Stage) -> Loss:
    """Why an actor that had a pack of a stage is no more."""
    if not actor:  # none had it yet that is known
        return Loss(LOST, LOSSES, f"its worker or node was lost {LOSSES + 1} times")
    told = ray._private.state.actors(actor)
    cause = told.get("DeathCause")
    context = cause.WhichOneof("context") if cause is not None else None
    if context == "oom_context":
        what = f"its worker was killed {LOSSES + 1} times because its node ran out of memory"
        repair = f"ask for more with resources.{stage}.memory_gb, or for fewer at once with max_concurrent"
        return Loss("out of memory", LOSSES, f"{what}; {repair}")
    drained = context == "actor_died_error_context" and _was_drained(cause.actor_died_error_context)
    if drained or told.get("Address", {}).get("NodeID") in leaving_nodes() | _left:
        return Loss("preempted", PREEMPTIONS, f"its node was taken away {PREEMPTIONS + 1} times")
    return Loss(LOST, LOSSES, f"its worker or node was lost {LOSSES + 1} times")


@contextlib.contextmanager
def told_of_memory() -> Iterator[None]:
    """Within, Tune takes a worker that was killed for want of memory for a lost one.

    Ray tells of it by an `OutOfMemoryError`, which Tune (2.60) does not expect of a worker: it would end the whole run,
    as would the first look at what a worker says of itself that was killed before it could.
    """
    told, asked = RayActorManager._actor_task_failed, Trial._get_default_result_or_future

    def failed(manager: RayActorManager, *task: object, exception: Exception, **named: object) -> None:
        lost = isinstance(exception, ray.exceptions.OutOfMemoryError)
        shown = ray.exceptions.RayActorError(error_msg=str(exception)) if lost else exception
        told(manager, *task, exception=shown, **named)

    def answered(trial: Trial) -> dict[str, object] | None:
        try:
            said: dict[str, object] | None = asked(trial)
        except ray.exceptions.OutOfMemoryError:
            trial._default_result_or_future = said = None
        return said

    RayActorManager._actor_task_failed, Trial._get_default_result_or_future = failed, answered
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, Trial._get_default_result_or_future = told, asked


def _was_drained(context: object) -> bool:
    from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

    assert isinstance(context, ActorDiedErrorContext)
    return bool(context.node_death_info.reason == NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)


def heed_notice() -> None:
    """Before a pack, in its worker: end the process if its node is about to go, else see to it that this is noticed.

    Tune gives a worker that is done the next pack, wherever it is; one that ends has it started on another node.
    """
    if LEAVING.is_set():
        os._exit(0)
    if not _watching.is_set():
        _watching.set()
        node = ray.get_runtime_context().get_node_id()
        threading.Thread(target=_watch, args=(node,), name="notice", daemon=True).start()


def _watch(node: str) -> None:
    while not LEAVING.is_set():
        with contextlib.suppress(Exception):  # the head does not answer: there is nothing to heed then
            if node in leaving_nodes():
                LEAVING.set()
        time.sleep(_ASK_S)
