"""The entries of a study: each `finetune` or `probe` mapping as the runs its grid expands to, in file order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from ftprobe import probes
from ftprobe.checkpoint import known_architecture
from ftprobe.compare import COMPARISONS
from ftprobe.errors import Problem
from ftprobe.study.checks import (
    compare_problems,
    finetune_problems,
    pretrained_problems,
    probe_problems,
    task_defaults,
    text_reference,
)
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
    CompareEntry,
    CompareRun,
    FinetuneEntry,
    FinetuneRun,
    ModelOptions,
    ProbeEntry,
    ProbeRun,
)
from ftprobe.study.recipes import RECIPES, recipe_values
from ftprobe.study.searching import Search, read_search

Models = Mapping[str, ModelOptions]


class _Family(NamedTuple):
    kind: str
    options: BaseModel
    place: str


class _Kinds(NamedTuple):
    """What a key of an entry chooses from: its noun, the options of each kind, and an example."""

    noun: str
    options: Mapping[str, Any]
    example: str


_PROBES = _Kinds("probe", probes.PROBES, "write `probe: {kind: linear}`")
_MEASURES = _Kinds("measure", COMPARISONS, "write `measure: {kind: attention}`")


def finetune_runs(entry: dict[str, object], place: str, models: Models, problems: list[Problem]) -> list[FinetuneRun]:
    """The runs of one `finetune` entry; what is wrong with it is added to `problems`."""
    types = {**field_types(FinetuneEntry), "recipe": str, "search": object}
    # Every model unless the entry names some; models vary slowest unless the entry puts them elsewhere.
    entry = {
        **({} if "model" in entry else {"model": list(models) or [""]}),
        **known_keys(entry, types, place, problems),
    }
    runs: list[FinetuneRun] = []
    for point in _points(entry, place, types, problems):
        own = {key: choice for key, choice in point.items() if key not in ("recipe", "search")}
        recipe, found = _recipe_values(point, models)
        found += finetune_problems(point, models)
        own = {**task_defaults(point), **recipe, **own}
        search = None
        if "search" in point and point["search"].value is not None:
            own.setdefault("select", Choice("best_dev", point["search"].place))
            search = _search(point, own, models, found)
        built = build(FinetuneEntry, own, place)
        if isinstance(built, list) or found:
            problems += [*found, *(built if isinstance(built, list) else [])]
            continue
        values = built.model_dump()
        options = FinetuneOptions(**{name: values[name] for name in FinetuneOptions.model_fields})
        edit = Edit(**{name: values[name] for name in Edit.model_fields})
        runs.append(FinetuneRun(built.model, built.task, built.seed, options, place, edit, built.snapshots, search))
    return runs


def _search(point: Point, own: Point, models: Models, problems: list[Problem]) -> Search | None:
    """The search of a point, every value of its space tried as if the entry said it; `own` is all else it says."""
    place = point["search"].place
    search = read_search(point["search"].value, place, problems)
    if own["select"].value == "last":
        problems.append(Problem(own["select"].place, "a search selects by dev", "write best_dev, or leave it out"))
    if "snapshots" in point and point["snapshots"].value is not None:
        what = "a search keeps one state"
        problems.append(Problem(point["snapshots"].place, what, "leave out snapshots, or the search"))
    rest = build(FinetuneEntry, own, at(place, "space"))
    if search is None or isinstance(rest, list):
        return search  # what is wrong with the rest is said where it stands
    if search.scheduler == "asha" and search.largest(rest).epochs == 1:
        what = "runs of one epoch are never stopped"
        problems.append(Problem(at(place, "scheduler"), what, "leave it out, or train for more epochs"))
    for key, values in search.values():
        here = at(place, f"space.{key}")
        if key in point:
            problems.append(Problem(point[key].place, f"'{key}' is searched", "leave it out here, or in the space"))
            continue
        for value in values:
            tried = Choice(value, here)
            built = build(FinetuneEntry, {**own, key: tried}, here)
            problems += built if isinstance(built, list) else []
            problems += finetune_problems({**point, key: tried}, models)
    return search


def probe_runs(
    entry: dict[str, object], place: str, models: Models, states: Sequence[str], problems: list[Problem]
) -> list[ProbeRun]:
    """The runs of one `probe` entry, the probe's own options varying fastest; `states` is the default of `on`."""
    types = field_types(ProbeEntry)
    families = _families(entry.get("probe"), at(place, "probe"), _PROBES, problems)
    entry = {"on": list(states), **known_keys(entry, {**types, "probe": object}, place, problems)}
    entry.pop("probe", None)
    problems += pretrained_problems(entry, place)
    runs: dict[ProbeEntry, list[ProbeRun]] = {}
    for point in _points(entry, place, types, problems):
        found = probe_problems(point, models, [(family.kind, family.place) for family in families])
        built = build(ProbeEntry, point, place)
        if isinstance(built, list) or found:
            problems += [*found, *(built if isinstance(built, list) else [])]
            continue
        if built.on == "pretrained":
            built = built.model_copy(update={"finetune_task": None, "variant": None, "snapshots": True})
        runs[built] = [_probe_run(built, family, place) for family in families]
    return [run for group in runs.values() for run in group]


def compare_runs(
    entry: dict[str, object], place: str, models: Models, states: Sequence[str], problems: list[Problem]
) -> list[CompareRun]:
    """The runs of one `compare` entry, the measure's own options varying fastest; `states` is the default of `on`."""
    types = field_types(CompareEntry)
    families = _families(entry.get("measure"), at(place, "measure"), _MEASURES, problems)
    entry = {"on": list(states), **known_keys(entry, {**types, "measure": object}, place, problems)}
    entry.pop("measure", None)
    problems += pretrained_problems(entry, place)
    tuned_only = [family for family in families if COMPARISONS[family.kind].pair]
    if tuned_only and "finetuned" not in str(entry["on"]) and not entry.get("against"):
        what = f"{tuned_only[0].kind} compares fine-tuned states with the pre-trained one, and none is asked for"
        problems.append(Problem(place, what, "add `finetune` entries, or `on: finetuned`"))
    runs: dict[CompareEntry, list[CompareRun]] = {}
    for point in _points(entry, place, types, problems):
        found = compare_problems(point, models, [family.kind for family in families])
        built = build(CompareEntry, point, place)
        if isinstance(built, list) or found:
            problems += [*found, *(built if isinstance(built, list) else [])]
            continue
        if built.on == "pretrained":
            built = built.model_copy(update={"finetune_task": None, "variant": None})
        values = {**dict(built), "corpus": text_reference(built.corpus), "place": place}
        runs[built] = [CompareRun(kind=family.kind, options=family.options, **values) for family in families]
    return [run for group in runs.values() for run in group]


def _probe_run(entry: ProbeEntry, family: _Family, place: str) -> ProbeRun:
    values = entry.model_dump()
    return ProbeRun(
        on=entry.on,
        model=entry.model,
        finetune_task=entry.finetune_task,
        variant=entry.variant,
        task=entry.task,
        activation=ActivationOptions(**{name: values[name] for name in ActivationOptions.model_fields}),
        layers=entry.layers,
        kind=family.kind,
        options=family.options,
        seed=entry.seed,
        place=place,
        snapshots=entry.snapshots,
    )


def _families(value: object, place: str, kinds: _Kinds, problems: list[Problem]) -> list[_Family]:
    """The values of a key that takes mappings with a kind: one, or an axis of them, each a grid itself."""
    families: list[_Family] = []
    for choice in _choices(value, place, problems):
        if not isinstance(choice.value, Mapping) or "kind" not in choice.value:
            written = "missing" if choice.value is None else f"{shown(choice.value)} is not a mapping with a `kind`"
            problems.append(Problem(choice.place, written, kinds.example))
            continue
        options = {str(key): option for key, option in choice.value.items() if key != "kind"}
        for kind in _choices(choice.value["kind"], at(choice.place, "kind"), problems):
            if not isinstance(kind.value, str) or kind.value not in kinds.options:
                problems.append(unknown(f"kind of {kinds.noun}", kind.value, kind.place, kinds.options))
                continue
            model = kinds.options[kind.value].Options
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
