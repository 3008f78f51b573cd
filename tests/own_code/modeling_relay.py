"""A small encoder that transformers does not have: two Transformer blocks on scaled embeddings."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .blocks_relay import SCALE
from .configuration_relay import RelayConfig


class RelayModel(PreTrainedModel):
    """Hidden states of every block; padding is not attended to."""

    config_class = RelayConfig

    def __init__(self, config: RelayConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.1, batch_first=True
            )
            for _ in range(config.num_hidden_layers)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False) -> BaseModelOutput:
        states = SCALE * self.words(input_ids) + self.positions(
            torch.arange(input_ids.shape[1], device=input_ids.device)
        )
        every = [states]
        for block in self.blocks:
            states = block(states, src_key_padding_mask=attention_mask == 0)
            every.append(states)
        return BaseModelOutput(states, hidden_states=tuple(every) if output_hidden_states else None)
