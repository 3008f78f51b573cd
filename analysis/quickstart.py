"""What the quickstart shows: how fine-tuning changes what a linear probe reads from each layer."""

from __future__ import annotations

import dataclasses

import polars as pl

from ftprobe import generic
from ftprobe.figures import Chart, titled
from ftprobe.report import Report
from ftprobe.tables import Table


def delta(records: pl.LazyFrame) -> Table:
    """Change of probing accuracy at every layer."""
    return dataclasses.replace(generic.delta(records), title="What fine-tuning changes: probing accuracy at each layer")


def scores(records: pl.LazyFrame) -> Table:
    """How well the fine-tuned models do their own task."""
    return dataclasses.replace(generic.finetune(records), title="How well fine-tuning worked: development scores")


def changes(records: pl.LazyFrame) -> Chart:
    """Change of probing accuracy over layers, one panel a probing task."""
    return titled(generic.delta_curves(records), "What fine-tuning changes: probing accuracy at each layer")


def accuracies(records: pl.LazyFrame) -> Chart:
    """Probing accuracy over layers before and after fine-tuning, one panel a probing task."""
    return titled(generic.accuracy_curves(records), "What a linear probe reads from each layer")


REPORT = Report(
    name="quickstart",
    title="Fine-tuned minus pre-trained: the accuracy of a linear probe on each layer.",
    tables={"delta": delta, "finetune": scores},
    figures={"delta": changes, "accuracy": accuracies},
)
