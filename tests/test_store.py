"""The store on a disk and on a filesystem without rename: the same promises, kept under the same accidents."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from ftprobe.errors import CorruptArtifact, StoreError
from ftprobe.store import Store
from ftprobe.store.contents import list_files
from ftprobe.store.remote import RemoteVolume
from ftprobe.store.scratch import machine, scratch_name

ID = "0" * 32
FILES = {"a.bin": b"first" * 1000, "deep/b.bin": b"second" * 1000, "empty": b""}


def opened(kind: str, root: Path) -> Store:
    """A local store, or the same folder behind a pyarrow filesystem that takes the object-store path."""
    if kind == "local":
        return Store.open(root)
    root.mkdir(exist_ok=True)
    store = Store(RemoteVolume(SubTreeFileSystem(str(root), LocalFileSystem()), "", "subtree://here"))
    store.volume.prepare()
    return store


@pytest.fixture(params=["local", "remote"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(kind: str, root: Path) -> Store:
    return opened(kind, root)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def publish(
    store: Store, id: str = ID, files: dict[str, bytes] = FILES, stage: str = "probe", **manifest: object
) -> None:
    with store.workdir() as folder:
        write(folder, files)
        store.publish(stage, id, folder, manifest)


def contents(folder: Path, names: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def stored(root: Path, name: str) -> Path:
    """Where the volume keeps a published file."""
    (found,) = (root / "artifacts").rglob(name)
    return found


def leftovers(root: Path) -> list[Path]:
    return [*(root / "tmp").glob("*"), *(root.parent / "cache" / "tmp").glob("*")]


def test_what_is_published_is_fetched_with_its_manifest(store: Store, root: Path) -> None:
    assert not store.exists("probe", ID)
    publish(store, name="bert/cola")
    assert store.exists("probe", ID)
    assert not store.exists("labels", ID)
    assert contents(store.fetch("probe", ID)) == FILES
    manifest = store.manifest("probe", ID)
    assert manifest["name"] == "bert/cola"
    assert {n: f["bytes"] for n, f in manifest["files"].items()} == {n: len(d) for n, d in FILES.items()}
    assert leftovers(root) == []


def test_a_folder_from_elsewhere_is_copied_and_left_alone(store: Store, tmp_path: Path, root: Path) -> None:
    write(tmp_path / "mine", FILES)
    store.publish("probe", ID, tmp_path / "mine", {})
    assert contents(store.fetch("probe", ID)) == contents(tmp_path / "mine") == FILES
    assert leftovers(root) == []


def test_publishing_again_keeps_the_first(store: Store) -> None:
    publish(store, writer=1)
    publish(store, files={"other": b"x"}, writer=2)
    assert store.manifest("probe", ID)["writer"] == 1
    assert contents(store.fetch("probe", ID)) == FILES


def test_a_writer_who_comes_second_leaves_the_first_in_place(store: Store, root: Path) -> None:
    """Both found nothing there and worked; readers may be reading the first one's files by now."""
    with store.workdir() as folder:
        write(folder, FILES)
        files = list_files(folder)
        publish(store, writer=1)
        first = stored(root, "a.bin").stat().st_ino
        store.volume.publish(folder, f"artifacts/probe/{ID}", {"writer": 2}, files)
    assert store.manifest("probe", ID)["writer"] == 1
    assert stored(root, "a.bin").stat().st_ino == first
    assert leftovers(root) == []


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin", "manifest.json"])
def test_a_file_cut_short_means_absent_and_publishing_repairs_it(store: Store, root: Path, name: str) -> None:
    publish(store)
    os.truncate(stored(root, Path(name).name), 17)
    assert not store.exists("probe", ID)
    with pytest.raises(CorruptArtifact, match=r"17 bytes|damaged|checksum"):
        store.fetch("probe", ID)
    publish(store)
    assert store.exists("probe", ID)
    assert contents(store.fetch("probe", ID)) == FILES


def test_a_missing_file_means_absent(store: Store, root: Path) -> None:
    publish(store)
    stored(root, "empty").unlink()
    assert not store.exists("probe", ID)
    with pytest.raises(CorruptArtifact, match="empty is missing"):
        store.fetch("probe", ID)


def test_a_flipped_byte_is_found_by_its_checksum(store: Store, root: Path) -> None:
    publish(store)
    flip(stored(root, "a.bin"))
    assert store.exists("probe", ID)
    store.fetch("probe", ID, verify=False)
    with pytest.raises(CorruptArtifact, match=r"checksum of a\.bin") as caught:
        store.fetch("probe", ID)
    assert (caught.value.stage, caught.value.artifact) == ("probe", ID)


def test_a_byte_flipped_after_a_good_fetch_is_found_too(root: Path) -> None:
    store = opened("local", root)
    publish(store)
    store.fetch("probe", ID)
    flip(stored(root, "a.bin"))
    with pytest.raises(CorruptArtifact, match="checksum"):
        store.fetch("probe", ID)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_not_there_is_named(store: Store) -> None:
    for ask in (store.manifest, store.fetch):
        with pytest.raises(CorruptArtifact, match=f"probe/{ID}: it is not in the store"):
            ask("probe", ID)


def test_removed_and_rebuilt_with_other_bytes(store: Store) -> None:
    publish(store)
    store.fetch("probe", ID)
    store.remove("probe", ID)
    assert not store.exists("probe", ID)
    store.remove("probe", ID)
    publish(store, files={"a.bin": b"rebuilt"})
    assert contents(store.fetch("probe", ID), {"a.bin": b""}) == {"a.bin": b"rebuilt"}


def test_existing_tells_thousands_apart(store: Store) -> None:
    held = {("probe", f"{i:032x}") for i in range(40)} | {("labels", ID)}
    for stage, id in held:
        publish(store, id, {"r": id.encode()}, stage)
    asked = held | {("probe", f"{i:032x}") for i in range(1000, 3000)} | {("corpus", ID)}
    assert store.existing(asked) == held
    assert set(store.artifacts()) == held
    assert store.existing([]) == set()


def test_manifests_are_limited_by_stage(store: Store) -> None:
    for i in range(5):
        publish(store, f"{i:032x}", {"r": b"x"}, wall_s=i)
    publish(store, stage="labels", wall_s=9)
    assert sorted(m["wall_s"] for m in store.manifests(["probe", "labels", "corpus"], 3))[-1] == 9
    assert len(store.manifests(["probe"], 3)) == 3
    assert {m["wall_s"] for m in store.manifests(["probe"], 100)} == set(range(5))


def test_one_file_of_an_artifact(store: Store) -> None:
    publish(store)
    assert store.file("probe", ID, "deep/b.bin").read_bytes() == FILES["deep/b.bin"]
    paths = store.files([("probe", ID, name) for name in FILES])
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    with pytest.raises(CorruptArtifact, match=r"no file records\.parquet"):
        store.file("probe", ID, "records.parquet")


def test_of_a_remote_artifact_only_the_file_asked_for_travels(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    store = opened("remote", root)
    publish(store)
    folder = store.file("probe", ID, "a.bin").parent
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["a.bin"]
    assert contents(store.fetch("probe", ID)) == FILES


def test_a_damaged_cached_copy_is_brought_again(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    store = opened("remote", root)
    publish(store)
    folder = store.fetch("probe", ID)
    assert folder.is_relative_to(tmp_path / "cache")
    flip(folder / "a.bin")
    assert contents(store.fetch("probe", ID)) == FILES
    os.truncate(folder / "a.bin", 3)
    assert contents(store.fetch("probe", ID, verify=False)) == FILES


def test_failures_are_kept_until_cleared(store: Store) -> None:
    assert store.failures() == {}
    store.record_failure("t1", {"error": "boom", "spec": {"seed": 0}})
    store.record_failure("t1", {"error": "again"})
    store.record_failure("t2", {"error": "other"})
    assert store.failures() == {"t1": {"error": "again"}, "t2": {"error": "other"}}
    store.clear_failure("t1")
    store.clear_failure("t1")
    assert set(store.failures()) == {"t2"}


def test_logs_are_written_from_text_or_a_file(store: Store, root: Path, tmp_path: Path) -> None:
    store.write_log("t1", "one\n\udce9\n")
    assert (root / "logs" / "t1.log").read_text() == "one\n?\n"
    (tmp_path / "log").write_text("two")
    store.write_log("t1", tmp_path / "log")
    assert (root / "logs" / "t1.log").read_text() == "two"
    assert store.log_path("t1").endswith("/logs/t1.log")


def test_studies_are_kept_by_name(store: Store) -> None:
    store.save_study("mosbach 2020", {"trials": [{"id": ID}]})
    assert store.studies() == {"mosbach 2020": {"trials": [{"id": ID}]}}


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "nul\0"])
def test_names_cannot_climb_out(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name something in a store"):
        store.path("probe", name)
    with pytest.raises(ValueError, match="cannot name something in a store"):
        store.save_study(name, {})


def test_symbolic_links_are_refused(store: Store, tmp_path: Path) -> None:
    with store.workdir() as folder:
        (folder / "link").symlink_to(tmp_path)
        with pytest.raises(ValueError, match="symbolic link"):
            store.publish("probe", ID, folder, {})
    assert not store.exists("probe", ID)


def test_a_store_travels_to_another_process(store: Store) -> None:
    publish(store)
    assert contents(pickle.loads(pickle.dumps(store)).fetch("probe", ID)) == FILES


def test_paths_and_urls_of_a_disk_are_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    publish(Store.open("my store"))
    for url in (tmp_path / "my store", f"file://{tmp_path}/my%20store", str(tmp_path / "my store")):
        assert Store.open(url).exists("probe", ID)
        assert Store.open(url).url == str(tmp_path / "my store")


def test_filesystems_of_fsspec_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/store"
    publish(Store.open(url))
    again = Store.open(url)
    assert again.existing([("probe", ID), ("probe", "1" * 32)]) == {("probe", ID)}
    assert contents(again.fetch("probe", ID)) == FILES
    again.remove("probe", ID)
    assert again.artifacts() == []


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StoreError, match="cannot open the store nowhere://x"):
        Store.open("nowhere://x")


def test_a_bucket_is_needed() -> None:
    for url in ("s3://", "gs://key:secret@/folder"):
        with pytest.raises(StoreError, match="it names no bucket"):
            Store.open(url)


def test_credentials_of_a_url_are_not_shown() -> None:
    store = Store(
        RemoteVolume(LocalFileSystem(), "/none", "s3://key:secret@bucket/folder/?endpoint_override=localhost")
    )
    assert store.url == "s3://bucket/folder"
    assert store.log_path("t") == "s3://bucket/folder/logs/t.log"


def test_leftovers_of_the_dead_are_swept_and_work_of_the_living_is_not(root: Path) -> None:
    store = opened("local", root)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    tmp = root / "tmp"
    gone = [f"{machine()}-{dead.pid}-x", "elsewhere-1-x", "what-is-this"]
    kept = [scratch_name(), f"{machine()}-1-x", "elsewhere-2-x"]
    for name in gone + kept:
        write(tmp / name, {"deep/file": b"x"})
    for name in [*gone[1:], *kept]:
        age(tmp / name)
    os.utime(tmp / "elsewhere-2-x" / "deep" / "file")
    (tmp / "elsewhere-3-file").write_bytes(b"x")
    Store.open(root)
    assert sorted(p.name for p in tmp.iterdir()) == sorted([*kept, "elsewhere-3-file"])
    assert store.artifacts() == []


def age(folder: Path) -> None:
    old = time.time() - 2 * 86_400
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (old, old))


def test_unfinished_uploads_go_a_day_later(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    store = opened("remote", root)
    artifact = root / "artifacts" / "probe" / ID
    for upload in ("old", "new"):
        write(artifact / upload, {"half": b"x"})
    age(artifact / "old")
    assert not store.exists("probe", ID)
    publish(store)
    assert not (artifact / "old").exists()
    assert (artifact / "new").exists()
    assert contents(store.fetch("probe", ID)) == FILES


def test_opening_a_local_store_loads_no_heavy_library(root: Path) -> None:
    code = f"""
import sys, json
from ftprobe.store import Store
Store.open({str(root)!r}).existing([("probe", "x")])
print(json.dumps(sorted({{"torch", "pyarrow", "polars", "ray", "fsspec", "numpy"}} & set(sys.modules))))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == []
