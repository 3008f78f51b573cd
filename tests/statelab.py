"""A study on tiny models whose states tests cut, edit, take on the way and compare: CoLA's format, words w0 to w39."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import tinylm
import torch
from safetensors.torch import load_file

import ftprobe
from ftprobe.planner import Plan, Trial, make_plan
from ftprobe.store import Store
from ftprobe.study import parse_study

LAYERS, EPOCHS, PER_EPOCH = 3, 2, 5
UPDATES = EPOCHS * PER_EPOCH
Document = dict[str, Any]


def folders(root: Path) -> dict[str, str]:
    """CoLA of 40 and 16 texts, labelled by their first word, and plain text of 30 and 20 lines."""
    rng = random.Random(0)

    def line(first: str) -> str:
        return " ".join([first, *(rng.choice(tinylm.WORDS) for _ in range(rng.randrange(3, 9)))])

    for name, n in (("train", 40), ("dev", 16)):
        rows = [f"x\t{i % 2}\t\t{line(('w0', 'w1')[i % 2])}" for i in range(n)]
        (root / "cola").mkdir(parents=True, exist_ok=True)
        (root / "cola" / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    for name, n in (("train", 30), ("test", 20)):
        (root / "wikitext2").mkdir(parents=True, exist_ok=True)
        (root / "wikitext2" / f"{name}.txt").write_text("\n".join(line("w2") for _ in range(n)) + "\n")
    return {name: str(root / name) for name in ("cola", "wikitext2")}


def tuning(**options: Any) -> Document:
    """A `finetune` entry of ten updates."""
    return {
        "task": "cola",
        "epochs": EPOCHS,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "max_length": 16,
        **options,
    }


def probing(**options: Any) -> Document:
    """A `probe` entry of all layers, in float32."""
    return {
        "task": "cola",
        "pooling": "mean",
        "max_length": 16,
        "dtype": "float32",
        "probe": {"kind": "linear", "strength": [1.0]},
        **options,
    }


def perplexity(**options: Any) -> Document:
    """A `compare` entry on the plain text."""
    return {"corpus": "wikitext2", "measure": {"kind": "perplexity", "block": 16}, **options}


def study(root: Path, **sections: Any) -> Document:
    """A study of the model `base`, BERT of three blocks with its masked-LM head, on the texts of `root`."""
    checkpoint = root / "base"
    if not checkpoint.exists():
        tinylm.save(checkpoint, "bert", num_hidden_layers=LAYERS)
    return {"name": "states", "models": {"base": {"checkpoint": str(checkpoint)}}, "data": folders(root), **sections}


def plan(document: Document, store: Path) -> Plan:
    """With the counts of its data."""
    return ftprobe.plan(parse_study(document), store=store, offline=True)


def unread_plan(document: Document, store: Path) -> Plan:
    """Without having read anything."""
    return make_plan(parse_study(document), Store.open(store), offline=True)


def run(document: Document, store: Path) -> None:
    """In this process; everything must go well."""
    summary = ftprobe.run(parse_study(document), store=store, offline=True, inline=True, device="cpu", threads=1)
    assert not summary.failed, summary.failed


def records(document: Document, store: Path) -> pl.DataFrame:
    return ftprobe.records(parse_study(document), store=store).collect()


def stage(planned: Plan, name: str) -> list[Trial]:
    return [trial for trial in planned.trials.values() if trial.stage == name]


def trained(planned: Plan, variant: str = "finetuned", **moment: Any) -> Trial:
    """The run of a variant of `base`, or its snapshot at a moment."""
    (trial,) = [
        planned.trials[key]
        for key, columns in planned.labels
        if key in planned.trials
        and planned.trials[key].stage == "finetune"
        and columns.get("variant") == variant
        and planned.trials[key].spec.get("snapshot", {}) == moment
    ]
    return trial


def weights(store: Path, trial: Trial) -> dict[str, torch.Tensor]:
    """Every tensor of a trained state, its head included."""
    folder = Store.open(store).fetch("finetune", trial.id)
    head = load_file(folder / "head.safetensors")
    return {**load_file(folder / "model.safetensors"), **{f"head.{name}": tensor for name, tensor in head.items()}}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
