"""Scratch folders: where unfinished files lie, named after the process that owns them so that leftovers can be told.

A name is `MACHINE-PID-RANDOM`. Leftovers of a dead process of this machine go at the next sweep; those of other
machines, whose processes cannot be seen from here, once nothing in them has changed for a day by the clock that dates
files there: the clocks of two machines are never compared.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

STALE_AFTER_S = 86_400.0


def scratch_name() -> str:
    """A new name, unique everywhere, that tells its owner."""
    return f"{machine()}-{os.getpid()}-{uuid.uuid4().hex}"


@cache
def machine() -> str:
    """This set of process ids: host, boot and pid namespace, since two containers may share a host name."""
    marks = [socket.gethostname()]
    with suppress(OSError):  # not Linux: the host name alone
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(marks).encode(), digest_size=6).hexdigest()


def sweep(folder: Path) -> None:
    """Remove leftovers below `folder`; files that vanish meanwhile are another sweeper's work."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    now = _file_time(folder) if entries else 0.0
    for entry in entries:
        if _is_left_over(entry, now):
            discard(Path(entry.path))


def discard(path: Path) -> None:
    """Remove a file or a folder; what is gone already or cannot be removed stays for a later sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_left_over(entry: os.DirEntry[str], now: float) -> bool:
    runs = owner_runs(entry.name)
    return not runs if runs is not None else now - _newest(entry.path) > STALE_AFTER_S


def owner_runs(name: str) -> bool | None:
    """Whether the process that owns a scratch folder runs; None for those of other machines."""
    owner, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    return _is_running(int(pid)) if owner == machine() and pid.isdigit() else None


def _file_time(folder: Path) -> float:
    """What time it is for new files in `folder`, in seconds: on a network file system the server's clock says."""
    mark = folder / scratch_name()
    try:
        mark.touch()
        return mark.stat().st_mtime
    except OSError:  # full, or read-only: nothing is old
        return 0.0
    finally:
        discard(mark)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _newest(path: str) -> float:
    """When anything at or below `path` last changed; a long trial may write only deep inside its folder."""
    newest = 0.0
    for place in (path, *(os.path.join(parent, n) for parent, ds, fs in os.walk(path) for n in (*ds, *fs))):
        try:
            newest = max(newest, os.lstat(place).st_mtime)
        except FileNotFoundError:
            continue
    return newest
