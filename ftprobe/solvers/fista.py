"""Elastic-net softmax regression to convergence: accelerated proximal gradient with restart, many cells at once.

J = mean CE + l1 sum|W| + l2 ||W||_F^2 with b free (METHODS 3.2, `solver: converged`). Features are centred inside, so
that weights and bias have curvature bounds of their own: 1/2 largest eigenvalue of X'X/N, and 1/2 (Bohning 1992); a
cell takes longer steps than these allow for as long as its objective stays below the quadratic it minimises.

Scores of the point that the next step starts from are a combination of scores that are known (they are linear in the
weights): an iteration is two products for all cells. A cell's numbers do not depend on the cells beside it.

Axes: N items, n items of a chunk, D features, K classes, G cells, C cells still running, R = C K stacked rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.products import product, stacked

_WINDOW = 10  # iterations over which the objective must not change by more than the tolerance
_VIOLATION = 1e3  # times the tolerance: the largest violation of the optimality conditions at the end
_RELAX, _TIGHTEN = 0.95, 1.5  # of the curvature a cell assumes, after a step that was fine and after one that was not
_NOISE = 1e-7  # relative rounding of objectives that are compared
_CHUNK = 512  # items whose scores stay in the cache between a product and what is done with them


class ElasticNetFits(NamedTuple):
    """Fitted cells: `W_GKD`, `b_GK` float32; float64 objectives and largest violations of the optimality conditions."""

    W_GKD: Tensor
    b_GK: Tensor
    objective_G: Tensor
    violation_G: Tensor
    iterations_G: Tensor
    converged_G: Tensor


@dataclass
class _State:
    """Cells that still run: the last two points with their scores (C, K, N), momentum, and assumed curvature."""

    cell_C: Tensor
    l1_C: Tensor
    l2_C: Tensor
    W_CKD: Tensor
    b_CK: Tensor
    z_CKN: Tensor
    W_before_CKD: Tensor
    b_before_CK: Tensor
    z_before_CKN: Tensor
    theta_C: Tensor
    share_C: Tensor
    objective_C: Tensor
    window_C: Tensor
    violation_C: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop the cells outside a mask."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name)[rows])


class _Data(NamedTuple):
    """Centred features (N, D), their means, classes, and the curvature bound of the weights."""

    X_ND: Tensor
    mean_D: Tensor
    y_N: Tensor
    bound: float


def fit_elastic_net(
    X_ND: Tensor,
    y_N: Tensor,
    n_classes: int,
    lambdas: Sequence[tuple[float, float]],
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 5000,
) -> ElasticNetFits:
    """Minimise every (l1, l2) cell (Beck and Teboulle 2009; restart of O'Donoghue and Candes 2015, section 3.2).

    Parameters
    ----------
    X_ND : Tensor of shape (N, D)
        Features, float16 or float32.
    y_N : Tensor of shape (N,), int64
        Classes in [0, n_classes).
    n_classes : int
        K >= 2.
    lambdas : sequence of (l1, l2)
    tolerance : float
        A cell has converged when ten iterations change its objective by less than this, relatively, and no entry of
        its proximal gradient exceeds a thousand times this.
    max_iterations : int
        A cell that needs more keeps its last weights and is marked; without any penalty separable data have no minimum.

    Returns
    -------
    ElasticNetFits
        On the device of the features.
    """
    data = _centred(X_ND, y_N.to(X_ND.device))
    state = _start(data, n_classes, lambdas)
    ends = _blank(state)
    for iteration in range(1, max_iterations + 1):
        _advance(data, state)
        over_C = torch.zeros_like(state.cell_C, dtype=torch.bool)
        if iteration % _WINDOW == 0:
            change_C = (state.window_C - state.objective_C).abs()
            over_C = (change_C <= tolerance * state.objective_C.abs()) & (state.violation_C <= _VIOLATION * tolerance)
            state.window_C = state.objective_C.clone()
        if iteration == max_iterations or bool(over_C.any()):
            last_C = over_C | (iteration == max_iterations)
            _finish(data, state, ends, last_C, over_C, iteration)
            state.keep(~last_C)
            if not len(state.cell_C):
                break
    return ends


def _centred(X_ND: Tensor, y_N: Tensor) -> _Data:
    x_ND = X_ND.float()
    mean_D = x_ND.mean(0)
    x_ND = x_ND - mean_D
    largest = torch.linalg.eigvalsh(x_ND.T @ x_ND / len(x_ND))[-1]
    return _Data(x_ND, mean_D, y_N, max(float(largest), 1e-12) / 2)


def _start(data: _Data, n_classes: int, lambdas: Sequence[tuple[float, float]]) -> _State:
    """Zero weights, and the bias that gives the classes their shares."""
    cells, device = len(lambdas), data.X_ND.device
    share_K = torch.bincount(data.y_N, minlength=n_classes).double().clamp_min(0.5) / len(data.y_N)
    b_CK = share_K.log().float().repeat(cells, 1)
    W_CKD = torch.zeros(cells, n_classes, data.X_ND.shape[1], device=device)
    z_CKN = b_CK[:, :, None].repeat(1, 1, len(data.y_N))
    loss = float(_losses(z_CKN[:1], data.y_N)[0])
    objective_C = torch.full((cells,), loss, dtype=torch.float64, device=device)
    both_C2 = torch.tensor(lambdas, dtype=torch.float32, device=device)
    one_C = torch.ones(cells, dtype=torch.float64, device=device)
    return _State(
        torch.arange(cells, device=device), both_C2[:, 0], both_C2[:, 1], W_CKD, b_CK, z_CKN, W_CKD.clone(),
        b_CK.clone(), z_CKN.clone(), one_C.clone(), one_C.clone(), objective_C, objective_C.clone(), one_C.clone(),
    )  # fmt: skip


def _blank(state: _State) -> ElasticNetFits:
    count_C = torch.zeros_like(state.cell_C)
    zero_C = torch.zeros_like(state.objective_C)
    return ElasticNetFits(
        torch.zeros_like(state.W_CKD), torch.zeros_like(state.b_CK), zero_C, zero_C.clone(), count_C, count_C > 0
    )


def _finish(
    data: _Data, state: _State, ends: ElasticNetFits, last_C: Tensor, converged_C: Tensor, iteration: int
) -> None:
    at = state.cell_C[last_C]
    W_CKD = state.W_CKD[last_C]
    ends.W_GKD[at] = W_CKD
    ends.b_GK[at] = state.b_CK[last_C] - W_CKD @ data.mean_D
    ends.objective_G[at] = state.objective_C[last_C]
    ends.violation_G[at] = state.violation_C[last_C]
    ends.iterations_G[at] = iteration
    ends.converged_G[at] = converged_C[last_C]


def _losses(z_CKN: Tensor, y_N: Tensor) -> Tensor:
    """Mean cross-entropy of each cell, float64."""
    total_C = torch.zeros(len(z_CKN), dtype=torch.float64, device=z_CKN.device)
    for start in range(0, len(y_N), _CHUNK):
        z_CKn, y_n = z_CKN[:, :, start : start + _CHUNK], y_N[start : start + _CHUNK]
        gold_Cn = z_CKn.gather(1, y_n.expand(len(z_CKN), 1, -1))[:, 0]
        total_C += (z_CKn.logsumexp(1) - gold_Cn).sum(1, dtype=torch.float64)
    return total_C / len(y_N)


class _Gradient(NamedTuple):
    loss_C: Tensor
    gW_CKD: Tensor
    gb_CK: Tensor


def _gradient(data: _Data, z_CKN: Tensor) -> _Gradient:
    """Mean cross-entropy and its gradient at scores, which are overwritten."""
    cells, classes, n_items = z_CKN.shape
    loss_C = torch.zeros(cells, dtype=torch.float64, device=z_CKN.device)
    gW_RD = torch.zeros(max(4, cells * classes), data.X_ND.shape[1], device=z_CKN.device)
    gb_CK = torch.zeros(cells, classes, device=z_CKN.device)
    for start in range(0, n_items, _CHUNK):
        at = slice(start, start + _CHUNK)
        p_CKn, y_C1n = z_CKN[:, :, at].contiguous(), data.y_N[at].expand(cells, 1, -1)
        top_C1n = p_CKn.amax(1, keepdim=True)
        p_CKn -= top_C1n
        gold_C1n = p_CKn.gather(1, y_C1n)
        p_CKn.exp_()
        sum_C1n = p_CKn.sum(1, keepdim=True)
        p_CKn /= sum_C1n
        loss_C += (sum_C1n.log_() - gold_C1n).sum((1, 2), dtype=torch.float64)
        p_CKn.scatter_add_(1, y_C1n, p_CKn.new_full((1, 1, 1), -1.0).expand_as(y_C1n))
        gb_CK += p_CKn.sum(2)
        gW_RD += product(stacked(p_CKn, torch.float32), data.X_ND[at].mT)
    gW_CKD = gW_RD[: cells * classes].view(cells, classes, -1)
    return _Gradient(loss_C / n_items, gW_CKD / n_items, gb_CK / n_items)


def _scores(data: _Data, W_CKD: Tensor, b_CK: Tensor) -> Tensor:
    cells, classes, _ = W_CKD.shape
    z_CKN = product(stacked(W_CKD, torch.float32), data.X_ND)[: cells * classes].view(cells, classes, -1)
    return z_CKN.add_(b_CK[:, :, None])


def _advance(data: _Data, state: _State) -> None:
    """One step of every cell; one that its quadratic does not bound is taken again with a higher curvature."""
    theta_C = (1 + (1 + 4 * state.theta_C.square()).sqrt()) / 2
    momentum_C = ((state.theta_C - 1) / theta_C).float()
    y = [
        now + _by(momentum_C, now) * (now - before)
        for now, before in (
            (state.W_CKD, state.W_before_CKD),
            (state.b_CK, state.b_before_CK),
            (state.z_CKN, state.z_before_CKN),
        )
    ]
    Y_CKD, yb_CK = y[0], y[1]
    gradient = _gradient(data, y[2])
    new = _step(data, state, Y_CKD, yb_CK, gradient)
    for _ in range(30):
        bad_C = new.loss_C > new.model_C + _NOISE * new.loss_C.abs()
        if not bool(bad_C.any()):
            break
        state.share_C = torch.where(bad_C, state.share_C * _TIGHTEN, state.share_C)
        new = _step(data, state, Y_CKD, yb_CK, gradient)
    _take(state, new, Y_CKD, theta_C)


class _Step(NamedTuple):
    W_CKD: Tensor
    b_CK: Tensor
    z_CKN: Tensor
    loss_C: Tensor
    model_C: Tensor
    violation_C: Tensor


def _by(value_C: Tensor, like: Tensor) -> Tensor:
    return value_C.view(-1, *[1] * (like.dim() - 1))


def _step(data: _Data, state: _State, Y_CKD: Tensor, yb_CK: Tensor, gradient: _Gradient) -> _Step:
    """The proximal step from a point at each cell's curvature: the smooth part's quadratic, l1 and l2 exactly."""
    a_C11 = _by((state.share_C * data.bound).float(), Y_CKD)
    a_b_C1 = (state.share_C * 0.5).float()[:, None]
    moved_CKD = Y_CKD - gradient.gW_CKD / a_C11
    reach_C11 = _by(state.l1_C, Y_CKD) / a_C11
    W_CKD = moved_CKD - torch.minimum(torch.maximum(moved_CKD, -reach_C11), reach_C11)
    W_CKD /= 1 + 2 * _by(state.l2_C, Y_CKD) / a_C11
    b_CK = yb_CK - gradient.gb_CK / a_b_C1
    z_CKN = _scores(data, W_CKD, b_CK)
    dW_CKD, db_CK = W_CKD - Y_CKD, b_CK - yb_CK
    model_C = gradient.loss_C + _sum(gradient.gW_CKD * dW_CKD) + _sum(gradient.gb_CK * db_CK)
    model_C += _sum(a_C11 / 2 * dW_CKD.square()) + _sum(a_b_C1 / 2 * db_CK.square())
    largest_C = torch.maximum((a_C11 * dW_CKD).abs().amax((1, 2)), (a_b_C1 * db_CK).abs().amax(1))
    return _Step(W_CKD, b_CK, z_CKN, _losses(z_CKN, data.y_N), model_C, largest_C.double())


def _sum(each_C: Tensor) -> Tensor:
    return each_C.flatten(1).sum(1, dtype=torch.float64)


def _take(state: _State, new: _Step, Y_CKD: Tensor, theta_C: Tensor) -> None:
    """Move every cell; momentum that points uphill, or did not lower the objective, starts anew."""
    penalty_C = state.l1_C * _sum(new.W_CKD.abs()) + state.l2_C * _sum(new.W_CKD.square())
    objective_C = new.loss_C + penalty_C
    uphill_C = _sum((Y_CKD - new.W_CKD) * (new.W_CKD - state.W_CKD)) > 0
    restart_C = uphill_C | (objective_C > state.objective_C)
    state.W_before_CKD, state.b_before_CK, state.z_before_CKN = state.W_CKD, state.b_CK, state.z_CKN
    state.W_CKD, state.b_CK, state.z_CKN = new.W_CKD, new.b_CK, new.z_CKN
    state.theta_C = torch.where(restart_C, 1.0, theta_C)
    state.share_C = state.share_C * _RELAX
    state.objective_C, state.violation_C = objective_C, new.violation_C
