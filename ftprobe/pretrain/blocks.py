"""Blocks: a text cut into equal runs of sub-words, and the sub-words of a block that are hidden from the model.

Axes: S sub-words of a block, N blocks, M predicted sub-words of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ftprobe.errors import InputError
from ftprobe.pretrain.options import PretrainOptions
from ftprobe.pretrain.vocabulary import UNKNOWN

_HELD_OUT = 0.05
_CHUNK = 2048  # lines tokenised at a time


class Masked(NamedTuple):
    """A block as the model sees it, and its predicted sub-words: where they stand and what they are."""

    id_S: NDArray[np.int32]
    position_M: NDArray[np.int64]
    target_M: NDArray[np.int32]


class Blocks(NamedTuple):
    """The blocks that are trained on, and the last 5 % of the text, which are not."""

    train: tuple[NDArray[np.int32], ...]
    held_out: tuple[NDArray[np.int32], ...]


def cut(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], length: int) -> Blocks:
    """Lines end to end, in blocks of `length` sub-words that begin and end with special tokens; the last is shorter.

    Raises
    ------
    InputError
        There are fewer than two blocks.
    """
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    id_K = np.fromiter(_sub_words(tokenizer, lines), dtype=np.int32)
    inside = length - 2
    blocks = [
        np.concatenate([[begin], id_K[start : start + inside], [end]]).astype(np.int32)
        for start in range(0, len(id_K), inside)
    ]
    if len(blocks) < 2:
        what = f"the text has {len(id_K)} sub-words, not enough for two blocks of {length}"
        raise InputError.one("pretrain", what, "give more text, or a smaller `block`")
    held_out = max(1, round(_HELD_OUT * len(blocks)))
    return Blocks(tuple(blocks[:-held_out]), tuple(blocks[-held_out:]))


def _sub_words(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> Iterator[int]:
    for start in range(0, len(lines), _CHUNK):
        # A space before the unknown word would be a sub-word of its own to byte-level BPE.
        shown = [re.sub(rf"\s?{UNKNOWN}", tokenizer.unk_token, line) for line in lines[start : start + _CHUNK]]
        for ids in tokenizer(shown, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            yield from ids


class Masking(NamedTuple):
    """What replaces predicted sub-words: the mask token, or one of the ordinary ones `first_word` to `vocab` - 1."""

    rate: float
    mask_share: float
    random_share: float
    mask_id: int
    first_word: int
    vocab: int

    @classmethod
    def of(cls, options: PretrainOptions, tokenizer: PreTrainedTokenizerFast) -> Masking:
        """The masking that the options ask for; special tokens are the first of a vocabulary."""
        special, vocab = max(tokenizer.all_special_ids) + 1, len(tokenizer)
        return cls(options.mask_rate, options.mask_share, options.random_share, tokenizer.mask_token_id, special, vocab)


def mask(id_S: NDArray[np.int32], masking: Masking, seed: int) -> Masked:
    """Hide `rate` of the sub-words between the special tokens at the ends (Devlin et al. 2019, appendix A.1)."""
    rng = np.random.default_rng(seed)
    inside = len(id_S) - 2
    n_masked = max(1, round(masking.rate * inside))
    position_M = 1 + np.sort(rng.permutation(inside)[:n_masked])
    seen_S, draw_M = id_S.copy(), rng.random(n_masked)
    random_M = rng.integers(masking.first_word, masking.vocab, n_masked, dtype=np.int32)
    is_mask_M = draw_M < masking.mask_share
    is_random_M = ~is_mask_M & (draw_M < masking.mask_share + masking.random_share)
    seen_S[position_M[is_mask_M]] = masking.mask_id
    seen_S[position_M[is_random_M]] = random_M[is_random_M]
    return Masked(seen_S, position_M, id_S[position_M])


def collate(masked_N: Sequence[Masked], pad_id: int) -> dict[str, Tensor]:
    """A batch: `input_ids` and `attention_mask` (N, S), `positions` (M) in the flattened batch, `labels` (M)."""
    longest = max(len(masked.id_S) for masked in masked_N)
    id_NS = np.full((len(masked_N), longest), pad_id, dtype=np.int64)
    real_NS = np.zeros_like(id_NS)
    for n, masked in enumerate(masked_N):
        id_NS[n, : len(masked.id_S)] = masked.id_S
        real_NS[n, : len(masked.id_S)] = 1
    position_M = np.concatenate([n * longest + masked.position_M for n, masked in enumerate(masked_N)])
    target_M = np.concatenate([masked.target_M for masked in masked_N]).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(id_NS),
        "attention_mask": torch.from_numpy(real_NS),
        "positions": torch.from_numpy(position_M),
        "labels": torch.from_numpy(target_M),
    }
