"""Similarity of representations: what can be asked of it (METHODS 11). Light: options only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Measure = Literal["rsa", "cka", "cka_debiased", "svcca", "pwcca", "procrustes", "neighbour_overlap"]


class SimilarityOptions(BaseModel):
    """Which tokens are the stimuli, and how two representations of them are compared (Merchant et al. 2020, 5.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = ("rsa", "cka")
    n: Annotated[int, Field(ge=3)] = 5000
    """Tokens in context, drawn uniformly over those of the text; all of them where there are no more."""
    draws: Annotated[int, Field(ge=1)] = 3
    """Independent draws of the tokens, each a row: what is between them is an interval."""
    unit: Literal["subword", "word"] = "subword"
    """`word`: the mean of its sub-words, on text whose words are fixed; states with different tokenizers need it."""
    pairs: Literal["whole", "apart"] = "whole"
    """`whole`: "premise [SEP] hypothesis", "question [SEP] passage"; `apart`: each side as a text of its own."""
    special: Literal["exclude", "include"] = "exclude"
    """Whether special tokens are among the sub-words that may be drawn."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longest text in sub-words, special ones included; longer texts are cut, and counted."""
