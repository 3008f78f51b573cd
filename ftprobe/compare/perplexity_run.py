"""Runs masked-LM perplexity: the pre-trained head on a state's encoder over blocks of text (METHODS 13).

Axes: N blocks of a batch, S positions, D width, M masked positions, V sub-words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.compare.blocks import Block, MaskedBlock, cut, masked
from ftprobe.compare.comparison import Report, States
from ftprobe.compare.inputs import Row, padded, split_of, tokenizer_hash
from ftprobe.compare.perplexity import PerplexityOptions
from ftprobe.errors import InputError
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.masked_lm import MaskedLM, MaskedLMHead, NoMaskedLM, with_encoder
from ftprobe.tasks.types import Corpus

UNITS = {"mlm_nll": "nat", "mlm_ppl": "perplexity"}
# Tokens of a batch as in extraction, and bytes of the float64 logits computed at once.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 1024, 16384
_LOGIT_BYTES = 1 << 27


def run(
    options: PerplexityOptions,
    corpus: Corpus,
    rows: Sequence[int],
    states: States,
    *,
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Perplexity of a state under the pre-trained head.

    Parameters
    ----------
    rows
        Positions of the lines of text, in their order.
    states
        `masked_lm` must be there. With `state`: its encoder under the head; without: the pre-trained model itself.
    seed
        Draws the masks.
    others
        As of every runner (`ftprobe.compare.Comparison`).

    Returns
    -------
    Outcome
        `mlm_nll` (nat), the mean over masked positions of -log p of the sub-word that was there, and `mlm_ppl`, its
        exponential; `n_items` counts these positions. `detail.tokenizer` says whose perplexities are comparable. A
        checkpoint without a masked-LM head: both are `refused`, with the reason.

    Raises
    ------
    InputError
        There is no text; the tokenizer has no mask token; the state is of another architecture; its logits are not
        finite.
    """
    assert states.masked_lm is not None
    split = split_of(corpus, rows)
    try:
        masked_lm = states.masked_lm()
    except NoMaskedLM as error:
        return _refused(error, split)
    blocks = cut(masked_lm.encoder, [corpus.sentences[row].text for row in rows], block=options.block)
    longest = len(blocks[0].id_S)
    detail = {
        "masking": options.masking,
        "decoder": options.decoder,
        "block": longest,
        "tokenizer": tokenizer_hash(masked_lm.encoder),
    }
    if states.state is not None:
        masked_lm = with_encoder(masked_lm, states.state(), decoder=options.decoder)
    nll_M = _negative_log_likelihoods(masked_lm, blocks, options, seed, device, report)
    if not np.isfinite(nll_M).all():
        repair = "the model's weights have diverged; fine-tune with a lower learning rate"
        raise InputError.one(corpus.name, "masked-LM logits are not finite", repair)
    n_subwords = sum(block.stop - block.start for block in blocks)
    facts = {"seed": seed, "masking": options.masking, "block": longest, "n_blocks": len(blocks)}
    return Outcome(tuple(_rows(nll_M, split, detail)), facts={**facts, "n_subwords": n_subwords})


def _refused(error: NoMaskedLM, split: str) -> Outcome:
    detail = {"reason": str(error)}
    return Outcome(
        tuple(
            Measurement(metric, math.nan, unit, split, status="refused", detail=detail)
            for metric, unit in UNITS.items()
        )
    )


def _rows(nll_M: NDArray[np.float64], split: str, detail: Mapping[str, object]) -> Iterator[Measurement]:
    nll = math.fsum(nll_M) / len(nll_M)
    for (metric, unit), value in zip(UNITS.items(), (nll, float(np.exp(nll))), strict=True):
        yield Measurement(metric, value, unit, split, n_items=len(nll_M), detail=detail)


def _negative_log_likelihoods(
    masked_lm: MaskedLM, blocks: Sequence[Block], options: PerplexityOptions, seed: int, device: str, report: Report
) -> NDArray[np.float64]:
    """-log p of every masked sub-word, in the order of the blocks (M)."""
    for part in (masked_lm.encoder.model, masked_lm.head):
        module: torch.nn.Module = part
        module.to(device).eval()
    budget = _CPU_TOKENS if device == "cpu" else _ACCELERATOR_TOKENS
    n_at_once = max(1, budget // len(blocks[0].id_S))
    found: list[NDArray[np.float64]] = []
    for start in range(0, len(blocks), n_at_once):
        inputs = (
            one
            for index, block in enumerate(blocks[start : start + n_at_once], start)
            for one in masked(block, index, masked_lm.encoder, masking=options.masking, seed=seed)
        )
        while batch := list(islice(inputs, n_at_once)):
            found.append(_batch(masked_lm, batch, device))
        report({"blocks_done": min(start + n_at_once, len(blocks)), "blocks": len(blocks)})
    return np.concatenate(found)


@torch.inference_mode()
def _batch(masked_lm: MaskedLM, batch: Sequence[MaskedBlock], device: str) -> NDArray[np.float64]:
    rows = [Row(one.id_S, np.zeros_like(one.id_S)) for one in batch]
    h_NSD = masked_lm.encoder.model(**padded(masked_lm.encoder, rows, device)).last_hidden_state
    n_M = np.repeat(np.arange(len(batch)), [len(one.place_M) for one in batch])
    place_M = np.concatenate([one.place_M for one in batch])
    target_M = torch.from_numpy(np.concatenate([one.target_M for one in batch])).to(device)
    h_MD = h_NSD[torch.from_numpy(n_M).to(device), torch.from_numpy(place_M).to(device)]
    return _head_nll(masked_lm.head, h_MD, target_M).cpu().numpy()


def _head_nll(head: MaskedLMHead, h_MD: Tensor, target_M: Tensor) -> Tensor:
    """-log softmax of the head's logits at the targets (M), float64."""
    n_at_once = max(1, _LOGIT_BYTES // (8 * len(head.W_VE)))
    found = []
    for h_mD, target_m in zip(torch.split(h_MD, n_at_once), torch.split(target_M, n_at_once), strict=True):
        logit_mV = head(h_mD).double()
        found.append(logit_mV.logsumexp(1) - logit_mV.gather(1, target_m[:, None])[:, 0])
    return torch.cat(found)
