"""Fine-tuning runs: repeatable, selecting, scoring, and refusing what cannot be trained."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftprobe.errors import InputError
from ftprobe.finetune import finetune
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.heads import Classifier
from ftprobe.models.inputs import encode, pad
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

Run = Callable[..., Outcome]
FAST = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16}


def task_of(rows: Sequence[tuple[Split, str, str | None, str]]) -> TaskData:
    sentences = tuple(Sentence(f"s{n}", split, text, text_b) for n, (split, text, text_b, _) in enumerate(rows))
    n = len(rows)
    return TaskData(
        Corpus("toy", sentences), LabelSet("toy", tuple(range(n)), (-1,) * n, tuple(label for *_, label in rows))
    )


def planted(n_train: int = 160, n_test: int = 40, *, label_noise: float = 0.0) -> TaskData:
    """The label is which of two words a text holds."""
    rng = random.Random(0)
    rows: list[tuple[Split, str, str | None, str]] = []
    for index in range(n_train + n_test):
        label = rng.choice(["bad", "good"])
        words = [f"w{rng.randrange(30)}" for _ in range(rng.randrange(1, 9))]
        words.insert(rng.randrange(len(words) + 1), label)
        shown = rng.choice(["bad", "good"]) if rng.random() < label_noise else label
        rows.append(("train" if index < n_train else "test", " ".join(words), None, shown))
    return task_of(rows)


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Run:
    def go(task: TaskData, *, seed: int = 0, out: str = "out", **options: object) -> Outcome:
        reports: list[dict[str, object]] = []
        outcome = finetune(
            FinetuneOptions.model_validate({"max_length": 32, **FAST, **options}),
            task,
            objective="classify",
            metrics=("accuracy", "mcc"),
            load=lambda: load_encoder(tiny, offline=True),
            seed=seed,
            out=tmp_path / out,
            report=reports.append,
            device="cpu",
        )
        split = "dev" if options.get("select") == "best_dev" else "test"
        scores = [m for m in outcome.measurements if (m.metric, m.split) == ("accuracy", split)]
        assert reports == [{"epoch": m.epoch, "metric": "accuracy", "value": m.value} for m in scores]
        return outcome

    return go


def rows_of(outcome: Outcome, metric: str, split: str = "test") -> list[Measurement]:
    return [m for m in outcome.measurements if (m.metric, m.split) == (metric, split)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "head.safetensors")}


@pytest.mark.parametrize("head_pooling", ["cls", "mean"])
@pytest.mark.parametrize("pooler", ["pretrained", "none"])
def test_planted_separable_task_reaches_accuracy_1(run: Run, head_pooling: str, pooler: str) -> None:
    outcome = run(planted(), head_pooling=head_pooling, pooler=pooler)
    last = rows_of(outcome, "accuracy")[-1]
    assert last.value == 1.0
    assert last.detail == {"selected": True}
    assert rows_of(outcome, "mcc")[-1].value == 1.0
    losses = [m.value for m in rows_of(outcome, "train_loss", "train")]
    assert losses[-1] < 0.1 < losses[0]


def test_pairs_are_told_apart_by_their_segments(run: Run) -> None:
    rng = random.Random(1)
    rows: list[tuple[Split, str, str | None, str]] = []
    for index in range(300):
        first = rng.random() < 0.5
        texts = ("good", f"w{rng.randrange(30)}") if first else (f"w{rng.randrange(30)}", "good")
        rows.append(("train" if index < 240 else "test", *texts, "first" if first else "second"))
    assert rows_of(run(task_of(rows), epochs=5), "accuracy")[-1].value == 1.0


def test_same_seed_gives_the_same_bits_and_another_does_not(run: Run, tmp_path: Path) -> None:
    task = planted(48, 8)
    outcomes = [run(task, seed=seed, out=out, epochs=2) for seed, out in ((0, "a"), (0, "b"), (1, "c"))]
    one, same, other = (weights(tmp_path / out) for out in "abc")
    assert one.keys() == same.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["output.weight"], other["output.weight"])
    assert outcomes[0].measurements == outcomes[1].measurements
    assert outcomes[0].measurements != outcomes[2].measurements


def test_updates_are_those_of_adamw_written_out(run: Run, tiny: str, tmp_path: Path) -> None:
    task = planted(24, 8)
    options = FinetuneOptions(
        epochs=5,
        batch_size=24,
        learning_rate=1e-3,
        warmup=0.5,
        weight_decay=0.3,
        beta1=0.8,
        beta2=0.95,
        epsilon=1e-3,
        clip=0.02,
        dropout=0.0,
    )
    run(task, **{**options.model_dump(), "max_length": 32})
    encoder = load_encoder(tiny, offline=True)
    model = Classifier(encoder, 2, pooled="cls", pooler="pretrained", dropout=0.0, seed=derive_seed(0, "head_init"))
    trained = [(name, p) for name, p in model.named_parameters() if not name.startswith("encoder.pooler")]
    texts = encode(encoder, task.corpus.sentences[:24], max_length=32).features_N
    label_N = torch.tensor([["bad", "good"].index(label) for label in task.labels.label_N[:24]])
    first = {name: torch.zeros_like(p) for name, p in trained}
    second = {name: torch.zeros_like(p) for name, p in trained}
    for step, factor in enumerate((1 / 2, 1.0, 1.0, 2 / 3, 1 / 3), start=1):
        loss = torch.nn.functional.cross_entropy(model(**pad(encoder, texts)), label_N)
        gradients = dict(zip(first, torch.autograd.grad(loss, [p for _, p in trained]), strict=True))
        norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))  # type: ignore[arg-type]
        assert step > 1 or norm > 0.02
        scale = min(1.0, 0.02 / float(norm))
        with torch.no_grad():
            for name, p in trained:
                g = gradients[name] * scale
                first[name] = 0.8 * first[name] + 0.2 * g
                second[name] = 0.95 * second[name] + 0.05 * g.square()
                spared = name.endswith("bias") or "LayerNorm" in name
                p.sub_(1e-3 * factor * (0.0 if spared else 0.3) * p)
                root = (second[name] / (1 - 0.95**step)).sqrt()
                p.sub_(1e-3 * factor * first[name] / (1 - 0.8**step) / (root + 1e-3))
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, p in encoder.model.state_dict().items():
        if not name.startswith("pooler"):
            torch.testing.assert_close(found[name], p, atol=1e-6, rtol=0, msg=name)
    head = load_file(tmp_path / "out" / "head.safetensors")
    torch.testing.assert_close(head["dense.weight"], model.dense.weight.detach(), atol=1e-6, rtol=0)  # type: ignore[union-attr]
    torch.testing.assert_close(head["output.weight"], model.output.weight.detach(), atol=1e-6, rtol=0)


def test_environment_of_a_launcher_changes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = planted(32, 8)
    run(task, epochs=1, out="plain")
    launcher = {
        "LOCAL_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "PMI_SIZE": "2",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    run(task, epochs=1, out="launched")
    assert {name: os.environ[name] for name in launcher} == launcher
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "launched")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_global_generators_are_left_alone(run: Run) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run(planted(16, 8), epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_every_epoch_is_measured_and_the_last_partial_batch_is_used(run: Run) -> None:
    outcome = run(planted(40, 10), epochs=3, batch_size=16)
    assert [(m.epoch, m.update) for m in rows_of(outcome, "accuracy")] == [(1.0, 3), (2.0, 6), (3.0, 9)]
    assert [bool(m.detail) for m in rows_of(outcome, "accuracy")] == [False, False, True]
    assert {m.n_items for m in rows_of(outcome, "accuracy")} == {10}
    assert {m.unit for m in rows_of(outcome, "train_loss", "train")} == {"loss"}
    facts = outcome.facts
    assert facts["updates"] == 9
    assert facts["items"] == {"train": 40, "test": 10}
    assert isinstance(facts["tokens_per_s"], float)


def test_number_of_tokens_is_that_of_the_tokenizer(run: Run, tiny: str) -> None:
    task = planted(20, 10)
    encoded = encode(load_encoder(tiny, offline=True), task.corpus.sentences[:20], max_length=32)
    assert run(task, epochs=2).facts["n_tokens"] == 2 * sum(encoded.lengths())


def test_state_is_reloaded_as_it_was_evaluated(run: Run, tmp_path: Path) -> None:
    task = planted(64, 20)
    (predictions,) = run(task, epochs=2).predictions
    encoder = load_encoder(str(tmp_path / "out"), offline=True)
    head = load_file(tmp_path / "out" / "head.safetensors")
    for place, predicted, score in zip(
        predictions.sentence_N, predictions.predicted_N, predictions.score_N, strict=True
    ):
        ids = encode(encoder, [task.corpus.sentences[place]], max_length=32).features_N[0]["input_ids"]
        h_D = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
        z_D = torch.tanh(head["dense.weight"] @ h_D + head["dense.bias"])
        best = (head["output.weight"] @ z_D + head["output.bias"]).softmax(-1).max(-1)
        assert best.indices.item() == predicted
        assert best.values.item() == pytest.approx(score, abs=1e-5)
    assert torch.equal(encoder.model.pooler.dense.weight, head["dense.weight"])


def test_predictions_give_the_kept_score(run: Run) -> None:
    outcome = run(planted(64, 20, label_noise=0.3), epochs=2)
    (predictions,) = outcome.predictions
    assert predictions.labels == ("bad", "good")
    assert predictions.word_N.tolist() == [-1] * 20
    accuracy = np.mean(predictions.gold_N == predictions.predicted_N)
    assert accuracy == pytest.approx(rows_of(outcome, "accuracy")[-1].value)


def test_best_epoch_on_held_out_data_is_restored(run: Run, tmp_path: Path) -> None:
    task = planted(120, 30, label_noise=0.5)
    options = {"epochs": 6, "schedule": "constant", "warmup": 0.0}
    outcome = run(task, select="best_dev", out="best", **options)
    dev = [m.value for m in rows_of(outcome, "accuracy", "dev")]
    best = int(np.argmax(dev))
    assert best < 5, "the task must over-fit for this test to say anything"
    assert outcome.facts["items"] == {"train": 108, "test": 30, "dev": 12}
    assert [bool(m.detail) for m in rows_of(outcome, "accuracy")] == [n == best for n in range(6)]
    assert outcome.facts["epoch"] == best + 1
    (predictions,) = outcome.predictions
    kept = rows_of(outcome, "accuracy")[best].value
    assert np.mean(predictions.gold_N == predictions.predicted_N) == pytest.approx(kept)
    # At a constant rate, a run that ends with its best epoch is the beginning of the longer one.
    run(task, select="best_dev", out="shorter", **{**options, "epochs": best + 1})
    one, two = weights(tmp_path / "best"), weights(tmp_path / "shorter")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_given_dev_split_selects_and_nothing_is_held_out(run: Run) -> None:
    rows: list[tuple[Split, str, str | None, str]] = []
    for n in range(60):
        split: Split = "train" if n < 40 else "dev" if n < 50 else "test"
        rows.append((split, f"good w{n % 30}" if n % 2 else f"bad w{n % 30}", None, str(n % 2)))
    assert run(task_of(rows), select="best_dev", epochs=1).facts["items"] == {"train": 40, "test": 10, "dev": 10}
    assert run(task_of(rows), epochs=1).facts["items"] == {"train": 40, "test": 10}
    without_test = task_of([row for row in rows if row[0] != "test"])
    assert run(without_test, epochs=1).facts["items"] == {"train": 40, "test": 10}


def test_constant_answers_are_flagged_as_collapsed(run: Run) -> None:
    outcome = run(planted(32, 20), epochs=1, learning_rate=1e-12)
    (last,) = rows_of(outcome, "accuracy")
    (predictions,) = outcome.predictions
    assert len(set(predictions.predicted_N.tolist())) == 1
    assert last.detail == {"selected": True, "collapsed": True}


def test_caps_and_truncation(run: Run) -> None:
    outcome = run(planted(60, 30), epochs=1, train_items=24, dev_items=10, max_length=4)
    assert outcome.facts["items"] == {"train": 24, "test": 10}
    truncated = outcome.facts["truncated"]
    assert isinstance(truncated, dict)
    assert 0 < truncated["train"] <= 24


def test_label_absent_from_train_counts_as_an_error(run: Run) -> None:
    rows: list[tuple[Split, str, str | None, str]] = [
        ("train", f"{word} w{n}", None, word) for n in range(30) for word in ("good", "bad")
    ]
    rows += [("test", "good w1", None, "good"), ("test", "bad w1", None, "bad"), ("test", "w3 w4", None, "neither")]
    outcome = run(task_of(rows), epochs=12)
    assert outcome.predictions[0].labels == ("bad", "good", "neither")
    assert rows_of(outcome, "accuracy")[-1].value == pytest.approx(2 / 3)


def test_nothing_but_the_result_is_written(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(planted(32, 8), epochs=2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "head.safetensors",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_trained_is_refused(run: Run, tiny: str, tmp_path: Path) -> None:
    one_class = task_of([("train", "w1", None, "x"), ("test", "w1", None, "x"), ("test", "w2", None, "y")])
    with pytest.raises(InputError, match="only the label 'x' in train"):
        run(one_class)
    with pytest.raises(InputError, match="nothing to evaluate on"):
        run(task_of([("train", "w1", None, "x"), ("train", "w2", None, "y")]))
    with pytest.raises(InputError, match="too few to hold out"):
        run(planted(8, 4), select="best_dev")
    with pytest.raises(InputError, match="33 is more than the 32 positions"):
        run(planted(8, 4), max_length=33)

    def never() -> Encoder:
        raise AssertionError("no model is loaded for a task that cannot be trained")

    options = FinetuneOptions()
    with pytest.raises(InputError, match="unknown metric 'bleu'"):
        finetune(
            options,
            planted(8, 4),
            objective="classify",
            metrics=("bleu",),
            load=never,
            seed=0,
            out=tmp_path,
            report=lambda _: None,
            device="cpu",
        )


def test_loss_that_is_not_finite_is_an_error(run: Run) -> None:
    with pytest.raises(FloatingPointError, match="training loss is nan"):
        run(planted(160, 8), learning_rate=1e30, clip=1e30, epochs=2)


def test_minilm_learns_on_cola(minilm: str, shared_data: Path, tmp_path: Path) -> None:
    rows: list[tuple[Split, str, str | None, str]] = []
    files: list[tuple[Split, str]] = [("train", "in_domain_train"), ("test", "in_domain_dev")]
    for split, name in files:
        for line in (shared_data / "cola" / "raw" / f"{name}.tsv").read_text().splitlines():
            _, label, _, text = line.split("\t")
            rows.append((split, text, None, label))
    outcome = finetune(
        FinetuneOptions(epochs=1, train_items=192, dev_items=50, learning_rate=5e-5, batch_size=16),
        task_of(rows),
        objective="classify",
        metrics=("mcc", "accuracy"),
        load=lambda: load_encoder(minilm, offline=True),
        seed=0,
        out=tmp_path,
        report=lambda _: None,
        device="cpu",
    )
    (loss,) = rows_of(outcome, "train_loss", "train")
    assert 0.3 < loss.value < 0.7
    assert outcome.facts["pooler"] == "pretrained"
    assert outcome.facts["updates"] == 12
    tuned, base = (load_encoder(place, offline=True).model.state_dict() for place in (str(tmp_path), minilm))
    assert all(not torch.equal(tuned[name], base[name]) for name in base)
