"""The neuron study: what can be asked of it (METHODS 6). Light: the fits are `ftprobe.probes.neurons_run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ftprobe.probes.elastic_net import ZERO as ZERO
from ftprobe.probes.elastic_net import ElasticNetOptions
from ftprobe.probes.probe import Size, Work

PAIRS_A_PACK = 16
_RETRAINED = 0.6  # of one fit of all neurons: what top, bottom and minimal sets take together, for each fit


class NeuronOptions(ElasticNetOptions):
    """An elastic-net probe on all layers concatenated, the ranking of its neurons, and what few of them can do."""

    percent: Annotated[float, Field(gt=0, le=100)] = 5.0
    """Size of the top and bottom sets, rounded up: Durrani et al. 2021 take 5 (POS, SEM) and 10 (chunking)."""
    n_neurons: Annotated[int, Field(ge=1)] | None = None
    """Size of the top and bottom sets as a count, in place of `percent`."""
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The minimal set is the first, by steps of one per cent, whose dev accuracy is within this of all neurons'."""
    ablate: Literal["retrain", "mask"] = "retrain"
    """What top and bottom sets are scored by: a probe trained on them, or the probe of all with the others zeroed."""
    retrain_lambda: Literal["same", "zero"] = "same"
    """Lambdas of the probes that are trained on some neurons."""
    oracle_lambda: Literal["same", "zero"] = "same"
    """Lambdas of the probe of all neurons that the minimal set is compared with."""
    rank_stride: Annotated[int, Field(ge=1)] | None = None
    """100: the weight mass grows by steps of 1 %, as in NeuroX."""

    @model_validator(mode="after")
    def _adam(self) -> NeuronOptions:
        if self.solver == "converged":
            raise ValueError("a neuron study is trained by `solver: adam10`; converged fits are for single layers")
        return self


def parts(options: NeuronOptions, layers: Sequence[int], all_layers: Sequence[int]) -> list[Mapping[str, Any]]:
    """Packs of 16 pairs of lambdas; none where there is one pair and nothing to choose."""
    if len(options.pairs) == 1:
        return []
    return [{"first": start} for start in range(0, len(options.fitted), PAIRS_A_PACK)]


def work(options: NeuronOptions, size: Size, *, part: Mapping[str, Any] | None = None) -> Work:
    """Two products of 2 N D K operations a pass and cell; the last trial trains a dozen probes."""
    once = 4.0 * size.n_train * size.dim * size.n_layers * max(2, size.n_labels) * options.epochs
    if part is not None:
        cells = min(PAIRS_A_PACK, len(options.fitted) - part["first"])
        return Work(cells, once * cells)
    again = 2 + options.control_seeds
    return Work(len(options.fitted) + 2 * again, once * again * (1 + _RETRAINED))
