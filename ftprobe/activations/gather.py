"""Gathers: which tokens make the vector of each item of a pooling, and where its row is (METHODS 2, steps 2 and 3).

Axes: U distinct texts, K their tokens end to end, G items of the distinct texts, M gathered tokens, S sentences
asked for, N items of these sentences (a repeated text has its items repeated).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftprobe.activations import Pooling
from ftprobe.errors import InputError
from ftprobe.models.align import Aligned, Tokens
from ftprobe.shards import Items
from ftprobe.tasks.types import Corpus


class Gather(NamedTuple):
    """Item g of the distinct texts is the mean over tokens `token_M[start_G1[g]:start_G1[g + 1]]` (indices into K).

    Text u has the items `[item_U1[u], item_U1[u + 1])`; `word_G` is the word index, -1 for sentences.
    """

    token_M: NDArray[np.int64]
    start_G1: NDArray[np.int64]
    item_U1: NDArray[np.int64]
    word_G: NDArray[np.int32]


class Rows(NamedTuple):
    """Rows in the order of the sentences asked for: the items of sentence s begin at row `start_S1[s]`."""

    items: Items
    start_S1: NDArray[np.int64]


def ranges(start_N: NDArray[np.int64], stop_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers of many half-open ranges, end to end.

    >>> ranges(np.array([5, 0, 7]), np.array([7, 0, 8])).tolist()
    [5, 6, 7]
    """
    length_N = stop_N - start_N
    before_N = np.cumsum(length_N) - length_N
    return np.repeat(start_N - before_N, length_N) + np.arange(length_N.sum())


def gather(tokens: Tokens, pooling: Pooling, classification: Literal["first", "last"]) -> Gather:
    """The gather of one pooling.

    `classification` is the position of the model's classification token among the real tokens.
    """
    if pooling.level == "word" and pooling.pooling in ("first", "last", "mean"):
        return _words(tokens, pooling.pooling)
    if pooling.level == "sentence" and pooling.pooling == "cls":
        start_U, stop_U = tokens.start_U1[:-1], tokens.start_U1[1:]
        filled_U = stop_U > start_U
        token_G = (start_U if classification == "first" else stop_U - 1)[filled_U]
        return Gather(token_G, np.arange(len(token_G) + 1), _offsets(filled_U), np.full(len(token_G), -1, np.int32))
    if pooling.level == "sentence" and pooling.pooling == "mean":
        return _sentence_means(tokens, include_special=pooling.special == "include")
    raise InputError.one("pooling", f"unknown {pooling.level} pooling {pooling.pooling!r}", "first, last, mean or cls")


def _offsets(count_N: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(count_N, dtype=np.int64)])


def _words(tokens: Tokens, pooling: str) -> Gather:
    """Runs of equal word index inside a text."""
    text_K = np.repeat(np.arange(len(tokens.truncated_U)), np.diff(tokens.start_U1))
    kept_M = np.flatnonzero(tokens.word_K >= 0)
    new_M = np.ones(len(kept_M), dtype=np.bool_)
    new_M[1:] = (np.diff(tokens.word_K[kept_M]) != 0) | (np.diff(text_K[kept_M]) != 0)
    start_G = np.flatnonzero(new_M)
    start_G1 = np.append(start_G, len(kept_M))
    word_G = tokens.word_K[kept_M[start_G]]
    item_U1 = _offsets(np.bincount(text_K[kept_M[start_G]], minlength=len(tokens.truncated_U)))
    if pooling == "mean":
        return Gather(kept_M, start_G1, item_U1, word_G)
    end_G = start_G1[:-1] if pooling == "first" else start_G1[1:] - 1
    return Gather(kept_M[end_G], np.arange(len(end_G) + 1), item_U1, word_G)


def _sentence_means(tokens: Tokens, *, include_special: bool) -> Gather:
    kept_K = np.ones_like(tokens.special_K) if include_special else ~tokens.special_K
    length_U = np.diff(_offsets(kept_K)[tokens.start_U1])
    filled_U = length_U > 0
    n_items = int(filled_U.sum())
    return Gather(
        np.flatnonzero(kept_K), _offsets(length_U[filled_U]), _offsets(filled_U), np.full(n_items, -1, np.int32)
    )


def rows(corpus: Corpus, sentence_S: Sequence[int], aligned: Aligned, gathered: Gather, pooling: Pooling) -> Rows:
    """The items of the sentences asked for, in their order.

    Raises
    ------
    InputError
        The corpus fixes no words but words are asked for, or no item is left.
    """
    asked = [corpus.sentences[position] for position in sentence_S]
    if pooling.level == "word":
        bare = next((sentence.id for sentence in asked if sentence.words is None or sentence.text_b is not None), None)
        if bare is not None:
            raise InputError.one(corpus.name, f"sentence {bare!r} has no words to pool", "use cls or sentence mean")
    start_S, stop_S = gathered.item_U1[aligned.text_S], gathered.item_U1[aligned.text_S + 1]
    word_N = gathered.word_G[ranges(start_S, stop_S)]
    if len(word_N) == 0:
        what = f"none of its {len(asked)} sentences has a {pooling.level} left after tokenisation"
        raise InputError.one(corpus.name, what, "is this tokenizer made for this language?")
    count_S = stop_S - start_S
    owner_N = np.repeat(np.arange(len(asked)), count_S).tolist()
    form_N = np.empty(len(word_N), dtype=np.object_)
    form_N[:] = [_form(asked[s].words, word) for s, word in zip(owner_N, word_N.tolist(), strict=True)]
    items = Items(
        np.repeat(np.asarray(sentence_S, dtype=np.int32), count_S),
        word_N,
        form_N,
        np.asarray([asked[s].split for s in owner_N], dtype=np.str_),
    )
    return Rows(items, _offsets(count_S))


def _form(words: tuple[str, ...] | None, word: int) -> str:
    """The word itself; empty for a sentence, whose text the corpus keeps."""
    return "" if words is None or word < 0 else words[word]
