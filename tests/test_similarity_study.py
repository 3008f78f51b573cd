"""Similarity in a study: which texts are in-domain to which states, and any two of the study's states compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from statelab import Document, plan, records, run, stage, study, tuning, unread_plan

from ftprobe.errors import InputError
from ftprobe.models.load import load_encoder
from ftprobe.planner import Plan, Trial
from ftprobe.solvers.similarity import rsa
from ftprobe.store import Store


def similarity(**options: Any) -> Document:
    measure = {"kind": "similarity", "measures": ["rsa"], "n": 60, "draws": 1, "max_length": 16}
    return {"corpus": "wikitext2", "measure": measure, **options}


def domains(planned: Plan) -> dict[tuple[str, str], str | None]:
    """What rows will say of the text, by what the state was tuned on and the corpus."""
    labels = {trial: columns.get("domain") for trial, columns in planned.labels}
    trials = stage(planned, "compare")
    return {(str(t.columns["ft_task"]), str(t.columns["corpus"])): labels[t.id] for t in trials}


def test_a_text_is_in_domain_to_what_was_tuned_on_its_corpus(tmp_path: Path) -> None:
    tunings = [tuning(), tuning(task="word_order@grammar")]
    several = similarity(corpus=["cola", "wikitext2", "grammar"])
    found = domains(unread_plan(study(tmp_path, finetune=tunings, compare=[several]), tmp_path / "store"))
    assert found == {
        ("cola", "cola"): "in",
        ("cola", "wikitext2"): "out",
        ("cola", "grammar"): "out",
        ("word_order", "cola"): "out",
        ("word_order", "wikitext2"): "out",
        ("word_order", "grammar"): "in",
    }


def test_the_study_may_say_otherwise_and_other_measures_say_nothing(tmp_path: Path) -> None:
    entries = [similarity(corpus=["cola", "wikitext2"]), similarity(domain="in")]
    found = domains(unread_plan(study(tmp_path, finetune=[tuning()], compare=entries), tmp_path / "store"))
    assert found == {("cola", "cola"): "in", ("cola", "wikitext2"): "in"}
    attention = {"corpus": "cola", "measure": {"kind": "attention"}, "on": "finetuned"}
    found = domains(unread_plan(study(tmp_path, finetune=[tuning()], compare=[attention]), tmp_path / "store"))
    assert found == {("cola", "cola"): None}


def test_what_one_study_says_of_a_text_is_not_in_the_trials_that_another_reuses(tmp_path: Path) -> None:
    entries = (similarity(), similarity(domain="in"))
    made = [study(tmp_path, finetune=[tuning(epochs=1)], compare=[entry]) for entry in entries]
    run(made[0], tmp_path / "store")
    assert not plan(made[1], tmp_path / "store").missing()
    rows = [records(each, tmp_path / "store").filter(pl.col("metric") == "rsa") for each in made]
    assert [frame["domain"].unique().to_list() for frame in rows] == [["out"], ["in"]]
    assert rows[0].drop("domain").equals(rows[1].drop("domain"))


def other_states(planned: Plan, trial: Trial) -> tuple[Trial | None, Trial | None]:
    """The trials that made the measured state and the other one."""
    made = [planned.trials.get(str(next(iter(trial.spec[name]["parents"]), ""))) for name in ("state", "against")]
    return made[0], made[1]


def test_states_are_compared_with_those_of_another_seed(tmp_path: Path) -> None:
    against = similarity(against={"seed": 1})
    planned = unread_plan(study(tmp_path, finetune=[tuning(seed=[0, 1, 2])], compare=[against]), tmp_path / "store")
    seeds = []
    for trial in stage(planned, "compare"):
        one, other = other_states(planned, trial)
        assert one is not None
        assert other is not None
        assert set(trial.parents) == {one.id, other.id}
        seeds.append((one.spec["seed"], other.spec["seed"]))
    assert seeds == [(0, 1), (2, 1)]


def test_states_on_the_way_are_compared_with_where_the_run_begins_or_ends(tmp_path: Path) -> None:
    tunings = [tuning(snapshots={"count": 2}, seed=[0, 1])]
    for against, pairs in (
        ({"moment": "start"}, [(None, [0, 2]), ([1, 2], [0, 2]), ([2, 2], [0, 2])]),
        ({"moment": "end"}, [([0, 2], None), ([1, 2], None), ([2, 2], None)]),
        ({"seed": 0}, [(None, None), ([0, 2], [0, 2]), ([1, 2], [1, 2]), ([2, 2], [2, 2])]),
    ):
        document = study(tmp_path, finetune=tunings, compare=[similarity(against=against)])
        planned = unread_plan(document, tmp_path / "store")
        found = [other_states(planned, trial) for trial in stage(planned, "compare")]
        parts = [tuple(each.spec.get("snapshot", {}).get("part") for each in pair if each) for pair in found]
        assert parts == pairs * (1 if "seed" in against else 2)


def test_models_variants_and_tasks_are_compared(tmp_path: Path) -> None:
    document = study(
        tmp_path,
        finetune=[tuning(freeze=[None, 2]), tuning(task="word_order@grammar")],
        compare=[
            similarity(on="pretrained", against={"model": "drawn"}),
            similarity(on="finetuned", model="base", against={"variant": "freeze_2"}),
            similarity(on="finetuned", model="base", against={"finetune_task": "cola"}),
        ],
    )
    document["models"]["drawn"] = {"checkpoint": document["models"]["base"]["checkpoint"], "init": "random"}
    models, variants, tasks = (
        [trial for trial in stage(unread_plan(document, tmp_path / "store"), "compare") if kind in trial.name]
        for kind in ("model=drawn", "variant=freeze_2", "finetune_task=cola")
    )
    assert [(t.columns["variant"], t.spec["model"]["init"], t.spec["against"]["model"]["init"]) for t in models] == [
        ("pretrained", "pretrained", "random")
    ]
    assert [(t.columns["variant"], t.columns["ft_task"]) for t in variants] == [("finetuned", "cola")]
    assert [(t.columns["variant"], t.columns["ft_task"]) for t in tasks] == [("finetuned", "word_order")]
    assert models[0].columns["config"]["against"] == "model=drawn"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            similarity(against={"seed": 5}),
            "compare[0].against: no two finetuned states of the study differ in seed=5 alone",
        ),
        (similarity(on="pretrained", against={"seed": 0}), "compare[0].against.seed: a pre-trained state has none"),
        (similarity(against={"model": "bass"}), "compare[0].against.model: unknown model 'bass'"),
        (similarity(against={"sead": 1}), "compare[0].against.sead: unknown key 'sead'"),
        (similarity(against={}), "compare[0].against: say in what the other state differs"),
        (
            {"corpus": "cola", "measure": {"kind": "attention"}, "against": {"seed": 0}},
            "compare[0].against: attention is measured against the pre-trained state alone",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, entry: Document, said: str) -> None:
    with pytest.raises(InputError) as caught:
        unread_plan(study(tmp_path, finetune=[tuning()], compare=[entry]), tmp_path / "store")
    assert str(caught.value).startswith(said), str(caught.value)


def test_two_seeds_on_the_same_text_give_the_similarity_of_their_states(tmp_path: Path) -> None:
    # RSA of all words of CoLA's test text, by the states' own shards of activations.
    entry = similarity(corpus="cola", on="finetuned", against={"seed": 1})
    entry["measure"] |= {"n": 10_000, "special": "include"}
    document = study(tmp_path, finetune=[tuning(epochs=1, seed=[0, 1])], compare=[entry])
    store = tmp_path / "store"
    run(document, store)
    rows = records(document, store).filter(pl.col("metric") == "rsa").sort("layer")
    assert rows["ft_seed"].unique().to_list() == [0]
    assert {json.loads(detail)["against"] for detail in rows["detail"]} == {"seed=1"}
    planned = plan(document, store)
    (trial,) = stage(planned, "compare")
    states = []
    for made in other_states(planned, trial):
        assert made is not None
        encoder = load_encoder(str(Store.open(store).fetch("finetune", made.id)), offline=True)
        texts = [line.split("\t")[3] for line in (tmp_path / "cola" / "dev.tsv").read_text().splitlines()]
        states.append(all_states(encoder, texts))
    expected = [rsa(x_MD, y_MD) for x_MD, y_MD in zip(*states, strict=True)]
    assert rows["value"].to_list() == pytest.approx(expected, abs=2e-5)
    assert rows["value"][-1] < 0.9999


def all_states(encoder: Any, texts: list[str]) -> list[Any]:
    found = []
    for text in texts:
        with torch.inference_mode():
            ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
            found.append(torch.stack(encoder.model(input_ids=ids, output_hidden_states=True).hidden_states)[:, 0])
    return list(torch.cat(found, 1).double().numpy())
