"""Rows of features by index, float32, from one matrix or from layers side by side that are never copied as a whole.

Axes: N items, D features, n items asked for, d columns asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 2048


class Rows(Protocol):
    """Where solvers read their features."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""

    @property
    def device(self) -> torch.device:
        """Where the rows come to lie."""

    def __call__(self, at_n: Tensor) -> Tensor:
        """Rows (n, D), float32, of indices on the CPU or on `device`."""


class Matrix:
    """Rows of one matrix (N, D), float16 or float32, on its device."""

    def __init__(self, X_ND: Tensor) -> None:
        self.X_ND = X_ND
        self.device = X_ND.device

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.X_ND.shape[0], self.X_ND.shape[1]

    def __call__(self, at_n: Tensor) -> Tensor:
        """Rows (n, D)."""
        return self.X_ND.index_select(0, at_n.to(self.device)).float()


class Layers:
    """Rows of all layers concatenated, layer-major (feature d is unit d mod dim of layer d // dim).

    Parameters
    ----------
    parts : sequence of arrays of shape (M, dim)
        One a layer, float16 or float32, say mapped from disk.
    item_N : int array of shape (N,)
        Which of their rows are the items.
    shift_D, divisor_D : arrays of shape (D,), optional
        Rows are (x - shift) / divisor.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[np.floating]],
        item_N: NDArray[np.int64],
        device: str | torch.device,
        shift_D: NDArray[np.floating] | None = None,
        divisor_D: NDArray[np.floating] | None = None,
    ) -> None:
        self.parts, self.item_N, self.device = parts, item_N, torch.device(device)
        self.starts = np.cumsum([0, *(part.shape[1] for part in parts)])
        self.shift_D = None if shift_D is None else torch.as_tensor(shift_D, dtype=torch.float32, device=device)
        self.divisor_D = None if divisor_D is None else torch.as_tensor(divisor_D, dtype=torch.float32, device=device)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.item_N), int(self.starts[-1])

    def __call__(self, at_n: Tensor) -> Tensor:
        """Rows (n, D)."""
        rows_n = self.item_N[at_n.cpu().numpy()]
        out_nD = np.empty((len(rows_n), self.shape[1]), dtype=np.float32)
        for part, start, stop in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            out_nD[:, start:stop] = part[rows_n]
        return self._scaled(torch.from_numpy(out_nD).to(self.device), slice(None))

    def columns(self, at_d: Tensor) -> Matrix:
        """The matrix (N, d) of some features, in the order given."""
        column_d = at_d.cpu().numpy()
        out_Nd = torch.empty(len(self.item_N), len(column_d), device=self.device)
        layer_d = np.searchsorted(self.starts, column_d, side="right") - 1
        for start in range(0, len(self.item_N), _BLOCK):
            rows_n = self.item_N[start : start + _BLOCK]
            block_nd = np.empty((len(rows_n), len(column_d)), dtype=np.float32)
            for layer in np.unique(layer_d):
                here_d = np.flatnonzero(layer_d == layer)
                block_nd[:, here_d] = self.parts[layer][rows_n][:, column_d[here_d] - self.starts[layer]]
            out_Nd[start : start + len(rows_n)] = self._scaled(torch.from_numpy(block_nd).to(self.device), at_d)
        return Matrix(out_Nd)

    def _scaled(self, x_nd: Tensor, at: Tensor | slice) -> Tensor:
        if self.shift_D is None or self.divisor_D is None:
            return x_nd
        at = at.to(self.device) if isinstance(at, Tensor) else at
        return x_nd.sub_(self.shift_D[at]).div_(self.divisor_D[at])


class Columns:
    """Some features of other rows, taken batch by batch."""

    def __init__(self, rows: Rows, at_d: Tensor) -> None:
        self.rows, self.at_d, self.device = rows, at_d.to(rows.device), rows.device

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        return self.rows.shape[0], len(self.at_d)

    def __call__(self, at_n: Tensor) -> Tensor:
        """Rows (n, d)."""
        return self.rows(at_n).index_select(1, self.at_d)


def blocks(rows: Rows, size: int = _BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """All rows in order, some at a time."""
    for start in range(0, rows.shape[0], size):
        stop = min(start + size, rows.shape[0])
        yield slice(start, stop), rows(torch.arange(start, stop))
