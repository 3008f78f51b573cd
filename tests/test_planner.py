"""The plan: identity, merging, reuse, cost, and an answer without torch or ray."""

from __future__ import annotations

import copy
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ftprobe
from ftprobe.models.load import load_encoder
from ftprobe.models.surgery import randomize
from ftprobe.planner import Plan, make_plan
from ftprobe.schedule import Schedule
from ftprobe.shards import open_layer
from ftprobe.store import Store
from ftprobe.study import parse_study

REPO = Path(__file__).resolve().parent.parent


def document(minilm: str) -> dict[str, Any]:
    return {
        "name": "plan",
        "models": {"minilm": {"checkpoint": minilm}},
        "finetune": [{"task": "acceptability@grammar", "seed": [0, 1], "head_pooling": ["cls", "mean"]}],
        "probe": [{"task": ["word_order@grammar", "upos@grammar"], "pooling": "mean", "probe": {"kind": "linear"}}],
    }


def plan(study: dict[str, Any], store: Path) -> Plan:
    return make_plan(parse_study(study), Store.open(store), offline=True)


def ids(planned: Plan, stage: str) -> set[str]:
    return {t.id for t in planned.trials.values() if t.stage == stage}


def test_counts_and_topological_order(minilm: str, tmp_path: Path) -> None:
    planned = plan(document(minilm), tmp_path)
    assert len(ids(planned, "finetune")) == 4
    assert len(ids(planned, "activations")) == 5 * 2
    assert len(ids(planned, "probe")) == 5 * 2
    seen: set[str] = set()
    for trial in planned.trials.values():
        assert set(trial.parents) <= seen
        seen.add(trial.id)


def test_one_changed_learning_rate_changes_exactly_its_descendants(minilm: str, tmp_path: Path) -> None:
    before = plan(document(minilm), tmp_path)
    changed = document(minilm)
    split = {**changed["finetune"][0], "head_pooling": "mean", "learning_rate": 5.0e-5}
    changed["finetune"] = [{**changed["finetune"][0], "head_pooling": "cls"}, split]
    after = plan(changed, tmp_path)
    new = [after.trials[key] for key in set(after.trials) - set(before.trials)]
    assert sorted(t.stage for t in new) == ["activations"] * 4 + ["finetune"] * 2 + ["probe"] * 4
    assert all("/mean/" in t.name for t in new)
    assert {t.columns["variant"] for t in new} == {"finetuned"}


def test_two_studies_share_extraction(minilm: str, tmp_path: Path) -> None:
    one, other = document(minilm), document(minilm)
    other["name"], other["probe"][0]["probe"] = "other", {"kind": "linear", "strength": [0.5]}
    first, second = plan(one, tmp_path), plan(other, tmp_path)
    assert ids(first, "activations") == ids(second, "activations")
    assert not ids(first, "probe") & ids(second, "probe")


def test_where_a_checkpoint_lies_is_not_its_identity(minilm: str, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "copy")
    moved = document(str(tmp_path / "copy"))
    assert set(plan(moved, tmp_path / "s").trials) == set(plan(document(minilm), tmp_path / "s").trials)


def test_equal_grid_points_are_one_trial_with_both_names(minilm: str, tmp_path: Path) -> None:
    twice = document(minilm)
    twice["models"]["again"] = {"checkpoint": minilm}
    planned = plan(twice, tmp_path)
    assert set(planned.trials) == set(plan(document(minilm), tmp_path).trials)
    names = {columns["model"] for trial, columns in planned.labels if planned.trials.get(trial)}
    assert names == {"minilm", "again"}


def test_a_probe_of_one_variant_reads_no_other_state(minilm: str, tmp_path: Path) -> None:
    study = document(minilm)
    study["finetune"] = [{"task": "acceptability@grammar", "prune_top": [None, 2]}]
    study["probe"][0] |= {"task": "word_order@grammar", "variant": ["finetuned"]}
    planned = plan(study, tmp_path)
    assert len(ids(planned, "finetune")) == 2
    assert sorted(t.columns["variant"] for t in planned.trials.values() if t.stage == "probe") == [
        "finetuned",
        "pretrained",
    ]
    study["probe"][0]["variant"] = "prune_top_2"
    shallow = [t for t in plan(study, tmp_path).trials.values() if t.columns["variant"] == "prune_top_2"]
    assert sorted({t.stage for t in shallow}) == ["activations", "probe"]


def test_an_axis_that_no_column_shows_becomes_the_variant(minilm: str, tmp_path: Path) -> None:
    study = document(minilm)
    study["finetune"][0]["learning_rate"] = [2.0e-5, 5.0e-5]
    variants = {columns.get("variant") for _, columns in plan(study, tmp_path).labels}
    assert {"finetuned[learning_rate=2e-05]", "finetuned[learning_rate=5e-05]", "pretrained"} <= variants


def test_poolings_of_one_text_run_in_one_pack(minilm: str, tmp_path: Path) -> None:
    study = document(minilm)
    study["probe"][0] = {**study["probe"][0], "task": "word_order@grammar", "pooling": ["cls", "mean"]}
    planned = plan(study, tmp_path)
    extractions = [t for t in planned.trials.values() if t.stage == "activations"]
    assert len(extractions) == 10
    assert len({t.group for t in extractions}) == 5


def test_planned_disk_is_what_extraction_writes(minilm: str, tmp_path: Path) -> None:
    study = document(minilm)
    study["finetune"] = []
    study["probe"][0].update(train_items=60, dev_items=20, test_items=20, probe={"kind": "linear", "strength": [0.01]})
    parsed = parse_study(study)
    planned = ftprobe.plan(parsed, store=tmp_path, offline=True)
    summary = ftprobe.run(parsed, store=tmp_path, offline=True, inline=True, device="cpu", threads=1)
    assert not summary.failed
    for trial in planned.trials.values():
        if trial.stage == "activations" and "word_order" in trial.name:
            folder = tmp_path / "artifacts" / "activations" / trial.id
            written = sum(path.stat().st_size for path in folder.glob("*.arrow"))
            assert trial.cost.bytes == written
    again = ftprobe.run(parsed, store=tmp_path, offline=True, inline=True, device="cpu", threads=1)
    assert again.started == 0


def test_planning_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, ftprobe.planner, ftprobe.api, ftprobe.cli, ftprobe.summary\n"
        "print(sorted({'torch', 'ray', 'transformers', 'sklearn', 'datasets', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_largest_shipped_study_is_planned_in_time(tmp_path: Path) -> None:
    for task, (intact, changed) in {"bigram_shift": "OI", "coordination_inversion": "OI", "odd_man_out": "OC"}.items():
        rows = [f"tr\t{changed if i % 2 else intact}\ta text of {i} words" for i in range(100_000)]
        rows += [f"{s}\t{changed if i % 2 else intact}\ta {s} of {i}" for s in ("va", "te") for i in range(10_000)]
        (tmp_path / "data" / task).mkdir(parents=True)
        (tmp_path / "data" / task / f"{task}.txt").write_text("\n".join(rows))
    argv = [sys.executable, "-m", "ftprobe.cli", "plan", str(REPO / "sweeps" / "mosbach2020.yaml")]
    argv += ["--data", str(tmp_path / "data")]
    spent = []  # CPU seconds: other processes take none of them
    for extra in ([], ["--json"], []):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*argv, "--store", str(tmp_path), *extra], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        if extra:
            assert len(json.loads(done.stdout)["trials"]) > 300
    assert min(spent) <= 1.5, spent


def test_a_hundred_thousand_probe_cells_are_planned_in_seconds(minilm: str, tmp_path: Path) -> None:
    """2,004 sets of activations with 56 probe trials each, and the schedule of all."""
    study = document(minilm)
    study["finetune"] = [{"task": "word_order@grammar", "seed": list(range(500)), "max_length": 32}]
    study["probe"] = [
        {
            "task": ["word_order@grammar", "acceptability@grammar"],
            "pooling": ["cls", "mean"],
            "layers": [[layer] for layer in range(7)],
            "max_length": 32,
            "probe": {"kind": "linear", "strength": [[10.0**-k] for k in range(8)]},
        }
    ]
    parsed, store = parse_study(study), Store.open(tmp_path)
    begun = time.process_time()
    planned = make_plan(parsed, store, offline=True)
    schedule = Schedule(planned)
    assert time.process_time() - begun <= 10.0
    assert len(ids(planned, "activations")) == 2004
    assert len(ids(planned, "probe")) == 112_224
    assert schedule.total == len(planned.trials)


def test_json_says_what_would_run(minilm: str, tmp_path: Path) -> None:
    from ftprobe.summary import plan_document

    store = Store.open(tmp_path)
    shown = plan_document(ftprobe.plan(parse_study(document(minilm)), store=store, offline=True), store)
    assert shown["totals"]["probe"]["to_run"] == 10
    assert all(t["device_s"] > 0 for t in shown["trials"])
    assert copy.deepcopy(shown) == json.loads(json.dumps(shown))


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = ftprobe.nothing


def test_random_shuffled_and_kept_embeddings_are_models_of_their_own(minilm: str, tmp_path: Path) -> None:
    study = document(minilm)
    study["models"] = {
        "random": {"checkpoint": minilm, "init": "random"},
        "shuffled": {"checkpoint": minilm, "init": "shuffled"},
        "kept": {"checkpoint": minilm, "init": "shuffled", "init_embeddings": "pretrained"},
    }
    study["probe"][0].update(task="word_order@grammar", on="pretrained", train_items=20, dev_items=10, test_items=10)
    del study["finetune"], study["probe"][1:]
    store = tmp_path / "store"
    assert not ftprobe.run(parse_study(study), store=store, inline=True, threads=1, offline=True).failed
    planned = plan(study, store)
    extractions = {t.name.partition("/")[0]: t for t in planned.trials.values() if t.stage == "activations"}
    held = {
        model: [open_layer(Store.open(store).fetch("activations", trial.id), layer) for layer in (0, 6)]
        for model, trial in extractions.items()
    }
    base = load_encoder(minilm, offline=True)
    rows = base.model.embeddings.word_embeddings.weight
    shuffled = randomize(base, seed=0, scheme="shuffle").model.embeddings.word_embeddings.weight
    assert torch.equal(rows.flatten().sort().values, shuffled.flatten().sort().values)
    assert not np.array_equal(held["shuffled"][0], held["kept"][0])
    assert not np.array_equal(held["random"][0], held["shuffled"][0])
    study["models"] = {"plain": {"checkpoint": minilm}}
    assert not ftprobe.run(parse_study(study), store=store, inline=True, threads=1, offline=True).failed
    (plain,) = (t for t in plan(study, store).trials.values() if t.stage == "activations")
    pretrained = [open_layer(Store.open(store).fetch("activations", plain.id), layer) for layer in (0, 6)]
    assert np.array_equal(held["kept"][0], pretrained[0])
    assert not np.array_equal(held["kept"][1], pretrained[1])
