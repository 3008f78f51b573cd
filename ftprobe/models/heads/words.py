"""The head that labels words and pairs of words (METHODS 1.1).

Axes: N sentences, S sub-words, D width of the encoder, M items, C words of an item, P sub-words of all words end to
end, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ftprobe.models.heads.parts import linear, save_encoder, save_head, set_dropout, spread_of, states
from ftprobe.models.load import Encoder


class WordClassifier(nn.Module):
    """An encoder and a linear map: logits_MK = [h_1 ; ... ; h_C] W' + b, dropout before it; h_c = mean of sub-words.

    Which sub-words a word is read from (the first, the last, all) is said by the batch.

    Parameters
    ----------
    encoder
        Its model becomes a part of this module and is trained with it.
    n_words
        Words of an item: C.
    dropout
        Probability for the hidden states, the attention weights and the head.
    seed
        New weights are drawn from N(0, initializer_range) under it; new biases are 0.
    """

    def __init__(self, encoder: Encoder, n_labels: int, *, n_words: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.encoder = encoder.model
        self._left = encoder.tokenizer.padding_side == "left"
        generator = torch.Generator().manual_seed(seed)
        self.output = linear(n_words * encoder.dim, n_labels, spread_of(encoder), generator)
        self.dropout = nn.Dropout(dropout)
        set_dropout(self.encoder, dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        piece_P: Tensor,
        count_MC: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits (M, K); `piece_P` are places in the N x S sub-words, of which each word takes the next `count_MC`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        h_NSD = states(self.encoder, inputs, grouped=self.training, left=self._left)
        h_WD = means(h_NSD.flatten(0, 1).index_select(0, piece_P), count_MC.flatten())
        logits_MK: Tensor = self.output(self.dropout(h_WD.reshape(len(count_MC), -1)))
        return logits_MK

    def save(self, folder: Path, encoder: Encoder, labels: Sequence[str]) -> None:
        """Write the encoder as `load_encoder` reads it, and the head as head.safetensors with its labels (K)."""
        save_encoder(folder, encoder)
        save_head(folder, {"output": self.output}, labels)


def means(h_PD: Tensor, count_W: Tensor) -> Tensor:
    """Means (W, D) of consecutive runs of `count_W` rows."""
    if len(h_PD) == len(count_W):
        return h_PD
    word_P = torch.repeat_interleave(count_W)
    return h_PD.new_zeros(len(count_W), h_PD.shape[1]).index_add_(0, word_P, h_PD) / count_W.unsqueeze(1)
