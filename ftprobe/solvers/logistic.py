"""L2-regularised multinomial logistic regression: every layer and strength of one task at once.

Minimises J = -(1/N) sum_i log softmax(W x_i + b)[y_i] + (a/2) ||W||_F^2 with b free (METHODS 3.1). Strengths of a
layer share its features in one product W_1..W_G times X'; finished cells leave it. With two classes one vector
w = W_1 - W_0 is fitted, whose penalty is (a/4) ||w||^2: the same minimum, as W_1 = -W_0 there.

A cell's numbers do not depend on the cells fitted beside it: stacked rows are padded to whole tiles of the matrix
product, whose sums run in one order whatever the number of tiles.

Axes: L layers, G strengths, N items, D features, K classes, M fitted score rows (K, or 1 where K = 2), C cells of
one layer, A running cells, P parameters of a cell = M (D + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.lbfgs import MEMORY, Minima, minimise

_TILE = 16
_CHUNK_BYTES = 1 << 22  # features and scores of a chunk stay in a core's cache between their two products
_FEWEST_ROWS = 256
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
    vectors = 2 * MEMORY + 8  # history; point, gradient, direction and their next values
    return n_strengths * 8 * (vectors * width + dim * dim) + 3 * 8 * dim * dim


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
        precondition=problem.precondition,
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
        precondition=lambda g_AP, row_A: problem.precondition(g_AP, cell_B[row_A]),
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
        self.inverse_BDD, self.inverse_bias = self._curvature(n_classes)

    def _curvature(self, n_classes: int) -> tuple[Tensor, float]:
        """Inverse Hessian at W = 0, where it is (1/K) (I - 11'/K) by X'X/N: one (D, D) block for all rows of a cell.

        For K = 2 the block is X'X/(4N). Class coupling is left to L-BFGS: gradients are orthogonal to it.
        """
        weight = 1.0 / n_classes if self.rows > 1 else 0.25
        eye_DD = torch.eye(self.dim, dtype=torch.float64, device=self.y_N.device)
        inverses = []
        for layer, X_ND in enumerate(self.X_LND):
            gram_DD = (X_ND.mT @ X_ND).double() * (weight / self.n_items)
            for a in self.a_B[layer * self.n_strengths : (layer + 1) * self.n_strengths]:
                # float32 products can leave the Gram matrix slightly indefinite: lift it by its own rounding error
                lift = a + 1e-6 * gram_DD.diagonal().mean()
                factor_DD = torch.linalg.cholesky(gram_DD + lift * eye_DD)
                inverses.append(torch.cholesky_inverse(factor_DD).to(X_ND.dtype))
        return torch.stack(inverses), 1.0 / weight

    def split(self, x_AP: Tensor) -> tuple[Tensor, Tensor]:
        """W (A, M, D) and b (A, M) of parameters (A, P)."""
        body = self.rows * self.dim
        return x_AP[:, :body].view(-1, self.rows, self.dim), x_AP[:, body : body + self.rows]

    def precondition(self, g_AP: Tensor, cell_A: Tensor) -> Tensor:
        """The inverse curvature at W = 0 applied to gradients (A, P)."""
        g_AMD, gb_AM = self.split(g_AP)
        out_AP = torch.zeros_like(g_AP)
        to_AMD, to_AM = self.split(out_AP)
        to_AM.copy_(gb_AM * self.inverse_bias)
        for row, cell in enumerate(cell_A.tolist()):
            to_AMD[row] = g_AMD[row].to(self.inverse_BDD.dtype) @ self.inverse_BDD[cell]
        return out_AP

    def evaluate(self, x_AP: Tensor, cell_A: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """J (A,) and its gradients (A, P) of the cells `cell_A` (ascending)."""
        W_AMD, b_AM = self.split(x_AP)
        a_A = self.a_B[cell_A]
        g_AP = torch.zeros_like(x_AP)
        gW_AMD, gb_AM = self.split(g_AP)
        loss_A = torch.empty_like(a_A)
        layers, counts = torch.unique_consecutive(cell_A // self.n_strengths, return_counts=True)
        start = 0
        for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
            at = slice(start, start + count)
            loss_A[at], gW_AMD[at], gb_AM[at] = self._layer(layer, W_AMD[at], b_AM[at], dtype)
            start += count
        g_AP /= self.n_items
        gW_AMD += a_A[:, None, None] * W_AMD
        loss_A = loss_A / self.n_items + (a_A / 2) * W_AMD.square().sum((1, 2))
        return loss_A, g_AP

    def _layer(
        self, layer: int, W_CMD: Tensor, b_CM: Tensor, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Summed cross-entropy (C,) of a layer's cells and its gradients (C, M, D), (C, M), float64."""
        X_ND = self.X_LND[layer]
        dtype = dtype or X_ND.dtype
        cells = len(W_CMD)
        stacked = cells * self.rows
        together = cells if X_ND.is_cuda else 1  # on a CPU, how an element is computed depends on its place in a call
        W_RD = W_CMD.new_zeros(-(-stacked // _TILE) * _TILE, self.dim, dtype=dtype)
        W_RD[:stacked] = W_CMD.reshape(stacked, self.dim)
        b_CM1 = b_CM.to(dtype)[:, :, None]
        loss_C, gW_RD, gb_CM = (
            b_CM.new_zeros(cells),
            torch.zeros_like(W_RD, dtype=torch.float64),
            torch.zeros_like(b_CM),
        )
        for start in range(0, self.n_items, self._chunk(len(W_RD))):
            x_nD = X_ND[start : start + self._chunk(len(W_RD))].to(dtype)
            y_n = self.y_N[start : start + len(x_nD)]
            z_Rn = W_RD @ x_nD.mT
            z_CMn = z_Rn[:stacked].view(cells, self.rows, -1)
            z_CMn += b_CM1
            for at in range(0, cells, together):
                some_CMn = z_CMn[at : at + together]
                loss_C[at : at + together] += _binary(some_CMn, y_n) if self.rows == 1 else _softmax(some_CMn, y_n)
            gW_RD += z_Rn @ x_nD
            gb_CM += z_CMn.sum(2)
        return loss_C, gW_RD[:stacked].view(cells, self.rows, self.dim), gb_CM

    def _chunk(self, stacked: int) -> int:
        if self.y_N.is_cuda:
            return self.n_items
        return max(_FEWEST_ROWS, _CHUNK_BYTES // (4 * (self.dim + 2 * stacked)))

    def fits(self, ends: Minima) -> LogisticFits:
        """The minima as weights: two classes share w as -w/2 and w/2."""
        shape = (len(self.X_LND), self.n_strengths)
        W_BMD, b_BM = self.split(ends.x_BP)
        if self.rows == 1:
            W_BMD, b_BM = torch.cat([-W_BMD / 2, W_BMD / 2], 1), torch.cat([-b_BM / 2, b_BM / 2], 1)
        W_LGKD = W_BMD.reshape(*shape, *W_BMD.shape[1:])
        return LogisticFits(W_LGKD, b_BM.reshape(*shape, -1), *(column.reshape(shape) for column in ends[1:]))


def _softmax(z_CKn: Tensor, y_n: Tensor) -> Tensor:
    """Cross-entropy summed over items (C,); turns the scores into its gradient in place."""
    z_CKn -= z_CKn.amax(1, keepdim=True)
    at_C1n = y_n.expand(len(z_CKn), 1, -1)
    gold_C1n = z_CKn.gather(1, at_C1n)
    z_CKn.exp_()
    sum_C1n = z_CKn.sum(1, keepdim=True)
    z_CKn /= sum_C1n
    z_CKn.scatter_add_(1, at_C1n, z_CKn.new_full((1, 1, 1), -1.0).expand_as(at_C1n))
    return (sum_C1n.log_() - gold_C1n).sum((1, 2), dtype=torch.float64)


def _binary(z_C1n: Tensor, y_n: Tensor) -> Tensor:
    """As `_softmax` for the one score of class 1 against class 0."""
    sign_n = 1 - 2 * y_n.to(z_C1n.dtype)
    z_C1n *= sign_n
    loss_C = torch.nn.functional.softplus(z_C1n).sum((1, 2), dtype=torch.float64)
    z_C1n.sigmoid_()
    z_C1n *= sign_n
    return loss_C
