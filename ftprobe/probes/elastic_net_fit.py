"""Elastic-net fits of a grid on some features, and the choice among them on dev (METHODS 3.2).

Axes: C cells, K classes, D features, N items, S control tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.hashing import derive_seed
from ftprobe.probes.elastic_net import ElasticNetOptions
from ftprobe.probes.packs import in_packs
from ftprobe.probes.setting import Setting
from ftprobe.solvers.elastic_net import Cell, Recipe, Weights, bytes_per_cell, fit_adam, predict
from ftprobe.solvers.elastic_net_converged import fit_elastic_net
from ftprobe.solvers.ranking import n_neurons, rank_neurons
from ftprobe.solvers.rows import Matrix, Rows

KEPT_PERCENT = 20  # of the ranking, at either end (Dalvi et al. 2019)
Pair = tuple[float, float]


class Fits(NamedTuple):
    """Fitted cells; `converged_C` is whether a converged solver got there."""

    weights: Weights
    converged_C: Tensor


def fit(
    options: ElasticNetOptions,
    setting: Setting,
    rows: Rows,
    y_SN: Tensor,
    cells: Sequence[tuple[Pair, int]],
    *,
    seed: int,
) -> Fits:
    """Fit cells, each a pair of lambdas and the label set (a row of `y_SN`) that it learns."""
    if options.solver == "converged":
        return _converged(options, rows, y_SN, cells, setting.n_classes)
    recipe = Recipe(
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.penalty,
        options.l1_step,
        options.ce,
        options.shuffle,
    )
    first, order = derive_seed(seed, "probe_init"), derive_seed(seed, "probe_order")
    made = in_packs(
        [Cell(l1, l2, first, labels) for (l1, l2), labels in cells],
        lambda pack: fit_adam(rows, y_SN, setting.n_classes, pack, recipe, order_seed=order),
        bytes_of=lambda n: n * bytes_per_cell(rows.shape[1], setting.n_classes, options.batch_size),
        device=setting.device,
    )
    weights = Weights(*(torch.cat(parts) for parts in zip(*made, strict=True)))
    return Fits(weights, torch.ones(len(cells), dtype=torch.bool))


def _converged(
    options: ElasticNetOptions, rows: Rows, y_SN: Tensor, cells: Sequence[tuple[Pair, int]], n_classes: int
) -> Fits:
    X_ND = rows.X_ND if isinstance(rows, Matrix) else rows(torch.arange(rows.shape[0]))
    W_CKD = torch.empty(len(cells), n_classes, rows.shape[1], device=rows.device)
    b_CK = torch.empty(len(cells), n_classes, device=rows.device)
    converged_C = torch.zeros(len(cells), dtype=torch.bool)
    for labels in dict.fromkeys(labels for _, labels in cells):
        at = [i for i, cell in enumerate(cells) if cell[1] == labels]
        fits = fit_elastic_net(
            X_ND,
            y_SN[labels],
            n_classes,
            [cells[i][0] for i in at],
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
        )
        W_CKD[at], b_CK[at] = fits.W_GKD.float(), fits.b_GK.float()
        converged_C[at] = fits.converged_G.cpu()
    return Fits(Weights(W_CKD, b_CK), converged_C)


def accuracies(weights: Weights, rows: Rows, y_N: Tensor) -> Tensor:
    """Share of items (C,) that each cell gets right."""
    return (predict(weights, rows).class_CN == y_N).double().mean(1).cpu()


def masked(weights: Weights, kept_CD: Tensor) -> Weights:
    """The same probes with the weights of all other neurons zero (METHODS 6, `ablate: mask`)."""
    return weights._replace(W_CKD=weights.W_CKD * kept_CD[:, None])


class Scores(NamedTuple):
    """Dev accuracies of each cell (C,): with all neurons, and with the first and the last 20 % of its ranking alone."""

    all_C: Tensor
    top_C: Tensor
    bottom_C: Tensor


def dev_scores(weights: Weights, rows: Rows, y_N: Tensor, *, seed: int) -> Scores:
    """What the choice of lambdas needs; classes that dev has and train lacks must be -1 in `y_N`."""
    order_CD = rank_neurons(weights.W_CKD, seed=seed).order_CD
    n_kept = n_neurons(order_CD.shape[1], KEPT_PERCENT)
    top_CD = torch.zeros_like(order_CD, dtype=weights.W_CKD.dtype)
    bottom_CD = top_CD.clone()
    top_CD.scatter_(1, order_CD[:, :n_kept], 1.0)
    bottom_CD.scatter_(1, order_CD[:, -n_kept:], 1.0)
    return Scores(
        accuracies(weights, rows, y_N),
        accuracies(masked(weights, top_CD), rows, y_N),
        accuracies(masked(weights, bottom_CD), rows, y_N),
    )


class Chosen(NamedTuple):
    """The cell chosen, and the score of every cell by the rule."""

    cell: int
    score_C: list[float]


def choose(options: ElasticNetOptions, pairs: Sequence[Pair], scores: Scores, zero_accuracy: float) -> Chosen:
    """The best pair by `lambda_score`; of equals the larger l1 + l2, then the larger l1, then the earlier.

    `zero_accuracy` is the dev accuracy at lambdas (0, 0).
    """
    if options.lambda_score == "dev_accuracy":
        score_C = scores.all_C
    else:
        score_C = 0.5 * (scores.top_C - scores.bottom_C) - 0.5 * (zero_accuracy - scores.all_C)
    score = [float(value) for value in score_C]
    # accuracies are fractions of a few items: equal ones may differ by rounding
    cell = max(range(len(pairs)), key=lambda c: (round(score[c], 9), sum(pairs[c]), pairs[c][0], -c))
    return Chosen(cell, score)
