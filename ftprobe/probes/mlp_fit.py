"""MLP fits of a grid on one layer: the full grid an architecture at a time, or successive halving (METHODS 4).

Axes: G cells, N items, S label sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ftprobe.hashing import derive_seed
from ftprobe.probes.mlp import MlpOptions
from ftprobe.probes.packs import in_packs
from ftprobe.probes.setting import Features, Setting
from ftprobe.solvers.mlp import MlpCell, MlpFits, fit_mlps, mlp_bytes, predict_mlps

Cells = Sequence[Mapping[str, Any]]
KEPT = 3  # one cell in so many goes on to the next rung of halving


class Best(NamedTuple):
    """The best cell of a grid by dev accuracy."""

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
    options: MlpOptions,
    setting: Setting,
    features: Features,
    asked: Sequence[tuple[tuple[int, int], float]],
    max_epochs: int,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Train cells (hidden sizes, alpha) and score them on dev.

    Returns
    -------
    list of dict
        `hidden`, `alpha`, `dev_accuracy`, `epochs`, `converged` and `loss` of each, architecture by architecture.
    """
    y_1N, y_dev_N = setting.classes(setting.parts.train)[None], setting.classes(setting.parts.dev)
    first = derive_seed(seed, "probe_init", "grid")
    found: list[dict[str, Any]] = []
    for hidden in dict.fromkeys(sizes for sizes, _ in asked):
        alphas = [alpha for sizes, alpha in asked if sizes == hidden]
        cells = [MlpCell(alpha, first) for alpha in alphas]
        rest = iter(alphas)
        for fits in fit(options, setting, features.train, y_1N, hidden, cells, max_epochs, seed=seed):
            dev_G = (predict_mlps(fits, features.dev)[0] == y_dev_N).double().mean(1)
            for dev, epochs, converged, loss in zip(dev_G, fits.epochs_G, fits.converged_G, fits.loss_G, strict=True):
                found.append(
                    {
                        "hidden": list(hidden),
                        "alpha": next(rest),
                        "dev_accuracy": float(dev),
                        "epochs": int(epochs),
                        "converged": bool(converged),
                        "loss": float(loss),
                    }
                )
    return found


class Halved(NamedTuple):
    """The cells of the last rung, and the epochs of all cells of all rungs."""

    cells: list[dict[str, Any]]
    epochs: int


def halve(options: MlpOptions, setting: Setting, features: Features, *, seed: int) -> Halved:
    """Successive halving over epochs (Jamieson and Talwalkar 2016) that keeps a third of the cells at each rung.

    A rung starts its cells anew: their first epochs are those of the rung before, at a third of the cost.
    """
    alive = [(hidden, alpha) for hidden in options.sizes for alpha in options.alpha]
    limit, spent = options.halving_epochs, 0
    while True:
        limit = min(limit, options.max_epochs)
        cells = grid(options, setting, features, alive, limit, seed=seed)
        spent += sum(cell["epochs"] for cell in cells)
        if limit == options.max_epochs or all(cell["converged"] for cell in cells):
            return Halved(cells, spent)
        best = sorted(cells, key=_key, reverse=True)[: -(-len(cells) // KEPT)]
        alive = [((cell["hidden"][0], cell["hidden"][1]), cell["alpha"]) for cell in best]
        limit = options.max_epochs if len(alive) == 1 else limit * KEPT
