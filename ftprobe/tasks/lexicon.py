"""Lexicon of the built-in English grammar: nouns with number and gender, verbs with their forms and frames.

Verbs are strictly transitive or strictly intransitive; some nouns are also verbs (guard, guide, judge), so that the
part of speech is not a property of the form alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Gender = Literal["male", "female", "any"]


class Noun(NamedTuple):
    """A countable noun; `gender` decides which reflexive it binds."""

    singular: str
    plural: str
    gender: Gender = "any"


class Verb(NamedTuple):
    """A verb's plain, third-person, past and participle forms."""

    plain: str
    third: str
    past: str
    participle: str


def _nouns(listing: str, gender: Gender = "any") -> tuple[Noun, ...]:
    """Nouns of a list like `boy, woman/women`: regular plurals are formed."""
    found = []
    for entry in listing.split(","):
        singular, _, plural = entry.strip().partition("/")
        found.append(Noun(singular, plural or _s_form(singular), gender))
    return tuple(found)


def _verbs(listing: str) -> tuple[Verb, ...]:
    """Verbs of a list like `help, see/saw/seen`: regular forms are formed."""
    found = []
    for entry in listing.split(","):
        plain, *forms = entry.strip().split("/")
        past = forms[0] if forms else plain + ("d" if plain.endswith("e") else "ed")
        found.append(Verb(plain, _s_form(plain), past, forms[1] if len(forms) > 1 else past))
    return tuple(found)


def _words(listing: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in listing.split(","))


def _s_form(word: str) -> str:
    if word.endswith(("s", "sh", "ch", "x", "z")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


MEN = _nouns(
    "boy, man/men, king, prince, uncle, brother, father, son, husband, nephew, actor, waiter, duke, monk, wizard, "
    "grandfather, gentleman/gentlemen, policeman/policemen, salesman/salesmen, cowboy, landlord, bridegroom",
    "male",
)
WOMEN = _nouns(
    "girl, woman/women, queen, princess, aunt, sister, mother, daughter, wife/wives, niece, actress, waitress, "
    "duchess, nun, witch, grandmother, lady, policewoman/policewomen, saleswoman/saleswomen, cowgirl, landlady, bride",
    "female",
)
PEOPLE = _nouns(
    "doctor, teacher, lawyer, student, artist, singer, dancer, writer, painter, farmer, baker, driver, pilot, sailor, "
    "soldier, officer, manager, scientist, engineer, gardener, guest, visitor, neighbor, friend, child/children, "
    "tourist, customer, author, editor, guard, guide, judge, nurse, cook, coach, pianist, senator, clerk, tailor"
)
THINGS = _nouns(
    "book, letter, picture, song, house, garden, table, chair, window, door, car, boat, train, bridge, castle, cake, "
    "apple, orange, lamp, clock, box, basket, coat, hat, shoe, ring, map, key, cup, plate, knife/knives, piano, "
    "guitar, camera, painting, story, poem, novel, ticket, toy, ball, tower, shop, school, museum, umbrella, island"
)
ACTING = _verbs(
    "admire, visit, help, find/found, watch, follow, describe, remember, avoid, praise, mention, notice, protect, "
    "like, know/knew/known, see/saw/seen, hear/heard, meet/met, guard, guide, judge, hate, love, trust, thank"
)
USING = _verbs(
    "build/built, buy/bought, sell/sold, break/broke/broken, bring/brought, carry/carried, clean, destroy, repair, "
    "steal/stole/stolen, lose/lost, borrow, hide/hid/hidden, paint, draw/drew/drawn, find/found, want, need, own, "
    "devour, discover, make/made, take/took/taken, throw/threw/thrown, keep/kept"
)
RESTING = _verbs(
    "sleep/slept, arrive, laugh, smile, vanish, sneeze, faint, fall/fell/fallen, cough, snore, disappear, shiver, "
    "sit/sat, lie/lay/lain, cry/cried, die, wait, yawn, blush, stumble, hesitate, giggle, weep/wept, kneel/knelt"
)
TURNING = _verbs(
    "admire, blame, hurt/hurt, describe, praise, hide/hid/hidden, trust, protect, wash, mention, love, hate"
)
THINKING = _verbs("think/thought, say/said, believe, claim, know/knew/known, hope, suspect, insist")
QUALITIES = _words(
    "old, new, small, big, young, red, green, blue, expensive, beautiful, strange, quiet, famous, clever, lazy, rich, "
    "poor, tall, short, heavy, empty, broken, honest, elegant, ancient, ugly, important, angry, interesting"
)
WAYS = _words("quickly, quietly, slowly, often, suddenly, rarely, happily, sadly, carefully, again, today, yesterday")
PLACES = _words("near, behind, beside, with, above, by, below")
