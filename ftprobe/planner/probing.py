"""Probes and the activations they read, as trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ftprobe.architecture import Architecture
from ftprobe.cost import Cost, activation_cost, probe_cost, probe_size, work_of
from ftprobe.hashing import content_id
from ftprobe.planner.book import Book
from ftprobe.planner.plan import Trial
from ftprobe.planner.states import State, where
from ftprobe.probes import PROBES
from ftprobe.resolution import Text
from ftprobe.study import ActivationOptions, ProbeRun, Study


class _Fit(NamedTuple):
    """One trial of a probe run and the packs of cells it is split into, each with its cost."""

    spec: Mapping[str, Any]
    stem: str
    cost: Cost
    parts: tuple[tuple[Mapping[str, Any], Cost], ...]


class _Asked(NamedTuple):
    """What a probe run asks of each state of one architecture: worked out once, for thousands of them."""

    columns: Mapping[str, Any]
    fits: tuple[_Fit, ...]


class Extractions:
    """The extraction that a state, a text and a pooling need: the same for all that read it."""

    def __init__(self, book: Book, *, offline: bool) -> None:
        self.book, self.offline = book, offline
        self._known: dict[tuple[object, ...], Trial] = {}

    def of(self, reference: str, text: Text, options: ActivationOptions, state: State) -> Trial:
        """The activations trial of the text that the study names `reference`."""
        self.book.grid_points += 1
        key = (state.key, reference, options)
        if key not in self._known:
            self._known[key] = self._new(text, options, state)
        return self._known[key]

    def _new(self, text: Text, options: ActivationOptions, state: State) -> Trial:
        source, corpus, _, work = text
        own, parents = state.source()
        shared = {
            **own,
            "corpus": corpus,
            "level": "word" if source.task.level in ("word", "word_pair", "tree") else "sentence",
            "max_length": options.max_length,
            "overflow": options.overflow,
            "dtype": options.dtype,
            "sample": {"train": options.train_items, "dev": options.dev_items, "test": options.test_items},
        }
        columns = {
            **{key: value for key, value in state.columns.items() if key != "model"},
            "variant": state.columns["variant"].partition("[")[0],
            "method": "activations",
            "task": None,
            "corpus": source.corpus,
            "pooling": options.pooling,
        }
        trial = self.book.trial(
            "activations",
            f"{state.name}/{source.corpus}/{options.pooling}",
            {**shared, "pooling": options.pooling, "special": options.special},
            parents,
            content_id([shared, list(parents)]),
            where(state.base, offline=self.offline, moment=state.moment),
            columns,
            activation_cost(state.architecture, work, options, source.task.level),
        )
        self.book.label(trial.id, state.alias, state.columns["variant"])
        return trial


def plan_probe(
    run: ProbeRun, text: Text, states: list[State], study: Study, book: Book, extractions: Extractions
) -> None:
    """Enter the trials of one probe run on each of the states it wants."""
    asked: dict[Architecture, _Asked] = {}
    for state in states:
        if state.architecture not in asked:
            asked[state.architecture] = _asked(run, text, study, state.architecture)
        _probe(asked[state.architecture], state, extractions.of(run.task, text, run.activation, state), book)


def _asked(run: ProbeRun, text: Text, study: Study, architecture: Architecture) -> _Asked:
    source, _, labels, work = text
    options = run.options.model_dump(mode="json")
    layers = list(range(architecture.n_layers + 1)) if run.layers == "all" else sorted(set(run.layers))
    probe = PROBES[run.kind]
    spec = {
        "kind": run.kind,
        "kind_version": probe.version,
        "options": options,
        "labels": labels,
        "seed": run.seed,
        "study_seed": study.seed,
    }
    config = {"probe": {"kind": run.kind, **options}, "activations": run.activation.model_dump(mode="json")}
    columns = {
        "method": run.kind,
        "task": source.task.name,
        "config": config,
        "config_id": content_id([config, layers, run.seed]),
        "probe_seed": run.seed if probe.seeded else None,
    }
    stem = f"{source.task.name}/{run.kind}" + f"/s{run.seed}" * probe.seeded
    fits = []
    for fitted in [[layer] for layer in layers] if probe.by_layer else [layers]:
        size = probe_size(architecture, work, run.activation, source.task.level, len(fitted))
        # the layers of the study decide the packs, which are parents: no need to say them twice
        parts = probe.parts(run.options, fitted, layers) if probe.parts else ()
        fits.append(
            _Fit(
                {**spec, "layers": fitted},
                f"{stem}/layer{fitted[0]}" if probe.by_layer else stem,
                probe_cost(work_of(probe, run.options, size)),
                tuple((part, probe_cost(work_of(probe, run.options, size, part))) for part in parts),
            )
        )
    return _Asked(columns, tuple(fits))


def _probe(asked: _Asked, state: State, source: Trial, book: Book) -> None:
    """The trials that score a probe of one state, each behind the trials of its packs of cells."""
    own = {**source.columns, **asked.columns}
    place = {"moment": True} if state.moment else {}
    for fit in asked.fits:
        name = f"{source.name}/{fit.stem}"
        parts = []
        for part, cost in fit.parts:
            whole = f"{name}/{','.join(map(str, part.values()))}"
            spec = {**fit.spec, "part": part}
            parts.append(book.trial("probe", whole, spec, (source.id,), source.id, place, own, cost).id)
        trial = book.trial("probe", name, fit.spec, (source.id, *parts), source.id, place, own, fit.cost)
        book.label(trial.id, state.alias, state.columns["variant"])
