"""The biaffine parser: a deterministic grammar is learnt, loss and scores are those written out, trees are the best."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftprobe.errors import InputError
from ftprobe.finetune import finetune
from ftprobe.finetune.examples import choose
from ftprobe.finetune.parse import NO_HEAD, Parsing, make
from ftprobe.finetune.trees import is_punctuation
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.heads import Parser, Sizes
from ftprobe.models.load import load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

Run = Callable[..., Outcome]
Tree = tuple[Split, Sequence[str], Sequence[int], Sequence[str]]  # words, heads (-1: root), relations
FAST = {"max_length": 32, "epochs": 15, "learning_rate": 3e-3, "batch_size": 16, "arc_size": 32, "label_size": 16}


def task_of(rows: Sequence[Tree]) -> TaskData:
    sentences = (
        Sentence(f"s{n}", split, " ".join(words), None, tuple(words)) for n, (split, words, *_) in enumerate(rows)
    )
    items = [
        (n, word, relation, head)
        for n, (_, _, heads, relations) in enumerate(rows)
        for word, (head, relation) in enumerate(zip(heads, relations, strict=True))
    ]
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", *zip(*items, strict=True)))


def grammar(n_train: int = 200, n_test: int = 40) -> TaskData:
    """w0..w9 are adjectives of the noun after them; `good` is the verb between subject and object."""
    rng = random.Random(0)
    rows: list[Tree] = []
    for n in range(n_train + n_test):
        words: list[str] = []
        heads: list[int] = []
        relations: list[str] = []
        verb = -1
        for side in ("nsubj", "obj"):
            adjectives = rng.randrange(3)
            noun = len(words) + adjectives
            words += [f"w{rng.randrange(10)}" for _ in range(adjectives)] + [f"w{rng.randrange(10, 30)}"]
            heads += [noun] * adjectives + [verb]
            relations += ["amod"] * adjectives + [side]
            if verb < 0:
                verb = len(words)
                heads[-1] = verb
                words, heads, relations = [*words, "good"], [*heads, -1], [*relations, "root"]
        rows.append(("train" if n < n_train else "test", words, heads, relations))
    return task_of(rows)


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Run:
    def go(task: TaskData, *, out: str = "out", **options: object) -> Outcome:
        return finetune(
            FinetuneOptions.model_validate({**FAST, **options}),
            task,
            objective="biaffine",
            metrics=("las", "uas"),
            load=lambda: load_encoder(tiny, offline=True),
            seed=0,
            out=tmp_path / out,
            report=lambda _: None,
            device="cpu",
        )

    return go


def made(task: TaskData, place: str, **options: object) -> Parsing:
    chosen = FinetuneOptions.model_validate({**FAST, **options})
    return make(task, choose(task, chosen), load_encoder(place, offline=True), chosen, metrics=("las", "uas"), seed=0)


def last(outcome: Outcome, metric: str) -> Measurement:
    return [m for m in outcome.measurements if (m.metric, m.split) == (metric, "test")][-1]


def test_a_deterministic_grammar_is_learnt(run: Run) -> None:
    outcome = run(grammar())
    assert last(outcome, "las").value > 0.98
    assert last(outcome, "uas").value >= last(outcome, "las").value
    assert last(outcome, "las").detail == {"selected": True}
    (predictions,) = outcome.predictions
    assert np.mean(predictions.gold_N == predictions.predicted_N) == pytest.approx(last(outcome, "las").value)
    assert "3 nsubj" in predictions.labels
    assert "0 root" in predictions.labels
    assert predictions.score_N.min() > 0.0


def test_loss_and_scores_are_those_written_out(tiny: str) -> None:
    rows: list[Tree] = [
        ("train", ["w1-w2", "w3", "good"], [2, 0, -1], ["a", "b", "root"]),
        ("train", ["good", "w4"], [-1, 0], ["root", "a"]),
        ("test", ["good"], [-1], ["root"]),
    ]
    objective = made(task_of(rows), tiny)
    head, encoder = objective.head.eval(), objective.encoder
    with torch.no_grad():
        for parameter in head.biaffine.parameters():
            parameter.mul_(10).add_(0.05)
    batch = objective.splits["train"].batch([1, 0])
    labels = batch.pop("labels")
    arcs = head(**batch)
    pieces = [["good", "w4"], ["w1", "-", "w2", "w3", "good"]]
    firsts = [[0, 1, 2], [0, 1, 4, 5]]
    arc_losses, label_losses = [], []
    for n, (words, places, (_, _, heads, relations)) in enumerate(zip(pieces, firsts, rows[1::-1], strict=True)):
        ids = encoder.tokenizer(words, is_split_into_words=True)["input_ids"]
        h_TD = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0, places]
        for i, (gold, relation) in enumerate(zip(heads, relations, strict=True)):
            said = [written_out(head, h_TD[i + 1], h_TD[j]) for j in range(len(places))]
            score_T = torch.stack([score for score, _ in said])
            torch.testing.assert_close(arcs.arc_NTT[n, i, : len(places)], score_T, atol=1e-4, rtol=1e-4)
            arc_losses.append(-score_T.log_softmax(-1)[gold + 1])
            label_losses.append(-said[gold + 1][1].log_softmax(-1)[objective.labels.index(relation)])
    assert torch.isinf(arcs.arc_NTT[0, :, 3:]).all()
    loss, n_words = objective.loss(arcs, labels)
    assert n_words == 5
    expected = torch.stack(arc_losses).mean() + torch.stack(label_losses).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def written_out(head: Parser, dependant_D: torch.Tensor, head_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and label logits of one arc, by the formulas of METHODS 1.1."""
    weights = dict(head.biaffine.named_parameters())

    def mapped(name: str, h_D: torch.Tensor) -> torch.Tensor:
        a = weights[f"{name}.0.weight"] @ h_D + weights[f"{name}.0.bias"]
        return torch.where(a > 0, a, 0.1 * a)

    d, e = mapped("arc_dependant", dependant_D), mapped("arc_head", head_D)
    score = d @ weights["arc_pair"] @ e + weights["arc_prior"] @ e
    d, e = mapped("label_dependant", dependant_D), mapped("label_head", head_D)
    pairs = [d @ u @ e for u in weights["label_pair"]]
    each = weights["label_each.weight"] @ torch.cat([d, e]) + weights["label_each.bias"]
    return score, torch.stack(pairs) + each


def test_answers_are_the_best_of_all_trees(tiny: str) -> None:
    task = grammar(40, 30)
    objective = made(task, tiny)
    with torch.no_grad():
        for parameter in objective.head.biaffine.parameters():
            parameter.mul_(20)
    answers, test = objective.answers("test"), objective.splits["test"]
    checked = 0
    for index in range(len(test)):
        items = test.items(index)
        if len(items) > 5:
            continue
        batch = test.batch([index])
        batch.pop("labels")
        with torch.no_grad():
            score_TH = objective.head.eval()(**batch).arc_NTT[0].double().numpy()
        value = score_TH[np.arange(len(items)), answers["head_N"][items] + 1].sum()
        best = max(score_TH[np.arange(len(items)), np.array(heads) + 1].sum() for heads in trees(len(items)))
        assert tuple(answers["head_N"][items]) in trees(len(items))
        assert value == pytest.approx(best, abs=1e-4)
        checked += 1
    assert checked > 8


def trees(n: int) -> set[tuple[int, ...]]:
    """All trees over n words with one root child."""

    def reaches(heads: Sequence[int], word: int) -> bool:
        for _ in range(n):
            word = heads[word]
            if word < 0:
                return True
        return False

    every = itertools.product(range(-1, n), repeat=n)
    return {h for h in every if h.count(-1) == 1 and all(reaches(h, word) for word in range(n))}


def scored(objective: Parsing, heads: Sequence[int], relations: Sequence[str]) -> tuple[float, float]:
    ids = np.array([objective.labels.index(relation) for relation in relations])
    answers = {"head_N": np.array(heads, dtype=np.int32), "predicted_N": ids}
    return objective.score("uas", "test", answers).value, objective.score("las", "test", answers).value


def test_subtypes_and_punctuation_are_as_asked_for(tiny: str) -> None:
    rows: list[Tree] = [
        ("train", ["w1", "good"], [1, -1], ["nsubj:pass", "root"]),
        ("test", ["w1", "good", "."], [1, -1, 1], ["nsubj:pass", "root", "punct"]),
    ]
    plain = made(task_of(rows), tiny)
    assert plain.labels == ("nsubj", "punct", "root")
    assert scored(plain, [1, -1, 0], ["nsubj", "punct", "punct"]) == (2 / 3, 1 / 3)
    kept = made(task_of(rows), tiny, subtypes="keep", punctuation="ignore")
    assert kept.labels == ("nsubj:pass", "punct", "root")
    assert scored(kept, [1, -1, 0], ["nsubj:pass", "punct", "punct"]) == (1.0, 0.5)
    assert (kept.splits["train"].n_items, kept.splits["test"].n_items, plain.splits["test"].n_items) == (2, 2, 3)
    (predictions,) = kept.predictions(kept.answers("test"))
    assert predictions.word_N.tolist() == [0, 1]
    assert [form for form in ("...", "?!", "«", "$", "a.", "-") if is_punctuation(form)] == ["...", "?!", "«", "-"]


def test_words_cut_off_leave_the_loss_and_count_as_errors(tiny: str, run: Run) -> None:
    rows: list[Tree] = [
        ("train", ["w1", "good", "w11", "w12"], [1, -1, 3, 1], ["nsubj", "root", "amod", "obj"]),
        ("train", ["w1", "w2", "w3", "good"], [3, 3, 3, -1], ["nsubj", "nsubj", "nsubj", "root"]),
    ]
    rows += [("test", *rows[0][1:])]
    objective = made(task_of(rows), tiny, max_length=5)  # three words and two special tokens
    train = objective.splits["train"]
    assert len(train) == 1, "no arc is left of the second sentence"
    assert train.lost_N.tolist() == [False, False, False, True, True, True, True, True]
    labels = objective.labels
    gold = [[2, labels.index("nsubj")], [0, labels.index("root")], [-100, -100]]
    assert train.batch([0])["labels"].tolist() == [gold]
    answers = objective.answers("test")
    assert answers["head_N"][3] == NO_HEAD
    assert (answers["predicted_N"][3], answers["score_N"][3]) == (-1, 0.0)
    outcome = run(task_of([*rows[:1] * 16, rows[2]]), max_length=5, epochs=40)
    assert last(outcome, "uas").value == 0.5
    assert last(outcome, "las").value == 0.5
    assert last(outcome, "las").n_items == 4
    assert outcome.facts["items_cut_off"] == {"train": 16, "test": 1}


def test_neighbours_as_heads_are_flagged_as_collapsed(tiny: str) -> None:
    objective = made(grammar(20, 30), tiny)
    test = objective.splits["test"]

    def collapsed(heads: Any) -> bool:
        return objective.collapsed({"head_N": np.array(heads, dtype=np.int32), "predicted_N": test.label_N})

    ends = np.append(np.diff(test.sentence_N) > 0, True)
    following = np.where(ends, -1, test.word_N + 1)
    assert collapsed(following)
    assert collapsed(test.word_N - 1)
    better = following.copy()
    wrong = np.flatnonzero(better != test.head_N)[0]
    better[wrong] = test.head_N[wrong]
    assert not collapsed(better)
    assert not collapsed(test.head_N)


def test_same_seed_gives_the_same_bits_and_the_state_reloads(run: Run, tiny: str, tmp_path: Path) -> None:
    task = grammar(48, 12)
    outcomes = [run(task, out=out, epochs=3) for out in ("a", "b")]
    one, two = (
        {**load_file(tmp_path / out / "model.safetensors"), **load_file(tmp_path / out / "head.safetensors")}
        for out in "ab"
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert outcomes[0].measurements == outcomes[1].measurements
    objective = made(task, str(tmp_path / "a"))
    tuned = {n.removeprefix("biaffine."): t for n, t in load_file(tmp_path / "a" / "head.safetensors").items()}
    objective.head.biaffine.load_state_dict(tuned)
    (again,), (predictions,) = objective.predictions(objective.answers("test")), outcomes[0].predictions
    assert again.predicted_N.tolist() == predictions.predicted_N.tolist()
    np.testing.assert_allclose(again.score_N, predictions.score_N, atol=1e-5)


def test_dropout_and_seed_reach_the_maps(tiny: str) -> None:
    encoder = load_encoder(tiny, offline=True)
    sizes = Sizes(8, 4, 3, 0.5)
    one, same, other = (Parser(encoder, sizes, dropout=0.2, seed=seed).biaffine for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.arc_pair, other.arc_pair)
    assert {m.p for m in one.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    assert {m.p for m in encoder.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}


def test_what_is_no_tree_is_refused(run: Run) -> None:
    task = grammar(8, 4)
    with pytest.raises(InputError, match="'toy' has no heads"):
        run(task._replace(labels=task.labels._replace(head_N=())))
    columns = task.labels
    fewer = LabelSet("toy", *(column[1:] for column in columns[1:]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="heads for the words of sentence 's0'"):
        run(task._replace(labels=fewer))
