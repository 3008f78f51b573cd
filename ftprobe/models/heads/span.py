"""The head that points at a span of a text, and may say of what type the answer is (METHODS 1.1).

Axes: N texts, S sub-words, D width of the encoder, K types.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ftprobe.models.heads.parts import classification_place, linear, save_encoder, save_head, set_dropout, spread_of
from ftprobe.models.heads.parts import states as states_of
from ftprobe.models.load import Encoder


class SpanLogits(NamedTuple):
    """Of a span's first and last sub-word (N, S, 2), -inf at padding, and of the types (N, K) where there are any."""

    span_NS2: Tensor
    type_NK: Tensor | None


class SpanHead(nn.Module):
    """An encoder and logits_S2 = h_SD W_D2 + b; with `n_types`, logits_K = h_CLS W_DK + b; dropout before either map.

    Parameters
    ----------
    encoder
        Its model becomes a part of this module and is trained with it.
    dropout
        Probability for the hidden states, the attention weights and the head.
    seed
        New weights are drawn from N(0, initializer_range) under it; new biases are 0.
    """

    def __init__(self, encoder: Encoder, n_types: int = 0, *, dropout: float, seed: int) -> None:
        super().__init__()
        self.encoder = encoder.model
        self._last, self._left = encoder.classification == "last", encoder.tokenizer.padding_side == "left"
        generator = torch.Generator().manual_seed(seed)
        spread = spread_of(encoder)
        self.span = linear(encoder.dim, 2, spread, generator)
        self.types = linear(encoder.dim, n_types, spread, generator) if n_types else None
        self.dropout = nn.Dropout(dropout)
        set_dropout(self.encoder, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> SpanLogits:
        """Logits of a padded batch."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        h_NSD = self.dropout(states_of(self.encoder, inputs, grouped=self.training, left=self._left))
        span_NS2 = self.span(h_NSD).masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf)
        if self.types is None:
            return SpanLogits(span_NS2, None)
        place_N = classification_place(attention_mask, last=self._last)
        return SpanLogits(span_NS2, self.types(h_NSD[torch.arange(len(h_NSD), device=h_NSD.device), place_N]))

    def save(self, folder: Path, encoder: Encoder, types: Sequence[str]) -> None:
        """Write the encoder as `load_encoder` reads it, and the head as head.safetensors with its types (K)."""
        save_encoder(folder, encoder)
        save_head(folder, {"span": self.span, "types": self.types}, types)
