"""Shards: exact round trips, sizes known beforehand, and files that are not what they should be."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftprobe.errors import CorruptArtifact, StoreError
from ftprobe.shards import Dtype, Items, ShardWriter, expected_bytes, items, layers, open_layer


def table(n_items: int) -> Items:
    return Items(
        np.arange(n_items, dtype=np.int32) // 2,
        np.arange(n_items, dtype=np.int32) % 2,
        np.array([f"wörd{i}" for i in range(n_items)], dtype=np.object_),
        np.array(["train" if i % 3 else "test" for i in range(n_items)]),
    )


def write(folder: Path, n_items: int = 10, dim: int = 3, dtype: Dtype = "float16", shard_items: int = 65536) -> Any:
    """Random states of 2 layers, written in pieces of random order."""
    random = np.random.default_rng(n_items * dim)
    h_LND = random.standard_normal((2, n_items, dim)).astype(dtype)
    writer = ShardWriter(folder, n_items, 2, dim, dtype, shard_items)
    for row_N in np.array_split(random.permutation(n_items), 3):
        writer.write(row_N, h_LND[:, row_N])
    writer.close(table(n_items))
    return h_LND


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shard_items", [1, 3, 5, 65536])
def test_round_trip_is_exact(tmp_path: Path, dtype: Dtype, shard_items: int) -> None:
    h_LND = write(tmp_path, dtype=dtype, shard_items=shard_items)
    assert layers(tmp_path) == (0, 1)
    for layer in layers(tmp_path):
        h_ND = open_layer(tmp_path, layer)
        assert h_ND.dtype == dtype
        np.testing.assert_array_equal(h_ND, h_LND[layer])
        assert not h_ND.flags.writeable
    for read, written in zip(items(tmp_path), table(10), strict=True):
        np.testing.assert_array_equal(read, written)


def test_a_single_shard_is_mapped_not_copied(tmp_path: Path) -> None:
    write(tmp_path, n_items=4096, dim=64)
    before = pa.total_allocated_bytes()
    h_ND = open_layer(tmp_path, 0)
    assert pa.total_allocated_bytes() - before < 4096
    assert h_ND.base is not None


def test_more_shards_than_are_mapped_at_a_time(tmp_path: Path) -> None:
    h_LND = write(tmp_path, n_items=200, shard_items=7)
    np.testing.assert_array_equal(open_layer(tmp_path, 1), h_LND[1])


def test_any_arrow_reader_reads_a_shard(tmp_path: Path) -> None:
    h_LND = write(tmp_path, dtype="float32")
    read = pa.ipc.open_file(tmp_path / "layer-01-000.arrow").read_all()
    assert read.schema == pa.schema([("h", pa.list_(pa.float32(), 3))])
    np.testing.assert_array_equal(np.array(read["h"].to_pylist(), dtype=np.float32), h_LND[1])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("n_items", "dim", "shard_items"), [(1, 1, 65536), (10, 3, 4), (12, 3, 4), (999, 384, 500)])
def test_size_on_disk_is_known_beforehand(
    tmp_path: Path, dtype: Dtype, n_items: int, dim: int, shard_items: int
) -> None:
    write(tmp_path, n_items, dim, dtype, shard_items)
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    assert expected_bytes(n_items, 2, dim, dtype, shard_items) == on_disk
    assert on_disk > n_items * 2 * dim * np.dtype(dtype).itemsize


@pytest.mark.parametrize("keep", [0, 100, 400, 0.5, -1])
def test_a_truncated_shard_is_corrupt(tmp_path: Path, keep: float) -> None:
    write(tmp_path, n_items=500)
    path = tmp_path / "layer-01-000.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(CorruptArtifact, match=f"activations/{tmp_path.name}: layer 1"):
        open_layer(tmp_path, 1)
    open_layer(tmp_path, 0)


def test_an_absent_shard_or_layer_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, shard_items=4)
    with pytest.raises(CorruptArtifact, match="layer 7: 0 rows in 0 files for 10 items"):
        open_layer(tmp_path, 7)
    (tmp_path / "layer-00-001.arrow").unlink()
    with pytest.raises(CorruptArtifact, match="layer 0: 6 rows in 2 files for 10 items"):
        open_layer(tmp_path, 0)


def test_an_unreadable_table_of_items_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptArtifact, match=r"items\.parquet"):
        items(tmp_path)
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(CorruptArtifact):
        open_layer(tmp_path, 0)


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 3, 1, 2, "float32")
    writer.write(np.array([0, 2]), np.ones((1, 2, 2), np.float32))
    with pytest.raises(RuntimeError, match="2 of 3 rows were written"):
        writer.close(table(3))


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot reserve \d+ bytes: File too large"):
            ShardWriter(tmp_path, 10_000, 1, 64, "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reading_shards_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, ftprobe.shards; print(sorted({'torch', 'transformers', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
