"""Trials of one study that scored probes on the items of sentences, written and read as they are in a store.

Axes: P probe seeds, N items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ftprobe.items import ReadPredictions
from ftprobe.measurement import Measurement, Predictions
from ftprobe.rows import scan, scan_predictions, write_part, write_predictions

LABELS = ("ADJ", "NOUN", "VERB")


class Items(NamedTuple):
    """The items of a corpus: their sentences, words and gold labels (ids of `LABELS`)."""

    sentence_N: NDArray[np.int32]
    word_N: NDArray[np.int32]
    gold_N: NDArray[np.int32]


def drawn(n_sentences: int, seed: int = 0) -> Items:
    """Sentences 10, 12, 14, ... of one to five items."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, n_sentences)
    sentence_N = np.repeat(10 + 2 * np.arange(n_sentences), counts).astype(np.int32)
    word_N = np.concatenate([np.arange(n) for n in counts]).astype(np.int32)
    return Items(sentence_N, word_N, rng.integers(0, len(LABELS), len(sentence_N)).astype(np.int32))


class Trial(NamedTuple):
    """A probe of one state: its columns, and which items each of its fits gets right (P, N)."""

    columns: Mapping[str, object]
    items: Items
    right_PN: NDArray[np.bool_]
    keeps: bool = True


def state(task: str, tuned: str | None = None, seed: int = 0, **more: object) -> dict[str, object]:
    """The columns that the rows of a probe of one state share."""
    run = {"variant": "finetuned", "ft_task": tuned, "ft_seed": seed, "head_pooling": "cls"}
    own = {"study": "s", "model": "m", "method": "mlp", "task": task, "corpus": "c", "pooling": "mean"}
    name = {"trial": f"{task}-{tuned}-{seed}", "config": {"probe": {"kind": "mlp"}}}
    return {**own, **name, **(run if tuned else {"variant": "pretrained"}), **more}


def written(folder: Path, trials: Iterable[Trial]) -> tuple[pl.LazyFrame, ReadPredictions]:
    """The records of trials, and their predictions: items in another order for each probe seed."""
    parts, files = [], {}
    for number, trial in enumerate(trials):
        own = folder / "probe" / str(number)
        own.mkdir(parents=True)
        right_PN = np.atleast_2d(trial.right_PN)
        rows = [
            Measurement("accuracy", float(np.mean(right_N)), layer=6, probe_seed=p, n_items=len(right_N))
            for p, right_N in enumerate(right_PN)
        ]
        write_part(own, rows, trial.columns)
        parts.append((str(own / "records.parquet"), {}))
        if trial.keeps:
            # Every other trial has its labels in another order.
            labels = LABELS if number % 2 else LABELS[::-1]
            write_predictions(
                own, [_predictions(trial.items, p, right_N, labels) for p, right_N in enumerate(right_PN)]
            )
            files[str(trial.columns["trial"])] = str(own / "predictions.parquet")
    return scan(parts), lambda asked: scan_predictions([(t, files[t]) for t in dict.fromkeys(asked) if t in files])


def _predictions(items: Items, probe_seed: int, right_N: NDArray[np.bool_], labels: tuple[str, ...]) -> Predictions:
    id_K = np.array([labels.index(label) for label in LABELS], np.int32)
    predicted_N = np.where(right_N, items.gold_N, (items.gold_N + 1) % len(LABELS))
    order = np.random.default_rng(probe_seed).permutation(len(predicted_N))
    score_N = np.full(len(predicted_N), 0.5, np.float32)
    columns = (items.sentence_N, items.word_N, id_K[items.gold_N], id_K[predicted_N], score_N)
    return Predictions("test", 6, probe_seed, *(column[order] for column in columns), labels)
