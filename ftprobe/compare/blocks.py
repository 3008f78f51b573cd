"""Blocks of running text and their masks: the inputs of masked-LM perplexity (METHODS 13).

Which sub-words are masked depends on the text, the tokenizer, the seed and the block's index, on nothing else: every
model with the same tokenizer sees the same inputs.

Axes: S positions of a block, M masked positions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ftprobe.compare.perplexity import Masking
from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed
from ftprobe.models.load import Encoder

_UNKNOWN = re.compile(r" ?<unk>")


class Block(NamedTuple):
    """Sub-words of a block (S), of which `[start, stop)` are text and the others special."""

    id_S: NDArray[np.int64]
    start: int
    stop: int


class MaskedBlock(NamedTuple):
    """A block as it goes in (S); the model is asked for `target_M` at `place_M`."""

    id_S: NDArray[np.int64]
    place_M: NDArray[np.int64]
    target_M: NDArray[np.int64]


def cut(encoder: Encoder, lines: Sequence[str], *, block: int) -> list[Block]:
    """Lines joined by line breaks, tokenised as one text, and cut into blocks; the last one is what remains.

    Parameters
    ----------
    lines
        `<unk>` in a line, with the space before it, becomes the tokenizer's unknown token.
    block
        Sub-words of a block, special ones included; the model's own limit holds where it is lower.

    Raises
    ------
    InputError
        There is no text, or the tokenizer has no unknown token for `<unk>`.
    """
    tokenizer = _plain(encoder)
    pieces = _UNKNOWN.split("\n".join(line.rstrip("\n") for line in lines))
    unknown = encoder.tokenizer.unk_token_id
    if len(pieces) > 1 and unknown is None:
        raise InputError.one("text", "holds <unk>, and the tokenizer has no unknown token", "use text without <unk>")
    ids = list(tokenizer.encode(pieces[0], add_special_tokens=False).ids)
    for encoding in tokenizer.encode_batch_fast(pieces[1:], add_special_tokens=False):
        ids += [unknown, *encoding.ids]
    if not ids:
        raise InputError.one("text", f"{len(lines)} lines hold no sub-word")
    before, after = _special(tokenizer)
    size = min(block, encoder.max_positions or block) - len(before) - len(after)
    return [
        Block(np.asarray([*before, *text, *after]), len(before), len(before) + len(text))
        for text in (ids[place : place + size] for place in range(0, len(ids), size))
    ]


def masked(block: Block, index: int, encoder: Encoder, *, masking: Masking, seed: int) -> Iterator[MaskedBlock]:
    """The block with its masks; with `pseudo` once for every position, otherwise once.

    15 % of the text's positions, rounded, one at least; special sub-words are never masked, unknown ones may be.

    Parameters
    ----------
    index
        The block's place in the text: masks are drawn from (`seed`, `index`).

    Raises
    ------
    InputError
        The tokenizer has no mask token.
    """
    mask = encoder.tokenizer.mask_token_id
    if mask is None:
        raise InputError.one("masking", "the tokenizer has no mask token", "set mask_token")
    if masking == "pseudo":
        for place in range(block.start, block.stop):
            id_S = block.id_S.copy()
            id_S[place] = mask
            yield MaskedBlock(id_S, np.asarray([place]), block.id_S[[place]])
        return
    generator = np.random.default_rng(derive_seed(seed, "mask", index))
    n_masked = max(1, round(0.15 * (block.stop - block.start)))
    place_M = block.start + np.sort(generator.choice(block.stop - block.start, n_masked, replace=False))
    target_M = block.id_S[place_M]
    draw_M = generator.random(n_masked)
    random_M = generator.integers(min(len(encoder.tokenizer), encoder.model.config.vocab_size), size=n_masked)
    id_S = block.id_S.copy()
    if masking == "mask_only":
        id_S[place_M] = mask
    else:
        id_S[place_M] = np.select([draw_M < 0.8, draw_M < 0.9], [mask, random_M], target_M)
    yield MaskedBlock(id_S, place_M, target_M)


def _plain(encoder: Encoder) -> Tokenizer:
    """A copy of the tokenizer that neither pads nor cuts."""
    state = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**state, "padding": None, "truncation": None}))


def _special(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Special sub-words before a text, and after it."""
    encoding = tokenizer.encode("a")
    text = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return list(encoding.ids[: text[0]]), list(encoding.ids[text[-1] + 1 :])
