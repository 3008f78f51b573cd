"""Depth: how many blocks a fine-tuned state has, which updates its snapshots are of, and which variants make sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftprobe.architecture import Architecture
from ftprobe.cost import Workload
from ftprobe.errors import InputError, Problem
from ftprobe.study import Edit, FinetuneOptions, FinetuneRun
from ftprobe.tasks import Task

_SHARED = ("albert",)


def depth(options: FinetuneOptions, edit: Edit, n_layers: int) -> int:
    """Blocks of a state that is cut as `options` and `edit` say, of a model of `n_layers`; 0 or less if too many go."""
    kept = options.truncate or n_layers - (options.prune_top or 0) - (options.prune_bottom or 0)
    return min(kept, n_layers) - (edit.cut_top or 0) - (edit.cut_bottom or 0)


def variant_problems(run: FinetuneRun, architecture: Architecture) -> Iterator[Problem]:
    """What of a run's variant asks for blocks that are not there, or has no meaning for the architecture."""
    options, edit, L = run.options, run.edit, architecture.n_layers
    trained = depth(options, Edit(), L)
    limits: Mapping[str, tuple[object, int]] = {
        "truncate": (options.truncate, L),
        "prune_top": (options.prune_top, L - 1),
        "prune_bottom": (options.prune_bottom, L - 1),
        "freeze": (options.freeze, trained),
        "reinitialise": (options.reinitialise, trained),
        "replace_top": (edit.replace_top, trained),
        "cut_top": (edit.cut_top, trained - 1),
        "cut_bottom": (edit.cut_bottom, trained - 1 - (edit.cut_top or 0)),
    }
    for key, (value, most) in limits.items():
        if isinstance(value, int) and value > most:
            what = f"model '{run.model}' has {L} blocks, of which {trained} are trained"
            yield Problem(f"{run.place}.{key}", f"{value} is too many: {what}", f"at most {most}")
    if edit.replace_top and trained != L:
        what = "a state that was cut has no pre-trained block for each of its own"
        yield Problem(f"{run.place}.replace_top", what, "leave out the cut, or replace_top")
    shared: Mapping[str, tuple[object, int]] = {
        "freeze": (options.freeze, trained),
        "reinitialise": (options.reinitialise, trained),
        "replace_top": (edit.replace_top, L),
    }
    for key, (value, all_of_them) in shared.items():
        if architecture.family in _SHARED and value not in (None, "all", 0, all_of_them):
            what = f"all blocks of an {architecture.family} are one, so {value} of them cannot be told from the rest"
            yield Problem(f"{run.place}.{key}", what, f"give 0 or {all_of_them}")


def moments(run: FinetuneRun, task: Task, work: Workload) -> list[dict[str, Any]]:
    """The snapshots of a run, as its trials name them; update 0 and the last are always among them.

    Raises
    ------
    InputError
        Snapshots `every` so many updates of a run whose number of updates is not known before it.
    """
    asked, options = run.snapshots, run.options
    if asked is None:
        return []
    if asked.count is not None:
        return [{"part": [j, asked.count]} for j in range(asked.count + 1)]
    if asked.epochs is not None:
        return [{"epoch": e} for e in _steps(options.epochs, asked.epochs)]
    assert asked.every is not None
    # Only where each text is one item is it known how many fill a batch: sentences lose words, passages give windows.
    all_items = work.items.get("train", 0) == work.sentences.get("train", 0)
    if not (work.exact and all_items and task.level in ("sentence", "pair")) or options.select == "best_dev":
        what = "how many updates this run takes is not known before it"
        raise InputError.one(f"{run.place}.snapshots", what, "use `count` or `epochs`")
    items = work.capped({"train": options.train_items}).get("train", 0)
    updates = options.epochs * -(-items // options.batch_size)
    return [{"update": u} for u in _steps(updates, asked.every)]


def _steps(last: int, every: int) -> list[int]:
    return sorted({*range(0, last, every), last})
