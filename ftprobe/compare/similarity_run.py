"""Runs the similarity comparison: the same tokens in context, layer by layer, in two states (METHODS 11).

Axes: L + 1 layers, N texts of a batch, S positions, M tokens of all draws, n of one draw, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ftprobe.compare.comparison import Report, States
from ftprobe.compare.inputs import Row, padded, split_of, tokenizer_hash
from ftprobe.compare.similarity import SimilarityOptions
from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement, Outcome, Status
from ftprobe.models.align import Tokens, align
from ftprobe.models.load import Encoder
from ftprobe.solvers.leave_out import cka_without, rsa_without
from ftprobe.solvers.similarity import Cca, cka, directed_rows, neighbour_overlap, procrustes, pwcca, rsa, svcca
from ftprobe.tasks.types import Corpus, Sentence

Hidden = NDArray[np.float32]
MEASURES: Mapping[str, Callable[[Hidden, Hidden], float | Cca]] = {
    "rsa": rsa,
    "cka": cka,
    "cka_debiased": lambda x, y: cka(x, y, debiased=True),
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "neighbour_overlap": neighbour_overlap,
}
UNITS = {"rsa": "r"}
WITHOUT: Mapping[str, Callable[[Hidden, Hidden, NDArray[np.int64], int], NDArray[np.float64]]] = {
    "rsa": rsa_without,
    "cka": cka_without,
}
BLOCKS = 50  # of text, for a jackknife
ROWS_A_DIMENSION = 5  # fewer rows than so many times the dimensions that are kept say little of a CCA
_TOKENS = 2048


class _Places(NamedTuple):
    """Where the drawn tokens (M) are in one state's text: the places of their sub-words, and whose each is."""

    place_K: NDArray[np.int64]
    token_K: NDArray[np.int64]


class _Stimuli(NamedTuple):
    """Tokens that are drawn (M): where either state has them, which each draw has, and each one's block of text."""

    places: tuple[_Places, _Places]
    draws: tuple[NDArray[np.int64], ...]
    block_M: NDArray[np.int64]
    n_blocks: int


def run(
    options: SimilarityOptions,
    corpus: Corpus,
    rows: Sequence[int],
    states: States,
    *,
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Similarity of each layer of a state to the same layer of the pre-trained one, or of another.

    Parameters
    ----------
    rows
        Positions of sentences in the corpus.
    states
        `state` must be there.
    seed
        Draws the tokens; every state under it sees the same ones.
    others
        As of every runner (`ftprobe.compare.Comparison`).

    Returns
    -------
    Outcome
        For each layer, measure and draw (`detail.draw`) one row. A CCA of fewer rows than five times the dimensions it
        keeps is `refused`, as is everything where the states have unequal depth. Tokens whose vector is 0 on a side
        have no direction and count in `n_dropped`. `detail.without` of RSA and CKA: the value without each of up to 50
        blocks of consecutive texts, the same for all draws, for a jackknife (METHODS 16.2).

    Raises
    ------
    InputError
        The states' tokenizers differ and `unit` is `subword`; `unit` is `word` and the text has no fixed words; the
        text has fewer than three tokens; a state is not finite.
    """
    assert states.state is not None
    pair = states.base(), states.state()
    split = split_of(corpus, rows)
    if pair[0].n_layers != pair[1].n_layers:
        reason = {"reason": "the two states have different numbers of blocks", "against": states.against}
        return Outcome(tuple(_row(m, math.nan, split, None, "refused", reason) for m in options.measures))
    corpus, rows = (corpus, rows) if options.pairs == "whole" else _sides(corpus, rows)
    tokens, text_S = _tokens(options, pair, corpus, rows)
    stimuli = _drawn(options, tokens, text_S, corpus.name, seed)
    hidden = [
        _hidden(encoder, own, places, device, corpus.name)
        for encoder, own, places in zip(pair, tokens, stimuli.places, strict=True)
    ]
    made: list[Measurement] = []
    for layer, (x_MD, y_MD) in enumerate(zip(*hidden, strict=True)):
        for draw, token_n in enumerate(stimuli.draws):
            said = {"draw": draw, "against": states.against}
            blocks = stimuli.block_M[token_n], stimuli.n_blocks
            made += _layer(options, (x_MD[token_n], y_MD[token_n]), blocks, split, layer, said)
        report({"layers_done": layer + 1, "layers": pair[0].n_layers + 1})
    facts = {
        "n_texts": len(rows),
        "n_tokens": len(stimuli.draws[0]),
        "n_truncated": int(tokens[0].truncated_U.sum()),
    }
    return Outcome(tuple(made), facts=facts)


def _sides(corpus: Corpus, rows: Sequence[int]) -> tuple[Corpus, Sequence[int]]:
    """Both sides of every pair as texts of their own, once each: a passage stands beside each of its questions."""
    apart: dict[str, Sentence] = {}
    for sentence in (corpus.sentences[row] for row in rows):
        apart.setdefault(sentence.text, sentence._replace(text_b=None))
        if sentence.text_b is not None:
            other = sentence._replace(id=f"{sentence.id}-b", text=sentence.text_b, text_b=None)
            apart.setdefault(sentence.text_b, other)
    return Corpus(corpus.name, tuple(apart.values())), range(len(apart))


def _tokens(
    options: SimilarityOptions, pair: tuple[Encoder, Encoder], corpus: Corpus, rows: Sequence[int]
) -> tuple[tuple[Tokens, Tokens], NDArray[np.int64]]:
    """The texts as either state reads them, cut to the length that both allow, and which of them each row is."""
    if options.unit == "word" and not any(corpus.sentences[row].words for row in rows):
        what = "the text has no fixed words to compare"
        raise InputError.one(corpus.name, what, "use `unit: subword`, or name a text with words, such as a treebank")
    alike = tokenizer_hash(pair[0]) == tokenizer_hash(pair[1])
    if options.unit == "subword" and not alike:
        what = "the two states split text into different sub-words"
        raise InputError.one(corpus.name, what, "compare like with like, or words: `unit: word`")
    longest = min([options.max_length, *(each.max_positions for each in pair if each.max_positions is not None)])
    aligned = [
        align(each, corpus, rows, max_length=longest, overflow="truncate") for each in (pair[:1] if alike else pair)
    ]
    return (aligned[0].tokens, aligned[-1].tokens), aligned[0].text_S


def _drawn(
    options: SimilarityOptions, sides: tuple[Tokens, Tokens], text_S: NDArray[np.int64], corpus: str, seed: int
) -> _Stimuli:
    """Tokens drawn over all texts, each text as often as it stands in the corpus; those that both states have."""
    units = [_units(options, tokens) for tokens in sides]
    key_T, first = np.unique(units[0].key_K, return_index=True)
    if sides[1] is not sides[0]:
        common = np.isin(key_T, units[1].key_K)
        key_T, first = key_T[common], first[common]
    text_T = units[0].text_K[first]
    times_U = np.bincount(text_S, minlength=len(sides[0].start_U1) - 1)
    pool = np.repeat(np.arange(len(key_T)), times_U[text_T])
    if len(pool) < 3:
        raise InputError.one(corpus, f"only {len(pool)} tokens to compare", "name a text with sentences")
    picked = []
    for draw in range(options.draws):
        rng = np.random.default_rng(derive_seed(seed, "sample", draw))
        picked.append(pool[np.sort(rng.choice(len(pool), min(options.n, len(pool)), replace=False))])
    needed = np.unique(np.concatenate(picked))
    before_U = np.cumsum(np.bincount(text_T, minlength=len(times_U)) * times_U)
    blocks, block_T = np.unique(((before_U - 1) * BLOCKS // before_U[-1])[text_T], return_inverse=True)
    return _Stimuli(
        (_places(units[0], key_T[needed]), _places(units[1], key_T[needed])),
        tuple(np.searchsorted(needed, each) for each in picked),
        block_T[needed],
        len(blocks),
    )


class _Units(NamedTuple):
    """Sub-words that may be drawn: their places, the unit each belongs to by a key that states share, and its text."""

    place_K: NDArray[np.int64]
    key_K: NDArray[np.int64]
    text_K: NDArray[np.int64]


def _units(options: SimilarityOptions, tokens: Tokens) -> _Units:
    length_U = np.diff(tokens.start_U1)
    text_K = np.repeat(np.arange(len(length_U)), length_U)
    if options.unit == "word":
        (place_K,) = np.nonzero(tokens.word_K >= 0)
        key_K = text_K[place_K] * (int(tokens.n_words_U.max()) + 1) + tokens.word_K[place_K]
    else:
        (place_K,) = np.nonzero(~tokens.special_K if options.special == "exclude" else np.ones_like(tokens.special_K))
        key_K = place_K
    return _Units(place_K, key_K, text_K[place_K])


def _places(units: _Units, key_M: NDArray[np.int64]) -> _Places:
    own = np.isin(units.key_K, key_M)
    return _Places(units.place_K[own], np.searchsorted(key_M, units.key_K[own]))


@torch.inference_mode()
def _hidden(encoder: Encoder, tokens: Tokens, places: _Places, device: str, corpus: str) -> list[Hidden]:
    """Of each layer the states of the drawn tokens (M, D), means over their sub-words; other texts are not read."""
    module: torch.nn.Module = encoder.model
    module.to(device).eval()
    n_tokens = int(places.token_K.max()) + 1
    total_LMD = torch.zeros(encoder.n_layers + 1, n_tokens, encoder.dim)
    text_K = np.searchsorted(tokens.start_U1, places.place_K, side="right") - 1
    for text_B in _batches(np.diff(tokens.start_U1), np.unique(text_K)):
        spans = [slice(tokens.start_U1[u], tokens.start_U1[u + 1]) for u in text_B]
        batch = padded(encoder, [Row(tokens.id_K[span], tokens.segment_K[span]) for span in spans], device)
        here_k = np.flatnonzero(np.isin(text_K, text_B))
        row_of = {int(u): n for n, u in enumerate(text_B)}
        row_k = np.array([row_of[int(u)] for u in text_K[here_k]])
        column_k = places.place_K[here_k] - tokens.start_U1[text_K[here_k]]
        hidden = encoder.model(**batch, output_hidden_states=True).hidden_states
        token_k = torch.from_numpy(places.token_K[here_k])
        for layer, h_NSD in enumerate(hidden):
            total_LMD[layer].index_add_(0, token_k, h_NSD[row_k, column_k].float().cpu())
    count_M = torch.from_numpy(np.bincount(places.token_K, minlength=n_tokens)).unsqueeze(1)
    total_LMD /= count_M
    means = list(total_LMD.numpy())
    if not all(np.isfinite(mean_MD).all() for mean_MD in means):
        raise InputError.one(corpus, "a state is not finite", "fine-tune with a lower learning rate")
    return means


def _batches(length_U: NDArray[np.int64], wanted: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Texts of similar length, longest first, within so many padded sub-words."""
    order_U = wanted[np.argsort(-length_U[wanted], kind="stable")]
    while len(order_U):
        n_texts = max(1, _TOKENS // int(length_U[order_U[0]]))
        yield order_U[:n_texts]
        order_U = order_U[n_texts:]


def _layer(
    options: SimilarityOptions,
    pair: tuple[Hidden, Hidden],
    blocks: tuple[NDArray[np.int64], int],
    split: str,
    layer: int,
    said: Mapping[str, object],
) -> Iterator[Measurement]:
    (x_nD, y_nD), (block_n, n_blocks) = pair, blocks
    kept = directed_rows(x_nD, y_nD)
    n_dropped = len(x_nD) - len(kept)
    if n_dropped:
        x_nD, y_nD, block_n = x_nD[kept], y_nD[kept], block_n[kept]
    for measure in options.measures:
        found = MEASURES[measure](x_nD, y_nD)
        detail = dict(said)
        status: Status = "ok"
        value = found.value if isinstance(found, Cca) else found
        if isinstance(found, Cca) and len(x_nD) < ROWS_A_DIMENSION * max(found.kept_x, found.kept_y):
            value, status = math.nan, "refused"
            detail["reason"] = f"{len(x_nD)} rows for {max(found.kept_x, found.kept_y)} dimensions"
        elif math.isnan(value):
            status, detail["reason"] = "undefined", "a side is constant"
        elif measure in WITHOUT:
            # A block of which this draw has no token leaves the value as it is.
            without_K = WITHOUT[measure](x_nD, y_nD, block_n, n_blocks)
            detail["without"] = [float(f"{each:.9g}") for each in without_K]
        row = _row(measure, value, split, layer, status, detail)
        yield row._replace(n_items=len(x_nD), n_dropped=n_dropped)


def _row(
    measure: str, value: float, split: str, layer: int | None, status: Status, detail: Mapping[str, object]
) -> Measurement:
    unit = UNITS.get(measure, "fraction")
    return Measurement(measure, value, unit, split, layer, n_items=0, status=status, detail=detail)
