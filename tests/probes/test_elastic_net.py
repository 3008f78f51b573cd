"""The elastic-net probe: what it finds and chooses, its control tasks, and packs that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

import ftprobe.probes.packs as packs
import ftprobe.solvers.elastic_net as solver
from ftprobe.measurement import Measurement
from ftprobe.probes.elastic_net import GRID, ElasticNetOptions, work
from ftprobe.probes.elastic_net_fit import Scores, choose
from ftprobe.probes.elastic_net_run import run
from ftprobe.probes.probe import Size

CARRIERS = [(3, 17), (3, 50), (3, 51)]
SMALL = {"l1": (0.0, 1e-3), "l2": (0.0, 1e-2), "batch_size": 64, "epochs": 15}


def silent(metrics):
    pass


def fit(data, seed=0, **options) -> dict[tuple, Measurement]:
    outcome = run(ElasticNetOptions(**{**SMALL, **options}), data, seed=seed, device="cpu", threads=1, report=silent)
    return {(m.layer, m.metric, m.probe_seed): m for m in outcome.measurements}


def random_types(n, v=400, seed=1):
    return [f"w{i}" for i in np.random.default_rng(seed).integers(0, v, n)]


def test_the_planted_layer_is_read_and_the_others_are_not(planted, word_data):
    h_LND, y_N = planted(CARRIERS)
    rows = fit(word_data(h_LND, y_N, random_types(len(y_N)), layers=(2, 3)))
    assert rows[3, "accuracy", None].value > 0.95
    assert abs(rows[2, "accuracy", None].value - 0.25) < 0.07
    assert {key[1] for key in rows} == {
        "accuracy", "macro_f1", "majority", "dev_accuracy", "train_accuracy", "chosen_l1", "chosen_l2", "lambda_score",
        "zeros", "control_accuracy", "selectivity",
    }  # fmt: skip
    listed = rows[3, "accuracy", None].detail["cells"]
    assert [(l1, l2) for l1, l2, *_ in listed] == [(0, 0), (0, 1e-2), (1e-3, 0), (1e-3, 1e-2)]


def test_a_task_that_types_say_nothing_of_has_high_selectivity(planted, word_data):
    h_LND, y_N = planted(CARRIERS)
    rows = fit(word_data(h_LND, y_N, random_types(len(y_N)), layers=(3,)))
    for seed in range(3):
        control = rows[3, "control_accuracy", seed]
        assert control.value < 0.4
        assert rows[3, "selectivity", seed].value == rows[3, "accuracy", None].value - control.value


def test_a_task_that_can_be_memorised_has_selectivity_near_0(word_data):
    """Activations say which type a word is, labels belong to types: the control task is the task in disguise."""
    rng = np.random.default_rng(0)
    type_N = rng.integers(0, 40, 3000)
    h_1ND = (6 * np.eye(64)[type_N] + 0.1 * rng.normal(size=(3000, 64)))[None].astype(np.float32)
    y_N = rng.integers(0, 4, 40)[type_N]
    rows = fit(word_data(h_1ND, y_N, [f"w{i}" for i in type_N]), epochs=60)
    assert rows[0, "accuracy", None].value > 0.98
    for seed in range(3):
        assert abs(rows[0, "selectivity", seed].value) < 0.03
        assert rows[0, "control_accuracy", seed].detail["n_unseen"] == 0


def test_types_that_train_lacks_are_labelled_too_and_told_apart(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=2000)
    split_N = np.array(["train", "dev", "test"])[np.arange(2000) % 3]
    types = [f"w{i % 50}" if split_N[i] == "train" or i % 2 else f"only{i}" for i in range(2000)]
    row = fit(word_data(h_LND, y_N, types, split_N=split_N, layers=(3,)))[3, "control_accuracy", 0]
    n_test = int((split_N == "test").sum())
    assert row.detail["n_unseen"] == sum(
        t.startswith("only") for t, s in zip(types, split_N, strict=True) if s == "test"
    )
    mixed = row.detail["n_unseen"] * row.detail["accuracy_unseen"]
    mixed += (n_test - row.detail["n_unseen"]) * row.detail["accuracy_seen"]
    assert row.value == pytest.approx(mixed / n_test)


def test_sentences_have_no_control_task(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=600)
    rows = fit(word_data(h_LND, y_N, layers=(3,), word=False))
    assert rows[3, "selectivity", None].status == "refused"
    assert math.isnan(rows[3, "selectivity", None].value)
    assert (3, "selectivity", None) not in fit(word_data(h_LND, y_N, layers=(3,), word=False), control_seeds=0)


def test_a_label_that_train_lacks_is_an_error(planted, word_data):
    h_LND, y_N = planted(CARRIERS)
    data = word_data(h_LND, y_N, random_types(len(y_N)), layers=(3,))
    rows = fit(data)
    odd_N = np.where((data.split_N == "test") & (np.arange(len(y_N)) % 2 == 0), 4, data.y_N).astype(np.int32)
    labels = (*data.labels, "only in test")
    less = fit(data._replace(y_N=odd_N, labels=labels))[3, "accuracy", None]
    share = float((odd_N[data.split_N == "test"] == 4).mean())
    assert less.detail["n_test_unseen_label"] == int((odd_N == 4).sum())
    assert less.value <= 1 - share
    assert less.value > rows[3, "accuracy", None].value - share - 0.02


def test_one_class_is_undefined(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=200)
    rows = fit(word_data(h_LND, np.zeros_like(y_N), random_types(200), layers=(0,)))
    assert rows[0, "accuracy", None].status == "undefined"
    assert rows[0, "majority", None].value == 1.0


def scores(*columns) -> Scores:
    return Scores(*(torch.tensor(column, dtype=torch.float64) for column in columns))


def test_the_rules_choose_as_they_say():
    pairs = [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (0.01, 0.09)]
    found = scores([0.9, 0.9, 0.9, 0.8], [0.8, 0.8, 0.8, 0.75], [0.5, 0.5, 0.5, 0.1])
    by_accuracy = choose(ElasticNetOptions(lambda_score="dev_accuracy"), pairs, found, 0.9)
    assert pairs[by_accuracy.cell] == (0.1, 0.0), "of equals the larger l1 + l2, then the larger l1"
    by_rule = choose(ElasticNetOptions(), pairs, found, 0.9)
    assert pairs[by_rule.cell] == (0.01, 0.09)
    assert by_rule.score_C[3] == pytest.approx(0.5 * (0.75 - 0.1) - 0.5 * (0.9 - 0.8))


def test_the_reference_at_0_0_is_fitted_but_not_chosen_where_the_grid_lacks_it(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=900)
    rows = fit(word_data(h_LND, y_N, random_types(900), layers=(3,)), l1=(1e-3, 1e-2), l2=(1e-3,))
    assert rows[3, "chosen_l1", None].value in (1e-3, 1e-2)
    assert len(rows[3, "accuracy", None].detail["cells"]) == 2


@pytest.mark.parametrize("block", [4, 40])
def test_packs_of_any_size_give_the_same_records(planted, word_data, monkeypatch, block):
    h_LND, y_N = planted(CARRIERS, n=800)
    data = word_data(h_LND, y_N, random_types(800), layers=(3,))
    whole = fit(data)
    for room in (1, 3):
        one = solver.bytes_per_cell(100, 4, 64)
        monkeypatch.setattr(packs, "budget", lambda device, room=room, one=one: room * one)
        monkeypatch.setattr(solver, "BLOCK_ROWS", block)
        assert fit(data) == whole


def test_converged_fits_agree_with_scikit_learn(planted, word_data):
    h_LND, y_N = planted(CARRIERS, n=900)
    data = word_data(h_LND, y_N, random_types(900), layers=(3,))
    rows = fit(data, solver="converged", l1=(0.0,), l2=(5e-3,), scale="standardise", control_seeds=0)
    at = {part: np.flatnonzero(data.split_N == part) for part in ("train", "test")}
    X_ND = (h_LND[3] - h_LND[3][at["train"]].mean(0)) / h_LND[3][at["train"]].std(0)
    model = LogisticRegression(C=1 / (len(at["train"]) * 1e-2), tol=1e-8, max_iter=5000)
    model.fit(X_ND[at["train"]], y_N[at["train"]])
    expected = model.score(X_ND[at["test"]], y_N[at["test"]])
    assert rows[3, "accuracy", None].value == pytest.approx(expected, abs=1.01 / len(at["test"]))
    assert rows[3, "accuracy", None].status == "ok"


def test_neurox_is_one_setting_and_what_is_said_beside_it_wins():
    neurox = ElasticNetOptions(preset="neurox")
    assert (neurox.penalty, neurox.shuffle, neurox.ce, neurox.l1_step) == ("l2_norm", False, "mean", "subgradient")
    assert ElasticNetOptions(preset="neurox", shuffle=True).shuffle
    assert ElasticNetOptions().pairs == tuple((a, b) for a in GRID for b in GRID)
    assert len(ElasticNetOptions().pairs) == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l1": (0.1, 0.1)}, "repeat"),
        ({"l2": ()}, "at least 1"),
        ({"l1": (-1.0,)}, "greater than or equal to 0"),
        ({"solver": "converged", "penalty": "l2_norm"}, "converged"),
        ({"solver": "converged", "preset": "neurox"}, "converged"),
        ({"control_draw": "even"}, "empirical"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        ElasticNetOptions(**options)


def test_the_plan_counts_cells_and_operations():
    size = Size(1000, 384, 17, 1)
    counted = work(ElasticNetOptions(), size)
    assert counted.cells == 67
    assert counted.flops == 4 * 1000 * 384 * 17 * 10 * 67
