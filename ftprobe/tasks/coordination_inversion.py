"""Coordination inversion: the two clauses of a sentence change places (METHODS 15.2, after Conneau et al. 2018).

A sentence is C1, separator (an optional comma and a conjunction), C2, final punctuation, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ftprobe.tasks.treebank import Tree, Word

SUBJECTS = {"nsubj", "csubj", "expl"}
SHORTEST = 2


class Clauses(NamedTuple):
    """Where the parts lie: C1 = [0, separator), the separator = [separator, second), C2 = [second, end)."""

    separator: int
    second: int
    end: int

    @property
    def difference(self) -> int:
        """|C1| - |C2| in words: minus this after inversion."""
        return self.separator - (self.end - self.second)


def clauses(tree: Tree, lower: Collection[str]) -> Clauses | None:
    """The clauses of a sentence that can be inverted, else None.

    Parameters
    ----------
    tree : Tree
    lower : collection of str
        Forms that the corpus has in lower case: a first word outside them could not lose its capital.
    """
    words = tree.words
    root = next(i for i, word in enumerate(words) if word.head == 0)
    conjuncts = _children(words, root, "conj")
    if len(conjuncts) != 1 or not (_is_clause(words, root) and _is_clause(words, conjuncts[0])):
        return None
    conjunctions = _children(words, conjuncts[0], "cc")
    if len(conjunctions) != 1:
        return None
    second = conjunctions[0] + 1
    separator = conjunctions[0] - (conjunctions[0] > 0 and words[conjunctions[0] - 1].form == ",")
    end = len(words)
    while end > second and words[end - 1].upos == "PUNCT":
        end -= 1
    found = Clauses(separator, second, end)
    if root >= separator or min(separator, end - second) < SHORTEST:
        return None
    if set(_subtree(words, conjuncts[0])) - set(range(separator, second)) != set(range(second, end)):
        return None
    return found if _can_start_lower(words[0], lower) else None


def inverted(tree: Tree, parts: Clauses) -> tuple[str, ...]:
    """The forms as C2, separator, C1, final punctuation, with the capital moved to the new first word."""
    forms = [word.form for word in tree.words]
    first, second = forms[: parts.separator], forms[parts.second : parts.end]
    if tree.words[0].upos != "PROPN" and first[0] != "I":
        first[0] = first[0].lower()
    second[0] = second[0][0].upper() + second[0][1:]
    return (*second, *forms[parts.separator : parts.second], *first, *forms[parts.end :])


def _can_start_lower(word: Word, lower: Collection[str]) -> bool:
    """Whether the first word keeps its capital by right, or has a capital that it can lose.

    A first word without one would tell the class of the sentence: its inversion starts with a capital.
    """
    if word.upos == "PROPN" or word.form == "I":
        return word.form[0].upper() == word.form[0]
    small = word.form.lower()
    return word.form == small[0].upper() + small[1:] and small in lower


def _is_clause(words: Sequence[Word], at: int) -> bool:
    """Whether the word is a predicate (VERB, AUX, or with a copula) with a subject of its own."""
    predicate = words[at].upos in ("VERB", "AUX") or _children(words, at, "cop")
    return bool(predicate) and any(word.head == at + 1 and word.deprel.partition(":")[0] in SUBJECTS for word in words)


def _children(words: Sequence[Word], at: int, relation: str) -> list[int]:
    return [i for i, word in enumerate(words) if word.head == at + 1 and word.deprel == relation]


def _subtree(words: Sequence[Word], at: int) -> list[int]:
    """Positions of a word and everything below it."""
    found = [at]
    for node in found:
        found += [i for i, word in enumerate(words) if word.head == node + 1]
    return found
