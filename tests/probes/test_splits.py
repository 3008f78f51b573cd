"""The held-out development part: sentences stay whole, labels keep their shares, the seed decides."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.probes.splits import hold_out


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=120),
    classes=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_sentences_stay_whole_and_a_tenth_of_them_goes(sizes, classes, seed):
    sentence_N = np.repeat(np.arange(len(sizes), dtype=np.int32) * 7, sizes)
    y_N = np.random.default_rng(seed).integers(0, classes, len(sentence_N)).astype(np.int32)
    out_N = hold_out(y_N, sentence_N, seed=seed)
    held, kept = set(sentence_N[out_N]), set(sentence_N[~out_N])
    assert not held & kept
    assert kept
    assert max(1, len(sizes) // 10) <= len(held) <= len(sizes) // 10 + 1


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_every_label_gives_up_its_share(counts, seed):
    y_N = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    out_N = hold_out(y_N, np.arange(len(y_N), dtype=np.int32), seed=seed)
    if len(y_N) >= 10:
        for label, count in enumerate(counts):
            assert count // 10 <= np.sum(out_N & (y_N == label)) <= count // 10 + 1


def test_the_seed_decides_and_item_order_within_a_sentence_does_not():
    y_N = np.arange(400, dtype=np.int32) % 3
    sentence_N = np.repeat(np.arange(100, dtype=np.int32), 4)
    first = hold_out(y_N, sentence_N, seed=1)
    assert np.array_equal(first, hold_out(y_N, sentence_N, seed=1))
    assert not np.array_equal(first, hold_out(y_N, sentence_N, seed=2))
    back = np.arange(400).reshape(100, 4)[:, ::-1].ravel()
    assert np.array_equal(first, hold_out(y_N[back], sentence_N[back], seed=1))


def test_no_two_seeds_favour_a_sentence():
    sentence_N, y_N = np.arange(50, dtype=np.int32), np.zeros(50, np.int32)
    times_N = sum(hold_out(y_N, sentence_N, seed=seed).astype(int) for seed in range(400))
    assert times_N.min() > 15
    assert times_N.max() < 70
