"""Which sentences can be inverted, and what inversion makes of them: small trees written by hand."""

from __future__ import annotations

import pytest

from ftprobe.tasks.coordination_inversion import Clauses, clauses, inverted
from ftprobe.tasks.treebank import Tree, Word

LOWER = {"the", "dogs", "they", "he", "slept", "left"}
PLAIN = (
    "The/DET/2/det dogs/NOUN/3/nsubj barked/VERB/0/root ,/PUNCT/7/punct and/CCONJ/7/cc "
    "we/PRON/7/nsubj left/VERB/3/conj ./PUNCT/3/punct"
)
NO_COMMA = "They/PRON/2/nsubj slept/VERB/0/root but/CCONJ/6/cc it/PRON/6/nsubj was/AUX/6/cop late/ADJ/2/conj"


def tree(written: str) -> Tree:
    """A tree of `form/UPOS/head/relation` words."""
    rows = [word.rsplit("/", 3) for word in written.split()]
    words = tuple(Word(form, form.lower(), upos, "_", "_", int(head), deprel) for form, upos, head, deprel in rows)
    return Tree("t", "", "", words, True)


@pytest.mark.parametrize(
    ("written", "parts", "text"),
    [
        (PLAIN, Clauses(3, 5, 7), "We left , and the dogs barked ."),
        (NO_COMMA, Clauses(2, 3, 6), "It was late but they slept"),
        (PLAIN.replace("The/DET", "Rex/PROPN"), Clauses(3, 5, 7), "We left , and Rex dogs barked ."),
        (
            PLAIN.replace("The/DET/2/det dogs/NOUN", "I/PRON/2/det dogs/NOUN"),
            Clauses(3, 5, 7),
            "We left , and I dogs barked .",
        ),
        (PLAIN.replace("nsubj barked", "nsubj:pass barked"), Clauses(3, 5, 7), "We left , and the dogs barked ."),
    ],
)
def test_clauses_change_places_and_the_capital_moves(written: str, parts: Clauses, text: str) -> None:
    one = tree(written)
    assert clauses(one, LOWER) == parts
    assert " ".join(inverted(one, parts)) == text


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("barked/VERB", "barked/NOUN", "the root is no predicate"),
        ("left/VERB", "left/NOUN", "the conjunct is no predicate"),
        ("2/det dogs/NOUN/3/nsubj", "2/det dogs/NOUN/3/obl", "the first clause has no subject"),
        ("we/PRON/7/nsubj", "we/PRON/7/obl", "the second clause has no subject"),
        ("The/DET", "Thrice/DET", "the first word never loses its capital"),
        ("The/DET", "the/DET", "the first word has no capital"),
        ("and/CCONJ/7/cc", "and/CCONJ/7/mark", "no conjunction"),
        ("and/CCONJ/7/cc", "and/CCONJ/7/cc or/CCONJ/7/cc", "two conjunctions"),
        ("./PUNCT/3/punct", "now/ADV/3/advmod ./PUNCT/3/punct", "a word is left over"),
        ("./PUNCT/3/punct", "cried/VERB/3/conj ./PUNCT/3/punct", "two conjuncts"),
        (",/PUNCT/7/punct", ";/PUNCT/7/punct", "the separator is neither a comma nor a conjunction"),
        ("we/PRON/7/nsubj left/VERB/3/conj", "left/VERB/3/conj", "the second clause has one word"),
    ],
)
def test_sentences_that_cannot_be_inverted(old: str, new: str, why: str) -> None:
    assert old in PLAIN
    assert clauses(tree(PLAIN.replace(old, new)), LOWER) is None, why


def test_the_difference_changes_sign_with_inversion() -> None:
    parts = clauses(tree(PLAIN), LOWER)
    assert parts is not None
    assert parts.difference == 1
