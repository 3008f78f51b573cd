"""Records as a study of Mosbach et al. 2020 would leave them, planted so that its tables are the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product

import polars as pl
import pytest

from ftprobe.published import load
from ftprobe.rows import SCHEMA

MODELS = {
    "google-bert/bert-base-cased": "bert",
    "FacebookAI/roberta-base": "roberta",
    "albert/albert-base-v1": "albert",
}
N_LAYERS = 12
SEEDS = (0, 1, 2)
OFFSETS = (-0.01, 0.0, 0.01)  # of the seeds' accuracies: sd 1 point, mean unchanged
OPTIONS = {
    "head_pooling": "cls",
    "pooler": "fresh",
    "learning_rate": 2e-5,
    "warmup": 0.1,
    "schedule": "constant",
    "batch_size": 32,
    "weight_decay": 0.01,
    "dropout": 0.1,
    "epsilon": 1e-8,
    "beta1": 0.9,
    "beta2": 0.99,
    "clip": 1.0,
}
NAMES = {"matthews_correlation": "mcc", "exact_match": "em"}
Row = dict[str, object]


def baseline(task: str, pooling: str, layer: int) -> float:
    return 0.6 + 0.01 * layer + 0.05 * (pooling == "mean") + 0.01 * len(task) / 100


def probe_rows() -> Iterator[Row]:
    printed = load("mosbach2020").filter(pl.col("table").is_in(["table2", "table5"]))
    columns = ("model", "finetune_task", "probe_task", "pooling", "layers", "number")
    for checkpoint, tuned, task, pooling, layers, points in printed.select(columns).rows():
        first, last = map(int, layers.split("-"))
        for layer in range(first, last + 1):
            config = json.dumps({"activations": {"pooling": pooling}, "probe": {"kind": "linear"}})
            base: Row = {
                "model": MODELS[checkpoint],
                "method": "linear",
                "task": task,
                "corpus": task,
                "layer": layer,
                "pooling": pooling,
                "metric": "accuracy",
                "config": config,
                "n_items": 10_000,
            }
            value = baseline(task, pooling, layer)
            if tuned == "cola":
                yield {**base, "variant": "pretrained", "value": value}
            # Within a group the deltas differ by layer, so that only their mean is the published number.
            tilt = layer - (first + last) / 2
            for seed, offset in zip(SEEDS, OFFSETS, strict=True):
                own = value + (points + tilt) / 100 + offset
                run = {"variant": "finetuned", "ft_task": tuned, "ft_seed": seed, "head_pooling": "cls"}
                yield {**base, **run, "value": own}


def finetune_rows() -> Iterator[Row]:
    printed = load("mosbach2020").filter((pl.col("table") == "table1") & (pl.col("condition") == "finetuned"))
    for checkpoint, task, metric, score in printed.select("model", "finetune_task", "metric", "number").rows():
        for seed, offset in zip(SEEDS, OFFSETS, strict=True):
            for epoch in (1, 2):
                yield {
                    "model": MODELS[checkpoint],
                    "method": "finetune",
                    "variant": "finetuned",
                    "ft_task": task,
                    "ft_seed": seed,
                    "head_pooling": "cls",
                    "task": task,
                    "corpus": task,
                    "metric": NAMES.get(metric, metric),
                    "update": 10 * epoch,
                    "epoch": float(epoch),
                    "value": score / 100 + offset if epoch == 2 else 0.1,
                    "detail": json.dumps({"selected": True}) if epoch == 2 else "{}",
                    "config": json.dumps({**OPTIONS, "epochs": 1 if task == "sst2" else 3}),
                }


def entropy(position: str, layer: int, head: str | None) -> float:
    """Planted: fine-tuning changes the upper half, more with a CLS head than with a mean head."""
    change = {None: 0.0, "cls": 0.5, "mean": 0.25}[head] * max(0, layer - N_LAYERS // 2)
    return 2.0 - 0.05 * layer + change * (1.0 if position == "cls" else 0.5)


def attention_rows() -> Iterator[Row]:
    """RoBERTa on CoLA with either head, each measured again in its heads of attention and half-way through training."""
    for head, layer, position in product((None, "cls", "mean"), range(1, N_LAYERS + 1), ("cls", "other")):
        value = entropy(position, layer, head)
        base: Row = {
            "model": "roberta",
            "method": "attention",
            "corpus": "bigram_shift",
            "layer": layer,
            "config": json.dumps({"compare": {"kind": "attention"}, "split": "test"}),
            "n_items": 2000,
        }
        over_heads, one = (json.dumps({"position": position, "head": n}) for n in (None, 0))
        rise = value - entropy(position, layer, None)
        for seed, offset in zip(SEEDS, OFFSETS, strict=True) if head else [(None, 0.0)]:
            tuned = {"variant": "finetuned", "ft_task": "cola", "ft_seed": seed, "head_pooling": head}
            state = {**base, **(tuned if head else {"variant": "pretrained"})}
            own = {**state, "metric": "attention_entropy", "unit": "nat"}
            yield {**own, "value": value + offset, "detail": over_heads}
            yield {**own, "value": 9.0, "detail": one}
            if head:
                yield {**own, "value": 9.0, "detail": over_heads, "update": 10, "epoch": 1.0}
                distance = {"metric": "attention_emd", "unit": "positions", "value": rise + offset}
                yield {**state, **distance, "detail": over_heads}


def corpus_rows() -> Iterator[Row]:
    for task, sizes in {"cola": (8551, 1043), "sst2": (67349, 872), "rte": (2490, 277)}.items():
        for split, n in zip(("train", "test"), sizes, strict=True):
            yield {"method": "corpus", "task": task, "corpus": task, "metric": "n_items", "split": split, "value": n}
    yield {"method": "corpus", "task": "odd_man_out", "corpus": "odd_man_out", "metric": "n_items", "value": 10_000}


@pytest.fixture(scope="session")
def as_records() -> Callable[[Iterator[Row]], pl.DataFrame]:
    def made(rows: Iterator[Row]) -> pl.DataFrame:
        schema = pl.DataFrame(SCHEMA.empty_table()).schema
        common = {"study": "planted", "split": "test", "unit": "fraction", "status": "ok", "n_dropped": 0}
        return pl.DataFrame([{**common, **row} for row in rows], schema=schema)

    return made


@pytest.fixture(scope="session")
def paper_records(as_records: Callable[[Iterator[Row]], pl.DataFrame]) -> pl.DataFrame:
    rows = [*probe_rows(), *finetune_rows(), *attention_rows(), *corpus_rows()]
    # Rows come from many files in no order.
    return as_records(iter(rows)).sample(fraction=1, shuffle=True, seed=0)
