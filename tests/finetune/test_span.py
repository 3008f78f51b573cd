"""Answer spans: windows and decoding against loops written out, planted answers, and resuming."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from questionlab import Cut, tuned
from safetensors.torch import load_file

from ftprobe.errors import InputError
from ftprobe.finetune import checkpoints
from ftprobe.finetune.span import SpanExtraction, make
from ftprobe.finetune.span_decoding import BEST, best_spans, best_windows
from ftprobe.finetune.squad_scores import scores
from ftprobe.finetune.windows import Question, Windows, covered, frame, starts, within
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.load import load_encoder
from ftprobe.store import Store
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

METRICS = ("f1", "em")
SMALL: dict[str, Any] = {"max_length": 24, "stride": 8, "question_length": 4, "answer_length": 5}
FAST: dict[str, Any] = {**SMALL, "epochs": 5, "learning_rate": 3e-3, "batch_size": 16}


def task_of(rows: Sequence[tuple[Split, str, str, dict[str, Any]]]) -> TaskData:
    sentences = tuple(Sentence(f"q{n}", split, text, passage) for n, (split, text, passage, _) in enumerate(rows))
    n = len(rows)
    labels = tuple(json.dumps(label) for *_, label in rows)
    return TaskData(Corpus("toy", sentences), LabelSet("toy", tuple(range(n)), (-1,) * n, labels))


def planted(n_train: int = 48, n_test: int = 20, *, longest: int = 60, impossible: float = 0.0) -> TaskData:
    """The answer reaches from `good` to the `bad` behind it; passages are up to several windows long."""
    rng = random.Random(0)
    rows: list[tuple[Split, str, str, dict[str, Any]]] = []
    for index in range(n_train + n_test):
        words = [f"w{rng.randrange(30)}" for _ in range(rng.randrange(1, longest))]
        answers: list[list[object]] = []
        if rng.random() >= impossible:
            answer = " ".join(["good", *(f"w{rng.randrange(30)}" for _ in range(rng.randrange(3))), "bad"])
            words.insert(rng.randrange(len(words) + 1), answer)
            answers = [[" ".join(words).index(answer), answer]]
        question = " ".join(f"w{rng.randrange(30)}" for _ in range(rng.randrange(1, 9)))
        label = {"answers": answers, "impossible": not answers}
        rows.append(("train" if index < n_train else "test", question, " ".join(words), label))
    return task_of(rows)


def run(tiny: str, out: Path, task: TaskData, *, seed: int = 0, **options: Any) -> Outcome:
    return tuned("span", METRICS, tiny, out, task, seed=seed, **{**FAST, **options})


def last(outcome: Outcome, metric: str) -> Measurement:
    return [m for m in outcome.measurements if m.metric == metric][-1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "head.safetensors")}


def equal(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 30))
def test_windows_start_as_berts_own_loop_has_them(count: int, room: int, stride: int) -> None:
    expected, at = [], 0
    while True:  # Devlin et al. 2019, run_squad.py
        length = min(count - at, room)
        expected.append(at)
        if at + length == count:
            break
        at += min(length, stride)
    assert starts(count, room, stride) == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_sub_words_of_an_answer_by_hand(lengths: list[int], data: st.DataObject) -> None:
    """Sub-words of 0 characters or more, one blank between them."""
    ends = [sum(lengths[: n + 1]) + n for n in range(len(lengths))]
    characters = np.array([(end - length, end) for end, length in zip(ends, lengths, strict=True)], dtype=np.int32)
    begin = data.draw(st.integers(0, ends[-1]))
    end = data.draw(st.integers(begin, ends[-1]))
    touched = [n for n, (a, b) in enumerate(characters) if set(range(a, b)) & set(range(begin, end))]
    if all(length and begin < end for length in lengths):
        assert covered(characters, begin, end) == ((touched[0], touched[-1]) if touched else None)
    room = data.draw(st.integers(1, 6))
    for first in starts(len(lengths), room, 2):
        held = bool(touched) and set(touched) <= set(range(first, first + room))
        span = (touched[0], touched[-1]) if touched else None
        expected = (touched[0] - first, touched[-1] - first) if held else None
        assert within(span, first, room) == expected


def brute_force(
    start_S: list[float], end_S: list[float], first: int, count: int, length: int
) -> tuple[float, int, int] | None:
    """The best pair of the `BEST` highest starts and ends, by loops."""
    inside = range(first, first + count)
    best_starts = sorted(inside, key=lambda s: -start_S[s])[:BEST]
    best_ends = sorted(inside, key=lambda s: -end_S[s])[:BEST]
    pairs = [(start_S[i] + end_S[j], i - first, j - first) for i in best_starts for j in best_ends]
    allowed = [(value, i, j) for value, i, j in pairs if i <= j < i + length]
    return max(allowed) if allowed else None


@pytest.mark.parametrize("width", [7, 26, 90])
@pytest.mark.parametrize("length", [1, 4, 30])
def test_best_span_equals_a_search_over_all_starts_and_ends(width: int, length: int) -> None:
    generator = torch.Generator().manual_seed(width + length)
    n = 60
    span_nS2 = torch.randn(n, width, 2, generator=generator)
    first_n = torch.randint(1, width // 2 + 1, (n,), generator=generator)
    count_n = torch.tensor([int(torch.randint(0, width - int(f) + 1, (1,), generator=generator)) for f in first_n])
    token_n = torch.randint(0, width, (n,), generator=generator)
    found = [column.tolist() for column in best_spans(span_nS2, first_n, count_n, token_n, length=length)]
    assert 0 < (count_n == 0).sum() < n or width > 7
    for row, (start, end, score, null) in enumerate(zip(*found, strict=True)):
        logits = span_nS2[row, :, 0].tolist(), span_nS2[row, :, 1].tolist()
        expected = brute_force(*logits, int(first_n[row]), int(count_n[row]), length)
        assert null == pytest.approx(logits[0][token_n[row]] + logits[1][token_n[row]])
        if expected is None:
            assert (start, end, score) == (-1, -1, -math.inf)
        else:
            assert score == pytest.approx(expected[0], abs=1e-6)
            assert (start, end) == expected[1:]


def test_best_window_of_each_question_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    question_W = np.repeat(np.arange(20), rng.integers(1, 6, 20)).astype(np.int32)
    score_W = rng.integers(0, 3, len(question_W)).astype(np.float32)
    expected = [
        max((w for w in range(len(question_W)) if question_W[w] == n), key=lambda w: (score_W[w], -w))
        for n in range(20)
    ]
    assert best_windows(question_W, score_W).tolist() == expected


def test_windows_hold_question_passage_and_target(tiny: str) -> None:
    encoder = load_encoder(tiny, offline=True)
    passage = " ".join(f"w{n}" for n in range(20))
    questions = [
        Question("a", "good " * 9, passage, (passage.index("w9"), passage.index("w12") - 1)),
        Question("b", "bad", "w1 w2", None),
        Question("c", "bad", "", None),
    ]
    windows = Windows(encoder, questions, FinetuneOptions(max_length=16, stride=4, question_length=3))
    # [CLS] good good good [SEP] and 10 sub-words [SEP]; w9 to w11 is whole in the windows from 4 and 8 alone.
    assert frame(encoder).size == 3
    assert windows.question_W.tolist() == [0, 0, 0, 0, 1, 2]
    assert windows.lengths() == [16, 16, 16, 14, 6, 4]
    assert (len(windows), windows.n_items, windows.n_truncated) == (6, 3, 1)
    batch = windows.batch(range(6))
    words = [encoder.tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    for row, first in enumerate((0, 4, 8)):
        expected = ["[CLS]", *["good"] * 3, "[SEP]", *(f"w{n}" for n in range(first, first + 10)), "[SEP]"]
        assert words[row] == expected
    assert words[3] == ["[CLS]", *["good"] * 3, "[SEP]", *(f"w{n}" for n in range(12, 20)), "[SEP]", "[PAD]", "[PAD]"]
    assert words[5][:5] == ["[CLS]", "bad", "[SEP]", "[SEP]", "[PAD]"]
    assert batch["token_type_ids"][0].tolist() == [0] * 5 + [1] * 11
    assert batch["labels"].tolist() == [[0, 0, 0], [10, 12, 0], [6, 8, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    begin, end = windows.characters([1, 4], np.array([5, -1]), np.array([7, -1]))
    assert passage[begin[0] : end[0]] == "w9 w10 w11"
    assert (begin[1], end[1]) == (-1, -1)


def test_sub_words_of_real_answers_give_their_text_back(minilm: str, shared_data: Path) -> None:
    articles = json.loads((shared_data / "xquad_en" / "xquad.en.json").read_text())["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions, texts = [], []
    for passage, asked in ((p["context"], q) for p in paragraphs for q in p["qas"]):
        start, text = asked["answers"][0]["answer_start"], asked["answers"][0]["text"]
        questions.append(Question(asked["id"], asked["question"], passage, (start, start + len(text))))
        texts.append([text])
    windows = Windows(load_encoder(minilm, offline=True), questions, FinetuneOptions(max_length=128, stride=48))
    labels = windows.batch(range(len(windows)))["labels"].numpy()
    held = np.flatnonzero(labels[:, 0])
    first_W = windows.columns(range(len(windows)), max(windows.lengths()))[0]
    begin, end = windows.characters(held.tolist(), *(labels[held, k] - first_W[held] for k in (0, 1)))
    read = {windows.question_W[at]: (b, e) for at, b, e in zip(held, begin, end, strict=True)}
    assert len(windows) > len(questions) == 1190
    assert len(read) == len(questions)
    said = [question.passage[slice(*read.get(n, (0, 0)))] for n, question in enumerate(questions)]
    assert scores(said, texts, version="1.1").em > 0.999  # one gold answer ends within a number


def test_planted_answers_are_found_in_long_passages(tiny: str, tmp_path: Path) -> None:
    outcome = run(tiny, tmp_path, planted())
    assert last(outcome, "em").value == 1.0
    assert last(outcome, "f1").value == 1.0
    assert last(outcome, "f1").detail == {"selected": True}
    assert last(outcome, "f1").n_items == 20
    facts = outcome.facts
    assert facts["items"] == {"train": 48, "test": 20}
    windows, truncated = facts["windows"], facts["truncated"]
    assert isinstance(windows, dict)
    assert isinstance(truncated, dict)
    assert windows["train"] > 96
    assert facts["updates"] == 5 * -(-windows["train"] // 16)
    assert 0 < truncated["train"] < 48


def test_unanswerable_questions_are_left_unanswered(tiny: str, tmp_path: Path) -> None:
    outcome = run(tiny, tmp_path, planted(impossible=0.5), epochs=8)
    assert last(outcome, "em").value == 1.0
    assert last(outcome, "f1").value == 1.0


def made(tiny: str, task: TaskData, **options: Any) -> SpanExtraction:
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for row, sentence in enumerate(task.corpus.sentences):
        rows[sentence.split].append(row)
    chosen = FinetuneOptions.model_validate({**SMALL, **options})
    return make(task, rows, load_encoder(tiny, offline=True), chosen, metrics=METRICS, seed=0)


def test_answers_are_those_of_a_search_through_every_window(tiny: str) -> None:
    objective = made(tiny, planted(4, 20, impossible=0.3))
    with torch.no_grad():
        objective.head.span.weight.normal_(generator=torch.Generator().manual_seed(1))
    answers = objective.answers("test")
    windows = objective.splits["test"]
    tokenizer = load_encoder(tiny, offline=True).tokenizer
    texts = []
    shift = float(np.median(answers["score_N"] - answers["null_N"]))  # half of the questions stay unanswered
    for question in range(20):
        best: list[tuple[float, str]] = []
        nulls = []
        for at in np.flatnonzero(windows.question_W == question).tolist():
            batch = windows.batch([at])
            batch.pop("labels")
            with torch.inference_mode():
                start_S, end_S = objective.head.eval()(**batch).span_NS2[0].T.tolist()
            ids = batch["input_ids"][0].tolist()
            first = ids.index(2) + 1
            found = brute_force(start_S, end_S, first, len(ids) - 1 - first, 5)
            nulls.append(start_S[0] + end_S[0])
            if found is not None:
                tokenizer = load_encoder(tiny, offline=True).tokenizer
                best.append((found[0], tokenizer.decode(ids[first + found[1] : first + found[2] + 1])))
        value, text = max(best)
        assert answers["score_N"][question] == pytest.approx(value, abs=1e-4)
        assert answers["null_N"][question] == pytest.approx(min(nulls), abs=1e-4)
        texts.append("" if min(nulls) + shift >= value else text)
    assert objective.texts("test", {**answers, "null_N": answers["null_N"] + np.float32(shift)}) == texts
    assert texts.count("") == 10
    assert {name: array.dtype.kind for name, array in answers.items()} == {
        "begin_N": "i",
        "end_N": "i",
        "score_N": "f",
        "null_N": "f",
    }


def test_scores_by_hand(tiny: str) -> None:
    rows: list[tuple[Split, str, str, dict[str, Any]]] = [
        ("train", "w1", "good w1", {"answers": [[0, "good"]], "impossible": False}),
        ("test", "w1", "w1 w2 w3 w4", {"answers": [[0, "w1 w2"], [3, "w2 w3"]], "impossible": False}),
        ("test", "w1", "w5 w6", {"answers": [[0, "w5"]], "impossible": False}),
    ]
    answers = {
        "begin_N": np.array([3, -1]),
        "end_N": np.array([8, -1]),
        "score_N": np.array([1.0, -np.inf]),
        "null_N": np.array([2.0, 0.0]),
    }
    objective = made(tiny, task_of(rows))
    assert objective.texts("test", answers) == ["w2 w3", ""]
    assert objective.score("em", "test", answers).value == 0.5
    rows.append(("train", "w1", "w5", {"answers": [], "impossible": True}))
    objective = made(tiny, task_of(rows))
    assert objective.texts("test", answers) == ["", ""]
    assert objective.score("f1", "test", answers).value == 0.0
    assert objective.collapsed(answers)


def test_answers_that_ignore_the_question_are_flagged_as_collapsed(tiny: str) -> None:
    objective = made(tiny, planted(8, 30, impossible=0.5))
    n = objective.splits["test"].n_items
    nothing = {"begin_N": np.full(n, -1), "end_N": np.full(n, -1), "score_N": np.full(n, -np.inf)}
    assert objective.collapsed({**nothing, "null_N": np.zeros(n)})
    gold = [one.answers[0] if one.answers else (-1, "") for one in objective.gold["test"]]
    right = {
        "begin_N": np.array([begin for begin, _ in gold]),
        "end_N": np.array([begin + len(text) for begin, text in gold]),
        "score_N": np.array([float(begin) for begin, _ in gold]),
    }
    assert objective.score("em", "test", {**right, "null_N": np.full(n, -0.5)}).value == 1.0
    assert not objective.collapsed({**right, "null_N": np.full(n, -0.5)})


def test_loss_is_the_mean_of_two_cross_entropies(tiny: str) -> None:
    objective = made(tiny, planted(6, 4))
    batch = objective.splits["train"].batch(range(6))
    labels = batch.pop("labels")
    outputs = objective.head.eval()(**batch)
    loss, n = objective.loss(outputs, labels)
    probability_nS2 = outputs.span_NS2.softmax(1)
    assert (probability_nS2[batch["attention_mask"] == 0] == 0).all()
    picked = [probability_nS2[row, labels[row, k], k] for row in range(6) for k in (0, 1)]
    assert n == 6
    assert loss.item() == pytest.approx(-torch.stack(picked).log().mean().item(), rel=1e-5)


def test_state_is_reloaded_as_it_was_evaluated(tiny: str, tmp_path: Path) -> None:
    task = planted(40, 10)
    outcome = run(tiny, tmp_path, task, epochs=1, learning_rate=1e-3)
    objective = made(str(tmp_path), task)
    head = load_file(tmp_path / "head.safetensors")
    objective.head.span.load_state_dict({key: head[f"span.{key}"] for key in ("weight", "bias")})
    answers = objective.answers("test")
    for metric in METRICS:
        assert objective.score(metric, "test", answers).value == last(outcome, metric).value
    assert 0 < last(outcome, "f1").value < 1


def test_same_seed_gives_the_same_bits_and_another_does_not(tiny: str, tmp_path: Path) -> None:
    task = planted(8, 4)
    one, same, other = (
        run(tiny, tmp_path / out, task, seed=seed, epochs=2) for seed, out in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert equal(tmp_path / "a", tmp_path / "b")
    assert not equal(tmp_path / "a", tmp_path / "c")
    assert one.measurements == same.measurements != other.measurements


@pytest.mark.parametrize("options", [{}, {"select": "best_dev"}], ids=["last", "best_dev"])
def test_a_run_that_was_cut_ends_as_an_undisturbed_one(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    task, options = planted(20, 6, impossible=0.3), {"epochs": 3, **options}
    whole = run(tiny, tmp_path / "whole", task, **options)
    with pytest.raises(Cut):
        run(tiny, tmp_path / "lost", task, store=Store.open(tmp_path / "store"), cut=1, **options)
    resumed = run(tiny, tmp_path / "resumed", task, store=Store.open(tmp_path / "store"), **options)
    assert resumed.facts["resumed_from_epoch"] == 1
    assert resumed.measurements == whole.measurements
    assert equal(tmp_path / "whole", tmp_path / "resumed")


def test_what_cannot_be_trained_is_refused(tiny: str, tmp_path: Path) -> None:
    task = planted(8, 4)
    with pytest.raises(InputError, match="33 is more than the 32 positions"):
        run(tiny, tmp_path, task, max_length=33)
    with pytest.raises(InputError, match="7 leaves no room for the passage beside question"):
        run(tiny, tmp_path, task, max_length=7)
    label = task.labels.label_N[-1]
    for wrong, message in (("good", "no JSON object"), ("[]", "no JSON object"), ("{}", "neither an answer")):
        labels = task.labels._replace(label_N=(*task.labels.label_N[:-1], wrong))
        with pytest.raises(InputError, match=f"question q11: .*{message}"):
            run(tiny, tmp_path, task._replace(labels=labels))
    place = json.loads(label)
    place["answers"][0][0] = -1
    lost = task.labels._replace(label_N=(json.dumps(place),) * 12)
    with pytest.raises(InputError, match="no answer in train whose place"):
        run(tiny, tmp_path, task._replace(labels=lost))
    without = tuple(s._replace(text_b=None) for s in task.corpus.sentences)
    with pytest.raises(InputError, match="no passage"):
        run(tiny, tmp_path, task._replace(corpus=Corpus("toy", without)))
