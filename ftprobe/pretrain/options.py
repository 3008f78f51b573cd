"""What a `pretrain` entry may set, and the architecture that it asks for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ftprobe.architecture import Architecture, architecture

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class PretrainOptions(BaseModel):
    """How a masked language model is built and trained from nothing (Devlin et al. 2019, section 3.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    family: Literal["bert", "roberta"] = "bert"
    """The architecture with its kind of sub-words: WordPiece (`bert`) or byte-level BPE (`roberta`)."""
    layers: Count = 4
    dim: Count = 128
    heads: Count = 2
    inner: Count | None = None
    """Width of the feed-forward layers; 4 `dim` when null."""
    vocab: Annotated[int, Field(ge=300)] = 4096
    """Rows of the embedding; the tokenizer, trained on the same text, knows at most as many sub-words."""
    lower_case: bool = False
    """Whether the tokenizer lower-cases (`bert`: and strips accents)."""
    block: Annotated[int, Field(ge=8)] = 128
    """Sub-words per training text, special tokens included; the model has as many positions."""
    updates: Count = 1500
    batch_size: Count = 16
    """Blocks per update."""
    learning_rate: Positive = 2e-3
    warmup: Fraction = 0.1
    """Share of all updates over which the learning rate rises from 0; it then falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """While pre-training; fine-tuning has its own."""
    mask_rate: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Share of the sub-words of a block that are predicted, rounded, at least one."""
    mask_share: Fraction = 0.8
    """Share of these that the mask token replaces."""
    random_share: Fraction = 0.1
    """Share of these that a random sub-word replaces; the rest stays as it is."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of matrix products while training; weights are float32."""

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainOptions:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share {self.mask_share} and random_share {self.random_share} add up to more than 1")
        return self


def config_of(options: PretrainOptions) -> dict[str, object]:
    """The keys of `config.json` that the options decide."""
    roberta = options.family == "roberta"
    return {
        "model_type": options.family,
        "num_hidden_layers": options.layers,
        "hidden_size": options.dim,
        "num_attention_heads": options.heads,
        "intermediate_size": options.inner or 4 * options.dim,
        "vocab_size": options.vocab,
        # RoBERTa numbers positions from 2.
        "max_position_embeddings": options.block + (2 if roberta else 0),
        "type_vocab_size": 1 if roberta else 2,
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
        # BERT's 0.02 at its width of 768. A narrow model drawn from that hardly attends to context for long.
        "initializer_range": 0.02 * (768 / options.dim) ** 0.5,
    }


def architecture_of(options: PretrainOptions) -> Architecture:
    """The architecture of the encoder that comes out, known before anything is trained.

    >>> architecture_of(PretrainOptions(layers=2, vocab=1000)).n_layers
    2
    """
    return architecture(config_of(options))
