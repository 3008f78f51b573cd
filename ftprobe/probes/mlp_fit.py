"""MLP fits of a grid on one layer: the full grid an architecture at a time, or successive halving (METHODS 4).

Axes: G cells, N items, S label sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ftprobe.hashing import derive_seed
from ftprobe.probes.mlp import MlpOptions
from ftprobe.probes.packs import in_packs
from ftprobe.probes.setting import Setting, layer_features
from ftprobe.probes.splits import FOLDS, Parts, folds
from ftprobe.solvers.mlp import MlpCell, MlpFits, fit_mlps, mlp_bytes, predict_mlps

Cells = Sequence[Mapping[str, Any]]
Asked = Sequence[tuple[tuple[int, int], float]]
KEPT = 3  # one cell in so many goes on to the next rung of halving


class Best(NamedTuple):
    """The best cell of a grid by dev accuracy, which with `selection: cv5` is the mean over folds."""

    hidden: tuple[int, int]
    alpha: float
    dev_accuracy: float


def best_cell(cells: Cells) -> Best:
    """The most accurate on dev; of equals the larger alpha, then the fewer units, then the earlier."""

    cell = max(cells, key=_key)
    return Best((cell["hidden"][0], cell["hidden"][1]), cell["alpha"], cell["dev_accuracy"])


def _key(cell: Mapping[str, Any]) -> tuple[float, float, int]:
    return round(cell["dev_accuracy"], 9), cell["alpha"], -cell["hidden"][0] * cell["hidden"][1]


def fit(
    options: MlpOptions,
    setting: Setting,
    X_ND: Tensor,
    y_SN: Tensor,
    hidden: tuple[int, int],
    cells: Sequence[MlpCell],
    max_epochs: int,
    *,
    seed: int,
) -> list[MlpFits]:
    """Train cells of one architecture, as many at once as the memory holds."""
    n_items, dim = X_ND.shape
    return in_packs(
        cells,
        lambda pack: fit_mlps(
            X_ND,
            y_SN,
            setting.n_classes,
            hidden,
            pack,
            order_seed=derive_seed(seed, "probe_order"),
            learning_rate=options.learning_rate,
            batch_size=min(options.batch_size, n_items),
            max_epochs=max_epochs,
            tolerance=options.tolerance,
        ),
        bytes_of=lambda n: mlp_bytes(n_items, dim, setting.n_classes, hidden, n),
        device=setting.device,
    )


def grid(
    options: MlpOptions, setting: Setting, layer: int, asked: Asked, max_epochs: int, *, seed: int
) -> list[dict[str, Any]]:
    """Train cells (hidden sizes, alpha) on a layer and score them on dev, or fold by fold (`selection: cv5`).

    Returns
    -------
    list of dict
        `hidden`, `alpha`, `dev_accuracy`, `epochs`, `converged` and `loss` of each, architecture by architecture. Over
        folds, `dev_accuracy` and `loss` are means, `epochs` the sum, `converged` says it of all, and `fold_accuracy`
        lists the five.
    """
    if options.selection == "dev":
        return _scored(options, setting, layer, asked, max_epochs, seed=seed)
    by_fold = [_scored(options, fold, layer, asked, max_epochs, seed=seed) for fold in fold_settings(setting)]
    return [_over_folds(cells) for cells in zip(*by_fold, strict=True)]


def fold_settings(setting: Setting) -> Iterator[Setting]:
    """The settings of cross-validation: dev is one fold of train, train the other four, test is empty."""
    train, y_N = setting.parts.train, setting.data.y_N
    fold_n = folds(y_N[train])
    for fold in range(FOLDS):
        parts = Parts(train[fold_n != fold], train[fold_n == fold], train[:0], held_out=False)
        yield setting._replace(parts=parts, fitted_K=np.unique(y_N[parts.train]))


def _over_folds(cells: Cells) -> dict[str, Any]:
    """One cell of what became of it in each fold; the mean is of folds, not of items, as GridSearchCV's."""
    right = [cell["dev_accuracy"] for cell in cells]
    return {
        **cells[0],
        "dev_accuracy": sum(right) / FOLDS,
        "epochs": sum(cell["epochs"] for cell in cells),
        "converged": all(cell["converged"] for cell in cells),
        "loss": sum(cell["loss"] for cell in cells) / FOLDS,
        "fold_accuracy": right,
    }


def _scored(
    options: MlpOptions, setting: Setting, layer: int, asked: Asked, max_epochs: int, *, seed: int
) -> list[dict[str, Any]]:
    """Cells trained on the train items of `setting` and scored on its dev items."""
    y_1N, y_dev_N = setting.classes(setting.parts.train)[None], setting.classes(setting.parts.dev)
    if setting.n_classes == 1:  # a fold took all items of the other labels: the one label is all there is to say
        right = float((y_dev_N == 0).double().mean())
        return [_Cell(list(hidden), alpha, right, 0, True, 0.0)._asdict() for hidden, alpha in asked]
    features = layer_features(setting, layer, scale=options.scale, centre=False)
    first = derive_seed(seed, "probe_init", "grid")
    found: list[dict[str, Any]] = []
    for hidden in dict.fromkeys(sizes for sizes, _ in asked):
        alphas = [alpha for sizes, alpha in asked if sizes == hidden]
        cells = [MlpCell(alpha, first) for alpha in alphas]
        rest = iter(alphas)
        for fits in fit(options, setting, features.train, y_1N, hidden, cells, max_epochs, seed=seed):
            dev_G = (predict_mlps(fits, features.dev)[0] == y_dev_N).double().mean(1)
            for dev, epochs, converged, loss in zip(dev_G, fits.epochs_G, fits.converged_G, fits.loss_G, strict=True):
                ended = _Cell(list(hidden), next(rest), float(dev), int(epochs), bool(converged), float(loss))
                found.append(ended._asdict())
    return found


class _Cell(NamedTuple):
    hidden: list[int]
    alpha: float
    dev_accuracy: float
    epochs: int
    converged: bool
    loss: float


class Halved(NamedTuple):
    """The cells of the last rung, and the epochs of all cells of all rungs."""

    cells: list[dict[str, Any]]
    epochs: int


def halve(options: MlpOptions, setting: Setting, layer: int, *, seed: int) -> Halved:
    """Successive halving over epochs (Jamieson and Talwalkar 2016) that keeps a third of the cells at each rung.

    A rung starts its cells anew: their first epochs are those of the rung before, at a third of the cost.
    """
    alive = [(hidden, alpha) for hidden in options.sizes for alpha in options.alpha]
    limit, spent = options.halving_epochs, 0
    while True:
        limit = min(limit, options.max_epochs)
        cells = grid(options, setting, layer, alive, limit, seed=seed)
        spent += sum(cell["epochs"] for cell in cells)
        if limit == options.max_epochs or all(cell["converged"] for cell in cells):
            return Halved(cells, spent)
        best = sorted(cells, key=_key, reverse=True)[: -(-len(cells) // KEPT)]
        alive = [((cell["hidden"][0], cell["hidden"][1]), cell["alpha"]) for cell in best]
        limit = options.max_epochs if len(alive) == 1 else limit * KEPT
