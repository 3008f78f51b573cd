"""The generic table of comparisons: what attention, perplexity, similarity and others say of each model state.

A comparison's rows have no pooling: it reads texts, not the activations that probes are fitted on.
"""

from __future__ import annotations

import polars as pl

from ftprobe import frames
from ftprobe.generic import HEADERS, arranged
from ftprobe.tables import Table, layout

WHOLE = "all"
_REPAIR = "add `compare` to the study and run it"
_STAGES = ("finetune", "pretrain", "search", "corpus", "activations")
_SETTING = ("position", "split", "domain")
_SOMETIMES = tuple(name for name in HEADERS if name not in ("model", "ft_task", "method", "pooling", "task", "runs"))


def comparisons(records: pl.LazyFrame) -> Table:
    """Every measure of every comparison by layer: mean over draws, heads and seeds of each final state."""
    summary = frames.in_print_units(frames.over_seeds(_measured(records)))
    cells = frames.require(summary, "comparisons of model states", _REPAIR)
    layers = [str(layer) for layer in sorted(cells["layer"].drop_nulls().unique().to_list())]
    cells = cells.with_columns(
        layer=pl.col("layer").cast(pl.String).fill_null(WHOLE),
        measure=pl.format("{} ({})", "metric", "unit"),
        ft_task=pl.col("ft_task").fill_null("none"),
    )
    told = frames.distinguishing(cells, ["layer", "model", "ft_task", "measure"], _SETTING)[4:]
    cells, rows = arranged(cells, ("model", "ft_task"), _SOMETIMES, ("layer", "measure", *told))
    own = {"measure": "measure (unit)", **{name: name for name in told}}
    return layout(
        cells,
        title="Comparisons by layer",
        caption="Mean over draws, heads and probe seeds, ± sd over tuning seeds; percent where it is a fraction. "
        f"`{WHOLE}`: of the whole model. States on the way are left out.",
        rows={**rows, **own},
        columns=["layer"],
        order={"layer": [*layers, WHOLE]},
        digits=3,
    )


def _measured(records: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of comparisons of final states, means over heads where a measure has heads; `position` is new."""
    detail = pl.col("detail")
    rows = frames.measured(frames.final_states(records))
    rows = rows.filter(pl.col("pooling").is_null(), ~pl.col("method").is_in(_STAGES))
    one_head = detail.str.json_path_match("$.head").is_not_null()
    return rows.filter(~one_head.fill_null(False)).with_columns(position=detail.str.json_path_match("$.position"))
