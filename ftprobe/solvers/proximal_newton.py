"""Batched proximal quasi-Newton: f(x) + sum_e (l1_e |x_e| + l2_e x_e^2) minimised for many problems side by side.

Each round models f about the best point by a quadratic, minimises the model with the penalty, evaluates f there. The
model's Hessian is a multiple of a metric, corrected by the latest steps as in BFGS (compact form, Byrd, Nocedal and
Schnabel 1994, theorem 2.3). The metric is diagonal in a basis that all problems share, so that a step of ADMM on the
model (Boyd et al. 2011, section 6.4) costs two changes of basis; a few of them suffice. A point that is no better
stiffens the model and teaches it the curvature it lacked: there is no line search.

A problem's numbers do not depend on the problems beside it, on a CPU to the last bit in float32.

Axes: B problems, A problems still running, K blocks of E parameters each (P = K E), H remembered steps, M = 2 H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.products import product, stacked

MEMORY = 8  # with it, vectors of M numbers fill cache lines: see LINE
LINE = 16  # numbers of a cache line: E is a multiple, so that a problem's place does not change how it is summed
_SWEEPS, _RELAXATION = 8, 1.6  # of ADMM; 1.6 as Boyd et al. 2011, section 3.4.3
_SHARE = 0.25  # of ADMM's penalty in a metric of mean 1: between its smallest and largest eigenvalue
_SOFTEST = 4.0  # the metric's factor relative to the curvature along the last step
_STIFFER, _SOFTER = 2.0, 0.7
_SUFFICIENT = 1e-4
_MAX_FAILURES = 25
_PATIENCE = 3  # steps in a row of little change that end a search
_LEAST_WEIGHT = 1e-12


class Basis(NamedTuple):
    """Orthonormal columns Q (None: the identity), in which every block's metric is its weight times `scale_E`."""

    Q_EE: Tensor | None
    scale_E: Tensor


class Evaluation(NamedTuple):
    """f (float64) and its gradient at one point of each problem, and the weight of the metric in each block."""

    f_A: Tensor
    g_AKE: Tensor
    weight_AK: Tensor


Evaluate = Callable[[Tensor], Evaluation]


class Minima(NamedTuple):
    """Where each problem ended; `g_BKE` is the gradient of f there."""

    x_BKE: Tensor
    g_BKE: Tensor
    objective_B: Tensor
    iterations_B: Tensor
    converged_B: Tensor


@dataclass
class _State:
    """The running problems; every field has them as its first axis. Remembered steps are in the basis."""

    problem_A: Tensor
    x_AKE: Tensor
    g_AKE: Tensor
    weight_AK: Tensor
    objective_A: Tensor
    l1_AE: Tensor
    l2_AE: Tensor
    least_A: Tensor
    s_AHP: Tensor
    y_AHP: Tensor
    stiffness_A: Tensor
    idle_A: Tensor
    failures_A: Tensor
    iterations_A: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop every problem that `rows` does not select."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def minimise(
    evaluate: Evaluate,
    x_BKE: Tensor,
    l1_BE: Tensor,
    l2_BE: Tensor,
    basis: Basis,
    *,
    tolerance: float,
    max_iterations: int,
    noise: float,
    least_B: Tensor,
) -> Minima:
    """Minimise B convex problems.

    Parameters
    ----------
    evaluate : callable
        f of as many problems as it is given points (A, K, E).
    x_BKE : Tensor of shape (B, K, E)
        Starting points, in the precision of the search.
    l1_BE, l2_BE : Tensor of shape (B, E)
        Weights of |x_e| and of x_e^2 in every block.
    basis : Basis
    tolerance : float
        A problem has converged when three rounds in a row each lower its objective by less than this share of it.
    max_iterations : int
        Rounds of each problem; one that needs more ends unconverged.
    noise : float
        Relative error of the objectives: smaller changes say nothing.
    least_B : Tensor of shape (B,), float64
        Objective below which a problem ends unconverged, for one that has no minimum.

    Returns
    -------
    Minima
    """
    state = _start(evaluate, x_BKE, l1_BE, l2_BE, least_B)
    ends = _unfinished(state)
    rounds = 0
    while True:
        converged = state.idle_A >= _PATIENCE
        stuck = (state.failures_A >= _MAX_FAILURES) | (state.objective_A < state.least_A)
        over = converged | stuck | (state.iterations_A >= max_iterations)
        if bool(over.any()):
            _finish(state, ends, converged, over)
            state.keep(~over)
        if not len(state.problem_A):
            return ends
        _advance(state, evaluate, basis, rounds, tolerance, noise)
        rounds += 1


def _start(evaluate: Evaluate, x_BKE: Tensor, l1_BE: Tensor, l2_BE: Tensor, least_B: Tensor) -> _State:
    now = evaluate(x_BKE)
    none_BHP = x_BKE.new_zeros(len(x_BKE), MEMORY, x_BKE[0].numel())
    count_B = torch.zeros(len(x_BKE), dtype=torch.int64, device=x_BKE.device)
    return _State(
        problem_A=torch.arange(len(x_BKE), device=x_BKE.device),
        x_AKE=x_BKE,
        g_AKE=now.g_AKE,
        weight_AK=now.weight_AK,
        objective_A=now.f_A + _penalty(x_BKE, l1_BE, l2_BE),
        l1_AE=l1_BE,
        l2_AE=l2_BE,
        least_A=least_B,
        s_AHP=none_BHP,
        y_AHP=none_BHP.clone(),
        stiffness_A=torch.full_like(now.f_A, _SOFTEST),
        idle_A=count_B,
        failures_A=count_B,
        iterations_A=count_B,
    )


def _unfinished(state: _State) -> Minima:
    count_B = torch.zeros_like(state.iterations_A)
    x_BKE, g_BKE = torch.zeros_like(state.x_AKE), torch.zeros_like(state.x_AKE)
    return Minima(x_BKE, g_BKE, torch.zeros_like(state.objective_A), count_B, count_B > 0)


def _finish(state: _State, ends: Minima, converged: Tensor, over: Tensor) -> None:
    at = state.problem_A[over]
    ends.x_BKE[at] = state.x_AKE[over]
    ends.g_BKE[at] = state.g_AKE[over]
    ends.objective_B[at] = state.objective_A[over]
    ends.iterations_B[at] = state.iterations_A[over]
    ends.converged_B[at] = converged[over]


def _advance(state: _State, evaluate: Evaluate, basis: Basis, rounds: int, tolerance: float, noise: float) -> None:
    """Evaluate the minimiser of every problem's model, and move there if it is better."""
    x_AKE = _model(state, basis, rounds).minimiser(state)
    trial = evaluate(x_AKE)
    penalty_A = _penalty(x_AKE, state.l1_AE, state.l2_AE)
    s_AKE, y_AKE = x_AKE - state.x_AKE, trial.g_AKE - state.g_AKE
    objective_A = trial.f_A + penalty_A
    before_A = _penalty(state.x_AKE, state.l1_AE, state.l2_AE)
    promised_A = (before_A - penalty_A - _dot(state.g_AKE, s_AKE).double()).clamp_min(0)  # to first order
    size_A = state.objective_A.abs()
    took = objective_A <= state.objective_A - _SUFFICIENT * promised_A + noise * size_A
    _remember(state, s_AKE, y_AKE, basis, rounds)
    little = torch.where(took, state.objective_A - objective_A, promised_A) < tolerance * size_A
    state.idle_A = torch.where(little, state.idle_A + 1, torch.where(took, 0, state.idle_A))
    state.failures_A = torch.where(took, 0, state.failures_A + 1)
    softer_A = (state.stiffness_A * _SOFTER).clamp_min(_SOFTEST)
    stiffer_A = state.stiffness_A * torch.where(state.failures_A > 1, _STIFFER**2, _STIFFER)
    state.stiffness_A = torch.where(took, softer_A, stiffer_A)
    state.iterations_A = state.iterations_A + 1
    state.x_AKE = torch.where(took[:, None, None], x_AKE, state.x_AKE)
    state.g_AKE = torch.where(took[:, None, None], trial.g_AKE, state.g_AKE)
    state.weight_AK = torch.where(took[:, None], trial.weight_AK, state.weight_AK)
    state.objective_A = torch.where(took, objective_A, state.objective_A)


def _penalty(x_AKE: Tensor, l1_AE: Tensor, l2_AE: Tensor) -> Tensor:
    terms_AKE = (l1_AE[:, None] + l2_AE[:, None] * x_AKE.abs()) * x_AKE.abs()
    return terms_AKE.flatten(1).sum(1, dtype=torch.float64)


def _dot(a_AKE: Tensor, b_AKE: Tensor) -> Tensor:
    return (a_AKE * b_AKE).flatten(1).sum(1)


def _remember(state: _State, s_AKE: Tensor, y_AKE: Tensor, basis: Basis, rounds: int) -> None:
    """Put a step of unit length in the place of the oldest; one without curvature leaves that place empty."""
    sy_A, ss_A, yy_A = _dot(s_AKE, y_AKE), _dot(s_AKE, s_AKE), _dot(y_AKE, y_AKE)
    curved = sy_A > 1e-7 * (ss_A.sqrt() * yy_A.sqrt())
    factor_A11 = torch.where(curved, 1 / ss_A.sqrt(), 0.0)[:, None, None]
    slot = rounds % MEMORY
    pair_2AKE = torch.stack([s_AKE, y_AKE]).nan_to_num() * factor_A11.nan_to_num()
    s_AP, y_AP = _changed(pair_2AKE.flatten(0, 1), basis.Q_EE, back=False).flatten(1).chunk(2)
    state.s_AHP[:, slot], state.y_AHP[:, slot] = s_AP, y_AP


def _changed(a_AKE: Tensor, Q_EE: Tensor | None, *, back: bool) -> Tensor:
    """Rows in the basis, or back from it."""
    if Q_EE is None:
        return a_AKE
    out_RE = product(stacked(a_AKE, a_AKE.dtype), Q_EE if back else Q_EE.mT)
    return out_RE[: a_AKE.shape[0] * a_AKE.shape[1]].view_as(a_AKE)


class _Model(NamedTuple):
    """The inverse of the model's Hessian plus ADMM's `rho_AK1`: `inverse_AP` + W' core W, in the basis."""

    basis: Basis
    rho_AK1: Tensor
    inverse_AP: Tensor
    W_AMP: Tensor
    core_AMM: Tensor

    def minimiser(self, state: _State) -> Tensor:
        """Where model plus penalty are least, nearly: sweeps of over-relaxed ADMM from the current point (A, K, E)."""
        x_AKE, Q_EE = state.x_AKE, self.basis.Q_EE
        l1_A1E, twice_l2_A1E = state.l1_AE[:, None], 2 * state.l2_AE[:, None]
        threshold_AKE, shrink_AKE = l1_A1E / self.rho_AK1, 1 / (1 + twice_l2_A1E / self.rho_AK1)
        pull_AKE = self.rho_AK1 * x_AKE + state.g_AKE
        at_zero_AKE = torch.clamp(-state.g_AKE, -l1_A1E, l1_A1E)
        z_AKE = x_AKE
        u_AKE = torch.where(z_AKE == 0, at_zero_AKE, l1_A1E * z_AKE.sign() + twice_l2_A1E * z_AKE) / self.rho_AK1
        for _ in range(_SWEEPS):
            r_AP = _changed(self.rho_AK1 * (z_AKE - u_AKE) - pull_AKE, Q_EE, back=False).flatten(1)
            d_AP = r_AP * self.inverse_AP + _combined(self._small(_onto(self.W_AMP, r_AP)), self.W_AMP)
            target_AKE = x_AKE + _changed(d_AP.view_as(x_AKE), Q_EE, back=True)
            v_AKE = (target_AKE - z_AKE) * _RELAXATION + z_AKE + u_AKE
            z_AKE = (v_AKE - torch.clamp(v_AKE, -threshold_AKE, threshold_AKE)) * shrink_AKE
            u_AKE = v_AKE - z_AKE
        return z_AKE

    def _small(self, onto_AM: Tensor) -> Tensor:
        return (self.core_AMM * onto_AM[:, None]).sum(2)


def _model(state: _State, basis: Basis, rounds: int) -> _Model:
    """B = B0 - U' N^-1 U with U = [S B0, Y], then (B + rho)^-1 by Woodbury's identity."""
    s_AHP, y_AHP = state.s_AHP, state.y_AHP
    age_H = torch.tensor([(slot - rounds) % MEMORY for slot in range(MEMORY)], device=s_AHP.device)
    sy_AHH = _products(s_AHP, y_AHP)
    metric_AKE = _metric(state, basis, sy_AHH, (rounds - 1) % MEMORY)
    rho_AK1 = metric_AKE.mean(2, keepdim=True) * _SHARE
    inverse_AP = 1 / (metric_AKE + rho_AK1).flatten(1)
    sB_AHP = s_AHP * metric_AKE.flatten(1)[:, None]
    curvature_AH = sy_AHH.diagonal(dim1=1, dim2=2)
    blank_AHH = torch.diag_embed((curvature_AH <= 0).double())  # an empty place: any invertible entry will do
    newer_AHH = sy_AHH * (age_H[:, None] > age_H)
    top_AHM = torch.cat([_products(sB_AHP, s_AHP) + blank_AHH, newer_AHH], 2)
    bottom_AHM = torch.cat([newer_AHH.mT, -torch.diag_embed(curvature_AH) - blank_AHH], 2)
    U_AMP = torch.cat([sB_AHP, y_AHP], 1)
    W_AMP = U_AMP * inverse_AP[:, None]
    core_AMM = torch.linalg.inv_ex(torch.cat([top_AHM, bottom_AHM], 1) - _products(U_AMP, W_AMP)).inverse
    return _Model(basis, rho_AK1, inverse_AP, W_AMP, core_AMM.to(s_AHP.dtype))


def _metric(state: _State, basis: Basis, sy_AHH: Tensor, newest: int) -> Tensor:
    """B0 (A, K, E): block weights, drawn to their mean, times a factor that fits the newest step."""
    weight_AK = state.weight_AK.clamp_min(_LEAST_WEIGHT)
    weight_AK = (weight_AK * weight_AK.mean(1, keepdim=True)).sqrt().to(state.s_AHP.dtype)
    metric_AKE = weight_AK[:, :, None] * basis.scale_E
    s_AKE = state.s_AHP[:, newest].view_as(metric_AKE)
    curvature_A, expected_A = sy_AHH[:, newest, newest], _dot(s_AKE * s_AKE, metric_AKE).double()
    fit_A = torch.where(curvature_A > 0, curvature_A / expected_A, 1 / _SOFTEST)
    return metric_AKE * (state.stiffness_A * fit_A).to(metric_AKE.dtype)[:, None, None]


def _products(a_AHP: Tensor, b_AMP: Tensor) -> Tensor:
    """A B' of each problem, float64. One at a time on a CPU: a batched product sums differently in another batch."""
    if a_AHP.is_cuda:
        return torch.bmm(a_AHP, b_AMP.mT).double()
    return torch.stack([a_HP @ b_MP.mT for a_HP, b_MP in zip(a_AHP, b_AMP, strict=True)]).double()


def _onto(W_AMP: Tensor, r_AP: Tensor) -> Tensor:
    """W r of each problem (A, M); as `_products`."""
    if W_AMP.is_cuda:
        return torch.bmm(W_AMP, r_AP[:, :, None])[:, :, 0]
    return torch.stack([torch.mv(W_MP, r_P) for W_MP, r_P in zip(W_AMP, r_AP, strict=True)])


def _combined(weight_AM: Tensor, W_AMP: Tensor) -> Tensor:
    """W' times a vector of each problem (A, P); as `_products`."""
    if W_AMP.is_cuda:
        return torch.bmm(weight_AM[:, None], W_AMP)[:, 0]
    return torch.stack([torch.mv(W_MP.mT, weight_M) for weight_M, W_MP in zip(weight_AM, W_AMP, strict=True)])
