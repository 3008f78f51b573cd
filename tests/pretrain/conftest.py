"""A text whose words come in a fixed cycle, and a model of one block that learns it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftprobe.finetune import Checkpoints
from ftprobe.measurement import Outcome
from ftprobe.pretrain.options import PretrainOptions
from ftprobe.pretrain.run import pretrain

Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Options of a model that trains in a second."""
    size = {"layers": 1, "dim": 16, "heads": 2, "vocab": 300, "block": 16}
    return {**size, "updates": 12, "batch_size": 4, "dropout": 0.1}


@pytest.fixture(scope="session")
def text() -> list[str]:
    """A cycle of 11 words, so that a word follows from its neighbours and not from its place in a block."""
    words = ["fox", "runs", "over", "green", "hills", "while", "old", "owls", "watch", "from", "trees"]
    cycle = [words[n % len(words)] for n in range(600)]
    lines, start = [], 0
    for n in range(100):
        lines.append(" ".join(cycle[start : start + 3 + n % 5]))
        start += 3 + n % 5
    return lines


@pytest.fixture
def run(text: list[str], small: dict[str, Any], tmp_path: Path, one_thread: None) -> Run:
    def go(
        out: str = "out",
        *,
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        seen: list[dict[str, object]] | None = None,
        **options: Any,
    ) -> Outcome:
        (tmp_path / out).mkdir(exist_ok=True)
        return pretrain(
            PretrainOptions(**{**small, **options}),
            text,
            seed=seed,
            out=tmp_path / out,
            report=(lambda _: None) if seen is None else seen.append,
            device="cpu",
            checkpoints=checkpoints,
        )

    return go
