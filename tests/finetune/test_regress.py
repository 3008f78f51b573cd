"""Regression: planted numbers are learnt, scores are scipy's, and what is no number is refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr

from ftprobe.errors import InputError
from ftprobe.finetune import finetune
from ftprobe.finetune.regress import make
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.inputs import encode
from ftprobe.models.load import load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

METRICS = ("pearson", "spearman")


def counted(n_train: int = 96, n_test: int = 30) -> TaskData:
    """The number is how many of a text's four words are `good`, less 2."""
    rng = random.Random(0)
    sentences, labels = [], []
    for n in range(n_train + n_test):
        good = rng.randrange(5)
        words = ["good"] * good + [f"w{rng.randrange(30)}" for _ in range(4 - good)]
        rng.shuffle(words)
        sentences.append(Sentence(f"s{n}", "train" if n < n_train else "test", " ".join(words), None))
        labels.append(f"{good - 2:.2f}")
    return TaskData(Corpus("toy", tuple(sentences)), label_set(labels))


def label_set(labels: list[str]) -> LabelSet:
    return LabelSet("toy", tuple(range(len(labels))), (-1,) * len(labels), tuple(labels))


def run(tiny: str, out: Path, task: TaskData, *, metrics: tuple[str, ...] = METRICS, **options: Any) -> Outcome:
    defaults = {"epochs": 12, "learning_rate": 3e-3, "batch_size": 16, "max_length": 32}
    return finetune(
        FinetuneOptions.model_validate({**defaults, **options}),
        task,
        objective="regress",
        metrics=metrics,
        load=lambda: load_encoder(tiny, offline=True),
        seed=0,
        out=out,
        report=lambda _: None,
        device="cpu",
    )


def last(outcome: Outcome, metric: str) -> Measurement:
    return [m for m in outcome.measurements if m.metric == metric][-1]


def test_planted_numbers_are_learnt_and_the_state_gives_them_again(tiny: str, tmp_path: Path) -> None:
    task = counted()
    outcome = run(tiny, tmp_path, task)
    assert last(outcome, "pearson").value > 0.97
    assert last(outcome, "train_loss").value < 0.2
    assert last(outcome, "pearson").detail == {"selected": True}
    assert outcome.predictions == ()
    encoder = load_encoder(str(tmp_path), offline=True)
    head = load_file(tmp_path / "head.safetensors")
    assert head["output.weight"].shape == (1, 32)
    gold, said = [], []
    for sentence, label in zip(task.corpus.sentences, task.labels.label_N, strict=True):
        if sentence.split == "test":
            ids = encode(encoder, [sentence], max_length=32).features_N[0]["input_ids"]
            with torch.inference_mode():
                h_D = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
                z_D = torch.tanh(head["dense.weight"] @ h_D + head["dense.bias"])
                said.append((head["output.weight"] @ z_D + head["output.bias"]).item())
            gold.append(float(label))
    assert last(outcome, "pearson").value == pytest.approx(pearsonr(gold, said).statistic, abs=1e-5)
    assert last(outcome, "spearman").value == pytest.approx(spearmanr(gold, said).statistic, abs=1e-3)


def test_constant_numbers_are_undefined_and_collapsed(tiny: str) -> None:
    task = counted(20, 10)
    rows = {"train": range(20), "test": range(20, 30)}
    made = make(task, rows, load_encoder(tiny, offline=True), FinetuneOptions(max_length=32), metrics=METRICS, seed=0)
    constant = {"predicted_N": np.full(10, 0.5, dtype=np.float32)}
    for metric in METRICS:
        value, unit, status = made.score(metric, "test", constant)
        assert math.isnan(value)
        assert (unit, status) == ("fraction", "undefined")
    assert made.collapsed(constant)
    gold_N = made.splits["test"].label_N
    assert not made.collapsed({"predicted_N": -gold_N})
    across_N = np.array([1, -1] * 5, dtype=np.float32)
    across_N -= gold_N * float(np.cov(gold_N, across_N)[0, 1] / np.var(gold_N, ddof=1))
    assert abs(pearsonr(gold_N, across_N).statistic) < 0.04
    assert made.collapsed({"predicted_N": across_N})


def test_loss_is_the_mean_squared_error(tiny: str) -> None:
    rows = {"train": range(20), "test": range(20, 30)}
    encoder = load_encoder(tiny, offline=True)
    made = make(counted(20, 10), rows, encoder, FinetuneOptions(max_length=32), metrics=METRICS, seed=0)
    loss, n = made.loss(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 1.0]))
    assert (loss.item(), n) == (5.0, 2)


def test_what_is_no_number_is_refused(tiny: str, tmp_path: Path) -> None:
    task = counted(8, 4)
    for label in ("good", "nan", "inf"):
        wrong = task._replace(labels=label_set([*task.labels.label_N[:-1], label]))
        with pytest.raises(InputError, match=f"sentence s11: the label '{label}' is no number"):
            run(tiny, tmp_path, wrong)
    with pytest.raises(InputError, match=r"has only the number 2\.0 in train"):
        run(tiny, tmp_path, task._replace(labels=label_set(["2"] * 8 + ["1", "2", "3", "4"])))
    with pytest.raises(InputError, match="unknown metric 'accuracy'"):
        run(tiny, tmp_path, task, metrics=("accuracy",))
