"""A plan and its trials: what a study comes to, and what of it a store holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from ftprobe.corpora import labels_id
from ftprobe.cost import Cost
from ftprobe.rows import PART, PREDICTIONS
from ftprobe.store import Store
from ftprobe.study import Stage as Stage
from ftprobe.study import Study
from ftprobe.tasks import TaskSource

STAGES: tuple[Stage, ...] = get_args(Stage)
VERSIONS: Mapping[Stage, int] = dict.fromkeys(STAGES, 1)


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
    predictions : frozenset of str
        Those of them that keep item-level predictions.
    """

    study: Study
    trials: dict[str, Trial]
    sources: tuple[TaskSource, ...]
    labels: tuple[tuple[str, Mapping[str, Any]], ...]
    grid_points: int
    existing: frozenset[str] = frozenset()
    records: Mapping[str, str] = dataclasses.field(default_factory=dict)
    predictions: frozenset[str] = frozenset()

    def looked_up(self, store: Store) -> Plan:
        """The plan with what `store` holds of it now."""
        pairs = [(t.stage, t.id) for t in self.trials.values()] + [("labels", labels_id(s)) for s in self.sources]
        existing, records, predictions = set(), {}, set()
        for (_, id), manifest in store.held(pairs):
            existing.add(id)
            if PART in manifest["files"]:
                records[id] = manifest["files"][PART]["blake2b"]
            if PREDICTIONS in manifest["files"]:
                predictions.add(id)
        known, kept = frozenset(existing & self.trials.keys()), frozenset(predictions)
        return dataclasses.replace(self, existing=known, records=records, predictions=kept)

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
