"""Runs the attention comparison: both states on the same batches, reduced block by block (METHODS 12).

Nothing but sums is kept: a batch's attention is reduced and dropped before the next one is computed.

Axes: L blocks, N sequences, H heads, S positions, G the two groups of positions in `POSITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.compare.attention import AttentionOptions
from ftprobe.compare.comparison import Report, States
from ftprobe.compare.inputs import Row, padded, split_of, tokenizer_hash
from ftprobe.errors import InputError
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.align import Tokens, align
from ftprobe.models.load import Encoder
from ftprobe.solvers.attention import distributions, earth_movers_distance, entropy
from ftprobe.tasks.types import Corpus

POSITIONS = ("cls", "other")
# Tokens of a batch as in extraction, and bytes of its attention, float32, both states together; one sequence goes in
# whatever it takes.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 1024, 8192
_CPU_BYTES, _ACCELERATOR_BYTES = 1 << 27, 1 << 31


def run(
    options: AttentionOptions,
    corpus: Corpus,
    rows: Sequence[int],
    states: States,
    *,
    seed: int,
    device: str,
    threads: int,
    report: Report,
) -> Outcome:
    """Entropy of a state's attention, and its distance from the pre-trained one's.

    Parameters
    ----------
    rows
        Positions of sentences in the corpus; one given twice counts twice.
    states
        With `state`: its entropy and its distance from `base`. Without: the entropy of `base`.
    seed
        Not used: nothing is random.
    others
        As of every runner (`ftprobe.compare.Comparison`).

    Returns
    -------
    Outcome
        For each block (`layer` 1..L), head (`detail.head`; null: the mean over heads) and position (`detail.position`:
        the classification token, or the mean over all others): `attention_entropy` (nat, bit, or fraction) and
        `attention_emd` (positions, fraction, or probability), means over sequences. A sequence of one sub-word is
        skipped, and counted in `n_dropped`. States of unequal depth have no common blocks: the distance is `refused`.

    Raises
    ------
    InputError
        The states' tokenizers differ; no sequence is longer than one sub-word; an attention weight is not finite.
    """
    base = states.base()
    state = None if states.state is None else states.state()
    texts = _texts(options, corpus, rows, base)
    sums = _Sums(options, state or base, None if state is None else base)
    if state is not None and tokenizer_hash(base) != tokenizer_hash(state):
        raise InputError.one(corpus.name, "the two states split text into different sub-words; compare like with like")
    for encoder in (base, state) if state is not None else (base,):
        _prepare(encoder, device)
    done = 0
    for text_B in _batches(texts.length_U, base, 1 if state is None else 2, device):
        sums.add(texts, text_B, corpus.name, device)
        done += int(texts.times_U[text_B].sum())
        report({"sentences_done": done, "sentences": texts.n_kept})
    return _outcome(options, sums, texts, corpus, rows)


class _Texts(NamedTuple):
    """Distinct texts: their sub-words, their lengths, and how often each is asked for."""

    tokens: Tokens
    length_U: NDArray[np.int64]
    times_U: NDArray[np.int64]
    n_kept: int
    n_skipped: int
    n_truncated: int


def _texts(options: AttentionOptions, corpus: Corpus, rows: Sequence[int], base: Encoder) -> _Texts:
    aligned = align(base, corpus, rows, max_length=options.max_length, overflow="truncate")
    tokens = aligned.tokens
    length_U = np.diff(tokens.start_U1)
    times_U = np.bincount(aligned.text_S, minlength=len(length_U))
    n_kept = int(times_U[length_U > 1].sum())
    if n_kept == 0:
        raise InputError.one(corpus.name, f"none of {len(rows)} sentences has more than one sub-word")
    n_truncated = int(times_U[tokens.truncated_U].sum())
    return _Texts(tokens, length_U, times_U, n_kept, len(rows) - n_kept, n_truncated)


def _prepare(encoder: Encoder, device: str) -> None:
    # Only this implementation returns weights; its numbers differ from the others' in the last digits.
    encoder.model.set_attn_implementation("eager")
    module: torch.nn.Module = encoder.model
    module.to(device).eval()


def _batches(length_U: NDArray[np.int64], base: Encoder, n_states: int, device: str) -> Iterator[NDArray[np.int64]]:
    """Texts of similar length, longest first, within the bytes that their attention takes."""
    on_cpu = device == "cpu"
    n_bytes, n_tokens = (_CPU_BYTES, _CPU_TOKENS) if on_cpu else (_ACCELERATOR_BYTES, _ACCELERATOR_TOKENS)
    config = base.model.config
    per_square = 4 * n_states * config.num_hidden_layers * config.num_attention_heads
    order_U = np.argsort(-length_U, kind="stable")
    order_U = order_U[length_U[order_U] > 1]
    while len(order_U):
        longest = int(length_U[order_U[0]])
        n_texts = max(1, min(n_bytes // (per_square * longest**2), n_tokens // longest))
        yield order_U[:n_texts]
        order_U = order_U[n_texts:]


class _Sums:
    """Running sums over sequences, and their weights, (L, G, H) in float64; of the distance only with two states."""

    def __init__(self, options: AttentionOptions, measured: Encoder, other: Encoder | None) -> None:
        self.options, self.measured = options, measured
        comparable = other is not None and other.n_layers == measured.n_layers
        self.other = other if comparable else None
        self.refused = other is not None and not comparable
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, texts: _Texts, text_B: NDArray[np.int64], corpus: str, device: str) -> None:
        tokens = texts.tokens
        spans = [slice(tokens.start_U1[u], tokens.start_U1[u + 1]) for u in text_B]
        rows = [Row(tokens.id_K[span], tokens.segment_K[span]) for span in spans]
        batch = padded(self.measured, rows, device)
        mask_NS = batch["attention_mask"]
        weight_N = torch.from_numpy(texts.times_U[text_B]).to(device, torch.float64)
        pair = [_attentions(encoder, batch, corpus) for encoder in (self.measured, self.other) if encoder is not None]
        for layer, blocks in enumerate(zip(*pair, strict=True), 1):
            P_NHSS, *Q = (distributions(A, mask_NS, direction=self.options.direction) for A in blocks)
            log_base, normalise = self.options.log_base, self.options.normalise
            values = entropy(P_NHSS, mask_NS, log_base=log_base, normalise=normalise)
            self._sum("attention_entropy", layer, values, mask_NS, weight_N)
            if Q:
                values = earth_movers_distance(P_NHSS, Q[0], mask_NS, ground_distance=self.options.ground_distance)
                self._sum("attention_emd", layer, values, mask_NS, weight_N)

    def _sum(self, metric: str, layer: int, value_NHS: Tensor, mask_NS: Tensor, weight_N: Tensor) -> None:
        cls_NS = _cls(mask_NS, self.measured.classification)
        groups_GNS = torch.stack([cls_NS, mask_NS.bool() & ~cls_NS])
        sum_of_GNH = torch.where(groups_GNS[:, :, None] & value_NHS.isfinite(), value_NHS, 0.0).sum(-1)
        count_GNH = (groups_GNS[:, :, None] & value_NHS.isfinite()).sum(-1)
        mean_GNH = sum_of_GNH / count_GNH.clamp(min=1)
        weight_GNH = weight_N[:, None] * (count_GNH > 0)
        added = torch.stack([(mean_GNH * weight_GNH).sum(1), weight_GNH.sum(1)]).cpu()
        sums = self._sums.setdefault(metric, [])
        if len(sums) < layer:
            sums.append(added)
        else:
            sums[layer - 1] += added

    def means(self, metric: str) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Of each block the means (G, H), NaN where no sequence has one, and how many sequences they are over."""
        made = []
        for total_GH, weight_GH in self._sums.get(metric, []):
            made.append(((total_GH / weight_GH).numpy(), weight_GH.long().numpy()))
        return made


@torch.inference_mode()
def _attentions(encoder: Encoder, batch: dict[str, Tensor], corpus: str) -> tuple[Tensor, ...]:
    """Weights (N, H, S, S) of every block."""
    found = encoder.model(**batch, output_attentions=True).attentions
    if len(found) != encoder.n_layers:
        raise RuntimeError(f"{len(found)} blocks of attention from a model of {encoder.n_layers} layers")
    mask_NS = batch["attention_mask"].bool()
    for layer, A_NHSS in enumerate(found, 1):
        if not bool((A_NHSS.sum(-1).isfinite() | ~mask_NS[:, None]).all()):
            repair = "the model's weights have diverged; fine-tune with a lower learning rate"
            raise InputError.one(corpus, f"attention of block {layer} is not finite", repair)
    return tuple(found)


def _cls(mask_NS: Tensor, classification: str) -> Tensor:
    """Where the classification token is: the first real position, or the last."""
    ordinal_NS = mask_NS.cumsum(1)
    last_N1 = ordinal_NS[:, -1:] if classification == "last" else torch.ones_like(ordinal_NS[:, -1:])
    return (ordinal_NS == last_N1) & mask_NS.bool()


def _outcome(options: AttentionOptions, sums: _Sums, texts: _Texts, corpus: Corpus, rows: Sequence[int]) -> Outcome:
    split = split_of(corpus, rows)
    entropy_unit = "fraction" if options.normalise else {"e": "nat", "2": "bit"}[options.log_base]
    emd_unit = {"position": "positions", "position_normalised": "fraction", "values": "probability"}
    made = [
        *_rows("attention_entropy", entropy_unit, sums, split, len(rows)),
        *_rows("attention_emd", emd_unit[options.ground_distance], sums, split, len(rows)),
    ]
    if sums.refused:
        detail = {"reason": "the state has another number of blocks than the pre-trained one"}
        unit = emd_unit[options.ground_distance]
        made.append(Measurement("attention_emd", math.nan, unit, split, status="refused", detail=detail))
    facts = {"n_sentences": texts.n_kept, "n_skipped": texts.n_skipped, "n_truncated": texts.n_truncated}
    return Outcome(tuple(made), facts=facts)


def _rows(metric: str, unit: str, sums: _Sums, split: str, n_asked: int) -> Iterator[Measurement]:
    """Of each block and position the mean over heads, then every head."""
    for layer, (mean_GH, count_GH) in enumerate(sums.means(metric), 1):
        for position, mean_H, count_H in zip(POSITIONS, mean_GH.tolist(), count_GH.tolist(), strict=True):
            over_heads = (None, sum(mean_H) / len(mean_H), min(count_H))
            for head, value, count in (over_heads, *zip(range(len(mean_H)), mean_H, count_H, strict=True)):
                detail: dict[str, object] = {"position": position, "head": head}
                if count == 0:
                    detail["reason"] = "no sequence has such a position with attention to spread"
                yield Measurement(
                    metric,
                    value,
                    unit,
                    split,
                    layer,
                    n_items=count,
                    n_dropped=n_asked - count,
                    status="ok" if count else "undefined",
                    detail=detail,
                )
