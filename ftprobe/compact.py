"""Compact records: the rows of many small parts in one sorted-as-planned Parquet file, so that large studies read fast.

A compact file is an artifact of the stage `compact`, derived and disposable. Its id hashes the digests of the parts it
was made from and the names that the study gives them, so that it is either exactly their rows or not looked at; parts
without one are read as they are, and the rows and their order are the same either way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ftprobe.errors import CorruptArtifact, StoreError
from ftprobe.hashing import content_id
from ftprobe.planner import Plan
from ftprobe.rows import PART, SCHEMA, scan
from ftprobe.store import Store

if TYPE_CHECKING:
    import polars as pl

STAGE = "compact"
VERSION = 1
LEAST_PARTS = 200  # loose ones that a study must have before they are worth a file
CHUNK_PARTS = 256  # on average in one file
ROW_GROUP = 100_000  # rows that are skipped together when a filter rules them out


class Part(NamedTuple):
    """The records of one held trial under one of the study's names for it."""

    stage: str
    trial: str
    digest: str
    columns: Mapping[str, Any]


class Chunk(NamedTuple):
    """Parts that go into one file, in plan order; `id` is that of the file."""

    id: str
    parts: tuple[Part, ...]


def chunks(plan: Plan) -> list[Chunk]:
    """The held parts of a plan, cut into chunks.

    A chunk ends at a trial whose id says so, like the blocks of a de-duplicating backup: trials that are added to a
    study or done later change the chunks they fall into and no other.
    """
    named: dict[str, list[Mapping[str, Any]]] = {}
    for trial, columns in plan.labels:
        named.setdefault(trial, []).append(columns)
    made: list[Chunk] = []
    for trials in _cut(named):
        parts = tuple(
            Part(plan.trials[t].stage if t in plan.trials else "labels", t, plan.records[t], {**columns, "trial": t})
            for t in trials
            if t in plan.records
            for columns in named[t]
        )
        if parts:
            made.append(Chunk(_chunk_id(parts), parts))
    return made


def compact(plan: Plan, store: Store) -> None:
    """Write the compact files that a plan lacks, if it has `LEAST_PARTS` loose parts.

    Any number of processes may do so at once. A store that is full or cannot be written loses nothing by it.

    Raises
    ------
    CorruptArtifact
        A part is damaged.
    """
    _held(chunks(plan), plan.study.name, store)


def scan_study(plan: Plan, store: Store) -> pl.LazyFrame:
    """All records of a plan that the store holds, lazily, in plan order; compact files are written as by `compact`.

    Filters on columns skip the row groups of a compact file that cannot have such rows.

    Raises
    ------
    CorruptArtifact
        A part is damaged.
    """
    import polars as pl

    made = chunks(plan)
    held = _held(made, plan.study.name, store)
    paths = {chunk.id: path for chunk in made if chunk.id in held and (path := _path(chunk, store))}
    frames = []
    for is_compact, run in itertools.groupby(made, key=lambda chunk: chunk.id in paths):
        if is_compact:
            files = [paths[chunk.id] for chunk in run]
            frames.append(pl.scan_parquet(files, schema=pl.DataFrame(SCHEMA.empty_table()).schema, glob=False))
        else:
            frames.append(_scan_parts([part for chunk in run for part in chunk.parts], store))
    return pl.concat(frames) if frames else scan([])


def _cut(trials: Mapping[str, Any]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for trial in trials:
        chunk.append(trial)
        if int(trial[:8], 16) % CHUNK_PARTS == 0:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _chunk_id(parts: Sequence[Part]) -> str:
    schema = [[field.name, str(field.type)] for field in SCHEMA]
    return content_id([STAGE, VERSION, schema, [[part.digest, part.columns] for part in parts]])


def _held(made: Sequence[Chunk], study: str, store: Store) -> set[str]:
    """The compact files that the store has, after writing those that are worth it."""
    held = {id for _, id in store.existing([(STAGE, chunk.id) for chunk in made])}
    loose = [chunk for chunk in made if chunk.id not in held]
    if sum(len(chunk.parts) for chunk in loose) >= LEAST_PARTS:
        with suppress(StoreError):
            for chunk in loose:
                if len(chunk.parts) > 1:
                    _write(chunk, study, store)
                    held.add(chunk.id)
    return held


def _path(chunk: Chunk, store: Store) -> str | None:
    """A compact file that is intact; a damaged one is removed, and the parts are read instead."""
    try:
        return str(store.file(STAGE, chunk.id, PART))
    except CorruptArtifact:
        with suppress(StoreError):
            store.remove(STAGE, chunk.id)
        return None


def _scan_parts(parts: Sequence[Part], store: Store) -> pl.LazyFrame:
    paths = store.files([(part.stage, part.trial, PART) for part in parts])
    return scan([(str(path), part.columns) for path, part in zip(paths, parts, strict=True)])


def _write(chunk: Chunk, study: str, store: Store) -> None:
    rows = _scan_parts(chunk.parts, store)
    with store.workdir() as folder:
        rows.sink_parquet(folder / PART, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
        trials = list(dict.fromkeys(part.trial for part in chunk.parts))
        store.publish(STAGE, chunk.id, folder, {"id": chunk.id, "stage": STAGE, "study": study, "parents": trials})
