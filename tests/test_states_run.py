"""Model states as a study makes them: frozen, cut, edited, taken on the way, pre-trained, and after accidents."""

from __future__ import annotations

import gc
import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file
from statelab import (
    LAYERS,
    UPDATES,
    Document,
    perplexity,
    plan,
    probing,
    records,
    run,
    same_bits,
    stage,
    study,
    trained,
    tuning,
    weights,
)

import ftprobe
from ftprobe.finetune import finetune
from ftprobe.finetune.optimizer import parameter_groups, schedule_factor
from ftprobe.hashing import derive_seed
from ftprobe.models.heads import Classifier
from ftprobe.models.inputs import encode, pad
from ftprobe.models.load import load_encoder
from ftprobe.models.surgery import replace_top
from ftprobe.planner import Plan
from ftprobe.shards import open_layer
from ftprobe.solvers.similarity import rsa
from ftprobe.store import Store
from ftprobe.study import FinetuneOptions, parse_study
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

pytestmark = pytest.mark.usefixtures("one_thread")
Ran = tuple[Document, Path]
UPDATES_KEPT = [0, 5, 10]


def all_of_them(root: Path) -> Document:
    """One run of every kind of state, its layers probed."""
    entries = [
        tuning(freeze=[None, 0, 2, LAYERS]),
        tuning(truncate=[2, LAYERS]),
        tuning(prune_bottom=1),
        tuning(reinitialise=1),
        tuning(lora_rank=2),
        tuning(cut_top=1, cut_bottom=1),
        tuning(replace_top=1),
        tuning(replace_top=0, replace_embeddings="pretrained"),
    ]
    return study(root, finetune=entries, probe=[probing()])


def edited(root: Path) -> Document:
    """The states of one run that a masked-LM head can be put on."""
    entries = [
        tuning(snapshots={"count": 2}),
        tuning(replace_top=[0, 1]),
        tuning(replace_top=LAYERS, replace_embeddings="pretrained"),
    ]
    return study(root, finetune=entries, probe=[probing(layers=[[0]])], compare=[perplexity()])


def done(root: Path, document: Document) -> Ran:
    gc.freeze()  # what tests have imported is not looked through after every trial
    torch.set_num_threads(1)
    run(document, root / "store")
    return document, root / "store"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ran")


@pytest.fixture(scope="module")
def ran(root: Path) -> Ran:
    return done(root, all_of_them(root))


@pytest.fixture(scope="module")
def measured(root: Path, ran: Ran) -> Ran:
    """In the store where the run itself is already: only its snapshots are missing."""
    return done(root, edited(root))


@pytest.fixture(scope="module")
def planned(ran: Ran) -> Plan:
    return plan(*ran)


@pytest.fixture(scope="module")
def base(ran: Ran) -> dict[str, torch.Tensor]:
    encoder = load_encoder(ran[0]["models"]["base"]["checkpoint"], offline=True)
    return dict(encoder.model.state_dict())


def encoders(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def layers_of(store: Path, planned: Plan, variant: str) -> list[Any]:
    """The vectors (N, D) of each layer of a state, the run's own, not its snapshots'."""
    (trial,) = [
        planned.trials[key]
        for key, columns in planned.labels
        if key in planned.trials
        and planned.trials[key].stage == "activations"
        and columns["variant"] == variant
        and "moment" not in planned.trials[key].where
    ]
    folder = Store.open(store).fetch("activations", trial.id)
    numbers = {path.name.split("-")[1] for path in folder.glob("layer-*.arrow")}
    return [open_layer(folder, layer) for layer in range(len(numbers))]


def block_of(name: str) -> int:
    """The number of a tensor's block, from 1; 0 in the embeddings."""
    return int(name.split(".")[2]) + 1 if name.startswith("encoder.layer.") else 0


@pytest.mark.parametrize("k", [0, 2, LAYERS])
def test_frozen_blocks_keep_every_bit_and_the_others_move(
    ran: Ran, planned: Plan, base: dict[str, torch.Tensor], k: int
) -> None:
    tuned = encoders(weights(ran[1], trained(planned, f"freeze_{k}")))
    assert tuned.keys() == base.keys()
    assert {name for name in base if torch.equal(tuned[name], base[name])} == {n for n in base if block_of(n) <= k}


@pytest.mark.parametrize("k", [0, 2, LAYERS])
def test_layers_of_frozen_blocks_are_those_of_the_base(ran: Ran, planned: Plan, k: int) -> None:
    pretrained, tuned = (layers_of(ran[1], planned, variant) for variant in ("pretrained", f"freeze_{k}"))
    assert len(pretrained) == len(tuned) == LAYERS + 1
    alike = [rsa(one, other) for one, other in zip(pretrained, tuned, strict=True)]
    assert alike[: k + 1] == pytest.approx([1.0] * (k + 1), abs=1e-12)
    assert all(value < 1 - 1e-6 for value in alike[k + 1 :])


def test_truncation_to_all_blocks_is_the_full_model(ran: Ran, planned: Plan) -> None:
    full, whole = (weights(ran[1], trained(planned, variant)) for variant in ("finetuned", f"truncate_{LAYERS}"))
    assert same_bits(full, whole)


def test_cut_models_have_the_blocks_that_are_left(ran: Ran, planned: Plan, base: dict[str, torch.Tensor]) -> None:
    for variant, kept in {"truncate_2": 2, "prune_bottom_1": 2, "reinitialise_1": 3, "lora_2": 3}.items():
        tuned = encoders(weights(ran[1], trained(planned, variant)))
        assert {block_of(name) for name in tuned} == set(range(kept + 1))
        assert len(layers_of(ran[1], planned, variant)) == kept + 1
        assert all(tensor.shape == base[name].shape for name, tensor in tuned.items())
    assert len(layers_of(ran[1], planned, "cut_top_1+cut_bottom_1")) == LAYERS - 1


def test_lora_moves_query_and_value_alone(ran: Ran, planned: Plan, base: dict[str, torch.Tensor]) -> None:
    tuned = encoders(weights(ran[1], trained(planned, "lora_2")))
    moved = {name for name in base if not torch.equal(tuned[name], base[name])}
    assert moved == {n for n in base if n.endswith(("self.query.weight", "self.value.weight"))}


def test_snapshots_begin_with_the_base_and_end_with_the_state(measured: Ran, base: dict[str, torch.Tensor]) -> None:
    planned = plan(*measured)
    states = [weights(measured[1], trained(planned, "finetuned", part=[j, 2])) for j in range(3)]
    assert same_bits(encoders(states[0]), base)
    assert same_bits(states[-1], weights(measured[1], trained(planned)))
    for one, other in itertools.pairwise(states):
        assert not same_bits(one, other)


def test_rows_of_snapshots_say_update_and_epoch(measured: Ran) -> None:
    rows = records(*measured).filter(pl.col("variant") == "finetuned", pl.col("method").is_in(["linear", "perplexity"]))
    places = rows.filter(pl.col("update").is_not_null()).select("method", "update", "epoch").unique().sort(pl.all())
    assert places.rows() == [
        (method, update, update / 5) for method in ("linear", "perplexity") for update in UPDATES_KEPT
    ]
    accuracies = rows.filter(pl.col("metric") == "accuracy")
    assert accuracies.group_by("update", "layer").len()["len"].unique().to_list() == [1]
    # The last snapshot and the run's own state are one.
    layers = {at: accuracies.filter(pl.col("update").eq_missing(at)).sort("layer")["value"] for at in (None, UPDATES)}
    assert layers[None].to_list() == layers[UPDATES].to_list()
    others = records(*measured).filter(pl.col("variant") != "finetuned", pl.col("method") == "perplexity")
    assert others.height > 4
    assert others["update"].is_null().all()


def perplexities(frame: pl.DataFrame) -> dict[tuple[str, int | None], float]:
    rows = frame.filter(pl.col("metric") == "mlm_nll").select("variant", "update", "value").rows()
    found = {(variant, update): value for variant, update, value in rows}
    assert len(found) == len(rows)
    return found


def test_perplexity_of_update_0_and_of_all_blocks_replaced_is_the_pretrained_one(measured: Ran) -> None:
    nll = perplexities(records(*measured))
    pretrained, tuned = nll["pretrained", None], nll["finetuned", None]
    assert nll["finetuned", 0] == pretrained
    assert nll[f"replace_top_{LAYERS}+embeddings_pretrained", None] == pretrained
    assert nll["finetuned", UPDATES] == nll["replace_top_0", None] == tuned
    assert len({pretrained, tuned, nll["replace_top_1", None]}) == 3


def test_replaced_blocks_are_those_of_the_base(ran: Ran, planned: Plan) -> None:
    document, store = ran
    pretrained = load_encoder(document["models"]["base"]["checkpoint"], offline=True)
    tuned = load_encoder(str(Store.open(store).fetch("finetune", trained(planned).id)), offline=True)
    corpus = Corpus("c", (Sentence("0", "test", "w0 w5 w9 w13"),))
    inputs = pad(pretrained, encode(pretrained, corpus.sentences, max_length=16).features_N)
    expected = replace_top(tuned, pretrained, 0, embeddings="pretrained").model(**inputs).last_hidden_state
    assert not torch.equal(expected, tuned.model(**inputs).last_hidden_state)
    mixed, own = (layers_of(store, planned, v) for v in ("replace_top_0+embeddings_pretrained", "finetuned"))
    base = layers_of(store, planned, "pretrained")
    assert (mixed[0] == base[0]).all()
    assert not (mixed[-1] == own[-1]).all()
    top = layers_of(store, planned, "replace_top_1")
    assert all((top[layer] == own[layer]).all() for layer in range(LAYERS))
    assert not (top[-1] == own[-1]).all()


def test_the_same_run_gives_the_same_weights_and_rows(measured: Ran, tmp_path: Path) -> None:
    """Also where one was trained by itself and again for its snapshots, and the other in one go."""
    document, again = {**measured[0], "compare": []}, tmp_path / "store"
    done(tmp_path, document)
    for trial in stage(plan(*measured), "finetune"):
        assert same_bits(weights(measured[1], trial), weights(again, trial))
    frames = [records(document, store).sort(pl.all()) for store in (measured[1], again)]
    assert frames[0].height > 50
    assert frames[0].equals(frames[1])


def test_all_blocks_frozen_is_a_head_on_stored_features(tmp_path: Path) -> None:
    document = study(tmp_path)
    place = document["models"]["base"]["checkpoint"]
    n, steps = 24, 6
    texts = tuple(Sentence(str(i), "train" if i < n else "test", f"w{i % 2} w{i} w{i % 7}") for i in range(n + 4))
    task = TaskData(
        Corpus("c", texts),
        LabelSet("t", tuple(range(n + 4)), (-1,) * (n + 4), tuple("ab"[i % 2] for i in range(n + 4))),
    )
    options = FinetuneOptions(
        epochs=steps, batch_size=n, learning_rate=1e-2, dropout=0.0, freeze=LAYERS, frozen_dropout="off", max_length=16
    )
    (tmp_path / "out").mkdir()
    finetune(
        options,
        task,
        objective="classify",
        metrics=("accuracy",),
        load=lambda: load_encoder(place, offline=True),
        seed=3,
        out=tmp_path / "out",
        report=lambda _: None,
        device="cpu",
    )
    encoder = load_encoder(place, offline=True)
    with torch.no_grad():
        inputs = pad(encoder, encode(encoder, texts[:n], max_length=16).features_N)
        h_ND = encoder.model(**inputs).last_hidden_state[:, 0]
    own = Classifier(encoder, 2, pooled="cls", pooler="pretrained", dropout=0.0, seed=derive_seed(3, "head_init"))
    head = torch.nn.Sequential(own.dense, torch.nn.Tanh(), own.output)
    optimizer = torch.optim.AdamW(parameter_groups(head, options.weight_decay), lr=1.0, eps=options.epsilon)
    label_N = torch.tensor([i % 2 for i in range(n)])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * schedule_factor(step, updates=steps, warmup=options.warmup, then="linear")
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(h_ND), label_N).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), options.clip)
        optimizer.step()
    found = load_file(tmp_path / "out" / "head.safetensors")
    for name, module in (("dense", own.dense), ("output", own.output)):
        torch.testing.assert_close(found[f"{name}.weight"], module.weight.detach(), atol=1e-6, rtol=1e-5)


KILLED = """
import os, signal, sys
import ftprobe
from pathlib import Path
from ftprobe.finetune import checkpoints
from ftprobe.store import Store

checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
publish, last = Store.publish, sys.argv[3]

def then_killed(self, stage, id, folder, manifest):
    publish(self, stage, id, folder, manifest)
    if id == last:
        os.kill(os.getpid(), signal.SIGKILL)

Store.publish = then_killed
ftprobe.run(Path(sys.argv[1]), store=sys.argv[2], offline=True, inline=True, device="cpu", threads=1)
"""


def test_a_run_killed_between_snapshots_ends_with_the_same_bits(tmp_path: Path) -> None:
    document = study(tmp_path, finetune=[tuning(snapshots={"every": 3})])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document))
    _, whole = done(tmp_path, document)
    planned = plan(document, whole)
    first, third, sixth, ninth = (trained(planned, "finetuned", update=update) for update in (0, 3, 6, 9))
    script = [sys.executable, "-c", KILLED, str(tmp_path / "study.yaml"), str(tmp_path / "cut"), sixth.id]
    ended = subprocess.run(script, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = Store.open(tmp_path / "cut")
    there = [store.exists("finetune", trial.id) for trial in (first, third, sixth, ninth, trained(planned))]
    assert there == [True, True, True, False, False]
    shutil.copytree(tmp_path / "cut", tmp_path / "and damaged")

    # The checkpoint of the first epoch lies behind all snapshots that are missing: the run goes on from there.
    run(document, tmp_path / "cut")
    assert store.manifest("finetune", trained(planned).id)["resumed_from_epoch"] == 1
    # Not so where an earlier one has been lost too: that needs the run from its beginning.
    damaged = Store.open(tmp_path / "and damaged")
    damaged.remove("finetune", third.id)
    run(document, tmp_path / "and damaged")
    assert damaged.manifest("finetune", trained(planned).id)["resumed_from_epoch"] == 0
    # One that is removed when all is done is made again, and nothing else is.
    made = store.manifest("finetune", trained(planned).id)["finished"]
    store.remove("finetune", third.id)
    run(document, tmp_path / "cut")
    assert store.manifest("finetune", trained(planned).id)["finished"] == made
    for trial in stage(planned, "finetune"):
        assert same_bits(weights(whole, trial), weights(tmp_path / "cut", trial))
        assert same_bits(weights(whole, trial), weights(tmp_path / "and damaged", trial))


def test_a_run_that_diverges_keeps_the_snapshots_it_passed(tmp_path: Path) -> None:
    document = study(
        tmp_path,
        finetune=[tuning(snapshots={"epochs": 1}, learning_rate=1e30, clip=1e30)],
        probe=[probing(on="finetuned", layers=[[0]])],
    )
    store = tmp_path / "store"
    ended = ftprobe.run(parse_study(document), store=store, offline=True, inline=True, device="cpu", threads=1)
    assert [name.split()[0] for name in ended.failed if "skipped" not in ended.failed[name]][:1] == ["finetune"]
    assert any("training loss is nan" in error for error in ended.failed.values())
    # Update 0 is the base, whatever became of the run: it is published, probed, and no failure.
    planned = plan(document, store)
    assert Store.open(store).exists("finetune", trained(planned, epoch=0).id)
    assert f"finetune {trained(planned, epoch=0).name}" not in ended.failed
    assert records(document, store).filter(pl.col("method") == "linear")["update"].unique().to_list() == [0]


def five_stages(root: Path) -> Document:
    size = {"layers": 2, "dim": 16, "heads": 2, "vocab": 300, "block": 16, "updates": 6, "batch_size": 4}
    return {
        **study(
            root,
            finetune=[tuning(freeze=2, epochs=1)],
            probe=[probing(layers=[[0, 2]])],
            compare=[perplexity(), {"corpus": "wikitext2", "measure": {"kind": "attention"}, "on": "finetuned"}],
        ),
        "models": {"own": {"pretrain": {"text": "wikitext2", **size}}},
    }


def test_a_model_that_the_study_pretrains_is_tuned_extracted_and_measured(tmp_path: Path) -> None:
    document, store = done(tmp_path, five_stages(tmp_path))
    planned = plan(document, store)
    (pretrained,) = stage(planned, "pretrain")
    kept = load_encoder(str(Store.open(store).fetch("pretrain", pretrained.id)), offline=True).model.state_dict()
    (tuned,) = stage(planned, "finetune")
    # All of its blocks are frozen: what was tuned is what was pre-trained, and so is all that is read of it.
    assert same_bits(encoders(weights(store, tuned)), dict(kept))
    nll = perplexities(records(document, store))
    assert nll["pretrained", None] == nll["freeze_2", None]
    one, other = (layers_of(store, planned, variant) for variant in ("pretrained", "freeze_2"))
    assert [(a == b).all() for a, b in zip(one, other, strict=True)] == [True] * 3
    emd = records(document, store).filter(pl.col("metric").str.contains("emd"))
    assert emd.height > 0
    assert emd["value"].abs().max() == 0.0


@pytest.mark.ray
def test_all_five_stages_on_ray_give_the_same_rows(tmp_path: Path) -> None:
    import ray

    document, inline = done(tmp_path, five_stages(tmp_path))
    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        ended = ftprobe.run(parse_study(document), store=tmp_path / "ray", offline=True)
    finally:
        ray.shutdown()
    assert not ended.failed
    frames = [records(document, store).sort(pl.all()) for store in (inline, tmp_path / "ray")]
    assert set(frames[0]["method"]) >= {"pretrain", "finetune", "linear", "perplexity", "attention"}
    assert frames[0].equals(frames[1])
