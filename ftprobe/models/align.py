"""Alignment: texts of a corpus as sub-word tokens, each token knowing its word (METHODS 2, step 1).

The model's own fast tokenizer does all of it: a sentence with fixed words is tokenised in pre-split mode (with the
leading-space variant of byte-level BPE) and word ids map sub-words to words; other texts and pairs go in raw.
Equal texts are tokenised once. Nothing is cut silently: cut texts and lost words are counted, or refused.

Axes: S sentences asked for, U distinct texts, K tokens of all distinct texts end to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from ftprobe.errors import InputError
from ftprobe.models.load import Encoder
from ftprobe.tasks.types import Corpus, Sentence

Overflow = Literal["truncate", "error"]
_CHUNK = 2048  # texts tokenised at a time: encodings are bulky before they are packed


class Tokens(NamedTuple):
    """Tokens of U distinct texts, packed end to end: text u is `[start_U1[u], start_U1[u + 1])`.

    `word_K` is the word index of a sub-word, -1 for special tokens, raw texts, and words that truncation cut.
    `n_words_U` and `n_pieces_U` count the words given and the sub-words kept (special tokens are not sub-words).
    """

    id_K: NDArray[np.int32]
    segment_K: NDArray[np.int8]
    special_K: NDArray[np.bool_]
    word_K: NDArray[np.int32]
    start_U1: NDArray[np.int64]
    n_words_U: NDArray[np.int32]
    n_pieces_U: NDArray[np.int32]
    truncated_U: NDArray[np.bool_]


class Aligned(NamedTuple):
    """`tokens` of the distinct texts, and which of them each sentence asked for is (`text_S`)."""

    tokens: Tokens
    text_S: NDArray[np.int64]


class _Row(NamedTuple):
    encoding: Encoding
    word_T: NDArray[np.int32]
    n_words: int
    truncated: bool


def align(
    encoder: Encoder, corpus: Corpus, sentence_S: Sequence[int], *, max_length: int, overflow: Overflow
) -> Aligned:
    """Tokenise the sentences at corpus positions `sentence_S`.

    Parameters
    ----------
    max_length : int
        Longest sequence in tokens, special tokens included; the model's own limit holds where it is lower.
    overflow : {"truncate", "error"}
        What happens to longer texts.

    Raises
    ------
    InputError
        `overflow="error"` and a text is too long: names the first such text, its length and the limit.
    """
    limit = max_length if encoder.max_positions is None else min(max_length, encoder.max_positions)
    first_of: dict[tuple[object, ...], int] = {}
    texts: list[Sentence] = []
    text_S = np.empty(len(sentence_S), dtype=np.int64)
    for s, position in enumerate(sentence_S):
        sentence = corpus.sentences[position]
        text_S[s] = first_of.setdefault(_content(sentence), len(texts))
        if text_S[s] == len(texts):
            texts.append(sentence)
    return Aligned(_pack(list(_tokenise(encoder, corpus.name, texts, limit, overflow))), text_S)


def _is_split(sentence: Sentence) -> bool:
    return sentence.words is not None and sentence.text_b is None


def _content(sentence: Sentence) -> tuple[object, ...]:
    """What the tokenizer sees: sentences with equal content have equal activations."""
    if _is_split(sentence):
        return (True, sentence.words)
    return (False, sentence.text, sentence.text_b)


def _fast_tokenizer(encoder: Encoder, *, split: bool) -> Tokenizer:
    """A private copy of the tokenizer, so that nobody else's truncation and padding settings leak in or out."""
    state = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    if split:
        _lead_with_space(state["pre_tokenizer"])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _lead_with_space(pre_tokenizer: dict[str, Any] | None) -> None:
    """In a pre-split sentence every word begins after a space; some tokenizers by default leave the space out."""
    if pre_tokenizer is None:
        return
    for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = True
        elif part["type"] == "Metaspace":
            part["prepend_scheme"] = "always"


def _tokenise(
    encoder: Encoder, corpus: str, texts: Sequence[Sentence], limit: int, overflow: Overflow
) -> Iterator[Tokens]:
    tokenizers = {split: _fast_tokenizer(encoder, split=split) for split in {_is_split(text) for text in texts}}
    side = encoder.tokenizer.truncation_side
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        rows: list[_Row | None] = [None] * len(chunk)
        for split, tokenizer in tokenizers.items():
            at = [i for i, text in enumerate(chunk) if _is_split(text) == split]
            whole = _encode(tokenizer, [chunk[i] for i in at], split=split)
            for i, encoding in zip(at, whole, strict=True):
                cut = None
                if len(encoding.ids) > limit:
                    if overflow == "error":
                        _refuse(corpus, chunk[i], len(encoding.ids), limit)
                    tokenizer.enable_truncation(limit, strategy="longest_first", direction=side)
                    cut = _encode(tokenizer, [chunk[i]], split=split)[0]
                    tokenizer.no_truncation()
                rows[i] = _row(chunk[i], encoding, cut, split=split)
        yield _packed_rows([row for row in rows if row is not None])


def _encode(tokenizer: Tokenizer, texts: Sequence[Sentence], *, split: bool) -> list[Encoding]:
    if split:
        # encode_batch_fast would lose the word ids along with the offsets.
        return list(tokenizer.encode_batch([list(text.words or ()) for text in texts], is_pretokenized=True))
    raw = [text.text if text.text_b is None else (text.text, text.text_b) for text in texts]
    return list(tokenizer.encode_batch_fast(raw))


def _refuse(corpus: str, sentence: Sentence, length: int, limit: int) -> None:
    raise InputError.one(
        f"{corpus}: sentence {sentence.id!r}",
        f"has {length} tokens, the limit is {limit}: {sentence.text[:80]!r}",
        "raise max_length, or use overflow: truncate",
    )


def _word_ids(encoding: Encoding) -> NDArray[np.int32]:
    return np.fromiter((-1 if word is None else word for word in encoding.word_ids), np.int32, len(encoding.ids))


def _row(sentence: Sentence, whole: Encoding, cut: Encoding | None, *, split: bool) -> _Row:
    kept = cut or whole
    if not split:
        return _Row(kept, np.full(len(kept.ids), -1, np.int32), 0, cut is not None)
    n_words = len(sentence.words or ())
    word_T = _word_ids(kept)
    if cut is not None:
        whole_T = _word_ids(whole)
        pieces_W = np.bincount(whole_T[whole_T >= 0], minlength=n_words)
        kept_W = np.bincount(word_T[word_T >= 0], minlength=n_words)
        word_T[(word_T >= 0) & (kept_W[word_T] < pieces_W[word_T])] = -1
    return _Row(kept, word_T, n_words, cut is not None)


def _packed_rows(rows: Sequence[_Row]) -> Tokens:
    """Tokens of a chunk of texts."""
    length_U = np.asarray([len(row.word_T) for row in rows], dtype=np.int64)
    n_tokens = int(length_U.sum())
    special_K = np.fromiter((m for row in rows for m in row.encoding.special_tokens_mask), np.bool_, n_tokens)
    start_U1 = np.concatenate([[0], np.cumsum(length_U)])
    piece_U1 = np.concatenate([[0], np.cumsum(~special_K)])[start_U1]
    return Tokens(
        id_K=np.fromiter((i for row in rows for i in row.encoding.ids), np.int32, n_tokens),
        segment_K=np.fromiter((i for row in rows for i in row.encoding.type_ids), np.int8, n_tokens),
        special_K=special_K,
        word_K=np.concatenate([np.empty(0, np.int32), *(row.word_T for row in rows)]),
        start_U1=start_U1,
        n_words_U=np.asarray([row.n_words for row in rows], dtype=np.int32),
        n_pieces_U=np.diff(piece_U1).astype(np.int32),
        truncated_U=np.asarray([row.truncated for row in rows], dtype=np.bool_),
    )


def _pack(chunks: Sequence[Tokens]) -> Tokens:
    if not chunks:
        return _packed_rows([])
    joined = {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in Tokens._fields}
    length_U = np.concatenate([np.diff(chunk.start_U1) for chunk in chunks])
    return Tokens(**{**joined, "start_U1": np.concatenate([[0], np.cumsum(length_U)])})
