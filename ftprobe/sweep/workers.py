"""Workers: what is asked of and told to Tune's actors between two trials, so that packs are bound late.

A trial of Tune names a stage only. Its pack is chosen when a worker starts, whose node is known by then, and is in the
trial's configuration before its function begins: an actor's calls run in the order in which they were made.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

import ray

from ftprobe.schedule import Pack
from ftprobe.store.cache import READ_AGAIN, cache_folder, held_artifacts

ANSWER_S = 10.0  # a worker that has just started answers in milliseconds, or is lost


class Place(NamedTuple):
    """A worker's node, and the ids of the large artifacts in its cache."""

    node: str
    held: frozenset[str]


def place_of(trial: Any) -> Place | None:
    """Where the worker of one of Tune's trials is, as it says itself; None if it does not answer."""
    try:
        answer: Place = ray.get(actor_of(trial).execute.remote(_place), timeout=ANSWER_S)
        return answer
    except ray.exceptions.RayError:
        return None


def give(trial: Any, pack: Pack) -> None:
    """Let the worker of one of Tune's trials run a pack: to be called before its function begins."""
    trials = json.dumps([each.payload() for each in pack.trials])
    actor_of(trial).execute.remote(functools.partial(_take, trials=trials))


def actor_of(trial: Any) -> Any:
    """The actor that runs one of Tune's trials."""
    return trial.temporary_state.ray_actor


def _place(trainable: Any) -> Place:
    names = (name.partition("-") for name in held_artifacts(cache_folder()))
    held = frozenset(id for stage, _, id in names if stage in READ_AGAIN)
    return Place(ray.get_runtime_context().get_node_id(), held)


def _take(trainable: Any, *, trials: str) -> None:
    trainable.config["trials"] = trials
