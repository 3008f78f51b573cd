"""What every fit of a probe trial shares: its parts, the labels that occur in train, and the rows it gives.

Axes: N items, D dimensions, K labels that occur in train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.measurement import Measurement, Outcome, Predictions, Status
from ftprobe.probes.probe import ProbeData
from ftprobe.probes.splits import Parts, split

_CONSTANT = 1e-3
_BLOCK_ROWS = 8192


class Setting(NamedTuple):
    """Data and parts of a trial; classes of fits are ranks in `fitted_K`, the ids of the labels in train."""

    data: ProbeData
    parts: Parts
    fitted_K: NDArray[np.int32]
    device: str

    def classes(self, at_n: NDArray[np.int64]) -> Tensor:
        """Classes of items; -1 for labels that train lacks."""
        y_n = self.data.y_N[at_n]
        class_n = np.searchsorted(self.fitted_K, y_n)
        known_n = self.fitted_K[np.minimum(class_n, len(self.fitted_K) - 1)] == y_n
        return torch.from_numpy(np.where(known_n, class_n, -1)).to(self.device)

    def ids(self, class_n: Tensor) -> NDArray[np.int32]:
        """Label ids of classes."""
        return np.asarray(self.fitted_K[class_n.cpu().numpy()])

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.fitted_K)


def make_setting(data: ProbeData, *, seed: int, device: str, needs_dev: bool = True) -> Setting:
    """The setting of a trial; `seed` cuts the development part where the corpus has none and one is needed.

    Raises
    ------
    InputError
        A part has no item.
    """
    parts = split(data, seed=seed, needs_dev=needs_dev)
    return Setting(data, parts, np.unique(data.y_N[parts.train]), device)


class Features(NamedTuple):
    """One layer's features (N, D), float32, in the three parts, on the setting's device."""

    layer: int
    train: Tensor
    dev: Tensor
    test: Tensor


def layer_features(setting: Setting, layer: int, *, scale: str, centre: bool = True) -> Features:
    """A layer's features, shifted and scaled by train statistics.

    Parameters
    ----------
    scale : {"standardise", "none"}
        Whether to divide each column by its sd; columns that vary by rounding alone keep theirs.
    centre : bool
        Whether to subtract the mean also when nothing is divided: a converged fit with a free bias is the same model.

    Raises
    ------
    InputError
        An activation is not finite.
    """
    h_ND = np.asarray(setting.data.layer(layer), dtype=np.float32)
    check_finite(setting.data, layer, h_ND)
    parts = setting.parts
    shift_D, divisor_D = moments(h_ND[parts.train], scale=scale, centre=centre)

    def prepared(rows_N: NDArray[np.int64]) -> Tensor:
        x_ND = h_ND[rows_N]
        if centre or scale == "standardise":
            x_ND -= shift_D
            x_ND /= divisor_D
        return torch.from_numpy(x_ND).to(setting.device)

    return Features(layer, prepared(parts.train), prepared(parts.dev), prepared(parts.test))


def check_finite(data: ProbeData, layer: int, h_ND: NDArray[np.floating]) -> None:
    """Refuse activations that are not finite, naming the first."""
    finite_N = np.isfinite(h_ND).all(axis=1)
    if not finite_N.all():
        first = int(np.flatnonzero(~finite_N)[0])
        raise InputError.one(
            f"layer {layer}",
            f"{int((~finite_N).sum())} of {len(h_ND)} items have activations that are not finite; the first is "
            f"sentence {int(data.sentence_N[first])}, word {int(data.word_N[first])}",
            "store activations as float32 if float16 overflows, else check the checkpoint",
        )


class Moments(NamedTuple):
    """What is subtracted from each column, and what it is divided by."""

    shift_D: NDArray[np.float32]
    divisor_D: NDArray[np.float32]


def moments(train_ND: NDArray[np.floating], *, scale: str, centre: bool) -> Moments:
    """Mean and sd of each column, taken in float64, a block of rows at a time; 0 and 1 where they are not asked for."""
    dim = train_ND.shape[1]
    mean_D = train_ND.mean(axis=0, dtype=np.float64) if centre or scale == "standardise" else np.zeros(dim)
    divisor_D = np.ones(dim)
    if scale == "standardise":
        square_D = np.zeros(dim)
        for start in range(0, len(train_ND), _BLOCK_ROWS):
            square_D += np.square(train_ND[start : start + _BLOCK_ROWS] - mean_D).sum(axis=0)
        sd_D = np.sqrt(square_D / len(train_ND))
        # columns that vary by rounding alone: layer-0 `cls` is one vector for all items
        divisor_D = np.where((sd_D < _CONSTANT * np.abs(mean_D)) | (sd_D == 0), 1.0, sd_D)
    return Moments(mean_D.astype(np.float32), divisor_D.astype(np.float32))


def row(
    setting: Setting,
    layer: int | None,
    metric: str,
    value: float,
    part: str = "test",
    unit: str = "fraction",
    *,
    status: Status = "ok",
    probe_seed: int | None = None,
    detail: Mapping[str, object] | None = None,
) -> Measurement:
    """One number of a trial, with the counts of its part."""
    n_items = len(getattr(setting.parts, part))
    made = Measurement(metric, value, unit, part, layer, probe_seed, n_items=n_items, status=status)
    return made._replace(n_dropped=setting.data.n_dropped, detail=detail or {})


def shape(setting: Setting) -> dict[str, object]:
    """The sizes that stand in the detail of an accuracy."""
    gold_N = setting.data.y_N[setting.parts.test]
    return {
        "n_train": len(setting.parts.train),
        "n_dev": len(setting.parts.dev),
        "held_out_dev": setting.parts.held_out,
        "n_labels": len(setting.data.labels),
        "n_labels_in_train": setting.n_classes,
        "n_test_unseen_label": int((~np.isin(gold_N, setting.fitted_K)).sum()),
    }


def majority(setting: Setting) -> float:
    """Test accuracy of the most frequent train label (ties: the smaller id)."""
    most = np.bincount(setting.data.y_N[setting.parts.train]).argmax()
    return float(np.mean(setting.data.y_N[setting.parts.test] == most))


def undefined(setting: Setting, layers: Sequence[int | None], metrics: Mapping[str, tuple[str, str]]) -> Outcome | None:
    """The outcome of a task whose train items all have one label, where nothing can be fitted; else None.

    `metrics` gives the part and the unit of each metric.
    """
    if setting.n_classes > 1:
        return None
    return Outcome(tuple(_undefined_rows(setting, layers, metrics)), facts=facts(setting))


def facts(setting: Setting) -> dict[str, object]:
    """What the manifest says of every probe."""
    return {"held_out_dev": setting.parts.held_out}


def _undefined_rows(
    setting: Setting, layers: Sequence[int | None], metrics: Mapping[str, tuple[str, str]]
) -> Iterator[Measurement]:
    only = setting.data.labels[int(setting.fitted_K[0])]
    detail = {
        **shape(setting),
        "reason": f"all {len(setting.parts.train)} train items have the label {only!r}",
    }
    for layer in layers:
        for metric, (part, unit) in metrics.items():
            yield row(setting, layer, metric, float("nan"), part, unit, status="undefined", detail=detail)
        yield row(setting, layer, "majority", majority(setting))


def test_predictions(
    setting: Setting, layer: int | None, probe_seed: int | None, class_N: Tensor, score_N: Tensor
) -> Predictions:
    """What a probe said of every test item."""
    data, test = setting.data, setting.parts.test
    return Predictions(
        "test",
        layer,
        probe_seed,
        data.sentence_N[test],
        data.word_N[test],
        data.y_N[test],
        setting.ids(class_N),
        score_N.float().cpu().numpy(),
        data.labels,
    )
