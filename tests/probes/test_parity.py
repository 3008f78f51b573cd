"""The default stop against scikit-learn's optimum, where it is hardest: separable data, hardly regularised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ftprobe.probes.linear import LinearOptions
from ftprobe.solvers.logistic import fit_logistic

N, N_TEST, D, K = 600, 3000, 128, 6


@pytest.mark.parametrize("strength", LinearOptions().strength)
def test_objective_within_1e_4_and_accuracy_within_2e_3(strength: float) -> None:
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(D, D)) * np.geomspace(1, 0.2, D)
    X = (rng.normal(size=(N + N_TEST, D)) @ mix).astype(np.float32)
    X /= X[:N].std(0)
    y = (X @ rng.normal(size=(D, K)) + rng.gumbel(size=(N + N_TEST, K)) / 4).argmax(1)
    options = LinearOptions()
    fits = fit_logistic(
        [torch.from_numpy(X[:N])],
        torch.from_numpy(y[:N]),
        K,
        options.strength,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )
    g = options.strength.index(strength)
    assert fits.converged_LG[0, g]
    exact = LogisticRegression(C=1 / (N * strength), tol=1e-9, max_iter=50_000).fit(X[:N].astype(np.float64), y[:N])

    def judged(W: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        z = X.astype(np.float64) @ W.T + b
        loss = (np.logaddexp.reduce(z[:N], axis=1) - z[np.arange(N), y[:N]]).mean() + strength / 2 * (W**2).sum()
        return float(loss), float((z[N:].argmax(1) == y[N:]).mean())

    ours = judged(fits.W_LGKD[0, g].double().numpy(), fits.b_LGK[0, g].double().numpy())
    theirs = judged(exact.coef_, exact.intercept_)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert ours[1] == pytest.approx(theirs[1], abs=2e-3)
