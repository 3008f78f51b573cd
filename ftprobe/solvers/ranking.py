"""Rankings of neurons: by the weights of a linear probe, or by class means without a probe (METHODS 6).

A ranking is computed on the CPU in float64 and returned on the device of its input: equal weights give
equal rankings on every machine. Cells do not see each other.

Axes: C cells, K classes, D neurons, N items, n ranked neurons, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INF = float("inf")


class Ranking(NamedTuple):
    """Neurons of each cell, best first (C, D); how many are zero in every counted class (C,); entry levels (C, D)."""

    order_CD: Tensor
    n_zero_C: Tensor
    entry_CD: Tensor


class ClassMeans(NamedTuple):
    """Mean of each class (K, D), float64, NaN where a class has no item; items of each class (K,), int64."""

    mu_KD: Tensor
    n_K: Tensor


class _Entry(NamedTuple):
    """Of one cell: e(d) and max_c |W_cd| / total_c, (D,) each, or (C, D) for all cells."""

    level: Tensor
    share: Tensor


def entry_levels(W_CKD: Tensor, counted_K: Tensor | None = None) -> Tensor:
    """Weight mass at which each neuron joins the union over classes of the shortest prefixes with that mass.

    e(d) = min_c before_c(d) / total_c, where class c sorts |W_c| descending (ties: smaller d first), before_c(d) sums
    what is placed before d, and total_c sums all. For every p in (0, 1), {d : e(d) < p} is the top set at mass p of
    Durrani et al. 2021, section 2 (after Dalvi et al. 2019).

    Parameters
    ----------
    W_CKD : tensor of shape (C, K, D)
        Probe weights of C cells.
    counted_K : bool tensor of shape (K,), optional
        Classes that count: those that occur in train. All by default. A class whose weights are all zero never does.

    Returns
    -------
    float64 tensor of shape (C, D)
        In [0, 1]; +inf for a neuron whose weights are zero in every class that counts: no top set holds it.

    Raises
    ------
    ValueError
        A weight, or the sum of a class, is not finite.
    """
    return _entries(W_CKD, counted_K).level.to(W_CKD.device)


def rank_neurons(
    W_CKD: Tensor, *, seed: int, counted_K: Tensor | None = None, rank_stride: int | None = None
) -> Ranking:
    """Neurons of each cell from the most to the least salient (METHODS 6).

    Ascending e(d); ties by larger max_c |W_cd| / total_c, then by smaller d. All-zero neurons come last, in the order
    of a hash of (seed, d): by d, a sparse probe would fill the bottom set with the last layer.

    Parameters
    ----------
    W_CKD : tensor of shape (C, K, D)
    seed : int
        Decides the order of the all-zero neurons, nothing else.
    counted_K : bool tensor of shape (K,), optional
        As in `entry_levels`.
    rank_stride : int, optional
        Take for e(d) the first step s/rank_stride whose top set holds d. Step 0 holds each class's largest weight
        (e = 0), the last one every nonzero neuron that is left. 100 gives the step sets of NeuroX's
        `get_neuron_ordering`; its order inside a step is arbitrary, here the ties decide. `entry_CD` stays exact.

    Returns
    -------
    Ranking

    Raises
    ------
    ValueError
        A weight, or the sum of a class, is not finite; or rank_stride is below 1.
    """
    level_CD, share_CD = _entries(W_CKD, counted_K)
    zero_CD = torch.isinf(level_CD)
    late_D = torch.from_numpy((_splitmix64(seed, level_CD.shape[1]) >> np.uint64(11)).astype(np.float64))
    tie_CD = torch.where(zero_CD, -late_D, share_CD)
    first_CD = level_CD if rank_stride is None else _steps(level_CD, rank_stride)
    by_tie_CD = tie_CD.argsort(dim=1, descending=True, stable=True)
    order_CD = by_tie_CD.gather(1, first_CD.gather(1, by_tie_CD).argsort(dim=1, stable=True))
    device = W_CKD.device
    return Ranking(order_CD.to(device), zero_CD.sum(1).to(device), level_CD.to(device))


def _entries(W_CKD: Tensor, counted_K: Tensor | None) -> _Entry:
    """Cell by cell: a cell's weights stay in the cache, and many cells need no more memory than one."""
    counts_K = torch.ones(W_CKD.shape[1], dtype=torch.bool) if counted_K is None else counted_K.cpu()
    cells = [_entry(W_KD, counts_K[:, None]) for W_KD in W_CKD.detach().cpu()]
    return _Entry(torch.stack([cell.level for cell in cells]), torch.stack([cell.share for cell in cells]))


def _entry(W_KD: Tensor, counted_K1: Tensor) -> _Entry:
    size_KD = W_KD.double().abs()
    if not torch.isfinite(size_KD.sum(1)).all():
        raise ValueError("a probe's weights, or their sum over neurons, are not finite; fit it again before ranking")
    size_KD = torch.where(counted_K1, size_KD, 0.0)
    placed_KD, at_KD = size_KD.sort(dim=1, descending=True, stable=True)
    mass_KD = placed_KD.cumsum(1)
    total_K1 = mass_KD[:, -1:]
    before_KD = torch.nn.functional.pad(mass_KD[:, :-1], (1, 0))
    level_KD = torch.empty_like(size_KD).scatter_(1, at_KD, before_KD / total_K1)
    level_D = torch.where(total_K1 > 0, level_KD, _INF).amin(0)
    share_D = torch.where(total_K1 > 0, size_KD / total_K1, 0.0).amax(0)
    return _Entry(torch.where((size_KD > 0).any(0), level_D, _INF), share_D)


def _steps(level_CD: Tensor, stride: int) -> Tensor:
    """First s in 0..stride with e(d) < s / stride, and 0 where e(d) = 0; +inf stays."""
    if stride < 1:
        raise ValueError(f"rank_stride is a number of steps, at least 1, not {stride}")
    p_s = torch.arange(stride, dtype=torch.float64) / stride
    step_CD = torch.searchsorted(p_s, level_CD, right=True).double()
    step_CD[level_CD == 0] = 0
    return torch.where(torch.isinf(level_CD), level_CD, step_CD)


def _splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """The first `count` outputs of splitmix64 (Steele, Lea and Flood 2014) from state `seed`; each needs only its d."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def class_means(batches: Iterable[tuple[Tensor, Tensor]], n_classes: int) -> ClassMeans:
    """Mean vector of each class over batches of items.

    Features may come in parts too: join the `mu_KD` of each layer along D instead of the layers' features.

    Parameters
    ----------
    batches : iterable of (tensor of shape (N, D), int tensor of shape (N,))
        Features, and classes in [0, n_classes).
    n_classes : int

    Returns
    -------
    ClassMeans

    Raises
    ------
    ValueError
        No batch, or a feature that is not finite.
    """
    sum_KD, n_K = None, torch.zeros(n_classes, dtype=torch.int64)
    for X_ND, y_N in batches:
        if sum_KD is None:
            sum_KD = X_ND.new_zeros(n_classes, X_ND.shape[1], dtype=torch.float64)
        sum_KD.index_add_(0, y_N, X_ND.double())
        n_K = n_K.to(y_N.device) + torch.bincount(y_N, minlength=n_classes)
    if sum_KD is None:
        raise ValueError("class means need at least one batch of items")
    if not torch.isfinite(sum_KD).all():
        raise ValueError("features are not finite; extract these activations again")
    return ClassMeans(sum_KD / n_K[:, None], n_K)


def probeless(mu_KD: Tensor, counted_K: Tensor | None = None) -> Tensor:
    """Neurons by how far the class means lie apart: r(d) = sum over pairs a < b of |mu_a[d] - mu_b[d]|, descending.

    Ties by smaller d (Antverg and Belinkov 2022). A gap between neighbours of the sorted means parts i
    classes from the K - i others, so it counts i (K - i) times: no pair is formed.

    Parameters
    ----------
    mu_KD : tensor of shape (K, D)
        Class means, as `class_means` gives them.
    counted_K : bool tensor of shape (K,), optional
        Classes that count: those that occur in train (`n_K > 0`). All by default.

    Returns
    -------
    int64 tensor of shape (D,)

    Raises
    ------
    ValueError
        No class counts, or a mean that counts is not finite.
    """
    counted_KD = (mu_KD if counted_K is None else mu_KD[counted_K]).detach().cpu().double()
    if not len(counted_KD) or not torch.isfinite(counted_KD).all():
        raise ValueError(
            "class means to rank by must be finite, of one class at least; leave out classes without items"
        )
    gap_DK = counted_KD.mT.contiguous().sort(dim=1).values.diff(dim=1)  # contiguous: equal columns get equal sums
    below_K = torch.arange(1, len(counted_KD), dtype=torch.float64)
    r_D = (below_K * (len(counted_KD) - below_K) * gap_DK).sum(1)
    return r_D.argsort(descending=True, stable=True).to(mu_KD.device)


def layer_counts(order_n: Tensor, dim: int, n_layers: int) -> Tensor:
    """How many of the neurons lie in each layer: neuron d is unit d mod dim of layer d // dim.

    Parameters
    ----------
    order_n : int tensor of shape (n,)
        The first n neurons of a ranking over n_layers * dim.
    dim, n_layers : int

    Returns
    -------
    int64 tensor of shape (L,)

    Raises
    ------
    ValueError
        A neuron outside these layers.

    Examples
    --------
    >>> layer_counts(torch.tensor([0, 5, 4, 3]), dim=2, n_layers=3).tolist()
    [1, 1, 2]
    """
    n_L = torch.bincount(order_n // dim, minlength=n_layers)
    if len(n_L) > n_layers:
        raise ValueError(f"neuron {int(order_n.max())} lies outside {n_layers} layers of {dim} units")
    return n_L


def n_neurons(D: int, percent: float) -> int:
    """ceil(percent/100 * D), with `percent` read as the decimal number it prints as.

    Raises
    ------
    ValueError
        `percent` outside (0, 100].

    Examples
    --------
    >>> n_neurons(9984, 5), n_neurons(9984, 10), n_neurons(1000, 0.7)
    (500, 999, 7)
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a share of the neurons lies in (0, 100] per cent, not {percent}")
    return math.ceil(Fraction(str(percent)) * D / 100)
