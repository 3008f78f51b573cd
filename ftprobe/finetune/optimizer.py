"""Optimisation of a fine-tuning run: which parameters decay, and the learning rate of each update (METHODS 1.2)."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn


def schedule_factor(step: int, *, updates: int, warmup: float, then: Literal["constant", "linear"]) -> float:
    """Learning-rate factor of update `step` = 0..updates-1 (METHODS 1.2, "Schedule").

    >>> [schedule_factor(s, updates=20, warmup=0.1, then="linear") for s in (0, 1, 2, 11)]
    [0.5, 1.0, 1.0, 0.5]
    """
    # The small term keeps 0.29 * 100 from becoming 28.
    rising = int(warmup * updates + 1e-9)
    if step < rising:
        return (step + 1) / rising
    return 1.0 if then == "constant" else max(0.0, (updates - step) / max(1, updates - rising))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of AdamW: parameters that decay, and biases and norms, which do not."""
    norms = {id(p) for m in model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p for name, p in trained if id(p) not in norms and not name.endswith("bias")]
    spared = {id(p) for p in decays}
    return [
        {"params": decays, "weight_decay": weight_decay},
        {"params": [p for _, p in trained if id(p) not in spared], "weight_decay": 0.0},
    ]
