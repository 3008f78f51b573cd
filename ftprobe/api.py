"""The commands as functions: plan a study, run it, read its records and predictions.

>>> import ftprobe
>>> study = ftprobe.load_study("sweeps/quickstart.yaml")     # doctest: +SKIP
>>> ftprobe.run(study, store="my-store").failed              # doctest: +SKIP
{}
>>> ftprobe.records(study, store="my-store").collect()       # doctest: +SKIP
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftprobe.compact import LEAST_PARTS, compact, scan_study
from ftprobe.corpora import corpus_id, labels_id, prepare
from ftprobe.cost import MANIFESTS_READ, speeds
from ftprobe.errors import CorruptArtifact, InputError
from ftprobe.planner import STAGES, Plan, Stage, make_plan
from ftprobe.rows import PREDICTIONS, scan_predictions
from ftprobe.store import Store
from ftprobe.study import Study, load_study

if TYPE_CHECKING:
    import polars as pl

    from ftprobe.items import ReadPredictions
    from ftprobe.runner import Observer
    from ftprobe.schedule import Schedule

DEFAULT_STORE = "ftprobe-store"


class Summary(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    counts : mapping of stage to mapping of state to int
        Trials by stage and state.
    failed : dict of trial name to error
        Failed and skipped trials.
    stopped : str
        Why the run stopped early (the store could not be written), or empty.
    interrupted : bool
        Ctrl-C; what was finished is in the store.
    """

    counts: Mapping[Stage, Mapping[str, int]]
    failed: Mapping[str, str]
    stopped: str
    interrupted: bool
    wall_s: float
    warnings: tuple[str, ...]

    @property
    def started(self) -> int:
        """Trials that this run executed."""
        return sum(n for states in self.counts.values() for state, n in states.items() if state in ("done", "failed"))


class Results(NamedTuple):
    """What a study has come to so far.

    Attributes
    ----------
    records : polars.LazyFrame
        One row a number.
    predictions : callable
        From trials, as `trial` of `records` names them, to a lazy frame of what they predicted of each item: `trial`,
        `split`, `layer`, `probe_seed`, `sentence`, `word`, `gold`, `predicted`, `score` (the probability of the label
        predicted). Trials that keep none have no rows. Files of a remote store are fetched when it is called; it raises
        `CorruptArtifact` for one that is damaged.
    """

    records: pl.LazyFrame
    predictions: ReadPredictions


def open_store(store: str | Path | Store | None = None) -> Store:
    """The store at a path or URL; by default `FTPROBE_STORE`, else `ftprobe-store` here."""
    if isinstance(store, Store):
        return store
    return Store.open(store or os.environ.get("FTPROBE_STORE") or DEFAULT_STORE)


def as_study(study: str | Path | Study) -> Study:
    """A study, or the file of one."""
    return study if isinstance(study, Study) else load_study(study)


def plan(
    study: str | Path | Study,
    *,
    store: str | Path | Store | None = None,
    data: str | None = None,
    offline: bool = False,
) -> Plan:
    """Resolve a study into trials; local and built-in data are read (once per store) so that counts are exact.

    Raises
    ------
    InputError
        Everything wrong with the study and its local data.
    """
    planned = make_plan(as_study(study), open_store(store), data_dir=data, offline=offline, read=True)
    _check_searches(planned, inline=False)
    return planned


def run(
    study: str | Path | Study,
    *,
    store: str | Path | Store | None = None,
    data: str | None = None,
    offline: bool = False,
    address: str | None = None,
    inline: bool = False,
    device: str | None = None,
    threads: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Run what is missing of a study: on Ray Tune, or in this process with `inline`.

    Parameters
    ----------
    address : str, optional
        A Ray cluster (`auto`, `ray://head:10001`); by default a local Ray is started and stopped.
    device : str, optional
        For `inline`: `cpu` or `cuda`; by default a GPU where torch sees one.
    threads : int, optional
        For `inline`: cores to use; by default all. CPU results repeat to the last bit at an equal number of threads.

    Raises
    ------
    InputError
        Everything wrong with the study, its data, or what it asks of the cluster; nothing has been started then.
    """
    opened, loaded, begun = open_store(store), as_study(study), time.time()
    planned = make_plan(loaded, opened, data_dir=data, offline=offline, read=True, look_up=False)
    notes = prepare(planned.sources, opened)
    opened.save_study(loaded.name, _document(planned))
    planned = planned.looked_up(opened)  # from here on the document keeps `gc` away from what is reused
    _check_searches(planned, inline=inline)
    from ftprobe.schedule import Schedule

    schedule = Schedule(planned, speeds(opened.manifests(STAGES, MANIFESTS_READ)))
    interrupted = False
    if schedule.total:
        interrupted = _execute(schedule, opened, observer, address, inline, device, threads)
    if schedule.total >= LEAST_PARTS and not (interrupted or schedule.stopped):
        with suppress(CorruptArtifact):  # who reads the records is told
            compact(planned.looked_up(opened), opened)
    names = {trial: planned.trials[trial].name for trial in schedule.errors}
    stages = {trial: planned.trials[trial].stage for trial in schedule.errors}
    return Summary(
        schedule.counts(),
        {f"{stages[t]} {names[t]}": error for t, error in schedule.errors.items()},
        schedule.stopped,
        interrupted or (not schedule.finished and not schedule.stopped),
        time.time() - begun,
        (*notes, *schedule.notes),
    )


def records(
    study: str | Path | Study,
    *,
    store: str | Path | Store | None = None,
    data: str | None = None,
    offline: bool = True,
) -> pl.LazyFrame:
    """The tidy records of a study: one row a number, in the columns of METHODS 0; only what the store holds.

    Those of many trials are kept together in compact files, which the first call writes where the run did not.
    """
    return results(study, store=store, data=data, offline=offline).records


def results(
    study: str | Path | Study,
    *,
    store: str | Path | Store | None = None,
    data: str | None = None,
    offline: bool = True,
) -> Results:
    """What reports are made from: the records of a study, as `records` gives them, and its item-level predictions."""
    opened = open_store(store)
    planned = make_plan(as_study(study), opened, data_dir=data, offline=offline)
    return Results(scan_study(planned, opened), partial(_predictions, planned, opened))


def _predictions(planned: Plan, store: Store, trials: Iterable[str]) -> pl.LazyFrame:
    held = [trial for trial in dict.fromkeys(trials) if trial in planned.predictions]
    paths = store.files([(planned.trials[trial].stage, trial, PREDICTIONS) for trial in held])
    return scan_predictions([(trial, str(path)) for trial, path in zip(held, paths, strict=True)])


def _document(planned: Plan) -> dict[str, Any]:
    """What the store keeps of a study: enough for `status` and for finding artifacts that nothing needs."""
    study = planned.study
    return {
        "name": study.name,
        "path": str(study.path) if study.path else None,
        "trials": [{"id": t.id, "stage": t.stage, "name": t.name} for t in planned.trials.values()],
        "labels": [labels_id(s) for s in planned.sources],
        "corpora": [corpus_id(s) for s in planned.sources],
    }


def _check_searches(planned: Plan, *, inline: bool) -> None:
    """Refuse searches that are to run and cannot."""
    searches = [trial.spec["search"] for trial in planned.missing() if trial.stage == "search"]
    if searches and inline:
        raise InputError.one("--inline", "a search needs Ray", "run without it, or with --address")
    if any(each["algorithm"] == "optuna" for each in searches) and find_spec("optuna") is None:
        what = "optuna is not installed"
        raise InputError.one("finetune.search.algorithm", what, "pip install optuna, or use algorithm: random")


def _execute(
    schedule: Schedule,
    store: Store,
    observer: Observer | None,
    address: str | None,
    inline: bool,
    device: str | None,
    threads: int | None,
) -> bool:
    """Drive the schedule; True if it was interrupted."""
    from ftprobe.journal import Journal
    from ftprobe.runner import Silent, run_inline

    watch = Journal(store, schedule.plan.study.name, observer or Silent())
    interrupted = True
    try:
        if inline:
            import torch

            chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
            run_inline(schedule, store, watch, device=chosen, threads=threads or os.cpu_count() or 1)
        else:
            from ftprobe.sweep import run_ray

            run_ray(schedule, store, watch, address=address)
        interrupted = False
    except KeyboardInterrupt:
        return True
    finally:
        watch.close(interrupted=interrupted)
    return False
