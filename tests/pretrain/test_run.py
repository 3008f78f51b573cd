"""Pre-training runs: repeatable, cut and resumed without a trace, learning what a text teaches, readable by all."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ftprobe.architecture import architecture
from ftprobe.errors import InputError
from ftprobe.finetune import Checkpoints, checkpoints
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Outcome
from ftprobe.models.load import load_encoder
from ftprobe.pretrain.blocks import Masking, collate, cut, mask
from ftprobe.pretrain.options import PretrainOptions, architecture_of
from ftprobe.pretrain.run import pretrain
from ftprobe.store import Store

ID = "e" * 32
Run = Callable[..., Outcome]


class Cut(BaseException):
    """What ends a run as a signal would: nothing catches it."""


class Cutting(Checkpoints):
    """Checkpoints after which a run ends, at update `cut`."""

    cut = 0

    def save(self, number: int, write: Callable[[Path], None]) -> None:
        super().save(number, write)
        if number == self.cut:
            raise Cut


@pytest.fixture
def every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)


def same(one: Outcome, other: Outcome, *folders: Path) -> None:
    """Equal numbers, tokenizers and weights, to the last bit."""
    assert one.measurements == other.measurements
    left, right = (load_file(folder / "model.safetensors") for folder in folders)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    mine, theirs = ((folder / "tokenizer.json").read_bytes() for folder in folders)
    assert mine == theirs


def values(outcome: Outcome, metric: str) -> list[float]:
    return [m.value for m in outcome.measurements if m.metric == metric]


def test_same_seed_gives_the_same_bits_and_another_does_not(run: Run, tmp_path: Path) -> None:
    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state()
    one = run("a")
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    random.seed(6)
    torch.manual_seed(6)
    np.random.seed(6)
    same(one, run("b"), tmp_path / "a", tmp_path / "b")
    other = run("c", seed=1)
    assert values(one, "mlm_nll") != values(other, "mlm_nll")
    assert values(one, "train_loss") != values(other, "train_loss")
    for key in ("vocab", "blocks", "unigram_ppl", "n_tokens"):
        assert one.facts[key] == other.facts[key]


@pytest.mark.parametrize("cut_at", [1, 8, 11])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_run_cut_at_any_update_ends_as_an_undisturbed_one(
    run: Run, tmp_path: Path, every_update: None, family: str, cut_at: int
) -> None:
    whole = run("whole", family=family)
    cutting = Cutting(Store.open(tmp_path / "store"), ID)
    cutting.cut = cut_at
    with pytest.raises(Cut):
        run("lost", family=family, checkpoints=cutting)
    seen: list[dict[str, object]] = []
    resumed = run("resumed", family=family, checkpoints=Checkpoints(Store.open(tmp_path / "store"), ID), seen=seen)
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")
    assert (whole.facts["resumed_from_update"], resumed.facts["resumed_from_update"]) == (0, cut_at)
    ends = [m.update for m in whole.measurements if m.metric == "mlm_nll" and m.update > cut_at]
    assert len(seen) == len(ends)
    (attempt,) = resumed.facts["earlier_attempts"]  # type: ignore[misc]
    assert attempt["updates"] == cut_at


KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
from ftprobe.finetune import Checkpoints, checkpoints
from ftprobe.pretrain.options import PretrainOptions
from ftprobe.pretrain.run import pretrain
from ftprobe.store import Store
torch.set_num_threads(1)
checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
given = json.load(sys.stdin)
def report(metrics):
    if metrics["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
pretrain(PretrainOptions(**given["options"]), given["text"], seed=0, out=Path(given["out"]), report=report,
         device="cpu", checkpoints=Checkpoints(Store.open(given["store"]), given["id"]))
"""


def test_a_killed_process_is_followed_by_one_that_goes_on(
    run: Run, text: list[str], small: dict[str, Any], tmp_path: Path, every_update: None
) -> None:
    options = {"updates": 40}
    whole = run("whole", **options)
    per_epoch = next(m.update for m in whole.measurements if m.epoch == 1.0)
    assert per_epoch is not None
    (tmp_path / "lost").mkdir()
    given = {"options": {**small, **options}, "text": text, "out": str(tmp_path / "lost")}
    given |= {"store": str(tmp_path / "store"), "id": ID}
    done = subprocess.run([sys.executable, "-c", KILLED], input=json.dumps(given), text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = run("resumed", checkpoints=Checkpoints(Store.open(tmp_path / "store"), ID), **options)
    assert resumed.facts["resumed_from_update"] == 2 * per_epoch - 1
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")


def test_the_loss_falls_below_the_unigram_entropy(run: Run) -> None:
    outcome = run(dim=32, updates=300, batch_size=8, learning_rate=5e-3, dropout=0.0)
    nll, loss = values(outcome, "mlm_nll"), values(outcome, "train_loss")
    unigram = math.log(11)  # equally frequent words
    assert unigram <= math.log(outcome.facts["unigram_ppl"]) < unigram + 0.2  # type: ignore[arg-type]
    assert loss[-1] < 0.8 * unigram < unigram < loss[0]
    assert nll[-1] < 0.8 * unigram
    assert values(outcome, "mlm_ppl") == [math.exp(value) for value in nll]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_saved_model_scores_the_held_out_text_as_reported(
    run: Run, text: list[str], small: dict[str, Any], tmp_path: Path, family: str
) -> None:
    outcome, options = run(family=family), PretrainOptions(**{**small, "family": family})
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    blocks, masking = cut(tokenizer, text, 16).held_out, Masking.of(options, tokenizer)
    masked = [mask(block, masking, derive_seed(0, "mask", "held out", n)) for n, block in enumerate(blocks)]
    batch = collate(masked, tokenizer.pad_token_id)
    with torch.inference_mode():
        logits_NSV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nll = torch.nn.functional.cross_entropy(logits_NSV.flatten(0, 1)[batch["positions"]], batch["labels"])
    last = [m for m in outcome.measurements if m.metric == "mlm_nll"][-1]
    assert float(nll) == pytest.approx(last.value, rel=1e-5)
    assert (last.n_items, last.update, last.split) == (len(batch["labels"]), 12, "dev")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_encoder_is_loaded_with_the_architecture_that_was_planned(
    run: Run, small: dict[str, Any], tmp_path: Path, family: str
) -> None:
    outcome = run(family=family)
    encoder = load_encoder(str(tmp_path / "out"), offline=True)
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    theirs = whole.base_model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in encoder.model.state_dict().items())
    planned = architecture_of(PretrainOptions(**{**small, "family": family}))
    assert planned == architecture(json.loads((tmp_path / "out" / "config.json").read_text()))
    assert (encoder.n_layers, encoder.dim, encoder.max_positions) == (1, 16, 16)
    assert encoder.classification == "first"
    assert outcome.facts["parameters"] == sum(p.numel() for p in whole.parameters())
    assert len(encoder.tokenizer) == outcome.facts["vocab"]
    assert encoder.tokenizer.model_max_length == 16


def test_bfloat16_trains_float32_weights(run: Run, tmp_path: Path) -> None:
    plain, half = run("plain", dropout=0.0), run("half", dropout=0.0, dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float32}
    assert values(half, "train_loss") != values(plain, "train_loss")
    assert values(half, "train_loss") == pytest.approx(values(plain, "train_loss"), rel=0.02)


@pytest.mark.parametrize("lines", [[], ["", " \n"], ["<unk> <unk>"] * 50])
def test_a_text_without_words_is_refused(lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the text shows no words"):
        pretrain(PretrainOptions(), lines, seed=0, out=tmp_path, report=lambda _: None, device="cpu")


def test_loss_that_is_not_finite_is_an_error(run: Run) -> None:
    with pytest.raises(FloatingPointError, match="training loss is nan"):
        run(learning_rate=1e30, updates=40)
