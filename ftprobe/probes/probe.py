"""A probe: a family of fits on one layer's activations and labels, its options and where its runner is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from ftprobe.tasks.types import Level


class ProbeData(NamedTuple):
    """Activations and labels of one probe trial; axes: N items, D dimensions.

    `layer(l)` gives the (N, D) float32 activations of layer l. `y_N` indexes `labels`, which are sorted and hold
    every label of every split. `split_N` is "train", "dev" or "test"; `word_N` is -1 for sentence items.
    `n_dropped` counts items that have a label and no activation.
    """

    layer: Callable[[int], NDArray[np.float32]]
    layers: tuple[int, ...]
    y_N: NDArray[np.int32]
    labels: tuple[str, ...]
    split_N: NDArray[np.str_]
    sentence_N: NDArray[np.int32]
    word_N: NDArray[np.int32]
    n_dropped: int


@dataclass(frozen=True)
class Probe:
    """A probe family.

    Attributes
    ----------
    kind : str
        Its name in a study.
    Options : type of pydantic.BaseModel
        What a study may set; frozen, unknown keys refused.
    version : int
        Part of every trial's id: raise it when the same options give other numbers.
    runner : str
        "module:function", imported when a trial runs; called as
        `run(options, data, *, seed, device, threads, report) -> Outcome`.
    levels : tuple of str
        Levels of the tasks it can be asked about.
    """

    kind: str
    Options: type[BaseModel]
    version: int
    runner: str
    levels: tuple[Level, ...]


Report = Callable[[dict[str, object]], None]
Layer = NDArray[np.floating[Any]]
