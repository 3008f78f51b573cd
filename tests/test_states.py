"""Planning of model states: variants and their names, shared training, snapshots, and what has no meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tinylm
from statelab import EPOCHS, LAYERS, UPDATES, perplexity, plan, probing, stage, study, trained, tuning, unread_plan

from ftprobe.errors import InputError
from ftprobe.finetune.run import update_of
from ftprobe.planner import Plan

IDS = {
    "finetune bert/acceptability@grammar/mean/s0": "95fc6a03ddbbfe17f0628f854659d6e4",
    "activations bert/pretrained/word_order@grammar/mean": "e9894e364804612c0cca4dc4c46fa0af",
    "probe bert/pretrained/word_order@grammar/mean/word_order/linear": "0e7946cdbee0bfe353f03dcad485f494",
    "activations random/randomized/word_order@grammar/mean": "c2aeb739cf37ba900908eadcb23532b7",
    "probe random/randomized/word_order@grammar/mean/word_order/linear": "07ca6e88d17a4f6df1e57e68122f7e9f",
    "activations bert/acceptability@grammar/mean/s0/word_order@grammar/mean": "dd54e4f6fd0d31652953d42de9bbce12",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


def variants(planned: Plan, of: str = "probe") -> set[str]:
    return {str(columns["variant"]) for key, columns in planned.labels if key in {t.id for t in stage(planned, of)}}


def refusal(document: dict[str, Any], store: Path) -> str:
    with pytest.raises(InputError) as caught:
        plan(document, store)
    assert len(caught.value.problems) == 1, str(caught.value)
    return str(caught.value)


def test_variants_have_the_names_of_the_methods(root: Path, tmp_path: Path) -> None:
    entries = [
        tuning(freeze=[None, 0, 1, 3]),
        tuning(truncate=[1, 3]),
        tuning(prune_top=2),
        tuning(prune_bottom=1),
        tuning(reinitialise=[1, "all"]),
        tuning(lora_rank=4),
        tuning(replace_top=[1, 3]),
        tuning(replace_top=3, replace_embeddings="pretrained"),
        tuning(cut_top=1),
        tuning(cut_bottom=2),
        tuning(freeze=1, prune_top=1),
    ]
    planned = plan(study(root, finetune=entries, probe=[probing()]), tmp_path)
    assert variants(planned) == {
        "pretrained",
        "finetuned",
        "freeze_0",
        "freeze_1",
        "freeze_3",
        "truncate_1",
        "truncate_3",
        "prune_top_2",
        "prune_bottom_1",
        "reinitialise_1",
        "reinitialise_all",
        "lora_4",
        "replace_top_1",
        "replace_top_3",
        "replace_top_3+embeddings_pretrained",
        "cut_top_1",
        "cut_bottom_2",
        "freeze_1+prune_top_1",
    }
    # What is done to a trained state is no training of its own.
    assert len(stage(planned, "finetune")) == 12
    assert variants(planned, "finetune") == {v for v in variants(planned) if "cut_" not in v and "replace" not in v} - {
        "pretrained"
    }


def test_every_state_is_probed_in_the_layers_it_has(root: Path, tmp_path: Path) -> None:
    entries = [tuning(), tuning(truncate=2, freeze=1), tuning(prune_bottom=2), tuning(cut_top=1), tuning(prune_top=1)]
    planned = plan(study(root, finetune=entries, probe=[probing()]), tmp_path)
    layers = {}
    for key, columns in planned.labels:
        if key in planned.trials and planned.trials[key].stage == "probe":
            layers[columns["variant"]] = planned.trials[key].spec["layers"]
    assert {variant: len(numbers) - 1 for variant, numbers in layers.items()} == {
        "pretrained": LAYERS,
        "finetuned": LAYERS,
        "freeze_1+truncate_2": 2,
        "prune_bottom_2": 1,
        "cut_top_1": 2,
        "prune_top_1": 2,
    }
    assert all(numbers == list(range(len(numbers))) for numbers in layers.values())


def test_edits_of_one_run_share_its_training_and_snapshots(root: Path, tmp_path: Path) -> None:
    entry = tuning(replace_top=[None, 0, 1, 3], snapshots={"epochs": 1})
    planned = plan(study(root, finetune=[entry], probe=[probing(on="finetuned")]), tmp_path)
    assert len(stage(planned, "finetune")) == 1 + 3
    assert len({trial.group for trial in stage(planned, "finetune")}) == 1
    # Nothing replaced is the very same state: one extraction, under both names.
    assert len(stage(planned, "activations")) == (1 + 3) * 3
    named = [(key, columns["variant"]) for key, columns in planned.labels if key in planned.trials]
    assert {v for key, v in named if (key, "finetuned") in named} == {"finetuned", "replace_top_0"}


def test_a_probe_reads_the_states_on_the_way_or_the_last_alone(root: Path, tmp_path: Path) -> None:
    entries = [
        probing(on="finetuned", snapshots=each, pooling=pooling) for each, pooling in ((True, "mean"), (False, "cls"))
    ]
    planned = plan(study(root, finetune=[tuning(snapshots={"count": 3})], probe=entries), tmp_path)
    read = [trial for trial in stage(planned, "activations") if trial.columns["pooling"] == "cls"]
    assert [trial.parents for trial in read] == [(trained(planned).id,)]
    assert len(stage(planned, "activations")) == 1 + 5
    assert len(stage(planned, "probe")) == 1 + 5


@pytest.mark.parametrize(
    ("snapshots", "moments", "updates"),
    [
        ({"count": 4}, [{"part": [j, 4]} for j in range(5)], [0, 2, 5, 8, 10]),
        ({"every": 4}, [{"update": u} for u in (0, 4, 8, 10)], [0, 4, 8, 10]),
        ({"every": 5}, [{"update": u} for u in (0, 5, 10)], [0, 5, 10]),
        ({"every": 99}, [{"update": u} for u in (0, 10)], [0, 10]),
        ({"epochs": 1}, [{"epoch": e} for e in (0, 1, 2)], [0, 5, 10]),
        ({"epochs": 9}, [{"epoch": e} for e in (0, 2)], [0, 10]),
    ],
)
def test_snapshots_are_taken_at_update_0_on_the_way_and_last(
    root: Path, tmp_path: Path, snapshots: dict[str, int], moments: list[dict[str, Any]], updates: list[int]
) -> None:
    planned = plan(study(root, finetune=[tuning(snapshots=snapshots)]), tmp_path)
    asked = [t.spec["snapshot"] for t in stage(planned, "finetune") if "snapshot" in t.spec]
    assert asked == moments
    assert [update_of(moment, UPDATES, EPOCHS) for moment in asked] == updates


def test_every_so_many_updates_of_fewer_texts(root: Path, tmp_path: Path) -> None:
    planned = plan(study(root, finetune=[tuning(snapshots={"every": 2}, train_items=17)]), tmp_path)
    asked = [t.spec["snapshot"]["update"] for t in stage(planned, "finetune") if "snapshot" in t.spec]
    assert asked == [0, 2, 4, 6]  # 3 batches, twice


def test_every_so_many_updates_is_refused_where_their_number_is_unknown(root: Path, tmp_path: Path) -> None:
    wanted = "finetune[0].snapshots: how many updates this run takes is not known before it; use `count` or `epochs`"
    assert refusal(study(root, finetune=[tuning(snapshots={"every": 2}, select="best_dev")]), tmp_path) == wanted
    words = tuning(task="upos@grammar", snapshots={"every": 2})
    assert refusal(study(root, finetune=[words]), tmp_path) == wanted
    with pytest.raises(InputError, match="is not known before it"):
        unread_plan(study(root, finetune=[tuning(snapshots={"every": 2})]), tmp_path / "new")
    for known in ({"count": 2}, {"epochs": 1}):
        plan(study(root, finetune=[{**words, "snapshots": known}]), tmp_path)


def test_snapshots_are_said_in_one_way(root: Path, tmp_path: Path) -> None:
    for wrong in ({}, {"count": 2, "every": 3}, {"count": 0}):
        with pytest.raises(InputError, match=r"finetune\[0\]\.snapshots"):
            plan(study(root, finetune=[tuning(snapshots=wrong)]), tmp_path)


@pytest.mark.parametrize(
    ("options", "place", "what"),
    [
        ({"freeze": 4}, "freeze", "4 is too many"),
        ({"truncate": 4}, "truncate", "4 is too many"),
        ({"prune_top": 3}, "prune_top", "3 is too many"),
        ({"prune_bottom": 3}, "prune_bottom", "3 is too many"),
        ({"reinitialise": 4}, "reinitialise", "4 is too many"),
        ({"replace_top": 4}, "replace_top", "4 is too many"),
        ({"cut_top": 3}, "cut_top", "3 is too many"),
        ({"cut_bottom": 3}, "cut_bottom", "3 is too many"),
        ({"cut_top": 2, "cut_bottom": 1}, "cut_bottom", "1 is too many"),
        ({"truncate": 2, "freeze": 3}, "freeze", "3 is too many"),
        ({"truncate": 2, "cut_top": 2}, "cut_top", "2 is too many"),
        ({"prune_top": 1, "replace_top": 1}, "replace_top", "no pre-trained block for each of its own"),
        ({"truncate": 2, "prune_top": 1}, "prune_top", "'truncate' cuts the model already"),
        ({"freeze": 1, "lora_rank": 2}, "freeze", "none is frozen"),
        ({"freeze": -1}, "freeze", ""),
        ({"truncate": 0}, "truncate", ""),
    ],
)
def test_what_asks_for_blocks_that_are_not_there_is_refused(
    root: Path, tmp_path: Path, options: dict[str, Any], place: str, what: str
) -> None:
    said = refusal(study(root, finetune=[tuning(**options)], probe=[probing()]), tmp_path)
    assert said.startswith(f"finetune[0].{place}: ")
    assert what in said


def test_layers_beyond_a_cut_state_are_refused(root: Path, tmp_path: Path) -> None:
    cut = tuning(truncate=2)
    deep = probing(layers=[[0, 3]])
    said = refusal(study(root, finetune=[tuning(), cut], probe=[{**deep, "on": "finetuned"}]), tmp_path)
    assert said == "probe[0].layers: layer 3 is out of range for model 'base'; layers are numbered 0 (embedding " + (
        "output) to 2"
    )
    plan(study(root, finetune=[tuning(), cut], probe=[{**deep, "on": "pretrained"}]), tmp_path)
    plan(study(root, finetune=[tuning()], probe=[deep]), tmp_path)


@pytest.mark.parametrize("options", [{"freeze": 1}, {"replace_top": 1}, {"reinitialise": 1}])
def test_albert_has_no_block_apart_from_the_rest(root: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    if not (root / "albert").exists():
        tinylm.save(root / "albert", "albert")
    albert = {"albert": {"checkpoint": str(root / "albert")}}
    said = refusal({**study(root, finetune=[tuning(**options)]), "models": albert}, tmp_path)
    (place,) = options
    assert said.startswith(f"finetune[0].{place}: all blocks of an albert are one, so 1 of them")
    whole = [tuning(freeze=[0, 2], truncate=2), tuning(replace_top=[0, 2]), tuning(reinitialise=[2, "all"])]
    plan({**study(root, finetune=whole), "models": albert}, tmp_path)


def test_a_pretrained_model_of_the_study_is_the_parent_of_what_reads_it(root: Path, tmp_path: Path) -> None:
    own = {"own": {"pretrain": {"text": "wikitext2", "layers": 2, "dim": 16, "vocab": 300, "block": 16}}}
    document = {
        **study(
            root,
            finetune=[tuning(replace_top=[0, 1])],
            probe=[probing()],
            compare=[perplexity(on=["pretrained", "finetuned"])],
        ),
        "models": own,
    }
    planned = plan(document, tmp_path)
    (pretrain,) = stage(planned, "pretrain")
    (tuned,) = stage(planned, "finetune")
    assert tuned.parents == (pretrain.id,)
    base, once, both = (pretrain.id,), (tuned.id,), (tuned.id, pretrain.id)
    assert [trial.parents for trial in stage(planned, "activations")] == [base, once, both]
    assert [trial.parents for trial in stage(planned, "compare")] == [base, both, both]


def test_ids_of_trials_without_the_new_options_stay(tmp_path: Path) -> None:
    """Those that the first release gave: what a store holds must be found again."""
    revision = "cd5ef92a9fb2f889e972770a36d4ed042daf221e"
    bert = {"checkpoint": "google-bert/bert-base-cased", "revision": revision}
    document = {
        "name": "ids",
        "models": {"bert": bert, "random": {**bert, "init": "random"}},
        "finetune": [
            {"task": "acceptability@grammar", "model": "bert", "recipe": "mosbach2020", "head_pooling": "mean"}
        ],
        "probe": [
            {"task": "word_order@grammar", "pooling": "mean", "probe": {"kind": "linear"}, "layers": [[0, 6, 12]]}
        ],
    }
    ids = {f"{trial.stage} {trial.name}": trial.id for trial in unread_plan(document, tmp_path).trials.values()}
    assert ids.keys() > IDS.keys()
    assert {name: ids[name] for name in IDS} == IDS


def test_a_trained_state_is_named_by_its_variant(root: Path, tmp_path: Path) -> None:
    planned = plan(study(root, finetune=[tuning(freeze=[None, 2], snapshots={"epochs": 2})]), tmp_path)
    assert trained(planned, "freeze_2").name == "base/cola/cls/s0/freeze_2"
    assert trained(planned, "freeze_2", epoch=2).name == "base/cola/cls/s0/freeze_2/at-epoch2"
    assert trained(planned).name == "base/cola/cls/s0"
