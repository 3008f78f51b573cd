"""The neuron study on planted truth: it finds the units that carry a label, needs just these, and the rest are idle."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from ftprobe.measurement import Measurement, Outcome
from ftprobe.probes import PROBES
from ftprobe.probes.neurons import NeuronOptions
from ftprobe.probes.neurons_run import run, run_part

CARRIERS = [(1, 3), (1, 90), (3, 17), (3, 18), (4, 0)]  # 5 of 500 neurons: one per cent
FLAT = {layer * 100 + unit for layer, unit in CARRIERS}
SMALL = {"l1": (0.0, 1e-3), "l2": (0.0, 1e-3), "batch_size": 64, "epochs": 15, "percent": 1.0}


def silent(metrics):
    pass


def study(data, seed=0, **options) -> tuple[Outcome, dict[tuple, Measurement]]:
    chosen = NeuronOptions(**{**SMALL, **options})
    shared = {"seed": seed, "device": "cpu", "threads": 1, "report": silent}
    packs = PROBES["neurons"].parts(chosen, data.layers, data.layers)
    parts = [run_part(chosen, data, part=part, **shared).facts["cells"] for part in packs]
    outcome = run(chosen, data, parts=parts, **shared)
    return outcome, {(m.metric, m.layer, m.probe_seed): m for m in outcome.measurements}


@pytest.fixture(scope="module")
def found(planted, word_data):
    h_LND, y_N = planted(CARRIERS)
    types = [f"w{i}" for i in np.random.default_rng(1).integers(0, 500, len(y_N))]
    return study(word_data(h_LND, y_N, types))


def test_the_ranking_begins_with_the_neurons_that_carry_the_label(found):
    outcome, _ = found
    assert set(outcome.arrays["ranking_D"][:5].tolist()) == FLAT
    assert set(outcome.arrays["probeless_D"][:5].tolist()) == FLAT
    assert sorted(outcome.arrays["ranking_D"].tolist()) == list(range(500))


def test_the_minimal_set_is_exactly_these(found):
    _, rows = found
    assert rows["minimal_n", None, None].value == 5
    assert rows["minimal_fraction", None, None].value == 0.01
    detail = rows["minimal_n", None, None].detail
    assert detail["reached"]
    assert detail["dev_curve"][-1] >= detail["oracle_dev"] - 0.01
    assert rows["accuracy_minimal", None, None].value > rows["accuracy_all", None, None].value - 0.02


@pytest.mark.parametrize("suffix", ["", "_standardised", "_probeless"])
def test_top_neurons_do_it_and_bottom_neurons_are_at_chance(found, suffix):
    _, rows = found
    assert rows[f"top_accuracy{suffix}", None, None].value > 0.95
    assert rows[f"bottom_accuracy{suffix}", None, None].value == pytest.approx(0.25, abs=0.07)
    assert rows[f"top_accuracy{suffix}", None, None].detail["n"] == 5


def test_layers_are_counted_and_a_layer_of_noise_has_none(found):
    _, rows = found
    assert [rows["layer_count", layer, None].value for layer in range(5)] == [0, 2, 0, 2, 1]
    assert rows["mean_layer", None, None].value == pytest.approx((1 + 1 + 3 + 3 + 4) / 5)


def test_fewer_neurons_are_more_selective(found):
    """Control tasks have nothing to read but types, and 500 neurons of noise tell types apart in train only."""
    _, rows = found
    for seed in range(3):
        everything, few = (rows[f"selectivity_{which}", None, seed].value for which in ("all", "minimal"))
        assert few > 0.5
        assert everything > 0.5
        control = rows["control_accuracy_minimal", None, seed].value
        assert few == rows["accuracy_minimal", None, None].value - control


def test_masking_keeps_the_probe_and_zeroes_the_others(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=1500)
    types = [f"w{i % 90}" for i in range(1500)]
    _, rows = study(word_data(h_LND, y_N, types), ablate="mask", control_seeds=0)
    assert rows["top_accuracy", None, None].detail["ablate"] == "mask"
    assert rows["top_accuracy_probeless", None, None].detail["ablate"] == "retrain"
    assert rows["top_accuracy", None, None].value > 0.9
    assert rows["bottom_accuracy", None, None].value < 0.45
    assert not any(metric.startswith("selectivity") for metric, *_ in rows)


def test_an_oracle_out_of_reach_says_so(planted, word_data):
    """At lambdas that crush every weight the retrained sets never get near the free probe."""
    h_LND, y_N = planted(CARRIERS, n=900)
    data = word_data(h_LND, y_N, [f"w{i % 90}" for i in range(900)])
    _, rows = study(data, l1=(0.0,), l2=(1e4,), oracle_lambda="zero", control_seeds=0)
    detail = rows["minimal_n", None, None].detail
    assert not detail["reached"]
    assert rows["minimal_n", None, None].value == 500
    assert len(detail["dev_curve"]) == 100


def test_the_same_without_copying_neurons_side_by_side(planted, word_data, monkeypatch):
    import ftprobe.probes.neurons_run as module

    h_LND, y_N = planted(CARRIERS, n=900)
    data = word_data(h_LND.astype(np.float16), y_N, [f"w{i % 90}" for i in range(900)])
    dense = study(data, control_seeds=1)[1]
    monkeypatch.setattr(module, "DENSE_BYTES", 0)
    assert study(data, control_seeds=1)[1] == dense


def test_one_class_is_undefined(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=300)
    _, rows = study(word_data(h_LND, np.zeros_like(y_N), ["w"] * 300))
    assert rows["accuracy_all", None, None].status == "undefined"


def test_packs_of_cells_are_sixteen_pairs():
    parts = PROBES["neurons"].parts
    assert parts(NeuronOptions(), (0, 1), (0, 1)) == [{"first": 0}, {"first": 16}, {"first": 32}, {"first": 48}]
    assert parts(NeuronOptions(l1=(1e-3,), l2=(1e-2,)), (0,), (0,)) == []
    without_zero = NeuronOptions(l1=tuple(10.0**-i for i in range(1, 5)), l2=tuple(10.0**-i for i in range(1, 5)))
    assert parts(without_zero, (0,), (0,)) == [{"first": 0}, {"first": 16}]


def test_a_converged_neuron_study_is_refused():
    with pytest.raises(ValidationError, match="adam10"):
        NeuronOptions(solver="converged")
