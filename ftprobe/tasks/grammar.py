"""The built-in corpus: English from a seeded grammar, with gold acceptability, parts of speech and word order.

It makes a whole study possible offline and in minutes. `acceptability` and `upos` share the corpus `grammar`, in
which half of the sentences break one rule: agreement, determiner and noun, reflexives, verb frames, case, verb form,
inversion, or order. Every rule is broken symmetrically, so that no word by itself tells the label. `word_order` has a
text of its own, half of it with two adjacent words swapped.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import NamedTuple

from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed
from ftprobe.tasks.phrases import CONSTRUCTIONS, Token, spelled
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1


class Sizes(NamedTuple):
    """Sentences per split; each even, half of every split carries each label."""

    train: int = 1200
    dev: int = 200
    test: int = 400


class Draw(NamedTuple):
    """One sentence of the grammar with its label."""

    tokens: tuple[Token, ...]
    label: str


def find(request: Request) -> Found:
    """The generated text of `acceptability`, `upos` or `word_order` (see `Task.find`)."""
    if request.corpus != "grammar":
        repair = f"write '{request.task}' or '{request.task}@grammar'"
        raise InputError.one(request.place, f"task '{request.task}' has no corpus '{request.corpus}'", repair)
    sizes = Sizes()
    family = "grammar/word_order" if request.task == "word_order" else "grammar"
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": family,
        "sizes": list(sizes),
        "seed": request.seed,
    }
    name = "word_order@grammar" if request.task == "word_order" else "grammar"
    read = partial(generate, request.task, sizes=sizes, seed=request.seed)
    counts: dict[Split, int] = {"train": sizes.train, "dev": sizes.dev, "test": sizes.test}
    return Found(name, spec, counts, read)


def generate(task: str, *, sizes: Sizes | None = None, seed: int = 0) -> TaskData:
    """Draw the text of one task; the same arguments give the same text everywhere.

    Parameters
    ----------
    task : str
        `acceptability`, `upos` or `word_order`.
    sizes : Sizes, optional
        Sentences per split, even numbers; by default 1200 / 200 / 400.
    seed : int
        Every draw derives from it.

    Raises
    ------
    InputError
        If a size is odd or negative.
    """
    sizes = sizes or Sizes()
    if any(size < 0 or size % 2 for size in sizes):
        raise InputError.one("sizes", f"{tuple(sizes)} are not even numbers", "half of each split carries each label")
    own = task == "word_order"
    name = "word_order@grammar" if own else "grammar"
    rng = Random(derive_seed(seed, "data", name, VERSION))
    seen: set[str] = set()
    sentences: list[Sentence] = []
    draws: list[Draw] = []
    counts: tuple[tuple[Split, int], ...] = (("train", sizes.train), ("dev", sizes.dev), ("test", sizes.test))
    for split, count in counts:
        good = [True] * (count // 2) + [False] * (count // 2)
        rng.shuffle(good)
        for intact in good:
            draw = _fresh(rng, intact, own, seen)
            words = tuple(form for form, _ in draw.tokens)
            sentences.append(Sentence(f"{split}-{len(sentences)}", split, " ".join(words), None, words))
            draws.append(draw)
    return TaskData(Corpus(name, tuple(sentences)), _labels(task, draws))


def _labels(task: str, draws: list[Draw]) -> LabelSet:
    if task != "upos":
        items = range(len(draws))
        return LabelSet(task, tuple(items), (-1,) * len(draws), tuple(draw.label for draw in draws))
    triples = [(s, w, tag) for s, draw in enumerate(draws) for w, (_, tag) in enumerate(draw.tokens)]
    return LabelSet(task, *zip(*triples, strict=True))


def _fresh(rng: Random, intact: bool, own: bool, seen: set[str]) -> Draw:
    """A draw whose text was not drawn before in any split, whatever the case of its letters."""
    while True:
        draw = _word_order(rng, intact) if own else _acceptability(rng, intact)
        text = " ".join(form for form, _ in draw.tokens).lower()
        if text not in seen:
            seen.add(text)
            return draw


def _acceptability(rng: Random, intact: bool) -> Draw:
    good, bad = _construction(rng)
    return Draw(spelled(good if intact else bad), "acceptable" if intact else "unacceptable")


def _construction(rng: Random) -> tuple[list[Token], list[Token]]:
    build = rng.choices([build for build, _ in CONSTRUCTIONS], [weight for _, weight in CONSTRUCTIONS])[0]
    return build(rng)


def _word_order(rng: Random, intact: bool) -> Draw:
    tokens = list(spelled(_construction(rng)[0]))
    places = [i for i in range(1, len(tokens) - 2) if tokens[i][0].lower() != tokens[i + 1][0].lower()]
    at = rng.choice(places)
    if not intact:
        tokens[at], tokens[at + 1] = tokens[at + 1], tokens[at]
    return Draw(tuple(tokens), "intact" if intact else "swapped")


TASKS = (
    Task(
        name="acceptability",
        level="sentence",
        corpus="grammar",
        metrics=("mcc", "accuracy"),
        find=find,
        description="acceptable or not: sentences of a built-in grammar, half with one broken rule",
    ),
    Task(
        name="word_order",
        level="sentence",
        corpus="grammar",
        metrics=("accuracy",),
        find=find,
        description="intact or two adjacent words swapped: sentences of a built-in grammar",
    ),
)
