"""From logits to spans: the best of each window, and the best window of each question (METHODS 1.1).

Axes: N questions, W windows, S columns of a padded batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.finetune.texts import in_batches
from ftprobe.finetune.windows import Ints, Windows
from ftprobe.models.heads import SpanHead

BEST = 20
_BATCH = 32
Floats = NDArray[np.float32]


class Spans(NamedTuple):
    """The best span of each window (W), counted from the first sub-word of its passage, and its two logits' sum.

    `first_W` and `last_W` are -1 and `score_W` -inf where no start and end fit together. `null_W` is the sum of the
    classification token's logits; `type_W` the most probable type other than type 0, 0 where the head knows none.
    """

    first_W: Ints
    last_W: Ints
    score_W: Floats
    null_W: Floats
    type_W: Ints


def best_spans(
    span_nS2: Tensor, first_n: Tensor, count_n: Tensor, token_n: Tensor, *, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the `BEST` x `BEST` highest starts and ends of each passage the pair of the highest sum.

    A start is not behind its end, and a span has at most `length` sub-words.

    Parameters
    ----------
    first_n, count_n, token_n
        The column of each passage's first sub-word, how many it has, and the column of the classification token.

    Returns
    -------
    tuple of Tensor
        The first four of `Spans`, all (n).
    """
    logits_nS2 = span_nS2.float()
    column_S = torch.arange(logits_nS2.shape[1], device=logits_nS2.device)
    inside_nS = (column_S >= first_n[:, None]) & (column_S < (first_n + count_n)[:, None])
    top = logits_nS2.masked_fill(~inside_nS.unsqueeze(-1), -torch.inf).topk(min(BEST, len(column_S)), dim=1)
    (start_nB, end_nB), (value_nB, end_value_nB) = top.indices.unbind(-1), top.values.unbind(-1)
    between_nBB = end_nB[:, None, :] - start_nB[:, :, None]
    sum_nBB = value_nB[:, :, None] + end_value_nB[:, None, :]
    sum_nBB = sum_nBB.masked_fill((between_nBB < 0) | (between_nBB >= length), -torch.inf)
    best = sum_nBB.flatten(1).max(1)
    n, width = torch.arange(len(logits_nS2), device=column_S.device), start_nB.shape[1]
    there_n = best.values > -torch.inf
    start_n = (start_nB[n, best.indices // width] - first_n).where(there_n, -1)
    end_n = (end_nB[n, best.indices % width] - first_n).where(there_n, -1)
    return start_n, end_n, best.values, logits_nS2[n, token_n].sum(-1)


def decode(head: SpanHead, windows: Windows, *, length: int) -> Spans:
    """The best span of every window of a split."""
    count = len(windows)
    ints, floats = np.zeros((3, count), dtype=np.int32), np.zeros((2, count), dtype=np.float32)
    for part_n, (span_nS2, type_nK) in in_batches(head, windows, _BATCH):
        places = (torch.from_numpy(p).to(span_nS2.device) for p in windows.columns(part_n.tolist(), span_nS2.shape[1]))
        start_n, end_n, score_n, null_n = best_spans(span_nS2, *places, length=length)
        ints[:2, part_n] = torch.stack([start_n, end_n]).cpu().numpy()
        floats[:, part_n] = torch.stack([score_n, null_n]).cpu().numpy()
        if type_nK is not None:
            ints[2, part_n] = 1 + type_nK[:, 1:].argmax(1).cpu().numpy()
    return Spans(ints[0], ints[1], floats[0], floats[1], ints[2])


def best_windows(question_W: Ints, score_W: Floats) -> NDArray[np.int64]:
    """The window of the highest score of each question (N), of equals the first.

    >>> best_windows(np.array([0, 0, 1, 1, 1]), np.array([1.0, 2.0, 3.0, 5.0, 5.0])).tolist()
    [1, 3]
    """
    order_W: NDArray[np.int64] = np.lexsort((-score_W, question_W))
    return order_W[np.flatnonzero(np.append(True, np.diff(question_W[order_W]) > 0))]
