"""Remote volume: a store on any pyarrow filesystem that lacks an atomic rename; the manifest, put last, publishes.

An artifact's files lie below a folder of their own upload, so that two writers never touch each other's; reading goes
through the cache of this machine. Requests that fail for a passing reason are repeated: see `Patience`.

`s3://` is tested against a server, faults of the network included; of `gs://` only opening its URL is.
"""

from __future__ import annotations

import functools
import json
import os
import posixpath
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ftprobe.errors import StoreError
from ftprobe.hashing import file_digest
from ftprobe.store import cache
from ftprobe.store.contents import MANIFEST, FileEntry, Files, Usage, complete, parse_manifest
from ftprobe.store.faults import explained, node_explained
from ftprobe.store.filesystems import filesystem_at, shown
from ftprobe.store.patience import Patience
from ftprobe.store.scratch import STALE_AFTER_S, discard, scratch_name, sweep

LANES = 32  # requests in flight: an object store answers in tens of milliseconds
_COPY_BYTES = 8 << 20
_OPENING_LIMIT_S = 10.0  # a mistyped URL is said at once
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class RemoteVolume:
    """Objects below `root` of a `pyarrow.fs.FileSystem`; picklable where the filesystem is."""

    lanes = LANES
    scratch_is_of_node = True

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self.filesystem, self.base, self.url = filesystem, root.rstrip("/"), shown(url)
        self.patience = Patience()

    @classmethod
    def at(cls, url: str) -> RemoteVolume:
        """The volume at an `s3://`, `gs://`, ... URL of pyarrow, else of fsspec.

        Raises
        ------
        StoreError
            Nobody knows the scheme, or its server does not answer.
        """
        return cls(*filesystem_at(url), url)

    @property
    def scratch(self) -> Path:
        """Scratch on this machine, in the cache."""
        return cache.cache_folder() / "tmp"

    def prepare(self) -> None:
        """Put and remove one small object to know that one can, and sweep this machine's cache of leftovers.

        Raises
        ------
        StoreError
            The store or the cache cannot be written.
        InputError
            FTPROBE_CACHE_GB is no number.
        """
        with node_explained(str(self.scratch), "write to the cache at"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            cache.limit_bytes(self.scratch, 0)
        sweep(self.scratch)
        patience, self.patience = self.patience, Patience(min(_OPENING_LIMIT_S, self.patience.limit_s))
        try:
            probe = f"tmp/{scratch_name()}"
            self.write(probe, b"ftprobe")
            self.delete(probe)
        except (NotImplementedError, ValueError) as error:  # of fsspec's, those that can only be read
            what = f"its filesystem cannot do that ({type(error).__name__})"
            raise StoreError(
                f"cannot write {self.url}: {what}; give a folder, s3://bucket/folder or gs://..."
            ) from None
        finally:
            self.patience = patience

    def address(self, name: str) -> str:
        """The URL of a name, for people."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """An object's bytes, or None if there is none."""

        def request() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._ask(request, name, "read")

    def write(self, name: str, data: bytes) -> None:
        """Put a small object."""

        def request() -> None:
            self._make_parent(name)
            with self.filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(data)

        self._ask(request, name, "write")

    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, newest first where the filesystem dates folders."""
        found = sorted(self._list(folder, recursive=False), key=lambda i: (i.mtime_ns or 0, i.base_name), reverse=True)
        return [info.base_name for info in found]

    def sizes(self, folder: str, children: Iterable[str]) -> dict[str, dict[str, int]]:
        """For each child folder that exists: its files, recursively, as relative path -> bytes.

        Many children are found in one listing of the folder, a few in one listing each.
        """
        wanted = set(children)
        places = [folder] if len(wanted) > LANES else [f"{folder}/{child}" for child in sorted(wanted)]
        start = len(self._path(folder)) + 1
        sizes: dict[str, dict[str, int]] = {}
        for infos in _each(lambda place: self._list(place, recursive=True), places):
            for info in infos:
                child, _, path = info.path[start:].partition("/")
                if info.is_file and child in wanted:
                    sizes.setdefault(child, {})[path] = info.size
        return sizes

    def usage(self, folder: str) -> dict[str, Usage]:
        """What each entry of a folder takes, and when it last changed; now, where the filesystem dates nothing."""
        start, now = len(self._path(folder)) + 1, time.time()
        used: dict[str, Usage] = {}
        for info in self._list(folder, recursive=True):
            if info.is_file:
                child = info.path[start:].partition("/")[0]
                before = used.get(child, Usage(0, 0.0))
                changed = info.mtime_ns / 1e9 if info.mtime_ns else now
                used[child] = Usage(before.bytes + info.size, max(before.changed, changed))
        return used

    def delete(self, name: str) -> None:
        """Remove an object, or an artifact's folder, manifest first; absent is fine."""
        from pyarrow.fs import FileType

        path = self._path(name)

        def request() -> None:
            with suppress(FileNotFoundError):
                kind = self.filesystem.get_file_info(path).type
                if kind == FileType.File:
                    self.filesystem.delete_file(path)
                elif kind == FileType.Directory:
                    with suppress(FileNotFoundError):
                        self.filesystem.delete_file(f"{path}/{MANIFEST}")
                    self.filesystem.delete_dir(path)

        self._ask(request, name, "remove")

    def publish(self, folder: Path, name: str, manifest: Mapping[str, object], files: Mapping[str, FileEntry]) -> None:
        """Upload the files, then put the manifest unless another writer's is there by now; the cache keeps a copy."""
        upload = uuid.uuid4().hex
        moved = {n: FileEntry(**{**entry, "path": f"{upload}/{n}"}) for n, entry in files.items()}
        document = json.dumps({**manifest, "files": moved}, indent=1, allow_nan=False).encode()
        try:
            _each(lambda n: self._put(folder / n, f"{name}/{moved[n]['path']}"), moved)
            theirs = self._holds(name)
        except BaseException:
            with suppress(StoreError):
                self.delete(f"{name}/{upload}")
            raise
        if theirs:
            self.delete(f"{name}/{upload}")
            return
        # If this fails the manifest may be there all the same, its answer lost: the files must stay.
        self.write(f"{name}/{MANIFEST}", document)
        cache.keep(cache.cache_folder(), name, files, folder)
        with suppress(StoreError):  # it is published
            self._sweep_uploads(name, upload)

    def bring(self, name: str, files: Files, only: Iterable[str] | None = None, *, renew: bool = False) -> Path:
        """A folder of the cache with the artifact's files, or `only` some of them; one process a node downloads.

        With `renew`, files whose digest is wrong are brought again. The folder stays until `release`.
        """
        wanted = list(files if only is None else only)
        absent = _unlike if renew else _missing
        root = cache.cache_folder()
        with node_explained(str(root), "fill the cache at"):
            folder = cache.pinned(root, name, files)
            if absent(folder, files, wanted):
                self._fill(root, folder, name, files, lambda: absent(folder, files, wanted))
        return folder

    def release(self) -> None:
        """Let this machine's cache evict what this process fetched; it must have been read or mapped."""
        cache.release(cache.cache_folder())

    def held_here(self, names: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which (stage, id) this machine's cache has, wholly or in part."""
        held = cache.held_artifacts(cache.cache_folder())
        return {(stage, id) for stage, id in names if f"{stage}-{id}" in held}

    def _fill(self, root: Path, folder: Path, name: str, files: Files, absent: Callable[[], list[str]]) -> None:
        begun = time.monotonic()
        with cache.filling(folder):
            needed = absent()
            if not needed:
                return
            if time.monotonic() - begun >= self.patience.limit_s:  # whoever had the lock did not get them either
                self.patience.suspect(begun)
            cache.make_room(root, sum(files[n]["bytes"] for n in needed))
            _each(lambda n: self._get(f"{name}/{files[n]['path']}", folder / n), needed)

    def _ask(self, request: Callable[[], _Answer], name: str, doing: str) -> _Answer:
        with explained(self.address(name), doing):
            return self.patience.ask(request, self.address(name), doing)

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}" if self.base else name

    def _list(self, folder: str, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(folder), allow_not_found=True, recursive=recursive)
        return self._ask(lambda: list(self.filesystem.get_file_info(selector)), folder, "list")

    def _holds(self, name: str) -> bool:
        manifest = parse_manifest(self.read(f"{name}/{MANIFEST}"))
        stage, _, artifact = name.rpartition("/")
        return manifest is not None and complete(manifest["files"], self.sizes(stage, [artifact]).get(artifact, {}))

    def _make_parent(self, name: str) -> None:
        if self.filesystem.type_name not in ("s3", "gcs", "abfs"):  # these have no folders to make
            self.filesystem.create_dir(posixpath.dirname(self._path(name)), recursive=True)

    def _put(self, source: Path, name: str) -> None:
        def request() -> None:
            self._make_parent(name)
            with open(source, "rb") as file, self.filesystem.open_output_stream(self._path(name)) as stream:
                shutil.copyfileobj(file, stream, _COPY_BYTES)

        self._ask(request, name, "publish")

    def _get(self, name: str, target: Path) -> None:
        """Download in pieces, each repeated by itself, to a scratch file that takes its place when it is whole.

        A file that is gone from the store stays missing: the caller finds that and says so.
        """
        source = self._ask(functools.partial(self._opened, name), name, "read")
        if source is None:
            return
        scratch = self.scratch / scratch_name()
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            with source, open(scratch, "wb") as file:
                size = source.size()
                for start in range(0, size, _COPY_BYTES):
                    n_bytes = min(_COPY_BYTES, size - start)
                    file.write(self._ask(functools.partial(_piece, source, start, n_bytes), name, "read"))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch, target)
        finally:
            discard(scratch)

    def _opened(self, name: str) -> Any:
        try:
            return self.filesystem.open_input_file(self._path(name))
        except FileNotFoundError:
            return None

    def _sweep_uploads(self, name: str, keep: str) -> None:
        """Remove uploads of this artifact that writers left unfinished more than a day ago."""
        newest: dict[str, float] = {}
        for info in self._list(name, recursive=True):
            upload, _, path = info.path[len(self._path(name)) + 1 :].partition("/")
            if path and info.mtime_ns:
                newest[upload] = max(newest.get(upload, 0.0), info.mtime_ns / 1e9)
        now = max(newest.values(), default=0.0)  # by the store's clock: this machine's may be wrong
        for upload, changed in newest.items():
            if upload != keep and now - changed > STALE_AFTER_S:
                self.delete(f"{name}/{upload}")


def _missing(folder: Path, files: Files, wanted: Iterable[str]) -> list[str]:
    """The files that are not in `folder` at their full size."""
    missing = []
    for name in wanted:
        try:
            if os.stat(folder / name).st_size == files[name]["bytes"]:
                continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        missing.append(name)
    return missing


def _unlike(folder: Path, files: Files, wanted: Iterable[str]) -> list[str]:
    """The files that are not in `folder` byte by byte."""
    missing = _missing(folder, files, wanted)
    return [n for n in wanted if n in missing or file_digest(folder / n) != files[n]["blake2b"]]


def _piece(source: Any, start: int, n_bytes: int) -> bytes:
    data = bytes(source.read_at(n_bytes, start))
    if len(data) != n_bytes:
        raise ConnectionError(f"{len(data)} of {n_bytes} bytes came")
    return data


def _each(function: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(function, items))
