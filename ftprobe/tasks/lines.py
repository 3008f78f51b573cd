"""Lines of local text files, read strictly: whatever is wrong is named with its file and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftprobe.errors import InputError, Problem
from ftprobe.hashing import content_id, file_digest
from ftprobe.tasks.types import Split

LISTED = 20


def text_lines(path: Path, *, fallback: str | None = None) -> list[str]:
    """The lines of a UTF-8 file without their ends (and without a byte order mark).

    Only a line feed ends a line: other Unicode separators belong to the text.

    Parameters
    ----------
    path : Path
    fallback : str, optional
        Encoding for a file that is not UTF-8; without one such a file is an error.

    Raises
    ------
    InputError
        If the file is missing, unreadable, empty, or not UTF-8.
    """
    raw = _bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback is None:
            line = raw.count(b"\n", 0, error.start) + 1
            what = f"not UTF-8 (byte 0x{raw[error.start]:02x})"
            raise InputError.one(f"{path}:{line}", what, "convert the file to UTF-8") from None
        text = raw.decode(fallback)
    if not text.strip():
        raise InputError.one(str(path), "the file is empty", "fetch it again")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line[:-1] for line in lines] if all(line.endswith("\r") for line in lines) else lines


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError.one(str(path), "no such file", "check the path") from None
    except OSError as error:
        raise InputError.one(str(path), f"cannot be read ({error.strerror})", "check its permissions") from None


def local_files(folder: Path, names: Sequence[tuple[Split, str]]) -> tuple[tuple[Split, Path], ...]:
    """The files of a corpus that has one file a split.

    Raises
    ------
    InputError
        If `folder` is a file, or files are missing: names each.
    """
    if not folder.is_dir():
        raise InputError.one(str(folder), "is a file", f"give the folder that holds {names[0][1]}")
    files = tuple((split, folder / name) for split, name in names)
    missing = [Problem(str(path), f"no {split} split: no such file") for split, path in files if not path.is_file()]
    if missing:
        raise InputError(missing)
    return files


def refuse(problems: Sequence[Problem], path: Path) -> None:
    """Raise `InputError` if there are problems: the first 20 of a file, and how many more."""
    if problems:
        more = len(problems) - LISTED
        rest = [Problem(str(path), f"{more} more problems like these")] if more > 0 else []
        raise InputError([*problems[:LISTED], *rest])


def fingerprint(paths: Sequence[tuple[str, Path]]) -> str:
    """Digest of the bytes of files in their roles (`train`, `test`); names and folders do not count."""
    try:
        return content_id([[role, file_digest(path)] for role, path in paths])
    except OSError as error:
        raise InputError.one(
            str(error.filename), f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
