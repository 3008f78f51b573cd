"""A pack of perceptrons of one architecture that train on the same batches, each until it is retired.

A step is scikit-learn's Adam: theta -= r sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + 1e-8), on the mean
cross-entropy of n items plus a/(2n) sum_k ||W_k||^2 (METHODS 4). A pack is worked on in blocks of cells, so that what
belongs to a block stays near the processor during its epoch.

Axes as in `ftprobe.solvers.perceptron`; A cells still training, S label rows, B batches of an epoch, V weights behind
the first layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.solvers.perceptron import Architecture, Backward, SquaredNorm, Values, gradient_numbers, whole_lines

_DECAYS = (0.9, 0.999)
_EPSILON = 1e-8
_BLOCK_UNITS = 2048  # hidden units of a block: products at full rate, activations still in the cache


class Regime(NamedTuple):
    """What the cells of a pack share: N, items of a batch, Adam's step size."""

    n_items: int
    batch_size: int
    learning_rate: float


class State(NamedTuple):
    """Rows of a pack: parameters, mean and mean square of their gradients, penalties a (G,), label rows (G,)."""

    theta: Values
    mean: Values
    square: Values
    a_G: Tensor
    labels_G: Tensor

    def at(self, rows: slice) -> State:
        """Views of some rows."""
        theta, mean, square = (values.at(rows) for values in self[:3])
        return State(theta, mean, square, self.a_G[rows], self.labels_G[rows])

    def swap(self, stopped: Tensor, training: Tensor) -> None:
        """Exchange rows; moments are kept of those still training."""
        for kept in (*self.theta, self.a_G, self.labels_G):
            kept[torch.cat([stopped, training])] = kept[torch.cat([training, stopped])]
        for moment in (*self.mean, *self.square):
            moment[stopped] = moment[training]


class Pack:
    """The first `active` rows of the state still train."""

    def __init__(self, sizes: Architecture, state: State, regime: Regime) -> None:
        self.sizes, self.state, self.regime = sizes, state, regime
        self.step = 0
        self.cell_G = torch.arange(len(state.a_G))
        self._lay_out(len(state.a_G))

    def epoch(self, x_ND: Tensor, y_SN: Tensor) -> Tensor:
        """Once through the items, in this order; the mean loss (A,) of its batches, float64, on the CPU."""
        x_BnD = torch.split(x_ND, self.regime.batch_size)
        loss_A = torch.cat([block.epoch(x_BnD, y_SN, self.step) for block in self.blocks])
        self.step += len(x_BnD)
        return loss_A.cpu()

    def retire(self, stopped_A: Tensor) -> None:
        """Stopped cells change places with the last that train on: from now on nothing moves their parameters."""
        active = int((~stopped_A).sum())
        stopped = torch.nonzero(stopped_A[:active])[:, 0]
        training = torch.nonzero(~stopped_A[active:])[:, 0] + active
        self.cell_G[torch.cat([stopped, training])] = self.cell_G[torch.cat([training, stopped])]
        device = self.state.a_G.device
        self.state.swap(stopped.to(device), training.to(device))
        self._lay_out(active)

    def parameters(self) -> Values:
        """Of all cells, in the order they were given."""
        rows = torch.argsort(self.cell_G).to(self.state.a_G.device)
        return Values(*(values[rows] for values in self.state.theta))

    def _lay_out(self, active: int) -> None:
        """Blocks of even sizes, which take turns in one scratch."""
        self.active, self.blocks = active, []
        n_blocks = -(-active // block_cells(self.sizes, self.state.a_G.device))
        if not n_blocks:
            return
        most = -(-active // n_blocks)
        numbers = gradient_numbers(self.sizes, most, self.regime.batch_size) + whole_lines(most * self.regime.n_items)
        scratch = self.state.theta.rest_GQ.new_empty(numbers)
        edges = [active * place // n_blocks for place in range(n_blocks + 1)]
        for start, stop in itertools.pairwise(edges):
            self.blocks.append(Block(self.sizes, self.state.at(slice(start, stop)), self.regime, scratch))


class Block:
    """Cells whose batches are worked on together."""

    def __init__(self, sizes: Architecture, state: State, regime: Regime, scratch: Tensor) -> None:
        self.state, self.regime = state, regime
        n_cells, theta = len(state.a_G), state.theta
        self.gold_G1N = scratch[: n_cells * regime.n_items].view(n_cells, 1, -1)
        used = whole_lines(self.gold_G1N.numel())
        self.gradient_GQ = torch.zeros_like(theta.rest_GQ)
        lengths = {regime.batch_size, regime.n_items % regime.batch_size} - {0}
        self.backward = {n: Backward(sizes, theta, self.gradient_GQ, n, scratch[used:]) for n in lengths}
        self.pull_G1 = {n: (state.a_G / n).to(theta.rest_GQ.dtype)[:, None] for n in lengths}
        self.W_GV, self.gradient_GV = theta.rest_GQ[:, : sizes.penalised], self.gradient_GQ[:, : sizes.penalised]
        n_batches = -(-regime.n_items // regime.batch_size)
        self.norms = [SquaredNorm(W_GP, n_batches) for W_GP in (theta.first_GP, self.W_GV)]

    def epoch(self, x_BnD: Sequence[Tensor], y_SN: Tensor, step: int) -> Tensor:
        """The mean loss (G,) of the batches, float64; the parameters move on from this step of Adam."""
        y_GN = y_SN.expand(len(self.state.a_G), -1) if len(y_SN) == 1 else y_SN[self.state.labels_G]
        y_BG1n, gold_BG1n = (
            torch.split(of_G1N, self.regime.batch_size, 2) for of_G1N in (y_GN[:, None], self.gold_G1N)
        )
        t_B = torch.arange(step + 1, step + 1 + len(x_BnD), dtype=torch.float32, device=y_SN.device).unbind()
        for place, x_nD in enumerate(x_BnD):
            gradient_GP = self.backward[len(x_nD)](x_nD, y_BG1n[place], gold_BG1n[place])
            for norm in self.norms:
                norm(place)
            self._descend(gradient_GP, len(x_nD), step + 1 + place, t_B[place])
        least = torch.finfo(self.gold_G1N.dtype).eps  # scikit-learn keeps p in [least, 1 - least]
        log_G = self.gold_G1N.clamp_(least, 1 - least).log_().sum((1, 2), dtype=torch.float64)
        squares_G = sum(norm.out_BG.sum(0, dtype=torch.float64) for norm in self.norms)
        return (self.state.a_G / 2 * squares_G - log_G) / self.regime.n_items

    def _descend(self, gradient_GP: Tensor, n_items: int, step: int, t: Tensor) -> None:
        """Add the gradient of the penalty and take a step. torch's Adam divides sqrt(v) by sqrt(1 - 0.999^t) first."""
        theta, mean, square = self.state[:3]
        gradient_GP.addcmul_(theta.first_GP, self.pull_G1[n_items])
        self.gradient_GV.addcmul_(self.W_GV, self.pull_G1[n_items])
        torch._fused_adam_(
            theta, (gradient_GP, self.gradient_GQ), mean, square, (), (t, t), amsgrad=False, maximize=False,
            lr=self.regime.learning_rate, beta1=_DECAYS[0], beta2=_DECAYS[1], weight_decay=0.0,
            eps=_EPSILON / math.sqrt(1 - _DECAYS[1] ** step),
        )  # fmt: skip


def block_cells(sizes: Architecture, device: torch.device) -> int:
    """Cells that are worked on together: on an accelerator all of them."""
    return max(1, _BLOCK_UNITS // (sizes.first + sizes.second)) if device.type == "cpu" else 1 << 30
