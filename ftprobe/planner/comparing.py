"""Comparisons of model states, as trials."""

from __future__ import annotations

from typing import Any

from ftprobe.compare import COMPARISONS
from ftprobe.cost import compare_cost
from ftprobe.hashing import content_id
from ftprobe.planner.book import Book
from ftprobe.planner.states import State, where
from ftprobe.resolution import Text
from ftprobe.study import CompareRun, Study


def plan_comparison(
    run: CompareRun, text: Text, states: list[State], study: Study, book: Book, *, offline: bool
) -> None:
    """Enter the trial of one comparison for each of the states it wants."""
    source, corpus, _, work = text
    comparison = COMPARISONS[run.kind]
    options = run.options.model_dump(mode="json")
    items = run.items or comparison.items
    columns: dict[str, Any] = {
        "method": run.kind,
        "task": None,
        "corpus": source.corpus,
        "domain": run.domain,
        "probe_seed": run.seed if comparison.seeded else None,
        "config": {"compare": {"kind": run.kind, **options}, "split": run.split, "items": items},
    }
    columns["config_id"] = content_id([columns["config"], run.seed])
    for state in states:
        own, parents = state.source(with_base=True)
        spec = {
            **own,
            "kind": run.kind,
            "kind_version": comparison.version,
            "options": options,
            "corpus": corpus,
            "split": run.split,
            "items": items,
            "seed": run.seed,
            "study_seed": study.seed,
        }
        trial = book.trial(
            "compare",
            f"{state.name}/{source.corpus}/{run.kind}" + f"/s{run.seed}" * comparison.seeded,
            spec,
            parents,
            None,
            where(state.base, offline=offline, moment=state.moment),
            {
                **{key: value for key, value in state.columns.items() if key != "model"},
                **columns,
                "variant": state.columns["variant"].partition("[")[0],
            },
            compare_cost(state.architecture, work, run.split, items),
        )
        book.label(trial.id, state.alias, state.columns["variant"])
