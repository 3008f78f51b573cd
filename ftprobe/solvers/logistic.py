"""L2-regularised multinomial logistic regression: every layer and strength of one task at once.

Minimises J = -(1/N) sum_i log softmax(W x_i + b)[y_i] + (a/2) ||W||_F^2 with b free (METHODS 3.1). Strengths of a
layer share its features in one product W_1..W_G times X'; finished cells leave it. With two classes one vector
w = W_1 - W_0 is fitted, whose penalty is (a/4) ||w||^2: the same minimum, as W_1 = -W_0 there.

Parameters are held in the eigenbasis of a layer's second moments, where the Hessian of every class is about
w_k diag(eigenvalues) + a: L-BFGS starts from that diagonal, with w_k from the mean of p_k (1 - p_k).

A cell's numbers do not depend on the cells fitted beside it: stacked rows are padded to whole tiles of the matrix
product, whose sums run in one order whatever the number of tiles.

Axes: L layers, G strengths, N items, D features, K classes, M fitted score rows (K, or 1 where K = 2), C cells of
one layer, A running cells, R stacked score rows of a layer, n items of a chunk, P parameters of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.lbfgs import MEMORY, Evaluation, Minima, minimise

_TILE = 4
_CHUNK_BYTES = 1 << 22  # features and scores of a chunk stay in a core's cache between their two products
_FEWEST_ROWS = 256
_GRAM_ROWS = 8  # rows per feature that estimate the curvature well enough for a preconditioner
_LEAST_SPREAD = 1e-8
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


def bytes_per_layer(dim: int, n_classes: int, n_strengths: int) -> int:
    """Working memory of `fit_logistic` for each layer of `dim` features, beside the features themselves."""
    width = (n_classes if n_classes > 2 else 1) * (dim + 1)
    vectors = 2 * MEMORY + 10  # history; point, gradient, direction, scale and their next values
    return 8 * (n_strengths * vectors * width + 5 * dim * dim)


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

    Returns
    -------
    LogisticFits
        float64 tensors on the device of the features; cells that did not converge are kept and marked.
    """
    problem = _Problem(X_LND, y_N, n_classes, strengths)
    x_BP = torch.zeros(len(X_LND) * len(strengths), problem.width, dtype=torch.float64, device=y_N.device)
    ends = minimise(
        problem.evaluate,
        x_BP,
        tolerance=tolerance,
        max_iterations=max_iterations,
        noise=_NOISE[X_LND[0].dtype],
    )
    stuck_B = ~ends.converged_B & (ends.iterations_B < max_iterations)
    if X_LND[0].dtype != torch.float64 and bool(stuck_B.any()):
        _polish(problem, ends, stuck_B, tolerance, max_iterations)
    return problem.fits(ends)


def _polish(problem: _Problem, ends: Minima, stuck_B: Tensor, tolerance: float, max_iterations: int) -> None:
    """Go on in float64 where float32 gradients are too coarse for the tolerance."""
    cell_B = torch.nonzero(stuck_B)[:, 0]
    finer = minimise(
        lambda x_AP, row_A: problem.evaluate(x_AP, cell_B[row_A], torch.float64),
        ends.x_BP[cell_B],
        tolerance=tolerance,
        max_iterations=max_iterations - int(ends.iterations_B[cell_B].min()),
        noise=_NOISE[torch.float64],
    )
    ends.iterations_B[cell_B] += finer.iterations_B
    ends.evaluations_B[cell_B] += finer.evaluations_B
    for whole_B, part_B in zip(ends, finer, strict=True):
        if whole_B.dtype != torch.int64:
            whole_B[cell_B] = part_B


class _Problem:
    """The data of one task and the parameter layout of its cells: W (M x D), then b (M)."""

    def __init__(self, X_LND: Sequence[Tensor], y_N: Tensor, n_classes: int, strengths: Sequence[float]) -> None:
        self.X_LND, self.y_N = X_LND, y_N
        self.n_items, self.dim = X_LND[0].shape
        self.rows = n_classes if n_classes > 2 else 1
        # whole cache lines: then a cell's place in a batch does not change how its vectors are summed
        self.width = -(-self.rows * (self.dim + 1) // 8) * 8
        self.n_strengths = len(strengths)
        a_G = torch.tensor(strengths, dtype=torch.float64, device=y_N.device)
        self.a_B = (a_G if self.rows > 1 else a_G / 2).repeat(len(X_LND))
        bases = [_eigenbasis(X_ND) for X_ND in X_LND]
        self.moments_LD = torch.stack([basis.moment_D for basis in bases])
        self.V_LDD = {torch.float64: torch.stack([basis.V_DD for basis in bases])}
        self.V_LDD[X_LND[0].dtype] = self.V_LDD[torch.float64].to(X_LND[0].dtype)

    def split(self, x_AP: Tensor) -> tuple[Tensor, Tensor]:
        """W (A, M, D) and b (A, M) of parameters (A, P)."""
        body = self.rows * self.dim
        return x_AP[:, :body].view(-1, self.rows, self.dim), x_AP[:, body : body + self.rows]

    def evaluate(self, x_AP: Tensor, cell_A: Tensor, dtype: torch.dtype | None = None) -> Evaluation:
        """J of the cells `cell_A` (ascending) and what L-BFGS needs beside it; `dtype` of the products."""
        dtype = dtype or self.X_LND[0].dtype
        a_A = self.a_B[cell_A]
        f_A, largest_A = torch.empty_like(a_A), torch.empty_like(a_A)
        g_AP, scale_AP = torch.zeros_like(x_AP), torch.ones_like(x_AP)
        layers, counts = torch.unique_consecutive(cell_A // self.n_strengths, return_counts=True)
        start = 0
        for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
            at = slice(start, start + count)
            f_A[at], largest_A[at] = self._layer(layer, x_AP[at], a_A[at], g_AP[at], scale_AP[at], dtype)
            start += count
        return Evaluation(f_A, g_AP, largest_A, scale_AP)

    def _layer(
        self, layer: int, x_CP: Tensor, a_C: Tensor, g_CP: Tensor, scale_CP: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """J (C,) and its largest gradient entries (C,) of a layer's cells; fills `g_CP` and `scale_CP`."""
        V_DD = self.V_LDD[dtype][layer]
        U_CMD, b_CM = self.split(x_CP)
        stacked = len(x_CP) * self.rows
        U_RD = U_CMD.new_zeros(-(-stacked // _TILE) * _TILE, self.dim, dtype=dtype)
        U_RD[:stacked] = U_CMD.reshape(stacked, self.dim)
        W_RD = U_RD @ V_DD.mT
        loss_C, spread_CM, gW_RD, gb_CM = self._sums(layer, W_RD, b_CM.to(dtype))
        a_C11 = a_C[:, None, None]
        gU_CMD, to_b_CM = self.split(g_CP)
        gU_CMD += (gW_RD @ V_DD)[:stacked].view_as(U_CMD) / self.n_items + a_C11 * U_CMD
        to_b_CM += gb_CM / self.n_items
        W_CMD, gW_CMD = W_RD[:stacked].view_as(U_CMD), gW_RD[:stacked].view_as(U_CMD)
        largest_C = (gW_CMD / self.n_items + a_C11 * W_CMD).abs().amax((1, 2))
        weight_CM = (spread_CM / self.n_items).clamp_min(_LEAST_SPREAD)
        weight_CM = (weight_CM * weight_CM.mean(1, keepdim=True)).sqrt()
        scale_CMD, scale_b_CM = self.split(scale_CP)
        scale_CMD /= weight_CM[:, :, None] * self.moments_LD[layer] + a_C11
        scale_b_CM /= weight_CM
        f_C = loss_C / self.n_items + (a_C / 2) * U_CMD.square().sum((1, 2))
        return f_C, torch.maximum(largest_C, to_b_CM.abs().amax(1))

    def _sums(self, layer: int, W_RD: Tensor, b_CM: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over items: cross-entropy (C,), p (1 - p) of each row (C, M), gradients (R, D) and (C, M).

        Chunks of items pass through the cache once for both products.
        """
        X_ND, cells = self.X_LND[layer], len(b_CM)
        stacked = cells * self.rows
        together = cells if X_ND.is_cuda else 1  # on a CPU, how an element is computed depends on its place in a call
        loss_C = torch.zeros(cells, dtype=torch.float64, device=X_ND.device)
        spread_CM, gb_CM = torch.zeros_like(b_CM, dtype=torch.float64), torch.zeros_like(b_CM, dtype=torch.float64)
        gW_RD = torch.zeros_like(W_RD)
        length = self._chunk(len(W_RD))
        residuals = _binary if self.rows == 1 else _softmax
        for start in range(0, self.n_items, length):
            x_nD = X_ND[start : start + length].to(W_RD.dtype)
            y_n = self.y_N[start : start + length]
            z_Rn = W_RD @ x_nD.mT
            z_CMn = z_Rn[:stacked].view(cells, self.rows, -1)
            for first in range(0, cells, together):
                at = slice(first, first + together)
                loss, spread = residuals(z_CMn[at].add_(b_CM[at, :, None]), y_n)
                loss_C[at] += loss
                spread_CM[at] += spread
            gb_CM += z_CMn.sum(2)
            gW_RD.addmm_(z_Rn, x_nD)
        return loss_C, spread_CM, gW_RD, gb_CM

    def _chunk(self, stacked: int) -> int:
        if self.y_N.is_cuda:
            return self.n_items
        return max(_FEWEST_ROWS, _CHUNK_BYTES // (4 * (self.dim + 2 * stacked)))

    def fits(self, ends: Minima) -> LogisticFits:
        """The minima as weights: two classes share w as -w/2 and w/2."""
        shape = (len(self.X_LND), self.n_strengths)
        U_BMD, b_BM = self.split(ends.x_BP)
        W_BMD = torch.bmm(U_BMD, self.V_LDD[torch.float64].mT.repeat_interleave(self.n_strengths, 0))
        if self.rows == 1:
            W_BMD, b_BM = torch.cat([-W_BMD / 2, W_BMD / 2], 1), torch.cat([-b_BM / 2, b_BM / 2], 1)
        W_LGKD = W_BMD.reshape(*shape, *W_BMD.shape[1:])
        return LogisticFits(W_LGKD, b_BM.reshape(*shape, -1), *(column.reshape(shape) for column in ends[1:]))


class _Basis(NamedTuple):
    """Eigenvectors (columns) and eigenvalues of X'X/N, float64."""

    V_DD: Tensor
    moment_D: Tensor


def _eigenbasis(X_ND: Tensor) -> _Basis:
    """From evenly spaced rows where there are many: it speeds the search and does not change the minimum."""
    some_ND = X_ND[:: max(1, len(X_ND) // (_GRAM_ROWS * X_ND.shape[1]))]
    moment_D, V_DD = torch.linalg.eigh((some_ND.mT @ some_ND).double() / len(some_ND))
    return _Basis(V_DD, moment_D.clamp_min(0))


def _softmax(z_CKn: Tensor, y_n: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (C,) and p (1 - p) of each class (C, K), summed; the scores become p - onehot(y) in place."""
    z_CKn -= z_CKn.amax(1, keepdim=True)
    at_C1n = y_n.expand(len(z_CKn), 1, -1)
    gold_C1n = z_CKn.gather(1, at_C1n)
    z_CKn.exp_()
    sum_C1n = z_CKn.sum(1, keepdim=True)
    z_CKn /= sum_C1n
    spread_CK = z_CKn.sum(2) - torch.linalg.vector_norm(z_CKn, dim=2).square()
    z_CKn.scatter_add_(1, at_C1n, z_CKn.new_full((1, 1, 1), -1.0).expand_as(at_C1n))
    return (sum_C1n.log_() - gold_C1n).sum((1, 2), dtype=torch.float64), spread_CK.double()


def _binary(z_C1n: Tensor, y_n: Tensor) -> tuple[Tensor, Tensor]:
    """As `_softmax` for the one score of class 1 against class 0."""
    sign_n = 1 - 2 * y_n.to(z_C1n.dtype)
    z_C1n *= sign_n
    loss_C = torch.nn.functional.softplus(z_C1n).sum((1, 2), dtype=torch.float64)
    z_C1n.sigmoid_()
    spread_C1 = z_C1n.sum(2) - torch.linalg.vector_norm(z_C1n, dim=2).square()
    z_C1n *= sign_n
    return loss_C, spread_C1.double()
