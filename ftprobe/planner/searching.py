"""What a search tries: each point of its space as the plain fine-tuning trial that it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftprobe.hashing import content_id
from ftprobe.planner.plan import VERSIONS
from ftprobe.study import FinetuneOptions

_OF_TRIAL = ("search", "stage", "version", "parents")


def tried(search: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of the fine-tuning trial of one point, from that of the search trial.

    Its id is that of the same run in a study without a search: either finds in the store what the other has made.
    """
    spec = search["spec"]
    options = FinetuneOptions.model_validate({**spec["options"], **point})
    own = {key: value for key, value in spec.items() if key not in _OF_TRIAL}
    trial = {"stage": "finetune", "version": VERSIONS["finetune"], "parents": list(search["parents"])}
    full = {**trial, **own, "options": options.spec()}
    key = content_id(full)
    config = full["options"]
    columns = {**search["columns"], "config": config, "config_id": content_id(config), "trial": key}
    return {
        **search,
        "id": key,
        "stage": "finetune",
        "name": f"{search['name']}/{key[:8]}",
        "spec": full,
        "columns": columns,
        "flops": search["flops"] / size_of(spec["search"]) * options.epochs / largest_epochs(spec),
    }


def size_of(search: Mapping[str, Any]) -> int:
    """How many points the search of a spec tries."""
    size = 1
    for values in search["space"].values():
        size *= len(values)
    return int(search["trials"] or size)


def largest_epochs(spec: Mapping[str, Any]) -> int:
    """The most epochs that any point of a search is trained for."""
    axis = spec["search"]["space"].get("epochs")
    if axis is None:
        return int(spec["options"]["epochs"])
    return int(max(axis["int"] if isinstance(axis, Mapping) else axis))
