"""Scratch on a shared folder: whose clock says what is old."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DAY_S = 86_400
OPEN = """
import sys, time
real = time.time
time.time = lambda: real() + float(sys.argv[2])
from ftprobe.store import Store
Store.open(sys.argv[1])
"""


@pytest.mark.parametrize("ahead_s", [3 * DAY_S, -3 * DAY_S])
def test_a_machine_whose_clock_is_wrong_sweeps_what_is_old_and_nothing_else(tmp_path: Path, ahead_s: int) -> None:
    living, dead = tmp_path / "tmp" / "elsewhere-1-living", tmp_path / "tmp" / "elsewhere-2-dead"
    for folder in (living, dead):
        folder.mkdir(parents=True)
    os.utime(dead, (time.time() - 2 * DAY_S,) * 2)
    subprocess.run([sys.executable, "-c", OPEN, str(tmp_path), str(ahead_s)], check=True)
    assert list((tmp_path / "tmp").iterdir()) == [living]
