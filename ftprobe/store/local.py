"""Local volume: a store below one folder of a disk or a network file system, where a rename publishes.

Names are relative, with `/`. Nothing becomes visible under `artifacts/` but by renaming a finished folder.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftprobe.errors import StoreError
from ftprobe.store.contents import MANIFEST, FileEntry, Files, Usage, complete, parse_manifest
from ftprobe.store.faults import explained
from ftprobe.store.scratch import discard, scratch_name, sweep

_MANY = 32
_REPLACE_ATTEMPTS = 8  # another writer can take the place again each time we clear a damaged artifact from it


class LocalVolume:
    """Files below `root`."""

    lanes = 1  # a disk answers faster than threads start
    scratch_is_of_node = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "tmp"

    def prepare(self) -> None:
        """Make the folders, write once to know that one can, and sweep what dead writers left.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        with explained(str(self.root), "write to"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            probe = self.scratch / scratch_name()
            probe.write_bytes(b"ftprobe")
            probe.unlink()
        sweep(self.scratch)

    def address(self, name: str) -> str:
        """The path of a name, for people."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None if there is none."""
        path = self.address(name)
        with explained(path, "read"):
            try:
                with open(path, "rb", buffering=0) as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, data: bytes) -> None:
        """Put a small file in place whole."""
        target, scratch = self.root / name, self.scratch / scratch_name()
        with explained(str(target), "write"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_through(scratch, data)
                os.replace(scratch, target)
            except OSError:
                discard(scratch)
                raise

    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, newest first."""
        dated = []
        with explained(self.address(folder), "list"):
            for name, entry in _entries(self.root / folder).items():
                with suppress(FileNotFoundError):  # removed meanwhile
                    dated.append((entry.stat(follow_symlinks=False).st_mtime_ns, name))
        return [name for _, name in sorted(dated, reverse=True)]

    def present(self, folder: str, children: Iterable[str]) -> set[str]:
        """Those children of a folder that may exist: all of a few, which are looked at anyway."""
        wanted = set(children)
        with explained(self.address(folder), "list"):
            return wanted & set(_entries(self.root / folder)) if len(wanted) > _MANY else wanted

    def whole(self, name: str, files: Files) -> bool:
        """Whether each file of an artifact is there with its size."""
        folder = self.address(name)
        with explained(folder, "list"):
            try:
                return all(os.stat(f"{folder}/{each['path']}").st_size == each["bytes"] for each in files.values())
            except (FileNotFoundError, NotADirectoryError):
                return False

    def usage(self, folder: str) -> dict[str, Usage]:
        """What each entry of a folder takes, and when it last changed."""
        with explained(self.address(folder), "list"):
            return {name: _usage(entry) for name, entry in _entries(self.root / folder).items()}

    def delete(self, name: str) -> None:
        """Remove a file, or a folder in one step; absent is fine."""
        with explained(self.address(name), "remove"):
            self.scratch.mkdir(parents=True, exist_ok=True)
            aside = self.scratch / scratch_name()
            try:
                os.rename(self.root / name, aside)
            except (FileNotFoundError, NotADirectoryError):
                return
        discard(aside)

    def publish(self, folder: Path, name: str, manifest: Mapping[str, object], files: Mapping[str, FileEntry]) -> None:
        """Write the manifest into `folder` and rename it to `name`; a folder from elsewhere is copied first."""
        document = json.dumps({**manifest, "files": files}, indent=1, allow_nan=False).encode()
        copy = self.scratch / scratch_name()
        with explained(self.address(name), "publish"):
            try:
                if not folder.resolve().is_relative_to(self.scratch.resolve()):
                    folder = shutil.copytree(folder, copy)
                (folder / MANIFEST).write_bytes(document)
                _flush(folder)
                self._place(folder, name)
            finally:
                discard(copy)

    def bring(self, name: str, files: Files, only: Iterable[str] | None = None, *, renew: bool = False) -> Path:
        """A local folder with the artifact's files: the artifact itself, which cannot be brought again."""
        return self.root / name

    def release(self) -> None:
        """Nothing: what was fetched is the artifact itself."""

    def held_here(self, names: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """All (stage, id): nothing has to travel."""
        return set(names)

    def _place(self, folder: Path, name: str) -> None:
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_REPLACE_ATTEMPTS):
            try:
                os.rename(folder, target)
            except OSError as error:
                if self._holds(name):
                    return  # another writer won, with the same content
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                self.delete(name)  # a damaged artifact stands in the way
            else:
                _fsync(target.parent)
                return
        raise StoreError(f"cannot publish {target}: something else keeps writing there; run the same command again")

    def _holds(self, name: str) -> bool:
        manifest: dict[str, Any] | None = parse_manifest(self.read(f"{name}/{MANIFEST}"))
        return manifest is not None and complete(manifest["files"], _sizes(self.address(name)))


def _entries(folder: Path | str) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _sizes(folder: str, prefix: str = "") -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, entry in _entries(folder).items():
        if entry.is_dir(follow_symlinks=False):
            sizes |= _sizes(entry.path, f"{prefix}{name}/")
            continue
        try:
            sizes[prefix + name] = entry.stat().st_size
        except FileNotFoundError:  # removed meanwhile, or a dangling link
            continue
    return sizes


def _usage(entry: os.DirEntry[str]) -> Usage:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # removed meanwhile
        return Usage(0, time.time())
    if not entry.is_dir(follow_symlinks=False):
        return Usage(found.st_size, found.st_mtime)
    below = [_usage(each) for each in _entries(entry.path).values()]
    return Usage(sum(each.bytes for each in below), max([found.st_mtime, *(each.changed for each in below)]))


def _write_through(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Bring a folder's files and names to the disk, so that a power cut cannot publish holes."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync(Path(parent, name))
        _fsync(Path(parent))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
