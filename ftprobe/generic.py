"""The generic report: development scores, and what fine-tuning does to probing accuracy by layer, of any study."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from ftprobe import frames
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.tables import Table, layout

HEADERS = {
    "model": "model",
    "ft_task": "fine-tuned on",
    "task": "probing task",
    "head_pooling": "head",
    "pooling": "pooling",
    "method": "probe",
    "variant": "variant",
    "corpus": "corpus",
    "config": "options",
    "runs": "runs",
}
"""How the columns of records are called in tables, in the order in which tables and figures resort to them."""
_SEARCH_HEADERS = {**HEADERS, "ft_seed": "seed"}
_ALWAYS = ("model", "ft_task", "task")
_SOMETIMES = tuple(name for name in HEADERS if name not in _ALWAYS)


def finetune(records: pl.LazyFrame) -> Table:
    """Development scores of the fine-tuned models."""

    def scores(rows: pl.LazyFrame) -> pl.LazyFrame:
        return frames.in_print_units(frames.over_seeds(frames.final_scores(rows)))

    cells = frames.require(frames.with_and_without_collapsed(records, scores), *NO_FINETUNING)
    sometimes = [name for name in _SOMETIMES if name not in ("method", "pooling", "corpus")]
    cells, rows = arranged(cells, ("model", "ft_task"), sometimes, ("metric",))
    return layout(
        cells,
        title="Fine-tuning: development scores",
        caption=f"Scores times 100.{collapse_note(records)}",
        rows=rows,
        columns=["metric"],
        digits=1,
    )


def search(records: pl.LazyFrame) -> Table:
    """The runs of each search, the best first: the options tried, epochs run, the score on dev, what became of the run.

    `run` counts them in the order in which they were drawn.
    """
    runs = frames.require(
        _searched(records), "runs of a search", "add `search` to a `finetune` entry and run the study"
    )
    searches = frames.distinguishing(runs, ["model", "ft_task"], ["variant", "head_pooling", "ft_seed"])
    runs = runs.sort(*searches, "mean", "run", descending=[*(False for _ in searches), True, False], nulls_last=True)
    points = [json.loads(detail)["search"] for detail in runs["detail"]]
    options = sorted({name for point in points for name in point})
    # Options may be called as columns are.
    runs = runs.with_columns(
        pl.Series(f"option {name}", [_value(point[name]) if name in point else None for point in points])
        for name in options
    )
    return layout(
        _search_cells(runs),
        title="Search: the runs that were tried",
        caption=f"Best scores on dev, times 100. Epochs run of those planned: {_epochs_run(runs, searches)}.",
        rows={
            **{name: _SEARCH_HEADERS[name] for name in searches},
            "run": "run",
            **{f"option {name}": name for name in options},
        },
        columns=["what"],
        order={"what": [*runs["metric"].unique().sort(), "epochs run", "state"]},
        digits=1,
    )


def _searched(records: pl.LazyFrame) -> pl.LazyFrame:
    """The runs of searches: number, `mean` in the printed unit, `planned` epochs, `state`, whether it was `chosen`."""
    detail, config = pl.col("detail").str, pl.col("config").str
    planned = pl.coalesce(detail.json_path_match("$.search.epochs"), config.json_path_match("$.epochs"))
    rows = frames.measured(records).filter(pl.col("method") == "search")
    rows = rows.with_columns(
        run=pl.int_range(1, pl.len() + 1).over(frames.RUN),
        planned=planned.cast(pl.Float64),
        state=detail.json_path_match("$.status"),
        chosen=detail.json_path_match("$.chosen") == "true",
    )
    return frames.in_print_units(rows.rename({"value": "mean"}))


def _search_cells(runs: pl.DataFrame) -> pl.DataFrame:
    """Of each run its score, its epochs and its state."""
    number = "{:g}".format
    epochs = [f"{number(run)} of {number(planned)}" for run, planned in runs.select("epoch", "planned").rows()]
    state = pl.when("chosen").then(pl.format("{}, chosen", "state")).otherwise("state")
    none = pl.lit(None, pl.Float64)
    return pl.concat(
        [
            runs.with_columns(what=pl.col("metric"), text=pl.lit(None, pl.String)),
            runs.with_columns(pl.Series("text", epochs, pl.String), what=pl.lit("epochs run"), mean=pl.col("epoch")),
            runs.with_columns(what=pl.lit("state"), mean=none, text=state),
        ],
        how="diagonal",
    )


def _epochs_run(runs: pl.DataFrame, searches: Sequence[str]) -> str:
    """What the scheduler saved, of each search that a header tells from the others."""
    apart = [name for name in searches if runs[name].n_unique() > 1]
    said = []
    for _, own in runs.group_by(searches, maintain_order=True):
        names = [f"{_SEARCH_HEADERS[name]} {own[name][0]}" for name in apart]
        run, planned = sum(own["epoch"].to_list()), sum(own["planned"].to_list())
        count = f"{run:g} of {planned:g} ({100 * run / planned:.0f} %)"
        said.append(f"{', '.join(names)}: {count}" if names else count)
    return "; ".join(said)


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def delta(records: pl.LazyFrame) -> Table:
    """Change of probing accuracy, layer by layer."""
    cells = frames.require(frames.with_and_without_collapsed(records, layer_deltas), *NO_DELTA)
    cells, rows = arranged(cells, _ALWAYS, _SOMETIMES, ("layer",))
    return layout(
        cells,
        title="Change of probing accuracy by layer",
        caption="Fine-tuned minus pre-trained, in points; layer 0 is the embedding output."
        f"{collapse_note(records)}{setting_note(records)}",
        rows=rows,
        columns=["layer"],
        order={"layer": [str(layer) for layer in range(int(cells["layer"].max()) + 1)]},  # type: ignore[arg-type]
    )


def groups(records: pl.LazyFrame) -> Table:
    """Change of probing accuracy, mean over the lower and the upper layers."""
    cells = frames.require(frames.with_and_without_collapsed(records, group_deltas), *NO_DELTA)
    cells, rows = arranged(cells, _ALWAYS, _SOMETIMES, ("group",))
    cells, note = with_group_labels(cells)
    return layout(
        cells,
        title="Change of probing accuracy by group of layers",
        caption=f"Fine-tuned minus pre-trained, in points, mean over each group of layers{note}."
        f"{collapse_note(records)}{setting_note(records)}",
        rows=rows,
        columns=["layers"],
        interval="line",
    )


def accuracy_curves(records: pl.LazyFrame) -> Chart:
    """Probing accuracy before and after fine-tuning, over layers."""
    rows = frames.in_print_units(frames.over_seeds(frames.probe_scores(records)))
    points = frames.require(rows, "probing accuracy", "add a probe to the study and run it")
    state = pl.col("ft_task").fill_null("pre-trained")
    return _curves(points.with_columns(state=state), "Probing accuracy by layer", "accuracy (%)", zero_line=False)


def delta_curves(records: pl.LazyFrame) -> Chart:
    """Change of probing accuracy over layers."""
    points = frames.require(layer_deltas(records), *NO_DELTA).with_columns(state=pl.col("ft_task"))
    return _curves(points, "Change of probing accuracy by layer", "change (points)", zero_line=True)


def _curves(points: pl.DataFrame, title: str, y: str, *, zero_line: bool) -> Chart:
    points = frames.with_short_options(points).with_columns(
        state=_joined(points, ("model", "task", "pooling", "layer"), ("state", "head_pooling", "variant", "config")),
        panel=_joined(points, ("task", "ft_task", "pooling", "layer"), ("model", "method", "corpus")),
    )
    return layer_curves(
        points.sort("panel", "task", "state", "pooling", "layer"),
        title=title,
        y=Field("mean", y),
        color=Field("state", "fine-tuned on"),
        dash=Field("pooling", "pooling") if points["pooling"].n_unique() > 1 else None,
        column=Field("task", "probing task"),
        row=Field("panel", "model"),
        zero_line=zero_line,
    )


def _joined(points: pl.DataFrame, given: tuple[str, ...], names: tuple[str, ...]) -> pl.Expr:
    """One text of the first of `names` and of those after it that tell apart what is alike in `given` before."""
    chosen = frames.distinguishing(points, [*given, names[0]], names[1:])[len(given) :]
    return pl.concat_str([pl.col(name).cast(pl.String) for name in chosen], separator=", ", ignore_nulls=True)


NO_FINETUNING = ("development scores of fine-tuned models", "add `finetune` to the study and run it")
NO_SEARCH = ("runs of a search", "add `search` to a `finetune` entry and run the study")
NO_DELTA = ("probing accuracy of fine-tuned models", "probe with `on: [pretrained, finetuned]` and run the study")


def layer_deltas(records: pl.LazyFrame) -> pl.LazyFrame:
    """Change of probing accuracy in points at each layer: mean, sd, n and interval over seeds."""
    return frames.over_seeds(frames.delta_to_pretrained(frames.probe_scores(records)))


def group_deltas(records: pl.LazyFrame) -> pl.LazyFrame:
    """Change of probing accuracy in points over each group of layers: mean, sd, n and interval over seeds."""
    return frames.over_seeds(frames.group_means(frames.delta_to_pretrained(frames.probe_scores(records))))


def arranged(
    cells: pl.DataFrame, always: tuple[str, ...], sometimes: list[str] | tuple[str, ...], within: tuple[str, ...]
) -> tuple[pl.DataFrame, Mapping[str, str]]:
    """Cells in the order of their headers, and the row headers that they need to be told apart."""
    cells = frames.with_short_options(cells)
    chosen = frames.distinguishing(cells, [*within, *always], sometimes)[len(within) :]
    rows = [name for name in HEADERS if name in chosen]
    return cells.sort(*rows, *within, nulls_last=True), {name: HEADERS[name] for name in rows}


def with_group_labels(cells: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Cells whose `layers` head a column, and what the caption says of them.

    Models of one depth have columns like `0-6`; of several, columns `lower` and `upper`, and the caption says which.
    """
    if cells.select("group", "layers").n_unique() == cells["group"].n_unique():
        return cells, ""
    spans = cells.select("model", "group", "layers").unique().sort("model", "group").rows()
    said = "; ".join(f"{model} {group} {layers}" for model, group, layers in spans)
    return cells.with_columns(layers=pl.col("group")), f" ({said})"


def collapse_note(records: pl.LazyFrame) -> str:
    """What a caption says of collapsed runs; empty where there are none."""
    runs = frames.collapsed_runs(records).group_by("model", "ft_task").len().sort("model", "ft_task").collect().rows()
    said = ", ".join(f"{model} on {task} ({n})" for model, task, n in runs)
    return f" Runs that did not beat the majority class: {said}." if said else ""


def setting_note(records: pl.LazyFrame) -> str:
    """What a caption says of the probes that score layers: their kinds, corpora and configurations (METHODS 17)."""
    probed = frames.snapshots(records).filter(pl.col("split") == "test", pl.col("metric") == "accuracy")
    passed = probed.select("update").unique().collect().height
    left_out = f" States on the way ({passed} different updates) are left out." if passed else ""
    return probe_note(frames.probe_scores(records)) + left_out


def probe_note(scores: pl.LazyFrame) -> str:
    """What a caption says of the probes that gave `scores`: their kinds, corpora and configurations (METHODS 17)."""
    rows = scores.select("method", "corpus", "config_id").unique().collect()
    kinds, corpora, ids = (sorted(rows[name].drop_nulls().unique().to_list()) for name in rows.columns)
    configs = ", ".join(key[:8] for key in ids[:_IDS]) + f" and {len(ids) - _IDS} more" * (len(ids) > _IDS)
    return f" Probe: {', '.join(kinds)}. Corpus: {', '.join(corpora)}." + (f" Config: {configs}." if ids else "")


_IDS = 4  # configurations that a caption names
TABLES: dict[str, Callable[[pl.LazyFrame], Table]] = {"finetune": finetune, "delta": delta, "groups": groups}
FIGURES: dict[str, Callable[[pl.LazyFrame], Chart]] = {"accuracy": accuracy_curves, "delta": delta_curves}
