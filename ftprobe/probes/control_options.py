"""What can be asked of a probe's control tasks (METHODS 5); shared by the options of every family."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ControlOptions(BaseModel):
    """Control tasks: each word type has one label, drawn once (Hewitt and Liang 2019)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    control_seeds: Annotated[int, Field(ge=0)] = 3
    """How many control tasks are drawn; 0 for none. A task over sentences has none: its rows are `refused`."""
    control_draw: Literal["empirical", "uniform"] = "empirical"
    """Labels are drawn as often as they occur among train items, or all alike."""
    control_case: Literal["sensitive", "lower"] = "sensitive"
    """Whether `The` and `the` are two types."""
