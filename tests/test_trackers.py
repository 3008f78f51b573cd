"""Trackers: what running trials report arrives under the study's and the trial's names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftprobe.cost import Cost
from ftprobe.errors import InputError
from ftprobe.planner import Plan, Trial
from ftprobe.runner import Silent
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.sweep import run_ray

pytestmark = pytest.mark.ray


def reporting() -> Any:
    def execute(payloads: Any, store: Any, **how: Any) -> dict[str, Any]:
        for epoch in (1, 2):
            how["report"]({"epoch": epoch, "metric": "mcc", "value": 0.25 * epoch, "note": "text is left out"})
        return {"state": "done", "error": "", "corrupt": [], "wall_s": 0.0, "metrics": {}}

    return execute


def run(tmp_path: Path, *track: str) -> None:
    import ray

    trial = Trial("t0", "finetune", "minilm/cola/s0", {}, (), "t0", {}, {"model": "minilm"}, Cost(1.0, 0.0, 0))
    study = cast(Any, SimpleNamespace(name="tracked", resources={}, track=track))
    schedule = Schedule(Plan(study, {"t0": trial}, (), (), 1, frozenset()))
    if ray.is_initialized():
        ray.shutdown()
    run_ray(schedule, Store.open(tmp_path / "store"), Silent(), execute=reporting())
    assert schedule.states == {"t0": "done"}


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboardX.proto.event_pb2 import Event

    monkeypatch.setenv("FTPROBE_TENSORBOARD", str(tmp_path / "board"))
    run(tmp_path, "tensorboard")
    (file,) = (tmp_path / "board" / "tracked" / "finetune" / "minilm/cola/s0").glob("events.out.*")
    data, scalars = file.read_bytes(), []
    while data:  # records: 8 bytes of length, 4 of checksum, the event, 4 of checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        scalars += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    assert set(scalars) == {("epoch", 1, 1.0), ("mcc", 1, 0.25), ("epoch", 2, 2.0), ("mcc", 2, 0.5)}


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the package mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run(tmp_path, "mlflow")
    client = tracking.MlflowClient()
    (one,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    assert one.info.run_name == "finetune/minilm/cola/s0"
    assert one.info.status == "FINISHED"
    assert one.data.params["model"] == "minilm"
    assert [m.value for m in client.get_metric_history(one.info.run_id, "mcc")] == [0.25, 0.5]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the package wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(tmp_path, "wandb")
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pip install wandb"):
        run(tmp_path, "wandb")
