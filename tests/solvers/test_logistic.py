"""Fitted cells against scikit-learn, finite differences, planted truth, and themselves in other company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ftprobe.solvers.cross_entropy import CrossEntropy
from ftprobe.solvers.logistic import LogisticFits, fit_logistic

TIGHT = {"tolerance": 1e-8, "max_iterations": 4000}


def correlated(n=400, dim=12, classes=5, seed=0):
    """Features of unequal scale and strong correlation; labels that overlap."""
    rng = np.random.default_rng(seed)
    X_ND = rng.normal(size=(n, dim)) * np.geomspace(3, 0.05, dim) @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    X_ND -= X_ND.mean(0)
    z_NK = X_ND @ rng.normal(size=(dim, classes)) * 2 + rng.gumbel(size=(n, classes))
    y_N = z_NK.argmax(1)
    y_N[:classes] = np.arange(classes)
    return X_ND, y_N


def fit(X_ND, y_N, strengths, dtype=torch.float64, **options) -> LogisticFits:
    X_LND = [torch.as_tensor(X_ND).to(dtype)] if isinstance(X_ND, np.ndarray) else X_ND
    return fit_logistic(X_LND, torch.as_tensor(y_N), int(max(y_N)) + 1, strengths, **options)


def objective(W_KD, b_K, X_ND, y_N, a):
    z_NK = X_ND @ W_KD.T + b_K
    logsum_N = np.logaddexp.reduce(z_NK, axis=1)
    return (logsum_N - z_NK[np.arange(len(y_N)), y_N]).mean() + a / 2 * (W_KD**2).sum()


@pytest.mark.parametrize("classes", [3, 5, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_scikit_learn_multinomial(classes, dtype):
    X_ND, y_N = correlated(classes=classes)
    strengths = (1e-4, 1e-3, 1e-2)
    fits = fit(X_ND, y_N, strengths, dtype, **TIGHT)
    assert fits.converged_LG.all()
    for g, a in enumerate(strengths):
        reference = LogisticRegression(C=1 / (len(y_N) * a), tol=1e-8, max_iter=20_000).fit(X_ND, y_N)
        expected = objective(reference.coef_, reference.intercept_, X_ND, y_N, a)
        W_KD, b_K = fits.W_LGKD[0, g].numpy(), fits.b_LGK[0, g].numpy()
        assert objective(W_KD, b_K, X_ND, y_N, a) == pytest.approx(expected, rel=1e-6)
        assert fits.objective_LG[0, g].item() == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(W_KD, reference.coef_, atol=2e-4 * np.abs(reference.coef_).max())
        predicted_N = (X_ND @ W_KD.T + b_K).argmax(1)
        assert np.mean(predicted_N == reference.predict(X_ND)) >= 0.998


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_classes_are_the_binary_model_at_twice_the_inverse_strength(dtype):
    X_ND, y_N = correlated(classes=2)
    for a in (1e-4, 1e-2):
        fits = fit(X_ND, y_N, [a], dtype, **TIGHT)
        reference = LogisticRegression(C=2 / (len(y_N) * a), tol=1e-8, max_iter=20_000).fit(X_ND, y_N)
        W_KD, b_K = fits.W_LGKD[0, 0].numpy(), fits.b_LGK[0, 0].numpy()
        difference_D = W_KD[1] - W_KD[0]
        np.testing.assert_allclose(difference_D, reference.coef_[0], atol=2e-4 * np.abs(reference.coef_).max())
        assert b_K[1] - b_K[0] == pytest.approx(reference.intercept_[0], abs=1e-3)
        half = reference.coef_[0] / 2
        expected = objective(np.stack([-half, half]), np.array([-0.5, 0.5]) * reference.intercept_[0], X_ND, y_N, a)
        assert fits.objective_LG[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_two_classes_are_the_softmax_model_with_a_class_nobody_has():
    X_ND, y_N = correlated(classes=2)
    two = fit(X_ND, y_N, [1e-2], **TIGHT)
    W_KD, b_K = two.W_LGKD[0, 0].numpy(), two.b_LGK[0, 0].numpy()
    p1_N = 1 / (1 + np.exp(-(X_ND @ (W_KD[1] - W_KD[0]) + b_K[1] - b_K[0])))
    gradient_D = ((p1_N - y_N)[:, None] * X_ND).mean(0) + 1e-2 * W_KD[1]
    assert np.abs(gradient_D).max() < 1e-7


@settings(deadline=None, max_examples=30)
@given(
    classes=st.integers(2, 6),
    n=st.integers(8, 60),
    dim=st.integers(1, 9),
    a=st.floats(1e-5, 1.0),
    seed=st.integers(0, 2**31),
)
def test_gradient_agrees_with_finite_differences(classes, n, dim, a, seed):
    rng = np.random.default_rng(seed)
    X_ND = torch.as_tensor(rng.normal(size=(n, dim)))
    y_N = torch.as_tensor(np.r_[np.arange(classes), rng.integers(0, classes, n - classes)])
    problem = CrossEntropy([X_ND], y_N, classes)
    x_1P = torch.as_tensor(rng.normal(size=(1, problem.width)))
    cell = torch.zeros(1, dtype=torch.int64), torch.tensor([a], dtype=torch.float64)
    g_1P = problem.evaluate(x_1P, *cell).g_AP
    for at in rng.integers(0, problem.width, 4):
        step = torch.zeros_like(x_1P)
        step[0, at] = 1e-5
        slope = (problem.evaluate(x_1P + step, *cell).f_A - problem.evaluate(x_1P - step, *cell).f_A) / 2e-5
        assert g_1P[0, at].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 17])
def test_a_cell_does_not_depend_on_its_company(classes):
    layers = [correlated(classes=classes, seed=0)[0], correlated(classes=classes, seed=1)[0]]
    y_N = correlated(classes=classes, seed=0)[1]
    strengths = (1e-3, 3e-3, 1e-2, 1e-1)
    X_LND = [torch.as_tensor(X_ND, dtype=torch.float32) for X_ND in layers]
    pack = fit(X_LND, y_N, strengths, tolerance=1e-6)
    for layer in range(2):
        for g, a in enumerate(strengths):
            alone = fit([X_LND[layer]], y_N, [a], tolerance=1e-6)
            assert pack.objective_LG[layer, g].item() == pytest.approx(alone.objective_LG[0, 0].item(), rel=1e-6)
            np.testing.assert_allclose(pack.W_LGKD[layer, g], alone.W_LGKD[0, 0], atol=1e-3)


def test_the_largest_gradient_is_that_of_the_weights():
    X_ND, y_N = correlated()
    fits = fit(X_ND, y_N, [1e-3], max_iterations=7)
    W_KD = fits.W_LGKD[0, 0].clone().requires_grad_()
    b_K = fits.b_LGK[0, 0].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(torch.as_tensor(X_ND) @ W_KD.T + b_K, torch.as_tensor(y_N))
    (loss + 1e-3 / 2 * W_KD.square().sum()).backward()
    assert fits.largest_grad_LG.item() == pytest.approx(max(W_KD.grad.abs().max(), b_K.grad.abs().max()).item())


def test_planted_direction_is_found():
    rng = np.random.default_rng(3)
    X_ND = rng.normal(size=(1500, 20))
    direction_D = rng.normal(size=20)
    X_ND = X_ND[np.abs(X_ND @ direction_D) > 3.0]
    y_N = (X_ND @ direction_D > 0).astype(int)
    fits = fit(X_ND[:300], y_N[:300], [1e-5], torch.float32)
    predicted_N = (X_ND[300:] @ fits.W_LGKD[0, 0].numpy().T + fits.b_LGK[0, 0].numpy()).argmax(1)
    assert np.array_equal(predicted_N, y_N[300:])


@pytest.mark.parametrize("classes", [2, 4])
def test_rotated_features_give_the_same_predictions(classes):
    X_ND, y_N = correlated(classes=classes)
    rotation_DD = np.linalg.qr(np.random.default_rng(9).normal(size=(12, 12)))[0]
    plain, turned = (fit(x, y_N, [1e-3], **TIGHT) for x in (X_ND, X_ND @ rotation_DD))
    np.testing.assert_allclose(
        X_ND @ plain.W_LGKD[0, 0].numpy().T, X_ND @ rotation_DD @ turned.W_LGKD[0, 0].numpy().T, atol=1e-5
    )


def test_features_without_information_give_the_class_shares():
    X_ND, y_N = np.zeros((50, 6)), np.repeat([0, 1, 2], [30, 15, 5])
    fits = fit(X_ND, y_N, [1e-4], torch.float32)
    assert fits.converged_LG.all()
    np.testing.assert_allclose(torch.softmax(fits.b_LGK[0, 0], 0), [0.6, 0.3, 0.1], atol=1e-4)
    assert fits.W_LGKD.abs().max() == 0


def test_a_cell_that_runs_out_of_iterations_is_kept_and_marked():
    X_ND, y_N = correlated()
    fits = fit(X_ND, y_N, [0.02, 1e4], max_iterations=12)
    assert fits.converged_LG.tolist() == [[False, True]]
    assert fits.iterations_LG[0, 0] == 12
    assert fits.objective_LG[0, 0] < np.log(5)


def test_large_unscaled_features_reach_a_tolerance_float32_cannot():
    X_ND, y_N = correlated()
    fits = fit(X_ND * 300, y_N, [1e-2], torch.float32, tolerance=1e-6, max_iterations=4000)
    assert fits.converged_LG.all()
