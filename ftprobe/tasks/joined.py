"""Two corpora as one: models are trained on the first and tested on the second (`squad@squadshifts+xquad_en`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ftprobe.errors import InputError
from ftprobe.hashing import content_id
from ftprobe.tasks.task import Found
from ftprobe.tasks.types import Corpus, LabelSet, Split, TaskData

VERSION = 1
Kept = Mapping[Split, Split]


def join(train: Found, test: Found) -> Found:
    """A corpus of the train and development text of `train` and the test text of `test`.

    Where one of them is a single file (`Found.cut`), all of it is taken, not the share that ftprobe would cut. Where
    `test` has no test split, its development split is the test text (METHODS 0).
    """
    name = f"{train.corpus}+{test.corpus}"
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": "joined",
        "fingerprint": _fingerprint(train, test),
        "train": train.corpus_spec,
        "test": test.corpus_spec,
    }
    return Found(name, spec, _sizes(train, test), partial(read, name, train, test))


def read(name: str, train: Found, test: Found) -> TaskData:
    """Read both and keep what is asked of each; a sentence id that both have is told apart by the name of the second.

    Raises
    ------
    InputError
        What their readers refuse; the first has no train text, or the second neither test nor dev text.
    """
    first, second = train.read(), test.read()
    a = _part(first, _kept_of_train(train))
    b = _part(second, _kept_of_test(test, {sentence.split for sentence in second.corpus.sentences}))
    for found, data, split in ((train, a, "train"), (test, b, "test")):
        if not any(sentence.split == split for sentence in data.corpus.sentences):
            raise InputError.one(found.corpus, f"no {split} split to make '{name}' of", "name another corpus")
    taken = {sentence.id for sentence in a.corpus.sentences}
    renamed = (s._replace(id=f"{test.corpus}:{s.id}") if s.id in taken else s for s in b.corpus.sentences)
    count = len(a.corpus.sentences)
    labels = LabelSet(
        a.labels.task,
        (*a.labels.sentence_N, *(index + count for index in b.labels.sentence_N)),
        (*a.labels.word_N, *b.labels.word_N),
        (*a.labels.label_N, *b.labels.label_N),
        (*a.labels.head_N, *b.labels.head_N),
    )
    corpus = Corpus(name, (*a.corpus.sentences, *renamed))
    return TaskData(corpus, labels, (*a.measurements, *b.measurements))


def _kept_of_train(found: Found) -> Kept:
    return {"train": "train", "test": "train"} if found.cut else {"train": "train", "dev": "dev"}


def _kept_of_test(found: Found, present: set[Split]) -> Kept:
    if found.cut:
        return {"train": "test", "test": "test"}
    return {"test": "test"} if "test" in present else {"dev": "test"}


def _part(data: TaskData, kept: Kept) -> TaskData:
    """The sentences of the splits that are kept, under their new splits, with their items and counts."""
    places = [place for place, sentence in enumerate(data.corpus.sentences) if sentence.split in kept]
    new = {place: number for number, place in enumerate(places)}
    sentences = [data.corpus.sentences[place] for place in places]
    labels = data.labels
    rows = [row for row, place in enumerate(labels.sentence_N) if place in new]
    return TaskData(
        Corpus(data.corpus.name, tuple(s._replace(split=kept[s.split]) for s in sentences)),
        LabelSet(
            labels.task,
            tuple(new[labels.sentence_N[row]] for row in rows),
            tuple(labels.word_N[row] for row in rows),
            tuple(labels.label_N[row] for row in rows),
            tuple(labels.head_N[row] for row in rows) if labels.head_N else (),
        ),
        tuple(m._replace(split=split) for m in data.measurements for old, split in kept.items() if m.split == old),
    )


def _sizes(train: Found, test: Found) -> dict[Split, int] | None:
    if train.sizes is None or test.sizes is None:
        return None
    sizes: dict[Split, int] = {}
    for found, kept in (
        (train, _kept_of_train(train)),
        (test, _kept_of_test(test, set(test.sizes))),
    ):
        for old, split in kept.items():
            if count := (found.sizes or {}).get(old):
                sizes[split] = sizes.get(split, 0) + count
    return sizes


def _fingerprint(*parts: Found) -> str:
    """What the text is; of text on the hub, which plans do not read, it begins as that of the hub."""
    own = content_id([part.corpus_spec for part in parts])
    hub = any(str(part.corpus_spec.get("fingerprint", "")).startswith("hub:") for part in parts)
    return f"hub:{own}" if hub else own


def join_named(reference: str, corpora: str, find: Callable[[str], Found], place: str) -> Found:
    """What `find` gives for a corpus, or the join of what it gives for the two of `A+B`.

    Raises
    ------
    InputError
        More than two names, an empty one, or one name twice.
    """
    names = corpora.split("+")
    if len(names) == 1:
        return find(corpora)
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        what = f"'{reference}' does not name two corpora after @"
        raise InputError.one(place, what, "write TASK@A+B: trained on A, tested on B")
    return join(find(names[0]), find(names[1]))
