"""The cache of a machine: what it evicts and what it must not, under readers that share it and disks that fill up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from ftprobe.errors import CorruptArtifact, InputError, NodeError
from ftprobe.shards import ShardWriter
from ftprobe.store import Store, cache
from ftprobe.store.remote import RemoteVolume

N_BYTES = 100_000
READER = """
import random, sys
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume

store = Store(RemoteVolume(SubTreeFileSystem(sys.argv[1], LocalFileSystem()), "", "subtree://here"))
"""
READ_AND_WAIT = """
store.fetch("probe", sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""
READ_MANY = """
chance = random.Random(sys.argv[2])
for _ in range(40):
    id = str(chance.randrange(6))
    paths = [store.fetch("probe", id, verify=False) / f"{n}.bin" for n in range(4)]
    assert all(path.read_bytes() == id.encode() * 25_000 for path in paths)
    store.release()
"""

EVERY_STEP = """
import itertools, os, signal
from pathlib import Path
step = at = 0

def count(event, arguments):
    global step
    if event == "open" or event.partition(".")[0] in ("os", "shutil", "fcntl"):
        step += 1
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

def read(id):
    folder = store.fetch("probe", id)
    assert all((folder / f"{n}.bin").read_bytes() == id.encode() * 25_000 for n in range(4))
    store.release()

for attempt in itertools.count(1):
    place = os.environ["FTPROBE_CACHE"] = f"{sys.argv[2]}-{attempt}"
    child = os.fork()
    if not child:
        at = attempt
        sys.addaudithook(count)
        read("0")
        read("1")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    read("1")
    read("2")
    read("1")
    held = sum(path.stat().st_size for path in Path(place, "held").rglob("*.bin"))
    assert held <= 150_000, held
    assert len(list(Path(place, "pins").iterdir())) <= 2
print(attempt)
"""


def opened(root: Path) -> Store:
    root.mkdir(exist_ok=True)
    store = Store(RemoteVolume(SubTreeFileSystem(str(root), LocalFileSystem()), "", "subtree://here"))
    store.volume.prepare()
    return store


def publish(store: Store, *ids: str, n_bytes: int = N_BYTES) -> None:
    """Artifacts of four files, each full of the id's one digit."""
    for id in ids:
        with store.workdir() as folder:
            for n in range(4):
                (folder / f"{n}.bin").write_bytes(id.encode() * (n_bytes // 4))
            store.publish("probe", id, folder, {})


def held(store: Store) -> set[str]:
    return {id for _, id in store.held_here([("probe", str(i)) for i in range(10)])}


def cached_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*.bin"))


def dated(place: Path, id: str, age_s: float) -> None:
    (lock,) = place.glob(f"held/probe-{id}-*/lock")
    os.utime(lock, (time.time() - age_s,) * 2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Room for three artifacts and a half."""
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FTPROBE_CACHE_GB", str(3.5 * N_BYTES / 1e9))
    return tmp_path / "cache"


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Store:
    found = opened(tmp_path / "store")
    publish(found, *map(str, range(6)))
    return found


def test_what_was_used_longest_ago_goes_first(store: Store, place: Path) -> None:
    for age_s, id in enumerate("210"):
        store.fetch("probe", id)
        dated(place, id, 1000.0 + age_s)
    store.release()
    store.fetch("probe", "0")
    store.release()
    store.fetch("probe", "3")
    assert held(store) == {"0", "2", "3"}
    assert cached_bytes(place) == 3 * N_BYTES
    assert list((place / "tmp").iterdir()) == []


def test_the_limit_holds_whatever_is_read(store: Store, place: Path) -> None:
    for id in "0123450123":
        store.file("probe", id, "1.bin")
        store.fetch("probe", id)
        store.release()
        assert cached_bytes(place) <= 3.5 * N_BYTES
    assert (store.fetch("probe", "0") / "2.bin").read_bytes() == b"0" * (N_BYTES // 4)


def test_what_is_in_use_stays_above_the_limit(store: Store, place: Path) -> None:
    folders = [store.fetch("probe", id) for id in "012345"]
    assert all((folder / "3.bin").is_file() for folder in folders)
    assert cached_bytes(place) == 6 * N_BYTES
    store.release()
    publish(store, "6")
    store.fetch("probe", "6")
    assert cached_bytes(place) <= 3.5 * N_BYTES


def test_a_file_stays_mapped_after_its_eviction(store: Store, place: Path) -> None:
    path = store.fetch("probe", "0") / "0.bin"
    mapped = np.memmap(path, np.uint8, "r")
    store.release()
    for id in "12345":
        store.fetch("probe", id)
        store.release()
    assert not path.exists()
    assert int(mapped.sum()) == ord("0") * N_BYTES // 4


def test_another_process_keeps_what_it_uses_until_it_is_killed(store: Store, place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER + READ_AND_WAIT, str(tmp_path / "store"), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        dated(place, "0", 1000.0)
        for id in "1234":
            store.fetch("probe", id)
            store.release()
        assert "0" in held(store)
        reader.send_signal(signal.SIGKILL)
        reader.wait()
    for id in "51":
        store.fetch("probe", id)
        store.release()
    assert "0" not in held(store)
    assert len(list((place / "pins").iterdir())) == 1


def test_a_reader_killed_before_each_of_its_steps_leaves_a_cache_that_serves(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one artifact and a half, so that the second read evicts what the first brought."""
    monkeypatch.setenv("FTPROBE_CACHE_GB", str(1.5 * N_BYTES / 1e9))
    command = [sys.executable, "-c", READER + EVERY_STEP, str(tmp_path / "store"), str(tmp_path / "each")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_nothing_vanishes_under_readers_that_share_a_cache_too_small_for_them(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER + READ_MANY, str(tmp_path / "store")]
    readers = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(4)]
    ended = [(reader.communicate(timeout=60)[1], reader.returncode) for reader in readers]
    assert ended == [("", 0)] * 4


def test_only_what_is_damaged_is_brought_again(store: Store) -> None:
    folder = store.fetch("probe", "0")
    whole = os.stat(folder / "0.bin").st_ino
    (folder / "1.bin").write_bytes(b"?" * (N_BYTES // 4))
    os.truncate(folder / "2.bin", 5)
    (folder / "3.bin").unlink()
    assert store.fetch("probe", "0") == folder
    assert [(folder / f"{n}.bin").read_bytes() for n in range(4)] == [b"0" * (N_BYTES // 4)] * 4
    assert os.stat(folder / "0.bin").st_ino == whole


def test_a_count_that_is_lost_is_taken_again(store: Store, place: Path) -> None:
    for id in "012":
        store.fetch("probe", id)
    store.release()
    (place / "total").write_text("what?")
    store.fetch("probe", "3")
    assert int((place / "total").read_text()) == cached_bytes(place) == 3 * N_BYTES


def test_a_fork_has_pins_of_its_own(store: Store, place: Path) -> None:
    store.fetch("probe", "0")
    child = os.fork()
    if not child:
        store.fetch("probe", "1")
        os._exit(len(list((place / "pins").iterdir())))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_by_default_half_of_the_free_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTPROBE_CACHE_GB")
    place.mkdir()
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    assert cache.limit_bytes(place, 0) == pytest.approx(free / 2, rel=0.02)
    assert cache.limit_bytes(place, 10**12) == pytest.approx((free + 10**12) / 2, rel=0.02)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FTPROBE_CACHE_GB", text)
    with pytest.raises(InputError, match=f"FTPROBE_CACHE_GB: '{text}' is no number of gigabytes; give one such as 200"):
        opened(tmp_path / "store")


def test_a_local_store_has_everything_here(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert store.held_here([("probe", "0")]) == {("probe", "0")}
    store.release()


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


def test_a_disk_that_others_fill_makes_the_cache_smaller(
    store: Store, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(small_disk))
    monkeypatch.setenv("FTPROBE_CACHE_GB", "1")
    for id in "012":
        store.fetch("probe", id)
    store.release()
    (small_disk / "another's").write_bytes(b"x" * 650_000)
    store.fetch("probe", "3")
    assert "3" in held(store)
    assert "0" not in held(store)


def test_a_full_disk_names_its_machine_and_keeps_no_half_file(
    store: Store, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(small_disk))
    monkeypatch.setenv("FTPROBE_CACHE_GB", "1")
    publish(store, "7", n_bytes=300_000)
    (small_disk / "another's").write_bytes(b"x" * 800_000)
    said = f"{small_disk} on {socket.gethostname()}: No space left on device; make room there or let FTPROBE_CACHE"
    with pytest.raises(NodeError, match=f"cannot fill the cache at {said}"):
        store.fetch("probe", "7")
    monkeypatch.setattr(cache, "_free", lambda root: 10**9)  # free when asked, filled by others before the bytes came
    with pytest.raises(NodeError, match=f"cannot fill the cache at {said}"):
        store.fetch("probe", "7")
    assert {path.stat().st_size for path in small_disk.rglob("*.bin")} <= {75_000}
    assert list((small_disk / "tmp").iterdir()) == []
    with pytest.raises(NodeError, match=rf"cannot write below .* on {socket.gethostname()}: No space left"):
        publish(store, "8", n_bytes=400_000)
    with pytest.raises(NodeError, match="No space left"), store.workdir() as folder:
        ShardWriter(folder, 10_000, 13, 64, "float32")
    assert not store.exists("probe", "8")
    (small_disk / "another's").unlink()
    assert (store.fetch("probe", "7") / "0.bin").read_bytes() == b"7" * 75_000


def test_what_was_made_here_need_not_travel_to_be_read_here(store: Store, tmp_path: Path) -> None:
    for stage in ("activations", "finetune", "labels"):
        with store.workdir() as folder:
            (folder / "part").mkdir()
            (folder / "part" / "layer").write_bytes(b"1" * 1000)
            store.publish(stage, "made", folder, {})
        (file,) = (tmp_path / "store" / "artifacts" / stage / "made").glob("*/part/layer")
        file.unlink()
    for stage in ("activations", "finetune"):
        assert (store.fetch(stage, "made") / "part" / "layer").read_bytes() == b"1" * 1000
    with pytest.raises(CorruptArtifact):
        store.fetch("labels", "made")  # small, and not what trials wait for


def test_what_was_made_here_counts_against_the_limit(store: Store, place: Path) -> None:
    for id in map(str, range(6)):
        with store.workdir() as folder:
            (folder / "layer.bin").write_bytes(id.encode() * N_BYTES)
            store.publish("activations", id, folder, {})
        store.release()
    assert 0 < cached_bytes(place) <= 3.5 * N_BYTES
