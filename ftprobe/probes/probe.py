"""A probe: a family of fits on one layer's activations and labels, its options and where its runner is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    `n_dropped` counts items that have a label and no activation. `type_N` is the word type of each item, for a pair
    of words both forms joined by a tab; None for sentences. Items are the rows `row_N` of `stored(l)` (M, dim), as it
    lies on disk; None for pairs of words.
    """

    layer: Callable[[int], NDArray[np.float32]]
    layers: tuple[int, ...]
    y_N: NDArray[np.int32]
    labels: tuple[str, ...]
    split_N: NDArray[np.str_]
    sentence_N: NDArray[np.int32]
    word_N: NDArray[np.int32]
    n_dropped: int
    type_N: NDArray[np.object_] | None = None
    stored: Callable[[int], NDArray[np.floating]] | None = None
    row_N: NDArray[np.int64] | None = None


class Size(NamedTuple):
    """How large a trial is: train items, dimensions, labels, layers."""

    n_train: float
    dim: int
    n_labels: int
    n_layers: int


class Work(NamedTuple):
    """Fitted cells of a trial, and the floating-point operations they take."""

    cells: int
    flops: float


@dataclass(frozen=True)
class Probe:
    """A probe family.

    A trial fits every layer that a study asks for, or with `by_layer` one of them. What is too long for one trial is
    split: `parts` names its packs of cells, each a trial whose `part_runner` hands back `facts["cells"]`, a list of
    JSON objects; the runner then finds these lists in `parts`.

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
        `run(options, data, *, seed, device, threads, report) -> Outcome`: compute on `device`, where the caller holds
        torch to `threads`, and tell `report` how far it has come. A trial with packs is also given what they found:
        `parts`, their lists of cells.
    levels : tuple of str
        Levels of the tasks it can be asked about.
    seeded : bool
        Whether the trial's seed changes its numbers: then its rows name it.
    parts : callable, optional
        `parts(options, layers_of_the_trial, layers_of_the_study)` gives the packs of a trial, each a JSON object.
    part_runner : str
        As `runner`, called with `part=` one of them and without `parts`.
    work : callable, optional
        `work(options, size)` counts cells and floating-point operations of a trial; `part=` one of its packs.
    """

    kind: str
    Options: type[BaseModel]
    version: int
    runner: str
    levels: tuple[Level, ...]
    seeded: bool = False
    by_layer: bool = False
    parts: Callable[[Any, Sequence[int], Sequence[int]], Sequence[Mapping[str, Any]]] | None = None
    part_runner: str = ""
    work: Callable[..., Work] | None = None


Report = Callable[[dict[str, object]], None]
Layer = NDArray[np.floating[Any]]
