"""Merchant et al. 2020: its Figures 2 to 5, what it claims of similarity, and the scores of Appendix C.

Figure 3 is tuning with the lowest blocks frozen: x = -1 with nothing frozen, else the highest frozen block, counted
from 0 (METHODS 1.3). Figure 4 is tuning of the lowest blocks alone. Both show each task's main score, the first that
the task names: accuracy of MNLI, F1 of SQuAD, LAS of the parser. The paper prints none of these numbers in a table.
`freeze: 0`, the embeddings alone, has no place in Figure 3; it stands in the table `frozen`.

Figures 2 and 5 and the claims are in `merchant2020_similarity`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial

import polars as pl

from ftprobe import frames, generic
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.report import Report
from ftprobe.study import FinetuneOptions
from ftprobe.tables import Table, layout
from ftprobe.tasks import TASKS as KNOWN

from .merchant2020_similarity import TASKS, claims, figure2, figure5, similarity

PAPER = "merchant2020"
METRICS = {"accuracy": "acc.", "mcc": "MCC", "f1": "F1", "em": "EM", "las": "LAS", "uas": "UAS"}
MISMATCHED = "mismatched"
PARTS = {"train": "training items", "test": "test items"}
PARSER = {"arc_size": "arc maps of width {}", "label_size": "label maps of width {}", "parser_dropout": "dropout {}"}
_SERIES = ("corpus", "head_pooling", "setting")
_VARIANT = r"^(finetuned|(?:freeze|truncate)_\d+)(?:\[(.*)\])?$"


def appendix_c(records: pl.LazyFrame) -> Table:
    """Scores of the models that are tuned whole, with the sizes of their data."""

    def scores(rows: pl.LazyFrame) -> pl.LazyFrame:
        other = rows.filter(pl.col("split") == MISMATCHED).with_columns(split=pl.lit("test"))
        second = frames.final_scores(other).with_columns(split=pl.lit(MISMATCHED))
        return _over_seeds(pl.concat([frames.final_scores(rows), second]).filter(pl.col("cut") == "finetuned"))

    records = _with_cuts(records)
    cells = frames.require(frames.with_and_without_collapsed(records, scores), *generic.NO_FINETUNING)
    elsewhere = pl.when(pl.col("split") == MISMATCHED).then(pl.lit(f", {MISMATCHED}")).otherwise(pl.lit(""))
    cells = cells.with_columns(score=pl.concat_str(pl.col("metric").replace(METRICS), elsewhere))
    cells, rows = _arranged(cells, ("score",))
    shown = [f"{name}{end}" for name in METRICS.values() for end in ("", f", {MISMATCHED}")]
    return layout(
        _named(pl.concat([_sizes(records, cells, rows), cells], how="diagonal_relaxed")),
        title="Merchant 2020, Appendix C: the fine-tuned models",
        caption="Scores times 100 on the test split, for GLUE and SQuAD the development set. Items are what is scored: "
        f"texts, questions, words.{_parser(records)}{generic.collapse_note(records)}",
        rows=rows,
        columns=["score"],
        order={"ft_task": list(TASKS.values()), "score": [*PARTS.values(), *shown]},
        digits=1,
    )


def _sizes(records: pl.LazyFrame, cells: pl.DataFrame, rows: Mapping[str, str]) -> pl.DataFrame:
    """Cells of how many items each of the models was trained and scored on; null where its runs differ."""
    own = [name for name in rows if name != "runs"]
    counted = records.filter(pl.col("method") == "finetune", pl.col("cut") == "finetuned", pl.col("split").is_in(PARTS))
    sizes = counted.group_by(*own, "split").agg(pl.col("n_items").drop_nulls().unique()).collect()
    one = pl.when(pl.col("n_items").list.len() == 1).then(pl.col("n_items").list.first())
    texts = [None if n is None else f"{n:,}" for n in sizes.select(one).to_series()]
    sizes = sizes.with_columns(text=pl.Series(texts, dtype=pl.String), score=pl.col("split").replace(PARTS))
    heads = cells.select(list(rows)).unique(maintain_order=True)
    return heads.join(sizes.drop("n_items", "split"), on=own, nulls_equal=True, maintain_order="left")


def _parser(records: pl.LazyFrame) -> str:
    """What a caption says of the parser's size; empty where the study has none."""
    configs = records.filter(pl.col("method") == "finetune", pl.col("metric") == "las").select("config").unique()
    # Options at their defaults are not in the records: those of the study file's own class are meant then.
    defaults = FinetuneOptions()
    said = {
        ", ".join(text.format(json.loads(config).get(name, getattr(defaults, name))) for name, text in PARSER.items())
        for config in configs.collect()["config"].drop_nulls()
    }
    return "".join(f" Parser: {each}." for each in sorted(said))


def cut_scores(records: pl.LazyFrame, *, cut: str) -> Table:
    """The main score of each task by how many blocks are frozen or kept: the numbers of Figures 3 and 4."""
    records, what, whole = _with_cuts(records), *_TABLES[cut]
    found = frames.with_and_without_collapsed(records, partial(_scores, cut=cut))
    cells = frames.require(found, *_missing(cut))
    column = pl.when(pl.col("cut") == "finetuned").then(pl.lit(whole)).otherwise(pl.col("k").cast(pl.String))
    column = pl.when((pl.lit(cut) == "freeze") & (pl.col("k") == 0)).then(pl.lit("embeddings")).otherwise(column)
    cells, rows = _arranged(cells.with_columns(column=column), ("column",))
    numbers = [str(k) for k in sorted(set(cells["k"].drop_nulls().to_list()))]
    return layout(
        _named(cells),
        title=f"Merchant 2020, {what}",
        caption=f"Main score times 100 on the test split.{generic.collapse_note(records)}",
        rows={**rows, "measure": "score"},
        columns=["column"],
        order={
            "ft_task": list(TASKS.values()),
            "column": ["nothing", "embeddings", *numbers] if cut == "freeze" else [*numbers, whole],
        },
        digits=1,
    )


_TABLES = {
    "freeze": ("Figure 3 in numbers: fine-tuning with the embeddings and the lowest blocks frozen", "nothing"),
    "truncate": ("Figure 4 in numbers: fine-tuning of the lowest blocks alone", "whole model"),
}


def figure3(records: pl.LazyFrame) -> Chart:
    """Scores by the highest frozen block."""
    points = _points(records, "freeze").filter(pl.col("k").fill_null(1) > 0)
    return _curves(
        points.with_columns(x=pl.col("k").fill_null(0) - 1),
        title="Merchant 2020, Figure 3: fine-tuning with the lowest blocks frozen",
        x=Field("x", "highest frozen block, counted from 0 (-1: nothing is frozen)"),
    )


def figure4(records: pl.LazyFrame) -> Chart:
    """Scores by the number of blocks that are kept."""
    points = _points(records, "truncate").filter(pl.col("cut") == "truncate")
    return _curves(
        points.with_columns(x=pl.col("k")),
        title="Merchant 2020, Figure 4: fine-tuning of the lowest blocks alone",
        x=Field("x", "blocks kept"),
    )


def _curves(points: pl.DataFrame, *, title: str, x: Field) -> Chart:
    """One line a task, its n in the legend, one panel a model; bands are the sd over tuning seeds."""
    given = ["model", "x", "ft_task"]
    names = ["task", *frames.distinguishing(points, given, _SERIES)[len(given) :]]
    place = pl.col("ft_task").replace_strict({name: i for i, name in enumerate(TASKS)}, default=len(TASKS))
    points = points.with_columns(task=pl.format("{} {}", pl.col("ft_task").replace(TASKS), "measure"))
    points = points.with_columns(line=pl.concat_str(names, separator=", ", ignore_nulls=True))
    least, most = (getattr(pl.col("n"), end)().over("model", "line") for end in ("min", "max"))
    n = pl.when(least == most).then(pl.format("{}", most)).otherwise(pl.format("{} to {}", least, most))
    points = points.with_columns(
        line=pl.format("{} (n = {})", "line", n), low=pl.col("mean") - pl.col("sd"), high=pl.col("mean") + pl.col("sd")
    )
    return layer_curves(
        points.sort("model", place, "line", "x"),
        title=f"{title} (mean ± sd over tuning seeds)",
        x=x,
        y=Field("mean", "score (%)"),
        color=Field("line", "fine-tuned on"),
        column=Field("model", "model"),
        width=360,
        height=260,
    )


def _points(records: pl.LazyFrame, cut: str) -> pl.DataFrame:
    return frames.require(_scores(_with_cuts(records), cut=cut), *_missing(cut))


def _scores(records: pl.LazyFrame, *, cut: str) -> pl.LazyFrame:
    """Main scores over seeds of the models tuned whole and of those of one variant; none if there are none of it."""
    main = {name: task.metrics[0] for name, task in KNOWN.items() if task.metrics}
    metric = pl.col("ft_task").replace_strict(main, default="accuracy")
    chosen = frames.final_scores(records).filter(pl.col("metric") == metric, pl.col("cut").is_in(["finetuned", cut]))
    there = (pl.col("cut") == cut).any()
    scores = _over_seeds(chosen.filter(there))
    return scores.with_columns(measure=pl.col("metric").replace(METRICS))


def _with_cuts(records: pl.LazyFrame) -> pl.LazyFrame:
    """Records with their variant taken apart: `cut` (finetuned, freeze, truncate), `k`, and the `setting` in brackets.

    Fine-tuning of other variants is left out.
    """
    name = pl.col("variant").str.extract(_VARIANT, 1)
    taken = records.with_columns(
        cut=name.str.extract(r"^([a-z]+)"),
        k=name.str.extract(r"_(\d+)$").cast(pl.Int64),
        setting=pl.col("variant").str.extract(_VARIANT, 2),
    )
    return taken.filter((pl.col("method") != "finetune") | pl.col("cut").is_not_null())


def _over_seeds(rows: pl.LazyFrame) -> pl.LazyFrame:
    # What a variant changes of the options would keep apart what belongs together; the rest is in `setting`.
    return frames.in_print_units(frames.over_seeds(rows.drop("config"), interval=False))


def _arranged(cells: pl.DataFrame, within: tuple[str, ...]) -> tuple[pl.DataFrame, Mapping[str, str]]:
    """Cells in order, and the row headers that they need to be told apart."""
    always = ("model", "ft_task")
    sometimes = frames.distinguishing(cells, [*within, *always], (*_SERIES, "runs"))[len(within) + len(always) :]
    heads = {"model": "model", "ft_task": "fine-tuned on", **{name: _HEADERS[name] for name in sometimes}}
    return cells.sort(*heads, *within, nulls_last=True), heads


def _named(cells: pl.DataFrame) -> pl.DataFrame:
    return cells.with_columns(pl.col("ft_task").replace(TASKS))


def _missing(cut: str) -> tuple[str, str]:
    return f"scores of models with {cut} set", f"add `{cut}` to an entry of `finetune` and run the study"


_HEADERS = {"corpus": "corpus", "head_pooling": "head", "setting": "options", "runs": "runs"}
TABLES: dict[str, Callable[[pl.LazyFrame], Table]] = {
    "appendix_c": appendix_c,
    "frozen": partial(cut_scores, cut="freeze"),
    "kept": partial(cut_scores, cut="truncate"),
    "similarity": similarity,
    "claims": claims,
}
REPORT = Report(
    name=PAPER,
    title="Merchant et al. 2020, What Happens To BERT Embeddings During Fine-tuning? This study's Figures 2 to 5 and "
    "the scores of its fine-tuned models.",
    tables=TABLES,
    figures={"figure2": figure2, "figure3": figure3, "figure4": figure4, "figure5": figure5},
)
