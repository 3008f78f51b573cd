"""Summaries for people and machines: of a plan, of a study's progress, of what ships with the package."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.table import Table

from ftprobe.cost import MANIFESTS_READ, speeds
from ftprobe.errors import InputError, nearest
from ftprobe.planner import STAGES, Plan, Trial
from ftprobe.schedule import packs
from ftprobe.store import Store


def plan_document(plan: Plan, store: Store) -> dict[str, Any]:
    """The plan as JSON values: every trial with its parents, cost and whether it exists; totals by stage."""
    seconds = _seconds(plan, store)
    missing = {t.id for t in plan.missing()}
    return {
        "study": plan.study.name,
        "store": store.url,
        "grid_points": plan.grid_points,
        "trials": [
            {
                "id": t.id,
                "stage": t.stage,
                "name": t.name,
                "parents": list(t.parents),
                "exists": t.id in plan.existing,
                "to_run": t.id in missing,
                "bytes": t.cost.bytes,
                "flops": t.cost.flops,
                "cells": t.cost.cells,
                "device_s": seconds[t.id],
                "spec": t.spec,
            }
            for t in plan.trials.values()
        ],
        "totals": {stage: _totals(plan, stage, missing, seconds) for stage in STAGES},
    }


def plan_table(plan: Plan, store: Store) -> Table:
    """The plan by stage: trials, reuse, disk and device-hours."""
    seconds = _seconds(plan, store)
    missing = {t.id for t in plan.missing()}
    table = Table(title=f"{plan.study.name}: {len(plan.trials)} trials of {plan.grid_points} grid points", box=None)
    for name in ("stage", "trials", "in store", "to run", "packs", "cells", "disk", "device-hours"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    rows = {stage: _totals(plan, stage, missing, seconds) for stage in STAGES}
    counted = Counter(pack.stage for pack in packs(plan.missing(), _speed(store)))
    rows = {stage: {**row, "packs": counted[stage]} for stage, row in rows.items()}
    for stage, row in rows.items():
        if row["trials"]:
            table.add_row(stage, *_cells(row))
    total = {key: sum(row[key] for row in rows.values()) for key in rows["probe"]}
    table.add_row("all", *_cells(total), style="bold")
    if any(source.sizes and not _counted(source, store) for source in plan.sources):
        table.caption = "counts of corpora that are not here yet are their official sizes"
    return table


def study_document(plan: Plan) -> dict[str, Any]:
    """What `status` needs to know of a plan."""
    trials = [{"id": t.id, "stage": t.stage, "name": t.name} for t in plan.trials.values()]
    return {"name": plan.study.name, "trials": trials}


def listing() -> Table:
    """Shipped studies, tasks, probes and measures, with what each is."""
    from ftprobe.compare import COMPARISONS
    from ftprobe.probes import PROBES
    from ftprobe.tasks import TASKS

    table = Table(box=None, title="ftprobe")
    for name in ("kind", "name", "what"):
        table.add_column(name)
    for name, path in recipes().items():
        first = next((line for line in path.read_text("utf-8").splitlines() if line.startswith("#")), "#")
        table.add_row("study", name, first.lstrip("# "))
    for name, task in sorted(TASKS.items()):
        table.add_row("task", name, task.description)
    for name, probe in sorted(PROBES.items()):
        table.add_row("probe", name, f"options: {', '.join(probe.Options.model_fields)}")
    for name, comparison in sorted(COMPARISONS.items()):
        table.add_row("measure", name, f"options: {', '.join(comparison.Options.model_fields)}")
    return table


def recipes() -> dict[str, Path]:
    """The shipped study files by name."""
    folder = Path(str(files("ftprobe_sweeps")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def copy_recipe(name: str, folder: Path) -> list[Path]:
    """Copy a shipped study and its analysis, with the files that this imports from its own folder, into `folder`.

    Existing files are not overwritten.

    Raises
    ------
    InputError
        An unknown name, or a file that is already there.
    """
    shipped = recipes()
    if name not in shipped:
        raise InputError.one(name, f"no shipped study '{name}'", nearest(name, shipped))
    analysis = Path(str(files("ftprobe_analysis"))) / f"{name}.py"
    beside = re.findall(r"^from \.(\w+) import", analysis.read_text("utf-8"), re.M) if analysis.exists() else []
    sources = [shipped[name], analysis, *(analysis.with_name(f"{each}.py") for each in beside)]
    pairs = [(path, folder / path.name) for path in sources if path.exists()]
    for _, target in pairs:
        if target.exists():
            raise InputError.one(str(target), "already there", "remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in pairs:
        shutil.copyfile(source, target)
    return [target for _, target in pairs]


def _counted(source: Any, store: Store) -> bool:
    from ftprobe.corpora import labels_id

    return store.exists("labels", labels_id(source))


def _seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Expected seconds of each trial on one device, from the speed of past trials in this store."""
    speed = _speed(store)
    return {t.id: t.cost.flops / speed[t.stage] for t in plan.trials.values()}


def _speed(store: Store) -> dict[str, float]:
    return speeds(store.manifests(STAGES, MANIFESTS_READ))


def _totals(plan: Plan, stage: str, missing: set[str], seconds: Mapping[str, float]) -> dict[str, float]:
    trials: list[Trial] = [t for t in plan.trials.values() if t.stage == stage]
    todo = [t for t in trials if t.id in missing]
    return {
        "trials": len(trials),
        "existing": sum(t.id in plan.existing for t in trials),
        "to_run": len(todo),
        "cells": sum(t.cost.cells for t in todo if t.scored),
        "bytes": sum(t.cost.bytes for t in todo),
        "device_hours": sum(seconds[t.id] for t in todo) / 3600,
    }


def _cells(row: Mapping[str, float]) -> list[str]:
    counts = [f"{row[key]:.0f}" for key in ("trials", "existing", "to_run", "packs")]
    return [*counts, f"{row['cells']:,.0f}" if row["cells"] else "", size(row["bytes"]), f"{row['device_hours']:.2f}"]


def size(n_bytes: float) -> str:
    """Bytes for people.

    >>> size(66_000_000)
    '66.0 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}" if unit != "B" else f"{n_bytes:.0f} B"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
