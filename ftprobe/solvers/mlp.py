"""The MLP grid probe: two hidden layers trained as scikit-learn's MLPClassifier trains them, many cells at a time.

A cell is a penalty, a seed of the initial weights and a row of labels. Cells of a call share their architecture, their
items and the order of their batches, and nothing else: on one thread of a CPU a cell's numbers are the same, bit by
bit, whatever stands beside it; elsewhere rounding may differ. Differences from MLPClassifier (METHODS 4): two classes
have two outputs; the order of the batches does not depend on a cell's seed.

Axes: S label rows, N items, D features, G cells, A cells still training, H and J hidden units, K classes, E epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ftprobe.solvers.pack import Pack, Regime, State, block_cells
from ftprobe.solvers.perceptron import (
    Architecture,
    Forward,
    Layers,
    Values,
    activation_numbers,
    gradient_numbers,
    whole_lines,
)

_BATCH_SIZE = 200
_PREDICTED_ROWS = 1024


class MlpCell(NamedTuple):
    """One probe: penalty a >= 0, seed of its initial weights (in [0, 2^32)), row of the labels."""

    alpha: float
    seed: int
    labels: int = 0


class MlpFits(NamedTuple):
    """Cells in the order given: layers on the device of the features in the precision of the fit, the rest on the CPU.

    `W1_GHD` (G, H, D), `b1_GH`, `W2_GJH` (G, J, H), `b2_GJ`, `W3_GKJ` (G, K, J), `b3_GK`: x -> ReLU(W1 x + b1) ->
    ReLU(W2 . + b2) -> softmax(W3 . + b3), after the last epoch. `losses_EG` (E, G) is the mean loss of the batches of
    every epoch, penalty included, NaN after a cell's last, and `loss_G` that of its last. `converged_G` is False
    where the epochs ran out or the loss ceased to be a number.
    """

    W1_GHD: Tensor
    b1_GH: Tensor
    W2_GJH: Tensor
    b2_GJ: Tensor
    W3_GKJ: Tensor
    b3_GK: Tensor
    losses_EG: Tensor
    loss_G: Tensor
    epochs_G: Tensor
    converged_G: Tensor


class MlpPredictions(NamedTuple):
    """Most probable class (G, N), int64, and its probability (G, N)."""

    class_GN: Tensor
    probability_GN: Tensor


class StopRule(NamedTuple):
    """Stop after more than `patience` epochs in a row whose loss is above the lowest so far minus `tolerance`."""

    max_epochs: int
    tolerance: float
    patience: int


def fit_mlps(
    X_ND: Tensor,
    y_SN: Tensor,
    n_classes: int,
    hidden: tuple[int, int],
    cells: Sequence[MlpCell],
    *,
    order_seed: int,
    learning_rate: float = 1e-3,
    batch_size: int | None = None,
    max_epochs: int = 1000,
    tolerance: float = 1e-4,
    patience: int = 10,
) -> MlpFits:
    """Train every cell (Zhou and Srikumar 2022, section 2.1, with scikit-learn's defaults).

    With one torch thread small products are numpy's: hold its BLAS to one thread too (threadpoolctl), or it will
    contend for the other cores.

    Adam on the mean cross-entropy of a batch of n items plus a/(2n) sum_k ||W_k||_F^2; the last batch of an epoch may
    be short. Initial weights and biases are those of MLPClassifier with `random_state` = the cell's seed.

    Parameters
    ----------
    X_ND : Tensor of shape (N, D)
        Features. float64 is computed in float64, anything else in float32.
    y_SN : Tensor of shape (S, N), integer
        Rows of classes in [0, n_classes); each cell names its row.
    n_classes : int
        K >= 2.
    hidden : (H, J)
        Units of the hidden layers.
    cells : sequence of MlpCell
        G >= 1.
    order_seed : int
        Seed of the permutations of the items, a new one each epoch, the same for all cells.
    learning_rate : float
        Adam's step size.
    batch_size : int, optional
        min(200, N) if not given.
    max_epochs, tolerance, patience
        A cell stops at the `patience` + 1st epoch in a row whose loss is above the lowest so far minus `tolerance`,
        and at `max_epochs`.

    Returns
    -------
    MlpFits

    Raises
    ------
    ValueError
        No cells; classes or label rows out of range; fewer than two classes.
    """
    orders = _permutations(len(X_ND), order_seed)
    regime = Regime(len(X_ND), min(batch_size or _BATCH_SIZE, len(X_ND)), learning_rate)
    return train(X_ND, y_SN, n_classes, hidden, cells, orders, regime, StopRule(max_epochs, tolerance, patience))


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # a cell that overflows says so by its loss
def train(
    X_ND: Tensor,
    y_SN: Tensor,
    n_classes: int,
    hidden: tuple[int, int],
    cells: Sequence[MlpCell],
    orders: Iterator[Tensor],
    regime: Regime,
    rule: StopRule,
) -> MlpFits:
    """`fit_mlps` with the order of the items of every epoch from `orders`, (N,) int64 each."""
    _check(y_SN, n_classes, cells)
    dim = X_ND.shape[1]
    X_ND = _padded(X_ND)
    sizes = Architecture(X_ND.shape[1], *hidden, n_classes)
    pack, progress = Pack(sizes, _initial(sizes, dim, cells, X_ND), regime), Progress(len(cells), rule)
    x_ND = torch.empty_like(X_ND)
    while pack.active and progress.epoch < rule.max_epochs:
        order_N = next(orders).to(X_ND.device)
        torch.index_select(X_ND, 0, order_N, out=x_ND)
        stopped_A = progress.update(pack.cell_G[: pack.active], pack.epoch(x_ND, y_SN[:, order_N].long()))
        if stopped_A.any():
            pack.retire(stopped_A)
    W1_GHD, *others = sizes.layers(*pack.parameters())
    layers = Layers(*(tensor.contiguous() for tensor in (W1_GHD[:, :, :dim], *others)))
    losses_EG = torch.stack(progress.losses)
    return MlpFits(*layers, losses_EG, progress.loss_G, progress.epochs_G, progress.converged_G)


class Progress:
    """Losses of all cells, and which of them have stopped."""

    def __init__(self, n_cells: int, rule: StopRule) -> None:
        self.rule, self.epoch = rule, 0
        self.lowest_G = torch.full((n_cells,), math.inf, dtype=torch.float64)
        self.loss_G = torch.full_like(self.lowest_G, math.nan)
        self.worse_G, self.epochs_G = (torch.zeros(n_cells, dtype=torch.int64) for _ in range(2))
        self.converged_G = torch.zeros(n_cells, dtype=torch.bool)
        self.losses: list[Tensor] = []

    def update(self, cell_A: Tensor, loss_A: Tensor) -> Tensor:
        """Take in an epoch's losses (A,) of these cells; which of them stop (A,)."""
        self.epoch += 1
        worse_A = torch.where(loss_A > self.lowest_G[cell_A] - self.rule.tolerance, self.worse_G[cell_A] + 1, 0)
        self.worse_G[cell_A] = worse_A
        self.lowest_G[cell_A] = torch.minimum(self.lowest_G[cell_A], loss_A)
        self.converged_G[cell_A] = worse_A > self.rule.patience
        self.loss_G[cell_A], self.epochs_G[cell_A] = loss_A, self.epoch
        self.losses.append(torch.full_like(self.loss_G, math.nan).index_copy_(0, cell_A, loss_A))
        return (worse_A > self.rule.patience) | ~loss_A.isfinite()


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")
def predict_mlps(fits: MlpFits, X_ND: Tensor) -> MlpPredictions:
    """Classes and their probabilities, for features (N, D) on the device of the fits; items in blocks."""
    W1_GHD, _, W2_GJH, _, W3_GKJ, _ = layers = fits[:6]
    dim = W1_GHD.shape[2]
    sizes = Architecture(whole_lines(dim), len(W1_GHD[0]), len(W2_GJH[0]), len(W3_GKJ[0]))
    class_GN = torch.empty(len(W1_GHD), len(X_ND), dtype=torch.int64, device=X_ND.device)
    probability_GN = torch.empty_like(class_GN, dtype=W1_GHD.dtype)
    at_once = block_cells(sizes, X_ND.device)
    for first in range(0, len(W1_GHD), at_once):
        cells = slice(first, first + at_once)
        theta = Values.zeros(sizes, len(W1_GHD[cells]), W1_GHD)
        for target, tensor in zip(sizes.layers(*theta), layers, strict=True):
            target[..., : tensor.shape[-1]] = tensor[cells]
        scratch = W1_GHD.new_empty(activation_numbers(sizes, len(theta.rest_GQ), _PREDICTED_ROWS))
        for start in range(0, len(X_ND), _PREDICTED_ROWS):
            items = slice(start, start + _PREDICTED_ROWS)
            x_nD = _padded(X_ND[items].to(W1_GHD.dtype))
            p_GKn = Forward(sizes, theta, len(x_nD), scratch)(x_nD)
            torch.max(p_GKn, 1, out=(probability_GN[cells, items], class_GN[cells, items]))
    return MlpPredictions(class_GN, probability_GN)


def best_cells(hidden: tuple[int, int], dim: int, n_classes: int) -> int:
    """Cells that a CPU trains together; `fit_mlps` divides larger calls, multiples waste nothing.

    >>> best_cells((32, 32), 768, 17), best_cells((256, 256), 768, 17)
    (32, 4)
    """
    return block_cells(Architecture(whole_lines(dim), *hidden, n_classes), torch.device("cpu"))


def mlp_bytes(n_items: int, dim: int, n_classes: int, hidden: tuple[int, int], n_cells: int) -> int:
    """Memory that `fit_mlps` takes beside its arguments, for float32 and the default batch."""
    sizes = Architecture(whole_lines(dim), *hidden, n_classes)
    items = n_items * (2 * 4 * sizes.dim + 2 * 8)  # the features in float32 and in the order of the epoch; labels
    parameters = sizes.first * sizes.dim + sizes.width
    block = min(n_cells, best_cells(hidden, dim, n_classes))
    work = gradient_numbers(sizes, block, min(_BATCH_SIZE, n_items)) + block * (parameters + n_items)
    return items + 4 * (n_cells * (4 * parameters + sizes.width) + work)


def _check(y_SN: Tensor, n_classes: int, cells: Sequence[MlpCell]) -> None:
    if n_classes < 2:
        raise ValueError(f"n_classes is {n_classes}: a probe tells at least two classes apart")
    if not cells:
        raise ValueError("cells is empty: give at least one MlpCell")
    low, high = int(y_SN.min()), int(y_SN.max())
    if low < 0 or high >= n_classes:
        raise ValueError(f"y_SN holds classes {low} to {high}: they must lie in [0, {n_classes})")
    for cell in cells:
        if not 0 <= cell.labels < len(y_SN):
            raise ValueError(f"{cell} names label row {cell.labels}: y_SN has rows 0 to {len(y_SN) - 1}")


def _padded(X_ND: Tensor) -> Tensor:
    """float32 or float64, columns of zeros up to whole cache lines."""
    X_ND = X_ND if X_ND.dtype == torch.float64 else X_ND.float()
    missing = whole_lines(X_ND.shape[1]) - X_ND.shape[1]
    return torch.nn.functional.pad(X_ND, (0, missing)) if missing else X_ND.contiguous()


def _initial(sizes: Architecture, dim: int, cells: Sequence[MlpCell], like: Tensor) -> State:
    """Uniform in +-sqrt(6 / (inputs + outputs)), drawn as scikit-learn does; no moments yet."""
    theta, mean, square = (Values.zeros(sizes, len(cells), like) for _ in range(3))
    layers, units = sizes.layers(*theta), (dim, *sizes[1:])
    for place, cell in enumerate(cells):
        random = np.random.RandomState(cell.seed)
        for depth, (inputs, outputs) in enumerate(itertools.pairwise(units)):
            bound = math.sqrt(6 / (inputs + outputs))
            W_io = random.uniform(-bound, bound, (inputs, outputs))
            layers[2 * depth][place, :, :inputs] = torch.from_numpy(W_io.T)
            layers[2 * depth + 1][place] = torch.from_numpy(random.uniform(-bound, bound, outputs))
    a_G = torch.tensor([cell.alpha for cell in cells], dtype=torch.float64, device=like.device)
    labels_G = torch.tensor([cell.labels for cell in cells], device=like.device)
    return State(theta, mean, square, a_G, labels_G)


def _permutations(n_items: int, seed: int) -> Iterator[Tensor]:
    random = np.random.default_rng(seed)
    while True:
        yield torch.from_numpy(random.permutation(n_items))
