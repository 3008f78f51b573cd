"""Elastic-net softmax regression by Adam on mini-batches, many cells at once (METHODS 3.2, `solver: adam10`).

Every cell minimises mean CE + l1 sum|W| + l2 R(W) with the bias free. Cells share the features and the order of the
batches: the scores of all are one product W_1..W_C times X', their gradients another, taken by hand. A cell is trained
as it would be alone: its first weights depend on its own seed and shape, and no sum runs over cells.

Axes: N items, D features, K classes, C cells, S label sets, R = C K stacked rows, n items of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ftprobe.solvers.products import product, stacked
from ftprobe.solvers.rows import Rows, blocks

Penalty = Literal["squared_l2", "l2_norm"]
BLOCK_ROWS = 1024  # stacked rows that pass through a batch together: their weights and scores stay in the cache
_LINE = 16  # numbers of a cache line
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Cell(NamedTuple):
    """One probe: its penalties, the seed of its first weights, and which label set it learns."""

    l1: float
    l2: float
    seed: int
    labels: int = 0


class Recipe(NamedTuple):
    """How cells are trained; the defaults are those of Durrani et al. 2021, section 3.

    `penalty`: R(W) = ||W||_F^2, or `l2_norm` for ||W||_F, which is what NeuroX computes (0 at W = 0).
    `l1_step`: the subgradient, 0 at 0, within Adam's gradient; or `proximal`, soft thresholding after each step, which
    gives exact zeros. `ce`: mean or sum over a batch.
    """

    epochs: int = 10
    batch_size: int = 512
    learning_rate: float = 1e-3
    penalty: Penalty = "squared_l2"
    l1_step: Literal["subgradient", "proximal"] = "subgradient"
    ce: Literal["mean", "sum"] = "mean"
    shuffle: bool = True


DURRANI = Recipe()


class Weights(NamedTuple):
    """Fitted weights (C, K, D) and biases (C, K), float32."""

    W_CKD: Tensor
    b_CK: Tensor


def first_weights(seed: int, n_classes: int, dim: int) -> Weights:
    """W (1, K, D) and b (1, K), uniform in +-1/sqrt(D), from a seed."""
    bound = dim**-0.5
    draw = np.random.default_rng(seed).uniform(-bound, bound, size=(n_classes, dim + 1)).astype(np.float32)
    return Weights(torch.from_numpy(draw[None, :, :dim].copy()), torch.from_numpy(draw[None, :, dim].copy()))


def bytes_per_cell(dim: int, n_classes: int, batch_size: int = 512) -> int:
    """Working memory of a cell in `fit_elastic_net`, in bytes: weights, moments, gradient, sign, and its scores."""
    return 4 * n_classes * (6 * (dim + 1) + 3 * batch_size)


def fit_adam(
    rows: Rows,
    y_SN: Tensor,
    n_classes: int,
    cells: Sequence[Cell],
    recipe: Recipe = DURRANI,
    *,
    order_seed: int,
    start: Weights | None = None,
) -> Weights:
    """Train all cells side by side.

    Parameters
    ----------
    rows : Rows
        Features (N, D).
    y_SN : Tensor of shape (S, N), int64
        Label sets, classes in [0, n_classes); each cell learns the one it names.
    cells : sequence of Cell
    order_seed : int
        Orders the items of every epoch; all cells that are to be compared share it.
    start : Weights, optional
        First weights of the cells, in place of those that their seeds give.

    Returns
    -------
    Weights
        On the device of `rows`.
    """
    n_items, dim = rows.shape
    size = -(-len(cells) // -(-len(cells) * n_classes // BLOCK_ROWS))
    begin = start or _first(cells, n_classes, dim)
    packs = [
        _Pack(cells[i : i + size], Weights(*(w[i : i + size] for w in begin)), y_SN, recipe, rows.device)
        for i in range(0, len(cells), size)
    ]
    rng = np.random.default_rng(order_seed)
    for _ in range(recipe.epochs):
        order_N = torch.from_numpy(rng.permutation(n_items) if recipe.shuffle else np.arange(n_items)).to(rows.device)
        for first in range(0, n_items, recipe.batch_size):
            at_n = order_N[first : first + recipe.batch_size]
            x_nD = rows(at_n)
            scaled_nD = x_nD / len(at_n) if recipe.ce == "mean" else x_nD
            for pack in packs:
                pack.step(x_nD, scaled_nD, at_n)
    return Weights(*(torch.cat(parts) for parts in zip(*(pack.weights() for pack in packs), strict=True)))


def _first(cells: Sequence[Cell], n_classes: int, dim: int) -> Weights:
    drawn = {seed: first_weights(seed, n_classes, dim) for seed in {cell.seed for cell in cells}}
    return Weights(*(torch.cat(parts) for parts in zip(*(drawn[cell.seed] for cell in cells), strict=True)))


class _Pack:
    """Some cells in training: weights, Adam's moments and penalties; `step` takes one batch."""

    def __init__(
        self, cells: Sequence[Cell], begin: Weights, y_SN: Tensor, recipe: Recipe, device: torch.device
    ) -> None:
        self.recipe = recipe
        self.n_cells, self.n_classes, self.dim = begin.W_CKD.shape
        self.used = slice(self.n_cells * self.n_classes)
        # Adam's kernel computes the last numbers of a buffer another way than the rest: none of them is a cell's.
        spare_1sD = begin.W_CKD.new_zeros(1, -(-_LINE // self.dim), self.dim)
        self.W_RD = stacked(torch.cat([begin.W_CKD.flatten(0, 1)[None], spare_1sD], 1), torch.float32).to(device)
        self.b_M = torch.zeros(self.used.stop + _LINE, device=device)
        self.b_CK = self.b_M[self.used].view(self.n_cells, self.n_classes)
        self.b_CK.copy_(begin.b_CK)
        self.gb_M = torch.zeros_like(self.b_M)
        self.parameters = [self.W_RD.view(-1), self.b_M]
        self.moments = [torch.zeros_like(each) for each in self.parameters]
        self.squares = [torch.zeros_like(each) for each in self.parameters]
        self.steps = [torch.zeros((), device=device) for _ in self.parameters]
        labels = [cell.labels for cell in cells]
        self.y_CN = y_SN[labels[:1] if len(set(labels)) == 1 else labels].to(device)
        self.sign_CKD = torch.empty_like(begin.W_CKD, device=device)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]

        self.l1_C11, self.l2_C11 = column([cell.l1 for cell in cells]), column([cell.l2 for cell in cells])
        self.any_l1, self.any_l2 = (any(getattr(cell, name) for cell in cells) for name in ("l1", "l2"))

    def weights(self) -> Weights:
        return Weights(self.W_RD[self.used].view(self.n_cells, self.n_classes, self.dim), self.b_CK)

    def step(self, x_nD: Tensor, scaled_nD: Tensor, at_n: Tensor) -> None:
        """One Adam step on a batch; `scaled_nD` is the batch over what the loss is divided by."""
        p_Rn = product(self.W_RD, x_nD)
        p_CKn = p_Rn[self.used].view(self.n_cells, self.n_classes, -1)
        p_CKn += self.b_CK[:, :, None]
        torch.softmax(p_CKn, dim=1, out=p_CKn)
        y_C1n = self.y_CN.index_select(1, at_n)[:, None].expand(self.n_cells, 1, -1)
        p_CKn.scatter_add_(1, y_C1n, p_CKn.new_full((1, 1, 1), -1.0).expand_as(y_C1n))
        g_RD = product(p_Rn, scaled_nD.mT)
        gb_CK = self.gb_M[self.used].view_as(self.b_CK)
        torch.sum(p_CKn, 2, out=gb_CK)
        if self.recipe.ce == "mean":
            gb_CK /= len(at_n)
        self._penalise(g_RD[self.used].view(self.n_cells, self.n_classes, self.dim))
        for count in self.steps:
            count += 1
        torch._fused_adam_(
            self.parameters,
            [g_RD.view(-1), self.gb_M],
            self.moments,
            self.squares,
            [],
            self.steps,
            lr=self.recipe.learning_rate,
            beta1=_BETA1,
            beta2=_BETA2,
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )
        if self.any_l1 and self.recipe.l1_step == "proximal":
            self._shrink()

    def _shrink(self) -> None:
        """Soft thresholding in the metric of Adam's step: by learning_rate * l1 / (sqrt(v) + epsilon)."""
        W_CKD = self.weights().W_CKD
        v_CKD = self.squares[0].view_as(self.W_RD)[self.used].view_as(W_CKD)
        root_CKD = (v_CKD / (1 - _BETA2 ** self.steps[0])).sqrt_().add_(_EPSILON)
        reach_CKD = self.recipe.learning_rate * self.l1_C11 / root_CKD
        W_CKD.sub_(torch.minimum(torch.maximum(W_CKD, -reach_CKD), reach_CKD))

    def _penalise(self, g_CKD: Tensor) -> None:
        """Add the penalties' gradients."""
        W_CKD = self.weights().W_CKD
        if self.any_l1 and self.recipe.l1_step == "subgradient":
            g_CKD.addcmul_(torch.sign(W_CKD, out=self.sign_CKD), self.l1_C11)
        if self.any_l2 and self.recipe.penalty == "squared_l2":
            g_CKD.addcmul_(W_CKD, 2 * self.l2_C11)
        elif self.any_l2:
            norm_C11 = torch.linalg.vector_norm(W_CKD.flatten(1), dim=1)[:, None, None]
            g_CKD.addcmul_(W_CKD, torch.where(norm_C11 > 0, self.l2_C11 / norm_C11, 0.0))


class Guesses(NamedTuple):
    """Most probable class (C, N) and its probability (C, N)."""

    class_CN: Tensor
    score_CN: Tensor


def predict(weights: Weights, rows: Rows) -> Guesses:
    """What cells say of every row."""
    cells, classes, _ = weights.W_CKD.shape
    W_RD = stacked(weights.W_CKD, torch.float32)
    class_CN = torch.empty(cells, rows.shape[0], dtype=torch.int64, device=rows.device)
    score_CN = torch.empty(cells, rows.shape[0], device=rows.device)
    for at, x_nD in blocks(rows):
        z_CKn = product(W_RD, x_nD)[: cells * classes].view(cells, classes, -1) + weights.b_CK[:, :, None]
        best_Cn, class_CN[:, at] = z_CKn.max(1)
        score_CN[:, at] = (best_Cn - z_CKn.logsumexp(1)).exp()
    return Guesses(class_CN, score_CN)
