"""Remote volume: a store on any pyarrow filesystem that lacks an atomic rename; the manifest, put last, publishes.

An artifact's files lie below a folder of their own upload, so that two writers never touch each other's; reading goes
through a cache on this machine, `~/.cache/ftprobe` or `FTPROBE_CACHE`, whose folders are named after their content.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from ftprobe.errors import StoreError
from ftprobe.hashing import content_id
from ftprobe.store.contents import MANIFEST, FileEntry, Files, Usage, complete, parse_manifest
from ftprobe.store.faults import explained
from ftprobe.store.scratch import STALE_AFTER_S, discard, scratch_name, sweep

LANES = 32  # requests in flight: an object store answers in tens of milliseconds
_COPY_BYTES = 8 << 20
_RETRY_S = 60
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class RemoteVolume:
    """Objects below `root` of a `pyarrow.fs.FileSystem`; picklable where the filesystem is."""

    lanes = LANES

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self.filesystem, self.base, self.url = filesystem, root.rstrip("/"), _shown(url)

    @classmethod
    def at(cls, url: str) -> RemoteVolume:
        """The volume at an `s3://`, `gs://`, ... URL of pyarrow, else of fsspec.

        Raises
        ------
        StoreError
            Nobody knows the scheme, or its server does not answer.
        """
        return cls(*_filesystem(url), url)

    @property
    def scratch(self) -> Path:
        """Scratch on this machine, in the cache."""
        return cache_folder() / "tmp"

    def prepare(self) -> None:
        """Put and remove one small object to know that one can, and sweep this machine's cache of leftovers.

        Raises
        ------
        StoreError
            The store or the cache cannot be written.
        """
        probe = f"tmp/{scratch_name()}"
        self.write(probe, b"ftprobe")
        self.delete(probe)
        with explained(str(self.scratch), "write to the cache at"):
            self.scratch.mkdir(parents=True, exist_ok=True)
        sweep(self.scratch)

    def address(self, name: str) -> str:
        """The URL of a name, for people."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """An object's bytes, or None if there is none."""
        with explained(self.address(name), "read"):
            try:
                with self.filesystem.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Put a small object."""
        with explained(self.address(name), "write"):
            self._make_parent(name)
            with self.filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(data)

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
        with explained(self.address(name), "remove"), suppress(FileNotFoundError):
            kind = self.filesystem.get_file_info(path).type
            if kind == FileType.File:
                self.filesystem.delete_file(path)
            elif kind == FileType.Directory:
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(f"{path}/{MANIFEST}")
                self.filesystem.delete_dir(path)

    def publish(self, folder: Path, name: str, manifest: Mapping[str, object], files: Mapping[str, FileEntry]) -> None:
        """Upload the files, then put the manifest unless another writer's is there by now."""
        upload = uuid.uuid4().hex
        moved = {n: FileEntry(**{**entry, "path": f"{upload}/{n}"}) for n, entry in files.items()}
        document = json.dumps({**manifest, "files": moved}, indent=1, allow_nan=False).encode()
        try:
            with explained(self.address(name), "publish"):
                _each(lambda n: self._put(folder / n, f"{name}/{moved[n]['path']}"), moved)
            if self._holds(name):
                self.delete(f"{name}/{upload}")
                return
            self.write(f"{name}/{MANIFEST}", document)
        except BaseException:
            with suppress(StoreError):
                self.delete(f"{name}/{upload}")
            raise
        self._sweep_uploads(name, upload)

    def bring(self, name: str, files: Files, only: Iterable[str] | None = None) -> Path:
        """A folder of the cache with the artifact's files, or `only` some of them; one process a node downloads."""
        folder = cache_folder() / content_id({n: entry["blake2b"] for n, entry in files.items()}) / name
        wanted = list(files if only is None else only)
        with explained(str(folder), "fill the cache at"):
            if _absent(folder, files, wanted):
                with _one_at_a_time(folder):
                    missing = _absent(folder, files, wanted)
                    _each(lambda n: self._get(f"{name}/{files[n]['path']}", folder / n), missing)
        return folder

    def forget(self, folder: Path) -> bool:
        """Drop a damaged cached copy; True, since what the store holds may still be good."""
        aside = self.scratch / scratch_name()
        with explained(str(folder), "drop from the cache"), suppress(FileNotFoundError):
            os.rename(folder, aside)
        discard(aside)
        return True

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}" if self.base else name

    def _list(self, folder: str, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path(folder), allow_not_found=True, recursive=recursive)
        with explained(self.address(folder), "list"):
            return list(self.filesystem.get_file_info(selector))

    def _holds(self, name: str) -> bool:
        manifest = parse_manifest(self.read(f"{name}/{MANIFEST}"))
        stage, _, artifact = name.rpartition("/")
        return manifest is not None and complete(manifest["files"], self.sizes(stage, [artifact]).get(artifact, {}))

    def _make_parent(self, name: str) -> None:
        if self.filesystem.type_name not in ("s3", "gcs", "abfs"):  # these have no folders to make
            self.filesystem.create_dir(posixpath.dirname(self._path(name)), recursive=True)

    def _put(self, source: Path, name: str) -> None:
        self._make_parent(name)
        with open(source, "rb") as file, self.filesystem.open_output_stream(self._path(name)) as stream:
            shutil.copyfileobj(file, stream, _COPY_BYTES)

    def _get(self, name: str, target: Path) -> None:
        scratch = self.scratch / scratch_name()
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.filesystem.open_input_stream(self._path(name)) as stream, open(scratch, "wb") as file:
                shutil.copyfileobj(stream, file, _COPY_BYTES)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch, target)
        except FileNotFoundError:  # gone from the store: the caller finds the file missing and says so
            return
        finally:
            discard(scratch)

    def _sweep_uploads(self, name: str, keep: str) -> None:
        """Remove uploads of this artifact that writers left unfinished more than a day ago."""
        newest: dict[str, float] = {}
        for info in self._list(name, recursive=True):
            upload, _, path = info.path[len(self._path(name)) + 1 :].partition("/")
            if path and upload != keep:
                newest[upload] = max(newest.get(upload, 0.0), (info.mtime_ns or time.time_ns()) / 1e9)
        for upload, changed in newest.items():
            if time.time() - changed > STALE_AFTER_S:
                self.delete(f"{name}/{upload}")


def cache_folder() -> Path:
    """The cache of remote artifacts on this machine."""
    return Path(os.environ.get("FTPROBE_CACHE") or Path.home() / ".cache" / "ftprobe")


def _absent(folder: Path, files: Files, wanted: Iterable[str]) -> list[str]:
    missing = []
    for name in wanted:
        try:
            if os.stat(folder / name).st_size == files[name]["bytes"]:
                continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        missing.append(name)
    return missing


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold other processes of this machine back from the same download; the lock dies with its holder."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _each(function: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
    with ThreadPoolExecutor(LANES) as pool:
        return list(pool.map(function, items))


def _shown(url: str) -> str:
    """The URL without its query and its credentials, which end up in terminals and logs otherwise."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _filesystem(url: str) -> tuple[Any, str]:
    import pyarrow
    from pyarrow.fs import FileSystem

    parts = urlsplit(url)
    if parts.scheme in ("s3", "gs", "gcs") and not parts.netloc.rpartition("@")[2]:
        raise StoreError(f"cannot open the store {url}: it names no bucket; give {parts.scheme}://bucket/folder")
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:  # 15 minutes by default
        url = urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, f"retry_limit_seconds={_RETRY_S}")))))
    try:
        try:
            filesystem, root = FileSystem.from_uri(url)
        except pyarrow.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            filesystem, root = _fsspec_filesystem(url)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"cannot open the store {_shown(url)}: {reason}; give a folder, s3://bucket/folder, gs://bucket/folder, "
            "or a URL whose fsspec package is installed"
        ) from error
    return filesystem, root


def _fsspec_filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    opened, root = url_to_fs(url)
    return PyFileSystem(FSSpecHandler(opened)), root
