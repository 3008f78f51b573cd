"""Bigram shift: two adjacent words of a sentence are swapped (METHODS 15.1, after Conneau et al. 2018)."""

from __future__ import annotations

from random import Random

from ftprobe.tasks.treebank import Tree


def places(tree: Tree) -> list[int]:
    """Positions i (from 0) whose word may be swapped with the next.

    At least one word that is not punctuation stands before i, so the capitalised first word stays; neither word is
    punctuation; their forms differ when case is ignored.
    """
    words = tree.words
    first = next((i for i, word in enumerate(words) if word.upos != "PUNCT"), len(words))
    return [
        i
        for i in range(first + 1, len(words) - 1)
        if "PUNCT" not in (words[i].upos, words[i + 1].upos) and words[i].form.lower() != words[i + 1].form.lower()
    ]


def shifted(tree: Tree, rng: Random) -> tuple[str, ...] | None:
    """The forms with one swap, its place uniform; None if no place allows one."""
    allowed = places(tree)
    if not allowed:
        return None
    i = rng.choice(allowed)
    forms = [word.form for word in tree.words]
    forms[i], forms[i + 1] = forms[i + 1], forms[i]
    return tuple(forms)
