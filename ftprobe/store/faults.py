"""Store faults: an error of the operating system or of an object store, told as a `StoreError` a user can act on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ftprobe.errors import StoreError

_FULL = "free some space or choose another store; everything already published is intact"
_DENIED = "check who owns the folder, or choose another store"
_REPAIRS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "mount it writable, or choose another store",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another store",
    errno.EEXIST: "a file stands where a folder is needed: choose another store",
    errno.ENOENT: "something removed it; run the same command again",
}
_UNKNOWN = "check the disk, or the URL, the credentials and the network"
# Writers such as safetensors wrap the operating system's error in one of their own and keep only its text.
_FULL_TEXTS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def store_error(address: str, doing: str, error: BaseException) -> StoreError:
    """`cannot DOING ADDRESS: reason; repair`."""
    code = _code(error)
    reason = os.strerror(code) if code else str(error)
    return StoreError(f"cannot {doing} {address}: {reason}; {_REPAIRS.get(code, _UNKNOWN)}")


@contextmanager
def explained(address: str, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block (pyarrow raises these too) into a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise store_error(address, doing, error) from error


@contextmanager
def full_disk_explained(address: str) -> Iterator[None]:
    """Turn a full disk, met by any writer inside the block, into a `StoreError`; other errors pass."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if _code(error) in (errno.ENOSPC, errno.EDQUOT):
            raise store_error(address, "write below", error) from error
        raise


def _code(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.ENOSPC if any(text in str(error) for text in _FULL_TEXTS) else 0
