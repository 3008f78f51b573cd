"""Garbage: what a store holds and none of its studies needs. Found by their documents, removed only when asked to.

A run saves its study's document before it looks up what it may reuse, and the documents are read again while garbage
is removed: what a run counts on stays. Where both happen within a second a run finds an input gone, and makes it anew.
The runs that a search has tried are named by no study: the search keeps the best, and the others only spare it time
when it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from rich.table import Table

from ftprobe.compact import STAGE as COMPACT
from ftprobe.errors import CorruptArtifact, InputError, Problem, StoreError, nearest
from ftprobe.store import Store
from ftprobe.store.artifacts import STAGES
from ftprobe.store.scratch import STALE_AFTER_S, owner_runs
from ftprobe.summary import size

READ_AGAIN_S = 1.0
BATCH = 256
DAY_S = 86_400.0
_SOURCES = (("labels", "labels"), ("corpus", "corpora"))
_COMPACT = f"artifacts/{COMPACT}"


class Item(NamedTuple):
    """Something in the store: `place` is `artifacts/STAGE`, `checkpoints`, `failures`, `logs` or `tmp`."""

    place: str
    name: str
    bytes: int
    age_s: float


class Garbage(NamedTuple):
    """What no study needs: old enough to go, and too young to; `forgotten` studies go too."""

    items: tuple[Item, ...]
    young: tuple[Item, ...]
    forgotten: tuple[str, ...]


class _Needed(NamedTuple):
    """The (stage, id) pairs that studies name, their ids, and those whose fine-tuning is done."""

    pairs: frozenset[tuple[str, str]]
    ids: frozenset[str]
    tuned: frozenset[str]

    def has(self, item: Item) -> bool:
        """Whether a study needs an item; a log, failure or checkpoint belongs to its trial."""
        folder, _, stage = item.place.partition("/")
        if stage:
            return (stage, item.name) in self.pairs
        if folder == "checkpoints" and item.name in self.tuned:
            return False
        return folder != "tmp" and item.name.partition(".")[0] in self.ids


def find_garbage(store: Store, *, keep_s: float, forget: Collection[str] = ()) -> Garbage:
    """What no study of the store needs, those of `forget` apart; nothing is removed.

    Parameters
    ----------
    keep_s : float
        Seconds since something last changed in which it is too young to go; scratch stays for a day in any case.
    forget : collection of str
        Studies that are given up, with all that only they need.

    Raises
    ------
    InputError
        No such study.
    StoreError
        A study's document cannot be read, so that nobody knows what it needs.
    """
    known = sorted(name.removesuffix(".json") for name in store.volume.names("studies"))
    repair = "no study has been run with it"
    problems = [
        Problem(f"--study {name}", f"{store.url} has no such study", nearest(name, known) if known else repair)
        for name in forget
        if name not in known
    ]
    if problems:
        raise InputError(problems)
    items = list(_items(store))
    needed = _needed(store, forget)
    compact = _compact_needed(store, [item for item in items if item.place == _COMPACT], needed)
    unneeded = [item for item in items if item not in compact and not needed.has(item)]
    least = {"tmp": max(keep_s, STALE_AFTER_S)}
    old = tuple(item for item in unneeded if item.age_s > least.get(item.place, keep_s))
    return Garbage(old, tuple(set(unneeded) - set(old)), tuple(forget))


def remove_garbage(store: Store, garbage: Garbage) -> tuple[Item, ...]:
    """Forget the studies and remove the items, but what a study needs by now; what was removed."""
    for name in garbage.forgotten:
        store.volume.delete(f"studies/{name}.json")
    removed: list[Item] = []
    read, needed = 0.0, _Needed(frozenset(), frozenset(), frozenset())
    with ThreadPoolExecutor(store.volume.lanes) as pool:
        for start in range(0, len(garbage.items), BATCH):
            if time.monotonic() - read > READ_AGAIN_S:
                needed, read = _needed(store, ()), time.monotonic()
            batch = [item for item in garbage.items[start : start + BATCH] if not needed.has(item)]
            list(pool.map(lambda item: store.volume.delete(f"{item.place}/{item.name}"), batch))
            removed += batch
    return tuple(removed)


def garbage_table(items: Sequence[Item]) -> Table:
    """Items by place: how many, their bytes, the youngest and the oldest."""
    table = Table(title="needed by no study", box=None)
    for name in ("what", "items", "size", "youngest", "oldest"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for place in dict.fromkeys(item.place for item in items):
        ages = sorted(item.age_s for item in items if item.place == place)
        total = sum(item.bytes for item in items if item.place == place)
        table.add_row(place.removeprefix("artifacts/"), f"{len(ages):,}", size(total), _age(ages[0]), _age(ages[-1]))
    table.add_row("all", f"{len(items):,}", size(sum(item.bytes for item in items)), "", "", style="bold")
    return table


def _items(store: Store) -> Iterator[Item]:
    now = time.time()
    for place in (*(f"artifacts/{stage}" for stage in STAGES), "checkpoints", "failures", "logs", "tmp"):
        for name, used in store.volume.usage(place).items():
            if not (place == "tmp" and owner_runs(name)):
                yield Item(place, name, used.bytes, now - used.changed)


def _needed(store: Store, forget: Collection[str]) -> _Needed:
    pairs: set[tuple[str, str]] = set()
    for name, document in store.studies(without=forget).items():
        try:
            pairs |= {(trial["stage"], trial["id"]) for trial in document["trials"]}
            pairs |= {(stage, id) for stage, key in _SOURCES for id in document[key]}
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"what study '{name}' needs cannot be told from {store.volume.address(f'studies/{name}.json')}; "
                f"run it again, or give it up with --study {name}"
            ) from error
    tuned = frozenset(store.volume.names("artifacts/finetune"))
    return _Needed(frozenset(pairs), frozenset(id for _, id in pairs), tuned)


def _compact_needed(store: Store, items: Sequence[Item], needed: _Needed) -> set[Item]:
    """Compact files of trials that studies need, but those whose trials a later one of the same study has too."""
    found: list[tuple[int, Item, str, list[str]]] = []
    for item in items:
        with suppress(CorruptArtifact, KeyError):  # a damaged one helps nobody
            manifest = store.manifest(COMPACT, item.name)
            if needed.ids.issuperset(manifest["parents"]):
                found.append((len(manifest["parents"]), item, manifest["study"], manifest["parents"]))
    kept: set[Item] = set()
    covered: set[tuple[str, str]] = set()
    for _, item, study, trials in sorted(found, key=lambda each: (-each[0], each[1].age_s)):
        if not covered.issuperset((study, trial) for trial in trials):
            kept.add(item)
            covered.update((study, trial) for trial in trials)
    return kept


def _age(seconds: float) -> str:
    """An age for people.

    >>> _age(7200.0), _age(200_000.0)
    ('2.0 h', '2.3 days')
    """
    return f"{seconds / 3600:.1f} h" if seconds < DAY_S else f"{seconds / DAY_S:.1f} days"
