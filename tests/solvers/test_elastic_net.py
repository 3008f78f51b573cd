"""Elastic-net cells against NeuroX's own numbers, autograd, and themselves in other company; rows of features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ftprobe.solvers.elastic_net as module
from ftprobe.solvers.elastic_net import Cell, Recipe, Weights, first_weights, fit_adam, predict
from ftprobe.solvers.rows import Columns, Layers, Matrix, blocks

RUNS = {"a": (5, 512), "b": (30, 128)}
LAMBDAS = (0.0, 1e-5, 1e-3, 1e-1)


def problem(n=700, dim=24, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    X_ND = (rng.normal(size=(n, dim)) * np.geomspace(2, 0.1, dim)).astype(np.float32)
    y_N = (X_ND @ rng.normal(size=(dim, classes)) + rng.gumbel(size=(n, classes))).argmax(1)
    return Matrix(torch.from_numpy(X_ND)), torch.from_numpy(y_N)[None]


@pytest.mark.parametrize("name", ["k5", "k17"])
@pytest.mark.parametrize("run", RUNS)
def test_neurox_is_one_setting(golden, name, run):
    arrays = np.load(golden / "neurox_linear" / f"{name}.npz", allow_pickle=False)
    known = json.loads((golden / "neurox_linear" / f"{name}.json").read_text())["runs"][run]
    rows, y_1N = Matrix(torch.from_numpy(arrays["X_ND"])), torch.from_numpy(arrays["y_N"])[None]
    pairs = arrays["lambdas_P2"]
    cells = [Cell(float(l1), float(l2), 0) for l1, l2 in pairs]
    W0_PKD, b0_PK = (
        torch.from_numpy(np.repeat(arrays[key][None], len(cells), 0)) for key in (f"W0_{run}_KD", f"b0_{run}_K")
    )
    epochs, batch_size = RUNS[run]
    recipe = Recipe(epochs, batch_size, penalty="l2_norm", shuffle=False)
    fits = fit_adam(rows, y_1N, W0_PKD.shape[1], cells, recipe, order_seed=0, start=Weights(W0_PKD, b0_PK))
    for p, (l1, _) in enumerate(pairs):
        off_KD = np.abs(fits.W_CKD[p].numpy() - arrays[f"W_{run}_PKD"][p])
        off_K = np.abs(fits.b_CK[p].numpy() - arrays[f"b_{run}_PK"][p])
        if run == "a" or l1 == 0:
            assert max(off_KD.max(), off_K.max()) < (1e-6 if run == "a" else 3e-6)
        else:
            assert (off_KD < 1e-5).mean() >= 0.95
            assert off_KD.max() < 2e-3
            assert off_K.max() < 1e-5
    for part, X_ND, y_N in (
        ("train", arrays["X_ND"], arrays["y_N"]),
        ("test", arrays["X_test_ND"], arrays["y_test_N"]),
    ):
        said_PN = predict(fits, Matrix(torch.from_numpy(X_ND))).class_CN.numpy()
        off_P = np.abs((said_PN == y_N).mean(1) - np.asarray(known[f"{part}_accuracy"]))
        assert (off_P <= 1 / len(y_N) + 1e-12).all()


@pytest.mark.parametrize("penalty", ["squared_l2", "l2_norm"])
@pytest.mark.parametrize("ce", ["mean", "sum"])
def test_a_step_is_adams_on_the_gradient_that_autograd_takes(penalty, ce):
    rows, y_1N = problem(n=300)
    cell, recipe = Cell(1e-2, 3e-2, 7), Recipe(3, 64, penalty=penalty, ce=ce, shuffle=False)
    fits = fit_adam(rows, y_1N, 5, [cell], recipe, order_seed=0)
    begin = first_weights(7, 5, 24)
    W_KD, b_K = (each[0].clone().requires_grad_() for each in begin)
    adam = torch.optim.Adam([W_KD, b_K], lr=1e-3)
    for _ in range(3):
        for start in range(0, 300, 64):
            z_nK = rows.X_ND[start : start + 64] @ W_KD.T + b_K
            loss = torch.nn.functional.cross_entropy(z_nK, y_1N[0, start : start + 64], reduction=ce)
            size = W_KD.square().sum() if penalty == "squared_l2" else W_KD.norm()
            adam.zero_grad()
            (loss + 1e-2 * W_KD.abs().sum() + 3e-2 * size).backward()
            adam.step()
    torch.testing.assert_close(fits.W_CKD[0], W_KD.detach(), atol=2e-6, rtol=0)
    torch.testing.assert_close(fits.b_CK[0], b_K.detach(), atol=2e-6, rtol=0)


def test_the_gradient_is_that_of_finite_differences():
    """In float64, of mean CE + l1 sum|W| + l2 ||W||^2, away from zero weights."""
    rows, y_1N = problem(n=64, dim=6, classes=3)
    X_ND, y_N = rows.X_ND.double(), y_1N[0]
    W_KD = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(W):
        ce = torch.nn.functional.cross_entropy(X_ND @ W.T, y_N)
        return ce + 0.01 * W.abs().sum() + 0.03 * W.square().sum()

    difference_KD = torch.zeros_like(W_KD)
    for k in range(3):
        for d in range(6):
            step = torch.zeros_like(W_KD)
            step[k, d] = 1e-6
            difference_KD[k, d] = (loss(W_KD + step) - loss(W_KD - step)) / 2e-6
    pack = module._Pack(
        [Cell(0.01, 0.03, 0)], Weights(W_KD.float()[None], torch.zeros(1, 3)), y_1N, Recipe(), torch.device("cpu")
    )
    before = pack.weights().W_CKD.clone()
    pack.step(rows.X_ND, rows.X_ND / 64, torch.arange(64))
    # the first moment after one step is 0.1 of the gradient
    taken_KD = pack.moments[0][:18].view(3, 6) / 0.1
    torch.testing.assert_close(taken_KD.double(), difference_KD, atol=1e-6, rtol=1e-5)
    assert (pack.weights().W_CKD - before).abs().max() == pytest.approx(1e-3, rel=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    picked=st.lists(
        st.tuples(st.sampled_from(LAMBDAS), st.sampled_from(LAMBDAS), st.integers(0, 1)), min_size=1, max_size=9
    ),
    classes=st.integers(2, 7),
    dim=st.sampled_from([5, 24, 33]),
    block=st.sampled_from([4, 16, 1024]),
)
def test_a_cell_in_any_pack_is_the_cell_alone(picked, classes, dim, block):
    """To the last bit, so that penalties whose subgradient jumps at 0 cannot tell packs apart either."""
    rows, y_1N = problem(n=150, dim=dim, classes=classes)
    y_SN = torch.cat([y_1N, y_1N.flip(1)])
    cells = [Cell(l1, l2, seed=labels, labels=labels) for l1, l2, labels in picked]
    recipe = Recipe(3, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", block)
        together = fit_adam(rows, y_SN, classes, cells, recipe, order_seed=3)
        backwards = fit_adam(rows, y_SN, classes, cells[::-1], recipe, order_seed=3)
    assert torch.equal(together.W_CKD, backwards.W_CKD.flip(0))
    for c, cell in enumerate(cells):
        alone = fit_adam(rows, y_SN, classes, [cell], recipe, order_seed=3)
        assert torch.equal(alone.W_CKD[0], together.W_CKD[c])
        assert torch.equal(alone.b_CK[0], together.b_CK[c])


def test_strong_penalties_leave_nothing_or_little():
    rows, y_1N = problem()
    cells = [Cell(0, 0, 0), Cell(0.5, 0, 0), Cell(0, 5, 0)]
    steps = {
        step: fit_adam(rows, y_1N, 5, cells, Recipe(60, 64, l1_step=step), order_seed=0)
        for step in ("subgradient", "proximal")
    }
    for fits in steps.values():
        free, lasso, ridge = fits.W_CKD.abs().amax((1, 2)).tolist()
        assert lasso < 0.02 < free
        assert ridge < 0.1 * free
    assert (steps["proximal"].W_CKD[1] == 0).double().mean() > 0.9
    majority = y_1N[0].bincount().argmax()
    assert (predict(steps["proximal"], rows).class_CN[1] == majority).double().mean() > 0.95


def test_the_order_of_items_is_the_seeds_and_only_where_asked():
    rows, y_1N = problem()
    fit = {
        (seed, shuffle): fit_adam(rows, y_1N, 5, [Cell(0, 0, 0)], Recipe(2, 64, shuffle=shuffle), order_seed=seed).W_CKD
        for seed in (0, 1)
        for shuffle in (True, False)
    }
    assert torch.equal(fit[0, False], fit[1, False])
    assert not torch.equal(fit[0, True], fit[1, True])


def test_layers_side_by_side_are_the_concatenated_matrix():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(50, 4)).astype(np.float16) for _ in range(3)]
    item_N = rng.permutation(50)[:30]
    shift_D, divisor_D = rng.normal(size=12).astype(np.float32), rng.uniform(1, 2, 12).astype(np.float32)
    whole_ND = (np.concatenate(parts, 1).astype(np.float32)[item_N] - shift_D) / divisor_D
    rows = Layers(parts, item_N, "cpu", shift_D, divisor_D)
    at_n, at_d = torch.tensor([3, 0, 29]), torch.tensor([11, 0, 5, 4])
    assert rows.shape == (30, 12)
    np.testing.assert_array_equal(rows(at_n).numpy(), whole_ND[at_n])
    np.testing.assert_array_equal(rows.columns(at_d).X_ND.numpy(), whole_ND[:, at_d])
    np.testing.assert_array_equal(Columns(rows, at_d)(at_n).numpy(), whole_ND[at_n][:, at_d])
    np.testing.assert_array_equal(torch.cat([x_nD for _, x_nD in blocks(rows, 7)]).numpy(), whole_ND)
    y_1N = torch.from_numpy(rng.integers(0, 3, 30))[None]
    cells = [Cell(1e-3, 1e-3, 0)]
    own = fit_adam(rows, y_1N, 3, cells, Recipe(4, 8), order_seed=0)
    plain = fit_adam(Matrix(torch.from_numpy(whole_ND)), y_1N, 3, cells, Recipe(4, 8), order_seed=0)
    assert torch.equal(own.W_CKD, plain.W_CKD)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_fits():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rows, y_1N = problem()
    cells = [Cell(l1, l2, 0) for l1 in (0.0, 1e-4) for l2 in LAMBDAS]
    there = fit_adam(Matrix(rows.X_ND.cuda()), y_1N.cuda(), 5, cells, order_seed=0)
    here = fit_adam(rows, y_1N, 5, cells, order_seed=0)
    torch.testing.assert_close(there.W_CKD.cpu(), here.W_CKD, atol=2e-3, rtol=0)
    said_CN = predict(there, Matrix(rows.X_ND.cuda())).class_CN.cpu()
    assert (said_CN == predict(here, rows).class_CN).double().mean() > 0.995
