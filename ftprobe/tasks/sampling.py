"""Sampling: which sentences of a corpus a study uses, and for what, decided by their ids alone.

The order is a hash of (seed, sentence id): a smaller cap is a subset of a larger one, and adding a sentence to the
corpus moves no other.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from ftprobe.errors import InputError
from ftprobe.hashing import canonical, derive_seed
from ftprobe.tasks.types import Corpus, LabelSet


def sample(corpus: Corpus, caps: Mapping[str, int | None], seed: int = 0) -> tuple[int, ...]:
    """Sentence indices of `corpus`, at most `caps[split]` of each split, in corpus order.

    A split without a cap, or with the cap None, is kept whole.

    >>> from ftprobe.tasks.types import Sentence
    >>> corpus = Corpus("toy", tuple(Sentence(str(i), "train", "text") for i in range(9)))
    >>> set(sample(corpus, {"train": 3})) < set(sample(corpus, {"train": 5}))
    True
    """
    by_split: dict[str, list[int]] = defaultdict(list)
    for index, sentence in enumerate(corpus.sentences):
        by_split[sentence.split].append(index)
    kept: list[int] = []
    for split, indices in by_split.items():
        cap = caps.get(split)
        if cap is not None and cap < len(indices):
            indices = sorted(indices, key=lambda i: _rank(seed, corpus.sentences[i].id))[:cap]
        kept.extend(indices)
    return tuple(sorted(kept))


def sample_split(corpus: Corpus, split: str, items: int | None, seed: int = 0) -> tuple[int, ...]:
    """Sentence indices of one split of `corpus` (`all`: of every split), at most `items`, in corpus order.

    Raises
    ------
    InputError
        The corpus has no such split.
    """
    indices = [i for i, sentence in enumerate(corpus.sentences) if split in ("all", sentence.split)]
    if not indices:
        there = ", ".join(sorted({sentence.split for sentence in corpus.sentences}))
        raise InputError.one(corpus.name, f"there is no split '{split}'", f"it has: {there}")
    if items is not None and items < len(indices):
        indices = sorted(indices, key=lambda i: _rank(seed, corpus.sentences[i].id))[:items]
    return tuple(sorted(indices))


def hold_out(task_labels: LabelSet, corpus: Corpus, share: float = 0.1, seed: int = 0) -> tuple[int, ...]:
    """Train sentences to hold out where a corpus has no development split (METHODS 0, "Splits").

    Stratified by label at sentence level: sentences are ordered by (label, hash of id) and taken at equal distances,
    so that floor(share x n) are held out and each label keeps its share to within one sentence. A sentence with
    several items counts under its most frequent label; all its items stay together.

    Returns
    -------
    tuple of int
        Sorted sentence indices.
    """
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for index, label in zip(task_labels.sentence_N, task_labels.label_N, strict=True):
        if corpus.sentences[index].split == "train":
            found[index][label] += 1
    strata = {index: min(labels, key=lambda name: (-labels[name], name)) for index, labels in found.items()}
    order = sorted(strata, key=lambda i: (strata[i], _rank(seed, corpus.sentences[i].id)))
    return tuple(sorted(index for n, index in enumerate(order) if int((n + 1) * share) > int(n * share)))


def cut_test(ids: Iterable[str], share: float = 0.2, seed: int = 0) -> frozenset[str]:
    """The sentence ids that make the test set of a corpus of one file (METHODS 0, "Splits"): floor(share x n) of n.

    The order is independent of that of `sample` and `hold_out`.

    >>> sorted(cut_test(f"s{i}" for i in range(10)))
    ['s2', 's7']
    """
    own = derive_seed(seed, "split")
    order = sorted(set(ids), key=lambda key: _rank(own, key))
    return frozenset(order[: int(share * len(order))])


def _rank(seed: int, sentence: str) -> bytes:
    return hashlib.blake2b(canonical([seed, sentence]), digest_size=16).digest()
