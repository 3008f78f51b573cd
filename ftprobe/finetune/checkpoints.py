"""Checkpoints: what a run that was cut short needs to go on from the update it was at, kept in the store.

A checkpoint is `model.safetensors` and `trainer_state.json`, which the Trainer reads by itself, and `rest.safetensors`:
the optimiser's moments, the generators and the answers so far as tensors, numbers as JSON in its metadata. Nothing in
it is pickled.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftprobe.errors import StoreError
from ftprobe.leaving import LEAVING
from ftprobe.store import Store

EVERY_S = 10.0  # an epoch that ends sooner after the last checkpoint leaves none; to repeat it costs like a restart
SHARE = 0.1  # of the time, at most, goes to writing checkpoints, however slow the store
LEAVING_EVERY_S = 1.0  # and half of the time, on a machine that is about to be taken away
MODEL, TRAINER, REST = "model.safetensors", "trainer_state.json", "rest.safetensors"
_FORMAT = 2
_log = logging.getLogger(__name__)


class Rest(NamedTuple):
    """What a checkpoint holds beside the model: tensors by name, and JSON values."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run in the store, and when the next one is due."""

    def __init__(self, store: Store, id: str) -> None:
        self.store, self.id = store, id
        self._ended, self._took_s = time.perf_counter(), 0.0

    def fetch(self, folder: Path, device: torch.device) -> bool:
        """Copy the newest into `folder`; False if there is none that this machine would have made alike.

        One of another version of torch or transformers or of another kind of device is dropped: a result is the work
        of one.
        """
        if self.store.load_checkpoint(self.id, folder) is None:
            return False
        made_with = _notes(folder)["made_with"]
        if made_with != _made_with(device):
            _log.warning("starting anew: the checkpoint was made with %s, this is %s", made_with, _made_with(device))
            self.drop()
            return False
        return True

    def drop(self) -> None:
        """Forget what an earlier attempt left."""
        self.store.drop_checkpoints(self.id)

    def due(self) -> bool:
        """Whether enough was done since the last one for another to pay."""
        return time.perf_counter() - self._ended >= max(EVERY_S, self._took_s / SHARE)

    def pressing(self) -> bool:
        """Whether not even the end of the epoch should be waited for: this machine is about to be taken away."""
        return LEAVING.is_set() and time.perf_counter() - self._ended >= max(LEAVING_EVERY_S, self._took_s)

    def save(self, update: int, write: Callable[[Path], None]) -> None:
        """Publish the files that `write` puts into a folder, in place of the checkpoint before.

        A store that does not take them costs the checkpoint and not the run.
        """
        begun = time.perf_counter()
        try:
            with self.store.workdir() as folder:
                write(folder)
                self.store.save_checkpoint(self.id, update, folder)
        except StoreError as error:
            _log.warning("going on without a checkpoint of update %d: %s", update, error)
        self._ended = time.perf_counter()
        self._took_s = self._ended - begun


def write_rest(folder: Path, rest: Rest, device: torch.device) -> None:
    """Write `rest` into a checkpoint's folder."""
    notes = {"made_with": json.dumps(_made_with(device)), "facts": json.dumps(rest.facts)}
    save_file(on_cpu(rest.tensors), folder / REST, metadata=notes)


def read_rest(folder: Path) -> Rest:
    """Read it back; its tensors do not depend on the file."""
    return Rest({n: tensor.clone() for n, tensor in load_file(folder / REST).items()}, _notes(folder)["facts"])


def _notes(folder: Path) -> dict[str, Any]:
    with safe_open(folder / REST, framework="pt") as file:
        return {key: json.loads(text) for key, text in file.metadata().items()}


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def optimizer_state(optimizer: Any, factors: Any) -> Rest:
    """Moments and updates of each parameter, rates of each group, and where the schedule stands."""
    tensors = {
        f"optimizer.{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    return Rest(tensors, {"rates": [group["lr"] for group in optimizer.param_groups], "schedule": factors.state_dict()})


def restore_optimizer(optimizer: Any, factors: Any, rest: Rest) -> None:
    """Put back what `optimizer_state` gave; all other options of a group are those of the study."""
    state = optimizer.state_dict()
    for name, tensor in rest.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
    for group, rate in zip(state["param_groups"], rest.facts["rates"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict(state)
    factors.load_state_dict(dict(rest.facts["schedule"]))


def generator_states(device: torch.device) -> Rest:
    """The states of every global generator that a model may draw from."""
    tensors = {"generator.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    kind, words, *more = np.random.get_state()
    return Rest(tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(words).tolist(), *more]})


def restore_generators(rest: Rest, device: torch.device) -> None:
    """Put back what `generator_states` gave."""
    torch.set_rng_state(rest.tensors["generator.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(rest.tensors["generator.cuda"], device)
    version, words, spare = rest.facts["python"]
    random.setstate((version, tuple(words), spare))
    np.random.set_state(tuple(rest.facts["numpy"]))


def _made_with(device: torch.device) -> dict[str, object]:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"format": _FORMAT, "device": device.type, **versions}
