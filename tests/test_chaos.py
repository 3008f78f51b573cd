"""Chaos: faults of every kind at random moments (seeded) over one study on a cluster; its records show none."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faultlab import STAGES, command, numbers, run, same, study_file

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]
FAULTS = 30
LARGER = [
    {"task": "acceptability@grammar", "seed": [0, 1, 2], "epochs": 2, "batch_size": 16, "train_items": 96,
     "dev_items": 32}
]  # fmt: skip


class Lab:
    """A store on a small disk of its own, a cluster, a driver, and the ways to hurt them."""

    def __init__(self, study: Path, mount: Path, seed: int) -> None:
        self.study, self.mount, self.store = study, mount, mount / "store"
        self.random = random.Random(seed)
        self.driver: subprocess.Popen[str] | None = None
        self.damaged: set[str] = set()
        self.done: Counter[str] = Counter()
        self.seen: dict[str, int] = {}
        self.rewritten: Counter[str] = Counter()
        self.cluster: Any = None
        self.nodes: list[Any] = []
        self.codes: list[int] = []

    def up(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def drive(self) -> None:
        """Start the command, if it does not run."""
        if self.driver is not None and self.driver.poll() is None:
            return
        if self.driver is not None:
            self.codes.append(self.driver.returncode)
        with (self.mount.parent / "driver.log").open("a") as log:
            self.driver = subprocess.Popen(
                command(self.study, self.store, "--address", self.cluster.address), stdout=log,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip

    def watch(self, seconds: float) -> None:
        """Let time pass; note logs that are written again although their trial had been finished before."""
        end = time.time() + seconds
        while time.time() < end:
            whole = {path.parent.name for s in STAGES for path in self.store.glob(f"artifacts/{s}/*/manifest.json")}
            for path in self.store.glob("logs/*.log"):
                with contextlib.suppress(FileNotFoundError):
                    inode = path.stat().st_ino
                    if path.stem in whole and self.seen.get(path.stem, inode) != inode:
                        self.rewritten[path.stem] += 1
                    if path.stem in whole:
                        self.seen[path.stem] = inode
            time.sleep(0.1)

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "name"]):
            line = " ".join(process.info["cmdline"] or [])
            if "ImplicitFunc" in line and any(str(process.ppid()) == str(pid) for pid in self.raylets()):
                found.append(process)
        return found

    def raylets(self) -> list[int]:
        return [node.all_processes["raylet"][0].process.pid for node in self.nodes]

    def kill_worker(self) -> bool:
        return self._signal_worker(signal.SIGKILL)

    def warn_worker(self) -> bool:
        return self._signal_worker(signal.SIGTERM)

    def _signal_worker(self, number: int) -> bool:
        victims = self.workers()
        if victims:
            with contextlib.suppress(psutil.Error):
                self.random.choice(victims).send_signal(number)
        return bool(victims)

    def lose_node(self) -> bool:
        node = self.random.choice(self.nodes)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        return True

    def lose_head(self) -> bool:
        self.cluster.shutdown()
        self.kill_driver()
        self.up()
        return True

    def kill_driver(self) -> bool:
        return self._signal_driver(signal.SIGKILL)

    def interrupt_driver(self) -> bool:
        return self._signal_driver(signal.SIGINT)

    def _signal_driver(self, number: int) -> bool:
        assert self.driver is not None
        if self.driver.poll() is not None:
            return False
        os.kill(self.driver.pid, number)
        self.driver.wait(120)
        return True

    def fill_disk(self) -> bool:
        filler = self.mount / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * (1 << 22))
        self.watch(3)
        filler.unlink()
        return True

    def freeze_disk(self) -> bool:
        """The store can only be read for a while."""
        frozen = subprocess.run(["mount", "-o", "remount,ro", str(self.mount)], check=False, capture_output=True)
        self.watch(3)
        subprocess.run(["mount", "-o", "remount,rw", str(self.mount)], check=True)
        return frozen.returncode == 0  # a file open for writing forbids it

    def flip_byte(self) -> bool:
        """In activations that a missing probe needs: others are read again only by those who tabulate."""
        shards = list(self.store.glob("artifacts/activations/*/layer-*.arrow"))
        return self._damage(shards, lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) +
                            data[len(data) // 2 + 1 :])  # fmt: skip

    def cut_file(self) -> bool:
        return self._damage(list(self.store.glob("artifacts/probe/*/records.parquet")), lambda data: data[:-50])

    def _damage(self, files: list[Path], how: Callable[[bytes], bytes]) -> bool:
        if not files:
            return False
        path = self.random.choice(sorted(files))
        self.damaged.add(path.parent.name)
        with contextlib.suppress(OSError):
            path.write_bytes(how(path.read_bytes()))
        return True

    def finished(self) -> bool:
        return self.driver is not None and self.driver.poll() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m", "tmpfs", str(mount)], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=False)


def test_thirty_faults_change_no_record(minilm: str, tmp_path: Path, small_disk: Path) -> None:
    seed = int(os.environ.get("FTPROBE_CHAOS_SEED", "0"))
    study = study_file(tmp_path, minilm, finetune=LARGER)
    lab = Lab(study, small_disk, seed)
    kinds = [
        lab.kill_worker, lab.kill_worker, lab.kill_worker, lab.warn_worker, lab.lose_node, lab.lose_node, lab.lose_head,
        lab.kill_driver, lab.interrupt_driver, lab.fill_disk, lab.freeze_disk, lab.flip_byte, lab.cut_file,
    ]  # fmt: skip
    bag: list[Callable[[], bool]] = []
    lab.up()
    begun = time.time()
    try:
        while sum(lab.done.values()) < FAULTS:
            lab.drive()
            lab.watch(lab.random.uniform(1, 9))
            if not bag:  # every kind once before any comes again
                bag = lab.random.sample(kinds, len(kinds))
            # where nothing is running any more, damage something that is done, and run again
            fault = lab.cut_file if lab.finished() else bag.pop()
            lab.done[fault.__name__] += fault()
        while not lab.finished():
            lab.drive()
            lab.watch(1)
            assert time.time() - begun < 2700, (lab.codes, (tmp_path / "driver.log").read_text()[-3000:])
        lab.drive()  # once more: what was cut after the run is missing now
        assert lab.driver is not None
        assert lab.driver.wait(400) == 0, (tmp_path / "driver.log").read_text()[-3000:]
    finally:
        if lab.driver is not None and lab.driver.poll() is None:
            lab.driver.kill()
        lab.cluster.shutdown()
    print(f"seed {seed}: {dict(lab.done)}, {time.time() - begun:.0f} s, exit codes {lab.codes}")
    assert "Traceback" not in (tmp_path / "driver.log").read_text()
    check(lab, study, tmp_path)


def check(lab: Lab, study: Path, tmp_path: Path) -> None:
    """Records equal an undisturbed run's, artifacts are whole, and no finished trial was done again."""
    assert run(study, tmp_path / "reference").returncode == 0
    same(numbers(study, lab.store), numbers(study, tmp_path / "reference"))
    for folder in (path for stage in STAGES for path in lab.store.glob(f"artifacts/{stage}/*")):
        files = json.loads((folder / "manifest.json").read_text())["files"]
        assert all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items()), folder
    # the log of a trial may be written once more after its artifact was first seen: by the attempt that made it
    twice = {trial: n for trial, n in lab.rewritten.items() if n > 1 and trial not in lab.damaged}
    assert not twice
