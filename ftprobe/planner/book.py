"""The book of one planning pass: the trials so far, and what the study calls their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftprobe.cost import Cost
from ftprobe.hashing import content_id
from ftprobe.planner.plan import VERSIONS, Stage, Trial
from ftprobe.study import Study


class Book:
    """Trials by id, each once however many points of a grid ask for it.

    Attributes
    ----------
    labels : dict
        What the study calls the rows of a trial, by trial, model and variant.
    grid_points : int
        How often a trial was asked for.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.trials: dict[str, Trial] = {}
        self.labels: dict[tuple[str, str | None, str | None], Mapping[str, Any]] = {}
        self.grid_points = 0
        self._names: dict[tuple[str | None, str | None, str | None], Mapping[str, Any]] = {}

    def trial(
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
        """The trial of a spec and parents, entered if it is new; `group` is its own id when None."""
        self.grid_points += stage != "activations" and "part" not in spec
        full = {"stage": stage, "version": VERSIONS[stage], "parents": list(parents), **spec}
        key = content_id(full)
        if key not in self.trials:
            config_id = columns.get("config_id") or content_id(columns.get("config", {}))
            own = {**columns, "config_id": config_id, "trial": key}
            self.trials[key] = Trial(key, stage, name, full, parents, group or key, where, own, cost)
        return self.trials[key]

    def label(self, trial: str, model: str | None, variant: str | None = None, domain: str | None = None) -> None:
        """Give the rows of a trial the name of a model and variant when they are read; labels have no variant.

        `domain` is what the study says of the text of a comparison: another study may say otherwise of the same trial.
        """
        key = (model, variant, domain)
        if key not in self._names:
            named = {"study": self.study.name, "paper": self.study.paper, "model": model}
            own = {name: value for name, value in (("variant", variant), ("domain", domain)) if value is not None}
            self._names[key] = {**named, **own}
        self.labels[trial, model, variant] = self._names[key]
