"""Values of options: numbers within bounds, plain names, and the model that all options are made of."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]


def _plain(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is no plain name (letters, digits, `.`, `_` and `-`)")
    return name


Name = Annotated[str, AfterValidator(_plain)]
"""A name that may stand in file names and tables."""


class Options(BaseModel):
    """Values that never change, of exactly the types they say, with no key beyond those named."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
