"""A real cluster of three hosts: what run.py saw of it, judged; and that nothing of it outlives its script."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).resolve().parent / "run.py"
WORKERS = {"worker-1", "worker-2"}
TRIALS = 32  # of study.yaml


def script(*argv: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, argv)]


@pytest.fixture(scope="module")
def lab() -> None:
    checked = subprocess.run(script("--missing"), capture_output=True, text=True, check=False)
    if checked.returncode == 3:
        pytest.skip(checked.stdout.strip())
    assert checked.returncode == 0, checked.stderr


@pytest.fixture(scope="module")
def out(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    done = subprocess.run(script(folder), capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder


@pytest.fixture(scope="module")
def facts(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "facts.json").read_text()))


def test_ray_up_brings_every_host_and_the_head_has_nothing_for_trials(facts: dict[str, Any]) -> None:
    nodes = facts["nodes"]
    assert set(nodes) == {"head"} | WORKERS
    assert nodes["head"].get("CPU", 0) == 0
    assert [nodes[worker]["CPU"] for worker in WORKERS] == [1, 1]


def test_hosts_run_the_synced_project(facts: dict[str, Any]) -> None:
    assert "/mnt/home/ftprobe/ftprobe/__init__.py" in facts["import"]


@pytest.mark.parametrize("store", ["s3", "shared"])
def test_records_equal_those_of_a_plain_run(out: Path, facts: dict[str, Any], store: str) -> None:
    assert "32 trials to run on Ray: 3 node(s), 2 CPU" in facts["said"][store]
    plain, found = (pl.read_parquet(out / f"{name}.parquet") for name in ("plain", store))
    assert plain.height > 300
    assert_frame_equal(found, plain, check_row_order=False, check_exact=True)


@pytest.mark.parametrize("store", ["s3", "shared"])
def test_trials_ran_on_every_worker_and_none_on_the_head(facts: dict[str, Any], store: str) -> None:
    hosts = facts["hosts"][store]
    assert len(hosts) == TRIALS
    assert set(hosts) == WORKERS


def test_status_is_seen_from_a_machine_outside_of_the_cluster(facts: dict[str, Any]) -> None:
    assert "hosts" in facts["status"]
    assert "failed:" not in facts["status"]


def test_clients_without_the_token_are_refused(facts: dict[str, Any]) -> None:
    refused = facts["refused"]
    for who in ("no token", "wrong token"):
        assert refused[who].startswith("exit 2: "), refused[who]
        assert "\nerror: --address: no Ray cluster answers at 10.77.0.11:6379" in refused[who], refused[who]
        assert "InvalidAuthToken" in refused[who]
        assert "Traceback" not in refused[who]
    assert refused["dashboard without token"] == "401"
    assert refused["dashboard with token"] == "200"
    assert refused["dashboard from outside"].startswith("exit 7:"), "the dashboard listens beyond localhost"


def test_no_secret_is_in_the_stores_the_output_or_ray_s_logs(facts: dict[str, Any]) -> None:
    assert facts["secrets"] == []


def test_ray_down_ends_every_ray(facts: dict[str, Any]) -> None:
    assert facts["left"] == dict.fromkeys(["head", *sorted(WORKERS)], "")


def test_nothing_outlives_a_killed_script(lab: None, tmp_path: Path) -> None:
    mounts, links = Path("/proc/mounts").read_text(), Path("/proc/net/dev").read_text().count(":")
    killed = subprocess.Popen(script("--hosts", tmp_path), stdout=subprocess.PIPE, text=True)
    try:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "up\n"
        family = psutil.Process(killed.pid).children(recursive=True)
        assert sum(process.name() == "sshd" for process in family) >= len(WORKERS) + 1
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    until = time.monotonic() + 30
    while any(process.is_running() for process in family) and time.monotonic() < until:
        time.sleep(0.1)
    assert [process for process in family if process.is_running()] == []
    assert Path("/proc/mounts").read_text() == mounts
    assert Path("/proc/net/dev").read_text().count(":") == links
