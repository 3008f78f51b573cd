"""The cell that was chosen for a layer, scored: its rows, and what it says of test.

Axes: N items of test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ftprobe.measurement import Measurement, Predictions, Status
from ftprobe.probes.scores import accuracy, macro_f1
from ftprobe.probes.setting import Setting, majority, row, test_predictions

SCORES = {
    "accuracy": ("test", "fraction"),
    "macro_f1": ("test", "fraction"),
    "dev_accuracy": ("dev", "fraction"),
    "train_accuracy": ("train", "fraction"),
}
"""Part and unit of what every chosen cell is scored by."""


class Scored(NamedTuple):
    """Test accuracy, all rows, and the predictions of test."""

    accuracy: float
    rows: list[Measurement]
    predictions: Predictions


def score(
    setting: Setting,
    layer: int,
    class_N: Tensor,
    probability_N: Tensor,
    metrics: Mapping[str, tuple[str, str]],
    others: Mapping[str, float],
    *,
    converged: bool,
    detail: Mapping[str, object],
) -> Scored:
    """The rows of a layer, in the order of `metrics`, and `majority`.

    Parameters
    ----------
    class_N, probability_N : Tensor of shape (N,)
        What the cell says of test, and how surely.
    metrics : mapping
        Part and unit of each metric.
    others : mapping
        The values that test does not give: of all metrics but `accuracy` and `macro_f1`.
    converged : bool
        Of a cell that did not, every row but `majority` is `not_converged`.
    detail : mapping
        Stands in the row of `accuracy`.
    """
    gold_N, predicted_N = setting.data.y_N[setting.parts.test], setting.ids(class_N)
    values = {"accuracy": accuracy(gold_N, predicted_N), "macro_f1": macro_f1(gold_N, predicted_N), **others}
    status: Status = "ok" if converged else "not_converged"
    rows = []
    for metric, (part, unit) in metrics.items():
        own = detail if metric == "accuracy" else None
        rows.append(row(setting, layer, metric, values[metric], part, unit, status=status, detail=own))
    rows.append(row(setting, layer, "majority", majority(setting)))
    return Scored(values["accuracy"], rows, test_predictions(setting, layer, None, class_N, probability_N))
