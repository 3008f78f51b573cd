"""The command `ftprobe`: argv in, text out; the only module that prints.

Exit codes: 0 all done, 1 some trials failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from ftprobe.errors import CorruptArtifact, InputError, Problem, StoreError

if TYPE_CHECKING:
    import polars as pl

    from ftprobe.api import Results, Summary
    from ftprobe.report import Report
    from ftprobe.study import Study

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Studies of how fine-tuning changes the representations of pre-trained language models.",
)
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

MOST_ROWS = 1_000_000  # of records that a report's tables share in memory; of more, each reads the columns it shows

T = TypeVar("T")
StudyFile = Annotated[Path, typer.Argument(help="The study's YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides in the study's own grammar: finetune[0].epochs=1", show_default=False),
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", help="Folder or URL of the store.  [default: $FTPROBE_STORE or ftprobe-store]")
]
DataDir = Annotated[str | None, typer.Option("--data", help="Folder with one sub-folder per corpus.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]


def main() -> None:
    """Run the command; input errors are listed one a line and exit with 2."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except InputError as error:
        for problem in error.problems:
            err.print(f"error: {problem}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except (StoreError, CorruptArtifact) as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            err.print(f"error: {error.format_message()}", style="red", markup=False, highlight=False)
            sys.exit(2)
        raise


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    store: StoreUrl = None,
    data: DataDir = None,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
) -> None:
    """Show what a study would run: trials by stage, reuse, disk and device-hours."""
    from ftprobe import api
    from ftprobe.summary import plan_document, plan_table

    opened = api.open_store(store)
    planned = api.plan(_study(study, overrides), store=opened, data=data, offline=offline)
    if as_json:
        print(json.dumps(plan_document(planned, opened), indent=1))
    else:
        out.print(plan_table(planned, opened))


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    store: StoreUrl = None,
    data: DataDir = None,
    offline: Offline = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster (auto, ray://...); default: a local Ray.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")] = False,
    device: Annotated[str | None, typer.Option(help="With --inline: cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="With --inline: cores to use.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the summary.")] = False,
) -> None:
    """Run what is missing of a study. Run it again to resume."""
    from ftprobe import api
    from ftprobe.terminal import View

    opened, loaded = api.open_store(store), _study(study, overrides)
    with View(out, quiet=quiet) as view:
        summary = api.run(
            loaded,
            store=opened,
            data=data,
            offline=offline,
            address=address,
            inline=inline,
            device=device,
            threads=threads,
            observer=view,
        )
    _conclude(loaded.name, summary)


@app.command()
def status(
    study: Annotated[Path | None, typer.Argument(help="A study; without one, every study of the store.")] = None,
    overrides: Overrides = None,
    store: StoreUrl = None,
    data: DataDir = None,
) -> None:
    """Show how far studies are: trials by state, throughput, time left, device-hours, failures and retries."""
    from ftprobe import api
    from ftprobe.progress import progress, status_lines, status_table
    from ftprobe.summary import study_document

    opened = api.open_store(store)
    if study is None:
        documents: Sequence[Any] = list(opened.studies().values())
    else:
        documents = [study_document(api.plan(_study(study, overrides), store=opened, data=data, offline=True))]
    if not documents:
        out.print(f"no study has been run with {opened.url}", highlight=False)
    for document in documents:
        at = progress(document, opened)
        out.print(status_table(at))
        for line in status_lines(at, now=time.time()):
            out.print(line, highlight=False, markup=False)
        for stage, name, error, log in at.failures:
            err.print(f"failed: {stage} {name}: {error} (log: {log})", style="red", markup=False, highlight=False)


@app.command()
def table(
    study: StudyFile,
    names: Annotated[list[str] | None, typer.Argument(help="Tables; default: all of the study's report.")] = None,
    store: StoreUrl = None,
    data: DataDir = None,
    format: Annotated[str, typer.Option("--format", "-f", help="md, csv, latex, html or parquet.")] = "md",
    target: Annotated[Path | None, typer.Option("--out", "-o", help="A folder; default: the terminal.")] = None,
) -> None:
    """Print or write tables of a study's report."""
    from ftprobe.tables import FORMATS, render, write

    _known(format, FORMATS, "--format")
    report, found = _report(study, store, data)
    chosen = _chosen(names, report.tables, "table")
    if format == "parquet" and target is None:
        raise InputError.one("--out", "Parquet is not for a terminal", "give a folder with --out")
    for name in chosen:
        made = _made(report.tables[name], found, bool(names))
        if made is None:
            continue
        if target is None:
            print(render(made, format))
        else:
            out.print(str(write(made, target, name, format)), highlight=False)


@app.command()
def figure(
    study: StudyFile,
    names: Annotated[list[str] | None, typer.Argument(help="Figures; default: all of the study's report.")] = None,
    store: StoreUrl = None,
    data: DataDir = None,
    format: Annotated[str, typer.Option("--format", "-f", help="html, svg, pdf or png.")] = "svg",
    target: Annotated[Path, typer.Option("--out", "-o", help="A folder.")] = Path(),
) -> None:
    """Write figures of a study's report."""
    from ftprobe.figures import FORMATS, write

    _known(format, FORMATS, "--format")
    report, found = _report(study, store, data)
    for name in _chosen(names, report.figures, "figure"):
        made = _made(report.figures[name], found, bool(names))
        if made is not None:
            out.print(str(write(made, target, name, format)), highlight=False)


@app.command("report")
def report_page(
    study: StudyFile,
    store: StoreUrl = None,
    data: DataDir = None,
    target: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write all tables and figures as one self-contained HTML page."""
    from ftprobe.report import render_html

    report, found = _report(study, store, data)
    target.parent.mkdir(parents=True, exist_ok=True)
    page = render_html(report, found.records, _study(study, None).name, found.predictions)
    target.write_text(page, encoding="utf-8")
    out.print(str(target), highlight=False)


@app.command()
def records(
    study: StudyFile,
    overrides: Overrides = None,
    store: StoreUrl = None,
    data: DataDir = None,
    target: Annotated[Path | None, typer.Option("--out", "-o", help="A .parquet, .csv or .json file.")] = None,
) -> None:
    """Export a study's tidy records: one row a number."""
    from ftprobe import api

    suffix = target.suffix if target else ".csv"
    _known(suffix, (".parquet", ".csv", ".json"), "--out")
    frame = api.records(_study(study, overrides), store=store, data=data)
    if target is None:
        print(frame.collect().write_csv(), end="")
        return
    if suffix == ".parquet":
        frame.sink_parquet(target)
    elif suffix == ".csv":
        frame.sink_csv(target)
    else:
        frame.sink_ndjson(target)
    out.print(f"{target}: {_height(frame)} rows", highlight=False)


@app.command()
def gc(
    store: StoreUrl = None,
    study: Annotated[list[str] | None, typer.Option(help="Give up a study, by its name; may be repeated.")] = None,
    keep_days: Annotated[float, typer.Option(min=0.0, help="Keep what changed in the last days.")] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; otherwise it is only listed.")] = False,
) -> None:
    """List what a store holds and no study needs any more, and with --yes remove it."""
    from ftprobe import api
    from ftprobe.garbage import DAY_S, find_garbage, garbage_table, remove_garbage

    opened = api.open_store(store)
    garbage = find_garbage(opened, keep_s=keep_days * DAY_S, forget=study or ())
    out.print(garbage_table(garbage.items) if garbage.items else f"{opened.url} holds nothing that may go")
    if garbage.young:
        out.print(f"{len(garbage.young):,} more are younger than {keep_days:g} days (--keep-days)", highlight=False)
    if yes:
        removed = remove_garbage(opened, garbage)
        out.print(f"removed {len(removed):,} items", highlight=False)
    elif garbage.items or garbage.forgotten:
        out.print("nothing has been removed; --yes removes it", highlight=False)


@app.command("ls")
def list_recipes() -> None:
    """List shipped studies, tasks and probes."""
    from ftprobe.summary import listing

    out.print(listing())


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A shipped study.")],
    folder: Annotated[Path, typer.Argument(help="Where to.")] = Path(),
) -> None:
    """Copy a shipped study and its analysis for editing."""
    from ftprobe.summary import copy_recipe

    for path in copy_recipe(name, folder):
        out.print(str(path), highlight=False)


@app.command("spot-watch", hidden=True)
def spot_watch(
    node: Annotated[str | None, typer.Option(help="Ray's id of the node, where this machine runs several.")] = None,
) -> None:
    """Watch for the cloud's notice that this machine is about to be taken away, and have Ray drain its node."""
    from ftprobe.spot import watch

    watch(lambda line: out.print(line, markup=False, highlight=False), node)


@app.command()
def doctor(store: StoreUrl = None) -> None:
    """Check this machine and the store: versions, devices, and the checksum of every artifact."""
    from ftprobe import api
    from ftprobe.doctor import check_machine, check_store

    out.print(check_machine())
    damaged = check_store(api.open_store(store))
    for line in damaged:
        err.print(f"damaged: {line}; it is rebuilt by the next run", style="red", markup=False, highlight=False)
    if damaged:
        raise typer.Exit(1)


def _conclude(name: str, summary: Summary) -> None:
    """Say how a run ended, and exit with the code that says so too."""
    from ftprobe.terminal import clock

    for line in summary.warnings:
        err.print(f"warning: {line}", style="yellow", markup=False, highlight=False)
    for trial, error in summary.failed.items():
        err.print(f"failed: {trial}: {error}", style="red", markup=False, highlight=False)
    counts = "; ".join(
        f"{stage} " + ", ".join(f"{n} {state}" for state, n in states.items())
        for stage, states in summary.counts.items()
        if states
    )
    out.print(f"{name}: {counts} in {clock(summary.wall_s)}", markup=False, highlight=False)
    if summary.stopped:
        err.print(f"error: stopped: {summary.stopped}", style="red", markup=False, highlight=False)
    if summary.interrupted:
        err.print("interrupted; what is finished is in the store: run the same command to go on", markup=False)
        raise typer.Exit(130)
    if summary.failed or summary.stopped:
        raise typer.Exit(1)


def _study(path: Path, overrides: Sequence[str] | None) -> Study:
    from ftprobe.study import load_study

    return load_study(path, tuple(overrides or ()))


def _report(path: Path, store: str | None, data: str | None) -> tuple[Report, Results]:
    from ftprobe import api
    from ftprobe.report import find_report, with_search

    study = _study(path, None)
    found = api.results(study, store=store, data=data)
    height = _height(found.records)
    if not height:
        raise InputError.one(str(path), "the store holds no records of this study", f"ftprobe run {path}")
    if height <= MOST_ROWS:
        found = found._replace(records=found.records.collect().lazy())
    report = find_report(study.report or "generic", path)
    searches = any(run.search is not None for run in study.finetune)
    return with_search(report) if searches else report, found


def _height(frame: pl.LazyFrame) -> int:
    import polars as pl

    return int(frame.select(pl.len()).collect().item())


def _made(make: Callable[..., T], found: Results, asked_for: bool) -> T | None:
    """A table or figure; None, with a line that says what is missing, unless it was asked for by name."""
    from ftprobe.frames import MissingData
    from ftprobe.report import made

    try:
        return made(make, found.records, found.predictions)
    except MissingData as missing:
        if asked_for:
            raise
        err.print(f"left out: {missing}", style="yellow", markup=False, highlight=False)
        return None


def _chosen(names: Sequence[str] | None, known: Any, kind: str) -> Sequence[str]:
    from ftprobe.errors import nearest

    if not names:
        return list(known)
    problems = [Problem(kind, f"unknown {kind} '{n}'", nearest(n, known)) for n in names if n not in known]
    if problems:
        raise InputError(problems)
    return names


def _known(value: str, allowed: Sequence[str], place: str) -> None:
    from ftprobe.errors import nearest

    if value not in allowed:
        raise InputError.one(place, f"unknown format '{value}'", nearest(value, allowed))


if __name__ == "__main__":
    main()
