"""The head that classifies texts and text pairs, or gives them a number (METHODS 1.1).

Axes: N texts, S sub-words, D width of the encoder, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ftprobe.models.heads.parts import groups, linear, save_encoder, save_head, set_dropout, spread_of
from ftprobe.models.load import Encoder

Pooled = Literal["cls", "mean"]
Pooler = Literal["pretrained", "fresh", "none"]


class Classifier(nn.Module):
    """An encoder and a classification head: z = tanh(W h + b), logits_NK = z W_KD' + b_K, dropout before the last map.

    Parameters
    ----------
    encoder
        Its model becomes a part of this module and is trained with it.
    pooled
        h is the state of the classification token (`cls`) or the mean over real tokens, special ones included.
    pooler
        W, b: the checkpoint's own (`pretrained`; drawn anew where it has none, see `pooler`), drawn anew (`fresh`),
        or z = h (`none`).
    dropout
        Probability for the hidden states, the attention weights and the head.
    seed
        New weights are drawn from N(0, initializer_range) under it; new biases are 0.

    Attributes
    ----------
    pooler : str
        The pooler in use; differs from the one asked for if the checkpoint has none.
    """

    def __init__(
        self, encoder: Encoder, n_labels: int, *, pooled: Pooled, pooler: Pooler, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self.encoder, self.pooled = encoder.model, pooled
        self._last, self._left = encoder.classification == "last", encoder.tokenizer.padding_side == "left"
        generator = torch.Generator().manual_seed(seed)
        spread = spread_of(encoder)
        own = checkpoint_pooler(encoder)
        self.pooler: Pooler = "fresh" if pooler == "pretrained" and own is None else pooler
        self.dense = None if self.pooler == "none" else linear(encoder.dim, encoder.dim, spread, generator)
        if self.dense is not None and self.pooler == "pretrained" and own is not None:
            self.dense.load_state_dict(own.state_dict())
        self.output = linear(encoder.dim, n_labels, spread, generator)
        self.dropout = nn.Dropout(dropout)
        set_dropout(self.encoder, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits (N, K) of a padded batch."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        parts = list(groups(self.encoder, inputs, grouped=self.training, left=self._left))
        h_ND = torch.cat([self._pool(part.h_nsD, part.mask_ns) for part in parts])
        if len(parts) > 1:
            h_ND = h_ND[torch.cat([part.place_n for part in parts]).argsort()]
        z_ND = h_ND if self.dense is None else torch.tanh(self.dense(h_ND))
        logits_NK: Tensor = self.output(self.dropout(z_ND))
        return logits_NK

    def _pool(self, h_NSD: Tensor, mask_NS: Tensor) -> Tensor:
        if self.pooled == "mean":
            weight_NS1 = mask_NS.unsqueeze(-1).to(h_NSD.dtype)
            return (h_NSD * weight_NS1).sum(1) / weight_NS1.sum(1)
        ordinal_NS = mask_NS * torch.arange(1, mask_NS.shape[1] + 1, device=mask_NS.device)
        position_N = ordinal_NS.argmax(1) if self._last else mask_NS.argmax(1)
        return h_NSD[torch.arange(len(h_NSD), device=h_NSD.device), position_N]

    def save(self, folder: Path, encoder: Encoder, labels: Sequence[str]) -> None:
        """Write the encoder as `load_encoder` reads it, and the head as head.safetensors with its labels (K).

        A pooler that came from the checkpoint goes back into the encoder as it is now.
        """
        own = checkpoint_pooler(encoder)
        if self.pooler == "pretrained" and self.dense is not None and own is not None:
            own.load_state_dict(self.dense.state_dict())
        save_encoder(folder, encoder)
        save_head(folder, {"dense": self.dense, "output": self.output}, labels)


def checkpoint_pooler(encoder: Encoder) -> nn.Linear | None:
    """The tanh layer (D, D) that the checkpoint brings (BERT, ALBERT), if it does."""
    pooler = getattr(encoder.model, "pooler", None)
    dense = getattr(pooler, "dense", pooler)
    fits = isinstance(dense, nn.Linear) and dense.weight.shape == (encoder.dim, encoder.dim)
    return dense if fits else None
