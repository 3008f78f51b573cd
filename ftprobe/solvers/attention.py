"""Attention rows as distributions: their entropy, and the earth mover's distance between two of them (METHODS 12).

Axes: N sequences, H heads, S positions; of `A_NHSS` the first S counts queries, the second keys. Everything is
computed in float64 on the tensors' own device, all sequences and heads at once. `mask_NS` is 1 at real positions,
which are consecutive, and 0 at padding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["from", "to"]
GroundDistance = Literal["position", "position_normalised", "values"]


def distributions(A_NHSS: Tensor, mask_NS: Tensor, *, direction: Direction = "from") -> Tensor:
    """Attention as distributions over real positions, float64, padding 0, each row divided by its sum.

    Parameters
    ----------
    A_NHSS : Tensor
        Attention after softmax, before dropout.
    direction
        `from`: row j is what query j attends to; `to`: row i is which queries attend to key i.

    Returns
    -------
    Tensor (N, H, S, S)
        Rows of padding are NaN, and so are rows without mass (a key that nothing attends to).
    """
    real_NS = mask_NS.to(torch.float64)
    P_NHSS = A_NHSS.to(torch.float64) * (real_NS[:, None, :, None] * real_NS[:, None, None, :])
    if direction == "to":
        P_NHSS = P_NHSS.mT.contiguous()
    return P_NHSS.div_(P_NHSS.sum(-1, keepdim=True))


def entropy(P_NHSS: Tensor, mask_NS: Tensor, *, log_base: Literal["e", "2"] = "e", normalise: bool = False) -> Tensor:
    """Entropy of each row, -sum p log p with 0 log 0 = 0 (Mosbach et al. 2020, equation 1, its sign mended).

    Parameters
    ----------
    P_NHSS : Tensor
        Of `distributions`.
    log_base
        Nat or bit.
    normalise
        Divide by the log of the number of real positions: then in [0, 1].

    Returns
    -------
    Tensor (N, H, S)
        NaN where the row is.
    """
    H_NHS: Tensor = torch.special.entr(P_NHSS).sum(-1)
    if normalise:
        return H_NHS.div_(mask_NS.sum(-1).to(H_NHS).log()[:, None, None])
    return H_NHS.div_(math.log(2)) if log_base == "2" else H_NHS


def earth_movers_distance(
    P_NHSS: Tensor, Q_NHSS: Tensor, mask_NS: Tensor, *, ground_distance: GroundDistance = "position"
) -> Tensor:
    """1-D Wasserstein distance between rows of two states' attention to the same text.

    Parameters
    ----------
    P_NHSS, Q_NHSS : Tensor
        Of `distributions`.
    ground_distance
        `position`: moving mass from i to j costs |i - j|, so that the distance is the sum of the absolute differences
        of the cumulative sums, at most n - 1 for n real positions. `position_normalised`: |i - j| / (n - 1).
        `values`: between the two rows as sets of n equally weighted numbers, whatever their order.

    Returns
    -------
    Tensor (N, H, S)
        NaN where a row is.
    """
    n_N11 = mask_NS.sum(-1).to(torch.float64)[:, None, None]
    if ground_distance == "values":
        padding_N11S = mask_NS[:, None, None, :] == 0
        # Padding goes last in both, where the difference is 0.
        p_NHSS, q_NHSS = (one.masked_fill(padding_N11S, 2.0).sort(-1).values for one in (P_NHSS, Q_NHSS))
        return p_NHSS.sub_(q_NHSS).abs_().sum(-1) / n_N11
    moved_NHSS = (P_NHSS - Q_NHSS).cumsum_(-1)[..., :-1]
    distance_NHS = moved_NHSS.abs_().sum(-1)
    return distance_NHS if ground_distance == "position" else distance_NHS / (n_N11 - 1)
