"""Samples and hold-outs depend on sentence ids alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe.tasks.sampling import cut_test, hold_out, sample
from ftprobe.tasks.types import Corpus, LabelSet, Sentence


def corpus_of(n_train: int, n_test: int = 0) -> Corpus:
    train = [Sentence(f"a{n}", "train", "text") for n in range(n_train)]
    return Corpus("toy", (*train, *(Sentence(f"b{n}", "test", "text") for n in range(n_test))))


@given(st.integers(0, 60), st.lists(st.integers(0, 80), min_size=2, max_size=5), st.integers(0, 3))
def test_smaller_caps_are_subsets(n: int, caps: list[int], seed: int) -> None:
    corpus = corpus_of(n)
    samples = [set(sample(corpus, {"train": cap}, seed)) for cap in sorted(caps)]
    assert all(small <= large for small, large in pairwise(samples))
    assert [len(kept) for kept in samples] == [min(n, cap) for cap in sorted(caps)]


def test_each_split_has_its_own_cap_and_none_keeps_all() -> None:
    corpus = corpus_of(20, 30)
    kept = sample(corpus, {"train": 5, "test": None})
    assert Counter(corpus.sentences[i].split for i in kept) == {"train": 5, "test": 30}
    assert kept == tuple(sorted(kept))
    assert sample(corpus, {}) == tuple(range(50))


def test_choice_ignores_the_order_of_the_corpus_and_depends_on_the_seed() -> None:
    corpus = corpus_of(40)
    turned = Corpus("toy", corpus.sentences[::-1])

    def ids(of: Corpus, seed: int) -> set[str]:
        return {of.sentences[i].id for i in sample(of, {"train": 10}, seed)}

    assert ids(corpus, 0) == ids(turned, 0)
    assert ids(corpus, 0) != ids(corpus, 1)


@pytest.mark.parametrize("sizes", [(70, 30), (95, 5), (500, 300, 203)])
def test_hold_out_is_a_tenth_of_train_and_of_each_label(sizes: tuple[int, ...]) -> None:
    labels = tuple(f"label{k}" for k, size in enumerate(sizes) for _ in range(size))
    n = len(labels)
    corpus = corpus_of(n, 50)
    everything = LabelSet("toy", tuple(range(n + 50)), (-1,) * (n + 50), (*labels, *["label0"] * 50))
    held = hold_out(everything, corpus)
    assert len(held) == n // 10
    found = Counter(labels[i] for i in held)
    for k, size in enumerate(sizes):
        assert abs(found[f"label{k}"] - size / 10) <= 1


def test_hold_out_keeps_the_words_of_a_sentence_together() -> None:
    corpus = corpus_of(30)
    labels = LabelSet(
        "toy", tuple(n // 4 for n in range(120)), tuple(n % 4 for n in range(120)), ("x", "y", "y", "z") * 30
    )
    held = hold_out(labels, corpus)
    assert len(held) == len(set(held)) == 3


@given(st.data(), st.sets(st.text("ab01-", min_size=1, max_size=8), max_size=60))
def test_a_fifth_of_the_ids_is_test_whatever_their_order(data: st.DataObject, ids: set[str]) -> None:
    order = sorted(ids)
    test = cut_test(order)
    assert test <= ids
    assert len(test) == len(ids) // 5
    turned = data.draw(st.permutations(order))
    assert cut_test(turned) == cut_test([*turned, *order]) == test


def test_the_test_set_of_one_file_is_a_random_part_of_any_sample() -> None:
    corpus = corpus_of(2000)
    sampled = {corpus.sentences[i].id for i in sample(corpus, {"train": 1000})}
    assert 160 < len(sampled & cut_test(s.id for s in corpus.sentences)) < 240
