"""The linear probe: what can be asked of it (METHODS 3.1). Light: the fit itself is `ftprobe.probes.linear_run`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ftprobe.probes.control_options import ControlOptions
from ftprobe.probes.probe import Size, Work


class LinearOptions(ControlOptions):
    """Multinomial logistic regression of each layer, fitted to convergence."""

    control_seeds: Annotated[int, Field(ge=0)] = 0

    penalty: Literal["l2"] = "l2"
    """(a/2) ||W||_F^2 beside the mean cross-entropy; the bias is free."""
    strength: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
    )
    """Values of a; each layer keeps the one with the best development accuracy, of several the largest."""
    scale: Literal["standardise", "none"] = "standardise"
    """`standardise`: features minus train mean, divided by train sd."""
    max_iterations: Annotated[int, Field(ge=1)] = 1000
    """L-BFGS steps of a cell; one that needs more keeps its last weights and is marked `not_converged`."""
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-7
    """Largest gradient entry at which a cell has converged. At 1e-5 the objective of weakly regularised, separable data
    is still per cents above its minimum, and single items change sides; at this value it is within 1e-4."""

    @field_validator("strength")
    @classmethod
    def _distinct(cls, strength: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(strength)) < len(strength):
            raise ValueError("values repeat; name each strength once")
        return strength


def work(options: LinearOptions, size: Size, *, part: object = None) -> Work:
    """About 60 evaluations of 4 N D K operations for each strength, and twice that for a control task."""
    once = 4.0 * size.n_train * size.dim * max(2, size.n_labels) * 60 * size.n_layers
    return Work(
        (len(options.strength) + options.control_seeds) * size.n_layers,
        once * (len(options.strength) + 2 * options.control_seeds),
    )
