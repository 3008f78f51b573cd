"""Progress of a study, read from its store alone: by any machine that sees the store, while it runs and afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.table import Table

from ftprobe.journal import EVERY_S, read_journal
from ftprobe.planner import STAGES
from ftprobe.store import Store
from ftprobe.terminal import clock

SILENT_S = 60.0  # without a sign of life for longer, a run has probably lost its driver
RATE_OVER_S = 600.0  # throughput is that of the last ten minutes of work
_STATES = ("done", "running", "failed", "missing")


class Progress(NamedTuple):
    """Where a study stands.

    Attributes
    ----------
    states : dict of stage to Counter
        Trials by `done`, `running`, `failed`, `missing`.
    reused : mapping of stage to int
        Trials that were there when the last run began.
    device_s : mapping of stage to float
        Seconds that the finished trials took on their devices.
    per_hour : float
        Trials finished in the last ten minutes up to the latest, as an hourly rate.
    failures : list of (stage, name, error, path of the log)
    journal : dict or None
        Of the last run (`ftprobe.journal`).
    """

    name: str
    states: Mapping[str, Counter[str]]
    reused: Mapping[str, int]
    device_s: Mapping[str, float]
    per_hour: float
    failures: list[tuple[str, str, str, str]]
    journal: Mapping[str, Any] | None


def progress(document: Mapping[str, Any], store: Store) -> Progress:
    """Where the study of a store's document stands."""
    trials = document["trials"]
    held = dict(store.held([(t["stage"], t["id"]) for t in trials]))
    failed, journal = store.failures(), read_journal(store, document["name"])
    live = bool(journal) and journal is not None and journal["ended"] is None
    running = {id for pack in (journal or {})["running"] for id in pack["trials"]} if live else set()
    states: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    failures = []
    for trial in trials:
        stage, id = trial["stage"], trial["id"]
        state = "done" if (stage, id) in held else "running" if id in running else "missing"
        if state == "missing" and id in failed:
            state = "failed"
            failures.append((stage, trial["name"], failed[id]["error"], store.log_path(id)))
        states[stage][state] += 1
    device_s: dict[str, float] = {
        stage: sum(m.get("wall_s", 0.0) for (s, _), m in held.items() if s == stage) for stage in STAGES
    }
    reused = {stage: states.get("reused", 0) for stage, states in (journal or {}).get("counts", {}).items()}
    ends = sorted(_seconds(m["finished"]) for m in held.values() if "finished" in m)
    return Progress(document["name"], states, reused, device_s, _rate(ends), failures, journal)


def _rate(ends: Sequence[float]) -> float:
    """Ends an hour over the last ten minutes before the latest."""
    recent = [end for end in ends if end > ends[-1] - RATE_OVER_S]
    span = recent[-1] - recent[0] if len(recent) > 1 else 0.0
    return 3600.0 * (len(recent) - 1) / span if span else 0.0


def status_table(at: Progress) -> Table:
    """By stage: done, running, failed, missing and reused trials, and device-hours."""
    table = Table(title=at.name, box=None)
    for name in ("stage", *_STATES, "reused", "device-hours"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in STAGES:
        if at.states[stage]:
            counts = (str(at.states[stage][state]) for state in _STATES)
            table.add_row(stage, *counts, str(at.reused.get(stage, 0)), f"{at.device_s[stage] / 3600:.2f}")
    return table


def status_lines(at: Progress, *, now: float) -> list[str]:
    """What the table does not say: throughput, the last run, what runs, what was retried."""
    lines = [f"{at.per_hour:,.0f} trials an hour over the last ten minutes of work"] * bool(at.per_hour)
    if at.journal is None:
        return lines
    journal, silent = at.journal, now - _seconds(at.journal["updated"])
    where = f"on {journal['on']}, driver {journal['host']} (pid {journal['pid']})"
    if journal["ended"]:
        lines.append(f"last run {journal['ended']} {journal['updated']}, after {clock(journal['elapsed_s'])}, {where}")
    elif silent > max(SILENT_S, 4 * EVERY_S):
        lines.append(
            f"last run: no sign of its driver for {clock(silent)} ({where}); the same command goes on from here"
        )
    else:
        left = f", about {clock(journal['left_s'])} left" if journal["left_s"] is not None else ""
        lines.append(f"running for {clock(journal['elapsed_s'])}{left}, {where}")
        lines += [f"  running {p['stage']} {p['name']} for {clock(p['s'])}" for p in journal["running"]]
    retries = ((why, name, n) for why, names in journal["retries"].items() for name, n in names.items())
    return lines + [f"  {why} {n} time(s): {name}" for why, name, n in retries]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).astimezone(UTC).timestamp()
