"""Manifest: the provenance of one trial: what it was, with which versions and source, where it ran and what it took.

It holds no environment variables, arguments or paths of the user's, and never fails a trial.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ftprobe", "torch", "transformers", "datasets", "scikit-learn", "numpy", "pyarrow", "polars", "ray")
_GIT_TIMEOUT_S = 5.0


def describe(
    *,
    trial: Mapping[str, object],
    started: float,
    cpu_started: float,
    device: str,
    threads: int,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """The manifest of a trial that ends now, in this process.

    Parameters
    ----------
    trial : mapping
        `id`, `name`, `stage`, `spec`, `parents`.
    started, cpu_started : float
        `time.time()` and `time.process_time()` when the trial began, in seconds.
    device : str
        `cpu`, `cuda`, `cuda:1`.
    facts : mapping
        What the stage adds, JSON values, beside the rest.

    Returns
    -------
    dict
        JSON values. `git` is None unless ftprobe runs from its checkout; `git.diff` is the blake2b-128 of
        `git diff HEAD`, None if that is empty. `peak_rss_bytes` is the peak of the process, earlier trials included.

    Raises
    ------
    ValueError
        A fact has the name of something that is here already.
    """
    finished = time.time()
    manifest: dict[str, object] = {
        **trial,
        "versions": dict(_versions()),
        "git": _git(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": device,
        "device_name": _device_name(device),
        "threads": threads,
        "wall_s": finished - started,
        "cpu_s": time.process_time() - cpu_started,
        "peak_rss_bytes": _peak_rss_bytes(),
        "started": _utc(started),
        "finished": _utc(finished),
    }
    taken = sorted({"files", *manifest} & set(facts))
    if taken:
        raise ValueError(f"facts cannot be named {', '.join(taken)}: a manifest has its own")
    return {**manifest, **facts}


@cache
def _versions() -> Mapping[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@cache
def _git() -> Mapping[str, str | None] | None:
    """Commit and digest of the uncommitted changes of the checkout that holds this very file."""
    return checkout_state(Path(__file__))


def checkout_state(source: Path) -> dict[str, str | None] | None:
    """`commit` and `diff` of the git checkout that tracks the file `source`, or None.

    A file that merely lies inside someone's repository, as an environment's site-packages may, is not tracked by it.
    """
    folder = source.parent
    if _run_git(folder, "ls-files", "--error-unmatch", "--", source.name) is None:
        return None
    commit = _run_git(folder, "rev-parse", "HEAD")
    diff = _run_git(folder, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD")
    if commit is None or diff is None:
        return None
    return {
        "commit": commit.decode().strip(),
        "diff": hashlib.blake2b(diff, digest_size=16).hexdigest() if diff else None,
    }


def _run_git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, or None: no git, no checkout, an error, or too slow."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's own
    environment = {**outside, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_GIT_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _device_name(device: str) -> str:
    """The GPU's name if torch is loaded and drives one, else the processor's."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    return _processor()


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
