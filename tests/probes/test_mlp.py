"""The MLP probe's search: halving finds a cell of the grid, and says what it misses of the full one."""

from __future__ import annotations

import pytest

from ftprobe.probes import PROBES
from ftprobe.probes.mlp import MlpOptions
from ftprobe.probes.mlp_run import run, run_part

SMALL = {"hidden1": (4, 8), "hidden2": (4, 8), "alpha": (1e-4, 1e-1), "initialisations": 2, "control_seeds": 0}


def test_halving_says_its_regret_on_the_last_layer_alone(planted, word_data):
    h_LND, y_N = planted([(3, 17), (3, 50), (3, 51)], n=600)
    options = MlpOptions(**SMALL, search="halving", halving_epochs=3, max_epochs=30)
    shared = {"seed": 0, "device": "cpu", "threads": 1, "report": lambda metrics: None}
    packs = PROBES["mlp"].parts
    assert packs(options, (3,), (2, 3))
    assert not packs(options, (2,), (2, 3))
    data = word_data(h_LND, y_N, [f"w{i % 90}" for i in range(600)], layers=(3,))
    parts = [run_part(options, data, part=part, **shared).facts["cells"] for part in packs(options, (3,), (3,))]
    rows = {m.metric: m for m in run(options, data, parts=parts, **shared).measurements}
    full = max(cell["dev_accuracy"] for part in parts for cell in part)
    regret = rows["halving_regret"]
    assert regret.detail["full"]["dev_accuracy"] == full
    assert regret.value == pytest.approx(full - rows["dev_accuracy"].value)
    assert regret.detail["epochs"] < regret.detail["epochs_full"]
    assert "halving_regret" not in {m.metric for m in run(options, data, parts=[], **shared).measurements}
