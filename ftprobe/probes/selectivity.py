"""Control tasks of a trial: their labels, and the rows of selectivity (METHODS 5).

Axes: N items, n items of test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement
from ftprobe.probes.control import control_labels, seen_in_train
from ftprobe.probes.control_options import ControlOptions
from ftprobe.probes.setting import Setting, row


class Controls(NamedTuple):
    """The control tasks of a trial: classes of all items (S, N), and which items' types occur in train (N)."""

    class_SN: NDArray[np.int64]
    seen_N: NDArray[np.bool_]

    def train(self, setting: Setting) -> Tensor:
        """Classes of train's items (S, n)."""
        return torch.from_numpy(self.class_SN[:, setting.parts.train]).to(setting.device)


def draw_controls(options: ControlOptions, setting: Setting, *, seed: int) -> Controls | None:
    """The control tasks that are asked for, or None: for sentences there are none, as no type repeats."""
    types_N = setting.data.type_N
    if types_N is None or not options.control_seeds:
        return None
    train_N = np.zeros(len(types_N), dtype=np.bool_)
    train_N[setting.parts.train] = True
    drawn = [
        control_labels(
            types_N,
            setting.data.y_N,
            train_N,
            seed=derive_seed(seed, "control", index),
            draw=options.control_draw,
            case=options.control_case,
        )
        for index in range(options.control_seeds)
    ]
    class_SN = np.searchsorted(setting.fitted_K, np.stack(drawn))
    return Controls(class_SN, seen_in_train(types_N, train_N, case=options.control_case))


def selectivity(
    setting: Setting,
    controls: Controls,
    layer: int | None,
    accuracy: float,
    class_Sn: Tensor,
    *,
    suffix: str = "",
    detail: Mapping[str, object] | None = None,
) -> Iterator[Measurement]:
    """`control_accuracy` and `selectivity`, one of each a control task; `probe_seed` counts the tasks.

    Parameters
    ----------
    accuracy : float
        Test accuracy of the same probe on the task itself.
    class_Sn : Tensor of shape (S, n)
        What the probes trained on the control tasks say of test.
    suffix : str
        Ends the metrics' names: of `_all` comes `selectivity_all`.
    """
    test = setting.parts.test
    known_n = controls.seen_N[test]
    for index, said_n in enumerate(class_Sn.cpu().numpy()):
        right_n = said_n == controls.class_SN[index, test]
        own = {
            **(detail or {}),
            "control_seed": index,
            "accuracy": accuracy,
            "accuracy_seen": float(right_n[known_n].mean()) if known_n.any() else None,
            "accuracy_unseen": float(right_n[~known_n].mean()) if (~known_n).any() else None,
            "n_unseen": int((~known_n).sum()),
        }
        control = float(right_n.mean())
        yield row(setting, layer, f"control_accuracy{suffix}", control, probe_seed=index, detail=own)
        yield row(setting, layer, f"selectivity{suffix}", accuracy - control, probe_seed=index, detail=own)


def refused(options: ControlOptions, setting: Setting, layer: int | None, suffix: str = "") -> list[Measurement]:
    """The one row of a task over sentences for which control tasks were asked; else nothing."""
    if setting.data.type_N is not None or not options.control_seeds:
        return []
    reason = {"reason": "no word type repeats in a task over sentences: it has no control task"}
    return [row(setting, layer, f"selectivity{suffix}", float("nan"), status="refused", detail=reason)]
