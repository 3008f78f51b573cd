"""The doctor: what this machine offers to a study, and whether every artifact still is what it was."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from rich.table import Table

from ftprobe.errors import CorruptArtifact
from ftprobe.store import Store

PACKAGES = ("ftprobe", "ray", "torch", "transformers", "datasets", "scikit-learn", "pyarrow", "polars", "numpy")


def check_machine() -> Table:
    """Versions, cores, memory, GPUs."""
    import psutil
    import torch

    table = Table(box=None, title="machine")
    table.add_column("what")
    table.add_column("value")
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        table.add_row(package, _version(package))
    table.add_row("cores", str(os.cpu_count()))
    table.add_row("memory", f"{psutil.virtual_memory().available / 1e9:.1f} GB free")
    table.add_row("disk", f"{shutil.disk_usage('.').free / 1e9:.1f} GB free here")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(gpus) or "none: studies run on the CPU")
    return table


def check_store(store: Store) -> list[str]:
    """Checksum every artifact and remove the damaged ones, so that the next run rebuilds them.

    Returns
    -------
    list of str
        One line per damaged artifact.
    """
    damaged = []
    for stage, artifact in store.artifacts():
        try:
            store.fetch(stage, artifact)
            store.release()
        except CorruptArtifact as error:
            store.remove(stage, artifact)
            damaged.append(str(error))
    return damaged


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
