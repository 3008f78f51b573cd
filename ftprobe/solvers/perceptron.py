"""Perceptrons with two hidden layers side by side: their parameters, and the gradient of a batch by hand.

x -> ReLU(W1 x + b1) -> ReLU(W2 . + b2) -> softmax(W3 . + b3); the cross-entropy of a batch is its mean (METHODS 4).
Activations stand as (units, items): the first layer of all cells is then one product of the stacked rows W1_1..W1_G
with the items, its gradient another, and what follows is batched by cell.

On one thread of a CPU a cell's numbers do not depend on the cells beside it: the rows of `products.product` do not,
the products of the other layers are made cell by cell, and the parameters of a cell fill whole cache lines, so that
vectorised loops treat them alike wherever the cell stands.

Axes: G cells, N items, n items of a batch, D features (whole cache lines), H and J hidden units, K classes, P = H D,
Q the other parameters of a cell (whole cache lines), R = G H stacked rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ftprobe.solvers.products import product, stacked

_LINE = 16  # float32 numbers of a cache line
_SMALL = 1 << 18  # multiplications up to which OpenBLAS takes a transposed factor as it is: up to twice as fast
_FEWEST_COLUMNS = 16
_TILE = 4  # `product` takes so many rows, and multiples of it, as they are


def whole_lines(length: int) -> int:
    """The least whole number of cache lines that holds `length` numbers, in numbers."""
    return -(-length // _LINE) * _LINE


class Layers(NamedTuple):
    """The parameters by layer: views."""

    W1_GHD: Tensor
    b1_GH: Tensor
    W2_GJH: Tensor
    b2_GJ: Tensor
    W3_GKJ: Tensor
    b3_GK: Tensor


class Architecture(NamedTuple):
    """Sizes of a perceptron: D, H, J, K."""

    dim: int
    first: int
    second: int
    n_classes: int

    @property
    def penalised(self) -> int:
        """Weights behind the first layer."""
        return self.second * (self.first + self.n_classes)

    @property
    def width(self) -> int:
        """Q."""
        return whole_lines(self.penalised + sum(self[1:]))

    def layers(self, first_GP: Tensor, rest_GQ: Tensor) -> Layers:
        """Views of what `Values` holds."""
        D, H, J, K = self
        lengths = [J * H, K * J, H, J, K]
        W2, W3, b1_GH, b2_GJ, b3_GK = torch.split(rest_GQ[:, : sum(lengths)], lengths, 1)
        return Layers(
            first_GP.view(-1, H, D), b1_GH, torch.unflatten(W2, 1, (J, H)), b2_GJ, torch.unflatten(W3, 1, (K, J)), b3_GK
        )


class Values(NamedTuple):
    """A number for every parameter of G cells: those of W1 (G, P); those of W2, W3, b1, b2, b3 and padding (G, Q)."""

    first_GP: Tensor
    rest_GQ: Tensor

    @classmethod
    def zeros(cls, sizes: Architecture, n_cells: int, like: Tensor) -> Values:
        """Of the precision and on the device of a tensor."""
        return cls(like.new_zeros(n_cells, sizes.first * sizes.dim), like.new_zeros(n_cells, sizes.width))

    def at(self, rows: slice) -> Values:
        """Views of some cells."""
        return Values(self.first_GP[rows], self.rest_GQ[rows])


class Forward:
    """Activations of G cells for batches of n items, in memory that the caller lends."""

    def __init__(self, sizes: Architecture, values: Values, n_items: int, scratch: Tensor) -> None:
        layers, n_cells = sizes.layers(*values), len(values.first_GP)
        self.W1_RD = layers.W1_GHD.flatten(0, 1)
        self.b1_GH1, self.b2_GJ1, self.b3_GK1 = (b[:, :, None] for b in layers[1::2])
        self.a1_GHn, self.a2_GJn, self.p_GKn = _carved(scratch, sizes[1:], n_cells, n_items)
        self.to_a2 = Product(layers.W2_GJH, self.a1_GHn, self.a2_GJn)
        self.to_p = Product(layers.W3_GKJ, self.a2_GJn, self.p_GKn)
        # no torch.softmax: it treats an item by its place among the threads
        self.exp: Any = np.exp if _by_numpy(scratch) else torch.exp
        self.p_array = _array(self.p_GKn)

    def __call__(self, x_nD: Tensor) -> Tensor:
        """Probabilities (G, K, n), in a buffer."""
        torch.add(_wide(self.W1_RD, x_nD).view_as(self.a1_GHn), self.b1_GH1, out=self.a1_GHn).relu_()
        self.to_a2()
        self.a2_GJn.add_(self.b2_GJ1).relu_()
        self.to_p()
        self.p_GKn.add_(self.b3_GK1)
        self.p_GKn.sub_(self.p_GKn.amax(1, keepdim=True))
        self.exp(self.p_array, out=self.p_array)
        return self.p_GKn.div_(self.p_GKn.sum(1, keepdim=True))


class Backward:
    """Gradients of the cross-entropy of G cells for batches of n items."""

    def __init__(self, sizes: Architecture, values: Values, gradient_GQ: Tensor, n_items: int, scratch: Tensor) -> None:
        layers, n_cells = sizes.layers(*values), len(gradient_GQ)
        _, self.gb1_GH, gW2_GJH, self.gb2_GJ, gW3_GKJ, self.gb3_GK = sizes.layers(values.first_GP, gradient_GQ)
        used = activation_numbers(sizes, n_cells, n_items)
        self.forward = Forward(sizes, values, n_items, scratch[:used])
        self.d1_GHn, self.d2_GJn = _carved(scratch[used:], sizes[1:3], n_cells, n_items)
        self.to_gW3 = Product(self.forward.p_GKn, self.forward.a2_GJn.mT, gW3_GKJ)
        self.to_d2 = Product(layers.W3_GKJ.mT, self.forward.p_GKn, self.d2_GJn)
        self.to_gW2 = Product(self.d2_GJn, self.forward.a1_GHn.mT, gW2_GJH)
        self.to_d1 = Product(layers.W2_GJH.mT, self.d2_GJn, self.d1_GHn)
        self.minus_G1n = gradient_GQ.new_full((1, 1, 1), -1.0).expand(n_cells, 1, n_items)

    def __call__(self, x_nD: Tensor, y_G1n: Tensor, gold_G1n: Tensor) -> Tensor:
        """The gradient of W1 (G, P), new; the others go to the gradient buffer, p[y] to `gold_G1n`."""
        d3_GKn = self.forward(x_nD)
        torch.gather(d3_GKn, 1, y_G1n, out=gold_G1n)
        d3_GKn.scatter_add_(1, y_G1n, self.minus_G1n).mul_(1 / len(x_nD))
        self.to_gW3()
        torch.sum(d3_GKn, 2, out=self.gb3_GK)
        self.to_d2()
        _mask(self.d2_GJn, self.forward.a2_GJn)
        self.to_gW2()
        torch.sum(self.d2_GJn, 2, out=self.gb2_GJ)
        self.to_d1()
        _mask(self.d1_GHn, self.forward.a1_GHn)
        torch.sum(self.d1_GHn, 2, out=self.gb1_GH)
        return _wide(self.d1_GHn.flatten(0, 1), x_nD.T).view(len(y_G1n), -1)


class Product:
    """A B of every cell into a buffer."""

    def __init__(self, a_GMK: Tensor, b_GKN: Tensor, out_GMN: Tensor) -> None:
        operands = (a_GMK, b_GKN, out_GMN)
        self.multiply: Any = np.matmul if _by_numpy(a_GMK) else torch.bmm
        self.operands = [_array(tensor) for tensor in (_in_slices(*operands) if _by_numpy(a_GMK) else operands)]

    def __call__(self) -> None:
        """Compute it once more."""
        a, b, out = self.operands
        self.multiply(a, b, out=out)


def _in_slices(a_GMK: Tensor, b_GKN: Tensor, out_GMN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same product as many of fewer columns of a transposed B, where that makes it small enough."""
    n_columns, numbers = b_GKN.shape[2], a_GMK[0].numel()
    width = n_columns
    while width % 2 == 0 and numbers * width > _SMALL:
        width //= 2
    if b_GKN.stride(2) == 1 or numbers * width > _SMALL or not _FEWEST_COLUMNS <= width < n_columns:
        return a_GMK, b_GKN, out_GMN
    b_GCKn, out_GCMn = (torch.unflatten(tensor, 2, (-1, width)).movedim(2, 1) for tensor in (b_GKN, out_GMN))
    return a_GMK[:, None], b_GCKn, out_GCMn


class SquaredNorm:
    """Sums of squares of the rows, one result (G,) for each of B batches."""

    def __init__(self, x_GP: Tensor, n_batches: int) -> None:
        self.out_BG = x_GP.new_empty(n_batches, len(x_GP))
        self.dot: Any = np.vecdot if _by_numpy(x_GP) else torch.linalg.vecdot
        self.x_GP, self.rows_B = _array(x_GP), [_array(out_G) for out_G in self.out_BG]

    def __call__(self, batch: int) -> None:
        """Compute the result of one batch."""
        self.dot(self.x_GP, self.x_GP, out=self.rows_B[batch])


def _by_numpy(tensor: Tensor) -> bool:
    """On one core numpy is faster than torch at small products; on several its threads and torch's stand in the way."""
    return tensor.device.type == "cpu" and torch.get_num_threads() == 1


def _array(tensor: Tensor) -> Any:
    """What the functions that `_by_numpy` chose take: the same memory."""
    return tensor.numpy() if _by_numpy(tensor) else tensor


def activation_numbers(sizes: Architecture, n_cells: int, n_items: int) -> int:
    """Length of the memory that `Forward` borrows."""
    return sum(whole_lines(n_cells * units * n_items) for units in sizes[1:])


def gradient_numbers(sizes: Architecture, n_cells: int, n_items: int) -> int:
    """Length of the memory that `Backward` borrows, activations included."""
    return activation_numbers(sizes, n_cells, n_items) + activation_numbers(
        sizes._replace(n_classes=0), n_cells, n_items
    )


def _carved(scratch: Tensor, units_of: Sequence[int], n_cells: int, n_items: int) -> list[Tensor]:
    """A buffer (G, units, n) for every number of units, each from a cache line on."""
    views, start = [], 0
    for units in units_of:
        length = n_cells * units * n_items
        views.append(scratch[start : start + length].view(n_cells, units, n_items))
        start += whole_lines(length)
    return views


def _wide(a_RK: Tensor, b_NK: Tensor) -> Tensor:
    """A B' (R, N), whose rows do not depend on each other."""
    if len(a_RK) % _TILE == 0:
        return product(a_RK, b_NK)
    return product(stacked(a_RK[None], a_RK.dtype), b_NK)[: len(a_RK)]


def _mask(d: Tensor, a: Tensor) -> None:
    """Zero where the unit is off, in place."""
    torch.ops.aten.threshold_backward.grad_input(d, a, 0, grad_input=d)
