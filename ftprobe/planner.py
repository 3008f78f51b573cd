"""The plan: a study resolved into trials, each with its id, its parents and its cost.

A trial's id hashes its resolved spec, its parents' ids and its stage's version; where and how it runs is not part of
it. Equal trials of different grid points are one trial with several sets of record columns. Trials of one `group`
may run together: extractions share a forward pass, probes their activations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ftprobe.architecture import Architecture
from ftprobe.checkpoint import Checkpoint
from ftprobe.corpora import labels_id
from ftprobe.cost import Cost, activation_cost, finetune_cost, probe_cost, probe_size, work_of
from ftprobe.hashing import content_id
from ftprobe.probes import PROBES
from ftprobe.resolution import Resolved, resolve_study
from ftprobe.rows import PART
from ftprobe.store import Store
from ftprobe.study import ActivationOptions, FinetuneRun, ProbeRun, Study
from ftprobe.tasks import TaskSource

Stage = Literal["finetune", "activations", "probe"]
STAGES: tuple[Stage, ...] = ("finetune", "activations", "probe")
VERSIONS: Mapping[Stage, int] = {"finetune": 1, "activations": 1, "probe": 1}


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One node of the plan: its artifact is `stage`/`id` in the store.

    Attributes
    ----------
    spec : dict
        Everything that decides the result, as JSON; `id` is its hash.
    where : dict
        Where inputs lie and how they may be read (`location` of a checkpoint, `offline`, `trust_remote_code`); not
        hashed.
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
    """A study's trials in topological order, its data sources, and the labels that rows get when they are read.

    Attributes
    ----------
    labels : tuple of (str, mapping)
        A trial, or the labels artifact of a source, and the columns that the study gives its rows.
    existing : frozenset of str
        Trials that the store held when it was looked up.
    records : mapping of str to str
        The digest of the records of each of them, and of the labels artifacts.
    """

    study: Study
    trials: dict[str, Trial]
    sources: tuple[TaskSource, ...]
    labels: tuple[tuple[str, Mapping[str, Any]], ...]
    grid_points: int
    existing: frozenset[str] = frozenset()
    records: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def looked_up(self, store: Store) -> Plan:
        """The plan with what `store` holds of it now."""
        pairs = [(t.stage, t.id) for t in self.trials.values()] + [("labels", labels_id(s)) for s in self.sources]
        existing, records = set(), {}
        for (_, id), manifest in store.held(pairs):
            existing.add(id)
            if PART in manifest["files"]:
                records[id] = manifest["files"][PART]["blake2b"]
        return dataclasses.replace(self, existing=frozenset(existing & self.trials.keys()), records=records)

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

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the study's other states."""
        return self.alias, self.trial.id if self.trial else "", self.columns["variant"]


class _Fit(NamedTuple):
    """One trial of a probe run and the packs of cells it is split into, each with its cost."""

    spec: Mapping[str, Any]
    stem: str
    cost: Cost
    parts: tuple[tuple[Mapping[str, Any], Cost], ...]


class _Asked(NamedTuple):
    """What a probe run asks of each of a model's states: worked out once, for thousands of them."""

    columns: Mapping[str, Any]
    fits: tuple[_Fit, ...]


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
    planned = _Planner(study, resolved, offline).plan()
    return planned.looked_up(store) if look_up else planned


class _Planner:
    """The state of one planning pass: the trials so far, and what the study calls them."""

    def __init__(self, study: Study, resolved: Resolved, offline: bool) -> None:
        self.study, self.offline = study, offline
        self.checkpoints, self.texts = resolved
        self.trials: dict[str, Trial] = {}
        self.extractions: dict[tuple[object, ...], Trial] = {}
        self.names: dict[tuple[str | None, str | None], Mapping[str, Any]] = {}
        self.labels: dict[tuple[str, str | None, str | None], Mapping[str, Any]] = {}
        self.grid_points = 0

    def plan(self) -> Plan:
        states = self._states()
        for run in self.study.probe:
            asked: dict[str, _Asked] = {}
            for state in states:
                if not _wanted(run, state):
                    continue
                if state.alias not in asked:
                    asked[state.alias] = self._asked(run, state.checkpoint.architecture)
                self._probe(run, asked[state.alias], state)
        for text in self.texts.values():
            self._label(text.labels, None)
        return Plan(
            self.study,
            self.trials,
            tuple(text.source for text in self.texts.values()),
            tuple((trial, columns) for (trial, _, _), columns in self.labels.items()),
            self.grid_points,
        )

    def _states(self) -> list[_State]:
        states = []
        for alias, checkpoint in self.checkpoints.items():
            init = self.study.models[alias].init
            columns = {"model": alias, "variant": "pretrained" if init == "pretrained" else "randomized"}
            states.append(_State(alias, checkpoint, init, None, None, columns))
        base = {state.alias: state for state in states}
        for run, variant in zip(self.study.finetune, _variants(self.study.finetune), strict=True):
            states.append(self._finetune(run, base[run.model], variant))
        return list({state.key: state for state in states}.values())

    def _model(self, state: _State) -> dict[str, Any]:
        identity: dict[str, Any] = {**state.checkpoint.identity, "init": state.init}
        return identity if state.init == "pretrained" else {**identity, "init_seed": self.study.seed}

    def _where(self, state: _State) -> dict[str, Any]:
        checkpoint = state.checkpoint
        return {"location": checkpoint.location, "offline": self.offline, "trust_remote_code": checkpoint.own_code}

    def _finetune(self, run: FinetuneRun, base: _State, variant: str) -> _State:
        source, corpus, labels, work = self.texts[run.task]
        options = run.options.spec()
        spec = {
            "model": self._model(base),
            "corpus": corpus,
            "labels": labels,
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
        cost = finetune_cost(base.checkpoint.architecture, work, run.options)
        trial = self._trial("finetune", name, spec, (), None, self._where(base), own, cost)
        self._label(trial.id, run.model, variant)
        labelled = {**columns, "model": run.model, "variant": variant}
        return _State(run.model, base.checkpoint, base.init, trial, run.task, labelled)

    def _activations(self, run: ProbeRun, state: _State) -> Trial:
        """The extraction a probe reads: the same for every probe of one text, state and pooling."""
        self.grid_points += 1
        key = (state.key, run.task, run.activation)
        if key not in self.extractions:
            self.extractions[key] = self._extraction(run, state)
        return self.extractions[key]

    def _extraction(self, run: ProbeRun, state: _State) -> Trial:
        options: ActivationOptions = run.activation
        source, corpus, _, work = self.texts[run.task]
        shared = {
            "model": None if state.trial else self._model(state),
            "corpus": corpus,
            "level": "word" if source.task.level in ("word", "word_pair") else "sentence",
            "max_length": options.max_length,
            "overflow": options.overflow,
            "dtype": options.dtype,
            "sample": {"train": options.train_items, "dev": options.dev_items, "test": options.test_items},
        }
        parents = (state.trial.id,) if state.trial else ()
        spec = {**shared, "pooling": options.pooling, "special": options.special}
        stem = state.trial.name if state.trial else f"{state.alias}/{state.columns['variant']}"
        cost = activation_cost(state.checkpoint.architecture, work, options, source.task.level)
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
        self._label(trial.id, state.alias, state.columns["variant"])
        return trial

    def _asked(self, run: ProbeRun, architecture: Architecture) -> _Asked:
        source, _, labels, work = self.texts[run.task]
        options = run.options.model_dump(mode="json")
        layers = list(range(architecture.n_layers + 1)) if run.layers == "all" else sorted(set(run.layers))
        probe = PROBES[run.kind]
        spec = {
            "kind": run.kind,
            "kind_version": probe.version,
            "options": options,
            "labels": labels,
            "seed": run.seed,
            "study_seed": self.study.seed,
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

    def _probe(self, run: ProbeRun, asked: _Asked, state: _State) -> None:
        """The trials that score a probe of one state, each behind the trials of its packs of cells."""
        source = self._activations(run, state)
        own = {**source.columns, **asked.columns}
        for fit in asked.fits:
            name = f"{source.name}/{fit.stem}"
            parts = []
            for part, cost in fit.parts:
                whole = f"{name}/{','.join(map(str, part.values()))}"
                spec = {**fit.spec, "part": part}
                parts.append(self._trial("probe", whole, spec, (source.id,), source.id, {}, own, cost).id)
            trial = self._trial("probe", name, fit.spec, (source.id, *parts), source.id, {}, own, fit.cost)
            self._label(trial.id, state.alias, state.columns["variant"])

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
        self.grid_points += stage != "activations" and "part" not in spec
        full = {"stage": stage, "version": VERSIONS[stage], "parents": list(parents), **spec}
        key = content_id(full)
        if key not in self.trials:
            config_id = columns.get("config_id") or content_id(columns.get("config", {}))
            own = {**columns, "config_id": config_id, "trial": key}
            self.trials[key] = Trial(key, stage, name, full, parents, group or key, where, own, cost)
        return self.trials[key]

    def _label(self, trial: str, model: str | None, variant: str | None = None) -> None:
        """Give the rows of a trial the name of a model and variant when they are read; labels have no variant."""
        if (model, variant) not in self.names:
            named = {"study": self.study.name, "paper": self.study.paper, "model": model}
            self.names[model, variant] = named if variant is None else {**named, "variant": variant}
        self.labels[trial, model, variant] = self.names[model, variant]


def _wanted(run: ProbeRun, state: _State) -> bool:
    if run.model is not None and run.model != state.alias:
        return False
    if state.trial is None:
        return run.on == "pretrained"
    return run.on == "finetuned" and (run.finetune_task is None or run.finetune_task == state.task)


def _variants(runs: Sequence[FinetuneRun]) -> list[str]:
    """The variant of each fine-tuning run: `finetuned`, and in brackets what else the study varies for its task."""
    values: dict[tuple[str, str], set[object]] = {}
    dumped = [(run.task, run.options.model_dump(exclude={"head_pooling"})) for run in runs]
    for task, own in dumped:
        for key, value in own.items():
            values.setdefault((task, key), set()).add(value)
    varied = ([f"{key}={value}" for key, value in own.items() if len(values[task, key]) > 1] for task, own in dumped)
    return ["finetuned" + (f"[{','.join(each)}]" if each else "") for each in varied]
