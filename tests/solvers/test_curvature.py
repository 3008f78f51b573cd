"""Blocks against the Hessian by automatic differentiation, and what they save a search."""

import numpy as np
import pytest
import torch

from ftprobe.solvers import curvature, lbfgs
from ftprobe.solvers.cross_entropy import CrossEntropy
from ftprobe.solvers.curvature import Blocks
from ftprobe.solvers.logistic import fit_logistic

N, D = 40, 24
A = 0.02


def task(classes, n=N, dim=D):
    generator = torch.Generator().manual_seed(0)
    X_ND = torch.randn(n, dim, generator=generator, dtype=torch.float64) * torch.logspace(1, -1, dim)
    y_N = torch.arange(n) % classes
    return CrossEntropy([X_ND], y_N, classes), X_ND, y_N


def hessian_blocks(X_ND, y_N, W_MD, b_M):
    """Of every score row's weights and bias: (M, D + 1, D + 1)."""

    def loss(row_E, row):
        rows_ME = torch.cat([W_MD, b_M[:, None]], 1)
        rows_ME = torch.cat([rows_ME[:row], row_E[None], rows_ME[row + 1 :]])
        z_NM = X_ND @ rows_ME[:, :-1].T + rows_ME[:, -1]
        z_NK = torch.cat([torch.zeros(len(y_N), 1, dtype=torch.float64), z_NM], 1) if len(W_MD) == 1 else z_NM
        a = A / 2 if len(W_MD) == 1 else A
        return torch.nn.functional.cross_entropy(z_NK, y_N) + a / 2 * row_E[:-1].square().sum()

    rows_ME = torch.cat([W_MD, b_M[:, None]], 1)
    return torch.stack(
        [torch.autograd.functional.hessian(lambda e, m=m: loss(e, m), row_E) for m, row_E in enumerate(rows_ME)]
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_blocks_summed_over_every_item_invert_the_hessian(classes, monkeypatch):
    monkeypatch.setattr(curvature, "_SHARE", 1.0)
    problem, X_ND, y_N = task(classes)
    generator = torch.Generator().manual_seed(1)
    x_1P, v_1P = 0.1 * torch.randn(2, 1, problem.width, generator=generator, dtype=torch.float64)
    cell = torch.zeros(1, dtype=torch.int64)
    blocks = Blocks(problem, cell, torch.tensor([A], dtype=torch.float64))
    blocks.build(x_1P, cell)
    out_1P = blocks.times(v_1P[None], torch.ones_like(v_1P), cell)[0]
    V_DD = problem.V_LDD[torch.float64][0]
    W_MD, v_MD, out_MD = (problem.split(each_1P)[0][0] @ V_DD.T for each_1P in (x_1P, v_1P, out_1P))
    b_M, v_M, out_M = (problem.split(each_1P)[1][0] for each_1P in (x_1P, v_1P, out_1P))
    H_MEE = hessian_blocks(X_ND, y_N, W_MD, b_M)
    back_ME = (H_MEE @ torch.cat([out_MD, out_M[:, None]], 1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(back_ME, torch.cat([v_MD, v_M[:, None]], 1), atol=2e-3, rtol=2e-2)


def test_cells_without_blocks_are_scaled():
    problem, _, _ = task(3)
    cell_2 = torch.arange(2)
    blocks = Blocks(problem, torch.zeros_like(cell_2), torch.full((2,), A, dtype=torch.float64))
    v_2P = torch.ones(2, problem.width, dtype=torch.float64)
    blocks.build(v_2P[1:] * 0, cell_2[1:])
    both_2P = blocks.times(v_2P[None], 3 * v_2P, cell_2)[0]
    assert (both_2P[0] == 3).all()
    assert (both_2P[1] != 3).any()
    torch.testing.assert_close(blocks.times(v_2P[None, 1:], 3 * v_2P[1:], cell_2[1:])[0, 0], both_2P[1])


def words(seed, n=2000, types=400):
    """Noisy embeddings of a few frequent and many rare words, which nearly determine one of 4 classes."""
    rng = np.random.default_rng(seed)
    weight_T = 1 / np.arange(1, types + 1)
    centre_TD, class_T = rng.normal(size=(types, 96)), rng.integers(0, 4, types)
    type_N = np.random.default_rng(0).choice(types, n, p=weight_T / weight_T.sum())
    X_ND = centre_TD[type_N] + 0.1 * rng.normal(size=(n, 96))
    y_N = np.where(rng.random(n) < 0.05, rng.integers(0, 4, n), class_T[type_N])
    return torch.as_tensor(X_ND - X_ND.mean(0)), torch.as_tensor(y_N)


def test_a_slow_search_takes_fewer_steps_and_ends_where_it_did(monkeypatch):
    X_ND, y_N = words(0)
    fits = fit_logistic([X_ND], y_N, 4, [1e-5], tolerance=1e-6)
    monkeypatch.setattr(lbfgs, "_FEWEST_STEPS", 1e9)
    without = fit_logistic([X_ND], y_N, 4, [1e-5], tolerance=1e-6)
    assert fits.converged_LG.all()
    assert fits.objective_LG.item() == pytest.approx(without.objective_LG.item(), rel=1e-6)
    assert fits.iterations_LG.item() < 0.8 * without.iterations_LG.item()


def test_a_slow_cell_does_not_depend_on_its_company(monkeypatch):
    built = []
    build = Blocks.build
    monkeypatch.setattr(Blocks, "build", lambda self, x_AP, at_A: built.append(at_A) or build(self, x_AP, at_A))
    (X_ND, y_N), (other_ND, _) = words(0), words(1)
    pack = fit_logistic([other_ND, X_ND], y_N, 4, [1e-5, 2e-5, 1e-3], tolerance=1e-6)
    assert built
    alone = fit_logistic([X_ND], y_N, 4, [2e-5], tolerance=1e-6)
    assert pack.objective_LG[1, 1].item() == pytest.approx(alone.objective_LG.item(), rel=1e-9)
    torch.testing.assert_close(pack.W_LGKD[1, 1], alone.W_LGKD[0, 0], atol=1e-5, rtol=1e-5)
