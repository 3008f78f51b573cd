"""The configuration of a small encoder that transformers does not have."""

from transformers import PreTrainedConfig


class RelayConfig(PreTrainedConfig):
    """Sizes under BERT's names."""

    model_type = "relay"

    def __init__(
        self,
        vocab_size: int = 44,
        hidden_size: int = 16,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        intermediate_size: int = 32,
        max_position_embeddings: int = 64,
        initializer_range: float = 0.2,
        **more: object,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        super().__init__(**more)
