"""Question answering runs on a tiny model, to their end or cut off after an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftprobe.finetune import Checkpoints, finetune
from ftprobe.measurement import Outcome
from ftprobe.models.load import load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData


class Cut(BaseException):
    """What ends a run as a signal would: nothing catches it."""


def tuned(
    objective: Any, metrics: tuple[str, ...], tiny: str, out: Path, task: TaskData, *, seed: int = 0, **options: Any
) -> Outcome:
    """Fine-tune; `store` keeps checkpoints, `cut` is the epoch that ends the run by `Cut`."""
    out.mkdir(exist_ok=True)
    store, cut = options.pop("store", None), options.pop("cut", 0)

    def report(metrics: dict[str, object]) -> None:
        if metrics["epoch"] == cut:
            raise Cut

    return finetune(
        FinetuneOptions.model_validate(options),
        task,
        objective=objective,
        metrics=metrics,
        load=lambda: load_encoder(tiny, offline=True),
        seed=seed,
        out=out,
        report=report,
        device="cpu",
        checkpoints=Checkpoints(store, "f" * 32) if store else None,
    )
