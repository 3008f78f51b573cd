"""Attention entropy and earth mover's distance: what can be asked of them (METHODS 12). Light: options only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class AttentionOptions(BaseModel):
    """How a row of attention is reduced to its entropy, and two rows to a distance (Mosbach et al. 2020, 5.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_base: Literal["e", "2"] = "e"
    """Entropies in nat or in bit."""
    normalise: bool = False
    """Divide the entropy by the log of the sequence's length: then in [0, 1], unit `fraction`."""
    direction: Literal["from", "to"] = "from"
    """Rows: what a position attends to. `to`: columns, what attends to it, renormalised to sum to 1."""
    ground_distance: Literal["position", "position_normalised", "values"] = "position"
    """`position`: |i - j|; `position_normalised`: |i - j| / (n - 1); `values`: the distance between the two sets of
    values, whatever their positions, a common misuse."""
    max_length: Annotated[int, Field(ge=2)] = 512
    """Longest sequence in sub-words, special ones included; longer texts are cut, and counted."""
