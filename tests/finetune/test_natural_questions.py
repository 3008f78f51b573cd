"""Natural Questions: planted kinds of answers, what is learnt of a page, thresholds, sub-sampling and resuming."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from questionlab import Cut, tuned
from safetensors import safe_open
from safetensors.torch import load_file

from ftprobe.errors import InputError
from ftprobe.finetune import checkpoints
from ftprobe.finetune.natural_questions import (
    METRICS,
    TYPES,
    Gold,
    NaturalQuestions,
    characters_of,
    make,
    said,
    to_learn,
    tokens_of,
)
from ftprobe.finetune.nq_scores import Annotation, best_threshold, judge_long, judge_short
from ftprobe.measurement import Outcome
from ftprobe.models.load import load_encoder
from ftprobe.store import Store
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

MARKS = {"short": ("good", "bad"), "long": ("w24", "w25"), "yes": ("w26", "w27"), "no": ("w28", "w29")}
FAST: dict[str, Any] = {
    "max_length": 28,
    "stride": 10,
    "question_length": 4,
    "answer_length": 8,
    "null_windows": 0.3,
    "epochs": 8,
    "learning_rate": 3e-3,
    "batch_size": 16,
}


def page(rng: random.Random, kind: str) -> tuple[str, str]:
    """A page of paragraphs, one of which may hold an answer: what its kind's two marks enclose.

    A short answer is all between the marks, them included; a long one is the whole paragraph, which they enclose.
    """
    paragraphs = [[f"w{rng.randrange(20)}" for _ in range(rng.randrange(1, 7))] for _ in range(rng.randrange(1, 7))]
    label: dict[str, Any] = {"long": [None], "short": [[]], "yes_no": ["none"]}
    at = rng.randrange(len(paragraphs))
    if kind != "null":
        first, last = MARKS[kind]
        enclosed = [first, *paragraphs[at][:2], last]
        paragraphs[at] = ["w20", *enclosed, "w21"] if kind == "short" else enclosed
    starts = np.cumsum([0, *map(len, paragraphs)]).tolist()
    label["candidates"] = [[a, b, True] for a, b in pairwise(starts)]
    label["candidates"] += [[starts[at], starts[at] + 1, False], [0, starts[-1], True]]
    if kind != "null":
        label["long"] = [[starts[at], starts[at + 1]]]
        if kind == "short":
            label["short"] = [[[starts[at] + 1, starts[at + 1] - 1]]]
        elif kind != "long":
            label["yes_no"] = [kind]
    return " ".join(word for paragraph in paragraphs for word in paragraph), json.dumps(label)


def planted(n_train: int = 60, n_test: int = 20, kinds: Sequence[str] = TYPES) -> TaskData:
    rng = random.Random(0)
    sentences, labels = [], []
    for n in range(n_train + n_test):
        passage, label = page(rng, kinds[n % len(kinds)])
        split: Split = "train" if n < n_train else "test"
        sentences.append(Sentence(f"q{n}", split, f"w{rng.randrange(20)}", passage))
        labels.append(label)
    n = len(labels)
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", tuple(range(n)), (-1,) * n, tuple(labels)))


def run(tiny: str, out: Path, task: TaskData, **options: Any) -> Outcome:
    return tuned("span_type", METRICS, tiny, out, task, **{**FAST, **options})


def made(tiny: str, task: TaskData, *, dev: int = 0, seed: int = 0, **options: Any) -> NaturalQuestions:
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for row, sentence in enumerate(task.corpus.sentences):
        rows[sentence.split].append(row)
    if dev:
        rows["dev"] = rows["train"][-dev:]
        del rows["train"][-dev:]
    chosen = FinetuneOptions.model_validate({**FAST, **options})
    return make(task, rows, load_encoder(tiny, offline=True), chosen, metrics=METRICS, seed=seed)


def test_planted_answers_of_every_kind_are_found(tiny: str, tmp_path: Path) -> None:
    outcome = run(tiny, tmp_path, planted(100, 20), epochs=20, dropout=0.0, batch_size=8)
    scores = {m.metric: m.value for m in outcome.measurements if m.epoch == 20 and m.split == "test"}
    assert scores == dict.fromkeys(METRICS, 1.0)
    assert outcome.facts["thresholds_from"] == "test"
    with safe_open(tmp_path / "head.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["labels"]) == list(TYPES)
        assert file.get_tensor("types.weight").shape == (5, 32)


def test_what_is_learnt_of_several_annotations() -> None:
    nothing, long, other = Annotation(), Annotation((5, 9)), Annotation((2, 4))
    short = Annotation((10, 20), ((12, 13), (11, 12), (16, 18)))
    yes = Annotation((3, 5), yes_no="yes")
    assert to_learn([nothing, nothing]) is None
    assert to_learn([nothing, long, other]) == ((2, 4), "long")
    assert to_learn([long, other, short]) == ((11, 18), "short")
    assert to_learn([long, yes]) == ((3, 5), "yes")


def test_answers_of_a_span_by_hand() -> None:
    gold = Gold((), ((0, 20), (4, 10), (10, 20)))
    assert said(gold, (5, 7), "short") == Annotation((4, 10), ((5, 7),), "none")
    assert said(gold, (5, 7), "long") == Annotation((4, 10))
    assert said(gold, (9, 11), "no") == Annotation((0, 20), (), "no")
    assert said(gold, (19, 21), "short") == Annotation(None, ((19, 21),))
    assert said(gold, (-1, -1), "yes") == Annotation()


def test_tokens_and_characters_of_a_page_agree() -> None:
    words = ["<P>", "a", "bcd", "é", "x"]
    passage = " ".join(words)
    for first in range(5):
        for end in range(first + 1, 6):
            begin, stop = characters_of(passage, (first, end))
            assert passage[begin:stop] == " ".join(words[first:end])
            assert tokens_of(passage, begin, stop) == (first, end)
            if begin:  # sub-words of SentencePiece begin with the blank before them
                assert tokens_of(passage, begin - 1, stop) == (first, end)


def test_windows_of_train_are_those_with_answers_and_a_share_of_the_rest(tiny: str) -> None:
    task = planted(100, 5)
    every, some, fewer, none = (
        made(tiny, task, null_windows=share, seed=seed) for share, seed in ((1.0, 0), (0.3, 0), (0.1, 1), (0.0, 2))
    )
    kept = [shown(objective) for objective in (none, fewer, some, every)]
    assert set(kept[0]) < set(kept[1]) < set(kept[2]) < set(kept[3])
    null = len(kept[3]) - len(kept[0])
    assert (len(kept[2]) - len(kept[0])) / null == pytest.approx(0.3, abs=0.12)
    labels = none.splits["train"].batch(range(len(none.splits["train"])))["labels"]
    assert set(labels[:, 2].tolist()) == {1, 2, 3, 4}
    assert (labels[:, 0] > 0).all()
    labels = every.splits["train"].batch(range(len(every.splits["train"])))["labels"]
    assert ((labels[:, 2] == 0) == (labels[:, 0] == 0)).all()
    assert len(every.splits["test"]) == len(none.splits["test"])


def shown(objective: NaturalQuestions) -> list[tuple[int, ...]]:
    windows = objective.splits["train"]
    return [
        (
            int(windows.question_W[w]),
            *windows.batch([w])["input_ids"][0].tolist(),
            *windows.batch([w])["labels"][0].tolist(),
        )
        for w in range(len(windows))
    ]


def test_loss_is_the_sum_of_three_cross_entropies(tiny: str) -> None:
    objective = made(tiny, planted(20, 5))
    batch = objective.splits["train"].batch(range(7))
    labels = batch.pop("labels")
    outputs = objective.head.eval()(**batch)
    loss, n = objective.loss(outputs, labels)
    assert n == 7
    expected = 0.0
    for row in range(7):
        for k in (0, 1):
            expected -= outputs.span_NS2[row].softmax(0)[labels[row, k], k].log().item() / 7
        expected -= outputs.type_NK[row].softmax(0)[labels[row, 2]].log().item() / 7
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_span_score_is_less_the_classification_tokens_and_the_best_window_counts(tiny: str) -> None:
    objective = made(tiny, planted(10, 10))
    with torch.no_grad():
        for module in (objective.head.span, objective.head.types):
            assert module is not None
            module.weight.normal_(generator=torch.Generator().manual_seed(1))
    answers = objective.answers("test")
    windows = objective.splits["test"]
    tokenizer = load_encoder(tiny, offline=True).tokenizer
    for question in range(10):
        found = []
        for at in np.flatnonzero(windows.question_W == question).tolist():
            batch = windows.batch([at])
            batch.pop("labels")
            with torch.inference_mode():
                outputs = objective.head.eval()(**batch)
            start_S, end_S = outputs.span_NS2[0].T.tolist()
            (first,), (count,), _ = windows.columns([at], batch["input_ids"].shape[1])
            ids = batch["input_ids"][0].tolist()
            inside = range(first, first + count)
            for i, j in ((i, j) for i in inside for j in inside if i <= j < i + 8):
                words = tokenizer.convert_ids_to_tokens(ids[i : j + 1])
                kind = 1 + max(range(4), key=outputs.type_NK[0, 1:].tolist().__getitem__)
                found.append((start_S[i] + end_S[j] - start_S[0] - end_S[0], words, kind))
        value, words, kind = max(found)
        assert answers["score_N"][question] == pytest.approx(value, abs=1e-4)
        assert answers["type_N"][question] == kind
        tokens = windows.questions[question].passage.split(" ")
        assert tokens[answers["begin_N"][question] : answers["end_N"][question]] == words


def test_thresholds_of_test_are_those_of_dev(tiny: str) -> None:
    task = planted(40, 10)
    objective = made(tiny, task, dev=15)
    assert list(objective.splits) == ["train", "dev", "test"]
    dev, test = objective.answers("dev"), objective.answers("test")
    assert "thresholds_2" not in dev
    given = [gold.annotations for gold in objective.gold["dev"]]
    expected = [
        best_threshold(judge(given, objective.annotations("dev", dev), dev["score_N"].tolist())).threshold
        for judge in (judge_long, judge_short)
    ]
    assert test["thresholds_2"].tolist() == expected
    again = objective.answers("test")  # without dev's answers at hand
    assert again["thresholds_2"].tolist() == expected
    # Above every score nothing is answered; with every answer in, precision and recall are by hand.
    high = {**test, "thresholds_2": np.array([np.inf, np.inf])}
    assert {objective.score(metric, "test", high).value for metric in METRICS} == {0.0}
    low = {**test, "thresholds_2": np.array([-np.inf, -np.inf])}
    said_N = objective.annotations("test", low)
    gold_N = [gold.annotations[0] for gold in objective.gold["test"]]
    right = sum(a.long is not None and a.long == b.long for a, b in zip(said_N, gold_N, strict=True))
    assert objective.score("long_p", "test", low).value == right / sum(a.long is not None for a in said_N)
    assert objective.score("long_r", "test", low).value == right / sum(b.long is not None for b in gold_N)


def test_constant_answers_are_flagged_as_collapsed(tiny: str) -> None:
    objective = made(tiny, planted(10, 20))
    gold = [one.annotations[0] for one in objective.gold["test"]]
    spans = [to_learn([one]) or ((-1, -1), "null") for one in gold]
    right = {
        "begin_N": np.array([span[0] for span, _ in spans]),
        "end_N": np.array([span[1] for span, _ in spans]),
        "type_N": np.array([TYPES.index(kind) for _, kind in spans]),
        "score_N": np.zeros(20),
    }
    assert {objective.score(metric, "test", right).value for metric in METRICS} == {1.0}
    assert not objective.collapsed(right)
    first = {**right, "begin_N": np.zeros(20, dtype=int), "end_N": np.ones(20, dtype=int)}
    assert objective.collapsed(first)


def test_a_run_that_was_cut_ends_as_an_undisturbed_one(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    task, options = planted(30, 10), {"epochs": 3, "select": "best_dev"}
    whole = run(tiny, tmp_path / "whole", task, **options)
    with pytest.raises(Cut):
        run(tiny, tmp_path / "lost", task, store=Store.open(tmp_path / "store"), cut=1, **options)
    resumed = run(tiny, tmp_path / "resumed", task, store=Store.open(tmp_path / "store"), **options)
    assert resumed.facts["resumed_from_epoch"] == 1
    assert resumed.facts["thresholds_from"] == "dev"
    assert resumed.measurements == whole.measurements
    left, right = (
        {**load_file(tmp_path / out / "model.safetensors"), **load_file(tmp_path / out / "head.safetensors")}
        for out in ("whole", "resumed")
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_what_cannot_be_trained_is_refused(tiny: str, tmp_path: Path) -> None:
    task = planted(10, 4)
    with pytest.raises(InputError, match="no answer in train"):
        run(tiny, tmp_path, planted(10, 4, kinds=["null"]))
    squad = json.dumps({"answers": [[0, "w1"]], "impossible": False})
    with pytest.raises(InputError, match="question q13: the label has no 'candidates'"):
        run(tiny, tmp_path, task._replace(labels=task.labels._replace(label_N=(*task.labels.label_N[:-1], squad))))
    with pytest.raises(InputError, match="no window of train holds a whole answer"):
        run(tiny, tmp_path, task, null_windows=0.0, max_length=6)
