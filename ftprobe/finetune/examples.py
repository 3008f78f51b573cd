"""Which items of a task a run trains on, selects on and is evaluated on. Nothing here depends on the run's seed."""

from __future__ import annotations

from collections.abc import Sequence

from ftprobe.errors import InputError
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.sampling import hold_out, sample
from ftprobe.tasks.types import LabelSet, TaskData


def choose(task: TaskData, options: FinetuneOptions) -> dict[str, list[int]]:
    """Rows of the label set: `train`, `test` (dev where there is no test), `dev` where it selects the epoch, and
    `mismatched`, which is evaluated beside test, where there is one.
    """
    caps = {"train": options.train_items, **dict.fromkeys(("dev", "test", "mismatched"), options.dev_items)}
    kept = set(sample(task.corpus, caps))
    by_split: dict[str, list[int]] = {"train": [], "dev": [], "test": [], "mismatched": []}
    for row, index in enumerate(task.labels.sentence_N):
        if index in kept:
            by_split[task.corpus.sentences[index].split].append(row)
    if not by_split["test"]:
        by_split["test"], by_split["dev"] = by_split["dev"], []
    name = task.labels.task
    if not by_split["test"]:
        raise InputError.one("finetune.task", f"'{name}' has nothing to evaluate on", "give it a dev or test split")
    rows = {split: own for split, own in by_split.items() if split != "dev" and (own or split != "mismatched")}
    if options.select == "best_dev":
        rows.update({"dev": by_split["dev"]} if by_split["dev"] else _held_out(task, by_split["train"]))
    if not rows["train"]:
        raise InputError.one("finetune.task", f"'{name}' has no items in train", "give it a train split")
    return rows


def classes_to_tell_apart(task: TaskData, train: Sequence[int]) -> None:
    """Raise InputError where the training items have one label only."""
    present = {task.labels.label_N[row] for row in train}
    if len(present) < 2:
        what = f"'{task.labels.task}' has only the label '{min(present)}' in train"
        raise InputError.one("finetune.task", what, "two classes or more are needed")


def _held_out(task: TaskData, train: Sequence[int]) -> dict[str, list[int]]:
    labels = task.labels
    held = set(hold_out(_pick(labels, train), task.corpus))
    if not held:
        what = f"'{labels.task}' has {len(train)} training items, too few to hold out 10 %"
        raise InputError.one("finetune.select", what, "use select: last, or more items")
    return {
        "train": [row for row in train if labels.sentence_N[row] not in held],
        "dev": [row for row in train if labels.sentence_N[row] in held],
    }


def _pick(labels: LabelSet, rows: Sequence[int]) -> LabelSet:
    return LabelSet(
        labels.task,
        tuple(labels.sentence_N[row] for row in rows),
        tuple(labels.word_N[row] for row in rows),
        tuple(labels.label_N[row] for row in rows),
    )
