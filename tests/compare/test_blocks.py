"""Blocks hold the whole text in its order; masks are what the option says, and the same for every model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tinylm

from ftprobe.compare.blocks import Block, cut, masked
from ftprobe.errors import InputError
from ftprobe.models.load import Encoder, load_encoder

LINES = [" = w1 w2 = ", "", "w3 <unk> w4", "<unk>", *(" ".join(tinylm.WORDS[n:]) for n in range(20))]
MASK = tinylm.SPECIAL.index("[MASK]")


def encoder(folder: Path, family: str = "bert", seed: int = 0) -> Encoder:
    return load_encoder(str(tinylm.save(folder, family, seed=seed)), offline=True)


def test_blocks_hold_the_whole_text(tmp_path: Path) -> None:
    bert = encoder(tmp_path)
    blocks = cut(bert, LINES, block=16)
    found = [int(n) for block in blocks for n in block.id_S[block.start : block.stop]]
    index = {word: n for n, word in enumerate(tinylm.VOCABULARY)}
    assert found == [index.get(word, index["[UNK]"]) for line in LINES for word in line.split()]
    assert {len(block.id_S) for block in blocks[:-1]} == {16}
    assert 2 < len(blocks[-1].id_S) < 16
    for block in blocks:
        assert (block.id_S[0], block.id_S[-1]) == (index["[CLS]"], index["[SEP]"])
        assert (block.start, block.stop) == (1, len(block.id_S) - 1)


def test_a_block_is_no_longer_than_the_model_reads(tmp_path: Path) -> None:
    assert {len(block.id_S) for block in cut(encoder(tmp_path), LINES, block=512)[:-1]} == {64}


def test_special_sub_words_stand_where_the_family_has_them(tmp_path: Path) -> None:
    (block, *_) = cut(encoder(tmp_path, "xlnet"), LINES, block=16)
    assert (block.start, block.stop) == (0, 14)


def test_a_real_tokenizer_reads_lines_as_one_text(minilm: str) -> None:
    real = load_encoder(minilm, offline=True)
    lines = [" = Robert <unk> = \n", "", "Untransformable words, and an unknown <unk>.", "<unk> begins"]
    (block,) = cut(real, lines, block=512)
    text = " ".join(lines).replace("<unk>", "[UNK]")
    assert block.id_S.tolist() == real.tokenizer(text)["input_ids"]


def block_of(n: int) -> Block:
    return Block(np.concatenate([[1], np.full(n, 7), [2]]), 1, n + 1)


@pytest.mark.parametrize("masking", ["random15", "mask_only"])
def test_masks_are_fifteen_per_cent_of_the_text(tmp_path: Path, masking: str) -> None:
    bert, block, kinds = encoder(tmp_path), block_of(510), []
    places = np.zeros(512)
    for index in range(200):
        (one,) = masked(block, index, bert, masking=masking, seed=0)
        assert len(one.place_M) == len(set(one.place_M.tolist())) == 76  # 15 % of 510, rounded to even
        assert (one.target_M == 7).all()
        untouched = np.setdiff1d(np.arange(512), one.place_M)
        assert (one.id_S[untouched] == block.id_S[untouched]).all()
        places[one.place_M] += 1
        kinds.append(one.id_S[one.place_M])
    assert places[0] == places[-1] == 0
    assert places[1:-1].min() > 0
    kind = np.concatenate(kinds)
    if masking == "mask_only":
        assert (kind == MASK).all()
        return
    n, vocabulary = len(kind), len(tinylm.VOCABULARY)
    shares = {MASK: 0.8 + 0.1 / vocabulary, 7: 0.1 + 0.1 / vocabulary, 9: 0.1 / vocabulary}
    for token, share in shares.items():
        assert abs((kind == token).mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert set(range(vocabulary)) == set(kind.tolist())


def test_a_short_block_has_one_mask(tmp_path: Path) -> None:
    (one,) = masked(block_of(2), 0, encoder(tmp_path), masking="mask_only", seed=0)
    assert len(one.place_M) == 1


def test_pseudo_takes_every_position_in_turn(tmp_path: Path) -> None:
    block = block_of(5)
    found = list(masked(block, 0, encoder(tmp_path), masking="pseudo", seed=0))
    assert [one.place_M.tolist() for one in found] == [[1], [2], [3], [4], [5]]
    assert all((one.id_S == MASK).nonzero()[0].tolist() == one.place_M.tolist() for one in found)


def test_masks_depend_on_seed_and_index_and_on_no_model(tmp_path: Path) -> None:
    block = block_of(100)

    def drawn(model: Encoder, index: int, seed: int) -> tuple[list[int], list[int]]:
        (one,) = masked(block, index, model, masking="random15", seed=seed)
        return one.place_M.tolist(), one.id_S.tolist()

    bert, other = encoder(tmp_path / "0"), encoder(tmp_path / "1", "roberta", seed=1)
    assert drawn(bert, 3, 0) == drawn(other, 3, 0)
    assert drawn(bert, 3, 0) != drawn(bert, 4, 0) != drawn(bert, 3, 1)


def test_what_cannot_be_masked_is_named(tmp_path: Path) -> None:
    bert = encoder(tmp_path)
    with pytest.raises(InputError, match="2 lines hold no sub-word"):
        cut(bert, ["", " "], block=16)
    bert.tokenizer.mask_token = None
    with pytest.raises(InputError, match="no mask token"):
        list(masked(block_of(3), 0, bert, masking="random15", seed=0))
    bert.tokenizer.unk_token = None
    with pytest.raises(InputError, match="no unknown token"):
        cut(bert, LINES, block=16)
