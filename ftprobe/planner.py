"""The plan: a study resolved into trials, each with its id, its parents and its cost.

A trial's id hashes its resolved spec, its parents' ids and its stage's version; where and how it runs is not part of
it. Equal trials of different grid points are one trial with several sets of record columns. Trials of one `group`
may run together: extractions share a forward pass, probes their activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ftprobe.checkpoint import Checkpoint, resolve
from ftprobe.corpora import corpus_id, counts, labels_id
from ftprobe.cost import Cost, Workload, activation_cost, finetune_cost, probe_cost, probe_size, work_of
from ftprobe.errors import InputError, Problem
from ftprobe.hashing import content_id
from ftprobe.probes import PROBES, Size
from ftprobe.store import Store
from ftprobe.study import ActivationOptions, FinetuneRun, ProbeRun, Study
from ftprobe.tasks import TaskSource, locate

Stage = Literal["finetune", "activations", "probe"]
STAGES: tuple[Stage, ...] = ("finetune", "activations", "probe")
VERSIONS: Mapping[Stage, int] = {"finetune": 1, "activations": 1, "probe": 1}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One node of the plan: its artifact is `stage`/`id` in the store.

    Attributes
    ----------
    spec : dict
        Everything that decides the result, as JSON; `id` is its hash.
    where : dict
        Where inputs lie (`location` of a checkpoint, `offline`); not hashed.
    columns : dict
        The record columns that are properties of the trial itself.
    """

    id: str
    stage: Stage
    name: str
    spec: Mapping[str, Any]
    parents: tuple[str, ...]
    group: str
    where: Mapping[str, Any]
    columns: Mapping[str, Any]
    cost: Cost

    @property
    def scored(self) -> bool:
        """Whether its numbers are the study's; activations and packs of cells are only what others need."""
        return self.stage != "activations" and "part" not in self.spec

    def payload(self) -> dict[str, Any]:
        """What a worker needs, as JSON."""
        keys = ("id", "stage", "name", "spec", "where", "columns")
        return {**{key: getattr(self, key) for key in keys}, "parents": list(self.parents), "flops": self.cost.flops}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study's trials in topological order, its data sources, and the labels that rows get when they are read."""

    study: Study
    trials: dict[str, Trial]
    sources: tuple[TaskSource, ...]
    labels: tuple[tuple[str, Mapping[str, Any]], ...]
    grid_points: int
    existing: frozenset[str]

    def missing(self) -> tuple[Trial, ...]:
        """Trials without an artifact that something still needs: a parent is not rebuilt for a child that exists."""
        needed: set[str] = set()
        for trial in reversed(self.trials.values()):
            if trial.id in self.existing:
                continue
            if trial.scored or trial.id in needed:
                needed.add(trial.id)
                needed.update(p for p in trial.parents if p not in self.existing)
        return tuple(t for t in self.trials.values() if t.id in needed)


class _State(NamedTuple):
    """A model state: a checkpoint, or the fine-tuning trial that makes it from one."""

    alias: str
    checkpoint: Checkpoint
    init: str
    trial: Trial | None
    task: str | None
    columns: Mapping[str, Any]


def make_plan(study: Study, store: Store, *, data_dir: str | None = None, offline: bool = False) -> Plan:
    """Resolve `study` into trials and look up which of them `store` holds already.

    Raises
    ------
    InputError
        Unknown data, checkpoints or layers: all problems at once.
    """
    return _Planner(study, store, data_dir, offline).plan()


class _Planner:
    """The state of one planning pass: resolved checkpoints and sources, trials so far, problems so far."""

    def __init__(self, study: Study, store: Store, data_dir: str | None, offline: bool) -> None:
        self.study, self.store, self.data_dir, self.offline = study, store, data_dir, offline
        self.problems: list[Problem] = []
        self.trials: dict[str, Trial] = {}
        self.labels: dict[tuple[str, bytes | str], Mapping[str, Any]] = {}
        self.sources: dict[str, TaskSource] = {}
        self.workloads: dict[str, Workload] = {}
        self.grid_points = 0
        self.variants = _variants(study.finetune)

    def plan(self) -> Plan:
        checkpoints = {alias: self._checkpoint(alias) for alias in self.study.models}
        for place, reference in self._references():
            self._source(place, reference)
        if self.problems:
            raise InputError(self.problems)
        states = self._states({alias: c for alias, c in checkpoints.items() if c is not None})
        for run in self.study.probe:
            for state in states:
                if _wanted(run, state):
                    self._probe(run, state)
        if self.problems:
            raise InputError(self.problems)
        existing = self.store.existing([(t.stage, t.id) for t in self.trials.values()])
        for source in self.sources.values():
            self._label(labels_id(source), {"model": None})
        return Plan(
            self.study,
            self.trials,
            tuple(self.sources.values()),
            tuple((trial, columns) for (trial, _), columns in self.labels.items()),
            self.grid_points,
            frozenset(key for _, key in existing),
        )

    def _checkpoint(self, alias: str) -> Checkpoint | None:
        try:
            return resolve(self.study.models[alias], offline=self.offline, place=f"models.{alias}")
        except InputError as error:
            self.problems += error.problems
            return None

    def _references(self) -> list[tuple[str, str]]:
        runs: list[FinetuneRun | ProbeRun] = [*self.study.finetune, *self.study.probe]
        return list({run.task: (f"{run.place}.task", run.task) for run in reversed(runs)}.values())

    def _source(self, place: str, reference: str) -> None:
        try:
            source = locate(
                reference,
                data=self.study.data,
                data_dir=self.data_dir,
                seed=self.study.seed,
                offline=self.offline,
                place=place,
            )
        except InputError as error:
            self.problems += error.problems
            return
        self.sources[reference] = source
        self.workloads[reference] = Workload.of(source.sizes, counts(source, self.store))

    def _states(self, checkpoints: Mapping[str, Checkpoint]) -> list[_State]:
        states = []
        for alias, checkpoint in checkpoints.items():
            init = self.study.models[alias].init
            columns = {"model": alias, "variant": "pretrained" if init == "pretrained" else "randomized"}
            states.append(_State(alias, checkpoint, init, None, None, columns))
        base = {state.alias: state for state in states}
        for index, run in enumerate(self.study.finetune):
            states.append(self._finetune(run, base[run.model], self.variants[index]))
        unique = {(s.alias, s.trial.id if s.trial else "", s.columns["variant"]): s for s in states}
        return list(unique.values())

    def _model(self, state: _State) -> dict[str, Any]:
        identity: dict[str, Any] = {**state.checkpoint.identity, "init": state.init}
        return identity if state.init == "pretrained" else {**identity, "init_seed": self.study.seed}

    def _where(self, state: _State) -> dict[str, Any]:
        return {"location": state.checkpoint.location, "offline": self.offline}

    def _finetune(self, run: FinetuneRun, base: _State, variant: str) -> _State:
        source = self.sources[run.task]
        options = run.options.model_dump(mode="json")
        spec = {
            "model": self._model(base),
            "corpus": corpus_id(source),
            "labels": labels_id(source),
            "level": source.task.level,
            "metrics": list(source.task.metrics),
            "options": options,
            "seed": run.seed,
            "study_seed": self.study.seed,
        }
        name = f"{run.model}/{run.task}/{run.options.head_pooling}/s{run.seed}" + variant.removeprefix("finetuned")
        columns = {"ft_task": source.task.name, "ft_seed": run.seed, "head_pooling": run.options.head_pooling}
        own = {
            **columns,
            "variant": "finetuned",
            "method": "finetune",
            "task": source.task.name,
            "corpus": source.corpus,
            "config": options,
        }
        too_long = run.options.max_length > base.checkpoint.architecture.max_positions
        if too_long:
            self._too_long(run.place, run.options.max_length, base)
        cost = finetune_cost(base.checkpoint.architecture, self.workloads[run.task], run.options)
        trial = self._trial("finetune", name, spec, (), None, self._where(base), own, cost)
        labelled = {**columns, "model": run.model, "variant": variant}
        self._label(trial.id, {"model": run.model, "variant": variant})
        return _State(run.model, base.checkpoint, base.init, trial, run.task, labelled)

    def _activations(self, run: ProbeRun, state: _State, source: TaskSource) -> Trial:
        options: ActivationOptions = run.activation
        if options.max_length > state.checkpoint.architecture.max_positions:
            self._too_long(run.place, options.max_length, state)
        shared = {
            "model": None if state.trial else self._model(state),
            "corpus": corpus_id(source),
            "level": "word" if source.task.level in ("word", "word_pair") else "sentence",
            "max_length": options.max_length,
            "overflow": options.overflow,
            "dtype": options.dtype,
            "sample": {"train": options.train_items, "dev": options.dev_items, "test": options.test_items},
        }
        parents = (state.trial.id,) if state.trial else ()
        spec = {**shared, "pooling": options.pooling, "special": options.special}
        stem = state.trial.name if state.trial else f"{state.alias}/{state.columns['variant']}"
        cost = activation_cost(state.checkpoint.architecture, self.workloads[run.task], options, source.task.level)
        own = {
            **{key: value for key, value in state.columns.items() if key != "model"},
            "variant": state.columns["variant"].partition("[")[0],
            "method": "activations",
            "task": None,
            "corpus": source.corpus,
            "pooling": options.pooling,
        }
        trial = self._trial(
            "activations",
            f"{stem}/{source.corpus}/{options.pooling}",
            spec,
            parents,
            content_id([shared, list(parents)]),
            self._where(state),
            own,
            cost,
        )
        self._label(trial.id, {"model": state.alias, "variant": state.columns["variant"]})
        return trial

    def _probe(self, run: ProbeRun, state: _State) -> None:
        source = self.sources[run.task]
        n_layers = state.checkpoint.architecture.n_layers
        if run.layers != "all":
            self._check_layers(run, n_layers, state)
        activations = self._activations(run, state, source)
        options = run.options.model_dump(mode="json")
        layers = list(range(n_layers + 1)) if run.layers == "all" else sorted(set(run.layers))
        probe = PROBES[run.kind]
        spec = {
            "kind": run.kind,
            "kind_version": probe.version,
            "options": options,
            "labels": labels_id(source),
            "seed": run.seed,
            "study_seed": self.study.seed,
        }
        config = {"probe": {"kind": run.kind, **options}, "activations": run.activation.model_dump(mode="json")}
        own = {
            **activations.columns,
            "method": run.kind,
            "task": source.task.name,
            "config": config,
            "config_id": content_id([config, layers, run.seed]),
            "probe_seed": run.seed if probe.seeded else None,
        }
        name = f"{activations.name}/{source.task.name}/{run.kind}" + f"/s{run.seed}" * probe.seeded
        for fitted in [[layer] for layer in layers] if probe.by_layer else [layers]:
            size = probe_size(
                state.checkpoint.architecture,
                self.workloads[run.task],
                run.activation,
                source.task.level,
                len(fitted),
            )
            stem = f"{name}/layer{fitted[0]}" if probe.by_layer else name
            self._probe_trial(run, {**spec, "layers": fitted}, layers, size, stem, activations.id, own, state)

    def _probe_trial(
        self,
        run: ProbeRun,
        spec: Mapping[str, Any],
        layers: Sequence[int],
        size: Size,
        name: str,
        activations: str,
        own: Mapping[str, Any],
        state: _State,
    ) -> None:
        """A trial that scores a probe, and the trials of its packs of cells where it has any."""
        probe = PROBES[run.kind]
        parts = []
        for part in probe.parts(run.options, spec["layers"], layers) if probe.parts else ():
            cost = probe_cost(work_of(probe, run.options, size, part))
            whole = f"{name}/{','.join(map(str, part.values()))}"
            made = self._trial("probe", whole, {**spec, "part": part}, (activations,), activations, {}, own, cost)
            parts.append(made.id)
        # the layers of the study decide the packs, which are parents: no need to say them twice
        cost = probe_cost(work_of(probe, run.options, size))
        trial = self._trial("probe", name, spec, (activations, *parts), activations, {}, own, cost)
        self._label(trial.id, {"model": state.alias, "variant": state.columns["variant"]})

    def _trial(
        self,
        stage: Stage,
        name: str,
        spec: Mapping[str, Any],
        parents: tuple[str, ...],
        group: str | None,
        where: Mapping[str, Any],
        columns: Mapping[str, Any],
        cost: Cost,
    ) -> Trial:
        self.grid_points += "part" not in spec
        full = {"stage": stage, "version": VERSIONS[stage], "parents": list(parents), **spec}
        key = content_id(full)
        if key not in self.trials:
            config_id = columns.get("config_id") or content_id(columns.get("config", {}))
            own = {**columns, "config_id": config_id, "trial": key}
            self.trials[key] = Trial(key, stage, name, full, parents, group or key, where, own, cost)
        return self.trials[key]

    def _label(self, trial: str, columns: Mapping[str, Any]) -> None:
        labelled = {"study": self.study.name, "paper": self.study.paper, **columns}
        self.labels[trial, content_id(labelled)] = labelled

    def _too_long(self, place: str, length: int, state: _State) -> None:
        limit = state.checkpoint.architecture.max_positions
        self.problems.append(
            Problem(
                f"{place}.max_length",
                f"{length} sub-words are longer than model '{state.alias}' allows ({limit})",
                f"use at most {limit}",
            )
        )

    def _check_layers(self, run: ProbeRun, n_layers: int, state: _State) -> None:
        beyond = [layer for layer in run.layers if layer > n_layers]  # type: ignore[operator]
        if beyond:
            self.problems.append(
                Problem(
                    f"{run.place}.layers",
                    f"layer {max(beyond)} is out of range for model '{state.alias}'",
                    f"layers are numbered 0 (embedding output) to {n_layers}",
                )
            )


def _wanted(run: ProbeRun, state: _State) -> bool:
    if run.model is not None and run.model != state.alias:
        return False
    if state.trial is None:
        return run.on == "pretrained"
    return run.on == "finetuned" and (run.finetune_task is None or run.finetune_task == state.task)


def _variants(runs: Sequence[FinetuneRun]) -> list[str]:
    """The variant of each fine-tuning run: `finetuned`, and in brackets what else the study varies for its task."""
    shown = []
    for run in runs:
        peers = [other.options.model_dump() for other in runs if other.task == run.task]
        own = run.options.model_dump()
        varied = [k for k in own if k != "head_pooling" and any(peer[k] != own[k] for peer in peers)]
        shown.append("finetuned" + (f"[{','.join(f'{k}={own[k]}' for k in varied)}]" if varied else ""))
    return shown
