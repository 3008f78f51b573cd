"""What replacing blocks recovers of the perplexity that fine-tuning lost (METHODS 13). Plain numbers in and out."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def recovery(nll_replaced: ArrayLike, *, nll_tuned: ArrayLike, nll_pretrained: ArrayLike) -> NDArray[np.float64]:
    """R(m) = (log PPL_tuned - log PPL_m) / (log PPL_tuned - log PPL_pre).

    Parameters
    ----------
    nll_replaced, nll_tuned, nll_pretrained : array_like
        Log perplexities (`mlm_nll`, nat) with m blocks replaced, with none, and of the pre-trained model; they
        broadcast.

    Returns
    -------
    NDArray
        0 where replacing changed nothing, 1 where it gave the pre-trained perplexity back; NaN where fine-tuning lost
        nothing.

    Examples
    --------
    >>> recovery([3.0, 2.5, 2.0], nll_tuned=3.0, nll_pretrained=2.0).tolist()
    [0.0, 0.5, 1.0]
    """
    replaced, tuned, pretrained = (np.asarray(one, np.float64) for one in (nll_replaced, nll_tuned, nll_pretrained))
    recovered, lost = np.broadcast_arrays(tuned - replaced, tuned - pretrained)
    share = np.full(lost.shape, np.nan)
    np.divide(recovered, lost, out=share, where=lost != 0)
    return share


def mean_perplexity(nll_R: ArrayLike, *, average: Literal["ppl", "log_ppl"] = "ppl") -> float:
    """Perplexity of several runs from their log perplexities: their mean, or the exponential of the mean log.

    >>> round(mean_perplexity([0.0, 2.0]), 3), round(mean_perplexity([0.0, 2.0], average="log_ppl"), 3)
    (4.195, 2.718)
    """
    nll = np.asarray(nll_R, np.float64)
    return float(np.exp(nll).mean() if average == "ppl" else np.exp(nll.mean()))
