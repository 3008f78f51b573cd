"""Batched L-BFGS: many independent smooth convex problems minimised side by side, one evaluation of each a round.

Every problem has its own line search, history and end: none waits for another, and a finished one leaves the
batch, so that a problem's result is that of minimising it alone. State is float64 whatever `evaluate` computes in.

Axes: B problems, A problems still running, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ftprobe.solvers.history import History

_SUFFICIENT, _CURVATURE = 1e-4, 0.9  # strong Wolfe conditions, Nocedal and Wright 2006, section 3.1
_MAX_TRIALS = 25
_PATIENCE = 40  # steps without progress beyond the noise, after which there is none to come
_LONGEST_GROWTH = 8.0
_FEWEST_STEPS = 10  # that show a problem's pace
_WORTH = 3.0  # evaluations to come, for each that a metric costs, that make it pay


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


class Metric(Protocol):
    """A better estimate of the inverse Hessian than `scale_AP`, for problems that would take many steps without."""

    cost: float
    """Of one problem's estimate, in evaluations."""

    def build(self, x_AP: Tensor, problem_A: Tensor) -> None:
        """Estimate it at these points."""

    def times(self, v_SAP: Tensor, scale_AP: Tensor, problem_A: Tensor) -> Tensor:
        """Sets of vectors times the estimate, or times `scale_AP` where none was built."""


class Minima(NamedTuple):
    """Where each problem ended; `history` can start a search nearby. Those in `sharp_B` had a metric built."""

    x_BP: Tensor
    objective_B: Tensor
    largest_B: Tensor
    iterations_B: Tensor
    evaluations_B: Tensor
    converged_B: Tensor
    sharp_B: Tensor
    history: History

    def of(self, problems: Tensor) -> Minima:
        """Those of some problems."""
        x_BP, objective_B, largest_B, iterations_B, evaluations_B, converged_B, sharp_B = (
            c[problems] for c in self[:-1]
        )
        history = self.history[problems]
        return Minima(x_BP, objective_B, largest_B, iterations_B, evaluations_B, converged_B, sharp_B, history)


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
    steps_A: Tensor
    first_A: Tensor
    wait_A: Tensor
    sharp_A: Tensor
    history: History

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
    history: History,
    metric: Metric | None = None,
    sharp_B: Tensor | None = None,
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
    history : History
        Steps of earlier searches, or none; overwritten.
    metric : Metric, optional
        Built for a problem once the gradient's pace says that it pays, and again when it has aged.
    sharp_B : bool Tensor of shape (B,), optional
        Problems to build it for at the start.

    Returns
    -------
    Minima
    """
    ends = _unfinished(x_BP, history)
    state = _start(evaluate, x_BP, history)
    if metric is not None and sharp_B is not None:
        _sharpen(state, metric, sharp_B)
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
            if metric is not None:
                _sharpen(state, metric, _slow(state, tolerance, metric.cost))
            _aim(state, fresh, metric)
        fresh = _advance(state, evaluate, noise)


def _unfinished(x_BP: Tensor, history: History) -> Minima:
    zero_B = x_BP.new_zeros(len(x_BP))
    count_B = torch.zeros_like(zero_B, dtype=torch.int64)
    false_B = count_B > 0
    return Minima(x_BP.clone(), zero_B, zero_B.clone(), count_B, count_B.clone(), false_B, false_B.clone(), history)


def _start(evaluate: Evaluate, x_BP: Tensor, history: History) -> _State:
    problem_A = torch.arange(len(x_BP), device=x_BP.device)
    now = evaluate(x_BP, problem_A)
    none, counts = torch.zeros_like(now.f_A), torch.zeros_like(problem_A)
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
        steps_A=counts,
        first_A=now.largest_A,
        wait_A=torch.full_like(now.f_A, _FEWEST_STEPS),
        sharp_A=counts > 0,
        history=history[problem_A],
    )


def _finish(state: _State, ends: Minima, converged: Tensor, over: Tensor) -> None:
    at = state.problem_A[over]
    ends.x_BP[at] = state.x_AP[over]
    ends.objective_B[at] = state.f_A[over]
    ends.largest_B[at] = state.largest_A[over]
    ends.iterations_B[at] = state.iterations_A[over]
    ends.evaluations_B[at] = state.evaluations_A[over]
    ends.converged_B[at] = converged[over]
    ends.sharp_B[at] = state.sharp_A[over]
    ends.history[at] = state.history[over]


def _dot(a_AP: Tensor, b_AP: Tensor) -> Tensor:
    return (a_AP * b_AP).sum(1)


def _slow(state: _State, tolerance: float, cost: float) -> Tensor:
    """Problems that at their pace so far, or since their metric was built, will take longer than a metric is worth."""
    left_A = (state.largest_A / tolerance).log() * state.steps_A
    gained_A = (state.first_A / state.largest_A).log()
    return (state.steps_A >= state.wait_A) & (left_A > _WORTH * cost * gained_A)


def _sharpen(state: _State, metric: Metric, slow: Tensor) -> None:
    """Build the metric of the `slow` problems; each time the next one may only follow after twice as many steps."""
    if not bool(slow.any()):
        return
    metric.build(state.x_AP[slow], state.problem_A[slow])
    state.sharp_A = state.sharp_A | slow
    state.steps_A = torch.where(slow, 0, state.steps_A)
    state.first_A = torch.where(slow, state.largest_A, state.first_A)
    twice_A = (2 * state.wait_A).clamp_min(_WORTH * metric.cost)
    state.wait_A = torch.where(slow, twice_A, state.wait_A)


def _aim(state: _State, fresh: Tensor, metric: Metric | None) -> None:
    """Set the search direction of the `fresh` problems and open their line search: 1 to try, the slope at 0 known."""

    def times(v_SAP: Tensor) -> Tensor:
        if metric is None:
            return v_SAP * state.scale_AP
        return metric.times(v_SAP, state.scale_AP, state.problem_A)

    d_AP = -state.history.inverse_times(state.g_AP, times)
    uphill = _dot(d_AP, state.g_AP) >= 0  # by rounding, at the limit of precision
    d_AP = torch.where(uphill[:, None], -state.g_AP * state.scale_AP, d_AP)
    state.d_AP = torch.where(fresh[:, None], d_AP, state.d_AP)
    state.slope_A = torch.where(fresh, _dot(state.d_AP, state.g_AP), state.slope_A)
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
    state.history.add(x_AP - state.x_AP, trial.g_AP - state.g_AP, took)
    state.x_AP = torch.where(took[:, None], x_AP, state.x_AP)
    state.g_AP = torch.where(took[:, None], trial.g_AP, state.g_AP)
    state.scale_AP = torch.where(took[:, None], trial.scale_AP, state.scale_AP)
    state.f_A = torch.where(took, trial.f_A, state.f_A)
    state.largest_A = torch.where(took, trial.largest_A, state.largest_A)
    state.iterations_A = state.iterations_A + took
    state.steps_A = state.steps_A + took
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
