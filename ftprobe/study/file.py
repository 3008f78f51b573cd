"""The study file: YAML with one value per key, and `a.b=c` changes to it from the command line.

Scalars are read as YAML 1.2 reads them: `on` and `yes` are text, `1e-5` is a number. A key written twice, which
YAML parsers keep silent about, is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ftprobe.errors import InputError, Problem, nearest
from ftprobe.study.grid import shown
from ftprobe.study.options import Study
from ftprobe.study.parse import KEYS, parse_study

KEY = r"[^.\[\]]+"
PLACE = re.compile(rf"{KEY}(\[\d+\])*(\.{KEY}(\[\d+\])*)*")
STEP = re.compile(rf"\[(\d+)\]|({KEY})")
SECTIONS = ("data", "models", "resources")


class _Loader(yaml.SafeLoader):
    """Safe YAML with the core schema of YAML 1.2, noting keys that are written twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - not those of the parent

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[tuple[str, int, int]] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merge keys are resolved: `<<` may bring a key that the mapping sets itself.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in first:
                self.repeated.append((name, line, first[name]))
            first.setdefault(name, line)
        return node


for _tag, _pattern, _starts in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _starts)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study in a YAML file.

    Parameters
    ----------
    path : str or Path
        The file.
    overrides : sequence of str
        Changes made before anything is checked: `seed=3`, `finetune[0].seed=[0, 1]`, `models.bert.revision=...`;
        the value is YAML.

    Raises
    ------
    InputError
        With every problem found: at `FILE:LINE` for what is no YAML, else at its place in the study.
    """
    path = Path(path)
    document = read_yaml(_text(path), str(path))
    if not isinstance(document, dict):
        raise InputError.one(str(path), "holds no study", "start with `name: ...`")
    problems = [problem for override in overrides for problem in _override(document, override)]
    if problems:
        raise InputError(problems)
    return parse_study(document, path=path)


def read_yaml(text: str, name: str) -> object:
    """The document that `text` holds; InputError at `name:LINE` for what is no YAML or written twice."""
    loader = _Loader(text)
    try:
        document = loader.get_single_data()
        json.dumps(document)  # an alias inside itself, a set, bytes: nothing a study could mean
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError.one(f"{name}{line}", f"is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError.one(name, f"cannot be read: {str(error).splitlines()[0]}") from error
    finally:
        loader.dispose()
    if loader.repeated:
        raise InputError(
            Problem(f"{name}:{line}", f"key '{key}' is written twice", f"it stands in line {first} already")
            for key, line, first in loader.repeated
        )
    return document


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        beside = [file.name for file in path.absolute().parent.glob("*.yaml")]
        raise InputError.one(str(path), "no such study file", nearest(path.name, beside) if beside else "") from error
    except UnicodeDecodeError as error:
        raise InputError.one(str(path), f"is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError.one(str(path), f"cannot be read: {error.strerror}") from error


def _override(document: dict[str, Any], override: str) -> list[Problem]:
    """Make one change in place, or say why there is no such place."""
    place, equals, text = override.partition("=")
    steps = _steps(place)
    if not equals or not steps:
        return [Problem(override, "is no override", "write `a.b=value` or `a[0].b=value`")]
    try:
        value = read_yaml(text, place)
    except InputError as error:
        return list(error.problems)
    node: Any = document
    for depth, step in enumerate(steps[:-1]):
        walked = _written(steps[:depth])
        if isinstance(node, dict) and step not in node and (walked == "resources" or (not walked and step in SECTIONS)):
            node[step] = {}
        problem = _no_step(node, step, walked, place)
        if problem:
            return [problem]
        node = node[step]
    step, walked = steps[-1], _written(steps[:-1])
    # A key that is allowed but left out so far may be set; whether it is allowed inside an entry, parse_study says.
    if isinstance(node, dict) and isinstance(step, str) and (walked or step in KEYS):
        node[step] = value
        return []
    problem = _no_step(node, step, walked, place)
    if problem is None:
        node[step] = value
    return [problem] if problem else []


def _no_step(node: object, step: str | int, walked: str, place: str) -> Problem | None:
    """Why `step` cannot be taken from `node`, which stands at `walked`; None if it can."""
    if isinstance(node, list):
        if isinstance(step, str):
            return Problem(place, f"'{walked}' is a list", f"write {walked}[0].{step}")
        if step >= len(node):
            return Problem(place, f"'{walked}' has {len(node)} entries", "they are counted from 0")
        return None
    if isinstance(node, dict):
        if step in node:
            return None
        known = [str(key) for key in node] if walked else KEYS
        inside = f"in '{walked}'" if walked else "in a study"
        return Problem(place, f"there is no '{step}' {inside}", nearest(str(step), known))
    return Problem(place, f"there is nothing inside '{walked}', which is {shown(node)}")


def _steps(place: str) -> list[str | int]:
    """`finetune[0].seed` as ["finetune", 0, "seed"]; empty when it is no path."""
    if not PLACE.fullmatch(place):
        return []
    return [int(index) if index else key for index, key in STEP.findall(place)]


def _written(steps: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
