"""Extraction: hidden states of every layer, pooled to the items of a corpus, written as Arrow shards (METHODS 2).

One forward pass serves all poolings. Texts are sorted by length and fill batches by a token budget; pooling happens
on the device; rows are written in the order of the corpus whatever the batches were.

Axes: L layers + 1 (0 = embedding output), B texts of a batch, T positions, D dimensions, G items of a batch, M
gathered tokens, U distinct texts, S sentences, N rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.activations import Pooling
from ftprobe.activations.gather import Gather, Rows, gather, ranges, rows
from ftprobe.errors import InputError
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.align import Aligned, Overflow, Tokens, align
from ftprobe.models.inputs import takes_segments
from ftprobe.models.load import Encoder
from ftprobe.shards import SHARD_ITEMS, Dtype, ShardWriter
from ftprobe.tasks.types import Corpus

# A CPU is fastest while a batch fits its caches: MiniLM takes 1.9 times as long with 8192 tokens as with 1024.
_CPU_BUDGET, _ACCELERATOR_BUDGET = 1024, 8192
_WINDOW = 16384  # texts sorted by length together: keeps the rows being written close to each other on disk


class _Sentences(NamedTuple):
    """The sentences that share a text: `sentence_S[start_U1[u]:start_U1[u + 1]]`, positions in what was asked for."""

    sentence_S: NDArray[np.int64]
    start_U1: NDArray[np.int64]


class _Sink:
    """Where one pooling goes: its gather, its rows, its writer, and its running sum of norms."""

    def __init__(self, gathered: Gather, placed: Rows, writer: ShardWriter) -> None:
        self.gather, self.rows, self.writer = gathered, placed, writer
        self.norm_L = np.zeros(writer.n_layers_plus_1)


def extract(
    encoder: Encoder,
    corpus: Corpus,
    sentence_S: Sequence[int],
    poolings: Sequence[Pooling],
    *,
    max_length: int,
    overflow: Overflow,
    dtype: Dtype,
    out: Sequence[Path],
    device: str,
    token_budget: int | None = None,
    shard_items: int = SHARD_ITEMS,
) -> list[Outcome]:
    """Write the activations of one model state on one corpus, one folder of `out` per pooling.

    Parameters
    ----------
    sentence_S : sequence of int
        Positions in the corpus; items are in this order.
    poolings : sequence of Pooling
        All are computed in one forward pass.
    max_length : int
        Longest sequence in tokens, special tokens included.
    overflow : {"truncate", "error"}
        Truncated texts are counted (`n_truncated`), and words that truncation cut are dropped and counted.
    token_budget : int, optional
        Tokens of a batch, padding included; by default what suits the device.

    Returns
    -------
    list of Outcome
        For each pooling: `n_words`, `n_subwords`, `n_dropped` (unit count) and `mean_norm` of each layer (unit
        euclidean); facts `n_items`, `n_truncated`, `n_tokens` (encoded), `seconds`, `tokens_per_s`, `final_norm`.

    Raises
    ------
    InputError
        A text is too long under `overflow="error"`; no item is left; a state is not finite in `dtype`.
    OSError
        The disk has no room for the shards; in a folder of `Store.workdir` it becomes a `StoreError`.
    """
    started = time.perf_counter()
    aligned = align(encoder, corpus, sentence_S, max_length=max_length, overflow=overflow)
    sinks = []
    for pooling, folder in zip(poolings, out, strict=True):
        gathered = gather(aligned.tokens, pooling, encoder.classification)
        placed = rows(corpus, sentence_S, aligned, gathered, pooling)
        n_items = len(placed.items.word_N)
        writer = ShardWriter(folder, n_items, encoder.n_layers + 1, encoder.dim, dtype, shard_items)
        sinks.append(_Sink(gathered, placed, writer))
    sentences = _sentences(aligned)
    module: torch.nn.Module = encoder.model
    module.to(device).eval()
    budget = token_budget or (_CPU_BUDGET if device == "cpu" else _ACCELERATOR_BUDGET)
    for text_B in _batches(np.diff(aligned.tokens.start_U1), budget):
        states = _forward(encoder, aligned.tokens, text_B, device)
        for sink in sinks:
            _pool_and_write(sink, sentences, aligned.tokens, text_B, states, corpus)
    for sink in sinks:
        sink.writer.close(sink.rows.items)
    seconds = time.perf_counter() - started
    return [_outcome(encoder, aligned, sink, pooling, seconds) for sink, pooling in zip(sinks, poolings, strict=True)]


def _sentences(aligned: Aligned) -> _Sentences:
    n_texts = len(aligned.tokens.truncated_U)
    count_U = np.bincount(aligned.text_S, minlength=n_texts)
    return _Sentences(np.argsort(aligned.text_S, kind="stable"), np.concatenate([[0], np.cumsum(count_U)]))


def _batches(length_U: NDArray[np.int64], token_budget: int) -> Iterator[NDArray[np.int64]]:
    """Texts of similar length, longest first, at most `token_budget` padded tokens (or one text)."""
    for start in range(0, len(length_U), _WINDOW):
        window_U = np.arange(start, min(start + _WINDOW, len(length_U)))
        window_U = window_U[length_U[window_U] > 0]
        order_U = window_U[np.argsort(-length_U[window_U], kind="stable")]
        while len(order_U):
            n_texts = max(1, token_budget // int(length_U[order_U[0]]))
            yield order_U[:n_texts]
            order_U = order_U[n_texts:]


class _States(NamedTuple):
    """Hidden states of a batch, one (B * T, D) tensor per layer; token k of text b stands at `k + shift_B[b]`."""

    layers: tuple[Tensor, ...]
    shift_B: NDArray[np.int64]


@torch.inference_mode()
def _forward(encoder: Encoder, tokens: Tokens, text_B: NDArray[np.int64], device: str) -> _States:
    start_B = tokens.start_U1[text_B]
    length_B = tokens.start_U1[text_B + 1] - start_B
    shape = (len(text_B), int(length_B.max()))
    shift_B = np.arange(len(text_B)) * shape[1] - start_B
    token_M = ranges(start_B, start_B + length_B)
    place_M = token_M + np.repeat(shift_B, length_B)
    # Padding goes right for every family: positions, absolute or relative, then count from the first real token.
    id_BT = np.full(shape, encoder.tokenizer.pad_token_id, dtype=np.int64)
    mask_BT = np.zeros(shape, dtype=np.int64)
    id_BT.reshape(-1)[place_M] = tokens.id_K[token_M]
    mask_BT.reshape(-1)[place_M] = 1
    inputs = {"input_ids": id_BT, "attention_mask": mask_BT}
    if takes_segments(encoder):
        inputs["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        inputs["token_type_ids"].reshape(-1)[place_M] = tokens.segment_K[token_M]
    on_device = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
    hidden = encoder.model(**on_device, output_hidden_states=True).hidden_states
    if len(hidden) != encoder.n_layers + 1:
        raise RuntimeError(f"{len(hidden)} hidden states from a model of {encoder.n_layers} layers")
    return _States(tuple(h_BTD.reshape(-1, h_BTD.shape[-1]) for h_BTD in hidden), shift_B)


@torch.inference_mode()
def _pool_and_write(
    sink: _Sink, sentences: _Sentences, tokens: Tokens, text_B: NDArray[np.int64], states: _States, corpus: Corpus
) -> None:
    item_U1, start_G1 = sink.gather.item_U1, sink.gather.start_G1
    item_G = ranges(item_U1[text_B], item_U1[text_B + 1])
    if len(item_G) == 0:
        return
    count_B = np.diff(item_U1)[text_B]
    length_G = np.diff(start_G1)[item_G]
    shift_G = np.repeat(states.shift_B, count_B)
    place_M = sink.gather.token_M[ranges(start_G1[item_G], start_G1[item_G + 1])] + np.repeat(shift_G, length_G)
    pooled_LGD = _pool(states.layers, place_M, length_G)
    stored_LGD = pooled_LGD.to(getattr(torch, sink.writer.dtype))
    if not bool(torch.isfinite(stored_LGD).all()):
        _refuse(sink, sentences, text_B, count_B, pooled_LGD, stored_LGD, corpus)
    row_N, source_N = _placement(sink, sentences, text_B, count_B)
    times_G = torch.from_numpy(np.bincount(source_N, minlength=len(item_G))).to(pooled_LGD)
    sink.norm_L += (pooled_LGD.norm(dim=-1) * times_G).sum(dim=-1).cpu().numpy()
    stored = stored_LGD.cpu().numpy()
    sink.writer.write(row_N, stored if len(source_N) == len(item_G) else stored[:, source_N])


def _pool(layers: Sequence[Tensor], place_M: NDArray[np.int64], length_G: NDArray[np.int64]) -> Tensor:
    """Means of consecutive runs of gathered tokens, (L + 1, G, D) in float32."""
    device, dim = layers[0].device, layers[0].shape[-1]
    place = torch.from_numpy(place_M).to(device)
    length = torch.from_numpy(length_G).to(device)
    out_LGD = torch.zeros(len(layers), len(length_G), dim, device=device)
    item_M = torch.repeat_interleave(torch.arange(len(length_G), device=device), length)
    for out_GD, h_KD in zip(out_LGD, layers, strict=True):
        gathered_MD = h_KD.index_select(0, place).float()
        if len(place_M) == len(length_G):
            out_GD.copy_(gathered_MD)
        elif device.type == "cuda":
            # index_add adds in no fixed order there, and the same trial would not give the same bytes twice.
            out_GD.copy_(torch.segment_reduce(gathered_MD, "mean", lengths=length))
        else:
            out_GD.index_add_(0, item_M, gathered_MD).div_(length[:, None])
    return out_LGD


def _placement(
    sink: _Sink, sentences: _Sentences, text_B: NDArray[np.int64], count_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the batch's items, and the item of each row: a text that occurs twice fills two runs of rows."""
    n_sentences_B = np.diff(sentences.start_U1)[text_B]
    sentence_R = sentences.sentence_S[ranges(sentences.start_U1[text_B], sentences.start_U1[text_B + 1])]
    count_R = np.repeat(count_B, n_sentences_B)
    first_R = np.repeat(np.cumsum(count_B) - count_B, n_sentences_B)
    row_R = sink.rows.start_S1[sentence_R]
    return ranges(row_R, row_R + count_R), ranges(first_R, first_R + count_R)


def _refuse(
    sink: _Sink,
    sentences: _Sentences,
    text_B: NDArray[np.int64],
    count_B: NDArray[np.int64],
    pooled_LGD: Tensor,
    stored_LGD: Tensor,
    corpus: Corpus,
) -> None:
    """Name the first layer and text with a value that is not finite."""
    layer, item = (~torch.isfinite(stored_LGD)).any(dim=-1).nonzero()[0].tolist()
    row_N, source_N = _placement(sink, sentences, text_B, count_B)
    position = int(sink.rows.items.sentence_N[row_N[source_N == item][0]])
    sentence = corpus.sentences[position]
    overflowed = bool(torch.isfinite(pooled_LGD[layer, item]).all())
    raise InputError.one(
        f"{corpus.name}: sentence {sentence.id!r}",
        f"layer {layer} is not finite in {sink.writer.dtype}: {sentence.text[:80]!r}",
        "store float32" if overflowed else "the model's weights have diverged; fine-tune with a lower learning rate",
    )


def _outcome(encoder: Encoder, aligned: Aligned, sink: _Sink, pooling: Pooling, seconds: float) -> Outcome:
    tokens, text_S = aligned.tokens, aligned.text_S
    n_items, n_tokens = sink.writer.n_items, int(tokens.start_U1[-1])
    n_words = int(tokens.n_words_U[text_S].sum())
    n_dropped = (n_words if pooling.level == "word" else len(text_S)) - n_items
    counts = {"n_subwords": int(tokens.n_pieces_U[text_S].sum()), "n_dropped": n_dropped}
    if n_words:
        counts = {"n_words": n_words, **counts}
    measurements = [
        Measurement(name, float(count), "count", split="all", n_items=n_items, n_dropped=n_dropped)
        for name, count in counts.items()
    ]
    measurements += [
        Measurement(
            "mean_norm",
            total / n_items,
            "euclidean",
            split="all",
            layer=layer,
            n_items=n_items,
            n_dropped=n_dropped,
            detail={"final_norm": True} if encoder.final_norm and layer == encoder.n_layers else {},
        )
        for layer, total in enumerate(sink.norm_L.tolist())
    ]
    facts = {
        "n_items": n_items,
        "n_truncated": int(tokens.truncated_U[text_S].sum()),
        "n_tokens": n_tokens,
        "seconds": seconds,
        "tokens_per_s": n_tokens / seconds,
        "final_norm": encoder.final_norm,
    }
    return Outcome(tuple(measurements), facts=facts)
