"""Newton's method with the exact Hessian for one small elastic-net softmax problem, in float64.

Mean cross-entropy of X x' + sum_e (l1_e |x_e| + l2_e x_e^2) in every class. Within one orthant it is smooth: a step
solves for the entries that are not zero or should leave it, and entries that would change sign stop at zero
(orthant-wise, as Andrew and Gao 2007, with the Hessian itself). Where that is no better, the step is cut to the best of
its lengths at which an entry becomes zero and of the halves of 1: the objective is convex along it, so one is better.
Without a step size or a model to learn, it follows valleys that are narrow and curved because nearly all items are
fitted. The loss does not see a shift of all classes by the same vector: after every step the penalty alone chooses it.

Axes: K classes, E columns (F: once more), N items, P = K E parameters, M of them free, T points side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_RIDGE = 1e-10  # of the Hessian's mean diagonal
_SUFFICIENT = 0.1  # of the decrease that a step promises
_HALVES = 40
_ROUNDING = 1e-12  # of a column's largest entry: what a shift leaves of one that becomes zero
_TOGETHER = 1e-6  # of an entry: what is left of it where another that becomes zero with it is zero


class Minimum(NamedTuple):
    """Where the search ended; `g_KE` is the gradient of the mean cross-entropy there."""

    x_KE: Tensor
    g_KE: Tensor
    objective: Tensor
    iterations: int
    converged: bool


class _Problem(NamedTuple):
    X_NE: Tensor
    y_N: Tensor
    l1_E: Tensor
    l2_E: Tensor

    def objectives(self, x_TKE: Tensor) -> Tensor:
        z_TNK = self.X_NE @ x_TKE.mT
        gold_TN = z_TNK.gather(2, self.y_N.expand(len(z_TNK), -1)[:, :, None])[:, :, 0]
        penalty_TKE = (self.l1_E + self.l2_E * x_TKE.abs()) * x_TKE.abs()
        return (z_TNK.logsumexp(2) - gold_TN).mean(1) + penalty_TKE.sum((1, 2))

    def residuals(self, x_KE: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K) and the gradient of the mean cross-entropy (K, E)."""
        p_NK = (self.X_NE @ x_KE.mT).softmax(1)
        return p_NK, (p_NK - one_hot(self.y_N, p_NK.shape[1])).mT @ self.X_NE / len(self.y_N)

    def hessian(self, p_NK: Tensor) -> Tensor:
        """Of the objective within an orthant (P, P)."""
        weighted_NKE = p_NK[:, :, None] * self.X_NE[:, None]
        weighted_NP = weighted_NKE.flatten(1)
        H_PP = weighted_NP.mT @ weighted_NP / -len(self.y_N)
        blocks_EFK = torch.einsum("nke,nf->efk", weighted_NKE, self.X_NE) / len(self.y_N)
        diagonal_EFK = H_PP.view(*weighted_NKE.shape[1:], *weighted_NKE.shape[1:]).diagonal(dim1=0, dim2=2)
        diagonal_EFK += blocks_EFK + 2 * self.l2_E.diag()[:, :, None]
        return H_PP


class _Step(NamedTuple):
    """A direction, the sign that every entry keeps, and half of the decrease to first order."""

    d_KE: Tensor
    sign_KE: Tensor
    promised: Tensor


def minimise_small(
    X_NE: Tensor,
    y_N: Tensor,
    x_KE: Tensor,
    l1_E: Tensor,
    l2_E: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    least: float,
) -> Minimum:
    """Minimise from the point `x_KE`.

    Parameters
    ----------
    X_NE : Tensor of shape (N, E), float64
    y_N : Tensor of shape (N,), int64
        Classes in [0, K).
    x_KE : Tensor of shape (K, E), float64
    l1_E, l2_E : Tensor of shape (E,), float64
        Weights of |x_e| and of x_e^2 in every class.
    tolerance : float
        The search has converged when a step promises to lower the objective by less than this share of it.
    max_iterations : int
        Steps; a search that needs more ends unconverged.
    least : float
        Objective below which the search ends unconverged, for a problem that has no minimum.
    """
    problem = _Problem(X_NE, y_N, l1_E, l2_E)
    objective = problem.objectives(x_KE[None])[0]
    iterations, converged, stuck = 0, False, False
    while not (converged or stuck or objective < least or iterations >= max_iterations):
        step = _step(problem, x_KE)
        converged = bool(step.promised < tolerance * objective)
        trial_KE = _shifted(problem, _moved(problem, x_KE, objective, step))
        trial = problem.objectives(trial_KE[None])[0]
        stuck = not bool(trial < objective)
        if not stuck:
            x_KE, objective = trial_KE, trial
        iterations += 1
    return Minimum(x_KE, problem.residuals(x_KE)[1], objective, iterations, converged)


def _step(problem: _Problem, x_KE: Tensor) -> _Step:
    """Newton's step in the orthant of the point and of the steepest descent from it."""
    p_NK, g_KE = problem.residuals(x_KE)
    slope_KE = g_KE + 2 * problem.l2_E * x_KE
    inside_KE = torch.maximum(torch.minimum(slope_KE, problem.l1_E), -problem.l1_E)
    v_KE = torch.where(x_KE == 0, slope_KE - inside_KE, slope_KE + problem.l1_E * x_KE.sign())
    sign_KE = torch.where(x_KE == 0, -v_KE.sign(), x_KE.sign())
    H_PP = problem.hessian(p_NK)
    scale = H_PP.diagonal().mean()
    H_PP.diagonal().add_(_RIDGE * scale)
    free_KE = sign_KE != 0
    shiftable_E = torch.zeros_like(free_KE[0])
    while True:
        shift_E = scale * (free_KE.all(0).double() - shiftable_E.double())
        H_PP.view(*x_KE.shape, *x_KE.shape).diagonal(dim1=1, dim2=3).add_(shift_E)
        shiftable_E = free_KE.all(0)
        at_M = free_KE.flatten().nonzero()[:, 0]
        v_M1 = v_KE.flatten()[at_M, None]
        d_KE = torch.zeros_like(x_KE)
        d_KE.view(-1)[at_M] = -torch.linalg.solve_ex(H_PP[at_M[:, None], at_M], v_M1).result[:, 0]
        wrong_KE = (x_KE == 0) & (d_KE * sign_KE < 0) & (problem.l1_E > 0)
        if not wrong_KE.any():
            return _Step(d_KE, sign_KE, -(v_KE * d_KE).sum() / 2)
        free_KE &= ~wrong_KE


def _moved(problem: _Problem, x_KE: Tensor, objective: Tensor, step: _Step) -> Tensor:
    """The point after a step."""
    leaves_KE = ((x_KE + step.d_KE) * step.sign_KE < 0) & (problem.l1_E > 0)
    whole_1KE = torch.where(leaves_KE, 0.0, x_KE + step.d_KE)[None]
    whole = problem.objectives(whole_1KE)[0]
    if whole <= objective - _SUFFICIENT * step.promised:
        return whole_1KE[0]
    zero_T = -(x_KE / step.d_KE)[leaves_KE]
    at_T = torch.cat([zero_T, 0.5 ** torch.arange(_HALVES, dtype=x_KE.dtype, device=x_KE.device)])
    x_TKE = x_KE + at_T[:, None, None] * step.d_KE
    x_TKE = torch.where(leaves_KE & (x_TKE.abs() <= _TOGETHER * x_KE.abs()), 0.0, x_TKE)
    objective_T = problem.objectives(x_TKE)
    return x_TKE[objective_T.argmin()]


def _shifted(problem: _Problem, x_KE: Tensor) -> Tensor:
    """The point of least penalty among those that differ by the same shift of all classes, which the loss does not see.

    The best shift is the median of the K entries and of the K + 1 shifts that are best for given signs (Li and Osher
    2009).
    """
    classes = len(x_KE)
    steps_K1 = classes - 2.0 * torch.arange(classes + 1, dtype=x_KE.dtype, device=x_KE.device)[:, None]
    away_K1E = (steps_K1 * problem.l1_E / (2 * classes * problem.l2_E)).nan_to_num(0.0, torch.inf, -torch.inf)
    shifted_KE = x_KE - torch.cat([x_KE, x_KE.mean(0) + away_K1E]).median(0).values
    return torch.where(shifted_KE.abs() <= _ROUNDING * x_KE.abs().amax(0), 0.0, shifted_KE)
