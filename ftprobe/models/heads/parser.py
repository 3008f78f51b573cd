"""The deep biaffine parser (Dozat and Manning 2017; METHODS 1.1).

Axes: N sentences, S sub-words, T words of the longest sentence, or those and the root, D width of the encoder, A and L
widths of the maps for arcs and labels, K labels, M arcs. Head 0 is the root, head t + 1 is word t.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ftprobe.models.heads.parts import linear, save_encoder, save_head, set_dropout, spread_of, states
from ftprobe.models.load import Encoder


class Arcs(NamedTuple):
    """What the parser says of a batch: `arc_NTT[n, i, j]` scores head j of word i, -inf where there is no such head.

    `dependant_NTL` (words) and `head_NTL` (the root and words) are what labels are computed from.
    """

    arc_NTT: Tensor
    dependant_NTL: Tensor
    head_NTL: Tensor


class Sizes(NamedTuple):
    """Widths of the maps for arcs (A) and labels (L), labels (K), and the probability of dropout after the maps."""

    arc: int
    label: int
    n_labels: int
    dropout: float


class Biaffine(nn.Module):
    """Scores of heads and labels from word vectors, by four maps a = LeakyReLU(W h + b) with dropout.

    arc_TT[i, j] = d_i' U e_j + u'e_j; label_K = d' U_k e + W [d ; e] + b.
    """

    def __init__(self, dim: int, sizes: Sizes, spread: float, generator: torch.Generator) -> None:
        super().__init__()

        def mapped(size: int) -> nn.Sequential:
            dense = linear(dim, size, spread, generator)
            return nn.Sequential(dense, nn.LeakyReLU(0.1), nn.Dropout(sizes.dropout))

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).normal_(0.0, spread, generator=generator))

        self.arc_dependant, self.arc_head = mapped(sizes.arc), mapped(sizes.arc)
        self.label_dependant, self.label_head = mapped(sizes.label), mapped(sizes.label)
        self.arc_pair, self.arc_prior = drawn(sizes.arc, sizes.arc), drawn(sizes.arc)
        self.label_pair = drawn(sizes.n_labels, sizes.label, sizes.label)
        self.label_each = linear(2 * sizes.label, sizes.n_labels, spread, generator)

    def forward(self, h_NTD: Tensor, there_NT: Tensor) -> Arcs:
        """Scores of the words `h_NTD[:, 1:]` and heads `h_NTD`, the root first; `there_NT` is False at padding."""
        words_NTD = h_NTD[:, 1:]
        query_NTA = self.arc_dependant(words_NTD) @ self.arc_pair + self.arc_prior
        arc_NTT = query_NTA @ self.arc_head(h_NTD).transpose(1, 2)
        arc_NTT = arc_NTT.masked_fill(~there_NT.unsqueeze(1), -torch.inf)
        return Arcs(arc_NTT, self.label_dependant(words_NTD), self.label_head(h_NTD))

    def labels(self, arcs: Arcs, sentence_M: Tensor, word_M: Tensor, head_M: Tensor) -> Tensor:
        """Logits (M, K) of the labels of the arcs from `head_M` to `word_M` in `sentence_M` of the batch."""
        n_words, n_heads = arcs.dependant_NTL.shape[1], arcs.head_NTL.shape[1]
        d_ML = arcs.dependant_NTL.flatten(0, 1).index_select(0, sentence_M * n_words + word_M)
        e_ML = arcs.head_NTL.flatten(0, 1).index_select(0, sentence_M * n_heads + head_M)
        pair_LX = self.label_pair.transpose(0, 1).flatten(1)
        query_MKL = (d_ML @ pair_LX).view(len(d_ML), *self.label_pair.shape[::2])
        logits_MK: Tensor = (query_MKL @ e_ML.unsqueeze(2)).squeeze(2) + self.label_each(torch.cat([d_ML, e_ML], 1))
        return logits_MK


class Parser(nn.Module):
    """An encoder and a biaffine parser on its last layer.

    Parameters
    ----------
    encoder
        Its model becomes a part of this module and is trained with it.
    dropout
        Probability for the hidden states and the attention weights.
    seed
        New weights are drawn from N(0, initializer_range) under it; new biases are 0.
    """

    def __init__(self, encoder: Encoder, sizes: Sizes, *, dropout: float, seed: int) -> None:
        super().__init__()
        self.encoder = encoder.model
        self._left = encoder.tokenizer.padding_side == "left"
        self.biaffine = Biaffine(encoder.dim, sizes, spread_of(encoder), torch.Generator().manual_seed(seed))
        set_dropout(self.encoder, dropout)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, place_NT: Tensor, token_type_ids: Tensor | None = None
    ) -> Arcs:
        """Scores of a padded batch; `place_NT` are the root's and each word's places in its N x S sub-words, or -1."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        h_NSD = states(self.encoder, inputs, grouped=self.training, left=self._left)
        h_WD = h_NSD.flatten(0, 1).index_select(0, place_NT.clamp(min=0).flatten())
        arcs: Arcs = self.biaffine(h_WD.view(*place_NT.shape, -1), place_NT >= 0)
        return arcs

    def save(self, folder: Path, encoder: Encoder, labels: Sequence[str]) -> None:
        """Write the encoder as `load_encoder` reads it, and the rest as head.safetensors with its labels (K)."""
        save_encoder(folder, encoder)
        save_head(folder, {"biaffine": self.biaffine}, labels)
