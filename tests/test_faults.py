"""Faults, each injected into a real study on a real Ray with real weights; the records must not show them."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from faultlab import PATIENCE_S, artifacts, command, numbers, run, same, study_file, wait_for

pytestmark = pytest.mark.ray


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver alone; what it started must end by itself or do no harm."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_same_command_again_starts_nothing_and_is_quick(undisturbed: tuple[Path, Path]) -> None:
    study, store = undisturbed
    before, begun = artifacts(store), resource.getrusage(resource.RUSAGE_CHILDREN)
    again = run(study, store)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime  # other processes take none of it
    assert again.returncode == 0
    assert artifacts(store) == before
    assert "done" not in again.stdout
    assert cpu_s < 6, cpu_s


def test_ray_and_inline_give_the_same_records(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, store = undisturbed
    inline = run(study, tmp_path / "store", "--inline", "--threads", "1")
    assert inline.returncode == 0, inline.stderr
    same(numbers(study, store), numbers(study, tmp_path / "store"))


def test_killed_driver_then_same_command(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    with subprocess.Popen(command(study, store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_for(lambda: len(artifacts(store)) >= 3, driver)
        kill_tree(driver)
    time.sleep(1)
    before = artifacts(store)
    again = run(study, store)
    assert again.returncode == 0, again.stdout + again.stderr
    after = artifacts(store)
    assert all(after[key] == finished for key, finished in before.items())
    same(numbers(study, store), numbers(study, reference))


def test_killed_worker_is_retried(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    with subprocess.Popen(command(study, store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        victims: list[psutil.Process] = []

        def working() -> bool:
            for process in psutil.Process(driver.pid).children(recursive=True):
                try:
                    if process.name().startswith("ray::") and "ImplicitFunc" in " ".join(process.cmdline()):
                        victims.append(process)
                        return True
                except psutil.Error:
                    continue
            return False

        wait_for(working, driver)
        wait_for(lambda: len(artifacts(store)) >= 1, driver)
        victims[0].kill()
        output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, output
    same(numbers(study, store), numbers(study, reference))


def test_interrupt_leaves_a_resumable_store(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    with subprocess.Popen(
        command(study, store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        wait_for(lambda: len(artifacts(store)) >= 2, driver)
        os.kill(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, errors
    assert "run the same command" in errors
    assert run(study, store).returncode == 0
    same(numbers(study, store), numbers(study, reference))


def test_two_drivers_on_one_store(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    pair = [
        subprocess.Popen(command(study, store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    for driver in pair:
        output, _ = driver.communicate(timeout=PATIENCE_S)
        assert driver.returncode == 0, output
    same(numbers(study, store), numbers(study, reference))


def test_a_failing_trial_skips_its_dependents_only(minilm: str, tmp_path: Path) -> None:
    sst2 = tmp_path / "data" / "sst2"
    sst2.mkdir(parents=True)
    rows = "\n".join(f"sentence number {i}\t1" for i in range(40))
    (sst2 / "train.tsv").write_text(f"sentence\tlabel\n{rows}\n")
    (sst2 / "dev.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    study = study_file(
        tmp_path,
        minilm,
        data={"sst2": str(sst2)},
        finetune=[
            {"task": "sst2", "epochs": 1},
            {"task": "acceptability@grammar", "epochs": 1, "train_items": 32, "dev_items": 16},
        ],
    )
    done = run(study, tmp_path / "store")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"failed: finetune minilm/sst2.*class", done.stderr)
    assert done.stderr.count("skipped: minilm/sst2") == 8  # 2 texts x 2 poolings, extracted and probed
    frame = numbers(study, tmp_path / "store")
    assert set(frame.filter(pl.col("method") == "linear")["ft_task"].unique()) == {None, "acceptability"}
    status = subprocess.run(
        [sys.executable, "-m", "ftprobe.cli", "status", "--store", str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "failed" in status.stderr
    assert ".log" in status.stderr


def test_a_flipped_byte_is_found_and_rebuilt(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", str(reference), str(store)], check=True)
    shard = next((store / "artifacts" / "activations").glob("*/layer-03-000.arrow"))
    broken = shard.parent.name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    for path in (store / "artifacts" / "probe").glob("*/manifest.json"):
        if broken in json.loads(path.read_text())["parents"]:
            path.unlink()
    done = run(study, store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rebuilding" in done.stdout
    same(numbers(study, store), numbers(study, reference))


def test_a_truncated_artifact_is_rebuilt(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", str(reference), str(store)], check=True)
    part = next((store / "artifacts" / "probe").glob("*/records.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    assert run(study, store).returncode == 0
    same(numbers(study, store), numbers(study, reference))


def test_a_full_disk_stops_with_the_reason_and_loses_nothing(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, reference = undisturbed
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = run(study, mount / "store")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "space" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=400m", str(mount)], check=True)
        before = artifacts(mount / "store")
        again = run(study, mount / "store")
        assert again.returncode == 0, again.stdout + again.stderr
        assert all(artifacts(mount / "store")[key] == finished for key, finished in before.items())
        same(numbers(study, mount / "store"), numbers(study, reference))
    finally:
        subprocess.run(["umount", str(mount)], check=False)


def test_an_unwritable_store_is_bad_input(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    study, _ = undisturbed
    (tmp_path / "file").write_text("not a folder")
    done = run(study, tmp_path / "file" / "store")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
