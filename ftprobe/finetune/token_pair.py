"""Pairs of words: a label for [h_head ; h_word], as of a dependency arc (METHODS 1.1, "pair of tokens")."""

from __future__ import annotations

from functools import partial

from ftprobe.errors import InputError
from ftprobe.finetune.objective import Rows
from ftprobe.finetune.words import check_words, make_words
from ftprobe.tasks.types import TaskData


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """What `check_words` asks for, and two words in each item."""
    if len(task.labels.head_N) != len(task.labels.word_N) or min(task.labels.head_N) < 0:
        raise InputError.one("finetune.task", f"'{task.labels.task}' has items of one word", "use the objective 'tag'")
    check_words(task, rows, metrics)


make = partial(make_words, pairs=True)
