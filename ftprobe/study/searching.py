"""A search: which options of a fine-tuning are tried, how many times, and whether bad ones are stopped early.

An axis of its space is a list of values, or one of `{log: [a, b]}`, `{uniform: [a, b]}` and `{int: [a, b]}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ftprobe.errors import Problem
from ftprobe.study.finetuning import FinetuneOptions
from ftprobe.study.grid import at, build, field_types, known_keys, point_of, shown, takes_numbers, unknown
from ftprobe.study.values import Count, Options

RANGES = ("log", "uniform", "int")
TRIALS = 8

Value = int | float | str | None
Axis = tuple[Value, ...] | dict[str, tuple[int | float, int | float]]


class Search(Options):
    """How the options of a fine-tuning are searched; the best state by the development metric is kept."""

    algorithm: Literal["random", "grid", "optuna"] = "random"
    trials: Count | None = None
    """How many points are tried, 8 when null; `grid` tries all of its points and takes none."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` (Li et al. 2020): after its epoch 1, 2, 4, ... a run whose best score so far is below the median
    of the runs that came there before it is stopped. The first goes on, and one at the median; the last epoch stops
    none."""
    space: dict[str, Axis]

    @property
    def size(self) -> int:
        """How many points are tried."""
        if self.algorithm == "grid":
            return math.prod(len(axis) for axis in self.space.values())
        return self.trials or TRIALS

    def values(self) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """Each option that is searched, and its values, or the ends of its range."""
        for key, axis in self.space.items():
            yield key, tuple(end for ends in axis.values() for end in ends) if isinstance(axis, dict) else axis

    def spec(self) -> dict[str, Any]:
        """As JSON, what decides the result."""
        values = self.model_dump(mode="json")
        return values if self.algorithm == "grid" else {**values, "trials": self.size}

    def largest(self, options: FinetuneOptions) -> FinetuneOptions:
        """The options with every searched number at its largest: what may be asked of a model at most."""
        most: dict[str, Value] = {}
        for key, values in self.values():
            numbers = [value for value in values if isinstance(value, int | float)]
            if numbers:
                most[key] = max(numbers)
        return options.model_copy(update=most)


FIXED: Mapping[str, str] = {
    "select": "a search keeps the best epoch by dev",
    "head_pooling": "make it an axis of the entry: states are named by it",
    **dict.fromkeys(("train_items", "dev_items"), "points are compared on the same items"),
    **dict.fromkeys(("truncate", "prune_top", "prune_bottom"), "make it an axis of the entry: probes read its layers"),
}
"""Options of a fine-tuning that no search varies, and why or what to do instead."""


def read_search(value: object, place: str, problems: list[Problem]) -> Search | None:
    """A search as the study file says it, each axis well formed; None if anything is wrong with it."""
    wrong: list[Problem] = []
    if not isinstance(value, Mapping):
        wrong.append(Problem(place, f"{shown(value)} is not a mapping", "write `search: {space: {...}}`"))
    else:
        given = known_keys({str(key): each for key, each in value.items()}, Search.model_fields, place, wrong)
        wrong += list(_axis_problems(given.pop("space", None), at(place, "space")))
        if not wrong:
            built = build(Search, point_of({**given, "space": value["space"]}, place), place)
            wrong += built if isinstance(built, list) else list(_size_problems(built, place))
            if isinstance(built, Search) and not wrong:
                return built
    problems += wrong
    return None


def _axis_problems(space: object, place: str) -> Iterator[Problem]:
    """Whether each axis of a space is a list of plain values or a range."""
    if not isinstance(space, Mapping) or not space:
        what = "missing" if space is None else f"{shown(space)} names no option"
        yield Problem(place, what, "write `space: {learning_rate: {log: [1.0e-5, 1.0e-3]}}`")
        return
    types = field_types(FinetuneOptions)
    for name, axis in space.items():
        key, here = str(name), at(place, str(name))
        if key not in types:
            yield unknown("option", key, here, types)
        elif key in FIXED:
            yield Problem(here, f"a search does not vary '{key}'", FIXED[key])
        elif isinstance(axis, Mapping):
            yield from _range_problems(key, axis, here, types[key])
        elif not isinstance(axis, list | tuple) or not axis:
            yield Problem(here, f"{shown(axis)} is no axis", "write a list of values, or {log: [a, b]}")
        elif any(isinstance(each, list | tuple | Mapping) for each in axis):
            yield Problem(here, "a value is no list", "write plain values")


def _range_problems(key: str, axis: Mapping[object, object], place: str, annotation: object) -> Iterator[Problem]:
    kinds = [str(kind) for kind in axis]
    if len(kinds) != 1 or kinds[0] not in RANGES:
        yield Problem(place, f"{shown(dict(axis))} is no range", f"write one of: {', '.join(RANGES)}")
        return
    ((kind, ends),) = axis.items()
    whole = (int,) if kind == "int" else (int, float)
    if (
        not isinstance(ends, list | tuple)
        or len(ends) != 2
        or not all(isinstance(end, whole) and not isinstance(end, bool) for end in ends)
    ):
        yield Problem(at(place, str(kind)), f"{shown(ends)} is no pair of {'whole ' * (kind == 'int')}numbers")
    elif not ends[0] < ends[1] or (kind == "log" and ends[0] <= 0):
        repair = "above 0, the smaller first" if kind == "log" else "the smaller first"
        yield Problem(at(place, str(kind)), f"{shown(ends)} is no range", repair)
    elif kind != "int" and not takes_numbers(annotation):
        yield Problem(at(place, str(kind)), f"'{key}' takes no fractions", "write {int: [a, b]}, or a list")


def _size_problems(search: Search, place: str) -> Iterator[Problem]:
    """Whether the algorithm can try so many points of the space."""
    ranges = [key for key, axis in search.space.items() if isinstance(axis, dict)]
    if search.algorithm == "grid":
        if search.trials is not None:
            yield Problem(at(place, "trials"), "a grid tries all of its points", "leave it out")
        for key in ranges:
            yield Problem(at(place, f"space.{key}"), "a grid takes lists only", "write a list, or algorithm: random")
        return
    points = math.prod(len(axis) for axis in search.space.values())
    if not ranges and points < search.size:
        yield Problem(at(place, "trials"), f"{search.size} trials of {points} points", "write algorithm: grid")
