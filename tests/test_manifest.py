"""Manifests say where a number comes from, whatever state git is in, and keep what is the user's to themselves."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from ftprobe.manifest import checkout_state, describe

TRIAL = {"id": "ab" * 16, "name": "bert/cola/s0", "stage": "finetune", "spec": {"seed": 0}, "parents": ["cd" * 16]}


def described(**changes: object) -> dict[str, object]:
    arguments = {"started": time.time(), "cpu_started": time.process_time(), "device": "cpu", "threads": 2, "facts": {}}
    return describe(trial=TRIAL, **{**arguments, **changes})  # type: ignore[arg-type]


def test_it_holds_the_trial_the_facts_and_the_machine() -> None:
    manifest = json.loads(json.dumps(described(facts={"n_parameters": 7}), allow_nan=False))
    assert {name: manifest[name] for name in TRIAL} == TRIAL
    assert manifest["n_parameters"] == 7
    assert (manifest["host"], manifest["device"], manifest["threads"]) == (socket.gethostname(), "cpu", 2)
    assert manifest["device_name"]
    assert manifest["versions"]["torch"] == version("torch")
    assert manifest["versions"]["python"] == sys.version.split()[0]


def test_it_measures_wall_and_processor_time_apart() -> None:
    started, cpu_started = time.time() - 100, time.process_time()
    time.sleep(0.2)
    manifest = described(started=started, cpu_started=cpu_started)
    assert 100.2 <= float(str(manifest["wall_s"])) < 110
    assert 0 <= float(str(manifest["cpu_s"])) < 0.15
    begun, ended = (datetime.fromisoformat(str(manifest[name])) for name in ("started", "finished"))
    assert (ended - begun).total_seconds() == pytest.approx(manifest["wall_s"], abs=0.01)
    assert begun.timestamp() == pytest.approx(started, abs=0.01)


def test_peak_memory_grows_with_what_is_held() -> None:
    before = int(str(described()["peak_rss_bytes"]))
    held = b"x" * (before + 50_000_000)
    assert int(str(described()["peak_rss_bytes"])) > len(held)


def test_facts_cannot_hide_what_is_there() -> None:
    with pytest.raises(ValueError, match="facts cannot be named device, files"):
        described(facts={"device": "tpu", "files": {}, "other": 1})


def test_the_environment_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_9321")
    monkeypatch.setattr(sys, "argv", ["ftprobe", "--token=secret_9321"])
    assert "secret_9321" not in json.dumps(described())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one committed file, which is returned."""
    source = tmp_path / "checkout" / "module.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    git(source, "init", "-q")
    git(source, "add", "module.py")
    git(source, "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "-m", "one")
    return source


def git(source: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", source.parent, *arguments], capture_output=True, check=True).stdout


def test_a_clean_checkout_has_its_commit_and_no_diff(checkout: Path) -> None:
    assert checkout_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD").decode().strip(), "diff": None}


def test_an_edited_checkout_has_the_digest_of_its_diff(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.write_text("x = 2\n")
    diff = hashlib.blake2b(git(checkout, "diff", "HEAD"), digest_size=16).hexdigest()
    monkeypatch.setenv("GIT_DIR", "/somewhere/else")
    state = checkout_state(checkout)
    assert state is not None
    assert state["diff"] == diff


def test_files_that_git_does_not_track_have_no_commit(checkout: Path, tmp_path: Path) -> None:
    (checkout.parent / "site.py").write_text("")
    (tmp_path / "plain.py").write_text("")
    assert checkout_state(checkout.parent / "site.py") is None
    assert checkout_state(tmp_path / "plain.py") is None


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert checkout_state(checkout) is None


def test_describing_loads_no_heavy_library() -> None:
    code = """
import sys, time
from ftprobe.manifest import describe
trial = dict(id="", name="", stage="", spec={}, parents=[])
describe(trial=trial, started=0, cpu_started=0, device="cuda", threads=1, facts={})
print(sorted({"torch", "transformers", "datasets", "sklearn", "numpy", "pyarrow", "polars", "ray"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_describing_again_is_fast() -> None:
    described()
    begun = time.perf_counter()
    for _ in range(20):
        described()
    assert (time.perf_counter() - begun) / 20 < 0.01
