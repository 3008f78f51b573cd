"""Masked-LM perplexity: what can be asked of it (METHODS 13). Light: options only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Masking = Literal["random15", "mask_only", "pseudo"]
Decoder = Literal["pretrained", "tied_tuned"]


class PerplexityOptions(BaseModel):
    """How text is cut and masked, and which decoder predicts it (Mosbach et al. 2020, section 5.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    masking: Masking = "random15"
    """`random15`: 15 % of the positions that are not special, of these 80 % the mask token, 10 % a random one, 10 %
    as they are; `mask_only`: 15 %, all of them the mask token; `pseudo`: every position in turn."""
    block: Annotated[int, Field(ge=3)] = 512
    """Sub-words of a block, special ones included; the last block is what remains."""
    decoder: Decoder = "pretrained"
    """Matrix of the decoder: the checkpoint's, or the input embeddings of the state that is measured."""
