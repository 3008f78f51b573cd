"""What a study names, found: its checkpoints and texts, checked against what is asked of them, all problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ftprobe.checkpoint import Checkpoint, resolve
from ftprobe.corpora import corpus_id, counts, labels_id, prepare
from ftprobe.cost import Workload
from ftprobe.errors import InputError, Problem
from ftprobe.store import Store
from ftprobe.study import FinetuneRun, ProbeRun, Study
from ftprobe.tasks import TaskSource, locate


class Text(NamedTuple):
    """A task's source, the ids of its corpus and labels, and its counts."""

    source: TaskSource
    corpus: str
    labels: str
    work: Workload


class Resolved(NamedTuple):
    """Checkpoints by alias, and texts by the reference that the study names them with."""

    checkpoints: dict[str, Checkpoint]
    texts: dict[str, Text]


def resolve_study(study: Study, store: Store, *, data_dir: str | None, offline: bool, read: bool) -> Resolved:
    """Find what `study` names.

    Parameters
    ----------
    read : bool
        Read the local and built-in text that the store does not hold yet, so that counts are exact.

    Raises
    ------
    InputError
        Unknown data, checkpoints or layers: all problems at once; with `read` malformed data too.
    """
    problems: list[Problem] = []
    checkpoints: dict[str, Checkpoint] = {}
    for alias, model in study.models.items():
        try:
            checkpoints[alias] = resolve(model, offline=offline, place=f"models.{alias}")
        except InputError as error:
            problems += error.problems
    sources: dict[str, TaskSource] = {}
    for place, task in _references(study):
        try:
            sources[task] = locate(
                task, data=study.data, data_dir=data_dir, seed=study.seed, offline=offline, place=place
            )
        except InputError as error:
            problems += error.problems
    problems += _problems(study, checkpoints)
    if problems:
        raise InputError(problems)
    if read:
        _read(sources, store)
    return Resolved(checkpoints, {task: _text(source, store) for task, source in sources.items()})


def _references(study: Study) -> list[tuple[str, str]]:
    runs: list[FinetuneRun | ProbeRun] = [*study.finetune, *study.probe]
    return list({run.task: (f"{run.place}.task", run.task) for run in reversed(runs)}.values())


def _read(sources: dict[str, TaskSource], store: Store) -> None:
    local = [s for s in sources.values() if not str(s.corpus_spec.get("fingerprint", "")).startswith("hub:")]
    wanted = {pair for s in local for pair in (("corpus", corpus_id(s)), ("labels", labels_id(s)))}
    if store.existing(wanted) != wanted:
        prepare(local, store)


def _text(source: TaskSource, store: Store) -> Text:
    return Text(source, corpus_id(source), labels_id(source), Workload.of(source.sizes, counts(source, store)))


def _problems(study: Study, checkpoints: dict[str, Checkpoint]) -> Iterator[Problem]:
    """Whether each model takes the lengths and has the layers that are asked of it."""
    for run in study.finetune:
        if run.model in checkpoints:
            yield from _too_long(run.place, run.options.max_length, run.model, checkpoints[run.model])
    tuned = {(run.model, run.task) for run in study.finetune}
    for probe in study.probe:
        for alias, checkpoint in checkpoints.items():
            states = any(model == alias and probe.finetune_task in (None, task) for model, task in tuned)
            if probe.model in (None, alias) and (probe.on == "pretrained" or states):
                yield from _too_long(probe.place, probe.activation.max_length, alias, checkpoint)
                yield from _too_deep(probe, alias, checkpoint)


def _too_long(place: str, length: int, alias: str, checkpoint: Checkpoint) -> Iterator[Problem]:
    limit = checkpoint.architecture.max_positions
    if length > limit:
        yield Problem(
            f"{place}.max_length",
            f"{length} sub-words are longer than model '{alias}' allows ({limit})",
            f"use at most {limit}",
        )


def _too_deep(run: ProbeRun, alias: str, checkpoint: Checkpoint) -> Iterator[Problem]:
    n_layers = checkpoint.architecture.n_layers
    if run.layers != "all" and max(run.layers) > n_layers:
        yield Problem(
            f"{run.place}.layers",
            f"layer {max(run.layers)} is out of range for model '{alias}'",
            f"layers are numbered 0 (embedding output) to {n_layers}",
        )
