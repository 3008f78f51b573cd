"""Small elastic-net problems: whatever they look like, the search ends at the minimum, and says when it does not."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftprobe.solvers import elastic_net_converged
from tests.solvers.test_elastic_net_converged import CELLS, TIGHT, correlated, fit, violation


@settings(deadline=None, max_examples=25)
@given(
    classes=st.integers(2, 5),
    n=st.integers(10, 60),
    dim=st.integers(1, 9),
    l1=st.floats(1e-5, 0.3),
    l2=st.one_of(st.just(0.0), st.floats(1e-5, 0.3)),
    seed=st.integers(0, 2**31),
)
@example(classes=3, n=18, dim=6, l1=1e-5, l2=0.0, seed=0)  # the minimum lies far along a narrow, curved valley
@example(classes=4, n=26, dim=7, l1=1e-5, l2=0.0, seed=2134656236)
@example(classes=4, n=15, dim=4, l1=1e-5, l2=0.0, seed=21849574)
@example(classes=2, n=11, dim=9, l1=1e-5, l2=0.0, seed=334833732)  # both classes' weights become zero at once
def test_the_default_stop_is_within_1e4_of_the_minimum(classes, n, dim, l1, l2, seed):
    rng = np.random.default_rng(seed)
    X_ND = rng.normal(size=(n, dim)) * rng.lognormal(size=dim) + rng.normal(size=dim)
    y_N = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    default, tight = fit(X_ND, y_N, [(l1, l2)], torch.float32), fit(X_ND, y_N, [(l1, l2)], **TIGHT)
    assert default.converged_G.all()
    assert default.objective_G.item() <= tight.objective_G.item() * (1 + 1e-4)
    assert tight.largest_violation_G.item() < 1e-5
    checked = violation(tight.W_GKD[0], tight.b_GK[0], X_ND, y_N, (l1, l2))
    assert checked == pytest.approx(tight.largest_violation_G.item(), abs=1e-9)


def test_it_ends_where_the_batched_search_ends(monkeypatch):
    X_ND, y_N = correlated()
    exact = fit(X_ND, y_N, CELLS, tolerance=1e-12)
    monkeypatch.setattr(elastic_net_converged, "_SMALL_PARAMETERS", 0)
    batched = fit(X_ND, y_N, CELLS, **TIGHT)
    np.testing.assert_allclose(exact.objective_G, batched.objective_G, rtol=1e-10)
    assert (exact.iterations_G < batched.iterations_G).all()


def test_a_penalty_far_below_the_loss_is_still_minimised():
    X_ND, y_N = correlated(n=300, dim=20)
    cells = [(1e-7, 0.0), (1e-7, 1e-7)]
    fits = fit(X_ND, y_N, cells, tolerance=1e-10)
    assert fits.converged_G.all()
    for g, cell in enumerate(cells):
        assert violation(fits.W_GKD[g], fits.b_GK[g], X_ND, y_N, cell) < 1e-9
