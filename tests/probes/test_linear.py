"""The linear probe on planted activations: what it finds, chooses, refuses, and how odd label sets are scored."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ftprobe.errors import InputError
from ftprobe.probes import ProbeData
from ftprobe.probes.linear import LinearOptions
from ftprobe.probes.linear_run import run
from ftprobe.probes.scores import macro_f1

SPLITS = np.repeat(["train", "dev", "test"], [300, 100, 100])


def silent(metrics):
    pass


def data_of(h_LND, y_N, split_N=SPLITS, labels=None) -> ProbeData:
    n = len(y_N)
    names = labels or tuple(f"label{k}" for k in range(int(max(y_N)) + 1))
    return ProbeData(
        layer=lambda layer: h_LND[layer],
        layers=tuple(range(len(h_LND))),
        y_N=np.asarray(y_N, np.int32),
        labels=names,
        split_N=np.asarray(split_N),
        sentence_N=np.arange(n, dtype=np.int32),
        word_N=np.full(n, -1, np.int32),
        n_dropped=3,
    )


def probe(data, seed=0, **options):
    outcome = run(LinearOptions(**options), data, seed=seed, device="cpu", threads=1, report=silent)
    return outcome, {(m.layer, m.metric): m for m in outcome.measurements}


def planted(n=500, dim=16, classes=4, layers=2, seed=0):
    """Layer 0 is noise; from layer 1 on the label can be read off linearly with a margin."""
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, classes, n)
    h_LND = rng.normal(size=(layers, n, dim)).astype(np.float32)
    h_LND[1:, :, :classes] += 12 * np.eye(classes)[y_N]
    return h_LND, y_N


def test_a_planted_direction_is_read_off_and_noise_is_not():
    h_LND, y_N = planted()
    outcome, rows = probe(data_of(h_LND, y_N))
    assert rows[1, "accuracy"].value == rows[1, "macro_f1"].value == rows[1, "dev_accuracy"].value == 1.0
    assert rows[0, "accuracy"].value < 0.45
    assert rows[1, "accuracy"].n_items == 100
    assert rows[1, "accuracy"].n_dropped == 3
    assert {p.layer for p in outcome.predictions} == {0, 1}
    for p in outcome.predictions:
        assert np.mean(p.gold_N == p.predicted_N) == rows[p.layer, "accuracy"].value
        assert ((p.score_N >= 1 / 4) & (p.score_N <= 1)).all()


def test_permuted_labels_give_about_the_majority_rate():
    h_LND, _ = planted(n=2000)
    y_N = np.random.default_rng(1).choice(3, 2000, p=[0.6, 0.3, 0.1])
    _, rows = probe(data_of(h_LND, y_N, np.repeat(["train", "dev", "test"], [1400, 300, 300])))
    majority = rows[1, "majority"].value
    assert majority == np.mean(y_N[1700:] == 0)
    assert abs(rows[1, "accuracy"].value - majority) < 0.03


def test_strength_is_chosen_on_dev_and_ties_go_to_the_stronger():
    h_LND, y_N = planted()
    _, rows = probe(data_of(h_LND, y_N), strength=(1e-4, 1e-2, 1e-3))
    assert rows[1, "chosen_l2"].value == 1e-2  # all three are perfect
    detail = rows[0, "accuracy"].detail
    best = max(zip(detail["dev_accuracy"], detail["strength"], strict=True))
    assert (rows[0, "dev_accuracy"].value, rows[0, "chosen_l2"].value) == best


def test_a_constant_layer_gives_the_majority_label():
    rng = np.random.default_rng(0)
    rounding = rng.normal(size=(500, 8)).astype(np.float32) * 1e-6
    h_LND = (np.array([3, -2, 0.5, 10, 1, 4, -7, 0], np.float32) + rounding)[None]
    h_LND[..., 7] = 0  # a column without any variation
    y_N = rng.choice(2, 500, p=[0.7, 0.3])
    _, rows = probe(data_of(h_LND, y_N))
    assert rows[0, "accuracy"].value == rows[0, "majority"].value
    assert rows[0, "accuracy"].status == "ok"


@pytest.mark.parametrize("scale", ["standardise", "none"])
def test_features_of_any_offset_and_unit_are_fitted(scale):
    h_LND, y_N = planted()
    h_LND = h_LND + np.linspace(-50, 50, 16, dtype=np.float32)
    _, rows = probe(data_of(h_LND, y_N), scale=scale)
    assert rows[1, "accuracy"].value == 1.0
    assert rows[1, "accuracy"].status == "ok"


def test_unscaled_predictions_survive_a_rotation():
    h_LND, y_N = planted()
    rotation_DD = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0]
    turned_LND = (h_LND @ rotation_DD).astype(np.float32)
    plain, turned = (probe(data_of(h, y_N), scale="none")[0] for h in (h_LND, turned_LND))
    for a, b in zip(plain.predictions, turned.predictions, strict=True):
        assert np.array_equal(a.predicted_N, b.predicted_N)
        np.testing.assert_allclose(a.score_N, b.score_N, atol=1e-3)


def test_a_label_that_only_test_has_counts_as_errors():
    h_LND, y_N = planted()
    y_N[400:420] = 4
    outcome, rows = probe(data_of(h_LND, y_N))
    assert rows[1, "accuracy"].value == 0.8
    assert rows[1, "accuracy"].n_items == 100
    assert rows[1, "accuracy"].detail["n_test_unseen_label"] == 20
    assert outcome.predictions[1].labels[4] == "label4"
    gold_N, predicted_N = outcome.predictions[1].gold_N, outcome.predictions[1].predicted_N
    assert rows[1, "macro_f1"].value == pytest.approx(f1_score(gold_N, predicted_N, average="macro"))


def test_a_label_in_the_middle_that_train_lacks_is_never_predicted():
    h_LND, y_N = planted()
    y_N[:300][y_N[:300] == 2] = 3
    outcome, _ = probe(data_of(h_LND, y_N))
    assert set(outcome.predictions[1].predicted_N) == {0, 1, 3}


def test_train_of_one_class_is_undefined_with_its_reason():
    h_LND, y_N = planted()
    y_N[:300] = 2
    outcome, rows = probe(data_of(h_LND, y_N))
    assert not outcome.predictions
    for metric in ("accuracy", "macro_f1", "dev_accuracy", "train_accuracy", "chosen_l2"):
        assert math.isnan(rows[0, metric].value)
        assert rows[0, metric].status == "undefined"
        assert "'label2'" in str(rows[0, metric].detail["reason"])
    assert rows[0, "majority"].value == np.mean(y_N[400:] == 2)


def test_a_cell_cut_short_is_marked():
    h_LND, y_N = planted()
    _, rows = probe(data_of(h_LND, y_N), max_iterations=2)
    assert rows[0, "accuracy"].status == "not_converged"
    assert 0 < rows[0, "accuracy"].value < 1
    assert rows[0, "majority"].status == "ok"


def test_an_activation_that_is_not_finite_names_its_layer_and_item():
    h_LND, y_N = planted()
    h_LND[1, 7, 3] = np.inf
    with pytest.raises(InputError, match=r"layer 1: 1 of 500 items .* sentence 7, word -1"):
        probe(data_of(h_LND, y_N))


def test_a_split_without_items_is_an_error_that_names_it():
    h_LND, y_N = planted()
    with pytest.raises(InputError, match="test: no item"):
        probe(data_of(h_LND, y_N, np.repeat(["train", "dev"], [300, 200])))


def test_without_dev_a_tenth_of_train_is_held_out():
    h_LND, y_N = planted()
    data = data_of(h_LND, y_N, np.repeat(["train", "test"], [400, 100]))
    outcome, rows = probe(data)
    assert rows[1, "dev_accuracy"].n_items == 40
    assert rows[1, "train_accuracy"].n_items == 360
    assert rows[1, "accuracy"].detail["held_out_dev"] is True
    assert rows[1, "accuracy"].value == 1.0
    again, _ = probe(data)
    assert [m.value for m in again.measurements] == [m.value for m in outcome.measurements]


def test_layers_one_at_a_time_give_the_same_numbers(monkeypatch):
    h_LND, y_N = planted(layers=4)
    together, _ = probe(data_of(h_LND, y_N))
    assert together.facts["layers_at_once"] > 1
    monkeypatch.setattr("ftprobe.probes.linear_run.GROUP_BYTES", 1)
    alone, _ = probe(data_of(h_LND, y_N))
    assert alone.facts["layers_at_once"] == 1
    assert [m.value for m in together.measurements] == [m.value for m in alone.measurements]
    for a, b in zip(together.predictions, alone.predictions, strict=True):
        np.testing.assert_allclose(a.score_N, b.score_N, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"strength": ()}, {"strength": (1e-3, 0)}, {"strength": (1e-3, 1e-3)}, {"tolerance": 0}, {"protocol": "x"}],
)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValidationError):
        LinearOptions(**options)


def test_macro_f1_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    gold_N, predicted_N = rng.integers(0, 6, 80), rng.integers(2, 9, 80)
    assert macro_f1(gold_N, predicted_N) == pytest.approx(f1_score(gold_N, predicted_N, average="macro"))


def test_accuracy_agrees_with_a_scikit_learn_pipeline():
    rng = np.random.default_rng(2)
    h_ND = (rng.normal(size=(3000, 24)) @ rng.normal(size=(24, 24)) * np.geomspace(0.1, 10, 24) + 5).astype(np.float32)
    z_NK = (h_ND - 5) / h_ND.std(0) @ rng.normal(size=(24, 6)) + 2 * rng.gumbel(size=(3000, 6))
    y_N = z_NK.argmax(1)
    split_N = np.repeat(["train", "dev", "test"], [1500, 500, 1000])
    _, rows = probe(data_of(h_ND[None], y_N, split_N), strength=(1e-3,), tolerance=1e-6)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (1500 * 1e-3), tol=1e-8, max_iter=5000))
    model.fit(h_ND[:1500].astype(np.float64), y_N[:1500])
    assert rows[0, "accuracy"].value == pytest.approx(model.score(h_ND[2000:], y_N[2000:]), abs=0.002)
    assert rows[0, "train_accuracy"].value == pytest.approx(model.score(h_ND[:1500], y_N[:1500]), abs=0.002)
