"""The MLP probe: what can be asked of it (METHODS 4). Light: the fits are `ftprobe.probes.mlp_run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from ftprobe.probes.control_options import ControlOptions
from ftprobe.probes.probe import Size, Work
from ftprobe.probes.splits import FOLDS

Width = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Alpha = Annotated[float, Field(ge=0, allow_inf_nan=False)]
USUAL_EPOCHS = 120  # that a fit takes before it stops


class MlpOptions(ControlOptions):
    """A perceptron with two hidden layers, as scikit-learn trains it, over a grid of sizes and penalties."""

    hidden1: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 64, 128, 256)
    hidden2: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 64, 128, 256)
    alpha: Annotated[tuple[Alpha, ...], Field(min_length=1)] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """alpha/(2n) ||W||_F^2 is added to the loss, n the items of a batch. The grid is hidden1 x hidden2 x alpha."""
    selection: Literal["dev", "cv5"] = "dev"
    """What a cell is chosen on: dev, or a hold-out of train where there is none; or five folds of train, as by
    scikit-learn's `GridSearchCV(cv=5)`: the mean of their five accuracies, each by a fit on the other four. An official
    dev is then not looked at. Standardising takes its statistics from the items of a fit."""
    initialisations: Annotated[int, Field(ge=1)] = 5
    """How often the best cell is trained anew, each time from other weights; their accuracies are the rows."""
    refit: Literal["rejoin", "train", "train_dev"] = "rejoin"
    """What the best cell is trained on: train, with the hold-out where dev was cut from it; train; train and dev. With
    `selection: cv5` nothing is cut, and the first two are the same."""
    search: Literal["full", "halving"] = "full"
    """`halving`: every cell gets `halving_epochs`, the best third by dev accuracy three times as many, and so on. On
    the last layer the full grid is fitted too, and `halving_regret` is what halving misses of its dev accuracy."""
    halving_epochs: Annotated[int, Field(ge=1)] = 9
    scale: Literal["none", "standardise"] = "none"
    """`standardise`: features minus train mean, divided by train sd."""
    learning_rate: Positive = 1e-3
    batch_size: Annotated[int, Field(ge=1)] = 200
    max_epochs: Annotated[int, Field(ge=1)] = 1000
    tolerance: Alpha = 1e-4
    """A fit stops at the 11th epoch in a row whose loss is above the lowest so far minus this."""

    @field_validator("hidden1", "hidden2", "alpha")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("values repeat; name each once")
        return values

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Names `selection` only where it is not the default: a trial's id does not depend on naming a default."""
        return {key: value for key, value in dump(self).items() if (key, value) != ("selection", "dev")}

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The grid of architectures."""
        return tuple((h, j) for h in self.hidden1 for j in self.hidden2)


def parts(options: MlpOptions, layers: Sequence[int], all_layers: Sequence[int]) -> list[Mapping[str, Any]]:
    """One pack of cells for each architecture; with `search: halving` on the last layer alone."""
    if options.search == "halving" and list(layers) != [max(all_layers)]:
        return []
    return [{"hidden1": h, "hidden2": j} for h, j in options.sizes]


def work(options: MlpOptions, size: Size, *, part: Mapping[str, Any] | None = None) -> Work:
    """Six operations for each weight, item and epoch; the last trial trains the best cell and its control tasks.

    With `selection: cv5` a cell of the grid is five fits, each on four fifths of train.
    """
    folds, share = (FOLDS, 1 - 1 / FOLDS) if options.selection == "cv5" else (1, 1.0)
    if part is not None:
        flops = _once(size, (part["hidden1"], part["hidden2"])) * len(options.alpha)
        return Work(len(options.alpha) * folds, flops * folds * share)
    again = options.initialisations + options.control_seeds
    grid = len(options.sizes) * len(options.alpha) * folds
    usual = sum(_once(size, each) for each in options.sizes) / len(options.sizes)
    flops = usual * again + (usual * grid * share * 0.2 if options.search == "halving" else 0.0)
    return Work(grid + again, flops)


def _once(size: Size, hidden: tuple[int, int]) -> float:
    weights = size.dim * hidden[0] + hidden[0] * hidden[1] + hidden[1] * size.n_labels
    return 6.0 * size.n_train * weights * USUAL_EPOCHS
