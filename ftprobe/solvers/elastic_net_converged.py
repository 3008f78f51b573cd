"""Elastic-net softmax regression to convergence: every (l1, l2) cell of one task.

J = -(1/N) sum_i log softmax(W x_i + b)[y_i] + l1 sum|W| + l2 ||W||_F^2 with b free (METHODS 3.2): the full softmax also
for two classes, which there is the binary model whose one vector w = W_1 - W_0 carries l1 and l2 / 2.

A small problem is left to `ftprobe.solvers.orthant_newton`, cell by cell. Otherwise cells
share the features in one product W_1..W_A times X', and are minimised by `ftprobe.solvers.proximal_newton`, which
takes far fewer rounds than accelerated proximal gradient (FISTA). A cell starts from the minimum of a neighbour whose
penalty is stronger (`_before`), fitted first if it was not asked for, so that its numbers depend on its own penalties
alone. In the search, columns are centred and scaled; the penalties stay those of the columns as given.

Axes: G cells, A cells at hand, N items, D features, K classes, n items of a chunk, R stacked score rows; E columns of
the search: features, the bias at the features' mean, zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.orthant_newton import minimise_small
from ftprobe.solvers.products import product, stacked
from ftprobe.solvers.proximal_newton import LINE, Basis, Evaluation, Minima, minimise

_CHUNK_SCORES = 1 << 15  # of one cell: they stay in the cache between the products
_CUDA_SCORES = 1 << 28  # of all cells
_ROWS_AT_ONCE = {"cpu": 512, "cuda": 8192}
_MOMENT_CHUNK = 1 << 16  # items
_MOMENT_ROWS = 8  # rows per feature that estimate the correlations well enough
_LARGEST_BASIS = 2048  # features; with more, their eigenvectors would cost more than they save
_LEAST_SPREAD = 1e-3  # of |mean|: a column that varies less is taken for a constant
_LEAST_SHARE = 1e-9  # of items, of a class that does not occur
_DECADES = 2  # of l2, from l1 down, that are fitted on the way to a smaller l2
_SMALL_PARAMETERS, _SMALL_PRODUCT = 128, 1 << 17  # parameters, and times items, up to which exact Hessians cost less
_NOISE = {torch.float32: 1e-8, torch.float64: 1e-14}

Cell = tuple[float, float]


class ElasticNetFits(NamedTuple):
    """Fitted cells, float64.

    `largest_violation_G` is the largest entry by which the optimality conditions fail: of the subgradient of least size
    with respect to W and b.
    """

    W_GKD: Tensor
    b_GK: Tensor
    objective_G: Tensor
    iterations_G: Tensor
    converged_G: Tensor
    largest_violation_G: Tensor


class _Task(NamedTuple):
    """Features as given, their moments, and the basis in which the search models the Hessian."""

    X_ND: Tensor
    y_N: Tensor
    n_classes: int
    dtype: torch.dtype
    mean_D: Tensor
    scale_D: Tensor
    basis: Basis


def fit_elastic_net(
    X_ND: Tensor,
    y_N: Tensor,
    n_classes: int,
    lambdas: Sequence[Cell],
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 5000,
) -> ElasticNetFits:
    """Fit every (l1, l2) cell to its minimum.

    Parameters
    ----------
    X_ND : Tensor of shape (N, D)
        Features, float16, float32 or float64; float16 is converted to float32 chunk by chunk.
    y_N : Tensor of shape (N,), int64
        Classes in [0, n_classes), on the device of the features; at least two of them occur.
    n_classes : int
        K >= 2.
    lambdas : sequence of (l1, l2)
        Penalties of each cell, 0 or more. (0, 0) has no minimum where a line separates the classes: its search ends
        unconverged when J is below `tolerance`.
    tolerance : float
        A cell has converged when three rounds in a row each lower J by less than this share of it; in a small problem,
        when a step of Newton's method promises to.
    max_iterations : int
        Evaluations of J of a cell, those of the cells before it on its path not counted; steps in a small problem.

    Returns
    -------
    ElasticNetFits
        On the device of the features; b has mean 0. Cells that did not converge are kept at the best point found.

    Raises
    ------
    ValueError
        If a penalty is negative or not finite.
    """
    cells = [(float(l1), float(l2)) for l1, l2 in lambdas]
    for cell in cells:
        if not all(math.isfinite(penalty) and penalty >= 0 for penalty in cell):
            raise ValueError(f"lambdas has the cell {cell}: l1 and l2 must be finite and not negative")
    task = _task(X_ND.contiguous(), y_N, n_classes)
    n_parameters = n_classes * (X_ND.shape[1] + 1)
    if n_parameters <= _SMALL_PARAMETERS and n_parameters * len(y_N) <= _SMALL_PRODUCT:
        return _fits(task, cells, [_solve_small(task, cell, tolerance, max_iterations) for cell in cells])
    minima: dict[Cell, Minima] = {}
    for wave in _waves(cells):
        size = max(1, _ROWS_AT_ONCE.get(X_ND.device.type, _ROWS_AT_ONCE["cpu"]) // n_classes)
        for first in range(0, len(wave), size):
            batch = wave[first : first + size]
            minima.update(zip(batch, _solve(task, batch, minima, tolerance, max_iterations), strict=True))
    return _fits(task, cells, [minima[cell] for cell in cells])


def _before(cell: Cell) -> Cell | None:
    """The cell whose minimum a cell starts from, if any.

    Without l1, none. With l1 no larger than l2, the cell without l1. Otherwise the powers of ten between l1 and l2, two
    at most, lead from (l1, l1) down to l2.

    >>> _before((1e-3, 1e-2)), _before((1e-3, 0.0)), _before((1e-3, 1e-5)), _before((1e-3, 1e-4))
    ((0.0, 0.01), (0.001, 1e-05), (0.001, 0.0001), (0.001, 0.001))
    """
    l1, l2 = cell
    if l1 == 0:
        return None
    if l1 <= l2:
        return 0.0, l2
    highest = math.ceil(math.log10(l1) - 1e-9) - 1
    rungs = [float(f"1e{power}") for power in range(highest - _DECADES + 1, highest + 1)]
    return next(((l1, rung) for rung in rungs if rung > l2), (l1, l1))


def _waves(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Every cell, and those before it, each in a wave after the one it starts from."""
    depths: dict[Cell, int] = {}
    for cell in cells:
        path = [cell]
        while (before := _before(path[-1])) is not None:
            path.append(before)
        depths.update((step, depth) for depth, step in enumerate(reversed(path)))
    return [[cell for cell in depths if depths[cell] == depth] for depth in range(max(depths.values(), default=-1) + 1)]


def _solve(
    task: _Task, cells: Sequence[Cell], before: dict[Cell, Minima], tolerance: float, max_iterations: int
) -> list[Minima]:
    """Minima of cells whose starting points are known, one of each."""
    starts = [_before(cell) for cell in cells]
    cold_1KE = _cold(task)
    x_AKE = torch.cat([cold_1KE if start is None else before[start].x_BKE for start in starts])
    l1_AE, l2_AE = x_AKE.new_zeros(len(cells), x_AKE.shape[2]), x_AKE.new_zeros(len(cells), x_AKE.shape[2])
    n_features = len(task.scale_D)
    for a, (l1, l2) in enumerate(cells):
        l1_AE[a, :n_features], l2_AE[a, :n_features] = l1 / task.scale_D, l2 / task.scale_D.square()
    least_A = torch.tensor([0.0 if any(cell) else tolerance for cell in cells], dtype=torch.float64)
    ends = minimise(
        lambda x_AKE: _evaluate(task, x_AKE),
        x_AKE,
        l1_AE,
        l2_AE,
        task.basis,
        tolerance=tolerance,
        max_iterations=max_iterations,
        noise=_NOISE[task.dtype],
        least_B=least_A.to(x_AKE.device),
    )
    return [Minima(*(column[a : a + 1] for column in ends)) for a in range(len(cells))]


def _solve_small(task: _Task, cell: Cell, tolerance: float, max_iterations: int) -> Minima:
    """The minimum of one cell of a small problem, which is found on the CPU whatever the features' device."""
    scale_E = torch.cat([task.scale_D, task.scale_D.new_ones(1)]).cpu()
    centred_ND = ((task.X_ND.double() - task.mean_D) / task.scale_D).cpu()
    penalised_E = torch.ones_like(scale_E)
    penalised_E[-1] = 0
    ends = minimise_small(
        torch.cat([centred_ND, centred_ND.new_ones(len(centred_ND), 1)], 1),
        task.y_N.cpu(),
        _cold(task)[0, :, : len(scale_E)].double().cpu(),
        cell[0] * penalised_E / scale_E,
        cell[1] * penalised_E / scale_E.square(),
        tolerance=tolerance,
        max_iterations=max_iterations,
        least=0.0 if any(cell) else tolerance,
    )
    columns = (torch.as_tensor(column, device=task.X_ND.device)[None] for column in ends)
    return Minima(*columns)


def _cold(task: _Task) -> Tensor:
    """No weights, and the biases that fit the shares of the classes (1, K, E)."""
    shares_K = torch.bincount(task.y_N, minlength=task.n_classes) / len(task.y_N)
    x_1KE = task.basis.scale_E.new_zeros(1, task.n_classes, len(task.basis.scale_E))
    x_1KE[0, :, len(task.mean_D)] = shares_K.clamp_min(_LEAST_SHARE).log()
    return x_1KE


def _task(X_ND: Tensor, y_N: Tensor, n_classes: int) -> _Task:
    dtype = torch.float64 if X_ND.dtype == torch.float64 else torch.float32
    mean_D, square_D = X_ND.new_zeros(2, X_ND.shape[1], dtype=torch.float64)
    chunks = [X_ND[start : start + _MOMENT_CHUNK] for start in range(0, len(X_ND), _MOMENT_CHUNK)]
    for x_nD in chunks:
        mean_D += x_nD.sum(0, dtype=torch.float64) / len(X_ND)
    for x_nD in chunks:
        square_D += (x_nD.to(dtype) - mean_D.to(dtype)).square().sum(0, dtype=torch.float64)
    sd_D = (square_D / len(X_ND)).sqrt()
    scale_D = torch.where(sd_D > _LEAST_SPREAD * mean_D.abs(), sd_D, 1.0)
    return _Task(X_ND, y_N, n_classes, dtype, mean_D, scale_D, _basis(X_ND, dtype, mean_D, scale_D))


def _basis(X_ND: Tensor, dtype: torch.dtype, mean_D: Tensor, scale_D: Tensor) -> Basis:
    """Eigenvectors of the features' correlations, from evenly spaced rows where there are many; the bias by itself."""
    dim = len(scale_D)
    width = -(-(dim + 1) // LINE) * LINE
    scale_E = torch.ones(width, dtype=dtype, device=X_ND.device)
    if dim > _LARGEST_BASIS:
        return Basis(None, scale_E)
    some_nD = X_ND[:: max(1, len(X_ND) // (_MOMENT_ROWS * dim))].to(dtype)
    some_nD = (some_nD - mean_D.to(dtype)) / scale_D.to(dtype)
    moment_D, Q_DD = torch.linalg.eigh((some_nD.mT @ some_nD).double() / len(some_nD))
    Q_EE = torch.eye(width, dtype=dtype, device=X_ND.device)
    Q_EE[:dim, :dim], scale_E[:dim] = Q_DD.to(dtype), moment_D.clamp_min(0).to(dtype)
    return Basis(Q_EE, scale_E)


def _evaluate(task: _Task, x_AKE: Tensor) -> Evaluation:
    """Mean cross-entropy, its gradient, and the mean of p (1 - p) of each class.

    Chunks of items pass through the cache once for both products. How items are cut and summed does not depend on the
    cells at hand, on a CPU.
    """
    (cells, classes, _), dim, n_items = x_AKE.shape, len(task.mean_D), len(task.y_N)
    W_AKD = x_AKE[:, :, :dim] / task.scale_D.to(task.dtype)
    b_AK = (x_AKE[:, :, dim].double() - (W_AKD * task.mean_D).sum(2)).to(task.dtype)
    W_RD = stacked(W_AKD, task.dtype)
    f_A = torch.zeros(cells, dtype=torch.float64, device=x_AKE.device)
    spread_AK, gb_AK, gW_RD = f_A.new_zeros(cells, classes), f_A.new_zeros(cells, classes), torch.zeros_like(W_RD)
    together = cells if x_AKE.is_cuda else 1  # on a CPU, how an element is computed depends on its place in a call
    length = _chunk(task, len(W_RD))
    for start in range(0, n_items, length):
        x_nD, y_n = task.X_ND[start : start + length].to(task.dtype), task.y_N[start : start + length]
        z_Rn = product(W_RD, x_nD)
        z_AKn = z_Rn[: cells * classes].view(cells, classes, -1)
        for first in range(0, cells, together):
            at = slice(first, first + together)
            sums = _residuals(z_AKn[at].add_(b_AK[at, :, None]), y_n)
            for total, part in zip((f_A, spread_AK, gb_AK), sums, strict=True):
                total[at] += part
        gW_RD += product(z_Rn, x_nD.mT)
    gb_AK /= n_items
    g_AKE = torch.zeros_like(x_AKE)
    gW_AKD = gW_RD[: cells * classes].view_as(W_AKD) / n_items
    gW_AKD -= gb_AK.to(task.dtype)[:, :, None] * task.mean_D.to(task.dtype)
    g_AKE[:, :, :dim], g_AKE[:, :, dim] = gW_AKD / task.scale_D.to(task.dtype), gb_AK
    return Evaluation(f_A / n_items, g_AKE, spread_AK / n_items)


def _chunk(task: _Task, rows: int) -> int:
    if task.y_N.is_cuda:
        return max(4096, _CUDA_SCORES // rows)
    return min(max(_CHUNK_SCORES // task.n_classes // LINE * LINE, 512), 8192)


def _residuals(z_AKn: Tensor, y_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of cross-entropy (A,), p (1 - p) and p - onehot(y) (A, K); the scores become p - onehot(y) in place.

    Where p(y) is nearly 1, log p(y) and p(y) - 1 come from the other classes, without cancellation.
    """
    z_AKn -= z_AKn.amax(1, keepdim=True)
    at_A1n = y_n.expand(len(z_AKn), 1, -1)
    gold_A1n = z_AKn.gather(1, at_A1n)
    z_AKn.exp_().scatter_(1, at_A1n, 0.0)
    others_A1n = z_AKn.sum(1, keepdim=True)
    above_A1n = others_A1n + torch.expm1(gold_A1n)  # the softmax's denominator less 1
    z_AKn.scatter_(1, at_A1n, -others_A1n).div_(above_A1n + 1)
    spread_AK = torch.linalg.vector_norm(z_AKn, 1, dim=2) - torch.linalg.vector_norm(z_AKn, dim=2).square()
    f_A = (above_A1n.log1p_() - gold_A1n).sum((1, 2), dtype=torch.float64)
    return f_A, spread_AK.double(), z_AKn.sum(2).double()


def _fits(task: _Task, cells: Sequence[Cell], minima: Sequence[Minima]) -> ElasticNetFits:
    x_GKE, g_GKE, objective_G, iterations_G, converged_G = (torch.cat(column) for column in zip(*minima, strict=True))
    dim = len(task.mean_D)
    W_GKD = x_GKE[:, :, :dim].double() / task.scale_D
    b_GK = x_GKE[:, :, dim].double() - (W_GKD * task.mean_D).sum(2)
    gb_GK = g_GKE[:, :, dim].double()
    gW_GKD = g_GKE[:, :, :dim].double() * task.scale_D + gb_GK[:, :, None] * task.mean_D
    l1_G11, l2_G11 = (W_GKD.new_tensor(column)[:, None, None] for column in zip(*cells, strict=True))
    away_GKD = gW_GKD + 2 * l2_G11 * W_GKD + l1_G11 * W_GKD.sign()
    violation_GKD = torch.where(W_GKD == 0, gW_GKD.abs() - l1_G11, away_GKD.abs())
    largest_G = torch.maximum(violation_GKD.amax((1, 2)), gb_GK.abs().amax(1)).clamp_min(0)
    return ElasticNetFits(W_GKD, b_GK - b_GK.mean(1, keepdim=True), objective_G, iterations_G, converged_G, largest_G)
