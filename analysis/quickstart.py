"""What the quickstart shows: how fine-tuning changes what a linear probe reads from each layer."""

from __future__ import annotations

import dataclasses

import polars as pl

from ftprobe import generic
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.frames import require
from ftprobe.report import Report
from ftprobe.tables import Table


def delta(records: pl.LazyFrame) -> Table:
    """Change of probing accuracy at every layer."""
    return dataclasses.replace(generic.delta(records), title="What fine-tuning changes: probing accuracy at each layer")


def scores(records: pl.LazyFrame) -> Table:
    """How well the fine-tuned models do their own task."""
    return dataclasses.replace(generic.finetune(records), title="How well fine-tuning worked")


def figure(records: pl.LazyFrame) -> Chart:
    """Change of probing accuracy over layers, one panel a probing task."""
    points = require(generic.layer_deltas(records), *generic.NO_DELTA).with_columns(
        state=pl.concat_str("model", pl.lit(" on "), "ft_task", pl.lit(", head "), "head_pooling", ignore_nulls=True)
    )
    return layer_curves(
        points.sort("task", "state", "pooling", "layer"),
        title="What fine-tuning changes: probing accuracy at each layer",
        y=Field("mean", "change (points)"),
        color=Field("state", "fine-tuned"),
        dash=Field("pooling", "pooling") if points["pooling"].n_unique() > 1 else None,
        column=Field("task", "probing task"),
        zero_line=True,
    )


REPORT = Report(
    name="quickstart",
    title="Fine-tuned minus pre-trained: the accuracy of a linear probe on each layer.",
    tables={"delta": delta, "finetune": scores},
    figures={"delta": figure, "accuracy": generic.accuracy_curves},
)
