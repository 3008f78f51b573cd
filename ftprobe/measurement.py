"""What a stage measured: numbers and item-level predictions, before a trial's own columns are added.

Axes: N scored items. Free of polars and ray, so that everything that computes on tensors can return these.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "undefined", "not_converged", "refused"]
NO_DETAIL: Mapping[str, object] = MappingProxyType({})


class Measurement(NamedTuple):
    """One number (METHODS 0, "Result row"): fractions lie in [0, 1]; `layer` is None for whole-model numbers."""

    metric: str
    value: float
    unit: str = "fraction"
    split: str = "test"
    layer: int | None = None
    probe_seed: int | None = None
    update: int | None = None
    epoch: float | None = None
    n_items: int = 0
    n_dropped: int = 0
    status: Status = "ok"
    detail: Mapping[str, object] = NO_DETAIL
    method: str | None = None


class Predictions(NamedTuple):
    """Item-level predictions of one fitted probe or fine-tuned head on one split.

    `word_N` is -1 for sentence items; `score_N` is the probability of the predicted label, float32.
    """

    split: str
    layer: int | None
    probe_seed: int | None
    sentence_N: NDArray[np.int32]
    word_N: NDArray[np.int32]
    gold_N: NDArray[np.int32]
    predicted_N: NDArray[np.int32]
    score_N: NDArray[np.float32]
    labels: tuple[str, ...]


class Outcome(NamedTuple):
    """What a stage hands back: its numbers, its predictions, facts for the manifest (JSON values), arrays by name."""

    measurements: tuple[Measurement, ...]
    predictions: tuple[Predictions, ...] = ()
    facts: Mapping[str, object] = NO_DETAIL
    arrays: Mapping[str, NDArray[np.generic]] = MappingProxyType({})
