"""Cache: the copies of remote artifacts on one machine, below `~/.cache/ftprobe` or the folder FTPROBE_CACHE names.

It keeps to FTPROBE_CACHE_GB (1e9 bytes; by default half of what the disk has free without it): before more arrives,
what was used longest ago goes. What a living process has pinned stays, even above the limit.

Below the folder: `held/STAGE-ID-CONTENT/` has the files in `ID/` and `lock`, which the one process that downloads holds
and whose date is that of the last use; `pins/`, a file a process with the entries it has in use; `total`, the bytes
held, which whoever pins (shared) or evicts (alone) locks; `tmp/`, scratch. A killed process loses its locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from ftprobe.errors import InputError, NodeError
from ftprobe.hashing import content_id
from ftprobe.store.contents import Files
from ftprobe.store.faults import node_error
from ftprobe.store.scratch import discard, scratch_name

READ_AGAIN = ("finetune", "activations")  # stages whose artifacts trials read, and that are large
_SHARE_OF_FREE = 0.5
_KEPT_OF_LIMIT = 0.9  # an eviction makes more room than asked for: each looks at every entry
_pins: dict[tuple[int, Path], _Pins] = {}  # by process, since a fork inherits those of its parent
_pins_lock = threading.Lock()


class _Pins(NamedTuple):
    file: int  # a descriptor, open and locked as long as the process lives
    keys: set[str]


def cache_folder() -> Path:
    """Where the cache is."""
    return Path(os.environ.get("FTPROBE_CACHE") or Path.home() / ".cache" / "ftprobe").absolute()


def limit_bytes(root: Path, held: int) -> int:
    """How much the cache may hold, when it holds `held`.

    Raises
    ------
    InputError
        FTPROBE_CACHE_GB is not a number of gigabytes.
    """
    asked = os.environ.get("FTPROBE_CACHE_GB")
    if not asked:
        return int((_free(root) + held) * _SHARE_OF_FREE)
    try:
        limit = int(float(asked) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError.one("FTPROBE_CACHE_GB", f"{asked!r} is no number of gigabytes", "give one such as 200")
    return limit


def pinned(root: Path, name: str, files: Files) -> Path:
    """The folder for an artifact's files, which stays from now until `release` or the end of this process.

    Parameters
    ----------
    name : str
        `artifacts/STAGE/ID`.
    """
    stage, id = name.split("/")[-2:]
    key = f"{stage}-{id}-{content_id({n: entry['blake2b'] for n, entry in files.items()})}"
    folder = root / "held" / key / id
    with _total(root, fcntl.LOCK_SH), _pins_lock:
        mine = _own_pins(root)
        if key not in mine.keys:
            os.write(mine.file, f"{key}\n".encode())
            mine.keys.add(key)
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.parent / "lock"
        lock.touch()
    return folder


def release(root: Path) -> None:
    """This process has closed or mapped what it fetched so far: it may be evicted."""
    with _pins_lock:
        mine = _pins.get((os.getpid(), root))
        if mine is not None:
            os.ftruncate(mine.file, 0)
            mine.keys.clear()


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Hold other processes of this machine back from the same download."""
    with open(folder.parent / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(root: Path, name: str, files: Files, source: Path) -> None:
    """Move the files of an artifact that was just made here, and that trials read, into the cache; others stay.

    They are on this machine's disk already: nothing need ever travel to be read here.
    """
    if name.split("/")[-2] not in READ_AGAIN:
        return
    with suppress(OSError, NodeError):
        folder = pinned(root, name, files)
        with filling(folder):
            absent = [n for n in files if not (folder / n).exists()]
            make_room(root, sum(files[n]["bytes"] for n in absent))
            for n in absent:
                (folder / n).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source / n, folder / n)


def make_room(root: Path, n_bytes: int) -> None:
    """Count `n_bytes` that are about to arrive, after evicting what they would push out.

    Raises
    ------
    NodeError
        The disk is too full, whatever is evicted.
    """
    evicted: list[Path] = []
    with _total(root, fcntl.LOCK_EX) as total:
        text = total.read()
        held = int(text) if text.isdigit() else 0
        free = _free(root)
        if not text.isdigit() or held + n_bytes > limit_bytes(root, held) or n_bytes > free:
            held, evicted = _evict(root, n_bytes, free)
        total.seek(0)
        total.truncate()
        total.write(str(held + n_bytes).encode())
    for path in evicted:
        discard(path)
    if n_bytes > _free(root):
        raise node_error(str(root), "fill the cache at", OSError(errno.ENOSPC, f"needs {n_bytes} bytes"))


def held_artifacts(root: Path) -> set[str]:
    """`STAGE-ID` of the artifacts that are here, wholly or in part."""
    with suppress(FileNotFoundError):
        return {name.rpartition("-")[0] for name in os.listdir(root / "held")}
    return set()


def _evict(root: Path, n_bytes: int, free: int) -> tuple[int, list[Path]]:
    """Move entries that nobody has pinned aside, those used longest ago first: (bytes still held, moved)."""
    entries = sorted(_entries(root))
    held = sum(n for _, n, _ in entries)
    keep = min(int(limit_bytes(root, held) * _KEPT_OF_LIMIT) - n_bytes, held + free - n_bytes)
    in_use, moved = _all_pins(root), []
    (root / "tmp").mkdir(exist_ok=True)
    for _, n, path in entries:
        if held <= keep:
            break
        if path.name not in in_use:
            moved.append(root / "tmp" / scratch_name())
            os.rename(path, moved[-1])
            held -= n
    return held, moved


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """When each entry was used last, its bytes, its folder."""
    for path in (root / "held").iterdir():
        n_bytes = 0
        for parent, _, names in os.walk(path):
            for name in names:
                with suppress(FileNotFoundError):
                    n_bytes += os.stat(os.path.join(parent, name)).st_size
        used = 0.0
        with suppress(FileNotFoundError):
            used = os.stat(path / "lock").st_mtime
        yield used, n_bytes, path


def _own_pins(root: Path) -> _Pins:
    key = (os.getpid(), root)
    if key not in _pins:
        path = root / "pins" / scratch_name()
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        _pins[key] = _Pins(file, set())
    return _pins[key]


def _all_pins(root: Path) -> set[str]:
    """What living processes have in use; the files of dead ones go."""
    keys: set[str] = set()
    with suppress(FileNotFoundError):
        for path in (root / "pins").iterdir():
            with open(path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    keys.update(file.read().decode().split())
                else:
                    path.unlink()
    return keys


@contextmanager
def _total(root: Path, lock: int) -> Iterator[FileIO]:
    root.mkdir(parents=True, exist_ok=True)
    with open(os.open(root / "total", os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as total:
        fcntl.flock(total, lock)
        yield total


def _free(root: Path) -> int:
    return shutil.disk_usage(root).free
