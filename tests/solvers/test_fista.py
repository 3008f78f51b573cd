"""Converged elastic-net cells against scikit-learn, the optimality conditions, other solvers, and other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ftprobe.solvers.fista import fit_elastic_net
from ftprobe.solvers.logistic import fit_logistic

TIGHT = {"tolerance": 1e-8, "max_iterations": 3000}
CELLS = [(1e-2, 1e-2), (1e-2, 1e-4), (1e-3, 1e-3), (1e-4, 1e-2)]


def problem(n=400, dim=12, classes=5, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    X_ND = rng.normal(size=(n, dim)) * np.geomspace(2, 0.2, dim) + shift
    z_NK = (X_ND - shift) @ rng.normal(size=(dim, classes)) + rng.gumbel(size=(n, classes))
    y_N = z_NK.argmax(1)
    y_N[:classes] = np.arange(classes)
    return X_ND.astype(np.float32), y_N


def fit(X_ND, y_N, cells, **options):
    return fit_elastic_net(torch.from_numpy(X_ND), torch.from_numpy(y_N), int(y_N.max()) + 1, cells, **options)


def objective(W_KD, b_K, X_ND, y_N, l1, l2):
    z_NK = X_ND.astype(np.float64) @ W_KD.T + b_K
    ce = (np.logaddexp.reduce(z_NK, axis=1) - z_NK[np.arange(len(y_N)), y_N]).mean()
    return ce + l1 * np.abs(W_KD).sum() + l2 * (W_KD**2).sum()


def weights(fits, g):
    return fits.W_GKD[g].double().numpy(), fits.b_GK[g].double().numpy()


def saga(X_ND, y_N, l1, l2):
    """The same objective: l1 sum|W| + (2 l2) ||W||^2 / 2; a binary model has one vector, which carries half the l2."""
    both = l1 + 2 * l2
    model = LogisticRegression(solver="saga", l1_ratio=l1 / both, C=1 / (len(y_N) * both), tol=1e-6, max_iter=5000)
    return model.fit(X_ND.astype(np.float64), y_N)


@pytest.mark.parametrize(("l1", "l2"), CELLS)
@pytest.mark.parametrize("classes", [3, 6])
def test_multinomial_objective_is_scikit_learns(l1, l2, classes):
    X_ND, y_N = problem(classes=classes)
    X_ND -= X_ND.mean(0)
    fits = fit(X_ND, y_N, [(l1, l2)], **TIGHT)
    assert fits.converged_G.all()
    model = saga(X_ND, y_N, l1, l2)
    ours = objective(*weights(fits, 0), X_ND, y_N, l1, l2)
    theirs = objective(model.coef_, model.intercept_, X_ND, y_N, l1, l2)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours <= theirs * (1 + 1e-6)
    assert fits.objective_G[0].item() == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize(("l1", "l2"), CELLS)
def test_two_classes_are_the_binary_model_with_l1_and_half_of_l2(l1, l2):
    X_ND, y_N = problem(classes=2)
    X_ND -= X_ND.mean(0)
    fits = fit(X_ND, y_N, [(l1, l2)], **TIGHT)
    W_KD, b_K = weights(fits, 0)
    model = saga(X_ND, y_N, l1, l2 / 2)
    np.testing.assert_allclose(W_KD[1] - W_KD[0], model.coef_[0], atol=2e-3 * max(1, np.abs(model.coef_).max()))
    assert b_K[1] - b_K[0] == pytest.approx(model.intercept_[0], abs=5e-3)
    half = np.stack([-model.coef_[0], model.coef_[0]]) / 2
    theirs = objective(half, np.array([-0.5, 0.5]) * model.intercept_[0], X_ND, y_N, l1, l2)
    assert fits.objective_G[0].item() == pytest.approx(theirs, rel=1e-5)


def test_the_optimality_conditions_hold():
    X_ND, y_N = problem(shift=3.0)
    fits = fit(X_ND, y_N, CELLS, **TIGHT)
    for g, (l1, l2) in enumerate(CELLS):
        W_KD, b_K = weights(fits, g)
        z_NK = X_ND @ W_KD.T + b_K
        p_NK = np.exp(z_NK - np.logaddexp.reduce(z_NK, axis=1, keepdims=True)) - np.eye(len(b_K))[y_N]
        # the mean of a column is a direction of the bias, whose gradient vanishes too
        gradient_KD = p_NK.T @ (X_ND - X_ND.mean(0)) / len(y_N) + 2 * l2 * W_KD
        assert np.abs(p_NK.mean(0)).max() < 1e-5
        zero_KD = W_KD == 0
        assert (np.abs(gradient_KD[zero_KD]) <= l1 + 1e-5).all()
        assert np.abs(gradient_KD + l1 * np.sign(W_KD))[~zero_KD].max() < 1e-4
        assert fits.violation_G[g] <= 1e-5
    assert (fits.W_GKD[0] == 0).double().mean() > 0.1


def test_a_large_l1_leaves_nothing_and_the_bias_says_the_majority():
    X_ND, y_N = problem()
    fits = fit(X_ND, y_N, [(10.0, 0.0)])
    assert (fits.W_GKD == 0).all()
    share_K = np.bincount(y_N) / len(y_N)
    np.testing.assert_allclose(torch.softmax(fits.b_GK[0], 0).numpy(), share_K, atol=1e-5)


def test_without_l1_it_is_the_l2_path():
    X_ND, y_N = problem()
    X_ND -= X_ND.mean(0)
    fits = fit(X_ND, y_N, [(0.0, 5e-3), (0.0, 5e-4)], **TIGHT)
    path = fit_logistic([torch.from_numpy(X_ND)], torch.from_numpy(y_N), 5, [1e-2, 1e-3], tolerance=1e-7)
    np.testing.assert_allclose(fits.objective_G, path.objective_LG[0], rtol=1e-6)
    np.testing.assert_allclose(fits.W_GKD, path.W_LGKD[0].float(), atol=1e-3 * float(path.W_LGKD.abs().max()))


@settings(deadline=None, max_examples=12)
@given(picked=st.lists(st.sampled_from(CELLS), min_size=1, max_size=4, unique=True))
def test_a_cell_in_any_company_is_the_cell_alone(picked):
    X_ND, y_N = problem(n=150)
    together = fit(X_ND, y_N, picked)
    for g, cell in enumerate(picked):
        alone = fit(X_ND, y_N, [cell])
        assert int(alone.iterations_G[0]) == int(together.iterations_G[g])
        torch.testing.assert_close(alone.W_GKD[0], together.W_GKD[g], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.b_GK[0], together.b_GK[g], atol=1e-6, rtol=0)


def test_classes_and_rows_may_come_in_any_order():
    X_ND, y_N = problem()
    fits = fit(X_ND, y_N, CELLS, **TIGHT)
    rng = np.random.default_rng(3)
    names_K, order_N = rng.permutation(5), rng.permutation(len(y_N))
    other = fit(X_ND[order_N], names_K[y_N][order_N], CELLS, **TIGHT)
    np.testing.assert_allclose(other.objective_G, fits.objective_G, rtol=1e-6)
    np.testing.assert_allclose(other.W_GKD[:, names_K], fits.W_GKD, atol=2e-3)


def test_float16_features_are_their_float32_values():
    X_ND, y_N = problem()
    half = torch.from_numpy(X_ND).half()
    y = torch.from_numpy(y_N)
    ours, theirs = fit_elastic_net(half, y, 5, CELLS), fit_elastic_net(half.float(), y, 5, CELLS)
    assert torch.equal(ours.W_GKD, theirs.W_GKD)


def test_a_fit_without_a_minimum_ends_and_says_so():
    X_ND, _ = problem(n=100)
    separable_N = (X_ND @ np.random.default_rng(1).normal(size=(12, 3))).argmax(1)
    fits = fit(X_ND, separable_N, [(0.0, 0.0), (1e-2, 1e-2)], tolerance=1e-12, max_iterations=300)
    assert not fits.converged_G[0]
    assert fits.iterations_G[0] == 300
    assert fits.objective_G[0] < fits.objective_G[1]
    assert torch.isfinite(fits.W_GKD).all()
