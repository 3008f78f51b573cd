"""The study file: grids and their order, recipes, overrides, and every mistake named at its place with its repair."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftprobe.errors import InputError, Problem
from ftprobe.study import FinetuneOptions, Study, load_study, parse_study

COMMIT = "cd5ef92a9fb2f889e972770a36d4ed042daf221e"
MODELS = {
    "bert": {"checkpoint": "google-bert/bert-base-cased", "revision": COMMIT},
    "tiny": {"checkpoint": "google/bert_uncased_L-2_H-128_A-2", "revision": COMMIT},
}
SWEEPS = Path(__file__).resolve().parent.parent / "sweeps"
LINEAR = {"kind": "linear"}
TEXT = f"""\
name: example
models:
  bert: {{checkpoint: google-bert/bert-base-cased, revision: {COMMIT}}}
finetune:
  - task: cola
    seed: [0, 1]
probe:
  - task: acceptability
    on: [pretrained, finetuned]
    probe: {{kind: linear}}
"""


def study(**keys: Any) -> Study:
    return parse_study({"name": "example", "models": MODELS, **keys})


def problems(document: Mapping[str, object]) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        parse_study(document)
    return list(caught.value.problems)


def written(folder: Path, text: str) -> Path:
    path = folder / "example.yaml"
    path.write_text(text)
    return path


def file_problems(folder: Path, text: str, *overrides: str) -> list[Problem]:
    path = written(folder, text)
    with pytest.raises(InputError) as caught:
        load_study(path, overrides)
    return [problem._replace(place=problem.place.replace(str(path), "FILE")) for problem in caught.value.problems]


# Grids


def test_a_list_is_an_axis_and_the_first_key_varies_slowest() -> None:
    runs = study(finetune=[{"task": ["cola", "sst2"], "model": "bert", "seed": [1, 0]}]).finetune
    assert [(run.task, run.seed) for run in runs] == [("cola", 1), ("cola", 0), ("sst2", 1), ("sst2", 0)]


def test_models_vary_slowest_unless_the_entry_says_otherwise() -> None:
    runs = study(finetune=[{"task": ["cola", "sst2"]}]).finetune
    assert [(run.model, run.task) for run in runs] == [
        ("bert", "cola"),
        ("bert", "sst2"),
        ("tiny", "cola"),
        ("tiny", "sst2"),
    ]
    runs = study(finetune=[{"task": ["cola", "sst2"], "model": ["tiny", "bert"]}]).finetune
    assert [(run.task, run.model) for run in runs[:2]] == [("cola", "tiny"), ("cola", "bert")]


def test_the_size_of_a_grid_is_the_product_of_its_axes() -> None:
    found = study(
        finetune=[{"task": ["cola", "rte"], "seed": [0, 1, 2], "learning_rate": [1e-5, 2e-5]}, {"task": "sst2"}],
        probe=[
            {
                "task": ["cola", "acceptability"],
                "pooling": ["cls", "mean"],
                "layers": ["all", [0, 2]],
                "probe": [LINEAR, {"kind": "linear", "strength": [[1e-4], [1e-3, 1e-2]]}],
            }
        ],
    )
    assert len(found.finetune) == 2 * (2 * 3 * 2) + 2 * 1
    assert len(found.probe) == 2 * 2 * 2 * 2 * (1 + 2)
    assert [run.place for run in found.finetune] == ["finetune[0]"] * 24 + ["finetune[1]"] * 2


def test_a_field_that_is_a_list_takes_one_list_and_a_list_of_lists_is_its_axis() -> None:
    def layers(value: object) -> list[object]:
        return [run.layers for run in study(probe=[{"task": "cola", "layers": value, "probe": LINEAR}]).probe]

    assert layers([3, 0, 3]) == [(0, 3)]
    assert layers([[0], [1, 2]]) == [(0,), (1, 2)]
    assert layers(["all", [1]]) == ["all", (1,)]
    assert layers("all") == ["all"]


def test_a_probe_takes_its_own_options_and_the_pooling_its_default() -> None:
    entry = {"task": "upos", "probe": {"kind": "linear", "strength": ["1e-5", 0.001]}}
    (run,) = study(probe=[entry]).probe
    assert run.options.model_dump()["strength"] == (1e-5, 1e-3)
    assert (run.on, run.model, run.finetune_task, run.activation.pooling) == ("pretrained", None, None, "mean")


def test_without_on_both_states_are_probed_if_there_are_both() -> None:
    probe = [{"task": "cola", "probe": LINEAR}]
    assert [run.on for run in study(probe=probe).probe] == ["pretrained"]
    assert [run.on for run in study(finetune=[{"task": "cola"}], probe=probe).probe] == ["pretrained", "finetuned"]


def test_a_probe_can_be_kept_to_some_tuned_states() -> None:
    finetune = [{"task": ["cola", "sst2", "rte"]}]
    found = study(finetune=finetune, probe=[{"task": "cola", "finetune_task": ["sst2", "rte"], "probe": LINEAR}])
    # The pre-trained state was tuned on nothing: the axis does not multiply it.
    assert [(run.on, run.finetune_task) for run in found.probe] == [
        ("pretrained", None),
        ("finetuned", "sst2"),
        ("finetuned", "rte"),
    ]
    read = [[run.task for run in found.finetune if probe.reads(run) and run.model == "bert"] for probe in found.probe]
    assert read == [[], ["sst2"], ["rte"]]


def test_a_probe_can_be_kept_to_some_variants() -> None:
    finetune = [{"task": "cola", "freeze": [None, 3]}, {"task": "cola", "prune_top": 1, "replace_top": 0}]
    found = study(finetune=finetune, probe=[{"task": "cola", "variant": ["finetuned", "freeze_3"], "probe": LINEAR}])
    assert [run.variant for run in found.finetune if run.model == "bert"] == [
        "finetuned",
        "freeze_3",
        "prune_top_1+replace_top_0",
    ]
    assert [(run.on, run.variant) for run in found.probe] == [
        ("pretrained", None),
        ("finetuned", "finetuned"),
        ("finetuned", "freeze_3"),
    ]
    read = [[run.options.freeze for run in found.finetune if probe.reads(run)] for probe in found.probe]
    assert read == [[], [None, None], [3, 3]]
    entry = {"measure": {"kind": "attention"}, "corpus": "cola", "variant": "freeze_3"}
    assert [(run.on, run.variant) for run in study(finetune=finetune, compare=[entry]).compare][-1] == (
        "finetuned",
        "freeze_3",
    )


def test_numbers_that_yaml_1_1_reads_as_text_are_numbers() -> None:
    (run, *_) = study(finetune=[{"task": "cola", "learning_rate": "1e-5", "model": "bert"}]).finetune
    assert run.options.learning_rate == 1e-5


def test_huge_grids_are_refused_before_they_are_built() -> None:
    axis = list(range(100))
    start = time.process_time()
    (problem,) = problems(
        {
            "name": "x",
            "models": MODELS,
            "finetune": [{"task": "cola", "seed": axis, "epochs": axis, "batch_size": axis, "train_items": axis}],
        }
    )
    assert (problem.place, problem.what) == ("finetune[0]", "a grid of 200,000,000 points")
    assert time.process_time() - start < 1


# Recipes


def test_a_recipe_sets_defaults_and_every_value_of_it_can_be_overridden() -> None:
    runs = study(finetune=[{"task": ["cola", "sst2"], "recipe": "mosbach2020", "model": "bert"}]).finetune
    common = {"pooler": "fresh", "learning_rate": 2e-5, "schedule": "constant", "beta2": 0.99, "weight_decay": 0.01}
    assert [run.options for run in runs] == [
        FinetuneOptions.model_validate({**common, "epochs": 3}),
        FinetuneOptions.model_validate({**common, "epochs": 1}),
    ]
    (own,) = study(
        finetune=[{"task": "sst2", "recipe": "mosbach2020", "model": "bert", "epochs": 5, "beta2": 0.999}]
    ).finetune
    assert (own.options.epochs, own.options.beta2, own.options.pooler) == (5, 0.999, "fresh")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("merchant2020", {"learning_rate": 3e-5, "epsilon": 1e-6, "epochs": 3, "weight_decay": 0.01}),
        ("durrani2021", {"learning_rate": 2e-5, "epochs": 3, "weight_decay": 0.01}),
        ("cai2020", {"learning_rate": 4e-5, "epochs": 2, "batch_size": 64, "max_length": 512}),
    ],
)
def test_recipes_are_those_of_their_papers(recipe: str, expected: dict[str, object]) -> None:
    (run,) = study(finetune=[{"task": "cola", "recipe": recipe, "model": "bert"}]).finetune
    assert run.options == FinetuneOptions.model_validate(expected)


def test_zhou2022_trains_base_encoders_for_fewer_epochs() -> None:
    runs = study(finetune=[{"task": "cola", "recipe": "zhou2022"}]).finetune
    assert [(run.model, run.options.epochs) for run in runs] == [("bert", 3), ("tiny", 10)]
    models = {"mine": {"checkpoint": "org/name", "revision": COMMIT}}
    entry = {"task": "cola", "recipe": "zhou2022"}
    (problem,) = problems({"name": "x", "models": models, "finetune": [entry]})
    assert (problem.place, problem.repair) == ("finetune[0].recipe", "write `epochs`")
    assert parse_study({"name": "x", "models": models, "finetune": [{**entry, "epochs": 4}]}).finetune


# Mistakes

MISTAKES: list[tuple[dict[str, object], tuple[str, str, str]]] = [
    ({"sead": 1}, ("sead", "unknown key 'sead'", "did you mean 'seed'?")),
    ({"name": None}, ("name", "null should be a valid string", "")),
    ({"name": "a/b"}, ("name", "'a/b' is no plain name (letters, digits, `.`, `_` and `-`)", "")),
    ({"seed": True}, ("seed", "true should be a valid integer", "")),
    ({"seed": [0, 1]}, ("seed", "[0, 1] should be a valid integer", "")),
    ({"models": None}, ("models", "missing", "write `models: {NAME: {checkpoint: ...}}`")),
    ({"models": {"b": "bert"}}, ("models.b", "'bert' is not a mapping", "write {checkpoint: ...}")),
    (
        {"models": {"b b": {"checkpoint": "./b"}}},
        ("models.b b", "'b b' is no plain name (letters, digits, `.`, `_` and `-`)", ""),
    ),
    ({"models": {"b": {}}}, ("models.b.checkpoint", "missing", "say which checkpoint")),
    (
        {"models": {"b": {"checkpoint": "./b", "ini": "random"}}},
        ("models.b.ini", "unknown key 'ini'", "did you mean 'init'?"),
    ),
    (
        {"models": {"b": {"checkpoint": "./b", "init": "randm"}}},
        ("models.b.init", "unknown init 'randm'", "did you mean 'random'?"),
    ),
    (
        {"models": {"b": {"checkpoint": "org/b"}}},
        ("models.b.revision", "missing", "pin the commit of org/b (40 hexadecimal digits)"),
    ),
    ({"data": {"cola": 3}}, ("data.cola", "3 is not a path", "")),
    ({"data": {"coala": "x"}}, ("data.coala", "unknown corpus 'coala'", "did you mean 'cola'?")),
    (
        {"resources": {"probes": {"gpu": 1}}},
        ("resources.probes", "unknown stage 'probes'", "did you mean 'probe'?"),
    ),
    (
        {"resources": {"probe": {"gpu": -1}}},
        ("resources.probe.gpu", "-1 should be greater than or equal to 0", ""),
    ),
    (
        {"resources": {"probe": {"gpus": 1}}},
        ("resources.probe.gpus", "unknown key 'gpus'", "did you mean 'gpu'?"),
    ),
    ({"finetune": {"task": "cola"}}, ("finetune", "is not a list of entries", "start each entry with `- `")),
    ({"finetune": ["cola"]}, ("finetune[0]", "'cola' is not a mapping", "write `- task: NAME`")),
    ({"finetune": [{"seed": 1}]}, ("finetune[0].task", "missing", "say which task")),
    ({"finetune": [{"task": "colla"}]}, ("finetune[0].task", "unknown task 'colla'", "did you mean 'cola'?")),
    (
        {"finetune": [{"task": "upos@ud_ewt", "pooler": "fresh"}]},
        ("finetune[0].pooler", "'pooler' means nothing for task 'upos@ud_ewt'", "leave it out"),
    ),
    (
        {"finetune": [{"task": "upos@ud_ewt", "head_pooling": "cls"}]},
        (
            "finetune[0].head_pooling",
            "head_pooling 'cls' does not fit task 'upos@ud_ewt', which labels words",
            "one of: mean, first, last",
        ),
    ),
    (
        {"finetune": [{"task": "text"}]},
        ("finetune[0].task", "task 'text' labels nothing", "name a task that has labels"),
    ),
    (
        {"probe": [{"task": "squad@a+b", "probe": LINEAR}]},
        (
            "probe[0].probe",
            "a linear probe does not fit task 'squad@a+b', which labels questions about passages",
            "",
        ),
    ),
    (
        {"probe": [{"task": "ud_parsing", "pooling": "first", "probe": LINEAR}]},
        ("probe[0].probe", "a linear probe does not fit task 'ud_parsing', which labels the words of trees", ""),
    ),
    (
        {"probe": [{"task": "stsb", "probe": LINEAR}]},
        (
            "probe[0].probe",
            "a linear probe does not fit task 'stsb', which labels sentence pairs with numbers",
            "",
        ),
    ),
    (
        {"finetune": [{"task": "cola", "truncate": 2, "prune_top": 1}]},
        ("finetune[0].prune_top", "'truncate' cuts the model already", "keep one of the two"),
    ),
    (
        {"finetune": [{"task": "cola", "snapshots": {"count": 3, "every": 5}}]},
        ("finetune[0].snapshots", "say one of `count`, `every` (updates) and `epochs`"),
    ),
    (
        {"finetune": [{"task": "cola", "model": ["bert", "bart"]}]},
        ("finetune[0].model[1]", "unknown model 'bart'", "did you mean 'bert'?"),
    ),
    (
        {"finetune": [{"task": "cola", "learnin_rate": 1}]},
        ("finetune[0].learnin_rate", "unknown key 'learnin_rate'", "did you mean 'learning_rate'?"),
    ),
    (
        {"finetune": [{"task": "cola", "seed": []}]},
        ("finetune[0].seed", "empty grid", "write one value or more, or leave the key out"),
    ),
    (
        {"finetune": [{"task": "cola", "recipe": "mosbach"}]},
        ("finetune[0].recipe", "unknown recipe 'mosbach'", "did you mean 'mosbach2020'?"),
    ),
    (
        {"finetune": [{"task": "cola", "pooler": ["fresh", "frsh"]}]},
        ("finetune[0].pooler[1]", "unknown pooler 'frsh'", "did you mean 'fresh'?"),
    ),
    ({"finetune": [{"task": "cola", "epochs": 1.5}]}, ("finetune[0].epochs", "1.5 should be a valid integer", "")),
    ({"finetune": [{"task": "cola", "epochs": "3"}]}, ("finetune[0].epochs", "'3' should be a valid integer", "")),
    (
        {"finetune": [{"task": "cola", "learning_rate": [1e-5, "fast"]}]},
        ("finetune[0].learning_rate[1]", "'fast' should be a valid number", ""),
    ),
    (
        {"finetune": [{"task": "cola", "learning_rate": float("nan")}]},
        ("finetune[0].learning_rate", "NaN should be a finite number", ""),
    ),
    (
        {"finetune": [{"task": "cola", "batch_size": 0}]},
        ("finetune[0].batch_size", "0 should be greater than or equal to 1", ""),
    ),
    (
        {"probe": [{"task": "bigramshift", "probe": LINEAR}]},
        ("probe[0].task", "unknown task 'bigramshift'", "did you mean 'bigram_shift'?"),
    ),
    ({"probe": [{"task": "cola"}]}, ("probe[0].probe", "missing", "write `probe: {kind: linear}`")),
    (
        {"probe": [{"task": "cola", "probe": "linear"}]},
        ("probe[0].probe", "'linear' is not a mapping with a `kind`", "write `probe: {kind: linear}`"),
    ),
    (
        {"probe": [{"task": "cola", "probe": [LINEAR, {"kind": "linar"}]}]},
        ("probe[0].probe[1].kind", "unknown kind of probe 'linar'", "did you mean 'linear'?"),
    ),
    (
        {"probe": [{"task": "cola", "probe": []}]},
        ("probe[0].probe", "empty grid", "write one value or more, or leave the key out"),
    ),
    (
        {"probe": [{"task": "cola", "probe": {"kind": "linear", "strengt": [1]}}]},
        ("probe[0].probe.strengt", "unknown key 'strengt'", "did you mean 'strength'?"),
    ),
    (
        {"probe": [{"task": "upos", "pooling": ["mean", "cls"], "probe": LINEAR}]},
        (
            "probe[0].pooling[1]",
            "pooling 'cls' does not fit task 'upos', which labels words",
            "one of: mean, first, last",
        ),
    ),
    (
        {"probe": [{"task": "cola", "pooling": "first", "probe": LINEAR}]},
        ("probe[0].pooling", "pooling 'first' does not fit task 'cola', which labels sentences", "one of: cls, mean"),
    ),
    (
        {"probe": [{"task": "cola", "layers": [0, -1], "probe": LINEAR}]},
        ("probe[0].layers", "layers are counted from 0, the embedding output", ""),
    ),
    (
        {"probe": [{"task": "cola", "layers": 3, "probe": LINEAR}]},
        ("probe[0].layers", "3 is not a list", "write [3]"),
    ),
    (
        {"probe": [{"task": "cola", "on": "finetuned", "probe": LINEAR}]},
        ("probe[0]", "no `finetune` entry makes the state it reads (any model tuned on any task)", ""),
    ),
    (
        {"finetune": [{"task": "cola"}], "probe": [{"task": "cola", "finetune_task": "rte", "probe": LINEAR}]},
        ("probe[0]", "no `finetune` entry makes the state it reads (any model tuned on rte)", ""),
    ),
    (
        {"probe": [{"task": "cola", "on": "pretrained", "finetune_task": "rte", "probe": LINEAR}]},
        ("probe[0].finetune_task", "a pre-trained state has none", "add `on: finetuned`"),
    ),
    (
        {"probe": [{"task": "cola", "on": "pretrained", "snapshots": False, "probe": LINEAR}]},
        ("probe[0].snapshots", "a pre-trained state has none", "add `on: finetuned`"),
    ),
    (
        {"compare": [{"measure": {"kind": "attention"}, "corpus": "cola", "on": "pretrained", "variant": "freeze_3"}]},
        ("compare[0].variant", "a pre-trained state has none", "add `on: finetuned`"),
    ),
    (
        {"finetune": [{"task": "cola"}], "probe": [{"task": "cola", "variant": "freeze_3", "probe": LINEAR}]},
        (
            "probe[0]",
            "no `finetune` entry makes the state it reads (any model tuned on any task, variant freeze_3)",
            "",
        ),
    ),
]


@pytest.mark.parametrize(("change", "expected"), MISTAKES, ids=[expected[0] for _, expected in MISTAKES])
def test_a_mistake_is_named_at_its_place_with_its_repair(
    change: dict[str, object], expected: tuple[str, str, str]
) -> None:
    document: dict[str, object] = {"name": "x", "models": MODELS, "probe": [{"task": "cola", "probe": LINEAR}]}
    assert problems({**document, **change}) == [Problem(*expected)]


def test_all_mistakes_are_named_at_once() -> None:
    found = problems(
        {
            "name": "x",
            "sead": 1,
            "models": {"bert": {"checkpoint": "google-bert/bert-base-cased", "revision": "main", "ini": 1}},
            "finetune": [{"task": "colla", "epochs": 0, "recipe": "mosbach", "model": "bart"}],
            "probe": [{"task": "bigramshift", "pooling": "sum", "probe": {"kind": "linar"}}],
        }
    )
    assert sorted(problem.place for problem in found) == [
        "finetune[0].epochs",
        "finetune[0].model",
        "finetune[0].recipe",
        "finetune[0].task",
        "models.bert.ini",
        "models.bert.revision",
        "probe[0].pooling",
        "probe[0].probe.kind",
        "probe[0].task",
        "sead",
    ]


def test_a_study_that_asks_for_nothing_is_refused() -> None:
    assert [problem.what for problem in problems({"name": "x", "models": MODELS})] == ["the study asks for nothing"]


def test_data_may_hold_a_corpus_that_only_a_reference_names() -> None:
    found = study(
        data={"mine": "/data/mine", "senteval": "/data/senteval"},
        probe=[{"task": ["upos@mine", "xpos@mine"], "probe": LINEAR}],
    )
    assert found.data == {"mine": "/data/mine", "senteval": "/data/senteval"}


def test_a_value_on_many_points_is_one_problem() -> None:
    entry = {"task": "cola", "seed": list(range(50)), "epochs": "three"}
    assert len(problems({"name": "x", "models": MODELS, "finetune": [entry]})) == 1


# The file


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    found = load_study(written(tmp_path, TEXT))
    assert (found.name, found.path, len(found.finetune)) == ("example", tmp_path / "example.yaml", 2)
    # `on` is a truth value to YAML 1.1.
    assert [run.on for run in found.probe] == ["pretrained", "finetuned"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nseed: 1\nname: b\n", ("FILE:3", "key 'name' is written twice", "it stands in line 1 already")),
        (
            TEXT + "    pooling: cls\n    probe: {kind: linear}\n",
            ("FILE:12", "key 'probe' is written twice", "it stands in line 10 already"),
        ),
        ("name: [a\nseed: 1\n", ("FILE:2", "is not YAML: expected ',' or ']', but got ':'", "")),
        ("name: !!python/object/apply:os.system [ls]\n", ("FILE:1", "is not YAML: could not determine", "")),
        ("name: &a [*a]\n", ("FILE", "cannot be read: Circular reference detected", "")),
        ("{[a]: b}\n", ("FILE:1", "is not YAML: found unhashable key", "")),
        ("", ("FILE", "holds no study", "start with `name: ...`")),
        ("- name: a\n", ("FILE", "holds no study", "start with `name: ...`")),
        ("name: " + "[" * 2000 + "]" * 2000, ("FILE", "cannot be read: maximum recursion depth", "")),
    ],
)
def test_what_is_no_yaml_is_named_by_its_line(tmp_path: Path, text: str, expected: tuple[str, str, str]) -> None:
    (problem,) = file_problems(tmp_path, text)
    assert (problem.place, problem.repair) == (expected[0], expected[2])
    assert problem.what.startswith(expected[1])


def test_a_merged_key_that_is_set_again_is_no_duplicate(tmp_path: Path) -> None:
    text = TEXT + "  - &b {task: cola, probe: {kind: linear}, seed: 1}\n  - {<<: *b, seed: 2}\n  - {<<: *b, seed: 3}\n"
    assert [run.seed for run in load_study(written(tmp_path, text)).probe] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_scalars_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    text = TEXT.replace("seed: [0, 1]", "learning_rate: [1e-5, 2.E-5, .5e-5, 3]").replace("name: example", "name: off")
    found = load_study(written(tmp_path, text))
    assert [run.options.learning_rate for run in found.finetune] == [1e-5, 2e-5, 5e-6, 3.0]
    assert found.name == "off"
    (problem,) = file_problems(tmp_path, TEXT.replace("[0, 1]", "010"))
    assert problem.what == "'010' should be a valid integer"


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, TEXT)
    with pytest.raises(InputError, match=r"no such study file; did you mean 'example.yaml'\?"):
        load_study(tmp_path / "exmple.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_study(tmp_path / "latin.yaml")


def test_relative_paths_start_beside_the_study_file_then_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "study", tmp_path / "here"
    for folder in (beside / "data", beside / "model", here / "data", here / "other"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    text = TEXT + "data: {cola: data, sst2: other}\n"
    text = text.replace("models:", "models:\n  local: {checkpoint: ./model}\n  bare: {checkpoint: model}")
    found = load_study(written(beside, text))
    assert found.data == {"cola": str(beside / "data"), "sst2": str(here / "other")}
    assert found.models["local"].checkpoint == found.models["bare"].checkpoint == str(beside / "model")
    assert found.models["bert"].checkpoint == "google-bert/bert-base-cased"


# Overrides


def test_overrides_change_what_the_file_says_in_the_same_grammar(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT)
    found = load_study(
        path,
        [
            "seed=7",
            "finetune[0].seed=[3, 4, 5]",
            "finetune[0].learning_rate=1e-4",
            "probe[0].probe.strength=[[1e-3], [1e-2]]",
            "resources.finetune.gpu=0.5",
            "models.bert.init=random",
            "models.tiny={checkpoint: ./tiny}",
        ],
    )
    assert found.seed == 7
    assert [(run.model, run.seed, run.options.learning_rate) for run in found.finetune] == [
        (model, seed, 1e-4) for model in ("bert", "tiny") for seed in (3, 4, 5)
    ]
    assert [run.options.model_dump()["strength"] for run in found.probe[:2]] == [(1e-3,), (1e-2,)]
    assert found.resources["finetune"].gpu == 0.5
    assert found.models["bert"].init == "random"
    assert path.read_text() == TEXT


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("finetun[0].seed=1", ("finetun[0].seed", "there is no 'finetun' in a study", "did you mean 'finetune'?")),
        ("sead=1", ("sead", "there is no 'sead' in a study", "did you mean 'seed'?")),
        ("models.brt.init=random", ("models.brt.init", "there is no 'brt' in 'models'", "did you mean 'bert'?")),
        ("finetune[1].seed=1", ("finetune[1].seed", "'finetune' has 1 entries", "they are counted from 0")),
        ("probe[0].on[5]=1", ("probe[0].on[5]", "'probe[0].on' has 2 entries", "they are counted from 0")),
        ("finetune.seed=1", ("finetune.seed", "'finetune' is a list", "write finetune[0].seed")),
        ("name.first=1", ("name.first", "there is nothing inside 'name', which is 'example'", "")),
        ("finetune[0].sead=1", ("finetune[0].sead", "unknown key 'sead'", "did you mean 'seed'?")),
        ("finetune[0].seed=[1", ("finetune[0].seed:1", "is not YAML: expected ',' or ']', but got '<stream end>'", "")),
        ("seed", ("seed", "is no override", "write `a.b=value` or `a[0].b=value`")),
        ("a..b=1", ("a..b=1", "is no override", "write `a.b=value` or `a[0].b=value`")),
    ],
)
def test_an_override_that_goes_nowhere_names_the_nearest(
    tmp_path: Path, override: str, expected: tuple[str, str, str]
) -> None:
    assert file_problems(tmp_path, TEXT, override) == [Problem(*expected)]


def test_all_wrong_overrides_are_named_at_once(tmp_path: Path) -> None:
    found = file_problems(tmp_path, TEXT, "sead=1", "finetun[0].seed=1")
    assert [problem.place for problem in found] == ["sead", "finetun[0].seed"]


# What ships with it


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_read(path: Path) -> None:
    found = load_study(path)
    assert found.name == path.stem
    assert found.finetune
    assert path.read_text().startswith("# "), "a head comment says what it reproduces"


def test_the_shipped_mosbach_study_is_that_of_the_paper() -> None:
    found = load_study(SWEEPS / "mosbach2020.yaml")
    assert {run.task for run in found.finetune} == {"cola", "sst2", "rte", "squad"}
    assert len(found.finetune) == 3 * 4 * 3 + 3
    # Section 5.1: RoBERTa on CoLA, with the other head too.
    mean = {(run.model, run.task) for run in found.finetune if run.options.head_pooling == "mean"}
    assert mean == {("roberta", "cola")}
    assert {(run.kind, run.model, run.corpus) for run in found.compare} == {("attention", "roberta", "bigram_shift")}
    assert {run.options.max_length for run in found.finetune if run.task == "squad"} == {384}
    assert {run.options.beta2 for run in found.finetune} == {0.99}
    # 2 poolings x 3 sets, on the pre-trained and on the tuned states (METHODS 3.1).
    assert len(found.probe) == 2 * 2 * 3
    assert {run.activation.special for run in found.probe} == {"include"}


def test_reading_studies_is_light() -> None:
    heavy = ["torch", "ray", "transformers", "sklearn", "datasets", "polars", "scipy"]
    code = (
        "import sys, time; start = time.process_time(); import ftprobe.study; seconds = time.process_time() - start;"
        f"print([name for name in {heavy} if name in sys.modules], seconds)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds = result.stdout.strip().rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 1.0  # CPU time: 0.15 s on an idle machine


def test_a_large_study_is_read_quickly() -> None:
    entry = {"task": "cola", "seed": list(range(1000)), "learning_rate": [1e-5, 2e-5, 3e-5]}
    start = time.process_time()
    assert len(study(finetune=[entry]).finetune) == 6000
    assert time.process_time() - start < 3


def test_plain_yaml_documents_are_studies_too() -> None:
    document = yaml.safe_load(TEXT.replace("    on: [pretrained, finetuned]\n", ""))
    assert len(parse_study(document).probe) == 2
