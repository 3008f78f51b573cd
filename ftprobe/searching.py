"""A search's result: which of the runs it tried is best, and the artifact and rows that come of it.

Knows nothing of ray, which runs them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq

from ftprobe.measurement import Measurement, Outcome
from ftprobe.rows import PART
from ftprobe.store import Store

Payload = Mapping[str, Any]  # Trial.payload()
Report = Callable[[dict[str, object]], None]


class Tried(NamedTuple):
    """One run of a search: its options, its trial, and its best development score, NaN where it has none.

    `stopped`: by the scheduler, before it came to its end.
    """

    point: Mapping[str, Any]
    trial: str
    status: Literal["done", "stopped", "failed"]
    value: float
    epoch: int
    error: str = ""


Explore = Callable[[Payload, Report], Sequence[Tried]]
"""Runs what a search tries; from its payload."""


def dev_scores(store: Store, trial: str, metric: str) -> list[float]:
    """The development score of each epoch of a fine-tuning trial that is in the store."""
    rows = [row for row in _rows(store, trial) if row["split"] == "dev" and row["metric"] == metric]
    return [row["value"] for row in sorted(rows, key=lambda row: row["update"])]


def best_of(tried: Sequence[Tried]) -> Tried:
    """The run with the highest development score of those that came to their end; of equals the first.

    Raises
    ------
    RuntimeError
        None did, or none has a score.
    """
    ended = [each for each in tried if each.status == "done" and not math.isnan(each.value)]
    if not ended:
        errors = list(dict.fromkeys(each.error for each in tried if each.error))
        why = f", first with: {errors[0]}" if errors else ""
        raise RuntimeError(f"none of the {len(tried)} runs of the search came to a development score{why}")
    return max(ended, key=lambda each: each.value)


def adopt(best: Tried, tried: Sequence[Tried], payload: Payload, store: Store, folder: Path) -> Outcome:
    """Copy the best state into `folder`; its rows, and one row for each run.

    Returns
    -------
    Outcome
        Rows of method `search`, split `dev`: the main metric's best value of each run, its last epoch, and in their
        detail its options, trial and status, and whether it was `chosen`. Facts: the chosen trial and options.
    """
    source = store.fetch("finetune", best.trial)
    manifest = store.manifest("finetune", best.trial)
    for name in manifest["files"]:
        if name != PART:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    rows = _rows(store, best.trial)
    own = tuple(_measurement(row) for row in rows)
    metric = payload["spec"]["metrics"][0]
    unit, n_items = next((r["unit"], r["n_items"]) for r in rows if r["split"] == "dev" and r["metric"] == metric)
    common: dict[str, Any] = {"unit": unit, "split": "dev", "n_items": n_items, "method": "search"}
    runs = [Measurement(metric, **common, **_run(each, chosen=each is best)) for each in tried]
    facts = {
        "chosen": {"trial": best.trial, "options": dict(best.point)},
        "runs": dict(Counter(each.status for each in tried)),
        "truncated": manifest["truncated"],
    }
    return Outcome((*own, *runs), facts=facts)


def _run(run: Tried, *, chosen: bool) -> dict[str, Any]:
    """What a row says of one run."""
    detail = {"search": dict(run.point), "status": run.status, "trial": run.trial, "chosen": chosen}
    return {
        "value": run.value,
        "epoch": float(run.epoch),
        "status": "undefined" if math.isnan(run.value) else "ok",
        "detail": {**detail, "error": run.error} if run.error else detail,
    }


def _rows(store: Store, trial: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(store.file("finetune", trial, PART)).to_pylist()
    return rows


def _measurement(row: Mapping[str, Any]) -> Measurement:
    named = {name: row[name] for name in Measurement._fields if name not in ("detail", "method")}
    return Measurement(**named, detail=json.loads(row["detail"] or "{}"))
