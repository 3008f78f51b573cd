"""Heads: what turns the last layer of an encoder into scores of labels (METHODS 1.1).

Axes: N texts, S sub-words, D width of the encoder, K labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ftprobe.models.load import Encoder, quiet_transformers

Pooled = Literal["cls", "mean"]
Pooler = Literal["pretrained", "fresh", "none"]

# Architectures whose encoder gives the same states for word embeddings as for word ids (a test says so for each).
_TAKES_EMBEDDINGS = frozenset({"albert", "bert", "deberta", "deberta-v2", "distilbert", "gpt2", "roberta", "xlnet"})
_GROUP = 8


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
        spread = float(getattr(encoder.model.config, "initializer_range", 0.02))
        own = checkpoint_pooler(encoder)
        self.pooler: Pooler = "fresh" if pooler == "pretrained" and own is None else pooler
        self.dense = None if self.pooler == "none" else _linear(encoder.dim, encoder.dim, spread, generator)
        if self.dense is not None and self.pooler == "pretrained" and own is not None:
            self.dense.load_state_dict(own.state_dict())
        self.output = _linear(encoder.dim, n_labels, spread, generator)
        self.dropout = nn.Dropout(dropout)
        set_dropout(self.encoder, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits (N, K) of a padded batch."""
        h_ND = self._pooled(input_ids, attention_mask, token_type_ids)
        z_ND = h_ND if self.dense is None else torch.tanh(self.dense(h_ND))
        logits_NK: Tensor = self.output(self.dropout(z_ND))
        return logits_NK

    def _pooled(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        grouped = (
            self.training
            and input_ids.device.type == "cpu"
            and len(input_ids) > _GROUP
            and type(self.encoder).__module__.startswith("transformers.")
            and self.encoder.config.model_type in _TAKES_EMBEDDINGS
        )
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if not grouped:
            h_NSD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
            return self._pool(h_NSD, attention_mask)
        # A random batch is half padding. On a CPU it pays to run it as groups of like length; the words are looked
        # up once, because each look-up costs a gradient as large as the vocabulary.
        e_NSE = self.encoder.get_input_embeddings()(input_ids)
        length_N = attention_mask.sum(1)
        order_N = length_N.argsort(stable=True)
        pooled = []
        for part in torch.split(order_N, _GROUP):
            kept = int(length_N[part].max())
            cut = slice(-kept, None) if self._left else slice(kept)
            mask = attention_mask[part, cut]
            inputs = {name: ids[part, cut] for name, ids in segments.items()}
            states = self.encoder(inputs_embeds=e_NSE[part, cut], attention_mask=mask, **inputs).last_hidden_state
            pooled.append(self._pool(states, mask))
        return torch.cat(pooled)[order_N.argsort()]

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
        with quiet_transformers():
            self.encoder.save_pretrained(folder)
            encoder.tokenizer.save_pretrained(folder)
        head = {
            f"{name}.{key}": value.contiguous()
            for name, module in (("dense", self.dense), ("output", self.output))
            if module is not None
            for key, value in module.state_dict().items()
        }
        save_file(head, folder / "head.safetensors", metadata={"labels": json.dumps(list(labels))})


def checkpoint_pooler(encoder: Encoder) -> nn.Linear | None:
    """The tanh layer (D, D) that the checkpoint brings (BERT, ALBERT), if it does."""
    pooler = getattr(encoder.model, "pooler", None)
    dense = getattr(pooler, "dense", pooler)
    fits = isinstance(dense, nn.Linear) and dense.weight.shape == (encoder.dim, encoder.dim)
    return dense if fits else None


def set_dropout(model: nn.Module, p: float) -> None:
    """Set every dropout of a transformer to `p`: modules, and the plain numbers that some attentions keep."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)


def _linear(inputs: int, outputs: int, spread: float, generator: torch.Generator) -> nn.Linear:
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        linear.weight.normal_(0.0, spread, generator=generator)
        linear.bias.zero_()
    return linear
