"""Reading a study out of a plain document: every grid expanded, every value checked, all problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from ftprobe.checkpoint import form, spelling_problems
from ftprobe.errors import InputError, Problem
from ftprobe.study.checks import corpus_problems, task_problems, text_reference, unread_states
from ftprobe.study.entries import compare_runs, finetune_runs, probe_runs
from ftprobe.study.grid import Choice, at, axis, build, known_keys, point_of, shown, unknown
from ftprobe.study.options import CompareRun, FinetuneRun, ModelOptions, ProbeRun, Resources, Stage, Study, StudyHead

HEAD = tuple(StudyHead.model_fields)
MODEL_KEYS = tuple(name for name in ModelOptions.model_fields if name != "alias")
KEYS = (*HEAD, "data", "models", "finetune", "probe", "compare", "resources")


def parse_study(document: Mapping[str, object], *, path: Path | None = None) -> Study:
    """The study a document asks for.

    Parameters
    ----------
    document : mapping
        What the YAML file holds; never changed.
    path : Path, optional
        The file; its folder is where relative paths of `data` and `checkpoint` are looked up first.

    Raises
    ------
    InputError
        With every problem of the document, each at its place (`probe[0].task`).
    """
    problems: list[Problem] = []
    document = known_keys(document, KEYS, "", problems)
    head = build(StudyHead, point_of({key: document[key] for key in HEAD if key in document}, ""), "")
    models = _models(document, path, problems)
    data = _data(document, path, problems)
    resources = _resources(document, problems)
    runs = _runs(document, models, problems)
    problems += corpus_problems(data, _references(document))
    if not any(document.get(key) for key in ("finetune", "probe", "compare")):
        problems.append(Problem("probe", "the study asks for nothing", "add `finetune`, `probe` or `compare` entries"))
    if isinstance(head, list):
        raise InputError([*head, *problems])
    if problems:
        raise InputError(problems)
    return Study(**dict(head), models=models, data=data, resources=resources, path=path, **runs._asdict())


class _Runs(NamedTuple):
    finetune: tuple[FinetuneRun, ...]
    probe: tuple[ProbeRun, ...]
    compare: tuple[CompareRun, ...]


def _runs(document: Mapping[str, object], models: Mapping[str, ModelOptions], problems: list[Problem]) -> _Runs:
    wrong_before = len(problems)
    finetune: list[FinetuneRun] = []
    for entry, place in _entries(document, "finetune", problems):
        finetune += finetune_runs(entry, place, models, problems)
    all_known = len(problems) == wrong_before
    states = ["pretrained", "finetuned"] if document.get("finetune") else ["pretrained"]
    probe: list[ProbeRun] = []
    for entry, place in _entries(document, "probe", problems):
        probe += probe_runs(entry, place, models, states, problems)
    compare: list[CompareRun] = []
    for entry, place in _entries(document, "compare", problems):
        compare += compare_runs(entry, place, models, states, problems)
    if all_known:
        problems += unread_states([*probe, *compare], finetune)
    return _Runs(tuple(finetune), tuple(probe), tuple(compare))


def _models(document: Mapping[str, object], path: Path | None, problems: list[Problem]) -> dict[str, ModelOptions]:
    """The models by alias; one that is wrong is a problem and keeps its alias, so that entries may name it."""
    if not document.get("models"):
        problems.append(Problem("models", "missing", "write `models: {NAME: {checkpoint: ...}}`"))
    models: dict[str, ModelOptions] = {}
    for alias, entry in _mapping(document, "models", problems).items():
        place = at("models", alias)
        models[alias] = ModelOptions(alias="unknown")
        if not isinstance(entry, Mapping):
            problems.append(Problem(place, f"{shown(entry)} is not a mapping", "write {checkpoint: ...}"))
            continue
        given = known_keys(entry, MODEL_KEYS, place, problems)
        built = build(ModelOptions, {**point_of(given, place), "alias": Choice(alias, place)}, place)
        if isinstance(built, ModelOptions):
            models[alias] = built
        else:
            problems += built
        if given.get("init", "pretrained") == "pretrained" and "init_embeddings" in given:
            problems.append(
                Problem(at(place, "init_embeddings"), "means nothing for a pre-trained model", "leave it out")
            )
        if "pretrain" not in given and "checkpoint" not in given:
            problems.append(Problem(at(place, "checkpoint"), "missing", "say which checkpoint"))
        problems += _pretraining(given, place)
        checkpoint, revision = given.get("checkpoint"), given.get("revision")
        if isinstance(checkpoint, str) and isinstance(revision, str | None):
            located = _located_checkpoint(checkpoint, revision, path)
            problems += spelling_problems(located, revision, place)
            if isinstance(built, ModelOptions):
                models[alias] = built.model_copy(update={"checkpoint": located})
    return models


def _pretraining(given: Mapping[str, object], place: str) -> list[Problem]:
    """Whether the text of a model that is to be pre-trained is known, and nothing is said of a checkpoint beside it."""
    pretrain = given.get("pretrain")
    if not isinstance(pretrain, Mapping):
        return []
    beside = [key for key in (*ModelOptions.model_fields,) if key in given and key not in ("alias", "pretrain")]
    problems = [Problem(at(place, key), "does not go with `pretrain`", "leave it out") for key in beside]
    if isinstance(pretrain.get("text"), str):
        choice = Choice(text_reference(pretrain["text"]), at(place, "pretrain.text"))
        problems += task_problems(choice)
    return problems


def _located_checkpoint(checkpoint: str, revision: str | None, path: Path | None) -> str:
    spelled = form(checkpoint)
    located = _located(checkpoint, path)
    # A revision means the hub, whatever folder happens to have the same name.
    if spelled == "hub" and revision is None and Path(located).is_dir():
        return located
    return located if spelled == "folder" and Path(located).exists() else checkpoint


def _located(written: str, path: Path | None) -> str:
    """A path as an absolute one: beside the study file if it exists there, else below the working directory."""
    folder = Path(written).expanduser()
    beside = path.absolute().parent / folder if path else folder
    return str(beside if beside.exists() else folder.absolute())


def _data(document: Mapping[str, object], path: Path | None, problems: list[Problem]) -> dict[str, str]:
    data: dict[str, str] = {}
    for corpus, folder in _mapping(document, "data", problems).items():
        place = at("data", corpus)
        if not isinstance(folder, str):
            problems.append(Problem(place, f"{shown(folder)} is not a path"))
        else:
            data[corpus] = _located(folder, path)
    return data


def _resources(document: Mapping[str, object], problems: list[Problem]) -> dict[Stage, Resources]:
    resources: dict[Stage, Resources] = {}
    given = _mapping(document, "resources", problems)
    stages: tuple[Stage, ...] = get_args(Stage)
    problems += [unknown("stage", key, at("resources", key), stages) for key in given if key not in stages]
    for stage in stages:
        entry = given.get(stage, {})
        place = at("resources", stage)
        if not isinstance(entry, Mapping):
            problems.append(Problem(place, f"{shown(entry)} is not a mapping", "write {cpu: 2, gpu: 1}"))
            continue
        built = build(Resources, point_of(entry, place), place)
        if isinstance(built, list):
            problems += built
        elif entry:
            resources[stage] = built
    return resources


def _mapping(document: Mapping[str, object], key: str, problems: list[Problem]) -> dict[str, object]:
    value = document.get(key)
    if isinstance(value, Mapping):
        return {str(name): entry for name, entry in value.items()}
    if value is not None:
        problems.append(Problem(key, f"{shown(value)} is not a mapping", f"write `{key}: {{NAME: ...}}`"))
    return {}


def _references(document: Mapping[str, object]) -> list[str]:
    """Every task and text the document names, right or wrong."""
    keys = (("finetune", "task"), ("probe", "task"), ("compare", "corpus"))
    named = [entry.get(name) for key, name in keys for entry, _ in _entries(document, key, [])]
    models = document.get("models")
    options = models.values() if isinstance(models, Mapping) else ()
    pretrained = [model.get("pretrain") for model in options if isinstance(model, Mapping)]
    named += [pretrain.get("text") for pretrain in pretrained if isinstance(pretrain, Mapping)]
    values = [str(choice.value) for value in named for choice in axis(value, "")]
    return [value if "@" in value else text_reference(value) for value in values]


def _entries(
    document: Mapping[str, object], key: str, problems: list[Problem]
) -> Iterator[tuple[dict[str, object], str]]:
    value = document.get(key)
    if value is not None and not isinstance(value, list):
        problems.append(Problem(key, "is not a list of entries", "start each entry with `- `"))
        return
    for index, entry in enumerate(value or []):
        place = f"{key}[{index}]"
        if isinstance(entry, Mapping):
            yield {str(name): part for name, part in entry.items()}, place
        else:
            problems.append(Problem(place, f"{shown(entry)} is not a mapping", "write `- task: NAME`"))
