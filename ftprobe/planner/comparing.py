"""Comparisons of model states, as trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftprobe.compare import COMPARISONS
from ftprobe.cost import compare_cost
from ftprobe.errors import InputError
from ftprobe.hashing import content_id
from ftprobe.planner.book import Book
from ftprobe.planner.states import State, where
from ftprobe.resolution import Resolved
from ftprobe.study import CompareRun, Study
from ftprobe.study.options import Against

STARTS = ({"epoch": 0}, {"update": 0})


def plan_comparison(
    run: CompareRun,
    resolved: Resolved,
    wanted: Sequence[State],
    states: Sequence[State],
    study: Study,
    book: Book,
    *,
    offline: bool,
) -> None:
    """Enter the trial of one comparison for each of the states it wants, of all `states` of the study.

    Raises
    ------
    InputError
        None of them has the other state that it is to be compared with.
    """
    source, corpus, _, work = resolved.texts[run.corpus]
    comparison = COMPARISONS[run.kind]
    items = run.items or comparison.items
    shared = {
        "kind": run.kind,
        "kind_version": comparison.version,
        "options": run.options.model_dump(mode="json"),
        "corpus": corpus,
        "split": run.split,
        "items": items,
        "seed": run.seed,
        "study_seed": study.seed,
    }
    columns = _columns(run, shared, source.corpus)
    pairs = list(_pairs(run, wanted, states))
    # Unless the entry says otherwise it is about pre-trained states too, which differ in nothing but the model.
    if run.against is not None and not pairs and (run.on == "finetuned" or run.against.model):
        what = f"no two {run.on} states of the study differ in {_said(run.against)} alone"
        raise InputError.one(f"{run.place}.against", what, "add what makes both, or say `on`")
    for state, other in pairs:
        own, parents, place = _sources(state, other, run.against, offline=offline)
        domain = run.domain or (_domain(state, source.corpus, resolved) if comparison.pair else None)
        trial = book.trial(
            "compare",
            f"{state.name}/{source.corpus}/{run.kind}"
            + (f"/against-{_said(run.against)}" if run.against else "")
            + f"/s{run.seed}" * comparison.seeded,
            {**own, **shared},
            parents,
            None,
            place,
            {
                **{key: value for key, value in state.columns.items() if key != "model"},
                **columns,
                "domain": domain,
                "variant": state.columns["variant"].partition("[")[0],
            },
            compare_cost(state.architecture, work, run.split, items),
        )
        book.label(trial.id, state.alias, state.columns["variant"], domain)


def _columns(run: CompareRun, shared: Mapping[str, Any], corpus: str) -> dict[str, Any]:
    config = {"compare": {"kind": run.kind, **shared["options"]}, "split": run.split, "items": shared["items"]}
    if run.against is not None:
        config["against"] = _said(run.against)
    return {
        "method": run.kind,
        "task": None,
        "corpus": corpus,
        "probe_seed": run.seed if COMPARISONS[run.kind].seeded else None,
        "config": config,
        "config_id": content_id([config, run.seed]),
    }


def _pairs(run: CompareRun, wanted: Sequence[State], states: Sequence[State]) -> Iterator[tuple[State, State | None]]:
    """Each state with the one it is compared with; None stands for its own pre-trained one."""
    if run.against is None:
        yield from ((state, None) for state in wanted if state.trial is not None or not COMPARISONS[run.kind].pair)
        return
    known = {_identity(state): state for state in states}
    for state in wanted:
        other = known.get(_identity(state, run.against))
        if other is not None and other is not state:
            yield state, other


def _identity(state: State, but: Against | None = None) -> tuple[object, ...]:
    """What tells a state from the others of its study, or would if it were otherwise as `but` says."""
    said: dict[str, object] = {} if but is None else dict(but.named())
    own: dict[str, object] = {
        "model": state.alias,
        "finetune_task": state.task,
        "seed": None,
        "moment": None,
        "variant": ("", ""),
    }
    if state.trial is not None:
        name, _, options = str(state.columns["variant"]).partition("[")
        snapshot = state.trial.spec.get("snapshot")
        own |= {"seed": state.columns["ft_seed"], "variant": (name, options)}
        own |= {"moment": "end" if snapshot is None else "start" if _starts(snapshot) else content_id(snapshot)}
        if "variant" in said:
            said["variant"] = (said["variant"], options)
    return (*{**own, **said}.values(), state.columns.get("head_pooling"))


def _starts(snapshot: Mapping[str, Any]) -> bool:
    return snapshot in STARTS or snapshot.get("part", [1])[0] == 0


def _sources(
    state: State, other: State | None, against: Against | None, *, offline: bool
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """How the two states are loaded, as a spec, the trials whose artifacts that takes, and where their bases lie."""
    place = where(state.base, offline=offline, moment=state.moment)
    if other is None or against is None:
        return (*state.source(with_base=True), place)
    (own, own_parents), (theirs, their_parents) = state.source(), other.source()
    spec = {
        "model": state.base.identity,
        "state": {**own, "parents": list(own_parents)},
        "against": {**theirs, "parents": list(their_parents), "differs": against.named()},
    }
    return (
        spec,
        tuple(dict.fromkeys((*own_parents, *their_parents))),
        {**place, "against": where(other.base, offline=offline)},
    )


def _domain(state: State, corpus: str, resolved: Resolved) -> str | None:
    """Whether a text is of the corpus that a state was tuned on.

    What was made of a corpus (`word_order@grammar`) is of it; of `A+B` A is, which the state was trained on.
    """
    if state.task is None:
        return None
    tuned = resolved.texts[state.task].source.corpus
    home = tuned.rpartition("@")[2].partition("+")[0]
    return "in" if corpus == tuned or corpus.rpartition("@")[2] == home else "out"


def _said(against: Against) -> str:
    return ",".join(f"{name}={value}" for name, value in against.named().items())
