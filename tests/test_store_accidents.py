"""Accidents of a store, real ones: killed writers, racing writers, full, read-only and forbidden disks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from ftprobe.errors import StoreError
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume
from ftprobe.store.scratch import scratch_name

OPEN = """
import itertools, sys
from pathlib import Path
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume

kind, root = sys.argv[1:3]
if kind == "local":
    store = Store.open(root)
else:
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
    store = Store(RemoteVolume(SubTreeFileSystem(root, LocalFileSystem()), "", "subtree://here"))
    store.volume.prepare()

def publish(id, mark):
    with store.workdir() as folder:
        for n in range(4):
            (folder / f"{n}.bin").write_bytes(mark * 300_000)
        store.publish("probe", id, folder, {"mark": mark.decode()})

print("ready", flush=True)
"""
FOREVER = "for i in itertools.count(int(sys.argv[3])): publish(str(i), b'%d' % (i % 10))"
EVERY_STEP = """
import os, signal
step = at = 0

def count(event, arguments):
    global step
    if event == "open" or event.partition(".")[0] in ("os", "shutil"):
        step += 1
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

for attempt in itertools.count(1):
    child = os.fork()
    if not child:
        at = attempt
        sys.addaudithook(count)
        publish(str(attempt), b"%d" % (attempt % 10))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(attempt)
"""
RACE = "sys.stdin.readline()\nfor i in range(25): publish(str(i), sys.argv[3].encode())"
FETCH = """
sys.stdin.readline()
for i in range(5):
    assert len((store.fetch("probe", str(i)) / "3.bin").read_bytes()) == 300_000
"""


@pytest.fixture(params=["local", "remote"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def opened(kind: str, root: Path) -> Store:
    if kind == "local":
        return Store.open(root)
    store = Store(RemoteVolume(SubTreeFileSystem(str(root), LocalFileSystem()), "", "subtree://here"))
    store.volume.prepare()
    return store


def started(kind: str, root: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """A child that has opened the store."""
    command = [sys.executable, "-c", OPEN + script, kind, str(root), *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def run_together(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0


def marks(store: Store) -> dict[str, str]:
    """The mark of every artifact that exists, each file of which must bear it."""
    found = {}
    for stage, id in store.existing(store.artifacts()):
        folder, mark = store.fetch(stage, id), store.manifest(stage, id)["mark"]
        for n in range(4):
            assert (folder / f"{n}.bin").read_bytes() == mark.encode() * 300_000
        found[id] = mark
    return found


def leftovers(kind: str, root: Path) -> list[str]:
    return os.listdir(root / "tmp" if kind == "local" else root.parent / "cache" / "tmp")


def test_a_writer_killed_at_any_point_leaves_nothing_half_visible(kind: str, root: Path) -> None:
    delays, left, unfinished = random.Random(0), 0, 0
    for attempt in range(6):
        child = started(kind, root, FOREVER, str(attempt * 10_000))
        time.sleep(delays.uniform(0.0, 0.1))
        child.kill()
        child.communicate()
        left += len(leftovers(kind, root))
        store = opened(kind, root)
        assert leftovers(kind, root) == []
        held = marks(store)
        assert all(mark == str(int(id) % 10) for id, mark in held.items())
        unfinished += len(store.artifacts()) - len(held)
    assert held, "no child lived long enough to publish"
    assert left + unfinished, "no child died at work"
    if kind == "local":
        assert unfinished == 0


def test_a_writer_killed_before_each_of_its_steps_leaves_nothing_half_visible(root: Path) -> None:
    shown, _ = started("local", root, EVERY_STEP).communicate(timeout=60)
    attempts, names = int(shown), set(os.listdir(root / "artifacts" / "probe"))
    assert attempts > 20
    assert str(attempts) in names
    assert len(leftovers("local", root)) > 10
    store = Store.open(root)
    assert leftovers("local", root) == []
    assert set(marks(store)) == names


def test_two_writers_of_one_id_are_harmless(kind: str, root: Path) -> None:
    run_together([started(kind, root, RACE, mark) for mark in "AB"])
    found = marks(opened(kind, root))
    assert set(found) == {str(i) for i in range(25)}
    assert set(found.values()) <= {"A", "B"}
    assert leftovers(kind, root) == []


def test_writers_of_a_damaged_artifact_repair_it_together(kind: str, root: Path) -> None:
    run_together([started(kind, root, RACE, "A")])
    for path in (root / "artifacts").rglob("2.bin"):
        os.truncate(path, 7)
    assert marks(opened(kind, root)) == {}
    run_together([started(kind, root, RACE, mark) for mark in "BC"])
    assert set(marks(opened(kind, root))) == {str(i) for i in range(25)}


def test_readers_fill_one_cache_together(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    run_together([started("remote", root, RACE, "A")])
    run_together([started("remote", root, FETCH) for _ in range(3)])
    cached = list((tmp_path / "cache").rglob("*.bin"))
    assert len(cached) == 5 * 4
    assert leftovers("remote", root) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs to mount a file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def publish(store: Store, id: str, n_bytes: int) -> None:
    with store.workdir() as folder:
        (folder / "x.bin").write_bytes(b"x" * n_bytes)
        store.publish("probe", id, folder, {})


def test_a_full_disk_is_said_and_harms_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(small_disk / "store")
    publish(store, "small", 200_000)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "x.bin").write_bytes(b"x" * 2_000_000)
    with pytest.raises(StoreError, match=rf"cannot publish {small_disk}/store/artifacts/probe/copied: No space left"):
        store.publish("probe", "copied", tmp_path / "large", {})
    with pytest.raises(StoreError, match=r"No space left on device; free some space"):
        publish(store, "written", 2_000_000)
    with pytest.raises(StoreError, match=r"cannot write .*/logs/t\.log: No space left"):
        store.write_log("t", "x" * 2_000_000)
    assert store.artifacts() == [("probe", "small")]
    assert store.fetch("probe", "small").joinpath("x.bin").stat().st_size == 200_000
    assert os.listdir(small_disk / "store" / "tmp") == []
    publish(store, "next", 200_000)
    assert store.exists("probe", "next")


def test_a_full_disk_is_said_whichever_library_was_writing(small_disk: Path) -> None:
    from safetensors.numpy import save_file

    store = Store.open(small_disk / "store")
    noise = pa.table({"x": np.random.default_rng(0).random(250_000)})
    with pytest.raises(StoreError, match="No space left"), store.workdir() as folder:
        save_file({"w": np.zeros(1_000_000)}, folder / "w.safetensors")
    with pytest.raises(StoreError, match="No space left"), store.workdir() as folder:
        pq.write_table(noise, folder / "x.parquet")
    with pytest.raises(ZeroDivisionError), store.workdir():
        1 / 0  # noqa: B018


def test_a_full_cache_is_said(small_disk: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(root.parent / "roomy"))
    publish(opened("remote", root), "large", 2_000_000)
    monkeypatch.setenv("FTPROBE_CACHE", str(small_disk))
    store = opened("remote", root)
    with pytest.raises(StoreError, match=f"cannot fill the cache at {small_disk}.*No space left"):
        store.fetch("probe", "large")
    assert os.listdir(small_disk / "tmp") == []


def test_a_read_only_disk_can_be_read_but_not_opened_for_writing(small_disk: Path) -> None:
    store = Store.open(small_disk)
    publish(store, "held", 1000)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=f"cannot write to {small_disk}: Read-only file system; mount it writable"):
        Store.open(small_disk)
    with pytest.raises(StoreError, match="Read-only file system"):
        publish(store, "new", 1000)
    with pytest.raises(StoreError, match="Read-only file system"):
        store.remove("probe", "held")
    assert store.artifacts() == [("probe", "held")]
    assert store.fetch("probe", "held").joinpath("x.bin").stat().st_size == 1000


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match=f"cannot write to {place}: .*; a file stands where a folder is needed"):
            Store.open(place)


def test_a_forbidden_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become someone who may not write")
    store = Store.open(tmp_path / "store")
    os.chmod(tmp_path.parent.parent, 0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match="Permission denied; check who owns the folder"):
            Store.open(tmp_path / "store")
        with pytest.raises(StoreError, match="Permission denied"):
            store.record_failure("t", {})
    finally:
        os.seteuid(0)


def test_work_that_was_swept_away_is_said(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(StoreError, match="No such file or directory; something removed it"):
        store.publish("probe", "x", tmp_path / "tmp" / scratch_name(), {})
