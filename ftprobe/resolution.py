"""What a study names, found: its checkpoints and texts, checked against what is asked of them, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ftprobe.checkpoint import Checkpoint, resolve
from ftprobe.corpora import corpus_id, counts, labels_id, prepare
from ftprobe.cost import Workload
from ftprobe.depth import depth, variant_problems
from ftprobe.errors import InputError, Problem
from ftprobe.pretrain.options import architecture_of
from ftprobe.store import Store
from ftprobe.study import FinetuneRun, ProbeRun, Study
from ftprobe.study.checks import text_reference
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
        if model.pretrain is not None:
            checkpoints[alias] = Checkpoint("", None, {}, architecture_of(model.pretrain))
            continue
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
    texts = {task: _text(source, store) for task, source in sources.items()}
    absent = list(_absent_splits(study, texts))
    if absent:
        raise InputError(absent)
    return Resolved(checkpoints, texts)


def _references(study: Study) -> list[tuple[str, str]]:
    """Every text that the study names, each with the first place that names it."""
    runs: list[FinetuneRun | ProbeRun] = [*study.finetune, *study.probe]
    named = [(f"{run.place}.task", run.task) for run in runs]
    named += [(f"{run.place}.corpus", run.corpus) for run in study.compare]
    pretrain = ((alias, model.pretrain) for alias, model in study.models.items())
    named += [(f"models.{a}.pretrain.text", text_reference(p.text)) for a, p in pretrain if p is not None]
    return list({task: (place, task) for place, task in reversed(named)}.values())


def _read(sources: dict[str, TaskSource], store: Store) -> None:
    local = [s for s in sources.values() if not str(s.corpus_spec.get("fingerprint", "")).startswith("hub:")]
    wanted = {pair for s in local for pair in (("corpus", corpus_id(s)), ("labels", labels_id(s)))}
    if store.existing(wanted) != wanted:
        prepare(local, store)


def _text(source: TaskSource, store: Store) -> Text:
    return Text(source, corpus_id(source), labels_id(source), Workload.of(source.sizes, counts(source, store)))


def _absent_splits(study: Study, texts: dict[str, Text]) -> Iterator[Problem]:
    """What is to be read of splits that a text, as far as it is counted, does not have."""
    for run in study.compare:
        there = texts[run.corpus].work.sentences
        if there and run.split != "all" and run.split not in there:
            yield Problem(f"{run.place}.split", f"'{run.corpus}' has no split '{run.split}'", _one_of(there))
    for alias, model in study.models.items():
        there = texts[text_reference(model.pretrain.text)].work.sentences if model.pretrain else {}
        if model.pretrain and there and not {"train", "dev"} & there.keys():
            what = f"'{model.pretrain.text}' has neither train nor dev to learn from"
            yield Problem(f"models.{alias}.pretrain.text", what, _one_of(there))


def _one_of(splits: Iterable[str]) -> str:
    return f"it has: {', '.join(sorted(splits))}"


def _problems(study: Study, checkpoints: dict[str, Checkpoint]) -> Iterator[Problem]:
    """Whether each model takes the lengths, has the layers, and can be cut as is asked of it."""
    depths: dict[str, set[tuple[str, int]]] = {}
    for run in (each.largest() for each in study.finetune):
        if run.model in checkpoints:
            yield from _too_long(run.place, run.options.max_length, run.model, checkpoints[run.model])
            yield from variant_problems(run, checkpoints[run.model].architecture)
            layers = depth(run.options, run.edit, checkpoints[run.model].architecture.n_layers)
            depths.setdefault(run.model, set()).add((run.task, layers))
    for probe in study.probe:
        for alias, checkpoint in checkpoints.items():
            if probe.model not in (None, alias):
                continue
            own = [n for task, n in depths.get(alias, ()) if probe.finetune_task in (None, task)]
            read = [checkpoint.architecture.n_layers] if probe.on == "pretrained" else own
            if read:
                yield from _too_long(probe.place, probe.activation.max_length, alias, checkpoint)
                yield from _too_deep(probe, alias, min(read))


def _too_long(place: str, length: int, alias: str, checkpoint: Checkpoint) -> Iterator[Problem]:
    limit = checkpoint.architecture.max_positions
    if length > limit:
        yield Problem(
            f"{place}.max_length",
            f"{length} sub-words are longer than model '{alias}' allows ({limit})",
            f"use at most {limit}",
        )


def _too_deep(run: ProbeRun, alias: str, n_layers: int) -> Iterator[Problem]:
    if run.layers != "all" and max(run.layers) > n_layers:
        yield Problem(
            f"{run.place}.layers",
            f"layer {max(run.layers)} is out of range for model '{alias}'",
            f"layers are numbered 0 (embedding output) to {n_layers}",
        )
