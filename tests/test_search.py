"""Searches: what a study may ask for, what is planned for it, and real ones on a local Ray with a tiny model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tinylm import WORDS, save, tokenizer

import ftprobe
from ftprobe.errors import InputError
from ftprobe.planner import Plan, make_plan
from ftprobe.planner.searching import tried
from ftprobe.searching import Tried, best_of
from ftprobe.shares import Admission, memory_problems, shares_of
from ftprobe.store import Store
from ftprobe.study import Study, parse_study
from ftprobe.tasks.grammar import generate

SPACE = {"learning_rate": {"log": [1.0e-4, 1.0e-1]}, "batch_size": [8, 16]}
HUB = "org/name"
ENTRY = {
    "task": "acceptability@grammar",
    "train_items": 64,
    "dev_items": 32,
    "max_length": 16,
    "dropout": 0.0,
}
ONE_CPU = {"finetune": {"cpu": 1}, "activations": {"cpu": 1}, "probe": {"cpu": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """It knows the commonest words of the grammar, and no others."""
    folder = save(tmp_path_factory.mktemp("model"), "bert")
    texts = (sentence.text for sentence in generate("acceptability").corpus.sentences)
    counts = Counter(word for text in texts for word in text.split())
    tokenizer("bert", [word for word, _ in counts.most_common(len(WORDS))]).save_pretrained(folder)
    return str(folder)


def document(model: str, search: Mapping[str, Any], **entry: object) -> dict[str, Any]:
    return {
        "name": "searched",
        "models": {"tiny": {"checkpoint": model, **({"revision": "0" * 40} if model == HUB else {})}},
        "finetune": [{**ENTRY, "search": search, **entry}],
        "resources": ONE_CPU,
    }


def problems(search: object, **entry: object) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        parse_study(document(HUB, cast(Any, search), **entry))
    return {problem.place.removeprefix("finetune[0]."): str(problem) for problem in caught.value.problems}


# The study


@pytest.mark.parametrize(
    ("search", "entry", "place", "said"),
    [
        ("random", {}, "search", "is not a mapping"),
        ({}, {}, "search.space", "missing"),
        ({"space": SPACE, "tirals": 3}, {}, "search.tirals", "did you mean 'trials'?"),
        ({"space": SPACE, "algorithm": "bayes"}, {}, "search.algorithm", "unknown algorithm 'bayes'"),
        ({"space": {"learning_rat": [1]}}, {}, "search.space.learning_rat", "did you mean 'learning_rate'?"),
        ({"space": {"epochs": 3}}, {}, "search.space.epochs", "3 is no axis"),
        ({"space": {"epochs": []}}, {}, "search.space.epochs", "is no axis"),
        ({"space": {"epochs": {"log": [1, 3]}}}, {}, "search.space.epochs.log", "takes no fractions"),
        ({"space": {"warmup": {"log": [0, 1]}}}, {}, "search.space.warmup.log", "above 0"),
        ({"space": {"warmup": {"uniform": [0.5, 0.1]}}}, {}, "search.space.warmup.uniform", "the smaller first"),
        ({"space": {"warmup": {"uniform": [0.5, 2.0]}}}, {}, "search.space.warmup", "less than or equal to 1"),
        ({"space": {"epochs": {"int": [0, 3]}}}, {}, "search.space.epochs", "greater than or equal to 1"),
        ({"space": {"schedule": ["linear", "cosine"]}, "trials": 2}, {}, "search.space.schedule", "'cosine'"),
        ({"space": {"stride": {"int": [1, 9]}}}, {}, "search.space.stride", "means nothing for task"),
        ({"space": {"select": ["last", "best_dev"]}}, {}, "search.space.select", "does not vary"),
        ({"space": {"truncate": {"int": [1, 2]}}}, {}, "search.space.truncate", "make it an axis"),
        ({"space": {"epochs": {"int": [1, 3]}}}, {"epochs": 2}, "epochs", "'epochs' is searched"),
        ({"space": SPACE}, {"select": "last"}, "select", "a search selects by dev"),
        ({"space": SPACE}, {"snapshots": {"count": 2}}, "snapshots", "a search keeps one state"),
        ({"space": SPACE, "algorithm": "grid"}, {}, "search.space.learning_rate", "lists only"),
        ({"space": {"batch_size": [8]}, "algorithm": "grid", "trials": 1}, {}, "search.trials", "leave it out"),
        ({"space": {"batch_size": [8, 16]}}, {}, "search.trials", "8 trials of 2 points"),
        ({"space": SPACE, "scheduler": "asha"}, {"epochs": 1}, "search.scheduler", "one epoch are never stopped"),
        ({"space": {"epochs": [1, 1]}, "trials": 1, "scheduler": "asha"}, {}, "search.scheduler", "one epoch"),
    ],
)
def test_what_a_study_may_not_ask_for(search: object, entry: Mapping[str, Any], place: str, said: str) -> None:
    found = problems(search, **entry)
    assert list(found) == [place]
    assert said in found[place]


def test_lists_of_a_space_are_no_axes_of_the_study_and_a_list_of_searches_is_one() -> None:
    one = parse_study(document(HUB, {"space": SPACE}, seed=[0, 1]))
    assert len(one.finetune) == 2
    assert {run.options.select for run in one.finetune} == {"best_dev"}
    both = parse_study(document(HUB, cast(Any, [None, {"space": SPACE}])))
    assert [run.search is None for run in both.finetune] == [True, False]


# The plan


def plan(study: Study, store: Path) -> Plan:
    return make_plan(study, Store.open(store), offline=True, read=True)


def probing(model: str, search: Mapping[str, Any], **entry: object) -> dict[str, Any]:
    probe = {
        "task": "word_order@grammar",
        "max_length": 16,
        "train_items": 40,
        "dev_items": 20,
        "test_items": 20,
        "on": "finetuned",
        "layers": [1],
        "probe": {"kind": "linear", "strength": [1.0e-2]},
    }
    return {**document(model, search, **entry), "probe": [probe]}


def test_a_search_is_one_trial_that_dependents_read(model: str, tmp_path: Path) -> None:
    study = probing(model, {"space": SPACE, "trials": 3}, seed=[0, 1])
    planned = plan(parse_study(study), tmp_path)
    stages = [t.stage for t in planned.trials.values()]
    assert sorted(stages) == ["activations"] * 2 + ["probe"] * 2 + ["search"] * 2
    searches = {t.id: t for t in planned.trials.values() if t.stage == "search"}
    for trial in planned.trials.values():
        if trial.stage == "activations":
            assert trial.spec["reads"] == ["search"]
            assert trial.parents[0] in searches
    plain = {**document(model, {}), "finetune": [{**ENTRY, "batch_size": 16}]}
    (one,) = plan(parse_study(plain), tmp_path).trials.values()
    assert next(iter(searches.values())).cost.flops == pytest.approx(3 * one.cost.flops)
    again = plan(
        parse_study(probing(model, {"trials": 3, "space": dict(reversed(SPACE.items()))}, seed=[0, 1])), tmp_path
    )
    assert set(again.trials) == set(planned.trials)


def test_a_run_of_a_search_is_the_plain_fine_tuning_it_is(model: str, tmp_path: Path) -> None:
    searched = parse_study(document(model, {"space": {**SPACE, "epochs": {"int": [1, 4]}}}))
    (search,) = plan(searched, tmp_path).trials.values()
    point = {"learning_rate": 0.003, "batch_size": 8, "epochs": 2}
    plain = parse_study({**document(model, {}), "finetune": [{**ENTRY, **point, "select": "best_dev"}]})
    (one,) = plan(plain, tmp_path).trials.values()
    payload = tried(search.payload(), point)
    assert payload["id"] == one.id
    assert payload["spec"] == one.spec
    assert payload["flops"] == pytest.approx(one.cost.flops)


def test_a_search_of_a_model_that_is_too_short_or_shallow_is_refused(model: str, tmp_path: Path) -> None:
    entry = {key: value for key, value in ENTRY.items() if key != "max_length"}
    space = {"max_length": {"int": [8, 65]}, "freeze": {"int": [0, 3]}}
    study = {**document(model, {}), "finetune": [{**entry, "search": {"space": space}}]}
    with pytest.raises(InputError) as caught:
        plan(parse_study(study), tmp_path)
    assert sorted(p.place for p in caught.value.problems) == ["finetune[0].freeze", "finetune[0].max_length"]


def test_a_search_asks_for_nothing_and_as_many_go_out_as_runs_fit() -> None:
    study = cast(Any, SimpleNamespace(resources={}))
    nodes = [{"CPU": 8.0, "GPU": 2.0, "memory": 1e10}]
    shares = shares_of(study, nodes)
    assert shares["search"].request() == {"cpu": 0.0, "memory": 1.0}
    admission = Admission(shares, {}, nodes)
    loads = SimpleNamespace(out={**dict.fromkeys(shares, 0), "search": 1}, queued=dict.fromkeys(shares, 0))
    assert admission.admits("search", cast(Any, loads))
    loads.out["search"] = 2
    assert not admission.admits("search", cast(Any, loads))


def test_runs_of_a_search_that_outgrow_their_gpu_share_are_refused(model: str, tmp_path: Path) -> None:
    planned = plan(
        parse_study({**document(model, {"space": SPACE}), "resources": {"finetune": {"gpu": 0.5}}}), tmp_path
    )
    shares = shares_of(planned.study, [{"CPU": 2, "GPU": 1, "memory": 1e10}])
    (problem,) = memory_problems(planned, shares, 1000.0)
    assert problem.place == "resources.finetune.gpu"


# What comes of it


def test_the_first_of_the_best_that_came_to_an_end_is_chosen() -> None:
    runs = [Tried({}, "a", "done", 0.5, 2), Tried({}, "b", "stopped", 0.9, 1), Tried({}, "c", "done", 0.7, 2)]
    runs += [Tried({}, "d", "done", 0.7, 2), Tried({}, "e", "failed", float("nan"), 0, "ValueError: planted")]
    assert best_of(runs).trial == "c"
    with pytest.raises(RuntimeError, match=r"none of the 1 runs .*ValueError: planted"):
        best_of(runs[-1:])


def test_in_one_process_a_search_is_refused_before_anything_starts(model: str, tmp_path: Path) -> None:
    study = parse_study(document(model, {"space": SPACE}))
    with pytest.raises(InputError, match="a search needs Ray"):
        ftprobe.run(study, store=tmp_path, offline=True, inline=True)
    assert not (tmp_path / "artifacts" / "finetune").exists()


def test_optuna_where_it_is_missing_is_named_by_the_plan(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftprobe.api.find_spec", lambda name: None)
    study = parse_study(document(model, {"space": SPACE, "algorithm": "optuna"}))
    with pytest.raises(InputError, match="pip install optuna"):
        ftprobe.plan(study, store=tmp_path, offline=True)
