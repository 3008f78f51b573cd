"""Mean cross-entropy of linear scores with an L2 penalty, its gradient and curvature, for many cells at once.

J = -(1/N) sum_i log softmax(W x_i + b)[y_i] + (a/2) ||W||_F^2 with b free (METHODS 3.1). Cells of a layer share its
features in one product W_1..W_C times X'. With two classes one vector w = W_1 - W_0 stands for both, whose penalty is
(a/4) ||w||^2: the same minimum, as W_1 = -W_0 there.

Parameters are held in the eigenbasis of a layer's second moments, where the Hessian of every class is about
w_k diag(eigenvalues) + a: a search starts from that diagonal, with w_k from the mean of p_k (1 - p_k).

A cell's numbers do not depend on the cells beside it: see `ftprobe.solvers.products`.

Axes: L layers, N items, D features, K classes, M score rows of a cell (K, or 1 where K = 2), A cells at hand, C those
of one layer, R stacked score rows of a layer, n items of a chunk, P parameters of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.lbfgs import Evaluation
from ftprobe.solvers.products import product, stacked

_LINE = 16  # numbers of a cache line: then a cell's place in a batch does not change how its vectors are summed
_CHUNK_BYTES = 1 << 22  # features and scores of a chunk stay in the cache between their two products
_FEWEST_ROWS = 256
_MOMENT_ROWS = 8  # rows per feature that estimate the second moments well enough
_LEAST_SPREAD = 1e-8


class CrossEntropy:
    """The data of one task: features of every layer (N, D) on one device, classes in [0, n_classes)."""

    def __init__(self, X_LND: Sequence[Tensor], y_N: Tensor, n_classes: int) -> None:
        self.X_LND, self.y_N = [X_ND.contiguous() for X_ND in X_LND], y_N
        self.n_items, self.dim = X_LND[0].shape
        self.dtype = X_LND[0].dtype
        self.rows = n_classes if n_classes > 2 else 1
        self.width = -(-self.rows * (self.dim + 1) // _LINE) * _LINE
        bases = [_eigenbasis(X_ND) for X_ND in X_LND]
        self.moments_LDD = [basis.moment_DD for basis in bases]
        self.moments_LD = torch.stack([basis.moment_D for basis in bases])
        self.V_LDD = {torch.float64: torch.stack([basis.V_DD for basis in bases])}
        self.V_LDD[self.dtype] = self.V_LDD[torch.float64].to(self.dtype)

    def split(self, x_AP: Tensor) -> tuple[Tensor, Tensor]:
        """Views of parameters (A, P): W in the eigenbasis (A, M, D), and b (A, M)."""
        body = self.rows * self.dim
        return x_AP[:, :body].view(-1, self.rows, self.dim), x_AP[:, body : body + self.rows]

    def weights(self, x_AP: Tensor, layer_A: Tensor) -> tuple[Tensor, Tensor]:
        """W (A, K, D) and b (A, K) of parameters: two classes share w as -w/2 and w/2."""
        U_AMD, b_AM = self.split(x_AP)
        W_AMD = torch.bmm(U_AMD, self.V_LDD[torch.float64][layer_A].mT)
        if self.rows > 1:
            return W_AMD, b_AM
        return torch.cat([-W_AMD / 2, W_AMD / 2], 1), torch.cat([-b_AM / 2, b_AM / 2], 1)

    def penalty(self, a_A: Tensor) -> Tensor:
        """What strengths (A,) add to the diagonal of the Hessian (A, P)."""
        change_AP = a_A.new_zeros(len(a_A), self.width)
        self.split(change_AP)[0].add_((a_A if self.rows > 1 else a_A / 2)[:, None, None])
        return change_AP

    def evaluate(self, x_AP: Tensor, layer_A: Tensor, a_A: Tensor, dtype: torch.dtype | None = None) -> Evaluation:
        """J at parameters (A, P) of cells with these layers (ascending) and strengths; `dtype` of the products.

        `largest_A` is the largest |dJ/dW| or |dJ/db| entry.
        """
        dtype = dtype or self.dtype
        a_A = a_A if self.rows > 1 else a_A / 2
        f_A, largest_A = torch.empty_like(a_A), torch.empty_like(a_A)
        g_AP, scale_AP = torch.zeros_like(x_AP), torch.ones_like(x_AP)
        layers, counts = torch.unique_consecutive(layer_A, return_counts=True)
        start = 0
        for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
            at = slice(start, start + count)
            f_A[at], largest_A[at] = self._layer(layer, x_AP[at], a_A[at], g_AP[at], scale_AP[at], dtype)
            start += count
        return Evaluation(f_A, g_AP, largest_A, scale_AP)

    def weight(self, x_1P: Tensor, layer: int) -> Tensor:
        """p (1 - p) / N of each score row and item (M, N), of one cell."""
        U_1MD, b_1M = self.split(x_1P)
        W_MD = (U_1MD[0] @ self.V_LDD[torch.float64][layer].mT).to(self.dtype)
        z_MN = W_MD @ self.X_LND[layer].mT + b_1M[0, :, None].to(self.dtype)
        p_MN = torch.softmax(z_MN, 0) if self.rows > 1 else torch.sigmoid(z_MN)
        return p_MN * (1 - p_MN) / self.n_items

    def _layer(
        self, layer: int, x_CP: Tensor, a_C: Tensor, g_CP: Tensor, scale_CP: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """J (C,) and its largest gradient entries (C,) of a layer's cells; fills `g_CP` and `scale_CP`."""
        V_DD = self.V_LDD[dtype][layer]
        U_CMD, b_CM = self.split(x_CP)
        used = slice(len(x_CP) * self.rows)
        W_RD = product(stacked(U_CMD, dtype), V_DD)
        loss_C, spread_CM, gW_RD, gb_CM = self._sums(layer, W_RD, b_CM.to(dtype))
        a_C11 = a_C[:, None, None]
        gU_CMD, to_b_CM = self.split(g_CP)
        gU_CMD += product(gW_RD, V_DD.mT)[used].view_as(U_CMD) / self.n_items + a_C11 * U_CMD
        to_b_CM += gb_CM / self.n_items
        W_CMD, gW_CMD = W_RD[used].view_as(U_CMD), gW_RD[used].view_as(U_CMD)
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
        together = cells if X_ND.is_cuda else 1  # on a CPU, how an element is computed depends on its place in a call
        loss_C = torch.zeros(cells, dtype=torch.float64, device=X_ND.device)
        spread_CM, gb_CM = torch.zeros_like(b_CM, dtype=torch.float64), torch.zeros_like(b_CM, dtype=torch.float64)
        gW_RD = torch.zeros_like(W_RD)
        length = self._chunk(len(W_RD))
        residuals = _binary if self.rows == 1 else _softmax
        for start in range(0, self.n_items, length):
            x_nD = X_ND[start : start + length].to(W_RD.dtype)
            y_n = self.y_N[start : start + length]
            z_Rn = product(W_RD, x_nD)
            z_CMn = z_Rn[: cells * self.rows].view(cells, self.rows, -1)
            for first in range(0, cells, together):
                at = slice(first, first + together)
                loss, spread = residuals(z_CMn[at].add_(b_CM[at, :, None]), y_n)
                loss_C[at] += loss
                spread_CM[at] += spread
            gb_CM += z_CMn.sum(2)
            gW_RD += product(z_Rn, x_nD.mT)
        return loss_C, spread_CM, gW_RD, gb_CM

    def _chunk(self, stacked: int) -> int:
        if self.y_N.is_cuda:
            return self.n_items
        most = max(_FEWEST_ROWS, _CHUNK_BYTES // (4 * (self.dim + 2 * stacked)))
        return -(-self.n_items // -(-self.n_items // most))


class _Basis(NamedTuple):
    """X'X/N, its eigenvectors (columns) and eigenvalues, these float64."""

    moment_DD: Tensor
    V_DD: Tensor
    moment_D: Tensor


def _eigenbasis(X_ND: Tensor) -> _Basis:
    """From evenly spaced rows where there are many: it speeds the search and does not change the minimum."""
    some_ND = X_ND[:: max(1, len(X_ND) // (_MOMENT_ROWS * X_ND.shape[1]))]
    moment_DD = some_ND.mT @ some_ND / len(some_ND)
    moment_D, V_DD = torch.linalg.eigh(moment_DD)
    return _Basis(moment_DD, V_DD.double(), moment_D.double().clamp_min(0))


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
