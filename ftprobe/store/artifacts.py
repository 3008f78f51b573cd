"""The store of artifacts: content-addressed folders that appear whole, and the failures, logs and studies beside them.

Below the store's URL: `artifacts/STAGE/ID/` with `manifest.json` and the files it lists, `failures/ID.json`,
`logs/ID.log`, `studies/NAME.json`, `checkpoints/ID/NUMBER/` of trials that are not done, laid out as artifacts, and
`tmp/` for what is not finished.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ftprobe.errors import CorruptArtifact, StoreError
from ftprobe.store.contents import MANIFEST, Files, complete, damage, list_files, parse_manifest
from ftprobe.store.faults import explained, full_disk_explained, node_explained
from ftprobe.store.local import LocalVolume
from ftprobe.store.remote import RemoteVolume
from ftprobe.store.scratch import discard, scratch_name

STAGES = ("corpus", "labels", "pretrain", "finetune", "search", "activations", "probe", "compare", "compact")
_NAME = re.compile(r"[^/\\\0.][^/\\\0]*")
_Key = TypeVar("_Key")


class Store:
    """Artifacts by stage and id; safe to use from many processes and machines at once, and picklable.

    Every method raises `StoreError` when the store cannot be reached, read or written.
    """

    def __init__(self, volume: LocalVolume | RemoteVolume) -> None:
        self.volume = volume

    @classmethod
    def open(cls, url: str | Path) -> Store:
        """The store at a folder, a `file://`, `s3://` or `gs://` URL, or any URL that fsspec knows; made if new.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        store = cls(_volume(url))
        store.volume.prepare()
        return store

    @property
    def url(self) -> str:
        """Where the store is, for people: credentials and options of a URL are left out."""
        return self.volume.address("").rstrip("/")

    def path(self, stage: str, id: str) -> str:
        """Where an artifact is or would be, for people."""
        return self.volume.address(_artifact(stage, id))

    def exists(self, stage: str, id: str) -> bool:
        """Whether the artifact is there with every file at its full size."""
        return (stage, id) in self.existing([(stage, id)])

    def existing(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """The (stage, id) pairs that exist: one listing a stage, then the manifests of those listed."""
        return {key for key, _ in self.held(pairs)}

    def held(self, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Each of the (stage, id) pairs that exists, with its manifest."""
        by_stage: dict[str, set[str]] = {}
        for stage, id in pairs:
            by_stage.setdefault(stage, set()).add(_checked_name(id))
        if isinstance(self.volume, LocalVolume):
            present = [(stage, id) for stage, ids in by_stage.items() for id in self.volume.present(_stage(stage), ids)]
            for key, found in self._read(present):
                if found and self.volume.whole(_artifact(*key), found["files"]):
                    yield key, found
            return
        sizes: dict[tuple[str, str], dict[str, int]] = {}
        for stage, ids in by_stage.items():
            for id, size_of in self.volume.sizes(_stage(stage), ids).items():
                if MANIFEST in size_of:
                    sizes[stage, id] = size_of
        for key, found in self._read(list(sizes)):
            if found and complete(found["files"], sizes[key]):
                yield key, found

    def artifacts(self) -> list[tuple[str, str]]:
        """Every (stage, id) with a folder in the store, damaged ones included."""
        return [(stage, id) for stage in STAGES for id in self.volume.names(f"artifacts/{stage}")]

    def manifests(self, stages: Iterable[str], limit: int) -> list[dict[str, Any]]:
        """Up to `limit` manifests of each stage, the latest first where the filesystem dates folders."""
        keys = [(stage, id) for stage in stages for id in self.volume.names(f"artifacts/{stage}")[:limit]]
        return [found for _, found in self._read(keys) if found]

    def manifest(self, stage: str, id: str) -> dict[str, Any]:
        """What is written about an artifact: provenance, and `files` with bytes, blake2b and path of each.

        Raises
        ------
        CorruptArtifact
            There is no such artifact, or its manifest cannot be read.
        """
        data = self.volume.read(f"{_artifact(stage, id)}/{MANIFEST}")
        found = parse_manifest(data)
        if found is None:
            what = "it is not in the store" if data is None else "its manifest is damaged"
            raise CorruptArtifact(stage, id, f"{what} ({self.path(stage, id)})")
        return found

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        """A scratch folder, removed at the end; on a local store publishing it is a rename.

        A disk that fills up inside the block raises `StoreError`, whichever library was writing; of a remote store the
        folder is on this machine's disk and the error a `NodeError`.
        """
        folder = self.volume.scratch / scratch_name()
        of_node = self.volume.scratch_is_of_node
        with node_explained(str(folder), "make") if of_node else explained(str(folder), "make"):
            folder.mkdir(parents=True)
        try:
            with full_disk_explained(str(folder), of_node=of_node):
                yield folder
        finally:
            discard(folder)

    def publish(self, stage: str, id: str, folder: Path, manifest: Mapping[str, object]) -> None:
        """Make the finished files in `folder` the artifact `stage`/`id`, in one step that all readers see or none.

        If the artifact exists nothing happens; a damaged one is replaced. A folder of `workdir` is moved away.

        Raises
        ------
        StoreError
            The store is full or cannot be written; nothing of the artifact is visible then.
        """
        if self.exists(stage, id):
            return
        with explained(str(folder), "read"):
            files = list_files(folder)
        self.volume.publish(folder, _artifact(stage, id), manifest, files)

    def fetch(self, stage: str, id: str, *, verify: bool = True) -> Path:
        """A local folder with the artifact's files; of a remote store, its copy in this machine's cache.

        The copy stays until `release` or the end of this process, and longer while the cache has room.

        Parameters
        ----------
        verify : bool
            Compare checksums, once a process for each file; sizes are always compared.

        Raises
        ------
        CorruptArtifact
            The artifact is absent, or a file is missing, cut short or altered.
        """
        return self._local(stage, id, None, verify)

    def file(self, stage: str, id: str, name: str) -> Path:
        """One file of an artifact, checked; of a remote store only this file travels.

        Raises
        ------
        CorruptArtifact
            As `fetch`; also if the artifact has no such file.
        """
        return self._local(stage, id, name, True) / name

    def files(self, wanted: Sequence[tuple[str, str, str]]) -> list[Path]:
        """`file` for many (stage, id, name) at once: a remote store answers many requests at a time."""
        if self.volume.lanes == 1:
            return [self.file(*each) for each in wanted]
        with ThreadPoolExecutor(self.volume.lanes) as pool:
            return list(pool.map(lambda each: self.file(*each), wanted))

    def release(self) -> None:
        """Let this machine's cache evict what this process fetched: files still open or mapped stay readable."""
        self.volume.release()

    def held_here(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """The (stage, id) pairs of which this machine has files already: all of a local store's."""
        return self.volume.held_here(pairs)

    def remove(self, stage: str, id: str) -> None:
        """Remove an artifact; absent is fine."""
        self.volume.delete(_artifact(stage, id))

    def save_checkpoint(self, id: str, number: int, folder: Path) -> None:
        """Keep the files in `folder`, which lie side by side, as a trial's checkpoint in place of those before it.

        It appears whole or not at all; if there is one of this number already, that one stays.
        """
        with explained(str(folder), "read"):
            files = list_files(folder)
        place, name = _checkpoints(id), f"{number:08d}"
        self.volume.publish(folder, f"{place}/{name}", {}, files)
        for earlier in self.volume.names(place):
            if earlier < name:
                self.volume.delete(f"{place}/{earlier}")

    def load_checkpoint(self, id: str, folder: Path) -> int | None:
        """Copy the newest intact checkpoint of a trial into `folder`; its number, or None if there is none.

        One that is damaged is removed, so that the trial can write it again; one without a manifest may be on its way.
        """
        place = _checkpoints(id)
        for name in sorted(filter(str.isdigit, self.volume.names(place)), reverse=True):
            manifest = parse_manifest(self.volume.read(f"{place}/{name}/{MANIFEST}"))
            if manifest is not None:
                if self._copied(f"{place}/{name}", manifest["files"], folder):
                    return int(name)
                self.volume.delete(f"{place}/{name}")
        return None

    def drop_checkpoints(self, id: str) -> None:
        """Remove a trial's checkpoints; absent is fine."""
        self.volume.delete(_checkpoints(id))

    def record_failure(self, id: str, failure: Mapping[str, object]) -> None:
        """Keep why a trial failed, in place of what was kept before."""
        self.volume.write(f"failures/{_checked_name(id)}.json", _json(failure))

    def failures(self) -> dict[str, dict[str, Any]]:
        """The failures of trials that have not succeeded since, by id."""
        return self._documents("failures")

    def clear_failure(self, id: str) -> None:
        """Forget a trial's failure; absent is fine."""
        self.volume.delete(f"failures/{_checked_name(id)}.json")

    def write_log(self, id: str, log: str | Path) -> None:
        """Keep the log of a trial: its text, or the file that holds it."""
        with explained(str(log)[:200], "read"):
            data = log.read_bytes() if isinstance(log, Path) else log.encode(errors="replace")
        self.volume.write(f"logs/{_checked_name(id)}.log", data)

    def log_path(self, id: str) -> str:
        """Where a trial's log is or would be, for people."""
        return self.volume.address(f"logs/{_checked_name(id)}.log")

    def save_study(self, name: str, document: Mapping[str, object]) -> None:
        """Keep what a study consists of, in place of what was kept before."""
        self.volume.write(f"studies/{_checked_name(name)}.json", _json(document))

    def studies(self, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """The studies run with this store, by name, but those named; raises `StoreError` for one that is damaged."""
        return self._documents("studies", without)

    def _copied(self, name: str, files: Files, folder: Path) -> bool:
        """Copy files out of the store, where another writer may remove them at any time; False if any is not intact."""
        source = self.volume.bring(name, files)
        with explained(str(folder), "write"), suppress(FileNotFoundError):
            for file in files:
                shutil.copyfile(source / file, folder / file)
        return not damage(folder, files, digests=True)

    def _local(self, stage: str, id: str, name: str | None, verify: bool) -> Path:
        files = self.manifest(stage, id)["files"]
        if name is not None and name not in files:
            raise CorruptArtifact(stage, id, f"it has no file {name}")
        wanted = files if name is None else {name: files[name]}
        folder = self.volume.bring(_artifact(stage, id), files, wanted)
        problem = damage(folder, wanted, digests=verify)
        if problem:
            folder = self.volume.bring(_artifact(stage, id), files, wanted, renew=True)
            problem = damage(folder, wanted, digests=verify)
        if problem:
            raise CorruptArtifact(stage, id, f"{problem} ({self.path(stage, id)})")
        return folder

    def _read(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], dict[str, Any] | None]]:
        names = {key: f"{_artifact(*key)}/{MANIFEST}" for key in keys}
        return ((key, parse_manifest(data)) for key, data in self._read_all(names))

    def _documents(self, folder: str, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        listed = {name.removesuffix(".json"): f"{folder}/{name}" for name in sorted(self.volume.names(folder))}
        names = {name: place for name, place in listed.items() if name not in without}
        documents = {}
        for name, data in self._read_all(names):
            try:
                if data is not None:
                    documents[name] = json.loads(data)
            except ValueError as error:
                where = self.volume.address(names[name])
                raise StoreError(f"{where} is damaged: {error}; run what it belongs to again, or remove it") from error
        return documents

    def _read_all(self, names: Mapping[_Key, str]) -> Iterator[tuple[_Key, bytes | None]]:
        if self.volume.lanes == 1 or len(names) < 2:
            yield from zip(names, map(self.volume.read, names.values()), strict=True)
            return
        with ThreadPoolExecutor(self.volume.lanes) as pool:
            yield from zip(names, pool.map(self.volume.read, names.values()), strict=True)


def _volume(url: str | Path) -> LocalVolume | RemoteVolume:
    text = str(url)
    if text.startswith("file://"):
        return LocalVolume(Path(unquote(urlsplit(text).path)))
    if isinstance(url, Path) or "://" not in text:
        return LocalVolume(Path(text).expanduser().absolute())
    return RemoteVolume.at(text)


def _stage(stage: str) -> str:
    return f"artifacts/{_checked_name(stage)}"


def _artifact(stage: str, id: str) -> str:
    return f"{_stage(stage)}/{_checked_name(id)}"


def _checkpoints(id: str) -> str:
    return f"checkpoints/{_checked_name(id)}"


def _checked_name(name: str) -> str:
    """Names become parts of paths: none may climb out of its folder or hide."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name something in a store: no '/', no '\\', no leading '.'")
    return name


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=1, default=str).encode()
