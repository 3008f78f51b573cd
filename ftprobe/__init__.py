"""ftprobe: how fine-tuning changes the representations of pre-trained language models.

`load_study`, `plan`, `run`, `records` and `results` are the command line's own functions; importing this package loads
none of ray, torch, transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftprobe.api import plan as plan
    from ftprobe.api import records as records
    from ftprobe.api import results as results
    from ftprobe.api import run as run
    from ftprobe.errors import InputError as InputError
    from ftprobe.store import Store as Store
    from ftprobe.study import Study as Study
    from ftprobe.study import load_study as load_study

_HOMES = {
    "plan": "ftprobe.api",
    "records": "ftprobe.api",
    "results": "ftprobe.api",
    "run": "ftprobe.api",
    "InputError": "ftprobe.errors",
    "Store": "ftprobe.store",
    "Study": "ftprobe.study",
    "load_study": "ftprobe.study",
}
__all__ = ["InputError", "Store", "Study", "load_study", "plan", "records", "results", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ftprobe' has no attribute '{name}'")
