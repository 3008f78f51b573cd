"""Fine-tuning recipes: the hyper-parameters of five papers by name, each value a default that an entry overrides.

The values, and which of them the papers leave open, are those of METHODS 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Values = Mapping[str, object]


class Recipe(NamedTuple):
    """Defaults of one paper; `tasks` holds what differs for a task, `base_epochs` for 12 x 768 encoders."""

    values: Values
    tasks: Mapping[str, Values] = {}
    base_epochs: int | None = None


RECIPES: dict[str, Recipe] = {
    # Mosbach et al. 2020, section 3.4 and Table 3 (beta2 as printed).
    "mosbach2020": Recipe(
        {
            "pooler": "fresh",
            "learning_rate": 2e-5,
            "schedule": "constant",
            "beta2": 0.99,
            "epochs": 3,
            "weight_decay": 0.01,
        },
        tasks={"sst2": {"epochs": 1}, "squad": {"max_length": 384}},
    ),
    # Merchant et al. 2020, section 3.
    "merchant2020": Recipe(
        {"learning_rate": 3e-5, "epsilon": 1e-6, "epochs": 3, "weight_decay": 0.01},
        tasks={"squad": {"learning_rate": 5e-5, "max_length": 384}, "ud_parsing": {"epochs": 20}},
    ),
    # Zhou and Srikumar 2022, section 3.3 and appendix A.
    "zhou2022": Recipe({"learning_rate": 3e-4, "weight_decay": 0.0, "epochs": 10}, base_epochs=3),
    # Durrani et al. 2021, section 3.
    "durrani2021": Recipe({"learning_rate": 2e-5, "epochs": 3, "weight_decay": 0.01}),
    # Cai et al. 2020, section 2.
    "cai2020": Recipe({"learning_rate": 4e-5, "batch_size": 64, "epochs": 2, "weight_decay": 0.01, "max_length": 512}),
}
SHARED: Values = {
    "warmup": 0.1,
    "schedule": "linear",
    "batch_size": 32,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "clip": 1.0,
    "dropout": 0.1,
}
"""What all recipes share; the longest input is that of the options and of the task, 128 for all but questions."""


def recipe_values(name: str, task: str) -> dict[str, object]:
    """The defaults of recipe `name` for the task called `task` (its corpus left out).

    >>> recipe_values("mosbach2020", "sst2")["epochs"], recipe_values("mosbach2020", "cola")["epochs"]
    (1, 3)
    """
    recipe = RECIPES[name]
    return {**SHARED, **recipe.values, **recipe.tasks.get(task.removesuffix("_v2"), {})}
