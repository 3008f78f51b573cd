"""Experiment trackers by the study's `track` key: Tune callbacks that log what running trials report, by our names.

TensorBoard, MLflow and Weights & Biases take address and credentials from their own environment variables.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback

from ftprobe.errors import InputError
from ftprobe.schedule import Pack
from ftprobe.study import Study
from ftprobe.sweep.searcher import DagSearcher

_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


class Tracker(Callback):  # type: ignore[misc]
    """One run of a tracker for each pack that reports numbers.

    Parameters
    ----------
    open_run : callable
        From a pack's name and its columns to a function that logs numbers at a step (None: ends the run).
    """

    def __init__(self, searcher: DagSearcher, open_run: Callable[[Pack], Log]) -> None:
        self.searcher, self.open_run = searcher, open_run
        self.runs: dict[str, tuple[Log, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Log the numbers of a report."""
        pack = self.searcher.packs.get(trial.trial_id)
        if pack is None or "metrics" not in result:
            return
        numbers = _numbers(json.loads(result["metrics"]))
        log, step = self.runs.get(trial.trial_id) or (self.open_run(pack), 0)
        self.runs[trial.trial_id] = log, step + 1
        log(numbers, step + 1)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run."""
        log, step = self.runs.pop(trial.trial_id, (None, 0))
        if log is not None:
            log(None, step)

    on_trial_error = on_trial_complete


Log = Callable[[Mapping[str, float] | None, int], None]


def trackers(study: Study, searcher: DagSearcher) -> list[Tracker]:
    """A callback for each tracker that the study names.

    Raises
    ------
    InputError
        A tracker's package is not installed.
    """
    for name in study.track:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            package = _PACKAGES[name]
            raise InputError.one("track", f"{name} needs the package {package}", f"pip install {package}")
    return [Tracker(searcher, _OPENERS[name](study.name)) for name in study.track]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report; `metric` and `value` become one number under the metric's name."""
    named = {str(metrics["metric"]): metrics["value"]} if {"metric", "value"} <= set(metrics) else {}
    rest = {k: v for k, v in metrics.items() if k not in ("metric", "value")}
    return {k: float(v) for k, v in {**rest, **named}.items() if isinstance(v, int | float)}


def _tensorboard(study: str) -> Callable[[Pack], Log]:
    """Event files below `FTPROBE_TENSORBOARD` (default: `tensorboard` here), STUDY/STAGE/NAME."""
    from tensorboardX import SummaryWriter

    root = Path(os.environ.get("FTPROBE_TENSORBOARD") or "tensorboard") / study

    def opened(pack: Pack) -> Log:
        writer = SummaryWriter(str(root / pack.stage / pack.trials[0].name))

        def log(numbers: Mapping[str, float] | None, step: int) -> None:
            for key, value in (numbers or {}).items():
                writer.add_scalar(key, value, step)
            if numbers is None:
                writer.close()

        return log

    return opened


def _mlflow(study: str) -> Callable[[Pack], Log]:
    """Runs of the experiment named like the study, at `MLFLOW_TRACKING_URI`."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(study)
    experiment = found.experiment_id if found else client.create_experiment(study)

    def opened(pack: Pack) -> Log:
        trial = pack.trials[0]
        run = client.create_run(experiment, run_name=f"{pack.stage}/{trial.name}").info.run_id
        for key, value in trial.columns.items():
            if value is not None:
                client.log_param(run, key, str(value)[:500])

        def log(numbers: Mapping[str, float] | None, step: int) -> None:
            for key, value in (numbers or {}).items():
                client.log_metric(run, key, value, step=step)
            if numbers is None:
                client.set_terminated(run)

        return log

    return opened


def _wandb(study: str) -> Callable[[Pack], Log]:
    """Runs of the project named like the study, of the account that `wandb login` or `WANDB_API_KEY` gives."""
    import wandb

    def opened(pack: Pack) -> Log:
        trial = pack.trials[0]
        config = {key: value for key, value in trial.columns.items() if value is not None}
        name = f"{pack.stage}/{trial.name}"
        run = wandb.init(project=study, name=name, config=config, reinit="create_new", group=pack.stage)

        def log(numbers: Mapping[str, float] | None, step: int) -> None:
            if numbers is None:
                run.finish()
            else:
                run.log(dict(numbers), step=step)

        return log

    return opened


_OPENERS: Mapping[str, Callable[[str], Callable[[Pack], Log]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
