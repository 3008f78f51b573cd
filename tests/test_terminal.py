"""The live view: a table on a terminal, plain lines elsewhere, failures always."""

from __future__ import annotations

import io
from typing import Any, cast

from rich.console import Console

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.terminal import View


def schedule() -> Schedule:
    trials = [
        Trial(key, cast(Any, stage), f"m/{key}", {}, parents, key, {}, {}, Cost(1.0, 0.0, 0))
        for key, stage, parents in (
            ("f", "finetune", ()),
            ("a", "activations", ("f",)),
            ("p", "probe", ("a",)),
            ("g", "finetune", ()),
        )
    ]
    return Schedule(Plan(cast(Any, None), {t.id: t for t in trials}, (), (), 4, frozenset()))


def drive(view: View, plan: Schedule, *, failing: str = "") -> None:
    view.begin(plan, "a test")
    while (pack := plan.next()) is not None:
        plan.start(pack.id)
        view.started(pack)
        view.metric(pack, {"epoch": 1.0, "metric": "mcc", "value": 0.41234})
        result = Result("failed", "ValueError: planted\nsecond line") if pack.id == failing else Result("done")
        plan.complete(pack.id, result)
        view.ended(pack, result)


def test_plain_lines_name_failures_and_end_with_all_trials() -> None:
    text = io.StringIO()
    with View(Console(file=text, width=200)) as view:
        drive(view, schedule(), failing="g")
    lines = text.getvalue().strip().split("\n")
    assert lines[0] == "4 trials to run on a test"
    assert "failed: finetune m/g: ValueError: planted" in lines
    assert lines[-1].startswith("4/4 trials")
    assert "second line" not in text.getvalue()


def test_a_terminal_shows_stages_what_runs_and_its_metrics() -> None:
    text = io.StringIO()
    view = View(Console(file=text, width=120, force_terminal=True))
    with view:
        plan = schedule()
        view.begin(plan, "a test")
        pack = cast(Pack, plan.next())
        plan.start(pack.id)
        view.started(pack)
        view.metric(pack, {"epoch": 2.0, "metric": "mcc", "value": 0.41234})
        assert view.live is not None
        view.live.refresh()
    shown = text.getvalue()
    assert "finetune m/f  epoch 2, mcc 0.412" in shown
    assert "0/4 trials" in shown
    assert "waiting" in shown


def test_quiet_says_nothing() -> None:
    text = io.StringIO()
    with View(Console(file=text, width=120), quiet=True) as view:
        drive(view, schedule(), failing="f")
    assert text.getvalue() == ""
