"""Activations: hidden states of every layer, pooled to the sentences or words of a corpus (METHODS 2)."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Pooling(NamedTuple):
    """How token states become item vectors.

    `level` sentence: `cls` or `mean` (over real tokens, `special` ones excluded or included); `level` word:
    `first`, `last` or `mean` of the word's sub-words.
    """

    level: Literal["sentence", "word"]
    pooling: str
    special: Literal["exclude", "include"] = "exclude"
