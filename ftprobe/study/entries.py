"""The entries of a study: each `finetune` or `probe` mapping as the runs its grid expands to, in file order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel

from ftprobe import probes
from ftprobe.checkpoint import known_architecture
from ftprobe.errors import Problem
from ftprobe.study.checks import finetune_problems, head_pooling, probe_problems
from ftprobe.study.finetuning import Edit, FinetuneOptions
from ftprobe.study.grid import (
    Choice,
    Point,
    at,
    axis,
    build,
    empty_grid,
    expand,
    field_types,
    known_keys,
    shown,
    unknown,
)
from ftprobe.study.options import (
    ActivationOptions,
    FinetuneEntry,
    FinetuneRun,
    ModelOptions,
    ProbeEntry,
    ProbeRun,
)
from ftprobe.study.recipes import RECIPES, recipe_values

Models = Mapping[str, ModelOptions]


class _Family(NamedTuple):
    kind: str
    options: BaseModel
    place: str


def finetune_runs(entry: dict[str, object], place: str, models: Models, problems: list[Problem]) -> list[FinetuneRun]:
    """The runs of one `finetune` entry; what is wrong with it is added to `problems`."""
    types = {**field_types(FinetuneEntry), "recipe": str}
    # Every model unless the entry names some; models vary slowest unless the entry puts them elsewhere.
    entry = {
        **({} if "model" in entry else {"model": list(models) or [""]}),
        **known_keys(entry, types, place, problems),
    }
    runs: list[FinetuneRun] = []
    for point in _points(entry, place, types, problems):
        own = {key: choice for key, choice in point.items() if key != "recipe"}
        recipe, found = _recipe_values(point, models)
        found += finetune_problems(point, models)
        built = build(FinetuneEntry, {**head_pooling(point), **recipe, **own}, place)
        if isinstance(built, list) or found:
            problems += [*found, *(built if isinstance(built, list) else [])]
            continue
        values = built.model_dump()
        options = FinetuneOptions(**{name: values[name] for name in FinetuneOptions.model_fields})
        edit = Edit(**{name: values[name] for name in Edit.model_fields})
        runs.append(FinetuneRun(built.model, built.task, built.seed, options, place, edit, built.snapshots))
    return runs


def probe_runs(
    entry: dict[str, object], place: str, models: Models, states: Sequence[str], problems: list[Problem]
) -> list[ProbeRun]:
    """The runs of one `probe` entry, the probe's own options varying fastest; `states` is the default of `on`."""
    types = field_types(ProbeEntry)
    families = _families(entry.get("probe"), at(place, "probe"), problems)
    entry = {"on": list(states), **known_keys(entry, {**types, "probe": object}, place, problems)}
    entry.pop("probe", None)
    if entry["on"] in ("pretrained", ["pretrained"]) and "finetune_task" in entry:
        problems.append(Problem(at(place, "finetune_task"), "a pre-trained state has none", "add `on: finetuned`"))
    runs: dict[ProbeEntry, list[ProbeRun]] = {}
    for point in _points(entry, place, types, problems):
        found = probe_problems(point, models, [(family.kind, family.place) for family in families])
        built = build(ProbeEntry, point, place)
        if isinstance(built, list) or found:
            problems += [*found, *(built if isinstance(built, list) else [])]
            continue
        if built.on == "pretrained":
            built = built.model_copy(update={"finetune_task": None})
        runs[built] = [_probe_run(built, family, place) for family in families]
    return [run for group in runs.values() for run in group]


def _probe_run(entry: ProbeEntry, family: _Family, place: str) -> ProbeRun:
    values = entry.model_dump()
    return ProbeRun(
        on=entry.on,
        model=entry.model,
        finetune_task=entry.finetune_task,
        task=entry.task,
        activation=ActivationOptions(**{name: values[name] for name in ActivationOptions.model_fields}),
        layers=entry.layers,
        kind=family.kind,
        options=family.options,
        seed=entry.seed,
        place=place,
    )


def _families(value: object, place: str, problems: list[Problem]) -> list[_Family]:
    """The probes of a `probe` key: one mapping with a kind, or an axis of such mappings, each a grid itself."""
    families: list[_Family] = []
    for choice in _choices(value, place, problems):
        if not isinstance(choice.value, Mapping) or "kind" not in choice.value:
            written = "missing" if choice.value is None else f"{shown(choice.value)} is not a mapping with a `kind`"
            problems.append(Problem(choice.place, written, "write `probe: {kind: linear}`"))
            continue
        options = {str(key): option for key, option in choice.value.items() if key != "kind"}
        for kind in _choices(choice.value["kind"], at(choice.place, "kind"), problems):
            if not isinstance(kind.value, str) or kind.value not in probes.PROBES:
                problems.append(unknown("kind of probe", kind.value, kind.place, probes.PROBES))
                continue
            model = probes.PROBES[kind.value].Options
            for point in _points(options, choice.place, field_types(model), problems):
                built = build(model, point, choice.place)
                if isinstance(built, list):
                    problems += built
                else:
                    families.append(_Family(kind.value, built, choice.place))
    return families


def _choices(value: object, place: str, problems: list[Problem]) -> list[Choice]:
    choices = axis(value, place)
    problems += [] if choices else [empty_grid(place)]
    return choices


def _recipe_values(point: Point, models: Models) -> tuple[Point, list[Problem]]:
    """The defaults that the point's recipe sets, each at the place of the recipe."""
    recipe = point.get("recipe")
    if recipe is None or recipe.value is None:
        return {}, []
    if not isinstance(recipe.value, str) or recipe.value not in RECIPES:
        return {}, [unknown("recipe", recipe.value, recipe.place, RECIPES)]
    task = str(point["task"].value).partition("@")[0] if "task" in point else ""
    values = recipe_values(recipe.value, task)
    base_epochs = RECIPES[recipe.value].base_epochs
    problems = []
    if base_epochs is not None and "epochs" not in point and str(point["model"].value) in models:
        known = known_architecture(models[str(point["model"].value)].checkpoint)
        if known is None:
            what = f"recipe '{recipe.value}' sets epochs by the size of the model, which is unknown here"
            problems.append(Problem(recipe.place, what, "write `epochs`"))
        elif (known.n_layers, known.dim) == (12, 768):
            values["epochs"] = base_epochs
    return {key: Choice(value, recipe.place) for key, value in values.items()}, problems


def _points(
    entry: Mapping[str, object], place: str, types: Mapping[str, object], problems: list[Problem]
) -> list[Point]:
    points = expand(entry, place, types)
    if isinstance(points, Problem):
        problems.append(points)
        return []
    return list(points)
