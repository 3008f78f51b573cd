"""Zhou and Srikumar 2022, beyond the paper: how alike the distances of labels are in any two layers of one state."""

from __future__ import annotations

import polars as pl

from ftprobe import frames, generic, movement
from ftprobe.tables import Table, layout

_REPAIR = "add `probe: {kind: clusters}` on several layers to the study and run it"
_SOMETIMES = ("head_pooling", "pooling", "variant", "corpus", "config")


def layers(records: pl.LazyFrame) -> Table:
    """Spatial similarity of each layer to the layers above it, of every final state."""
    found = movement.similarity_between_layers(records.filter(pl.col("split") == "train"))
    own = frames.over_seeds(found.drop("n_items", "status", "reason"), interval=False)
    cells = frames.require(own.filter(pl.col("mean").is_not_null()), "distances of labels in several layers", _REPAIR)
    cells = cells.with_columns(pl.col("layer", "other").cast(pl.String), pl.col("ft_task").fill_null("none"))
    cells, rows = generic.arranged(cells, ("model", "task", "ft_task"), _SOMETIMES, ("layer", "other"))
    places = sorted({*cells["layer"], *cells["other"]}, key=int)
    return layout(
        cells,
        title="Spatial similarity of layers",
        caption="Pearson's r of the distances between labels, training items, of the layer in the row and a higher "
        "one; mean over tuning seeds, of those states in which both layers are linear.",
        rows={**rows, "layer": "layer"},
        columns=["other"],
        order={"layer": places, "other": places},
    )
