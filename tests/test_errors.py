"""Errors say what, where and how to repair it, all at once, in whichever process they are read."""

from __future__ import annotations

import doctest
import pickle

from ftprobe import errors
from ftprobe.errors import CorruptArtifact, InputError, Problem, StoreError, nearest


def test_every_problem_is_shown_once_in_order() -> None:
    first = Problem("probe[0].task", "unknown task 'bigramshift'", "did you mean 'bigram_shift'?")
    second = Problem("train.tsv:17", "three columns, not two")
    error = InputError(iter([first, second, first]))
    assert error.problems == (first, second)
    assert str(error) == (
        "probe[0].task: unknown task 'bigramshift'; did you mean 'bigram_shift'?\ntrain.tsv:17: three columns, not two"
    )


def test_one_problem_is_an_error_of_one() -> None:
    assert InputError.one("a", "b", "c").problems == (Problem("a", "b", "c"),)
    assert str(InputError.one("a", "b")) == "a: b"


def test_errors_cross_processes_whole() -> None:
    asked = pickle.loads(pickle.dumps(InputError.one("a", "b", "c")))
    assert (type(asked), asked.problems, str(asked)) == (InputError, (Problem("a", "b", "c"),), "a: b; c")
    damaged = pickle.loads(pickle.dumps(CorruptArtifact("probe", "0f", "cut short")))
    assert (damaged.stage, damaged.artifact, damaged.what) == ("probe", "0f", "cut short")
    assert str(damaged) == "probe/0f: cut short"
    assert str(pickle.loads(pickle.dumps(StoreError("full")))) == "full"


def test_the_nearest_name_is_offered_or_all() -> None:
    assert nearest("bigramshift", {"bigram_shift", "cola", "rte"}) == "did you mean 'bigram_shift'?"
    assert nearest("zzz", ["rte", "cola"]) == "one of: cola, rte"


def test_the_examples_run() -> None:
    assert doctest.testmod(errors).failed == 0
