"""Packs: as many cells at once as the memory holds; a pack that does not fit after all is split, not crashed.

How cells are packed never changes their numbers: solvers see to that, and tests of every family check it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch

CellT = TypeVar("CellT")
FitT = TypeVar("FitT")

LARGEST = 2 << 30
"""Bytes that a pack takes on a CPU at most: more cells at once are no faster."""
_SHARE = 0.25  # of the memory that is free: other trials of the machine want theirs
_GPU_SHARE = 0.6
# the last is all that oneDNN says where it finds no room for its scratch
_REFUSALS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")


def budget(device: str) -> int:
    """Bytes that a pack may take now."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free * _GPU_SHARE)
    return min(LARGEST, int(psutil.virtual_memory().available * _SHARE))


def in_packs(
    cells: Sequence[CellT],
    fit: Callable[[Sequence[CellT]], FitT],
    *,
    bytes_of: Callable[[int], int],
    device: str,
) -> list[FitT]:
    """Fit all cells, in order, a pack at a time.

    Parameters
    ----------
    cells : sequence
    fit : callable
        Fits one pack.
    bytes_of : callable
        Working memory of a pack of n cells.
    device : str

    Returns
    -------
    list
        What `fit` gave for each pack.

    Raises
    ------
    MemoryError
        One cell alone does not fit; the message says how many bytes it takes.
    """
    limit, size = budget(device), len(cells)
    while size > 1 and bytes_of(size) > limit:
        size = -(-size // 2)
    done: list[FitT] = []
    start = 0
    while start < len(cells):
        pack = cells[start : start + size]
        try:
            done.append(fit(pack))
        except (MemoryError, RuntimeError) as error:
            if not _refused(error):
                raise
            if len(pack) == 1:
                what = f"one cell takes {bytes_of(1) / 1e9:.1f} GB beside its features and {device} has no room for it"
                raise MemoryError(f"{what}: {error}") from error
            size = -(-len(pack) // 2)
            if torch.device(device).type == "cuda":
                torch.cuda.empty_cache()
            continue
        start += len(pack)
    return done


def _refused(error: Exception) -> bool:
    """Whether it says that memory ran out: torch has its own error on GPUs and a RuntimeError on CPUs."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _REFUSALS)
