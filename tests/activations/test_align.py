"""Alignment of words and sub-words, and what truncation and empty words cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe.activations import Pooling
from ftprobe.activations.gather import gather, ranges, rows
from ftprobe.errors import InputError
from ftprobe.models.align import Overflow, Tokens, align
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.tasks.types import Corpus, Sentence

TEXT = ("the cats sat on the mat .", "a dog barked", "unable cats")


def words(*texts: str) -> Corpus:
    return Corpus("tiny", tuple(Sentence(f"s{i}", "train", t, words=tuple(t.split(" "))) for i, t in enumerate(texts)))


def aligned(encoder: Encoder, corpus: Corpus, max_length: int = 40, overflow: Overflow = "truncate") -> Tokens:
    return align(encoder, corpus, range(len(corpus.sentences)), max_length=max_length, overflow=overflow).tokens


def by_word(tokens: Tokens, text: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for k in range(tokens.start_U1[text], tokens.start_U1[text + 1]):
        if tokens.word_K[k] >= 0:
            found.setdefault(int(tokens.word_K[k]), []).append(int(tokens.id_K[k]))
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "xlnet", "albert", "deberta"])
def test_words_one_by_one_give_the_same_sub_words(encoder_of: Callable[[str], Encoder], family: str) -> None:
    encoder = encoder_of(family)
    space = " " if family in ("roberta", "gpt2", "deberta") else ""
    tokens = aligned(encoder, words(*TEXT))
    for u, text in enumerate(TEXT):
        alone = [encoder.tokenizer(space + word, add_special_tokens=False)["input_ids"] for word in text.split()]
        assert by_word(tokens, u) == dict(enumerate(alone))


def test_minilm_words_one_by_one(minilm: str) -> None:
    encoder = load_encoder(minilm)
    text = "Anthropomorphic hyperparameters don't matter , they said ( twice )"
    alone = [encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in text.split()]
    assert max(map(len, alone)) > 3
    assert by_word(aligned(encoder, words(text)), 0) == dict(enumerate(alone))


def test_byte_level_words_begin_after_a_space_and_raw_text_does_not(encoder_of: Callable[[str], Encoder]) -> None:
    encoder = encoder_of("gpt2")
    the = encoder.tokenizer.convert_tokens_to_ids("Ġthe")
    assert aligned(encoder, words("the cat")).id_K[0] == the
    assert aligned(encoder, Corpus("tiny", (Sentence("s0", "train", "the cat"),))).id_K[0] != the


def test_the_users_tokenizer_keeps_its_settings(encoder_of: Callable[[str], Encoder]) -> None:
    encoder = encoder_of("gpt2")
    before = encoder.tokenizer.backend_tokenizer.to_str()
    aligned(encoder, words(*TEXT), max_length=3)
    assert encoder.tokenizer.backend_tokenizer.to_str() == before


def test_words_without_sub_words_are_left_out(bert: Encoder) -> None:
    tokens = aligned(bert, words("cat \u200d mat"))
    assert sorted(by_word(tokens, 0)) == [0, 2]
    assert tokens.n_words_U.tolist() == [3]


def test_a_corpus_of_which_no_word_is_left_is_refused(bert: Encoder) -> None:
    corpus, pooling = words("\u200d \u200d", "\u200d"), Pooling("word", "mean")
    found = align(bert, corpus, [0, 1], max_length=40, overflow="truncate")
    gathered = gather(found.tokens, pooling, "first")
    with pytest.raises(InputError, match="tiny: none of its 2 sentences has a word left"):
        rows(corpus, [0, 1], found, gathered, pooling)


@pytest.mark.parametrize(("max_length", "kept"), [(40, [0, 1, 2]), (6, [0, 1, 2]), (5, [0, 1]), (4, [0]), (3, [0])])
def test_a_word_cut_anywhere_is_dropped_entirely(bert: Encoder, max_length: int, kept: list[int]) -> None:
    tokens = aligned(bert, words("cat barked dog"), max_length)  # [CLS] cat bark ##ed dog [SEP]
    assert sorted(by_word(tokens, 0)) == kept
    assert tokens.truncated_U.tolist() == [max_length < 6]
    assert len(tokens.id_K) == min(max_length, 6)


def test_the_models_positions_bound_the_length(encoder_of: Callable[[str], Encoder]) -> None:
    tokens = aligned(encoder_of("roberta"), words("cat " * 80 + "dog"), max_length=1000)
    assert len(tokens.id_K) == 62  # 64 positions, of which RoBERTa's padding offset takes two
    assert len(aligned(encoder_of("xlnet"), words("cat " * 80 + "cat"), max_length=1000).id_K) == 83


def test_too_long_a_text_is_named_when_asked(bert: Encoder) -> None:
    corpus = words("cat", "cat cat cat cat", "cat cat cat cat cat")
    with pytest.raises(InputError, match=r"tiny: sentence 's1': has 6 tokens, the limit is 5.*'cat cat cat cat'"):
        aligned(bert, corpus, max_length=5, overflow="error")
    aligned(bert, corpus, max_length=7, overflow="error")


def test_pairs_carry_segments_and_no_words(bert: Encoder) -> None:
    tokens = aligned(bert, Corpus("tiny", (Sentence("s0", "train", "the cat", "a dog sat"),)))
    assert tokens.segment_K.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert tokens.special_K.tolist() == [True, False, False, True, False, False, False, True]
    assert set(tokens.word_K.tolist()) == {-1}
    assert tokens.n_pieces_U.tolist() == [5]


def test_equal_texts_are_tokenised_once(bert: Encoder) -> None:
    found = align(bert, words("cat", "dog", "cat"), [2, 1, 0], max_length=40, overflow="truncate")
    assert found.text_S.tolist() == [0, 1, 0]
    assert len(found.tokens.truncated_U) == 2


def test_texts_that_differ_in_words_or_in_their_second_half_stay_apart(bert: Encoder) -> None:
    split, unsplit = Sentence("a", "train", "cat s", words=("cat", "s")), Sentence("b", "train", "cat s")
    joined = Sentence("c", "train", "cat s", words=("cats",))
    found = align(bert, Corpus("tiny", (split, unsplit, joined)), range(3), max_length=40, overflow="truncate")
    assert len(found.tokens.truncated_U) == 3
    pairs = tuple(Sentence(b, "train", "cat", b) for b in ("dog", "mat", "dog"))
    assert align(bert, Corpus("tiny", pairs), range(3), max_length=40, overflow="truncate").text_S.tolist() == [0, 1, 0]


def test_long_corpora_are_packed_in_order(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = words(*("cat " * n + "dog" for n in range(9)))
    whole = aligned(bert, corpus)
    monkeypatch.setattr("ftprobe.models.align._CHUNK", 2)
    for name, a, b in zip(Tokens._fields, whole, aligned(bert, corpus), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_words_are_asked_of_a_corpus_without_words(bert: Encoder) -> None:
    corpus, pooling = Corpus("tiny", (Sentence("s0", "train", "the cat"),)), Pooling("word", "mean")
    found = align(bert, corpus, [0], max_length=40, overflow="truncate")
    with pytest.raises(InputError, match="sentence 's0' has no words to pool"):
        rows(corpus, [0], found, gather(found.tokens, pooling, "first"), pooling)


def test_an_unknown_pooling_is_refused(bert: Encoder) -> None:
    with pytest.raises(InputError, match="unknown word pooling 'cls'"):
        gather(aligned(bert, words("cat")), Pooling("word", "cls"), "first")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6))))
def test_ranges_end_to_end(runs: list[tuple[int, int]]) -> None:
    start = np.array([a for a, _ in runs], dtype=np.int64)
    stop = np.array([a + n for a, n in runs], dtype=np.int64)
    assert ranges(start, stop).tolist() == [i for a, n in runs for i in range(a, a + n)]
