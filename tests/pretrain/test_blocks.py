"""Blocks: no sub-word of a text is lost, and what is hidden follows the stated shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.errors import InputError
from ftprobe.pretrain.blocks import Masking, collate, cut, mask
from ftprobe.pretrain.options import PretrainOptions
from ftprobe.pretrain.vocabulary import train_tokenizer

MASKING = Masking(rate=0.15, mask_share=0.8, random_share=0.1, mask_id=4, first_word=5, vocab=1000)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_blocks_hold_the_lines_end_to_end(family: Any, text: list[str]) -> None:
    tokenizer = train_tokenizer(text, PretrainOptions(family=family, vocab=300))
    blocks = cut(tokenizer, text, 16)
    every = [*blocks.train, *blocks.held_out]
    assert {(block[0], block[-1]) for block in every} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert {len(block) for block in every[:-1]} == {16}
    lines = [ids for line in text for ids in tokenizer(line, add_special_tokens=False)["input_ids"]]
    assert np.concatenate([block[1:-1] for block in every]).tolist() == lines
    assert len(blocks.held_out) == max(1, round(0.05 * len(every)))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_word_that_is_not_shown_is_one_unknown_sub_word(family: Any) -> None:
    tokenizer = train_tokenizer(["fox owl <unk> owl"] * 9, PretrainOptions(family=family, vocab=300))
    blocks = cut(tokenizer, ["fox <unk> owl", "<unk> <unk>"] * 9, 8)
    ids = np.concatenate([block[1:-1] for block in (*blocks.train, *blocks.held_out)])
    assert (ids == tokenizer.unk_token_id).sum() == 27
    assert tokenizer.decode(ids[:3], skip_special_tokens=True).split() == ["fox", "owl"]


def test_a_text_of_one_block_is_refused() -> None:
    tokenizer = train_tokenizer(["owl owl"], PretrainOptions(vocab=300))
    with pytest.raises(InputError, match=r"the text has 6 sub-words, not enough for two blocks of 8"):
        cut(tokenizer, ["owl owl"] * 3, 8)


@settings(deadline=None)
@given(
    words=st.lists(st.integers(5, 999), min_size=1, max_size=60),
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(0.01, 1.0),
)
def test_masks_hide_their_share_of_the_inside_and_nothing_else(words: list[int], seed: int, rate: float) -> None:
    block = np.array([2, *words, 3], dtype=np.int32)
    masked = mask(block, MASKING._replace(rate=rate), seed)
    assert len(masked.position_M) == max(1, round(rate * len(words)))
    assert len(set(masked.position_M)) == len(masked.position_M)
    assert masked.position_M.min() >= 1
    assert masked.position_M.max() <= len(words)
    np.testing.assert_array_equal(masked.target_M, block[masked.position_M])
    others = np.setdiff1d(np.arange(len(block)), masked.position_M)
    np.testing.assert_array_equal(masked.id_S[others], block[others])
    again = mask(block, MASKING._replace(rate=rate), seed)
    np.testing.assert_array_equal(masked.id_S, again.id_S)


def test_masks_replace_by_their_shares() -> None:
    block = np.array([2, *[7] * 126, 3], dtype=np.int32)
    seen = np.concatenate([(m := mask(block, MASKING, seed)).id_S[m.position_M] for seed in range(2000)])
    assert len(seen) == 2000 * 19
    # Four standard deviations of shares of 38,000 draws.
    assert (seen == 4).mean() == pytest.approx(0.8, abs=0.0083)
    assert (seen == 7).mean() == pytest.approx(0.1 + 0.1 / 995, abs=0.0063)
    assert seen[(seen != 4) & (seen != 7)].min() >= 5


def test_every_position_is_hidden_equally_often() -> None:
    block = np.arange(5, 25, dtype=np.int32)
    counts = np.zeros(20)
    for seed in range(3000):
        counts[mask(block, MASKING, seed).position_M] += 1
    assert counts[0] == counts[-1] == 0
    expected = 3000 * 3 / 18
    assert np.square(counts[1:-1] - expected).sum() / expected < 40  # chi-square, 17 degrees of freedom, p = 0.001


def test_a_batch_is_padded_and_finds_its_sub_words() -> None:
    blocks = [np.arange(10, 10 + size, dtype=np.int32) for size in (12, 7)]
    masked = [mask(block, MASKING, seed) for seed, block in enumerate(blocks)]
    batch = collate(masked, pad_id=0)
    assert batch["input_ids"].shape == (2, 12)
    assert batch["attention_mask"].sum(1).tolist() == [12, 7]
    assert (batch["input_ids"][1, 7:] == 0).all()
    rows, columns = batch["positions"] // 12, batch["positions"] % 12
    assert batch["labels"].tolist() == [int(blocks[row][column]) for row, column in zip(rows, columns, strict=True)]
