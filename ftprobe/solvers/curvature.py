"""The curvature of cells whose searches are slow: the inverse of each class's block of the Hessian.

With w_ik = p_ik (1 - p_ik), class k's block is sum_i w_ik x_i x_i' / N + a, where x_i ends in a 1 for the bias, whose
diagonal has no a. Where classes are nearly told apart, few items carry most of it: those are summed, and the rest is
taken to be like the features' second moments.

Axes: A cells at hand, M score rows of a cell, N items, D features, E = D + 1, P parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ftprobe.solvers.cross_entropy import CrossEntropy

_SHARE = 0.9  # of a block's weight that its items are summed for
_ROWS = 2  # per feature, at most
_RIDGE = 1e-5  # relative to a block's diagonal: above float32's error of a factorisation


class Blocks:
    """Inverse blocks of cells with these layers and strengths, once `build` was asked for them."""

    def __init__(self, problem: CrossEntropy, layer_B: Tensor, a_B: Tensor) -> None:
        self.problem, self.layer_B, self.a_B = problem, layer_B, a_B if problem.rows > 1 else a_B / 2
        self.cost = problem.dim * min(1.0, _ROWS * problem.dim / problem.n_items) / 2
        self.inverse: dict[int, Tensor] = {}

    def build(self, x_AP: Tensor, problem_A: Tensor) -> None:
        """From the probabilities at these points."""
        for place, cell in enumerate(problem_A.tolist()):
            inverse_MEE = self._inverse(x_AP[place : place + 1], cell)
            if inverse_MEE is not None:
                self.inverse[cell] = inverse_MEE

    def times(self, v_SAP: Tensor, scale_AP: Tensor, problem_A: Tensor) -> Tensor:
        """Sets of vectors times the inverse blocks, of cells without these times `scale_AP`."""
        out_SAP = v_SAP * scale_AP
        for place, cell in enumerate(problem_A.tolist() if self.inverse else ()):
            if cell in self.inverse:
                V_DD = self.problem.V_LDD[self.problem.dtype][self.layer_B[cell]]
                self._apply(self.inverse[cell], V_DD, v_SAP[:, place], out_SAP[:, place])
        return out_SAP

    def _apply(self, inverse_MEE: Tensor, V_DD: Tensor, v_SP: Tensor, out_SP: Tensor) -> None:
        U_SMD, b_SM = self.problem.split(v_SP.to(V_DD.dtype))
        v_MSE = torch.cat([U_SMD @ V_DD.mT, b_SM[:, :, None]], 2).transpose(0, 1).contiguous()
        d_SME = torch.bmm(v_MSE, inverse_MEE).transpose(0, 1)
        to_U_SMD, to_b_SM = self.problem.split(out_SP)
        to_U_SMD.copy_(d_SME[:, :, :-1] @ V_DD)
        to_b_SM.copy_(d_SME[:, :, -1])

    def _inverse(self, x_1P: Tensor, cell: int) -> Tensor | None:
        """Inverse blocks (M, E, E) of a cell; None where rounding leaves one without a factorisation."""
        layer = int(self.layer_B[cell])
        inverses = []
        for w_N in self.problem.weight(x_1P, layer):
            inverse_EE = _inverse(self._block(layer, w_N, float(self.a_B[cell])))
            if inverse_EE is None:
                return None
            inverses.append(inverse_EE)
        return torch.stack(inverses)

    def _block(self, layer: int, w_N: Tensor, a: float) -> Tensor:
        dim = self.problem.dim
        heaviest_n, at_n = w_N.topk(min(len(w_N), _ROWS * dim))
        total = w_N.sum()
        n_rows = min(len(at_n), int((heaviest_n.cumsum(0) < _SHARE * total).sum()) + 1)
        root_n = heaviest_n[:n_rows].sqrt()
        rows_nD = self.problem.X_LND[layer][at_n[:n_rows]].mul_(root_n[:, None])
        rest = float(total - heaviest_n[:n_rows].sum())
        block_EE = w_N.new_empty(dim + 1, dim + 1)
        block_EE[:dim, :dim] = torch.addmm(self.problem.moments_LDD[layer], rows_nD.mT, rows_nD, beta=rest)
        block_EE[dim, :dim] = block_EE[:dim, dim] = root_n @ rows_nD
        block_EE.diagonal()[:dim] += a
        block_EE[dim, dim] = total
        return block_EE


def _inverse(block_EE: Tensor) -> Tensor | None:
    """By way of the correlations, whose factorisation suffers least from columns of unequal size."""
    size_E = block_EE.diagonal().clamp_min(torch.finfo(block_EE.dtype).tiny).rsqrt()
    correlation_EE = (size_E[:, None] * block_EE).mul_(size_E)
    correlation_EE.diagonal().fill_(1 + _RIDGE)
    factor_EE, failed = torch.linalg.cholesky_ex(correlation_EE)
    if bool(failed):
        return None
    return torch.cholesky_inverse(factor_EE).mul_(size_E).mul_(size_E[:, None])
