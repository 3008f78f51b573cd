"""Tagging of words: planted tags are learnt, losses are those of a loop over words, and words cut off are errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftprobe.errors import InputError
from ftprobe.finetune import finetune
from ftprobe.finetune.examples import choose
from ftprobe.finetune.objective import module_of
from ftprobe.finetune.words import WordClassification
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.align import align
from ftprobe.models.load import load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

Run = Callable[..., Outcome]
Tagged = tuple[Split, Sequence[str], Sequence[str | None]]
FAST = {"max_length": 32, "epochs": 8, "learning_rate": 3e-3, "batch_size": 16}


def task_of(rows: Sequence[Tagged]) -> TaskData:
    """Sentences with a tag for each word; None: the word is no item."""
    items = [(n, w, tag) for n, (*_, tags) in enumerate(rows) for w, tag in enumerate(tags) if tag is not None]
    sentences = (
        Sentence(f"s{n}", split, " ".join(words), None, tuple(words)) for n, (split, words, _) in enumerate(rows)
    )
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", *zip(*items, strict=True)))


def planted(n_train: int = 120, n_test: int = 30, *, previous: bool = False, share: float = 1.0) -> TaskData:
    """A word's tag is its number modulo 3, or that of the word before; only a share of the words are items."""
    rng = random.Random(0)
    rows: list[Tagged] = []
    for n in range(n_train + n_test):
        numbers = [rng.randrange(30) for _ in range(rng.randrange(2, 12))]
        told = [0, *numbers[:-1]] if previous else numbers
        tags = [f"t{number % 3}" if rng.random() < share else None for number in told]
        rows.append(("train" if n < n_train else "test", [f"w{number}" for number in numbers], tags))
    return task_of(rows)


def made(task: TaskData, place: str, objective: str = "tag", **options: object) -> WordClassification:
    chosen = FinetuneOptions.model_validate({**FAST, **options})
    rows = choose(task, chosen)
    encoder = load_encoder(place, offline=True)
    objective_of = module_of(objective).make(task, rows, encoder, chosen, metrics=("accuracy",), seed=0)
    assert isinstance(objective_of, WordClassification)
    return objective_of


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Run:
    def go(task: TaskData, *, seed: int = 0, out: str = "out", **options: object) -> Outcome:
        return finetune(
            FinetuneOptions.model_validate({**FAST, **options}),
            task,
            objective="tag",
            metrics=("accuracy",),
            load=lambda: load_encoder(tiny, offline=True),
            seed=seed,
            out=tmp_path / out,
            report=lambda _: None,
            device="cpu",
        )

    return go


def rows_of(outcome: Outcome, metric: str = "accuracy", split: str = "test") -> list[Measurement]:
    return [m for m in outcome.measurements if (m.metric, m.split) == (metric, split)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "head.safetensors")}


@pytest.mark.parametrize("pooling", ["cls", "first", "last", "mean"])
def test_tag_of_the_word_itself_is_learnt(run: Run, pooling: str) -> None:
    outcome = run(planted(), head_pooling=pooling)
    last = rows_of(outcome)[-1]
    assert last.value == 1.0
    assert last.detail == {"selected": True}
    assert outcome.facts["word_pooling"] == ("mean" if pooling == "cls" else pooling)
    losses = [m.value for m in rows_of(outcome, "train_loss", "train")]
    assert losses[-1] < 0.1 < losses[0]


def test_tag_of_the_word_before_is_learnt(run: Run) -> None:
    outcome = run(planted(240, 30, previous=True), epochs=20, learning_rate=5e-3)
    assert rows_of(outcome)[-1].value > 0.97


def test_only_labelled_words_are_items(run: Run) -> None:
    task = planted(share=0.2)
    outcome = run(task, epochs=12)
    n_train = sum(task.corpus.sentences[s].split == "train" for s in task.labels.sentence_N)
    n_test = len(task.labels.label_N) - n_train
    assert outcome.facts["items"] == {"train": n_train, "test": n_test}
    assert rows_of(outcome, "train_loss", "train")[0].n_items == n_train
    (predictions,) = outcome.predictions
    at = list(zip(task.labels.sentence_N, task.labels.word_N, strict=True))[n_train:]
    assert list(zip(predictions.sentence_N.tolist(), predictions.word_N.tolist(), strict=True)) == at
    assert rows_of(outcome)[-1].value == 1.0


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_loss_is_that_of_a_loop_over_words(tiny: str, pooling: str) -> None:
    rows: list[Tagged] = [
        ("train", ["w1-w2", "w3", "w4-w5"], ["a", None, "b"]),
        ("train", ["w6", "w7-w8-w9"], ["b", "c"]),
        ("test", ["w1"], ["a"]),
    ]
    objective = made(task_of(rows), tiny, head_pooling=pooling)
    batch = objective.splits["train"].batch([1, 0])
    head = objective.head.eval()
    loss, n = objective.loss(head(**{k: v for k, v in batch.items() if k != "labels"}), batch["labels"])
    losses = []
    for _, words, tags in rows[:2]:
        ids, word_s = tokenised(objective, words)
        h_SD = objective.encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        for w, tag in enumerate(tags):
            if tag is not None:
                own = h_SD[word_s == w]
                h_D = {"first": own[0], "last": own[-1], "mean": own.mean(0)}[pooling]
                losses.append(-head.output(h_D).log_softmax(-1)[objective.labels.index(tag)])
    assert n == len(losses) == 4
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-6, rtol=1e-5)


def tokenised(objective: WordClassification, words: Sequence[str]) -> tuple[list[int], np.ndarray]:
    corpus = Corpus("one", (Sentence("s", "train", " ".join(words), None, tuple(words)),))
    tokens = align(objective.encoder, corpus, [0], max_length=32, overflow="error").tokens
    return tokens.id_K.tolist(), tokens.word_K


def test_words_cut_off_leave_the_loss_and_count_as_errors(run: Run, tiny: str) -> None:
    rows: list[Tagged] = [("train", ["w1", "w2", "w3", "w4-w5"], ["a", "b", "a", "b"])] * 8
    rows += [("train", ["w9"] * 4, [None, None, None, "a"])]
    rows += [("test", ["w1", "w2", "w3", "w4-w5"], ["a", "b", "a", "b"]), ("test", ["w1", "w2"], ["a", "b"])]
    objective = made(task_of(rows), tiny, max_length=6)  # four sub-words and two special tokens
    train, test = objective.splits["train"], objective.splits["test"]
    assert [len(train), train.n_items, train.n_truncated] == [9, 33, 8]
    assert train.batch(range(9))["labels"].tolist() == [0, 1, 0] * 8 + [0]
    assert test.lost_N.tolist() == [False, False, False, True, False, False]
    shorter = made(task_of(rows), tiny, max_length=5)
    assert len(shorter.splits["train"]) == 8, "the sentence that lost its only item fills no batch"
    outcome = run(task_of(rows), max_length=6, epochs=30)
    assert rows_of(outcome)[-1].value == pytest.approx(5 / 6)
    assert rows_of(outcome)[-1].n_items == 6
    assert outcome.facts["items_cut_off"] == {"train": 8, "test": 1}
    (predictions,) = outcome.predictions
    assert predictions.predicted_N.tolist() == [0, 1, 0, -1, 0, 1]
    assert predictions.score_N[3] == 0.0
    with pytest.raises(InputError, match="no training item is left of 4 sub-words"):
        run(task_of([("train", ["w1", "w2", "w3"], [None, None, t]) for t in "ab"] + rows[-1:]), max_length=4)


def test_same_seed_gives_the_same_bits(run: Run, tmp_path: Path) -> None:
    task = planted(48, 8)
    one, same, _ = (run(task, seed=seed, out=out, epochs=2) for seed, out in ((0, "a"), (0, "b"), (1, "c")))
    left, right, other = (weights(tmp_path / out) for out in "abc")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(left["output.weight"], other["output.weight"])
    assert one.measurements == same.measurements


def test_state_is_reloaded_as_it_was_evaluated(run: Run, tmp_path: Path) -> None:
    task = planted(48, 12)
    (predictions,) = run(task, epochs=2).predictions
    encoder = load_encoder(str(tmp_path / "out"), offline=True)
    head = load_file(tmp_path / "out" / "head.safetensors")
    tokens, text_S = align(encoder, task.corpus, range(48, 60), max_length=32, overflow="error")
    for sentence, word, predicted, score in zip(
        predictions.sentence_N, predictions.word_N, predictions.predicted_N, predictions.score_N, strict=True
    ):
        own = slice(*tokens.start_U1[text_S[sentence - 48] :][:2])
        h_SD = encoder.model(input_ids=torch.from_numpy(tokens.id_K[own]).long()[None]).last_hidden_state[0]
        h_D = h_SD[tokens.word_K[own] == word].mean(0)
        best = (head["output.weight"] @ h_D + head["output.bias"]).softmax(-1).max(-1)
        assert best.indices.item() == predicted
        assert best.values.item() == pytest.approx(score, abs=1e-5)


def test_constant_answers_are_flagged_as_collapsed(run: Run) -> None:
    rows: list[Tagged] = [("train", [f"w{n}", "good"], ["x", "y"]) for n in range(8)]
    rows += [("test", ["bad", "w1", "w2"], ["y", "x", "x"])]
    (last,) = rows_of(run(task_of(rows), epochs=1, learning_rate=1e-12))
    assert last.value <= 2 / 3
    assert last.detail == {"selected": True, "collapsed": True}


def test_what_is_no_word_is_refused(run: Run) -> None:
    task = planted(8, 4)
    raw = tuple(sentence._replace(words=None) for sentence in task.corpus.sentences)
    with pytest.raises(InputError, match="an item that is no word of sentence 's0'"):
        run(task._replace(corpus=task.corpus._replace(sentences=raw)))
    with pytest.raises(InputError, match="33 is more than the 32 positions"):
        run(task, max_length=33)
    with pytest.raises(InputError, match="only the label 'x' in train"):
        run(task_of([("train", ["w1"], ["x"]), ("test", ["w1"], ["y"])]))
    with pytest.raises(InputError, match="unknown metric 'f1'"):
        module_of("tag").check(task, {"train": [0, 1], "test": [2]}, ("f1",))


def test_minilm_learns_parts_of_speech(minilm: str, shared_data: Path, tmp_path: Path) -> None:
    from ftprobe.tasks.conllu_words import read, treebank_files

    task = read("upos", treebank_files(shared_data / "ud_ewt"), "ud_ewt")
    outcome = finetune(
        FinetuneOptions(epochs=2, train_items=200, dev_items=40, learning_rate=5e-4, batch_size=16),
        task,
        objective="tag",
        metrics=("accuracy",),
        load=lambda: load_encoder(minilm, offline=True),
        seed=0,
        out=tmp_path,
        report=lambda _: None,
        device="cpu",
    )
    first, second = rows_of(outcome, "train_loss", "train")
    assert second.value < first.value < np.log(17)
    assert 0.7 < rows_of(outcome)[-1].value < 1.0
    assert rows_of(outcome)[-1].detail == {"selected": True}
