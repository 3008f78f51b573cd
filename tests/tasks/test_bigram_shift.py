"""Where adjacent words may be swapped."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from ftprobe.tasks.bigram_shift import places, shifted
from ftprobe.tasks.treebank import Tree, Word


def tree(forms: str) -> Tree:
    words = [
        Word(f, f, "PUNCT" if not f.isalpha() else "X", "_", "_", i and 1, "dep") for i, f in enumerate(forms.split())
    ]
    return Tree("t", "", forms, tuple(words), True)


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        ("Now we sing songs .", [1, 2]),
        ('" Now we sing .', [2]),
        ("Now , we sing .", [2]),
        ("It was That that was", [1, 3]),
        ("Go on", []),
        ("Go on !", []),
    ],
)
def test_places(forms: str, expected: list[int]) -> None:
    assert places(tree(forms)) == expected


def test_a_sentence_without_a_place_is_refused() -> None:
    assert shifted(tree("Go on !"), Random(0)) is None


def test_the_place_is_uniform() -> None:
    one = tree("a b c d e f g .")
    counts = Counter(shifted(one, Random(seed)) for seed in range(3000))
    assert len(counts) == 5
    assert max(abs(count - 600) for count in counts.values()) < 3 * (3000 * 0.2 * 0.8) ** 0.5 + 10
