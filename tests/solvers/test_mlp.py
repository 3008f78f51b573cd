"""Trained cells against scikit-learn, autograd, planted tasks, and themselves in other company."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.utils import shuffle
from threadpoolctl import threadpool_limits

from ftprobe.solvers.mlp import (
    MlpCell,
    MlpFits,
    Progress,
    StopRule,
    best_cells,
    fit_mlps,
    mlp_bytes,
    predict_mlps,
    train,
)
from ftprobe.solvers.pack import Regime
from ftprobe.solvers.perceptron import Architecture, Backward, Values, gradient_numbers

WEIGHTS = ("W1_GHD", "W2_GJH", "W3_GKJ")
BIASES = ("b1_GH", "b2_GJ", "b3_GK")


pytestmark = pytest.mark.usefixtures("one_thread")


def overlapping(n=430, dim=20, classes=5, seed=0):
    """Classes that a hidden layer tells apart better than a hyperplane, with noise."""
    rng = np.random.default_rng(seed)
    X_ND = rng.normal(size=(n, dim))
    hidden_NH = np.maximum(X_ND @ rng.normal(size=(dim, 16)), 0)
    z_NK = hidden_NH @ rng.normal(size=(16, classes)) / 2 + rng.gumbel(size=(n, classes))
    return X_ND, (z_NK - z_NK.mean(0)).argmax(1)


def fit(X_ND, y_N, hidden, cells, dtype=torch.float32, **options) -> MlpFits:
    y_SN = torch.as_tensor(np.atleast_2d(y_N))
    n_classes = options.pop("n_classes", int(y_SN.max()) + 1)
    return fit_mlps(torch.as_tensor(X_ND).to(dtype), y_SN, n_classes, hidden, cells, order_seed=7, **options)


def natural_order(n_items):
    return itertools.repeat(torch.arange(n_items))


def scikit_learns_orders(seed, dim, hidden, classes, n_items):
    """What its random state gives when the initial weights have been drawn."""
    random, order_N = np.random.RandomState(seed), np.arange(n_items)
    for inputs, outputs in itertools.pairwise((dim, *hidden, classes)):
        random.uniform(size=(inputs + 1) * outputs)
    while True:
        order_N = shuffle(order_N, random_state=random)
        yield torch.from_numpy(order_N)


def reference(X_ND, y_N, hidden, cell, **options):
    options = {"random_state": cell.seed, "alpha": cell.alpha, "max_iter": 1000, **options}
    with pytest.warns(ConvergenceWarning) if options["max_iter"] < 1000 else threadpool_limits(1):
        return MLPClassifier(hidden, **options).fit(X_ND, y_N)


def assert_same_network(fits, place, model, **tolerance):
    for name, theirs in zip(WEIGHTS + BIASES, model.coefs_ + model.intercepts_, strict=True):
        np.testing.assert_allclose(getattr(fits, name)[place].numpy().T, theirs, err_msg=name, **tolerance)


def cells_equal(one: MlpFits, places, other: MlpFits) -> bool:
    at = torch.as_tensor(places)
    same = (torch.equal(mine[at], theirs) for mine, theirs in zip(one[:6], other[:6], strict=True))
    return all(same) and all(torch.equal(mine[at], theirs) for mine, theirs in zip(one[7:], other[7:], strict=True))


@pytest.mark.parametrize(("hidden", "batch_size", "classes"), [((32, 32), None, 5), ((7, 33), 64, 3), ((70, 18), 1, 3)])
def test_every_step_is_scikit_learns(hidden, batch_size, classes):
    X_ND, y_N = overlapping(n=430 if batch_size != 1 else 23, classes=classes)
    cells = [MlpCell(1e-7, 0), MlpCell(1e-2, 3), MlpCell(10.0, 1)]
    regime, rule = Regime(len(y_N), batch_size or 200, 1e-3), StopRule(12, 1e-4, 10)
    orders = natural_order(len(y_N))
    fits = train(torch.as_tensor(X_ND), torch.as_tensor(y_N)[None], classes, hidden, cells, orders, regime, rule)
    for place, cell in enumerate(cells):
        options = {"shuffle": False, "max_iter": 12, "batch_size": batch_size or "auto"}
        model = reference(X_ND, y_N, hidden, cell, **options)
        assert_same_network(fits, place, model, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(fits.losses_EG[:, place], model.loss_curve_, rtol=1e-12)
        assert fits.loss_G[place].item() == pytest.approx(model.loss_, rel=1e-12)


def test_float32_steps_stay_beside_scikit_learns():
    X_ND, y_N = overlapping()
    X_ND = X_ND.astype(np.float32)
    cells, rule = [MlpCell(1e-4, 0), MlpCell(1.0, 1)], StopRule(10, 1e-4, 10)
    orders, regime = natural_order(len(y_N)), Regime(len(y_N), 200, 1e-3)
    fits = train(torch.as_tensor(X_ND), torch.as_tensor(y_N)[None], 5, (32, 48), cells, orders, regime, rule)
    for place, cell in enumerate(cells):
        model = reference(X_ND, y_N, (32, 48), cell, shuffle=False, max_iter=10)
        assert_same_network(fits, place, model, atol=3e-6)
        np.testing.assert_allclose(fits.losses_EG[:, place], model.loss_curve_, rtol=2e-6)


@pytest.mark.parametrize(("alpha", "seed"), [(1e-5, 0), (1.0, 4)])
def test_a_whole_default_run_ends_where_scikit_learns_does(alpha, seed):
    X_ND, y_N = overlapping(n=330, dim=10, classes=3)
    model = reference(X_ND, y_N, (24, 16), MlpCell(alpha, seed), learning_rate_init=1e-2)
    orders = scikit_learns_orders(seed, 10, (24, 16), 3, 330)
    cells, regime, rule = [MlpCell(alpha, seed)], Regime(330, 200, 1e-2), StopRule(1000, 1e-4, 10)
    fits = train(torch.as_tensor(X_ND), torch.as_tensor(y_N)[None], 3, (24, 16), cells, orders, regime, rule)
    assert 20 < model.n_iter_ < 1000
    assert (int(fits.epochs_G), bool(fits.converged_G)) == (model.n_iter_, True)
    np.testing.assert_allclose(fits.losses_EG[:, 0], model.loss_curve_, rtol=1e-6, atol=1e-9)
    assert_same_network(fits, 0, model, atol=1e-5)


def test_accuracy_over_seeds_is_scikit_learns():
    X_ND, y_N = overlapping(n=2000, dim=32, classes=6)
    X_ND, train_, test = X_ND.astype(np.float32), slice(1000), slice(1000, None)
    cells = [MlpCell(1e-1, seed) for seed in range(5)]
    fits = fit(X_ND[train_], y_N[train_], (32, 32), cells, learning_rate=4e-3)
    ours_G = (predict_mlps(fits, torch.as_tensor(X_ND[test])).class_GN.numpy() == y_N[test]).mean(1)
    models = [reference(X_ND[train_], y_N[train_], (32, 32), cell, learning_rate_init=4e-3) for cell in cells]
    theirs_G = np.array([model.score(X_ND[test], y_N[test]) for model in models])
    standard_error = math.sqrt((ours_G.var(ddof=1) + theirs_G.var(ddof=1)) / 5)
    assert abs(ours_G.mean() - theirs_G.mean()) <= 2 * standard_error
    assert ours_G.mean() > 2 * np.bincount(y_N[test]).max() / 1000
    epochs_G = np.array([model.n_iter_ for model in models])
    assert fits.converged_G.all()
    assert fits.epochs_G.double().mean().item() == pytest.approx(epochs_G.mean(), rel=0.15)


def test_xor_is_solved():
    rng = np.random.default_rng(0)
    X_ND = rng.choice([-1.0, 1.0], (400, 2)) + rng.normal(0, 0.15, (400, 2))
    y_N = (X_ND[:, 0] * X_ND[:, 1] > 0).astype(np.int64)
    fits = fit(X_ND, y_N, (32, 32), [MlpCell(1e-4, seed) for seed in range(3)])
    assert (predict_mlps(fits, torch.as_tensor(X_ND)).class_GN.numpy() == y_N).all()
    assert fits.b3_GK.shape == (3, 2)


def test_a_huge_penalty_leaves_only_the_biases():
    X_ND, y_N = overlapping()
    y_N = np.where(np.arange(len(y_N)) < 200, 2, y_N)
    fits = fit(X_ND, y_N, (16, 16), [MlpCell(1e4, 0), MlpCell(1e-5, 0)], max_epochs=200, learning_rate=5e-3)
    assert max(getattr(fits, name)[0].abs().max().item() for name in WEIGHTS) < 0.02
    predicted = predict_mlps(fits, torch.as_tensor(X_ND))
    assert (predicted.class_GN[0] == 2).all()
    shares_K = torch.as_tensor(np.bincount(y_N) / len(y_N))
    torch.testing.assert_close(torch.softmax(fits.b3_GK[0], 0).double(), shares_K, atol=0.06, rtol=0)
    assert (predicted.class_GN[1].numpy() == y_N).mean() > 0.9


def naive_stop(losses, tolerance, patience):
    """METHODS 4: the epoch of the stop, counted from 1, or None."""
    lowest, worse = math.inf, 0
    for epoch, loss in enumerate(losses, 1):
        worse = worse + 1 if loss > lowest - tolerance else 0
        lowest = min(lowest, loss)
        if worse == patience + 1:
            return epoch
    return None


def test_the_stop_is_at_the_eleventh_epoch_without_progress():
    progress = Progress(1, StopRule(1000, 1e-4, 10))
    losses = [1.0, 0.5, *[0.49995] * 10, 0.4998, *[0.4998] * 10, 0.49975]
    stops = [bool(progress.update(torch.tensor([0]), torch.tensor([loss], dtype=torch.float64))) for loss in losses]
    assert stops == [False] * (len(losses) - 1) + [True]
    assert (progress.epochs_G.item(), progress.converged_G.item()) == (24, True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 6), min_size=12, max_size=12), min_size=1, max_size=4), st.integers(0, 3))
def test_the_stop_rule_is_that_of_the_text(steps, patience):
    losses_GE = np.array(steps) / 4
    progress, active, stopped = Progress(len(steps), StopRule(12, 0.3, patience)), list(range(len(steps))), {}
    for epoch in range(12):
        loss_A = torch.as_tensor(losses_GE[active, epoch])
        done_A = progress.update(torch.tensor(active, dtype=torch.int64), loss_A)
        stopped |= {cell: epoch + 1 for cell, done in zip(active, done_A, strict=True) if done}
        active = [cell for cell in active if cell not in stopped]
    assert stopped == {
        g: at for g, losses in enumerate(losses_GE) if (at := naive_stop(losses, 0.3, patience)) is not None
    }
    assert progress.converged_G.tolist() == [g in stopped for g in range(len(steps))]


def test_a_fit_stops_where_its_own_losses_say():
    X_ND, y_N = overlapping()
    fits = fit(X_ND, y_N, (16, 8), [MlpCell(10.0**-g, g) for g in range(6)], learning_rate=1e-2, tolerance=1e-3)
    for g, epochs in enumerate(fits.epochs_G.tolist()):
        losses = fits.losses_EG[:, g]
        assert naive_stop(losses.tolist(), 1e-3, 10) == epochs < 1000
        assert losses[:epochs].isfinite().all()
        assert losses[epochs:].isnan().all()
        assert fits.loss_G[g] == losses[epochs - 1]
    assert fits.converged_G.all()
    assert len(fits.epochs_G.unique()) > 1


def test_running_out_of_epochs_is_not_convergence():
    fits = fit(*overlapping(), (16, 8), [MlpCell(1e-3, 0), MlpCell(1e-3, 1)], max_epochs=4)
    assert fits.epochs_G.tolist() == [4, 4]
    assert not fits.converged_G.any()
    assert fits.losses_EG.shape == (4, 2)


def test_a_cell_whose_loss_is_no_number_stops_unconverged():
    fits = fit(*overlapping(), (16, 8), [MlpCell(1e-3, 0)], learning_rate=1e30)
    assert fits.epochs_G.item() < 10
    assert not fits.converged_G.any()
    assert not fits.loss_G.isfinite().any()


@pytest.mark.parametrize(
    ("hidden", "dim", "classes", "batch_size"),
    [
        ((32, 32), 64, 17, None),
        ((7, 9), 13, 3, 37),
        ((33, 64), 50, 6, None),
        ((256, 32), 48, 5, 64),
        ((1, 3), 5, 3, 11),
    ],
)
def test_a_cell_does_not_know_the_others(hidden, dim, classes, batch_size):
    """Bitwise on one thread, through the epochs where its neighbours stop."""
    rng = np.random.default_rng(1)
    X_ND, y_N = overlapping(n=261, dim=dim, classes=classes)
    y_SN = np.stack([y_N, rng.integers(0, classes, len(y_N))])
    n_cells = min(best_cells(hidden, dim, classes) + 3, 13)
    cells = [MlpCell(10.0 ** -(g % 7), g, g % 2) for g in range(n_cells)]
    options = {"batch_size": batch_size, "tolerance": 2e-2, "patience": 2, "max_epochs": 40, "n_classes": classes}
    together = fit(X_ND, y_SN, hidden, cells, **options)
    assert len(together.epochs_G.unique()) > 2
    order = rng.permutation(n_cells)
    assert cells_equal(together, order, fit(X_ND, y_SN, hidden, [cells[g] for g in order], **options))
    for places in ([0], [3], [5], [1, 4], list(range(6))):
        assert cells_equal(together, places, fit(X_ND, y_SN, hidden, [cells[g] for g in places], **options))


def test_labels_of_other_rows_ride_along():
    X_ND, y_N = overlapping(dim=64)
    control_SN = np.random.default_rng(2).integers(0, 5, (2, len(y_N)))
    cells = [MlpCell(1e-4, seed, labels) for seed in range(3) for labels in range(3)]
    together = fit(X_ND, np.concatenate([y_N[None], control_SN]), (32, 16), cells, max_epochs=20)
    for labels, row_N in enumerate((y_N, *control_SN)):
        alone = fit(X_ND, row_N, (32, 16), [MlpCell(1e-4, seed) for seed in range(3)], max_epochs=20)
        assert cells_equal(together, [3 * seed + labels for seed in range(3)], alone)
    assert together.loss_G[0] < together.loss_G[1] - 0.1


def test_half_precision_features_are_taken_at_their_value():
    X_ND, y_N = overlapping()
    X_ND, cells = X_ND.astype(np.float16), [MlpCell(1e-4, 0)]
    half = fit(X_ND, y_N, (16, 16), cells, torch.float16, max_epochs=5)
    single = fit(X_ND, y_N, (16, 16), cells, torch.float32, max_epochs=5)
    assert half.W1_GHD.dtype == torch.float32
    assert cells_equal(half, [0], single)
    assert torch.equal(
        *(
            predict_mlps(half, torch.as_tensor(X_ND).to(dtype)).probability_GN
            for dtype in (half[0].dtype, torch.float16)
        )
    )


def test_the_order_of_the_batches_is_its_seeds():
    X_ND, y_N = (torch.as_tensor(values) for values in overlapping())
    runs = [fit_mlps(X_ND, y_N[None], 5, (16, 16), [MlpCell(0, 0)], order_seed=s, max_epochs=3) for s in (0, 0, 1)]
    assert torch.equal(runs[0].W1_GHD, runs[1].W1_GHD)
    assert not torch.equal(runs[0].W1_GHD, runs[2].W1_GHD)


def objective(layers, x_nD, y_n):
    """Mean cross-entropy of one network, by torch's own functions."""
    W1_HD, b1_H, W2_JH, b2_J, W3_KJ, b3_K = layers
    hidden_nJ = torch.relu(torch.relu(x_nD @ W1_HD.T + b1_H) @ W2_JH.T + b2_J)
    return torch.nn.functional.cross_entropy(hidden_nJ @ W3_KJ.T + b3_K, y_n)


@settings(deadline=None, max_examples=25)
@given(*[st.integers(1, 70)] * 3, st.integers(2, 20), st.integers(1, 4), st.integers(1, 40), st.integers(0, 9999))
def test_the_gradient_is_autograds(lines, first, second, classes, n_cells, n_items, seed):
    sizes = Architecture(16 * (lines % 4 + 1), first, second, classes)
    generator = torch.Generator().manual_seed(seed)
    like = torch.zeros(0, dtype=torch.float64)
    theta, gradient = Values.zeros(sizes, n_cells, like), Values.zeros(sizes, n_cells, like)
    for values in theta:
        values.normal_(0, 0.3, generator=generator)
    x_nD = torch.randn(n_items, sizes.dim, generator=generator, dtype=torch.float64)
    y_Gn = torch.randint(0, classes, (n_cells, n_items), generator=generator)
    scratch, gold_G1n = like.new_empty(gradient_numbers(sizes, n_cells, n_items)), like.new_empty(n_cells, 1, n_items)
    backward = Backward(sizes, theta, gradient.rest_GQ, n_items, scratch)
    ours = sizes.layers(backward(x_nD, y_Gn[:, None], gold_G1n), gradient.rest_GQ)
    for g in range(n_cells):
        layers = [values[g].clone().requires_grad_() for values in sizes.layers(*theta)]
        loss = objective(layers, x_nD, y_Gn[g])
        assert -gold_G1n[g].log().mean().item() == pytest.approx(loss.item(), rel=1e-9)
        for mine, theirs in zip(ours, torch.autograd.grad(loss, layers), strict=True):
            torch.testing.assert_close(mine[g], theirs, rtol=1e-9, atol=1e-12)


def test_predictions_are_the_networks():
    X_ND, y_N = overlapping(n=2500, dim=21)
    fits = fit(X_ND[:300], y_N[:300], (12, 20), [MlpCell(1e-4, g) for g in range(70)], torch.float64, max_epochs=2)
    predicted = predict_mlps(fits, torch.as_tensor(X_ND))
    for g in (0, 69):
        a1_NH = np.maximum(X_ND @ fits.W1_GHD[g].numpy().T + fits.b1_GH[g].numpy(), 0)
        a2_NJ = np.maximum(a1_NH @ fits.W2_GJH[g].numpy().T + fits.b2_GJ[g].numpy(), 0)
        p_NK = torch.softmax(torch.as_tensor(a2_NJ @ fits.W3_GKJ[g].numpy().T + fits.b3_GK[g].numpy()), 1)
        torch.testing.assert_close(predicted.probability_GN[g], p_NK.amax(1), rtol=1e-10, atol=0)
        assert torch.equal(predicted.class_GN[g], p_NK.argmax(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_N": [0, 1, 5]}, r"y_SN holds classes 0 to 5: they must lie in \[0, 3\)"),
        ({"y_N": [-1, 1, 2]}, "y_SN holds classes -1 to 2"),
        ({"cells": []}, "cells is empty"),
        ({"cells": [MlpCell(0.1, 0, 1)]}, "names label row 1: y_SN has rows 0 to 0"),
        ({"n_classes": 1, "y_N": [0, 0, 0]}, "n_classes is 1"),
    ],
)
def test_what_cannot_be_fitted_is_named(change, message):
    given_ = {"y_N": [0, 1, 2], "cells": [MlpCell(0.1, 0)], "n_classes": 3, **change}
    with pytest.raises(ValueError, match=message):
        fit(np.zeros((3, 4)), given_.pop("y_N"), (4, 4), given_.pop("cells"), **given_)


PEAK = r"""
import re, sys, torch
from pathlib import Path
from ftprobe.solvers.mlp import MlpCell, fit_mlps
n_items, dim, classes, first, second, n_cells = map(int, sys.argv[1:])
torch.set_num_threads(1)
X_ND, y_SN = torch.randn(n_items, dim).half(), torch.randint(0, classes, (1, n_items))
def fit(X_ND, y_SN, cells, hidden):
    fit_mlps(X_ND, y_SN, classes, hidden, [MlpCell(1e-4, g) for g in range(cells)], order_seed=0, max_epochs=1)
def kilobytes(name):
    return int(re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
fit(X_ND[:300], y_SN[:, :300], 1, (4, 4))
before = kilobytes("VmRSS")
fit(X_ND, y_SN, n_cells, (first, second))
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_is_announced():
    n_items, dim, classes, first, second, n_cells = sizes = (6_000, 384, 5, 256, 256, 16)
    run = subprocess.run([sys.executable, "-c", PEAK, *map(str, sizes)], capture_output=True, text=True, check=True)
    announced = mlp_bytes(n_items, dim, classes, (first, second), n_cells)
    assert 0.8 * announced < int(run.stdout) < 1.15 * announced


def test_torchs_own_products_take_the_same_steps():
    """Those of several threads and of accelerators."""
    X_ND, y_N = overlapping()
    cells = [MlpCell(1.0, 0), MlpCell(1e-3, 1)]
    numpys = fit(X_ND, y_N, (33, 128), cells, torch.float64, max_epochs=3)
    torch.set_num_threads(2)
    torchs = fit(X_ND, y_N, (33, 128), cells, torch.float64, max_epochs=3)
    for one, other in zip(numpys[:7], torchs[:7], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_the_same_networks():
    X_ND, y_N = overlapping(dim=64)
    y_SN = torch.as_tensor(np.stack([y_N, y_N[::-1]]))
    cells = [MlpCell(10.0**-g, g, g % 2) for g in range(6)]
    here = fit_mlps(torch.as_tensor(X_ND), y_SN, 5, (32, 16), cells, order_seed=0, max_epochs=8)
    X_ND, y_SN = torch.as_tensor(X_ND).cuda(), y_SN.cuda()
    there = fit_mlps(X_ND, y_SN, 5, (32, 16), cells, order_seed=0, max_epochs=8)
    assert there.W1_GHD.is_cuda
    for mine, theirs in zip(here[:7], there[:7], strict=True):
        torch.testing.assert_close(mine, theirs.cpu(), rtol=1e-8, atol=1e-10)
    stopping = fit_mlps(X_ND.float(), y_SN, 5, (32, 16), cells, order_seed=0, tolerance=2e-2, patience=2)
    assert stopping.converged_G.all()
    assert len(stopping.epochs_G.unique()) > 1
    predicted = predict_mlps(stopping, X_ND)
    assert (predicted.class_GN[0] == y_SN[0]).float().mean() > 0.4
