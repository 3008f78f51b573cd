"""A grid: a mapping in which a list stands where one value would do, and the points it expands to.

Every value keeps its place in the file, so that what is wrong with a point is said at the value that caused it.
A field that is itself a list takes one list; a list of lists is its axis.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ftprobe.errors import Problem, nearest

MOST_POINTS = 100_000
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

ModelT = TypeVar("ModelT", bound=BaseModel)


class Choice(NamedTuple):
    """One value of one key, and its place in the file."""

    value: object
    place: str


Point = dict[str, Choice]


def expand(entry: Mapping[str, object], place: str, types: Mapping[str, object]) -> Iterator[Point] | Problem:
    """The points of one grid, the first key of the file varying slowest.

    Parameters
    ----------
    entry : mapping
        Key to value or list of values.
    types : mapping
        Key to the type of one value; it decides what is a value and what an axis. Unknown keys count as scalars.

    Returns
    -------
    points, or the problem when the grid has none or more than `MOST_POINTS`.
    """
    axes = {key: axis(value, at(place, key), types.get(key)) for key, value in entry.items()}
    for key, choices in axes.items():
        if not choices or any(choice.value in ([], ()) for choice in choices):
            return empty_grid(at(place, key))
    size = math.prod(map(len, axes.values()))
    if size > MOST_POINTS:
        return Problem(place, f"a grid of {size:,} points", f"write several entries of at most {MOST_POINTS:,} points")
    return (dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values()))


def axis(value: object, place: str, annotation: object = None) -> list[Choice]:
    """The values of one key: itself, or the elements of a list that is deeper than its type asks for."""
    if isinstance(value, list | tuple) and _nesting(value) > _depth(annotation):
        choices = [Choice(element, f"{place}[{index}]") for index, element in enumerate(value)]
    else:
        choices = [Choice(value, place)]
    if takes_numbers(annotation):
        return [Choice(_numbers(choice.value), choice.place) for choice in choices]
    return choices


def empty_grid(place: str) -> Problem:
    """The problem of a list with nothing in it."""
    return Problem(place, "empty grid", "write one value or more, or leave the key out")


def at(place: str, key: str) -> str:
    """The place of a key inside a place; either may be empty."""
    return f"{place}.{key}".strip(".")


def point_of(entry: Mapping[str, object], place: str) -> Point:
    """A mapping that is no grid, as one point: a list in it is a value."""
    return {key: Choice(value, at(place, key)) for key, value in entry.items()}


def build(model: type[ModelT], point: Point, place: str) -> ModelT | list[Problem]:
    """One point as a value of `model`, strictly typed, or everything that is wrong with it."""
    document = json.dumps({key: choice.value for key, choice in point.items()}, default=str)
    try:
        return model.model_validate_json(document, strict=True)
    except ValidationError as error:
        return _problems(error, model, point, place)


def field_types(model: type[BaseModel]) -> dict[str, object]:
    """The type of each field of a model."""
    return {name: field.annotation for name, field in model.model_fields.items()}


def known_keys(
    entry: Mapping[str, object], allowed: Collection[str], place: str, problems: list[Problem]
) -> dict[str, object]:
    """The keys of an entry that may stand there; each of the others is a problem."""
    problems += [unknown("key", key, at(place, key), allowed) for key in entry if key not in allowed]
    return {key: value for key, value in entry.items() if key in allowed}


def unknown(kind: str, name: object, place: str, allowed: Collection[str]) -> Problem:
    """The problem of a name that is not among those allowed."""
    return Problem(place, f"unknown {kind} {shown(name)}", nearest(str(name), allowed))


def shown(value: object) -> str:
    """A value as a person wrote it: text in single quotes, all else as JSON."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _nesting(value: object) -> int:
    return 1 + max(map(_nesting, value), default=0) if isinstance(value, list | tuple) else 0


def _depth(annotation: object) -> int:
    """How many lists deep the values of a type are: 0 for scalars."""
    origin = get_origin(annotation) or annotation
    if origin is Literal:
        return 0
    arguments = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
    inner = max(map(_depth, arguments), default=0)
    return inner + 1 if origin in (tuple, list, set, frozenset, Sequence) else inner


def _scalars(annotation: object) -> set[object]:
    if get_origin(annotation) is Literal:
        return {str}
    arguments = get_args(annotation)
    return set().union(*map(_scalars, arguments)) if arguments else {annotation}


def takes_numbers(annotation: object) -> bool:
    """Whether values of a type may be fractions."""
    scalars = _scalars(annotation)
    return float in scalars and str not in scalars


def _numbers(value: object) -> object:
    """`1e-5` is text to YAML 1.1; where a number is expected it is one."""
    if isinstance(value, list | tuple):
        return [_numbers(element) for element in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _literals(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [name for argument in get_args(annotation) for name in _literals(argument)]


def _problems(error: ValidationError, model: type[BaseModel], point: Point, place: str) -> list[Problem]:
    """A validation error as problems: one for each field, however many alternatives its type has."""
    problems: dict[str, Problem] = {}
    for found in error.errors():
        key = str(found["loc"][0]) if found["loc"] else ""
        where = point[key].place if key in point else at(place, key)
        if key in problems:
            continue
        value = point[key].value if key in point else None
        if found["type"] == "missing":
            problems[key] = Problem(where, "missing", f"say which {key}")
        elif found["type"] == "extra_forbidden":
            inner = ".".join(map(str, found["loc"][1:]))
            own = Problem(at(where, inner), f"unknown key {shown(inner)}") if inner else None
            problems[key] = own or unknown("key", key, at(place, key), list(model.model_fields))
        elif found["type"] == "value_error":
            problems[key] = Problem(where, str(found["ctx"]["error"]))
        else:
            field = model.model_fields.get(key)
            problems[key] = _mistyped(key, value, found["msg"], field.annotation if field else None, where)
    return list(problems.values())


def _mistyped(key: str, value: object, message: str, annotation: object, place: str) -> Problem:
    names = _literals(annotation)
    if names and isinstance(value, str):
        return unknown(key, value, place, names)
    if _depth(annotation) and not isinstance(value, list | tuple):
        return Problem(place, f"{shown(value)} is not a list", f"write [{shown(value)}]")
    if bool in _scalars(annotation):
        return Problem(place, f"{shown(value)} is neither true nor false")
    return Problem(place, f"{shown(value)} {message.removeprefix('Input ')}")
