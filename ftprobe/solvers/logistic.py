"""L2-regularised multinomial logistic regression: every layer and strength of one task.

A layer's strengths form a path: below a = 1e-2 each cell starts from the minimum and the remembered steps of the power
of ten above it, which is fitted first if it was not asked for, so that a cell's numbers depend on its own strength
alone. With two classes a cell takes about ten evaluations anyhow: then all start from zero and share every product. A
search that its first steps show to be slow goes on in the metric of `ftprobe.solvers.curvature`.

Axes: L layers, G strengths, N items, D features, K classes, B cells of a stage (layer by layer), P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.cross_entropy import CrossEntropy
from ftprobe.solvers.curvature import Blocks
from ftprobe.solvers.history import History
from ftprobe.solvers.lbfgs import Minima, minimise

MEMORY = 50
_CACHE_BYTES = 1 << 22  # layers of a CPU's group: more would leave its cache between two steps
_FIRST_RUNG = 2  # the path begins at 10^-2
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-14}


class LogisticFits(NamedTuple):
    """Fitted cells; `largest_grad_LG` is the largest |dJ/dW| or |dJ/db| entry at the end."""

    W_LGKD: Tensor
    b_LGK: Tensor
    objective_LG: Tensor
    largest_grad_LG: Tensor
    iterations_LG: Tensor
    evaluations_LG: Tensor
    converged_LG: Tensor


class _Cells(NamedTuple):
    """The cells that start together."""

    layer_B: Tensor
    a_B: Tensor


def bytes_per_layer(dim: int, n_classes: int, n_strengths: int) -> int:
    """Working memory of `fit_logistic` for each layer of `dim` float32 features, beside the features themselves."""
    rows = n_classes if n_classes > 2 else 1
    width = rows * (dim + 1)
    blocks = 4 * width * (dim + 1) * (3 if rows > 1 else n_strengths + 1)
    history = 3 * 2 * MEMORY * 4 * width * (1 if n_classes > 2 else n_strengths)
    return blocks + history + 8 * (n_strengths * 12 * width + 5 * dim * dim)


def fit_logistic(
    X_LND: Sequence[Tensor],
    y_N: Tensor,
    n_classes: int,
    strengths: Sequence[float],
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> LogisticFits:
    """Fit every (layer, strength) cell to its unique minimum.

    Parameters
    ----------
    X_LND : sequence of L tensors of shape (N, D)
        Features, float32 or float64, on one device. Centred columns converge in fewer iterations.
    y_N : Tensor of shape (N,), int64
        Classes in [0, n_classes); at least two of them occur.
    n_classes : int
        K >= 2.
    strengths : sequence of float
        a > 0 of each cell.
    tolerance : float
        A cell has converged when no entry of its gradient exceeds this in size.
    max_iterations : int
        Steps of a cell, those of the cells before it on the path not counted.

    Returns
    -------
    LogisticFits
        float64 tensors on the device of the features; cells that did not converge are kept and marked.
    """
    at_once = len(X_LND)
    if not y_N.is_cuda:
        at_once = max(1, _CACHE_BYTES // (X_LND[0].numel() * X_LND[0].element_size()))
    groups = [
        _path(CrossEntropy(X_LND[first : first + at_once], y_N, n_classes), strengths, tolerance, max_iterations)
        for first in range(0, len(X_LND), at_once)
    ]
    return LogisticFits(*(torch.cat(column) for column in zip(*groups, strict=True)))


def _path(problem: CrossEntropy, strengths: Sequence[float], tolerance: float, max_iterations: int) -> LogisticFits:
    """Every strength of some layers, those of a stage side by side."""
    n_layers, device = len(problem.X_LND), problem.y_N.device
    layer_L = torch.arange(n_layers, device=device)
    x_LP = torch.zeros(n_layers, problem.width, dtype=torch.float64, device=device)
    sharp_L = torch.zeros_like(layer_L, dtype=torch.bool)
    history, a_before = History.empty(x_LP, MEMORY, problem.dtype), 0.0
    minima: dict[float, Minima] = {}
    for stage in _stages(strengths, chained=problem.rows > 1):
        a_B = torch.tensor(stage, dtype=torch.float64, device=device).repeat(n_layers)
        cells = _Cells(layer_L.repeat_interleave(len(stage)), a_B)
        start = history[cells.layer_B].shifted(problem.penalty(a_B - a_before))
        sharp_B = sharp_L[cells.layer_B]
        ends = _solve(problem, cells, x_LP[cells.layer_B], start, sharp_B, tolerance, max_iterations)
        for place, a in enumerate(stage):
            minima[a] = ends.of(layer_L * len(stage) + place)
        a_before, last = stage[-1], minima[stage[-1]]
        x_LP, sharp_L, history = last.x_BP, last.sharp_B, last.history
    return _stacked(problem, [minima[a] for a in strengths], layer_L)


def _stages(strengths: Sequence[float], *, chained: bool) -> list[tuple[float, ...]]:
    """Strengths that start together, stage by stage; the next stage starts from the last of each.

    >>> _stages([1e-4, 0.5, 3e-3], chained=True)
    [(0.5, 0.01), (0.003, 0.001), (0.0001,)]
    """
    left = sorted(set(strengths), reverse=True)
    if not chained:
        return [tuple(left)]
    stages, power = [], _FIRST_RUNG
    while left:
        rung = float(f"1e-{power}")
        stage = [a for a in left if a > rung]
        left = [a for a in left if a < rung]
        if left or rung in strengths:
            stage.append(rung)
        if stage:
            stages.append(tuple(stage))
        power += 1
    return stages


def _solve(
    problem: CrossEntropy,
    cells: _Cells,
    x_BP: Tensor,
    history: History,
    sharp_B: Tensor,
    tolerance: float,
    max_iterations: int,
) -> Minima:
    """Minimise in the precision of the data, then in float64 what that leaves above the tolerance."""

    def search(x_AP: Tensor, rows: Tensor, history: History, sharp_A: Tensor, steps: int, dtype: torch.dtype) -> Minima:
        layer_A, a_A = cells.layer_B[rows], cells.a_B[rows]
        return minimise(
            lambda x_AP, at: problem.evaluate(x_AP, layer_A[at], a_A[at], dtype),
            x_AP,
            tolerance=tolerance,
            max_iterations=steps,
            noise=_NOISE[dtype],
            history=history,
            metric=Blocks(problem, layer_A, a_A),
            sharp_B=sharp_A,
        )

    every = torch.arange(len(x_BP), device=x_BP.device)
    ends = search(x_BP, every, history, sharp_B, max_iterations, problem.dtype)
    stuck = torch.nonzero(~ends.converged_B & (ends.iterations_B < max_iterations))[:, 0]
    if problem.dtype == torch.float64 or not len(stuck):
        return ends
    left = max_iterations - int(ends.iterations_B[stuck].min())
    blank = History.empty(x_BP[stuck], MEMORY, torch.float64)
    finer = search(ends.x_BP[stuck], stuck, blank, ends.sharp_B[stuck], left, torch.float64)
    ends.iterations_B[stuck] += finer.iterations_B
    ends.evaluations_B[stuck] += finer.evaluations_B
    ends.x_BP[stuck], ends.converged_B[stuck] = finer.x_BP, finer.converged_B
    ends.objective_B[stuck], ends.largest_B[stuck] = finer.objective_B, finer.largest_B
    return ends


def _stacked(problem: CrossEntropy, minima: Sequence[Minima], layer_L: Tensor) -> LogisticFits:
    weights = [problem.weights(ends.x_BP, layer_L) for ends in minima]
    columns = zip(*(ends[1:6] for ends in minima), strict=True)
    return LogisticFits(
        torch.stack([W_LKD for W_LKD, _ in weights], 1),
        torch.stack([b_LK for _, b_LK in weights], 1),
        *(torch.stack(column, 1) for column in columns),
    )
