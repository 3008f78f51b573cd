"""Workers come when trials wait for them, of the type that they need, and go when idle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    checked = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "--missing"], capture_output=True, text=True, check=False
    )
    if checked.returncode == 3:
        pytest.skip(checked.stdout.strip())
    out = tmp_path_factory.mktemp("on_demand")
    done = subprocess.run(
        [sys.executable, str(HERE / "on_demand.py"), str(out)], capture_output=True, text=True, check=False, timeout=850
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return dict(json.loads((out / "facts.json").read_text()))


def test_a_study_on_a_head_without_cores_starts_its_workers(facts: dict[str, Any]) -> None:
    (head,) = facts["before"]
    assert head.get("CPU", 0) == 0
    assert facts["run"].startswith("exit 0: 21 trials to run on Ray: 1 node(s), 0 CPU, 0 GPU"), facts["run"]
    assert "finetune 1 done; activations 10 done; probe 10 done" in facts["run"]


def test_trials_that_need_no_gpu_start_no_gpu_node(facts: dict[str, Any]) -> None:
    workers = [node for node in facts["grown"] if node.get("CPU")]
    assert 1 <= len(workers) <= 3
    assert all("GPU" not in node for node in workers)


def test_idle_workers_go(facts: dict[str, Any]) -> None:
    assert [node.get("CPU", 0) for node in facts["idle"]] == [0]


def test_what_no_type_of_node_has_is_refused_before_anything_starts(facts: dict[str, Any]) -> None:
    assert facts["too much"].startswith("exit 2: error: resources.probe: a trial asks for 9 CPU")
    assert "Traceback" not in facts["too much"]
