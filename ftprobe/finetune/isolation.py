"""Isolation: what a run in a worker must neither change nor be changed by."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch

_RANK_NAMES = ("RANK", "WORLD_SIZE", "COMM_WORLD_SIZE", "PMI_SIZE", "LOCAL_SIZE", "LOCALNRANKS", "LOCALRANKID")


@contextlib.contextmanager
def own_generators() -> Iterator[None]:
    """Give the caller its global random generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hide a surrounding MPI or Slurm job, whose ranks the Trainer would wait for, and accelerate's own settings."""
    names = [name for name in os.environ if name.startswith("ACCELERATE_") or name.endswith(_RANK_NAMES)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)
