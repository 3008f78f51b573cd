"""Making a plan: everything that a study asks for, resolved."""

from __future__ import annotations

from collections.abc import Sequence

from ftprobe.planner.book import Book
from ftprobe.planner.comparing import plan_comparison
from ftprobe.planner.plan import Plan
from ftprobe.planner.probing import Extractions, plan_probe
from ftprobe.planner.states import State, states_of
from ftprobe.resolution import resolve_study
from ftprobe.store import Store
from ftprobe.study import CompareRun, ProbeRun, Study


def make_plan(
    study: Study,
    store: Store,
    *,
    data_dir: str | None = None,
    offline: bool = False,
    read: bool = False,
    look_up: bool = True,
) -> Plan:
    """Resolve `study` into trials and look up which of them `store` holds already.

    Parameters
    ----------
    read : bool
        Read the local and built-in data that the store does not hold yet, so that counts are exact.
    look_up : bool
        Without, nothing counts as held until `Plan.looked_up`.

    Raises
    ------
    InputError
        Unknown data, checkpoints or layers: all problems at once; with `read` malformed data too.
    """
    resolved = resolve_study(study, store, data_dir=data_dir, offline=offline, read=read)
    book, texts = Book(study), resolved.texts
    states = states_of(study, resolved, book, offline=offline)
    extractions = Extractions(book, offline=offline)
    for run in study.probe:
        wanted = [state for state in _wanted(run, states) if run.snapshots or not state.moment]
        plan_probe(run, texts[run.task], wanted, study, book, extractions)
    for comparison in study.compare:
        wanted = _wanted(comparison, states)
        plan_comparison(comparison, resolved, wanted, states, study, book, offline=offline)
    for text in texts.values():
        book.label(text.labels, None)
    planned = Plan(
        study,
        book.trials,
        tuple(text.source for text in texts.values()),
        tuple((trial, columns) for (trial, _, _), columns in book.labels.items()),
        book.grid_points,
    )
    return planned.looked_up(store) if look_up else planned


def _wanted(run: ProbeRun | CompareRun, states: Sequence[State]) -> list[State]:
    """The states that a run of the study is about."""
    return [
        state
        for state in states
        if run.model in (None, state.alias)
        and run.on == ("finetuned" if state.trial else "pretrained")
        and (state.trial is None or run.finetune_task in (None, state.task))
        and (state.trial is None or run.variant in (None, state.columns["variant"].partition("[")[0]))
    ]
