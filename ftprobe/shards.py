"""Activation shards: one uncompressed Arrow IPC file per layer and shard, and the table of items beside them.

A shard file holds one record batch with one column `h`, fixed_size_list<float16|float32>[dim], so that a layer can
be mapped into memory and read without a copy. Rows of every layer are in item order. Needs numpy and pyarrow only.

Axes: L layers (0 = embedding output), N items, D dimensions.
"""

from __future__ import annotations

import errno
import functools
import io
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ftprobe.errors import CorruptArtifact, StoreError

Dtype = Literal["float16", "float32"]
Float = NDArray[np.floating]

SHARD_ITEMS = 65536
ITEMS_FILE = "items.parquet"
_MAPPED_SHARDS = 4


class Items(NamedTuple):
    """What the rows are: position of the sentence in the corpus, word index (-1: the sentence), form, split."""

    sentence_N: NDArray[np.int32]
    word_N: NDArray[np.int32]
    form_N: NDArray[np.object_]
    split_N: NDArray[np.str_]


class _Frame(NamedTuple):
    """An Arrow file without its numbers: (offset, bytes) around a body that starts at `body`."""

    around: tuple[tuple[int, bytes], ...]
    body: int
    size: int


class _FrameSink(io.RawIOBase):
    """Keeps what Arrow writes around a body and skips the body, which Arrow hands over as one buffer."""

    def __init__(self) -> None:
        self.around: list[tuple[int, bytes]] = []
        self.body = self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if isinstance(data, pa.Buffer):
            self.body, n = self.size, int(data.size)
        else:
            piece = bytes(data)  # type: ignore[call-overload]
            self.around.append((self.size, piece))
            n = len(piece)
        self.size += n
        return n


@functools.lru_cache(maxsize=16)
def _frame(n_rows: int, dim: int, dtype: Dtype) -> _Frame:
    zeros = np.zeros(n_rows * dim, dtype)  # never touched, so it takes no memory
    values = pa.Array.from_buffers(pa.from_numpy_dtype(zeros.dtype), zeros.size, [None, pa.py_buffer(zeros)])
    batch = pa.record_batch([pa.FixedSizeListArray.from_arrays(values, dim)], names=["h"])
    sink = _FrameSink()
    with pa.ipc.new_file(pa.PythonFile(sink, "w"), batch.schema) as writer:
        writer.write_batch(batch)
    return _Frame(tuple(sink.around), sink.body, sink.size)


def shard_path(folder: Path, layer: int, shard: int) -> Path:
    """The file of one shard of one layer."""
    return folder / f"layer-{layer:02d}-{shard:03d}.arrow"


def expected_bytes(n_items: int, n_layers_plus_1: int, dim: int, dtype: Dtype, shard_items: int = SHARD_ITEMS) -> int:
    """Bytes on disk of the layer files of `n_items` items: the numbers and Arrow's framing of each file.

    >>> expected_bytes(1000, 13, 768, "float16") - 1000 * 13 * 768 * 2 < 13 * 1024
    True
    """
    whole, rest = divmod(n_items, shard_items)
    per_layer = whole * _frame(shard_items, dim, dtype).size if whole else 0
    return n_layers_plus_1 * (per_layer + (_frame(rest, dim, dtype).size if rest else 0))


class ShardWriter:
    """Writes rows in any order into files preallocated for all of them; at most a few shards are mapped at a time.

    Parameters
    ----------
    folder : Path
        An existing folder.
    n_items, n_layers_plus_1, dim : int
        Shape of the whole, (L + 1, N, D).
    dtype : {"float16", "float32"}
    shard_items : int
        Rows of a file.
    """

    def __init__(
        self, folder: Path, n_items: int, n_layers_plus_1: int, dim: int, dtype: Dtype, shard_items: int = SHARD_ITEMS
    ) -> None:
        self.folder, self.n_items, self.n_layers_plus_1, self.dim = folder, n_items, n_layers_plus_1, dim
        self.dtype: Dtype = dtype
        self.shard_items = shard_items
        self._maps: dict[int, list[Float]] = {}
        self._written = np.zeros(n_items, dtype=bool)
        for shard in range(-(-n_items // shard_items)):
            for layer in range(n_layers_plus_1):
                _preallocate(shard_path(folder, layer, shard), _frame(self._rows(shard), dim, dtype))

    def _rows(self, shard: int) -> int:
        return min(self.shard_items, self.n_items - shard * self.shard_items)

    def _map(self, shard: int) -> list[Float]:
        maps = self._maps.pop(shard, None)
        if maps is None:
            shape = (self._rows(shard), self.dim)
            body = _frame(shape[0], self.dim, self.dtype).body
            paths = (shard_path(self.folder, layer, shard) for layer in range(self.n_layers_plus_1))
            maps = [np.memmap(path, self.dtype, "r+", offset=body, shape=shape) for path in paths]
            if len(self._maps) >= _MAPPED_SHARDS:
                del self._maps[next(iter(self._maps))]  # each mapping holds a file descriptor
        self._maps[shard] = maps
        return maps

    def write(self, row_N: NDArray[np.int64], h_LND: Float) -> None:
        """Put item vectors at rows `row_N` of every layer."""
        for shard in np.unique(row_N // self.shard_items).tolist():
            here_N = np.flatnonzero(row_N // self.shard_items == shard)
            local_N = row_N[here_N] - shard * self.shard_items
            for layer, mapped in enumerate(self._map(shard)):
                mapped[local_N] = h_LND[layer, here_N]
        self._written[row_N] = True

    def close(self, items: Items) -> None:
        """Write the table of items; every row must have been written."""
        self._maps.clear()
        if len(items.sentence_N) != self.n_items or not self._written.all():
            raise RuntimeError(f"{self.folder}: {int(self._written.sum())} of {self.n_items} rows were written")
        table = pa.table(
            {
                "sentence": pa.array(items.sentence_N, pa.int32()),
                "word": pa.array(items.word_N, pa.int32()),
                "form": pa.array(items.form_N, pa.string()),
                "split": pa.array(items.split_N.tolist(), pa.string()),
            }
        )
        pq.write_table(table, self.folder / ITEMS_FILE, compression="zstd")


def _preallocate(path: Path, frame: _Frame) -> None:
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                # Reserved now: writing through a mapping to a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, frame.size)
            else:
                file.truncate(frame.size)
            for offset, piece in frame.around:
                file.seek(offset)
                file.write(piece)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the store that lent the folder knows whose disk it is
        raise StoreError(f"{path}: cannot reserve {frame.size} bytes: {error.strerror}") from error


def layers(folder: Path) -> tuple[int, ...]:
    """The layers found in `folder`, in order."""
    return tuple(sorted({int(path.name.split("-")[1]) for path in folder.glob("layer-*-000.arrow")}))


def items(folder: Path) -> Items:
    """The items of the rows (N).

    Raises
    ------
    CorruptArtifact
        The table is absent or unreadable.
    """
    try:
        table = pq.read_table(folder / ITEMS_FILE)
    except (OSError, pa.ArrowException) as error:
        raise CorruptArtifact("activations", folder.name, f"{ITEMS_FILE}: {error}") from error
    return Items(
        table["sentence"].to_numpy(),
        table["word"].to_numpy(),
        table["form"].to_numpy(),
        np.asarray(table["split"].to_pylist(), dtype=np.str_),
    )


def open_layer(folder: Path, layer: int) -> Float:
    """Vectors of one layer, (N, D), read-only.

    Mapped into memory without a copy when the layer is a single shard; several shards are concatenated in memory.

    Raises
    ------
    CorruptArtifact
        A file is absent, truncated, or the shards do not hold one row for each item.
    """
    paths = sorted(folder.glob(f"layer-{layer:02d}-*.arrow"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    try:
        n_items = pq.read_metadata(folder / ITEMS_FILE).num_rows
        parts = [_map_shard(path) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise CorruptArtifact("activations", folder.name, f"layer {layer}: {error}") from error
    n_rows = sum(len(part) for part in parts)
    if n_rows != n_items:
        what = f"layer {layer}: {n_rows} rows in {len(paths)} files for {n_items} items"
        raise CorruptArtifact("activations", folder.name, what)
    h_ND = parts[0] if len(parts) == 1 else np.concatenate(parts)
    h_ND.flags.writeable = False
    return h_ND


def _map_shard(path: Path) -> Float:
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).get_batch(0).column("h")
    h_ND: Float = column.values.to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
    return h_ND
