"""Store faults: an error of the operating system or of an object store, told as a `StoreError` a user can act on."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ftprobe.errors import NodeError, StoreError

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
_OTHER_DISK = "make room there or let FTPROBE_CACHE name a folder on another disk; the store is intact"
# Writers such as safetensors wrap the operating system's error in one of their own and keep only its text.
_FULL_TEXTS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_LINE_BREAKS = frozenset(
    (
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
    )
)
# What S3 (in the words of AWS's library) and Google say when asking again cannot help.
_FINAL = re.compile(
    r"AWS Error (ACCESS_DENIED|ACCOUNT\w*|EXPIRED_TOKEN|INCOMPLETE_SIGNATURE|INVALID_\w+|MALFORMED_\w+|MISSING_\w+|"
    r"NO_SUCH_\w+|NOT_INITIALIZED|OPT_IN_REQUIRED|REQUEST_TIME_TOO_SKEWED|RESOURCE_NOT_FOUND|SIGNATURE_\w+|"
    r"UNRECOGNIZED_CLIENT|VALIDATION) "
    r"|HTTP status (?!408|429)[34]\d\d|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION"
)


def passing(error: OSError) -> bool:
    """Whether asking again may help: a broken line, a timeout, throttling, a server's own trouble.

    An object store's library reports these without an error number.
    """
    if error.errno:
        return error.errno in _LINE_BREAKS
    named = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
    return not isinstance(error, named) and not _FINAL.search(str(error))


def store_error(address: str, doing: str, error: BaseException, tried: str = "") -> StoreError:
    """`cannot DOING ADDRESS: reason; repair`, `tried` saying how long."""
    code = _code(error)
    return StoreError(f"cannot {doing} {address}: {_reason(error, code)}{tried}; {_REPAIRS.get(code, _UNKNOWN)}")


def node_error(folder: str, doing: str, error: BaseException) -> NodeError:
    """The same of a folder of this machine, which it names."""
    reason = _reason(error, _code(error))
    return NodeError(f"cannot {doing} {folder} on {socket.gethostname()}: {reason}; {_OTHER_DISK}")


@contextmanager
def explained(address: str, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block (pyarrow raises these too) into a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise store_error(address, doing, error) from error


@contextmanager
def node_explained(folder: str, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block, about a folder of this machine, into a `NodeError`."""
    try:
        yield
    except OSError as error:
        raise node_error(folder, doing, error) from error


@contextmanager
def full_disk_explained(folder: str, *, of_node: bool) -> Iterator[None]:
    """Turn a full disk, met by any writer inside the block, into a `StoreError`; other errors pass.

    With `of_node` the disk is this machine's and not the store's: a `NodeError`.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if _code(error) in (errno.ENOSPC, errno.EDQUOT):
            explain = node_error if of_node else store_error
            raise explain(folder, "write below", error) from error
        raise


def _code(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.ENOSPC if any(text in str(error) for text in _FULL_TEXTS) else 0


def _reason(error: BaseException, code: int) -> str:
    if code:
        return os.strerror(code)
    return (str(error) or type(error).__name__).splitlines()[0]
