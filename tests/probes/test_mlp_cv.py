"""The MLP probe's cross-validation: scikit-learn's folds, its scores, and the same numbers however cells are packed."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ftprobe.probes.packs as packs
from ftprobe.errors import InputError
from ftprobe.hashing import content_id, derive_seed
from ftprobe.probes import PROBES, Size
from ftprobe.probes.mlp import MlpOptions
from ftprobe.probes.mlp_run import run, run_part
from ftprobe.probes.splits import folds

GRID = {"hidden1": (6, 16), "hidden2": (8,), "alpha": (1e-3, 3.0)}
SHORT = {**GRID, "selection": "cv5", "initialisations": 2, "control_seeds": 1, "max_epochs": 12, "batch_size": 64}
SHARED = {"seed": 3, "device": "cpu", "threads": 1, "report": lambda metrics: None}


pytestmark = pytest.mark.usefixtures("one_thread")


def cells_of(options, data):
    """What the packs of a trial find, in their order."""
    made = [run_part(options, data, part=part, **SHARED) for part in PROBES["mlp"].parts(options, (0,), (0,))]
    return [outcome.facts["cells"] for outcome in made]


def measured(options, data, parts):
    return {(m.metric, m.probe_seed): m for m in run(options, data, parts=parts, **SHARED).measurements}


@pytest.fixture(scope="module")
def words(word_data):
    """400 train items of 4 classes that a hidden layer tells apart, 60 dev, 100 test; features of unlike scales."""
    rng = np.random.default_rng(1)
    X_ND = rng.normal(size=(560, 12)).astype(np.float32)
    z_NK = np.maximum(X_ND @ rng.normal(size=(12, 10)), 0) @ rng.normal(size=(10, 4))
    y_N = (z_NK - z_NK.mean(0) + rng.gumbel(size=z_NK.shape) * 1.5).argmax(1)
    X_ND = X_ND * np.geomspace(0.3, 3, 12, dtype=np.float32) + 0.5

    def make(split=("train",) * 400 + ("dev",) * 60 + ("test",) * 100, y=y_N):
        return word_data(X_ND[None], y, [f"w{i % 70}" for i in range(560)], split_N=np.array(split), layers=(0,))

    return make


@settings(max_examples=100, deadline=None)
@given(y=st.lists(st.integers(0, 6), min_size=5, max_size=80))
def test_folds_are_scikit_learns_and_rare_labels_need_no_warning(y):
    y_N = np.array(y, np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours_N = folds(y_N)
    assert set(ours_N.tolist()) == set(range(5))
    if np.bincount(y_N).max() < 5:
        return  # scikit-learn refuses these
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = list(StratifiedKFold(5).split(y_N, y_N))
    for fold, (_, out) in enumerate(cut):
        assert np.flatnonzero(ours_N == fold).tolist() == out.tolist()


@pytest.mark.parametrize("scale", ["none", "standardise"])
def test_every_score_is_grid_search_cvs(words, scale):
    """Batches of a whole fold leave no order to differ in: with its seed, scikit-learn trains the same networks.

    They differ by rounding (float32 here, float64 there), which may move an item of a fold's 80.
    """
    data = words()
    options = MlpOptions(
        **GRID, selection="cv5", scale=scale, batch_size=320, learning_rate=2e-2, max_epochs=60, control_seeds=0
    )
    parts = cells_of(options, data)
    ours = {(*cell["hidden"], cell["alpha"]): cell for part in parts for cell in part}
    model = MLPClassifier(
        random_state=derive_seed(3, "probe_init", "grid"), batch_size=320, learning_rate_init=2e-2, max_iter=60
    )
    prepared = make_pipeline(StandardScaler() if scale == "standardise" else "passthrough", model)
    sizes = [(h, j) for h in GRID["hidden1"] for j in GRID["hidden2"]]
    asked = {"mlpclassifier__hidden_layer_sizes": sizes, "mlpclassifier__alpha": GRID["alpha"]}
    search = GridSearchCV(prepared, asked, cv=5, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(data.layer(0)[:400].astype(np.float64), data.y_N[:400])
    theirs = search.cv_results_
    for place, chosen in enumerate(theirs["params"]):
        key = (*chosen["mlpclassifier__hidden_layer_sizes"], chosen["mlpclassifier__alpha"])
        of_folds = [theirs[f"split{fold}_test_score"][place] for fold in range(5)]
        assert ours[key]["fold_accuracy"] == pytest.approx(of_folds, abs=1.01 / 80)
        assert ours[key]["dev_accuracy"] == pytest.approx(theirs["mean_test_score"][place], abs=2.01 / 400)
    rows = measured(options, data, parts)
    best = tuple(rows[name, None].value for name in ("hidden1", "hidden2", "alpha"))
    named = search.best_params_
    assert best == (*named["mlpclassifier__hidden_layer_sizes"], named["mlpclassifier__alpha"])
    assert search.best_score_ > np.bincount(data.y_N[:400]).max() / 400 + 0.2


def test_the_best_cell_is_trained_on_all_of_train_and_its_row_says_how_it_was_chosen(words):
    for dev in ("dev", "train"):
        data = words(("train",) * 400 + (dev,) * 60 + ("test",) * 100)
        options = MlpOptions(**SHORT)
        parts = cells_of(options, data)
        rows = measured(options, data, parts)
        n_train = 400 if dev == "dev" else 460
        detail, score = rows["accuracy", 0].detail, rows["dev_accuracy", None]
        assert (detail["n_train"], detail["n_refit"], detail["held_out_dev"]) == (n_train, n_train, False)
        assert detail["selection"] == score.detail["selection"] == "cv5"
        assert "stratified by label, in corpus order" in score.detail["folds"]
        assert (score.split, score.n_items) == ("train", n_train)
        cells = [cell for part in parts for cell in part]
        assert score.value == max(np.mean(cell["fold_accuracy"]) for cell in cells)
        assert json.loads(json.dumps(detail["cells"])) == cells
        assert {"control_accuracy", "selectivity"} <= {metric for metric, _ in rows}
        joined = measured(MlpOptions(**SHORT, refit="train_dev"), data, parts)["accuracy", 0].detail
        assert joined["n_refit"] == 460
        alike = measured(MlpOptions(**SHORT, refit="train"), data, parts)
        assert [m.value for m in alike.values()] == [m.value for m in rows.values()]


def test_an_official_dev_has_no_say(words):
    data = words()
    other = data.y_N.copy()
    other[400:460] = (other[400:460] + 1) % 4
    assert cells_of(MlpOptions(**SHORT), data) == cells_of(MlpOptions(**SHORT), words(y=other))


def test_packing_changes_no_number(words, monkeypatch):
    data, options = words(), MlpOptions(**SHORT)
    together = cells_of(options, data)
    alone = [cells_of(MlpOptions(**{**SHORT, "alpha": (alpha,)}), data) for alpha in GRID["alpha"]]
    assert [[one[place][0] for one in alone] for place in range(len(together))] == together
    monkeypatch.setattr(packs, "budget", lambda device: 1)
    assert cells_of(options, data) == together


def test_halving_goes_by_the_same_scores(words):
    data = words()
    options = MlpOptions(**{**SHORT, "control_seeds": 0}, search="halving", halving_epochs=4)
    parts = cells_of(options, data)
    rows = measured(options, data, parts)
    regret = rows["halving_regret", None]
    full = {(*cell["hidden"], cell["alpha"]): cell for part in parts for cell in part}
    chosen = tuple(rows[name, None].value for name in ("hidden1", "hidden2", "alpha"))
    assert rows["dev_accuracy", None].value == full[chosen]["dev_accuracy"]
    assert regret.value == max(cell["dev_accuracy"] for cell in full.values()) - full[chosen]["dev_accuracy"]
    assert regret.detail["epochs_full"] == 5 * 12 * len(full)
    assert regret.detail["epochs"] == 5 * (4 * 4 + 2 * 12)
    assert regret.split == "train"


def test_a_label_that_a_fold_takes_whole_counts_as_errors_there(words):
    """Without the one item of label 1 one label is left to say, which is right for the other three of the fold."""
    y_N = np.zeros(560, np.int64)
    y_N[7] = 1
    split = ["train"] * 20 + ["dev"] * 40 + ["test"] * 500
    (cells, *_) = cells_of(MlpOptions(**SHORT), words(split, y_N))
    where = int(folds(y_N[:20])[7])
    for cell in cells:
        assert cell["fold_accuracy"][where] == 0.75
        assert len(cell["fold_accuracy"]) == 5
        assert cell["dev_accuracy"] == pytest.approx(np.mean(cell["fold_accuracy"]))


def test_four_items_are_no_five_folds(words):
    split = ["train"] * 4 + ["dev"] * 40 + ["test"] * 516
    y_N = np.arange(560) % 4
    with pytest.raises(InputError, match=r"train: 4 items cannot be cut into 5 folds.*take more items"):
        cells_of(MlpOptions(**SHORT), words(split, y_N))
    assert cells_of(MlpOptions(**{**SHORT, "selection": "dev"}), words(split, y_N))


def test_one_label_is_undefined(words):
    data = words(y=np.zeros(560, np.int64))
    parts = cells_of(MlpOptions(**SHORT), data)
    rows = measured(MlpOptions(**SHORT), data, parts)
    assert rows["dev_accuracy", None].status == "undefined"
    assert rows["dev_accuracy", None].split == "train"


def test_the_work_counts_five_fits_on_four_fifths():
    size, (part, *_) = Size(1000, 12, 4, 1), PROBES["mlp"].parts(MlpOptions(**SHORT), (0,), (0,))
    work = PROBES["mlp"].work
    once, five = (work(MlpOptions(**{**SHORT, "selection": how}), size, part=part) for how in ("dev", "cv5"))
    assert (five.cells, five.flops) == (5 * once.cells, pytest.approx(4 * once.flops))
    once, five = (work(MlpOptions(**{**SHORT, "selection": how}), size) for how in ("dev", "cv5"))
    assert (once.cells, five.cells) == (4 + 3, 5 * 4 + 3)
    assert once.flops == pytest.approx(five.flops)
    halving = (MlpOptions(**{**SHORT, "selection": how, "search": "halving"}) for how in ("dev", "cv5"))
    searched = [work(options, size).flops - once.flops for options in halving]
    assert searched[1] == pytest.approx(4 * searched[0])


def test_trials_that_do_not_ask_for_it_keep_their_ids():
    """The id of the default options as they were stored before there was a choice."""
    assert content_id(MlpOptions().model_dump(mode="json")) == "ed81f2a7cb10110c3ddb7e6afc292649"
    for options in (MlpOptions(), MlpOptions(selection="cv5")):
        assert MlpOptions.model_validate(options.model_dump(mode="json")) == options
