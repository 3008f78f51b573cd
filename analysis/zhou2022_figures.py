"""Zhou and Srikumar 2022: Figures 2 to 10, how the labels of a model that is tuned on the probed task move apart.

All of the training items. Figures over updates are means over tuning seeds; those in a plane, which is another for each
run, show the lowest seed, and say so. Figure 1 is in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import polars as pl

from ftprobe import frames, movement, shifts
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.planes import named_points, paths

TASKS = {"upos": "POS", "dep": "DEP", "ps_fxn": "PS-fxn", "ps_role": "PS-role", "trec_50": "TREC-50"}
"""The tasks of the paper by their names here; what a study has beside them keeps its own name."""
WITHOUT_TREC = tuple(task for task in TASKS if task != "trec_50")
NO_CLUSTERS = "probe with `{kind: clusters}` before and after fine-tuning on the probed task, and run the study"
_WAY = f"{NO_CLUSTERS}; fine-tune with `snapshots` for the states on the way"
_SETTING = ("variant", "head_pooling", "corpus", "pooling", "config")
_SAME = ("study", "model", "corpus", "pooling", "config")
_MANY = 7  # layers beyond which every second one is shown, where the paper does so


def distances(records: pl.LazyFrame, *, number: int, tasks: Sequence[str]) -> Chart:
    """Minimum distance of the labels whose distance grows most and least, at the last layer (Figures 2 and 6)."""
    own = _own(records, "min_distance", tasks)
    last = pl.col("layer") == pl.col("layer").max().over("study", "model")
    rows = own.filter(last, pl.col("value").is_not_null())
    what = "minimum distances of labels before and after fine-tuning"
    changes = frames.require(rows.filter("final").with_columns(change=pl.col("value") - pl.col("baseline")), what, _WAY)
    chosen = [_chosen(group) for group in changes.partition_by(*_PANEL, maintain_order=True)]
    way = movement.from_the_start(rows).join(pl.concat(chosen).lazy(), on=[*_PANEL, "label"], nulls_equal=True)
    summary = frames.over_seeds(way.drop("baseline", "baseline_detail", "epoch", "final"), interval=False)
    points = _paneled(frames.require(summary, what, _WAY), ("label", "update", "layer"))
    return layer_curves(
        points.sort(*_FIRST, "panel", "rank", "update"),
        title=f"Zhou 2022, Figure {number}: minimum distance of labels at the last layer ({_seeds(points)})",
        x=Field("update", "update"),
        y=Field("mean", "minimum distance"),
        color=Field("label", "label"),
        dash=Field("increase", "grows"),
        column=Field("panel", "task"),
        row=Field("model", "model"),
        own_series=True,
    )


_PANEL = ("study", "model", "ft_task", "task", *_SETTING)


def _chosen(changes: pl.DataFrame) -> pl.DataFrame:
    """The labels that one panel shows, largest increases first."""
    extremes = movement.extreme_labels(changes)
    kinds = ["most"] * len(extremes.largest) + ["least"] * len(extremes.smallest)
    names = [*extremes.largest, *reversed(extremes.smallest)]
    shown = pl.DataFrame({"label": names, "increase": kinds, "rank": range(len(names))})
    return changes.select(_PANEL).head(1).join(shown, how="cross")


def closest(records: pl.LazyFrame, *, task: str, how: movement.Closest = "smallest_sum") -> Chart:
    """Ways of the centroids of the three closest labels, first and last layer (Figure 3)."""
    own = _seed(_clusters(records, [task]))
    start = own.filter(pl.col("ft_task").is_null(), pl.col("metric") == "hull_distance", pl.col("layer") > 0)
    label = pl.col("detail").str.json_path_match("$.labels")
    what = f"distances of the labels of {TASKS.get(task, task)} before fine-tuning"
    pairs = frames.require(frames.measured(start).with_columns(label=label), what, NO_CLUSTERS)
    parts = []
    for key, group in pairs.group_by(_SAME, maintain_order=True):
        ends = [group["layer"].min(), group["layer"].max()]
        labels = movement.closest_labels(group.filter(pl.col("layer") == ends[1]), closest=how)
        same = pl.all_horizontal(pl.col(name).eq_missing(value) for name, value in zip(_SAME, key, strict=True))
        few = (pl.col("metric") == "centroid") & pl.col("layer").is_in(ends) & same
        parts.append(shifts.centroid_paths(own.filter(few | (pl.col("method") == "finetune")), labels))
    what = f"centroids of the labels of {TASKS.get(task, task)} on the way"
    points = _paneled(frames.require(pl.concat(parts).lazy(), what, _WAY), ("label", "update"), ("model", "layer"))
    return paths(
        points.sort("model", "panel", "layer", "label", "update"),
        title=f"Zhou 2022, Figure 3: the three closest labels of {TASKS.get(task, task)} while fine-tuning "
        f"(PCA; ring: pre-trained; {_which(points)})",
        x=Field("pc1", "PC 1"),
        y=Field("pc2", "PC 2"),
        along=Field("update", "update"),
        color=Field("label", "label"),
        column=Field("panel", "layer"),
    )


def similarity(records: pl.LazyFrame) -> Chart:
    """Spatial similarity of each layer to its pre-trained self, over updates (Figure 4)."""
    rows = movement.similarity_to_pretrained(_clusters(records, WITHOUT_TREC)).filter(pl.col("update") > 0)
    run = [*_PANEL, "layer", "ft_seed"]
    later = rows.select(*run, "update", "value").unique([*run, "update"], keep="first", maintain_order=True)
    # At the start r is 1, where there is an r at all.
    start = later.group_by(run).agg(value=pl.when(pl.col("value").is_not_null().any()).then(1.0))
    start = start.with_columns(update=pl.lit(0, pl.Int64)).select(later.collect_schema().names())
    summary = frames.over_seeds(pl.concat([start, later]), interval=False)
    linear = _alternate(summary).filter(pl.col("mean").is_not_null().any())
    every = _paneled(frames.require(linear, "distances of labels in states that are linear", _WAY), ("layer", "update"))
    points = every.filter(pl.col("mean").is_not_null().any().over("panel"))
    without = every.sort(_FIRST).join(points, on="panel", how="anti")["panel"].unique(maintain_order=True).to_list()
    never = f"; not linear: {', '.join(without)}" if without else ""
    title = "Zhou 2022, Figure 4: similarity of label distances to the pre-trained model's"
    return layer_curves(
        points.sort(*_FIRST, "panel", "layer", "update"),
        title=f"{title} ({_seeds(points)}{never})",
        x=Field("update", "update"),
        y=Field("mean", "Pearson's r"),
        color=Field("layer", "layer"),
        column=Field("panel", "task"),
        row=Field("model", "model"),
    )


def directions(records: pl.LazyFrame, *, number: int, task: str, centre: bool = True) -> Chart:
    """PCA of the shifts of labels, one panel a layer (Figure 5, which skips every second one, and Figures 7 to 10)."""
    moved = shifts.label_shifts(_seed(_clusters(records, [task])), centre=centre).lazy()
    chosen = _alternate(moved) if number == 5 else moved
    what = f"centroids of the labels of {TASKS.get(task, task)} before and after fine-tuning"
    points = _paneled(frames.require(chosen, what, NO_CLUSTERS), ("label",), ("model", "layer"))
    return named_points(
        points.sort("model", "layer", "panel", "label"),
        title=f"Zhou 2022, Figure {number}: shifts of the labels of {TASKS.get(task, task)} (PCA; {_which(points)})",
        x=Field("pc1", "PC 1"),
        y=Field("pc2", "PC 2"),
        name=Field("label", "label"),
        panel=Field("panel", "layer"),
    )


def _clusters(records: pl.LazyFrame, tasks: Sequence[str]) -> pl.LazyFrame:
    """Rows of clusterings of training items, before and after tuning on the probed task itself, and training's own."""
    own = pl.col("ft_task").is_null() | (pl.col("ft_task") == pl.col("task"))
    geometry = (pl.col("method") == "clusters") & (pl.col("split") == "train") & pl.col("task").is_in(list(tasks))
    return records.filter((geometry | (pl.col("method") == "finetune")) & own)


def _own(records: pl.LazyFrame, metric: str, tasks: Sequence[str]) -> pl.LazyFrame:
    return movement.compared(_clusters(records, tasks), metric)


def _seed(records: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of the lowest tuning seed of each model and task, and of pre-trained models."""
    seed = pl.col("ft_seed")
    return records.filter(seed.is_null() | (seed == seed.min().over("study", "model", "task")))


def _alternate(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Of models with many layers the even ones, without the embeddings."""
    last = pl.col("layer").max().over("study", "model")
    return rows.filter((pl.col("layer") > 0) & ((last <= _MANY) | (pl.col("layer") % 2 == 0)))


def _paneled(points: pl.DataFrame, given: Sequence[str], heads: Sequence[str] = ("task",)) -> pl.DataFrame:
    """Points with the name of their panel: `heads`, and what tells apart settings that the study has several of."""
    points = frames.with_short_options(points)
    always = [*given, "model", "task", *(name for name in heads if name not in ("model", "task"))]
    several = frames.distinguishing(points, always, _SETTING)[len(always) :]
    texts = {
        "task": pl.col("task").replace(TASKS),
        "layer": pl.format("layer {}", "layer") if "layer" in heads else pl.lit(None, pl.String),
    }
    shown = [texts.get(name, pl.col(name)) for name in (*heads, *several)]
    return points.with_columns(panel=pl.concat_str(shown, separator=", ", ignore_nulls=True))


def _seeds(points: pl.DataFrame) -> str:
    """What a title says of seeds: `mean of 3 seeds`."""
    least, most = points["n"].filter(points["n"] > 0).min(), points["n"].max()
    n = f"{most}" if least == most else f"{least} to {most}"
    return f"mean of {n} tuning seeds" if most != 1 else "one tuning seed"


def _which(points: pl.DataFrame) -> str:
    """What a title says of the one seed that is shown."""
    seeds = points["ft_seed"].unique().sort().to_list()
    return f"tuning seed {', '.join(map(str, seeds))}"


_FIRST = (pl.col("model"), pl.col("task").replace_strict({name: i for i, name in enumerate(TASKS)}, default=len(TASKS)))
FIGURES: dict[str, Callable[[pl.LazyFrame], Chart]] = {
    "figure2": partial(distances, number=2, tasks=("ps_role", "upos")),
    "figure3": partial(closest, task="upos"),
    "figure4": similarity,
    "figure5": partial(directions, number=5, task="upos"),
    "figure6": partial(distances, number=6, tasks=WITHOUT_TREC),
    "figure7": partial(directions, number=7, task="upos"),
    "figure8": partial(directions, number=8, task="dep"),
    "figure9": partial(directions, number=9, task="ps_fxn"),
    "figure10": partial(directions, number=10, task="ps_role"),
}
