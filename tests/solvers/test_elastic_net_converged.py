"""Elastic-net cells against scikit-learn, the optimality conditions, the L2 solver, and themselves in other company."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ftprobe.solvers import elastic_net_converged
from ftprobe.solvers.elastic_net_converged import ElasticNetFits, fit_elastic_net
from ftprobe.solvers.logistic import fit_logistic

TIGHT = {"tolerance": 1e-13, "max_iterations": 20_000}
CELLS = ((1e-3, 1e-3), (1e-2, 0.0), (1e-4, 1e-2), (3e-3, 2e-5))


@pytest.fixture(scope="module", params=["as it chooses", "together"], autouse=True)
def search(request):
    """Most problems here are small: the second pass minimises them by proximal quasi-Newton, side by side, too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "together":
            patch.setattr(elastic_net_converged, "_SMALL_PARAMETERS", 0)
        yield


def correlated(n=240, dim=10, classes=5, seed=0):
    """Features of unequal scale and strong correlation, not centred; labels that overlap."""
    rng = np.random.default_rng(seed)
    X_ND = rng.normal(size=(n, dim)) @ (np.eye(dim) + rng.normal(size=(dim, dim)) / 4) * np.geomspace(2, 0.5, dim)
    z_NK = X_ND @ rng.normal(size=(dim, classes)) + rng.gumbel(size=(n, classes))
    y_N = z_NK.argmax(1)
    y_N[:classes] = np.arange(classes)
    return X_ND + rng.normal(size=dim), y_N


def fit(X_ND, y_N, cells, dtype=torch.float64, classes=None, **options) -> ElasticNetFits:
    X_ND = torch.as_tensor(X_ND).to(dtype)
    return fit_elastic_net(X_ND, torch.as_tensor(y_N), classes or int(max(y_N)) + 1, cells, **options)


def objective(W_KD, b_K, X_ND, y_N, cell):
    z_NK = X_ND @ W_KD.T + b_K
    loss = (np.logaddexp.reduce(z_NK, axis=1) - z_NK[np.arange(len(y_N)), y_N]).mean()
    return loss + cell[0] * np.abs(W_KD).sum() + cell[1] * (W_KD**2).sum()


def violation(W_KD, b_K, X_ND, y_N, cell):
    """Largest entry of the subgradient of least size, from autograd."""
    W_KD, b_K = W_KD.clone().requires_grad_(), b_K.clone().requires_grad_()
    z_NK = torch.as_tensor(X_ND) @ W_KD.T + b_K
    (torch.nn.functional.cross_entropy(z_NK, torch.as_tensor(y_N)) + cell[1] * W_KD.square().sum()).backward()
    inside_KD = (W_KD.grad.abs() - cell[0]).clamp_min(0)
    entries_KD = torch.where(W_KD == 0, inside_KD, (W_KD.grad + cell[0] * W_KD.sign()).abs())
    return max(entries_KD.max(), b_K.grad.abs().max()).item()


def saga(X_ND, y_N, total, l1):
    """mean CE + l1 |w| + (total - l1) / 2 w^2."""
    model = LogisticRegression(C=1 / (len(y_N) * total), l1_ratio=l1 / total, solver="saga", tol=1e-8, max_iter=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return model.fit(X_ND, y_N)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "rel"),
    [(torch.float32, 1e-7, 2e-6), (torch.float64, 1e-7, 2e-6), (torch.float64, 1e-12, 1e-9)],
)
@pytest.mark.parametrize("classes", [3, 7])
def test_matches_saga_multinomial(classes, dtype, tolerance, rel):
    X_ND, y_N = correlated(classes=classes)
    fits = fit(X_ND, y_N, CELLS, dtype, tolerance=tolerance)
    for g, (l1, l2) in enumerate(CELLS):
        reference = saga(X_ND, y_N, l1 + 2 * l2, l1)
        expected = objective(reference.coef_, reference.intercept_, X_ND, y_N, (l1, l2))
        W_KD, b_K = fits.W_GKD[g].numpy(), fits.b_GK[g].numpy()
        assert objective(W_KD, b_K, X_ND, y_N, (l1, l2)) == pytest.approx(expected, rel=rel)
        assert fits.objective_G[g].item() == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_classes_are_the_binary_model_with_l1_and_half_of_l2(dtype):
    X_ND, y_N = correlated(classes=2)
    fits = fit(X_ND, y_N, CELLS, dtype, tolerance=1e-9)
    for g, (l1, l2) in enumerate(CELLS):
        reference = saga(X_ND, y_N, l1 + l2, l1)
        w_D, intercept = reference.coef_[0], reference.intercept_[0]
        expected = objective(np.stack([-w_D, w_D]) / 2, np.array([-0.5, 0.5]) * intercept, X_ND, y_N, (l1, l2))
        assert fits.objective_G[g].item() == pytest.approx(expected, rel=2e-6)
        if l2 > 0:
            W_KD, b_K = fits.W_GKD[g].numpy(), fits.b_GK[g].numpy()
            np.testing.assert_allclose(W_KD[1] - W_KD[0], w_D, atol=5e-3 * np.abs(w_D).max())
            assert b_K[1] - b_K[0] == pytest.approx(intercept, abs=2e-2)


def test_the_reported_violation_is_that_of_unfinished_weights_too():
    X_ND, y_N = correlated()
    fits = fit(X_ND, y_N, CELLS, max_iterations=4)
    assert not fits.converged_G.any()
    for g, cell in enumerate(CELLS):
        checked = violation(fits.W_GKD[g], fits.b_GK[g], X_ND, y_N, cell)
        assert checked > 1e-6
        assert fits.largest_violation_G[g].item() == pytest.approx(checked, rel=1e-6)


def test_large_l1_leaves_no_weights_and_predicts_the_majority():
    X_ND, y_N = correlated()
    fits = fit(X_ND, y_N, [(10.0, 0.0), (10.0, 1e-2), (1e6, 1e3)], tolerance=1e-12)
    shares_K = np.bincount(y_N) / len(y_N)
    assert (fits.W_GKD == 0).all()
    assert fits.converged_G.all()
    np.testing.assert_allclose(torch.softmax(fits.b_GK, 1), np.tile(shares_K, (3, 1)), atol=1e-6)
    assert np.mean(fits.b_GK[0].argmax().item() == y_N) == shares_K.max()


@pytest.mark.parametrize("classes", [2, 5])
def test_without_l1_it_is_the_l2_probe_at_twice_the_strength(classes):
    X_ND, y_N = correlated(classes=classes)
    l2s = (1e-4, 1e-3, 1e-1)
    fits = fit(X_ND, y_N, [(0.0, l2) for l2 in l2s], tolerance=1e-10)
    reference = fit_logistic(
        [torch.as_tensor(X_ND)], torch.as_tensor(y_N), classes, [2 * l2 for l2 in l2s], tolerance=1e-8
    )
    np.testing.assert_allclose(fits.objective_G, reference.objective_LG[0], rtol=1e-8)
    np.testing.assert_allclose(fits.W_GKD, reference.W_LGKD[0], atol=2e-3)


@settings(deadline=None, max_examples=5)
@given(
    order=st.permutations(range(6)),
    asked=st.integers(1, 6),
    classes=st.sampled_from([2, 3, 17]),
)
def test_a_cell_does_not_depend_on_its_company_or_place(order, asked, classes):
    X_ND, y_N = correlated(classes=classes)
    cells = [(1e-3, 0.0), (0.0, 1e-3), (1e-2, 1e-2), (1e-2, 3e-4), (1e-5, 1e-3), (1e-3, 1e-3)]
    pack = fit(X_ND, y_N, cells, torch.float32)
    some = fit(X_ND, y_N, [cells[g] for g in order[:asked]], torch.float32)
    for place, g in enumerate(order[:asked]):
        np.testing.assert_allclose(some.W_GKD[place], pack.W_GKD[g], atol=1e-6, rtol=0)
        np.testing.assert_allclose(some.b_GK[place], pack.b_GK[g], atol=1e-6, rtol=0)
        assert some.iterations_G[place] == pack.iterations_G[g]


def test_permuted_classes_and_items_permute_the_solution():
    X_ND, y_N = correlated()
    classes_K, items_N = np.random.default_rng(4).permutation(5), np.random.default_rng(5).permutation(len(y_N))
    cells = [(1e-3, 1e-3), (1e-4, 1e-2)]
    plain, turned = fit(X_ND, y_N, cells, **TIGHT), fit(X_ND[items_N], classes_K[y_N][items_N], cells, **TIGHT)
    np.testing.assert_allclose(turned.W_GKD[:, classes_K], plain.W_GKD, atol=1e-5)
    np.testing.assert_allclose(turned.b_GK[:, classes_K], plain.b_GK, atol=1e-5)


def test_float16_features_are_float32_features_of_the_same_values():
    X_ND, y_N = correlated(n=3000, classes=3)
    halves_ND = torch.as_tensor(X_ND).half()
    narrow, wide = fit(halves_ND, y_N, CELLS, torch.float16), fit(halves_ND, y_N, CELLS, torch.float32)
    assert torch.equal(narrow.W_GKD, wide.W_GKD)
    assert torch.equal(narrow.b_GK, wide.b_GK)


def test_no_penalty_on_separable_classes_ends_unconverged_at_a_small_loss():
    rng = np.random.default_rng(0)
    y_N = rng.integers(0, 3, 90)
    X_ND = np.eye(3)[y_N] + rng.uniform(-0.3, 0.3, (90, 3))
    fits = fit(X_ND, y_N, [(0.0, 0.0), (0.0, 1e-3)], torch.float32)
    assert fits.converged_G.tolist() == [False, True]
    assert fits.objective_G[0] < 1e-7
    assert torch.isfinite(fits.W_GKD).all()
    short = fit(X_ND, y_N, [(0.0, 0.0)], torch.float32, max_iterations=3)
    assert short.iterations_G.item() == 3
    assert 1e-7 < short.objective_G.item() < np.log(3)


def test_no_penalty_on_overlapping_classes_is_plain_maximum_likelihood():
    X_ND, y_N = correlated(n=400, dim=4, classes=3)
    fits = fit(X_ND, y_N, [(0.0, 0.0)], tolerance=1e-10)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(X_ND, y_N)
    assert fits.converged_G.all()
    expected = objective(reference.coef_, reference.intercept_, X_ND, y_N, (0, 0))
    assert fits.objective_G.item() == pytest.approx(expected, rel=1e-7)


def test_a_class_nobody_has_gets_no_weights_and_changes_nothing():
    X_ND, y_N = correlated(classes=3)
    with_it, without = (fit(X_ND, y_N, [(1e-3, 1e-3)], classes=classes, tolerance=1e-10) for classes in (4, 3))
    assert (with_it.W_GKD[0, 3] == 0).all()
    assert with_it.objective_G.item() == pytest.approx(without.objective_G.item(), rel=1e-6)
    np.testing.assert_allclose(with_it.W_GKD[0, :3], without.W_GKD[0], atol=1e-3)


def test_penalties_are_those_of_the_columns_as_given():
    X_ND, y_N = correlated()
    X_ND = X_ND * np.geomspace(1e-2, 1e2, X_ND.shape[1]) + 3
    for g, cell in enumerate(cells := [(1e-3, 1e-4), (1e-2, 0.0)]):
        fits = fit(X_ND, y_N, cells, **TIGHT)
        assert violation(fits.W_GKD[g], fits.b_GK[g], X_ND, y_N, cell) < 1e-5


def test_a_constant_column_gets_no_weight():
    X_ND, y_N = correlated()
    X_ND[:, 4] = 7.0
    fits = fit(X_ND, y_N, CELLS, torch.float32)
    assert (fits.W_GKD[:, :, 4] == 0).all()
    assert fits.converged_G.all()


def test_more_features_than_a_basis_is_made_for():
    rng = np.random.default_rng(1)
    X_ND, y_N = rng.normal(size=(40, 2100)), rng.integers(0, 3, 40)
    cell = (2e-2, 1e-3)
    fits = fit(X_ND, y_N, [cell], tolerance=1e-10)
    assert fits.converged_G.all()
    assert 0 < (fits.W_GKD != 0).double().mean() < 0.2
    assert violation(fits.W_GKD[0], fits.b_GK[0], X_ND, y_N, cell) < 1e-5


@pytest.mark.parametrize("cell", [(-1e-3, 0.0), (0.0, -1.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_impossible_penalties_are_refused(cell):
    X_ND, y_N = correlated()
    with pytest.raises(ValueError, match="must be finite and not negative"):
        fit(X_ND, y_N, [cell])
