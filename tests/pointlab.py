"""Records of the probe `clusters` as a study would leave them: every label is one point, so all distances are known.

Axes: K labels, D dimensions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ftprobe.measurement import Measurement
from ftprobe.rows import scan, write_part

Floats = NDArray[np.float64]
CONFIG = {"probe": {"kind": "clusters", "nonlinear": "skip"}, "activations": {"pooling": "mean"}}


class Trial(NamedTuple):
    """What one trial wrote: its columns, and its numbers."""

    columns: Mapping[str, object]
    measurements: Sequence[Measurement]


def state(task: str, tuned: str | None = None, seed: int = 0, *, update: int | None = None, **more: object) -> dict:
    """The columns that the rows of a probe of one state share."""
    own = {"study": "s", "model": "minilm", "method": "clusters", "task": task, "corpus": "c", "pooling": "mean"}
    run = {"variant": "finetuned", "ft_task": tuned, "ft_seed": seed, "head_pooling": "cls", "update": update}
    name = f"{task}/{tuned}/{seed}/{update}"
    return {**own, "config": CONFIG, "trial": name, **(run if tuned else {"variant": "pretrained"}), **more}


def geometry(c_KD: Floats, labels: Sequence[str], layer: int, **more: object) -> Iterator[Measurement]:
    """The rows of one layer: distances between the points of labels, and the points themselves."""
    names, c_KD = list(labels), np.asarray(c_KD, dtype=np.float64)
    shared = {"split": "train", "unit": "euclidean", "layer": layer, **more}
    nearest = dict.fromkeys(names, np.inf)
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        distance = float(np.linalg.norm(c_KD[i] - c_KD[j]))
        nearest = {name: min(d, distance) if name in (one, other) else d for name, d in nearest.items()}
        detail = {"labels": [one, other], "lower": distance, "upper": distance}
        yield Measurement("hull_distance", distance, detail=detail, **shared)
    for name, c_D in zip(names, c_KD, strict=True):
        yield Measurement("min_distance", nearest[name], detail={"label": name}, **shared)
        raw = base64.b64encode(c_D.astype("<f4").tobytes()).decode()
        norm = float(np.linalg.norm(c_D))
        yield Measurement("centroid", norm, detail={"label": name, "vector": raw}, n_items=7, **shared)


def clustering(n_clusters: int, n_labels: int, similarity: float | None, layer: int) -> Iterator[Measurement]:
    """The rows of one layer that say how a state clusters; no similarity is an undefined one."""
    counted = {"n_clusters": n_clusters, "n_labels": n_labels, "is_linear": n_clusters == n_labels}
    for name, value in counted.items():
        unit = "boolean" if name == "is_linear" else "count"
        yield Measurement(name, float(value), unit=unit, split="train", layer=layer)
    undefined = similarity is None
    detail = {"against": "train"} | ({"reason": "not linear"} if undefined else {})
    value, status = (np.nan, "undefined") if similarity is None else (similarity, "ok")
    yield Measurement("spatial_similarity", value, unit="r", layer=layer, status=status, detail=detail)


def training(task: str, seed: int, last: int) -> Trial:
    """The scores of a run of two epochs, of which the last is kept."""
    columns = {**state(task, task, seed), "method": "finetune", "pooling": None, "config": {"epochs": 2}}
    rows = [
        Measurement("accuracy", 0.5 + 0.1 * epoch, update=last * epoch // 2, epoch=float(epoch),
                    detail={"selected": True} if epoch == 2 else {})
        for epoch in (1, 2)
    ]  # fmt: skip
    return Trial({**columns, "trial": f"train/{task}/{seed}"}, rows)


def written(folder: Path, trials: Sequence[Trial]) -> pl.LazyFrame:
    """The records of `trials`, each written to a part of its own and read as a study's are, in reverse order."""
    parts = []
    for number, (columns, measurements) in enumerate(trials):
        own = folder / "probe" / str(number)
        own.mkdir(parents=True)
        write_part(own, list(measurements), columns)
        parts.append((str(own / "records.parquet"), {}))
    return scan(parts[::-1])
