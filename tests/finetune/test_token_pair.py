"""Labels of pairs of words: planted relations are learnt, and a pair is lost with either of its words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ftprobe.errors import InputError
from ftprobe.finetune import finetune
from ftprobe.finetune.examples import choose
from ftprobe.finetune.token_pair import make
from ftprobe.measurement import Outcome
from ftprobe.models.align import align
from ftprobe.models.load import load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

Related = tuple[Split, Sequence[str], Sequence[tuple[int, int, str]]]  # head, word, label
FAST = {"max_length": 32, "epochs": 10, "learning_rate": 3e-3, "batch_size": 16}


def task_of(rows: Sequence[Related]) -> TaskData:
    sentences = (
        Sentence(f"s{n}", split, " ".join(words), None, tuple(words)) for n, (split, words, _) in enumerate(rows)
    )
    items = [(n, word, label, head) for n, (*_, pairs) in enumerate(rows) for head, word, label in pairs]
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", *zip(*items, strict=True)))


def planted() -> TaskData:
    """The label says whether the numbers of head and word are odd, in this order."""
    rng = random.Random(0)
    rows: list[Related] = []
    for n in range(150):
        numbers = [rng.randrange(30) for _ in range(rng.randrange(3, 10))]
        pairs = [(at + 1, at, f"{numbers[at + 1] % 2}{numbers[at] % 2}") for at in range(len(numbers) - 1)]
        rows.append(("train" if n < 120 else "test", [f"w{number}" for number in numbers], pairs))
    return task_of(rows)


def run(task: TaskData, place: str, out: Path, **options: object) -> Outcome:
    return finetune(
        FinetuneOptions.model_validate({**FAST, **options}),
        task,
        objective="token_pair",
        metrics=("accuracy",),
        load=lambda: load_encoder(place, offline=True),
        seed=0,
        out=out,
        report=lambda _: None,
        device="cpu",
    )


def test_planted_relation_of_head_and_word_is_learnt(tiny: str, tmp_path: Path) -> None:
    task = planted()
    outcome = run(task, tiny, tmp_path)
    assert [m.value for m in outcome.measurements if m.metric == "accuracy"][-1] == 1.0
    (predictions,) = outcome.predictions
    assert predictions.labels == ("00", "01", "10", "11")
    n = len(predictions.word_N)
    assert predictions.word_N.tolist() == list(task.labels.word_N)[-n:]
    assert predictions.sentence_N.tolist() == list(task.labels.sentence_N)[-n:]


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_logits_are_those_of_head_and_word_in_this_order(tiny: str, pooling: str) -> None:
    rows: list[Related] = [
        ("train", ["w1-w2", "w3", "w4-w5"], [(2, 0, "a"), (0, 1, "b")]),
        ("test", ["w1", "w2"], [(0, 1, "a")]),
    ]
    task, options = task_of(rows), FinetuneOptions.model_validate({**FAST, "head_pooling": pooling})
    encoder = load_encoder(tiny, offline=True)
    objective = make(task, choose(task, options), encoder, options, metrics=("accuracy",), seed=0)
    batch = objective.splits["train"].batch([0])
    assert batch.pop("labels").tolist() == [0, 1]
    logits_MK = objective.head.eval()(**batch)
    tokens = align(encoder, task.corpus, [0], max_length=32, overflow="error").tokens
    h_SD = encoder.model(input_ids=torch.from_numpy(tokens.id_K).long()[None]).last_hidden_state[0]
    pool = {"first": lambda h: h[0], "last": lambda h: h[-1], "mean": lambda h: h.mean(0)}[pooling]
    vector = {word: pool(h_SD[tokens.word_K == word]) for word in range(3)}
    for logits_K, (head, word, _) in zip(logits_MK, rows[0][2], strict=True):
        expected = objective.head.output(torch.cat([vector[head], vector[word]]))
        torch.testing.assert_close(logits_K, expected, atol=1e-6, rtol=1e-5)


def test_a_pair_is_lost_with_its_head_or_its_word(tiny: str, tmp_path: Path) -> None:
    cut = ["w1", "w2", "w3", "w4"]
    rows: list[Related] = [("train", cut[:3], [(0, 1, "a"), (1, 2, "b")])] * 8
    rows += [("test", cut, [(3, 0, "a"), (0, 1, "a"), (1, 2, "b"), (1, 3, "b")])]
    outcome = run(task_of(rows), tiny, tmp_path, max_length=5, epochs=30)
    (predictions,) = outcome.predictions
    assert predictions.predicted_N.tolist() == [-1, 0, 1, -1]
    assert [m.value for m in outcome.measurements if m.metric == "accuracy"][-1] == 0.5
    assert outcome.facts["items_cut_off"] == {"train": 0, "test": 2}


def test_items_of_one_word_are_refused(tiny: str, tmp_path: Path) -> None:
    task = planted()
    with pytest.raises(InputError, match="'toy' has items of one word"):
        run(task._replace(labels=task.labels._replace(head_N=())), tiny, tmp_path)
    beyond = tuple(np.array(task.labels.head_N) + 1)
    with pytest.raises(InputError, match="an item that is no word"):
        run(task._replace(labels=task.labels._replace(head_N=beyond)), tiny, tmp_path)
