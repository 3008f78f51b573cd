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
from ftprobe.solvers.similarity import Cca, cka, neighbour_overlap, procrustes, pwcca, rsa, svcca
from ftprobe.tasks.types import Corpus

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
ROWS_A_DIMENSION = 5  # fewer rows than so many times the dimensions that are kept say little of a CCA
_TOKENS = 2048


class _Stimuli(NamedTuple):
    """Tokens that are drawn (M): the places of their sub-words, end to end, and which tokens each draw has."""

    place_K: NDArray[np.int64]
    token_K: NDArray[np.int64]
    draws: tuple[NDArray[np.int64], ...]


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
    """Similarity of each layer of a state to the same layer of the pre-trained one.

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
        keeps is `refused`, as is everything where the states have unequal depth.

    Raises
    ------
    InputError
        The states' tokenizers differ; the text has fewer than three tokens; a state is not finite.
    """
    assert states.state is not None
    base, state = states.base(), states.state()
    if tokenizer_hash(base) != tokenizer_hash(state):
        raise InputError.one(corpus.name, "the two states split text into different sub-words; compare like with like")
    split = split_of(corpus, rows)
    if base.n_layers != state.n_layers:
        reason = {"reason": "the state has another number of blocks than the pre-trained one"}
        return Outcome(tuple(_row(m, math.nan, split, None, 0, "refused", reason) for m in options.measures))
    aligned = align(base, corpus, rows, max_length=options.max_length, overflow="truncate")
    stimuli = _drawn(options, aligned.tokens, aligned.text_S, corpus.name, seed)
    pair = [_hidden(encoder, aligned.tokens, stimuli, device, corpus.name) for encoder in (base, state)]
    made: list[Measurement] = []
    for layer, (x_MD, y_MD) in enumerate(zip(*pair, strict=True)):
        for draw, token_n in enumerate(stimuli.draws):
            made += _layer(options, x_MD[token_n], y_MD[token_n], split, layer, draw)
        report({"layers_done": layer + 1, "layers": base.n_layers + 1})
    facts = {
        "n_texts": len(rows),
        "n_tokens": len(stimuli.draws[0]),
        "n_truncated": int(aligned.tokens.truncated_U.sum()),
    }
    return Outcome(tuple(made), facts=facts)


def _drawn(options: SimilarityOptions, tokens: Tokens, text_S: NDArray[np.int64], corpus: str, seed: int) -> _Stimuli:
    """Tokens drawn over all texts, each text as often as it stands in the corpus."""
    if options.unit == "word":
        length_U = np.diff(tokens.start_U1)
        text_K = np.repeat(np.arange(len(length_U)), length_U)
        own_K = np.flatnonzero(tokens.word_K >= 0)
        _, unit_of_own = np.unique(np.stack([text_K[own_K], tokens.word_K[own_K]]), axis=1, return_inverse=True)
    else:
        own_K = np.flatnonzero(~tokens.special_K if options.special == "exclude" else np.ones_like(tokens.special_K))
        unit_of_own = np.arange(len(own_K))
    first = np.unique(unit_of_own, return_index=True)[1]
    text_of_unit = np.searchsorted(tokens.start_U1, own_K[first], side="right") - 1
    times_U = np.bincount(text_S, minlength=len(tokens.start_U1) - 1)
    pool = np.repeat(np.arange(len(first)), times_U[text_of_unit])
    if len(pool) < 3:
        raise InputError.one(corpus, f"only {len(pool)} tokens to compare", "name a text with sentences")
    picked = []
    for draw in range(options.draws):
        rng = np.random.default_rng(derive_seed(seed, "sample", draw))
        picked.append(pool[np.sort(rng.choice(len(pool), min(options.n, len(pool)), replace=False))])
    needed = np.unique(np.concatenate(picked))
    place = np.flatnonzero(np.isin(unit_of_own, needed))
    token_K = np.searchsorted(needed, unit_of_own[place])
    return _Stimuli(own_K[place], token_K, tuple(np.searchsorted(needed, each) for each in picked))


@torch.inference_mode()
def _hidden(encoder: Encoder, tokens: Tokens, stimuli: _Stimuli, device: str, corpus: str) -> list[Hidden]:
    """Of each layer the states of the drawn tokens (M, D), means over their sub-words; other texts are not read."""
    module: torch.nn.Module = encoder.model
    module.to(device).eval()
    n_tokens = int(stimuli.token_K.max()) + 1
    total_LMD = torch.zeros(encoder.n_layers + 1, n_tokens, encoder.dim)
    text_K = np.searchsorted(tokens.start_U1, stimuli.place_K, side="right") - 1
    for text_B in _batches(np.diff(tokens.start_U1), np.unique(text_K)):
        spans = [slice(tokens.start_U1[u], tokens.start_U1[u + 1]) for u in text_B]
        batch = padded(encoder, [Row(tokens.id_K[span], tokens.segment_K[span]) for span in spans], device)
        here_k = np.flatnonzero(np.isin(text_K, text_B))
        row_of = {int(u): n for n, u in enumerate(text_B)}
        row_k = np.array([row_of[int(u)] for u in text_K[here_k]])
        column_k = stimuli.place_K[here_k] - tokens.start_U1[text_K[here_k]]
        hidden = encoder.model(**batch, output_hidden_states=True).hidden_states
        token_k = torch.from_numpy(stimuli.token_K[here_k])
        for layer, h_NSD in enumerate(hidden):
            total_LMD[layer].index_add_(0, token_k, h_NSD[row_k, column_k].float().cpu())
    count_M = torch.from_numpy(np.bincount(stimuli.token_K, minlength=n_tokens)).unsqueeze(1)
    means = [(total_MD / count_M).numpy() for total_MD in total_LMD]
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
    options: SimilarityOptions, x_nD: Hidden, y_nD: Hidden, split: str, layer: int, draw: int
) -> Iterator[Measurement]:
    for measure in options.measures:
        said = MEASURES[measure](x_nD, y_nD)
        detail: dict[str, object] = {"draw": draw, "against": "pretrained"}
        value, status = (said.value, "ok") if isinstance(said, Cca) else (said, "ok")
        if isinstance(said, Cca) and len(x_nD) < ROWS_A_DIMENSION * max(said.kept_x, said.kept_y):
            value, status = math.nan, "refused"
            detail["reason"] = f"{len(x_nD)} rows for {max(said.kept_x, said.kept_y)} dimensions"
        elif math.isnan(value):
            status, detail["reason"] = "undefined", "a side is constant"
        yield _row(measure, value, split, layer, len(x_nD), status, detail)  # type: ignore[arg-type]


def _row(
    measure: str, value: float, split: str, layer: int | None, n: int, status: Status, detail: Mapping[str, object]
) -> Measurement:
    unit = UNITS.get(measure, "fraction")
    return Measurement(measure, value, unit, split, layer, n_items=n, status=status, detail=detail)
