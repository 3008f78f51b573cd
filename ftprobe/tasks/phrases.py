"""Phrases and constructions of the built-in English grammar: each construction gives a minimal pair of token lists.

The first of a pair is acceptable, the second breaks one rule. The features that decide (number, gender, frame, case)
are drawn evenly, so that in the long run every form occurs equally often on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from ftprobe.tasks.lexicon import (
    ACTING,
    MEN,
    PEOPLE,
    PLACES,
    QUALITIES,
    RESTING,
    THINGS,
    THINKING,
    TURNING,
    USING,
    WAYS,
    WOMEN,
    Noun,
    Verb,
)

Token = tuple[str, str]
"""Form and universal part of speech."""
Pair = tuple[list[Token], list[Token]]

HUMANS = (*MEN, *WOMEN, *PEOPLE)
NEUTRAL = ("the", "the", "the", "my", "your", "our", "their")
DETERMINERS = {False: ("this", "that", "every", "each"), True: ("these", "those", "many", "several")}
POSSESSIVES = {"my", "your", "our", "their"}
NOMINATIVE = ("he", "she", "they", "we")
ACCUSATIVE = ("him", "her", "them", "us")
MODALS = ("will", "can", "must", "should", "might")


class Phrase(NamedTuple):
    """A noun phrase and what agrees with it."""

    tokens: list[Token]
    noun: Noun
    plural: bool


def flip(rng: Random, chance: float = 0.5) -> bool:
    """True with the given chance."""
    return rng.random() < chance


def determiner(form: str) -> Token:
    """A determiner with its tag (possessives are pronouns in UD)."""
    return form, "PRON" if form in POSSESSIVES else "DET"


def inflected(noun: Noun, plural: bool) -> Token:
    """The noun in one number."""
    return noun.plural if plural else noun.singular, "NOUN"


def noun_phrase(rng: Random, nouns: tuple[Noun, ...], *, plural: bool | None = None) -> Phrase:
    """Determiner, perhaps an adjective, noun; the determiner mostly fits both numbers."""
    number = flip(rng) if plural is None else plural
    noun = rng.choice(nouns)
    form = rng.choice(NEUTRAL if flip(rng, 0.8) else DETERMINERS[number])
    quality = [(rng.choice(QUALITIES), "ADJ")] if flip(rng, 0.25) else []
    return Phrase([determiner(form), *quality, inflected(noun, number)], noun, number)


def present(verb: Verb, plural: bool) -> Token:
    """The present form that agrees."""
    return verb.plain if plural else verb.third, "VERB"


def event(rng: Random) -> tuple[Verb, list[Token]]:
    """A verb and what follows it: an object or an adverb."""
    if flip(rng, 0.4):
        return rng.choice(RESTING), [(rng.choice(WAYS), "ADV")]
    if flip(rng):
        return rng.choice(ACTING), noun_phrase(rng, HUMANS).tokens
    return rng.choice(USING), noun_phrase(rng, THINGS).tokens


def modifier(rng: Random) -> list[Token]:
    """What may stand between subject and verb: nothing, a prepositional phrase, or a relative clause."""
    kind = rng.random()
    if kind < 0.5:
        return []
    if kind < 0.8:
        return [(rng.choice(PLACES), "ADP"), *noun_phrase(rng, (*HUMANS, *THINGS)).tokens]
    person = noun_phrase(rng, HUMANS)
    verb = rng.choice(ACTING)
    if kind < 0.9:
        return [("who", "PRON"), *person.tokens, present(verb, person.plural)]
    return [("that", "PRON"), (verb.past, "VERB"), *person.tokens]


def end(*parts: list[Token]) -> list[Token]:
    """The parts as a statement."""
    return [*(token for part in parts for token in part), (".", "PUNCT")]


def agreement(rng: Random) -> Pair:
    """The verb agrees with the subject, not with a noun that stands nearer."""
    subject = noun_phrase(rng, HUMANS)
    middle = modifier(rng)
    if flip(rng, 0.3):
        forms = rng.choice((("is", "are"), ("was", "were")))
        rest = [(rng.choice(QUALITIES), "ADJ")]
        good, bad = (forms[subject.plural], "AUX"), (forms[not subject.plural], "AUX")
    elif flip(rng, 0.2):
        verb, rest = event(rng)
        rest = [(verb.participle, "VERB"), *rest]
        forms = ("has", "have")
        good, bad = (forms[subject.plural], "AUX"), (forms[not subject.plural], "AUX")
    else:
        verb, rest = event(rng)
        good, bad = present(verb, subject.plural), present(verb, not subject.plural)
    return end(subject.tokens, middle, [good], rest), end(subject.tokens, middle, [bad], rest)


def number(rng: Random) -> Pair:
    """The determiner has the number of its noun."""
    plural = flip(rng)
    noun = rng.choice(THINGS)
    quality = [(rng.choice(QUALITIES), "ADJ")] if flip(rng, 0.25) else []
    chosen = determiner(rng.choice(DETERMINERS[plural]))
    subject = noun_phrase(rng, HUMANS).tokens
    verb = [(rng.choice(USING).past, "VERB")]
    good, bad = ([chosen, *quality, inflected(noun, one)] for one in (plural, not plural))
    if flip(rng):
        way = [(rng.choice(WAYS), "ADV")]
        fell = [(rng.choice(("vanished", "fell", "disappeared")), "VERB")]
        return end(good, fell, way), end(bad, fell, way)
    return end(subject, verb, good), end(subject, verb, bad)


def reflexive(rng: Random) -> Pair:
    """The reflexive has the gender and number of the subject."""
    kind = rng.randrange(3)
    nouns = (MEN, WOMEN, (*MEN, *WOMEN))[kind]
    subject = noun_phrase(rng, nouns, plural=kind == 2)
    forms = ["himself", "herself", "themselves"]
    good = forms.pop(kind)
    middle: list[Token] = []
    if flip(rng, 0.3):
        middle = [(rng.choice(PLACES), "ADP"), *noun_phrase(rng, (*MEN, *WOMEN)).tokens]
    verb = [(rng.choice(TURNING).past, "VERB")]
    head = [*subject.tokens, *middle, *verb]
    return end(head, [(good, "PRON")]), end(head, [(rng.choice(forms), "PRON")])


def frame(rng: Random) -> Pair:
    """A transitive verb has an object, an intransitive one has none."""
    subject = noun_phrase(rng, HUMANS).tokens
    resting, using = rng.choice(RESTING), rng.choice(USING)
    rest = noun_phrase(rng, THINGS).tokens if flip(rng) else []
    way = [(rng.choice(WAYS), "ADV")]
    verbs = (using, resting) if rest else (resting, using)
    good, bad = (end(subject, [(verb.past, "VERB")], rest, way) for verb in verbs)
    return good, bad


def opening(rng: Random) -> list[Token]:
    """What stands before a clause: an adverb, or a clause that embeds it."""
    if flip(rng):
        return [(rng.choice(("today", "yesterday", "suddenly", "often")), "ADV")]
    thinker = noun_phrase(rng, HUMANS).tokens
    return [*thinker, (rng.choice(THINKING).past, "VERB"), ("that", "SCONJ")]


def case(rng: Random) -> Pair:
    """Subjects are nominative, objects accusative; no pronoun comes first, where its capital would tell."""
    which = rng.randrange(len(NOMINATIVE))
    nominative, accusative = [(NOMINATIVE[which], "PRON")], [(ACCUSATIVE[which], "PRON")]
    person = noun_phrase(rng, HUMANS).tokens
    verb = [(rng.choice(ACTING).past, "VERB")]
    outer = opening(rng)
    if flip(rng):
        return end(outer, nominative, verb, person), end(outer, accusative, verb, person)
    return end(outer, person, verb, accusative), end(outer, person, verb, nominative)


def verb_form(rng: Random) -> Pair:
    """The plain form follows a modal, the third person follows a singular subject without one."""
    subject = noun_phrase(rng, HUMANS, plural=False).tokens
    verb, rest = event(rng)
    plain, third = [(verb.plain, "VERB")], [(verb.third, "VERB")]
    if flip(rng):
        modal = [(rng.choice(MODALS), "AUX")]
        return end(subject, modal, plain, rest), end(subject, modal, third, rest)
    return end(subject, third, rest), end(subject, plain, rest)


def inversion(rng: Random) -> Pair:
    """The auxiliary stands before the subject in a question, behind it in an embedded one."""
    subject = noun_phrase(rng, HUMANS).tokens
    auxiliary = [(rng.choice(("did", "will", "can", "should")), "AUX")]
    verb = [(rng.choice(USING).plain, "VERB")]
    what = [(rng.choice(("what", "when", "where", "why")), "SCONJ")]
    if what[0][0] == "what":
        what = [("what", "PRON")]
        rest: list[Token] = []
    else:
        what = [(what[0][0], "ADV")]
        rest = noun_phrase(rng, THINGS).tokens
    inverted = [*what, *auxiliary, *subject, *verb, *rest]
    straight = [*what, *subject, *auxiliary, *verb, *rest]
    if flip(rng):
        return [*inverted, ("?", "PUNCT")], [*straight, ("?", "PUNCT")]
    thinker = noun_phrase(rng, HUMANS)
    outer = [*thinker.tokens, (rng.choice(("asked", "knew", "explained", "remembered", "forgot")), "VERB")]
    return end(outer, straight), end(outer, inverted)


def order(rng: Random) -> Pair:
    """A determiner stands before what it determines; the first phrase stays, for its capital would tell."""
    subject = noun_phrase(rng, HUMANS).tokens
    if flip(rng):
        verb, rest = event(rng)
        good = end(opening(rng), subject, [(verb.past, "VERB")], rest)
    else:
        verb, thing = rng.choice(USING), noun_phrase(rng, THINGS).tokens
        good = end(subject, [(verb.past, "VERB")], thing)
    places = [i for i in range(1, len(good) - 1) if good[i][1] in ("DET", "PRON") and good[i + 1][1] in ("NOUN", "ADJ")]
    at = rng.choice(places)
    return good, [*good[:at], good[at + 1], good[at], *good[at + 2 :]]


CONSTRUCTIONS: tuple[tuple[Callable[[Random], Pair], float], ...] = (
    (agreement, 0.1),
    (number, 0.08),
    (reflexive, 0.13),
    (frame, 0.02),
    (case, 0.2),
    (verb_form, 0.1),
    (inversion, 0.12),
    (order, 0.25),
)
"""Constructions and how often each is drawn: mostly those that a small encoder learns from a thousand sentences."""


def spelled(tokens: list[Token]) -> tuple[Token, ...]:
    """The tokens with a capital at the start."""
    (form, tag), *rest = tokens
    return (form[0].upper() + form[1:], tag), *rest
