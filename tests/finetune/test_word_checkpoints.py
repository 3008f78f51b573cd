"""Objectives of words and trees go on from a checkpoint, and end as an undisturbed run, bit for bit."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftprobe.finetune import Checkpoints, checkpoints, finetune
from ftprobe.measurement import Outcome
from ftprobe.models.load import load_encoder
from ftprobe.store import Store
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

METRICS = {"tag": ("accuracy",), "token_pair": ("accuracy",), "biaffine": ("las", "uas")}
OPTIONS = {"max_length": 8, "epochs": 4, "learning_rate": 3e-3, "batch_size": 16, "arc_size": 8, "label_size": 4}


class Cut(BaseException):
    """What ends a run as a signal would: nothing catches it."""


def chains(objective: str) -> TaskData:
    """Words that hang on the one before under noisy labels; some sentences are longer than the model takes."""
    rng = random.Random(0)
    sentences, items = [], []
    for n in range(68):
        numbers = [rng.randrange(30) for _ in range(rng.randrange(2, 9))]
        words = tuple(f"w{number}" for number in numbers)
        sentences.append(Sentence(f"s{n}", "train" if n < 48 else "test", " ".join(words), None, words))
        for at, number in enumerate(numbers):
            label = rng.choice("ab") if rng.random() < 0.3 else "ab"[number % 2]
            items.append((n, at, label, at - 1))
    kept = [item for item in items if objective != "token_pair" or item[3] >= 0]
    columns = list(zip(*kept, strict=True))
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", *columns[: 3 if objective == "tag" else 4]))


@pytest.mark.parametrize("objective", sorted(METRICS))
@pytest.mark.parametrize("select", ["last", "best_dev"])
def test_a_run_that_was_cut_ends_as_an_undisturbed_one(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, select: str
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    store = Store.open(tmp_path / "store")

    def run(out: str, kept: Store | None, cut: int = 0) -> Outcome:
        def report(metrics: dict[str, object]) -> None:
            if metrics["epoch"] == cut:
                raise Cut

        (tmp_path / out).mkdir(exist_ok=True)
        return finetune(
            FinetuneOptions.model_validate({**OPTIONS, "select": select}),
            chains(objective),
            objective=objective,
            metrics=METRICS[objective],
            load=lambda: load_encoder(tiny, offline=True),
            seed=0,
            out=tmp_path / out,
            report=report,
            device="cpu",
            checkpoints=Checkpoints(kept, "f" * 32) if kept else None,
        )

    whole = run("whole", None)
    with pytest.raises(Cut):
        run("lost", store, cut=2)
    resumed = run("resumed", store)
    assert resumed.facts["resumed_from_epoch"] == 2
    assert resumed.measurements == whole.measurements
    for mine, theirs in zip(resumed.predictions[0], whole.predictions[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name in ("model.safetensors", "head.safetensors"):
        one, two = (load_file(tmp_path / out / name) for out in ("whole", "resumed"))
        assert all(torch.equal(one[key], two[key]) for key in one)
