"""Batched L-BFGS: many independent smooth convex problems minimised side by side, one evaluation of each a round.

Every problem has its own line search, history and end: none waits for another, and a finished one leaves the
batch, so that a problem's result is that of minimising it alone. State is float64 whatever `evaluate` computes in.

Axes: B problems, A problems still running, P parameters, H remembered steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

_SUFFICIENT, _CURVATURE = 1e-4, 0.9  # strong Wolfe conditions, Nocedal and Wright 2006, section 3.1
_MAX_TRIALS = 25
_PATIENCE = 40  # steps without progress beyond the noise, after which there is none to come
_LONGEST_GROWTH = 8.0
MEMORY = 20


class Evaluation(NamedTuple):
    """What is known at one point of each problem, float64.

    `largest_A` is the size by which `minimise` judges convergence, say the largest |gradient| entry in coordinates of
    the caller's choice; `scale_AP` estimates the diagonal of the inverse Hessian, up to a factor.
    """

    f_A: Tensor
    g_AP: Tensor
    largest_A: Tensor
    scale_AP: Tensor


Evaluate = Callable[[Tensor, Tensor], Evaluation]
"""Points (A, P) and their problems (A,), in ascending order."""


class Minima(NamedTuple):
    """Where each problem ended."""

    x_BP: Tensor
    objective_B: Tensor
    largest_B: Tensor
    iterations_B: Tensor
    evaluations_B: Tensor
    converged_B: Tensor


@dataclass
class _State:
    """The running problems; every field has them as its first axis."""

    problem_A: Tensor
    x_AP: Tensor
    f_A: Tensor
    g_AP: Tensor
    largest_A: Tensor
    scale_AP: Tensor
    d_AP: Tensor
    slope_A: Tensor
    t_A: Tensor
    low_A: Tensor
    low_slope_A: Tensor
    high_A: Tensor
    high_slope_A: Tensor
    trials_A: Tensor
    iterations_A: Tensor
    evaluations_A: Tensor
    best_f_A: Tensor
    best_largest_A: Tensor
    idle_A: Tensor
    s_AHP: Tensor
    y_AHP: Tensor
    sy_AHH: Tensor
    gamma_A: Tensor
    order_AH: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop every problem that `rows` does not select."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def minimise(
    evaluate: Evaluate,
    x_BP: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    noise: float,
    memory: int = MEMORY,
) -> Minima:
    """Minimise B convex problems by L-BFGS with a line search on the slope.

    Parameters
    ----------
    evaluate : callable
        Some of the problems at given points.
    x_BP : Tensor of shape (B, P), float64
        Starting points.
    tolerance : float
        A problem has converged when `largest_A` is below this.
    max_iterations : int
        Steps of each problem; one that needs more ends unconverged, as does one whose line search finds no better
        point (the limit of `evaluate`'s precision).
    noise : float
        Relative error of the objectives: smaller changes say nothing.
    memory : int
        Steps remembered (H).

    Returns
    -------
    Minima
    """
    ends = _unfinished(x_BP)
    state = _start(evaluate, x_BP, memory)
    fresh = torch.ones_like(state.problem_A, dtype=torch.bool)
    while True:
        converged = state.largest_A < tolerance
        stalled = (state.trials_A >= _MAX_TRIALS) | (state.idle_A >= _PATIENCE)
        running = ~(converged | stalled | (state.iterations_A >= max_iterations))
        if not bool(running.all()):
            _finish(state, ends, converged, ~running)
            state.keep(running)
            fresh = fresh[running]
        if not len(state.problem_A):
            return ends
        if bool(fresh.any()):
            _aim(state, fresh)
        fresh = _advance(state, evaluate, noise)


def _unfinished(x_BP: Tensor) -> Minima:
    zero_B = x_BP.new_zeros(len(x_BP))
    count_B = torch.zeros_like(zero_B, dtype=torch.int64)
    return Minima(x_BP.clone(), zero_B, zero_B.clone(), count_B, count_B.clone(), count_B > 0)


def _start(evaluate: Evaluate, x_BP: Tensor, memory: int) -> _State:
    n, width = x_BP.shape
    problem_A = torch.arange(n, device=x_BP.device)
    now = evaluate(x_BP, problem_A)
    none, history = x_BP.new_zeros(n), x_BP.new_zeros(n, memory, width)
    counts = torch.zeros(n, dtype=torch.int64, device=x_BP.device)
    return _State(
        problem_A=problem_A,
        x_AP=x_BP,
        **now._asdict(),
        d_AP=torch.zeros_like(x_BP),
        slope_A=none,
        t_A=none,
        low_A=none,
        low_slope_A=none,
        high_A=none,
        high_slope_A=none,
        trials_A=counts,
        iterations_A=counts,
        evaluations_A=counts + 1,
        best_f_A=now.f_A,
        best_largest_A=now.largest_A,
        idle_A=counts,
        s_AHP=history,
        y_AHP=history.clone(),
        sy_AHH=torch.eye(memory, dtype=x_BP.dtype, device=x_BP.device).repeat(n, 1, 1),
        gamma_A=none + 1,
        order_AH=torch.arange(memory, device=x_BP.device).repeat(n, 1),
    )


def _finish(state: _State, ends: Minima, converged: Tensor, over: Tensor) -> None:
    at = state.problem_A[over]
    ends.x_BP[at] = state.x_AP[over]
    ends.objective_B[at] = state.f_A[over]
    ends.largest_B[at] = state.largest_A[over]
    ends.iterations_B[at] = state.iterations_A[over]
    ends.evaluations_B[at] = state.evaluations_A[over]
    ends.converged_B[at] = converged[over]


def _dot(a_AP: Tensor, b_AP: Tensor) -> Tensor:
    return (a_AP * b_AP).sum(1)


def _onto(history_AHP: Tensor, v_AP: Tensor) -> Tensor:
    """Products of a vector with the remembered ones (A, H, 1).

    One at a time on a CPU, where a batched product sums in an order that depends on the size of the batch.
    """
    if history_AHP.is_cuda:
        return torch.bmm(history_AHP, v_AP[:, :, None])
    return torch.stack([torch.mv(history_HP, v_P) for history_HP, v_P in zip(history_AHP, v_AP, strict=True)])[
        ..., None
    ]


def _combined(weight_AH1: Tensor, history_AHP: Tensor) -> Tensor:
    """Sums of the remembered vectors (A, P); as `_onto`."""
    if history_AHP.is_cuda:
        return torch.bmm(weight_AH1.mT, history_AHP)[:, 0]
    pairs = zip(weight_AH1[..., 0], history_AHP, strict=True)
    return torch.stack([torch.mv(history_HP.mT, weight_H) for weight_H, history_HP in pairs])


def _aim(state: _State, fresh: Tensor) -> None:
    """Set the search direction of the `fresh` problems: -H g by the two loops of L-BFGS.

    Both loops are triangular systems in the products s_i'y_j (i not newer than j), so that a step of all problems
    is four products with the history (Byrd, Nocedal and Schnabel 1994, section 2).
    """
    order = state.order_AH
    rows = torch.arange(len(order), device=order.device)[:, None, None]
    R_AHH = torch.triu(state.sy_AHH[rows, order[:, :, None], order[:, None, :]])
    old_to_new, back = order[:, :, None], torch.argsort(order, dim=1)[:, :, None]
    p_AH1 = _onto(state.s_AHP, state.g_AP).gather(1, old_to_new)
    alpha_AH1 = torch.linalg.solve_triangular(R_AHH, p_AH1, upper=True)
    q_AP = state.g_AP - _combined(alpha_AH1.gather(1, back), state.y_AHP)
    r_AP = q_AP * state.scale_AP * state.gamma_A[:, None]
    yr_AH1 = _onto(state.y_AHP, r_AP).gather(1, old_to_new)
    diagonal_AH1 = R_AHH.diagonal(dim1=1, dim2=2)[:, :, None]
    delta_AH1 = torch.linalg.solve_triangular(R_AHH.mT, diagonal_AH1 * alpha_AH1 - yr_AH1, upper=False)
    d_AP = -(r_AP + _combined(delta_AH1.gather(1, back), state.s_AHP))
    state.d_AP = torch.where(fresh[:, None], d_AP, state.d_AP)
    state.slope_A = torch.where(fresh, _dot(state.d_AP, state.g_AP), state.slope_A)
    _open(state, fresh)


def _open(state: _State, fresh: Tensor) -> None:
    """Begin the line search of the `fresh` problems: nothing known but the slope at 0, and 1 to try."""
    zero = torch.zeros_like(state.t_A)
    state.t_A = torch.where(fresh, 1.0, state.t_A)
    state.low_A = torch.where(fresh, zero, state.low_A)
    state.low_slope_A = torch.where(fresh, state.slope_A, state.low_slope_A)
    state.high_A = torch.where(fresh, torch.inf, state.high_A)
    state.high_slope_A = torch.where(fresh, zero, state.high_slope_A)
    state.trials_A = torch.where(fresh, 0, state.trials_A)


def _advance(state: _State, evaluate: Evaluate, noise: float) -> Tensor:
    """Try a step of every problem; the mask of those that took it. The others get another step length."""
    x_AP = state.x_AP + state.t_A[:, None] * state.d_AP
    trial = evaluate(x_AP, state.problem_A)
    slope_A = _dot(trial.g_AP, state.d_AP)
    state.evaluations_A = state.evaluations_A + 1
    state.trials_A = state.trials_A + 1
    allowed_A = state.f_A + _SUFFICIENT * state.t_A * state.slope_A + noise * state.f_A.abs()
    flat = slope_A.abs() <= -_CURVATURE * state.slope_A
    took = flat & (trial.f_A <= allowed_A)
    _bracket(state, slope_A, trial.f_A)
    _remember(state, x_AP, trial, took)
    state.x_AP = torch.where(took[:, None], x_AP, state.x_AP)
    state.g_AP = torch.where(took[:, None], trial.g_AP, state.g_AP)
    state.scale_AP = torch.where(took[:, None], trial.scale_AP, state.scale_AP)
    state.f_A = torch.where(took, trial.f_A, state.f_A)
    state.largest_A = torch.where(took, trial.largest_A, state.largest_A)
    state.iterations_A = state.iterations_A + took
    state.trials_A = torch.where(took, 0, state.trials_A)
    _watch(state, took, noise)
    return took


def _watch(state: _State, took: Tensor, noise: float) -> None:
    """Count the steps since the objective or the gradient last came down by more than rounding."""
    lower = state.f_A < state.best_f_A - noise * state.best_f_A.abs()
    better = took & (lower | (state.largest_A < 0.9 * state.best_largest_A))
    state.best_f_A = torch.where(better, state.f_A, state.best_f_A)
    state.best_largest_A = torch.where(
        better, torch.minimum(state.largest_A, state.best_largest_A), state.best_largest_A
    )
    state.idle_A = torch.where(better, 0, state.idle_A + took)


def _bracket(state: _State, slope_A: Tensor, f_A: Tensor) -> None:
    """Next step lengths. On a convex problem the sign of the slope says on which side the minimum lies."""
    short = (slope_A < 0) & torch.isfinite(f_A)
    usable = torch.isfinite(slope_A) & torch.isfinite(f_A)
    state.low_A = torch.where(short, state.t_A, state.low_A)
    state.low_slope_A = torch.where(short, slope_A, state.low_slope_A)
    state.high_A = torch.where(short, state.high_A, state.t_A)
    state.high_slope_A = torch.where(short, state.high_slope_A, torch.where(usable, slope_A, torch.inf))
    width = state.high_A - state.low_A
    share = -state.low_slope_A / (state.high_slope_A - state.low_slope_A)  # 0 after an unusable trial
    inside = state.low_A + width * share.clamp(0.1, 0.9)
    rise = (slope_A - state.slope_A) / state.t_A
    beyond = torch.clamp(-state.slope_A / rise, 2 * state.t_A, _LONGEST_GROWTH * state.t_A)
    beyond = torch.where(rise > 0, beyond, _LONGEST_GROWTH * state.t_A)
    state.t_A = torch.where(torch.isinf(state.high_A), beyond, inside)


def _remember(state: _State, x_AP: Tensor, trial: Evaluation, took: Tensor) -> None:
    """Put the step just taken in the place of the oldest one."""
    s_AP, y_AP = x_AP - state.x_AP, trial.g_AP - state.g_AP
    sy_A, yy_A = _dot(s_AP, y_AP), _dot(y_AP, y_AP)
    rows = torch.nonzero(took & (sy_A > 1e-12 * (yy_A * _dot(s_AP, s_AP)).sqrt()))[:, 0]
    slot = state.order_AH[rows, 0]
    state.s_AHP[rows, slot] = s_AP[rows]
    state.y_AHP[rows, slot] = y_AP[rows]
    state.sy_AHH[rows, slot] = 0.0
    state.sy_AHH[rows, :, slot] = _onto(state.s_AHP, y_AP)[rows, :, 0]
    state.gamma_A[rows] = sy_A[rows] / _dot(y_AP, y_AP * trial.scale_AP)[rows]
    state.order_AH[rows] = state.order_AH[rows].roll(-1, dims=1)
