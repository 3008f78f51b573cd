"""Contents of an artifact: the files a manifest lists, with their sizes and digests, and whether they are intact."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ftprobe.hashing import file_digest

MANIFEST = "manifest.json"
_checked: dict[str, tuple[int, int]] = {}  # files whose digests this process has checked -> (inode, mtime)


class FileEntry(TypedDict):
    """One file: size, blake2b-128 of its bytes, and its path relative to the artifact."""

    bytes: int
    blake2b: str
    path: str


Files = Mapping[str, FileEntry]


class Usage(NamedTuple):
    """A file, or everything below a folder: bytes, and when any of it last changed, in seconds since 1970."""

    bytes: int
    changed: float


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` by its relative name, except a manifest.

    Raises
    ------
    ValueError
        A symbolic link: its target would stay behind when the artifact travels.
    """
    files: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; an artifact holds the files themselves")
        if path.is_file() and name != MANIFEST:
            files[name] = {"bytes": path.stat().st_size, "blake2b": file_digest(path), "path": name}
    return files


def parse_manifest(data: bytes | None) -> dict[str, Any] | None:
    """The manifest, or None for bytes that are not one (absent, cut short)."""
    if data is None:
        return None
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("files"), dict) else None


def complete(files: Files, size_of: Mapping[str, int]) -> bool:
    """Whether each file is there with its size; `size_of` maps paths relative to the artifact to bytes."""
    return all(size_of.get(entry["path"]) == entry["bytes"] for entry in files.values())


def damage(folder: Path, files: Files, *, digests: bool) -> str:
    """What is wrong with the local copy of `files` in `folder`, or an empty string.

    A file's digest is computed once per process, and again when the file was replaced or written to.
    """
    for name, entry in files.items():
        path = folder / name
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if found.st_size != entry["bytes"]:
            return f"{name} has {found.st_size} bytes, its manifest says {entry['bytes']}"
        state = (found.st_ino, found.st_mtime_ns)
        if digests and _checked.get(str(path)) != state:
            if file_digest(path) != entry["blake2b"]:
                return f"the checksum of {name} is not the one in its manifest"
            _checked[str(path)] = state
    return ""
