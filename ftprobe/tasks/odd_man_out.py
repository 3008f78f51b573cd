"""Odd man out: one noun or verb is replaced by another of the same form and frequency (METHODS 15.3).

With counts f on the training part without the sentence at hand and c = floor(log2(1 + f)), a replacement has the
target's c as a word, after the word before, and before the word behind: frequency does not tell the class.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import NamedTuple

from ftprobe.tasks.treebank import Tree, Word

OPEN = ("NOUN", "VERB")
END = "</s>"
VOWELS = "aeiou"

Form = tuple[str, str, str, str]
"""UPOS, XPOS (if the corpus has it), features and casing: what a replacement shares with its target."""


class Replacement(NamedTuple):
    """The forms of a sentence with word `at` replaced; `backoff` if no candidate had the target's counts."""

    forms: tuple[str, ...]
    at: int
    backoff: bool


class _Around(NamedTuple):
    """A target and the words beside it, in lower case."""

    before: str
    here: str
    behind: str


class Neighbours:
    """Which nouns and verbs (by id) stand beside a word, and how often: in all, and by c of the count."""

    def __init__(self) -> None:
        self.attested: dict[str, set[int]] = defaultdict(set)
        self.by_level: dict[tuple[str, int], set[int]] = defaultdict(set)

    def add(self, word: str, key: int, count: int) -> None:
        """`key` stands beside `word` `count` times."""
        self.attested[word].add(key)
        self.by_level[word, level(count)].add(key)

    def keep(self, keys: set[int], word: str, count: int) -> set[int]:
        """Those of `keys` whose count beside `word` has the same c as `count`."""
        if level(count):
            return keys & self.by_level.get((word, level(count)), set())
        return keys - self.attested.get(word, set())


class Vocabulary:
    """Nouns and verbs of a corpus by form class and count, and the counts of words and bigrams.

    Parameters
    ----------
    trees : sequence of Tree
        The whole corpus: where replacements come from.
    counted : set of int
        Positions in `trees` of the training part: where words and bigrams are counted, ignoring case.
    """

    def __init__(self, trees: Sequence[Tree], counted: set[int]) -> None:
        self.counted = counted
        self.words: Counter[str] = Counter()
        self.bigrams: Counter[tuple[str, str]] = Counter()
        for at in sorted(counted):
            small = _small(trees[at])
            self.words.update(small[:-1])
            self.bigrams.update(pairwise(small))
        self.small: list[str] = []
        self.ids: dict[str, int] = {}
        self.surface: dict[tuple[str, int], str] = {}
        self.by_count: dict[tuple[Form, int], set[int]] = defaultdict(set)
        self.by_form: dict[Form, set[int]] = defaultdict(set)
        for word in sorted({word[:5] for tree in trees for word in tree.words if word.upos in OPEN}):
            self._add(Word(*word, 0, ""))
        self.by_lemma: dict[str, set[int]] = defaultdict(set)
        for form, lemma in {(word.form.lower(), word.lemma.lower()) for tree in trees for word in tree.words}:
            if form in self.ids:
                self.by_lemma[lemma].add(self.ids[form])
        self.after, self.before = Neighbours(), Neighbours()
        for (first, second), count in self.bigrams.items():
            if second in self.ids:
                self.after.add(first, self.ids[second], count)
            if first in self.ids:
                self.before.add(second, self.ids[first], count)

    def _add(self, word: Word) -> None:
        small = word.form.lower()
        if small not in self.ids:
            self.ids[small] = len(self.small)
            self.small.append(small)
        key, form = self.ids[small], form_class(word)
        self.surface.setdefault((form[3], key), word.form)
        self.by_form[form].add(key)
        self.by_count[form, level(self.words[small])].add(key)

    def replaced(self, trees: Sequence[Tree], at: int, rng: Random) -> Replacement | None:
        """The sentence with a random noun or verb replaced; None if its target has no valid replacement.

        The target is any noun or verb but the first word, uniform. A valid replacement is uniform among those with
        equal c; if there is none, it is the nearest in counts among those attested in both bigrams (`backoff`).
        """
        words = trees[at].words
        targets = [i for i, word in enumerate(words) if i and word.upos in OPEN]
        if not targets:
            return None
        target = rng.choice(targets)
        form = form_class(words[target])
        small = _small(trees[at])
        around = _Around(small[target - 1], small[target], small[target + 1])
        counts = self._counts(small, around, held_out=at in self.counted)
        banned = {self.ids[other] for other in small if other in self.ids}
        banned |= self.by_lemma[words[target].lemma.lower()]
        matching = self.by_count.get((form, level(counts[0])), set()) - banned
        matching = self.after.keep(matching, around.before, counts[1])
        found = self._same_article(self.before.keep(matching, around.behind, counts[2]), around)
        backoff = not found
        if backoff:
            found = self._nearest(self.by_form[form] - banned, around, counts)
        if not found:
            return None
        forms = [word.form for word in words]
        forms[target] = self.surface[form[3], rng.choice(sorted(found))]
        return Replacement(tuple(forms), target, backoff)

    def _counts(self, small: list[str], around: _Around, *, held_out: bool) -> tuple[int, int, int]:
        """f of the target, of (before, target) and of (target, behind), without the sentence itself."""
        before, here, behind = around
        counts = self.words[here], self.bigrams[before, here], self.bigrams[here, behind]
        if not held_out:
            return counts
        pairs = list(pairwise(small))
        own = small.count(here), pairs.count((before, here)), pairs.count((here, behind))
        return counts[0] - own[0], counts[1] - own[1], counts[2] - own[2]

    def _same_article(self, keys: set[int], around: _Around) -> set[int]:
        """Behind "a" and "an": those that begin like the target, with a vowel or without."""
        if around.before not in ("a", "an"):
            return keys
        vowel = around.here[0] in VOWELS
        return {key for key in keys if (self.small[key][0] in VOWELS) == vowel}

    def _nearest(self, keys: set[int], around: _Around, counts: tuple[int, int, int]) -> set[int]:
        """Those attested in both bigrams with the least sum of absolute differences of log2(1 + f)."""
        attested = self.after.attested.get(around.before, set()) & self.before.attested.get(around.behind, set())
        distance: dict[int, float] = {}
        for key in self._same_article(attested & keys, around):
            small = self.small[key]
            own = self.words[small], self.bigrams[around.before, small], self.bigrams[small, around.behind]
            apart = sum(abs(math.log2((1 + a) / (1 + b))) for a, b in zip(own, counts, strict=True))
            distance[key] = round(apart, 9)
        least = min(distance.values(), default=0.0)
        return {key for key, value in distance.items() if value <= least}


def level(count: int) -> int:
    """floor(log2(1 + count)).

    >>> [level(count) for count in (0, 1, 2, 3, 6, 7)]
    [0, 1, 1, 2, 2, 3]
    """
    return (1 + count).bit_length() - 1


def form_class(word: Word) -> Form:
    """What a replacement must share with the word; corpora without XPOS go by UPOS and features."""
    return word.upos, word.xpos if word.xpos != "_" else "", word.feats, casing(word.form)


def casing(form: str) -> str:
    """How a form is written: lower, title, upper or mixed case (no letters: lower).

    >>> [casing(form) for form in ("rain", "Rain", "RAIN", "iRain", "A")]
    ['lower', 'title', 'upper', 'mixed', 'title']
    """
    if form == form.lower():
        return "lower"
    if form == form[0].upper() + form[1:].lower():
        return "title"
    return "upper" if form == form.upper() else "mixed"


def _small(tree: Tree) -> list[str]:
    """The forms in lower case and the end of the sentence."""
    return [*(word.form.lower() for word in tree.words), END]
