"""Texts as inputs of each architecture: segments, separators, truncation, padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftprobe.errors import InputError
from ftprobe.models.inputs import encode, pad
from ftprobe.models.load import load_encoder
from ftprobe.tasks.types import Sentence

Checkpoint = Callable[[str], Path]
PAD, CLS, SEP = 0, 1, 2


def word(n: int) -> int:
    return n + 4


def texts(*pairs: tuple[str, str | None]) -> list[Sentence]:
    return [Sentence(str(n), "train", text, text_b) for n, (text, text_b) in enumerate(pairs)]


def test_pair_is_one_sequence_with_the_models_separators_and_segments(checkpoint: Checkpoint) -> None:
    pair = texts(("w1 w2", "w3"))
    bert = encode(load_encoder(str(checkpoint("bert")), offline=True), pair, max_length=16).features_N[0]
    assert bert["input_ids"] == [CLS, word(1), word(2), SEP, word(3), SEP]
    assert bert["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    xlnet = encode(load_encoder(str(checkpoint("xlnet")), offline=True), pair, max_length=16).features_N[0]
    assert xlnet["input_ids"] == [word(1), word(2), SEP, word(3), SEP, CLS]
    assert xlnet["token_type_ids"] == [0, 0, 0, 1, 1, 2]
    roberta = encode(load_encoder(str(checkpoint("roberta")), offline=True), pair, max_length=16).features_N[0]
    assert "token_type_ids" not in roberta


def test_longer_member_is_cut_first_and_counted(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    encoded = encode(encoder, texts(("w1 w2 w3 w4 w5", "w6"), ("w1", "w2")), max_length=7)
    assert encoded.features_N[0]["input_ids"] == [CLS, word(1), word(2), word(3), SEP, word(6), SEP]
    assert encoded.n_truncated == 1
    assert encoded.lengths() == [7, 5]


def test_padding_stands_on_the_tokenizers_side(checkpoint: Checkpoint) -> None:
    short_and_long = texts(("w1", None), ("w1 w2 w3", None))
    bert = load_encoder(str(checkpoint("bert")), offline=True)
    batch = pad(bert, encode(bert, short_and_long, max_length=16).features_N)
    assert batch["input_ids"].tolist()[0] == [CLS, word(1), SEP, PAD, PAD]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0]
    xlnet = load_encoder(str(checkpoint("xlnet")), offline=True)
    batch = pad(xlnet, encode(xlnet, short_and_long, max_length=16).features_N)
    assert batch["input_ids"].tolist()[0] == [PAD, PAD, word(1), SEP, CLS]
    segment = xlnet.tokenizer.pad_token_type_id
    assert batch["token_type_ids"].tolist()[0] == [segment, segment, 0, 0, 2]


def test_what_does_not_fit_the_model_is_refused(checkpoint: Checkpoint) -> None:
    gpt2 = load_encoder(str(checkpoint("gpt2")), offline=True)
    with pytest.raises(InputError, match="65 is more than the 64 positions"):
        encode(gpt2, texts(("w1", None)), max_length=65)
    with pytest.raises(InputError, match="no separators"):
        encode(gpt2, texts(("w1", "w2")), max_length=16)
    with pytest.raises(InputError, match="sentence 1: no sub-words"):
        encode(gpt2, texts(("w1", None), (" ", None)), max_length=16)
