"""Reports: the named tables and figures of a study, found by name and rendered as one HTML page.

A report is a Python file with a module-level `REPORT`; each of its tables and figures is a function of the records, and
of the item-level predictions if it has a parameter `predictions`.
What it imports by `from .NAME import ...` is another file of its folder.
Studies without their own use `generic`.
"""

from __future__ import annotations

import html
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import polars as pl

from ftprobe.comparisons import comparisons
from ftprobe.errors import InputError, nearest
from ftprobe.figures import Chart, to_image_tag
from ftprobe.frames import MissingData
from ftprobe.generic import FIGURES, TABLES, search
from ftprobe.hashing import content_id
from ftprobe.items import ReadPredictions, no_predictions
from ftprobe.tables import Table, to_html

SHIPPED = "ftprobe_analysis"
PREDICTIONS = "predictions"  # the parameter of a function that wants them
Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Report:
    """What a study shows: functions from its records to tables and figures, in the order they are shown.

    A function raises `MissingData` when the records do not have what it shows. One with a second parameter, called
    `predictions`, is also given a function from trials to their item-level predictions (`ReadPredictions`).
    """

    name: str
    title: str
    tables: Mapping[str, Callable[..., Table]]
    figures: Mapping[str, Callable[..., Chart]]


GENERIC = Report("generic", "Fine-tuning and probing", {**TABLES, "comparisons": comparisons}, FIGURES)


def find_report(name: str, study_path: Path) -> Report:
    """The report called `name`.

    Looked for as `NAME.py` beside the study, in an `analysis` folder beside the study's folder, in `analysis` in the
    working directory, and among the analyses shipped with ftprobe. `generic` needs no file.

    Raises
    ------
    InputError
        No such report, or a file that cannot be imported or has no `REPORT`.
    """
    folders = _folders(study_path)
    for folder in folders:
        path = folder / f"{name}.py"
        if path.is_file():
            return _load(path)
    if name == GENERIC.name:
        return GENERIC
    known = {path.stem for folder in folders[1:] for path in folder.glob("*.py")} - {"__init__"}
    looked = ", ".join(map(str, folders))
    raise InputError.one("report", f"no analysis '{name}' in {looked}", nearest(name, {*known, GENERIC.name}))


def with_search(report: Report) -> Report:
    """The same with the table `search`, unless it has one: for studies that search hyper-parameters."""
    return replace(report, tables={"search": search, **report.tables})


def _folders(study_path: Path) -> list[Path]:
    beside = Path(study_path).resolve().parent
    folders = [beside, beside.parent / "analysis", Path.cwd() / "analysis"]
    if importlib.util.find_spec(SHIPPED) is not None:
        folders.append(Path(str(files(SHIPPED))))
    return list(dict.fromkeys(folders))


def _load(path: Path) -> Report:
    # A module of a package of its folder, so that an analysis may be several files: `from .other import ...`.
    package = ModuleType(f"_reports_{content_id(str(path.parent))[:12]}")
    package.__path__ = [str(path.parent)]
    for known in [name for name in sys.modules if name.partition(".")[0] == package.__name__]:
        del sys.modules[known]
    sys.modules[package.__name__] = package
    spec = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError.one(str(path), "is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError.one(str(path), f"{type(error).__name__}: {error}", "repair the analysis") from error
    report = getattr(module, "REPORT", None)
    if not isinstance(report, Report):
        raise InputError.one(str(path), "has no REPORT", "end it with REPORT = ftprobe.report.Report(...)")
    return report


def made(make: Callable[..., Shown], records: pl.LazyFrame, predictions: ReadPredictions) -> Shown:
    """What a function of a report makes of the records, and of the predictions if it asks for them."""
    if PREDICTIONS in inspect.signature(make).parameters:
        return make(records, **{PREDICTIONS: predictions})
    return make(records)


def render_html(
    report: Report, records: pl.LazyFrame, title: str, predictions: ReadPredictions = no_predictions
) -> str:
    """One page with all tables and figures of `report`; it carries everything and fetches nothing.

    A section whose data is missing says what is missing. Records that are not `ok` are counted at the end.
    """
    sections = [
        _section(name, partial(made, make, records, predictions), to_html) for name, make in report.tables.items()
    ]
    sections += [
        _section(name, partial(made, draw, records, predictions), to_image_tag) for name, draw in report.figures.items()
    ]
    names = [html.escape(name) for name in (*report.tables, *report.figures)]
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in names)
    heading = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{heading}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n<p>{html.escape(report.title)}</p>\n"
        f"<nav>{links}</nav>\n{''.join(sections)}{_statuses(records)}</body>\n</html>\n"
    )


_STYLE = """\
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
section { margin: 2rem 0; overflow-x: auto; }
img { max-width: 100%; height: auto; }
.missing { color: #8a4b00; }
"""


def _section(name: str, make: Callable[[], Shown], shown: Callable[[Shown], str]) -> str:
    try:
        body = shown(make())
    except MissingData as error:
        lines = "; ".join(f"{p.what}" + (f" ({p.repair})" if p.repair else "") for p in error.problems)
        body = f'<p class="missing">Missing: {html.escape(lines)}.</p>'
    name = html.escape(name)
    return f'<section id="{name}">\n<h2>{name}</h2>\n{body}\n</section>\n'


def _statuses(records: pl.LazyFrame) -> str:
    counted = records.group_by("method", "status").len().sort("method", "status", nulls_last=True).collect()
    total = int(counted["len"].sum())
    odd = counted.filter(pl.col("status") != "ok").rows()
    lines = [f"{n} of method {method} are {status}" for method, status, n in odd]
    text = "; ".join([f"{total} records", *lines]) + "."
    return f"<footer><p>{html.escape(text)}</p></footer>\n"
