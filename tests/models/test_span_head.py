"""The span head and its windows on every architecture, against formulas and the tokenizers' own windows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ftprobe.errors import InputError
from ftprobe.finetune.span_decoding import decode
from ftprobe.finetune.windows import Question, Windows
from ftprobe.models.heads import SpanHead
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.study import FinetuneOptions

Checkpoint = Callable[[str], Path]
OPTIONS = FinetuneOptions(max_length=16, stride=4, question_length=6)
FAMILIES = ["albert", "bert", "deberta", "deberta-v2", "distilbert", "roberta", "xlnet"]


@pytest.fixture(params=FAMILIES)
def encoder(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Encoder:
    return load_encoder(str(checkpoint(request.param)), offline=True)


def head_on(encoder: Encoder, dropout: float = 0.0) -> SpanHead:
    head = SpanHead(encoder, 5, dropout=dropout, seed=0)
    with torch.no_grad():
        # New weights are so small that logits of different texts would pass for equal.
        head.span.weight.mul_(50)
    return head


def questions(n: int) -> list[Question]:
    made = []
    for i in range(n):
        passage = " ".join(f"w{(i * 7 + j) % 40}" for j in range(1 + i * 5 % 23))
        word = passage.split()[i % 3 % len(passage.split())]
        begin = (" " + passage + " ").index(f" {word} ")
        made.append(Question(str(i), " ".join(f"w{j}" for j in range(1 + i % 5)), passage, (begin, begin + len(word))))
    return made


def test_windows_are_those_of_the_tokenizer_s_own_overlap(encoder: Encoder) -> None:
    asked = questions(12)
    windows = Windows(encoder, asked, OPTIONS)
    expected = []
    for number, question in enumerate(asked):
        room = 16 - encoder.tokenizer.num_special_tokens_to_add(pair=True) - len(question.text.split())
        own = encoder.tokenizer(
            question.text,
            question.passage,
            truncation="only_second",
            max_length=16,
            stride=room - min(4, room),
            return_overflowing_tokens=True,
            return_token_type_ids=True,
        )
        expected += [(number, ids, types) for ids, types in zip(own["input_ids"], own["token_type_ids"], strict=True)]
    assert windows.question_W.tolist() == [number for number, *_ in expected]
    for at, (_, ids, types) in enumerate(expected):
        batch = windows.batch([at])
        assert batch["input_ids"][0].tolist() == ids
        if "token_type_ids" in batch:
            assert batch["token_type_ids"][0].tolist() == types
    assert ("token_type_ids" in windows.batch([0])) == (encoder.model.config.model_type in ("albert", "bert", "xlnet"))


def test_labels_are_columns_of_the_padded_batch(encoder: Encoder) -> None:
    asked = questions(12)
    windows = Windows(encoder, asked, OPTIONS)
    batch = windows.batch(range(len(windows)))
    assert (batch["attention_mask"] == 0).any()
    held = 0
    for row, (first, last, _) in enumerate(batch["labels"].tolist()):
        question = asked[windows.question_W[row]]
        words = encoder.tokenizer.convert_ids_to_tokens(batch["input_ids"][row].tolist())
        assert batch["attention_mask"][row, first] == 1
        answer = question.passage[slice(*question.answer)]  # type: ignore[misc]
        if words[first] == encoder.tokenizer.cls_token:
            assert first == last
        else:
            assert words[first : last + 1] == [answer]
            held += 1
    assert held >= 12


def test_padding_and_groups_change_no_answer(encoder: Encoder) -> None:
    windows, head = Windows(encoder, questions(12), OPTIONS), head_on(encoder)
    everything = range(len(windows))
    batch = windows.batch(everything)
    batch.pop("labels")
    with torch.no_grad():
        padded, grouped = head.eval()(**batch), head.train()(**batch)
    torch.testing.assert_close(grouped.span_NS2, padded.span_NS2, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(grouped.type_NK, padded.type_NK, atol=5e-5, rtol=1e-5)
    found = decode(head, windows, length=3)
    for at in everything:
        alone = windows.batch([at])
        alone.pop("labels")
        with torch.no_grad():
            span_1S2, type_1K = head.eval()(**alone)
        kept = batch["attention_mask"][at] == 1
        torch.testing.assert_close(padded.span_NS2[at, kept], span_1S2[0], atol=5e-5, rtol=1e-5)
        assert (padded.span_NS2[at, ~kept] == -torch.inf).all()
        torch.testing.assert_close(padded.type_NK[at], type_1K[0], atol=5e-5, rtol=1e-5)
        (first,), (count,), (token,) = windows.columns([at], span_1S2.shape[1])
        inside = range(first, first + count)
        best, i, j = max(
            (float(span_1S2[0, i, 0] + span_1S2[0, j, 1]), i - first, j - first)
            for i in inside
            for j in inside
            if i <= j < i + 3
        )
        assert found.score_W[at] == pytest.approx(best, abs=1e-3)
        assert (found.first_W[at], found.last_W[at]) == (i, j)
        assert found.null_W[at] == pytest.approx(float(span_1S2[0, token].sum()), abs=1e-3)
        assert found.type_W[at] == 1 + int(type_1K[0, 1:].argmax())


def test_head_is_the_formula_and_is_saved(encoder: Encoder, tmp_path: Path) -> None:
    windows, head = Windows(encoder, questions(3), OPTIONS), head_on(encoder, dropout=0.3).eval()
    batch = windows.batch([0])
    batch.pop("labels")
    h_SD = encoder.model(**batch).last_hidden_state[0]
    assert head.types is not None
    span_1S2, type_1K = head(**batch)
    torch.testing.assert_close(span_1S2[0], h_SD @ head.span.weight.T + head.span.bias)
    token = -1 if encoder.classification == "last" else 0
    torch.testing.assert_close(type_1K[0], h_SD[token] @ head.types.weight.T + head.types.bias)
    assert not torch.equal(head.train()(**batch).span_NS2, span_1S2)
    head.save(tmp_path, encoder, ["a", "b", "c", "d", "e"])
    with safe_open(tmp_path / "head.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["labels"]) == ["a", "b", "c", "d", "e"]
        assert torch.equal(file.get_tensor("span.weight"), head.span.weight)
        assert torch.equal(file.get_tensor("types.bias"), head.types.bias)
    again = load_encoder(str(tmp_path), offline=True)
    assert torch.equal(again.model(**batch).last_hidden_state[0], h_SD)


def test_new_weights_follow_the_seed(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    one, same, other = (SpanHead(encoder, 5, dropout=0.0, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.span.weight, same.span.weight)
    assert not torch.equal(one.span.weight, other.span.weight)
    assert one.span.bias.abs().max() == 0
    assert SpanHead(encoder, dropout=0.0, seed=0).types is None


def test_a_model_without_separators_is_refused(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("gpt2")), offline=True)
    with pytest.raises(InputError, match="the tokenizer of this gpt2 has no separators"):
        Windows(encoder, questions(2), OPTIONS)
