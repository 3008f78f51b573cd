"""The elastic-net probe: what can be asked of it (METHODS 3.2). Light: `elastic_net_run` holds the fits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ftprobe.probes.control_options import ControlOptions
from ftprobe.probes.probe import Size, Work

Lambda = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Lambdas = Annotated[tuple[Lambda, ...], Field(min_length=1)]
GRID = (0.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""Durrani et al. 2021, A.8."""
NEUROX = {"penalty": "l2_norm", "shuffle": False}
ZERO = (0.0, 0.0)
CONVERGED_STEPS = 600  # products of a typical converged fit


class ElasticNetOptions(ControlOptions):
    """Softmax regression with l1 sum|W| + l2 R(W) beside the mean cross-entropy; the bias is free."""

    preset: Literal["durrani2021", "neurox"] = "durrani2021"
    """`neurox`: what NeuroX computes unless said otherwise: `penalty: l2_norm`, `shuffle: false`."""
    l1: Lambdas = GRID
    l2: Lambdas = GRID
    """The grid is every pair of the two."""
    lambda_score: Literal["regularised", "dev_accuracy"] = "regularised"
    """How a pair is chosen on dev: 0.5 (A_top - A_bottom) - 0.5 (A_zero - A_lambda) of Dalvi et al. 2019, where A_top
    and A_bottom keep the first and last 20 % of the neuron ranking, or the accuracy. Ties: the larger l1 + l2."""
    solver: Literal["adam10", "converged"] = "adam10"
    """`adam10`: Adam for `epochs`, the papers' way; `converged`: proximal quasi-Newton to the minimum."""
    penalty: Literal["squared_l2", "l2_norm"] = "squared_l2"
    """R(W) = ||W||_F^2 as the paper prints, or ||W||_F as its code has it."""
    l1_step: Literal["subgradient", "proximal"] = "subgradient"
    ce: Literal["mean", "sum"] = "mean"
    """Mean or sum of the cross-entropy over a batch."""
    scale: Literal["none", "standardise"] = "none"
    """`standardise`: features minus train mean, divided by train sd."""
    shuffle: bool = True
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-7
    """Relative change of the objective at which a converged fit ends."""
    max_iterations: Annotated[int, Field(ge=1)] = 5000

    @model_validator(mode="after")
    def _consistent(self) -> ElasticNetOptions:
        if self.preset == "neurox":
            for name, value in NEUROX.items():
                if name not in self.model_fields_set:
                    object.__setattr__(self, name, value)  # the options are frozen once they are made
        for name in ("l1", "l2"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: values repeat; name each once")
        if self.solver == "converged" and (self.penalty, self.ce) != ("squared_l2", "mean"):
            raise ValueError("solver: converged has `penalty: squared_l2` and `ce: mean` only")
        return self

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """The grid of (l1, l2)."""
        return tuple((l1, l2) for l1 in self.l1 for l2 in self.l2)

    @property
    def fitted(self) -> tuple[tuple[float, float], ...]:
        """The grid, and (0, 0) behind it where the choice of a pair compares with it."""
        lacks = self.lambda_score == "regularised" and len(self.pairs) > 1 and ZERO not in self.pairs
        return (*self.pairs, ZERO) if lacks else self.pairs


def work(options: ElasticNetOptions, size: Size, *, part: object = None) -> Work:
    """Two products of 2 N D K operations a pass and cell."""
    cells = len(options.fitted) + options.control_seeds
    passes = options.epochs if options.solver == "adam10" else CONVERGED_STEPS
    once = 4.0 * size.n_train * size.dim * max(2, size.n_labels) * passes
    return Work(cells * size.n_layers, once * cells * size.n_layers)
