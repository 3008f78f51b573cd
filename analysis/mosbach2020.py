"""Mosbach et al. 2020: its Tables 1 to 5 and Figures 1, 2, 4 and 5 from records, beside the published numbers.

Published numbers stand beside a model of the study that is the paper's: by its checkpoint where the records name it
(`detail.checkpoint`), else by its alias, `bert`, `roberta` or `albert`. Every other model has dashes there. The paper
tunes with a CLS head and probes linearly, so only such rows have a published counterpart. Figure 3 is in
`mosbach2020_perplexity`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import polars as pl

from ftprobe import frames, generic
from ftprobe.figures import Chart, Field, bars, layer_curves
from ftprobe.published import load
from ftprobe.published.beside import SOURCES, beside, paper_models, printed, size_text
from ftprobe.report import Report
from ftprobe.tables import Table, layout

PAPER = "mosbach2020"
CHECKPOINTS = {
    "bert": "google-bert/bert-base-cased",
    "roberta": "FacebookAI/roberta-base",
    "albert": "albert/albert-base-v1",
}
"""The paper's models by the alias that stands for them."""
TASKS = {"cola": "CoLA", "sst2": "SST-2", "rte": "RTE", "squad": "SQuAD"}
SETS = ("bigram_shift", "coordination_inversion", "odd_man_out")
METRICS = {"mcc": "MCC", "accuracy": "acc.", "em": "EM", "f1": "F1"}
SCORES = {"cola": ("mcc",), "sst2": ("accuracy",), "rte": ("accuracy",), "squad": ("em", "f1")}
DEVLIN = "BERT, Devlin et al. 2019"
FEW_ITEMS = 1000  # below this intervals are shown (METHODS 15)
OPTIONS = {
    "learning_rate": ("learning rate", "learning_rate"),
    "warmup": ("warm-up steps", "warmup_steps"),
    "schedule": ("learning rate schedule", "learning_rate_schedule"),
    "batch_size": ("batch size", "batch_size"),
    "epochs": ("epochs", "epochs"),
    "weight_decay": ("weight decay", "weight_decay"),
    "dropout": ("dropout (hidden, attention, classifier)", "dropout"),
    "epsilon": ("Adam epsilon", "adam_epsilon"),
    "beta1": ("Adam beta1", "adam_beta1"),
    "beta2": ("Adam beta2", "adam_beta2"),
    "clip": ("largest gradient norm", "max_gradient_norm"),
    "max_length": ("longest input (sub-words)", None),
    "pooler": ("pooler", None),
    "select": ("epoch kept", None),
}
"""Fine-tuning options: what Table 3 calls them here, and which published row they stand beside."""


def table1(records: pl.LazyFrame) -> Table:
    """Fine-tuning scores on the development sets."""

    def scores(rows: pl.LazyFrame) -> pl.LazyFrame:
        return frames.in_print_units(frames.over_seeds(frames.final_scores(rows)))

    own = frames.require(frames.with_and_without_collapsed(records, scores), *generic.NO_FINETUNING)
    paper = pl.col("ft_task").replace_strict(SCORES, default=None, return_dtype=pl.List(pl.String))
    own = own.filter(paper.list.contains(pl.col("metric")).fill_null(True))
    own, rows = generic.arranged(own, ("model",), ("head_pooling", "variant", "config", "runs"), ("ft_task", "metric"))
    ours = {"matthews_correlation": "mcc", "exact_match": "em"}
    published = printed(PAPER, "table1", metric=pl.col("metric").replace(ours))
    quoted = pl.col("condition") != "finetuned"
    devlin = published.filter(quoted).with_columns(model=pl.lit(DEVLIN), source=pl.lit("published"))
    cells = pl.concat(
        [devlin, _beside(own, published.filter(~quoted), rows, ("ft_task", "metric"), records)], how="diagonal_relaxed"
    )
    name = [pl.col("ft_task").replace(TASKS), pl.col("metric").replace(METRICS)]
    paper_columns = [f"{TASKS[task]} {METRICS[metric]}" for task, metrics in SCORES.items() for metric in metrics]
    return layout(
        cells.with_columns(score=pl.concat_str(name, separator=" ")),
        title="Mosbach 2020, Table 1: fine-tuning scores on the development sets",
        caption=f"Scores times 100.{generic.collapse_note(records)}",
        rows=rows,
        columns=["score", "source"],
        order={"model": [DEVLIN, *CHECKPOINTS], "score": paper_columns, "source": SOURCES},
        digits=1,
    )


def deltas(records: pl.LazyFrame, *, number: int, tasks: tuple[str, ...]) -> Table:
    """Change of probing accuracy over two groups of layers (Tables 2 and 5): `tasks` are those of the paper's table.

    Tasks that are in neither of the two tables are shown in Table 2.
    """
    elsewhere = [task for task in TASKS if task not in tasks]
    tuned = pl.col("ft_task").is_null() | (
        ~pl.col("ft_task").is_in(elsewhere) if number == 2 else pl.col("ft_task").is_in(tasks)
    )
    scores = records.filter(tuned | (pl.col("method") == "finetune"))
    everything = frames.require(
        frames.with_and_without_collapsed(scores, generic.group_deltas),
        f"probing accuracy of models tuned on {' or '.join(TASKS[task] for task in tasks)}",
        generic.NO_DELTA[1],
    )
    sometimes = ("head_pooling", "method", "variant", "corpus", "config", "runs")
    own, rows = generic.arranged(everything, ("model", "task", "pooling"), sometimes, ("ft_task", "group"))
    own, note = generic.with_group_labels(own)
    lower_upper = dict(zip(("0-6", "7-12"), ("lower", "upper"), strict=True))
    at = {"group": pl.col("layers").replace(lower_upper), "pooling": pl.col("pooling"), "corpus": pl.col("probe_task")}
    published = printed(PAPER, f"table{number}", **at)
    # Published groups stand in the columns of the study's: the paper's models have 12 layers here as there.
    heads = dict(own.select("group", "layers").unique().rows())
    cells = _beside(own, published, rows, ("ft_task", "group"), records).with_columns(
        layers=pl.col("group").replace(heads)
    )
    few = _few_items(scores)
    return layout(
        cells.with_columns(tuned=pl.col("ft_task").replace(TASKS)),
        title=f"Mosbach 2020, Table {number}: change of probing accuracy",
        caption=f"Fine-tuned minus pre-trained, in points, mean over each group of layers{note}."
        f"{_generated_note(own)}{few}{generic.collapse_note(scores)}{generic.setting_note(scores)}",
        rows=rows,
        columns=["tuned", "layers", "source"],
        order={
            "model": list(CHECKPOINTS),
            "task": SETS,
            "tuned": [TASKS[task] for task in tasks],
            "layers": [heads.get(group, group) for group in ("lower", "upper")],
            "source": SOURCES,
        },
        interval="line" if few else "none",
    )


def table3(records: pl.LazyFrame) -> Table:
    """Hyper-parameters of fine-tuning."""
    configs = records.filter(pl.col("method") == "finetune").select("ft_task", "config").unique().collect()
    given = [(task, json.loads(text)) for task, text in configs.sort(pl.all()).rows() if text and text.startswith("{")]
    published = load(PAPER).filter(pl.col("table") == "table3", pl.col("finetune_task") == "all")
    values = dict(published.select("metric", "value").rows())
    values |= {"warmup_steps": f"{values['warmup_steps']} %", "epochs": f"{values['epochs']} (1 for SST-2)"}
    cells = []
    for option, (label, metric) in OPTIONS.items():
        own = _common([(TASKS.get(task, task), _option(option, options)) for task, options in given])
        cells += [(label, "ours", own), (label, "published", values.get(metric) if metric else None)]
    return layout(
        pl.DataFrame(cells, schema=["option", "source", "text"], orient="row").with_columns(mean=pl.lit(None)),
        title="Mosbach 2020, Table 3: hyper-parameters of fine-tuning",
        rows={"option": "hyper-parameter"},
        columns=["source"],
    )


def _option(name: str, options: Mapping[str, object]) -> str | None:
    value = options.get(name)
    if name == "warmup" and isinstance(value, float):
        return f"{value:.0%}".replace("%", " %")
    if name == "schedule" and value == "constant" and options.get("warmup"):
        return "warmup-constant"
    return (
        re.sub(r"e([+-])0", r"e\1", f"{value:g}") if isinstance(value, float) else None if value is None else str(value)
    )


def _common(values: list[tuple[str, str | None]]) -> str | None:
    """The most frequent value, and in brackets the tasks that have another: `3 (1 for SST-2)`."""
    known = sorted({(task, value) for task, value in values if value is not None})
    if not known:
        return None
    usual = Counter(value for _, value in known).most_common(1)[0][0]
    others = ", ".join(f"{value} for {task}" for task, value in known if value != usual)
    return f"{usual} ({others})" if others else usual


def table4(records: pl.LazyFrame) -> Table:
    """Sizes and metrics of the fine-tuning tasks; `used` where the study tuned or scored on a sample."""
    published = load(PAPER).filter(pl.col("table") == "table4").select("metric", "finetune_task", "number", "value")
    cells: list[tuple[str, str, str, float | None, str | None]] = [
        (_SIZES[metric], task, "published", number, value if number is None else f"{number:,.0f}")
        for metric, task, number, value in published.rows()
    ]
    tuned = records.filter(pl.col("method") == "finetune").select("ft_task", "metric", "split", "n_items")
    runs = tuned.unique().sort(pl.all()).collect()
    own_tasks = [*TASKS, *(task for task in runs["ft_task"].unique().sort().to_list() if task not in TASKS)]
    counts = records.filter((pl.col("method") == "corpus") & (pl.col("metric") == "n_items"))
    sizes = {tuple(place): n for *place, n in counts.select("task", "split", "value").sort(pl.all()).collect().rows()}
    for task in own_tasks:
        rows = runs.filter(pl.col("ft_task") == task)
        for split, name in (("train", "training"), ("test", "validation")):
            used = rows.filter(pl.col("split") == split)["n_items"].drop_nulls().unique().to_list()
            size = sizes.get((task, split))
            cells.append((name, task, "ours", size, size_text(size, used)))
        scored = rows.filter(pl.col("split") == "test")["metric"].to_list()
        shown = [METRICS[name] for name in SCORES.get(task, tuple(METRICS)) if name in scored]
        cells.append(("metric", task, "ours", None, "/".join(shown) or None))
    frame = pl.DataFrame(cells, schema=["row", "task", "source", "mean", "text"], orient="row")
    return layout(
        frame.with_columns(pl.col("task").replace(TASKS)),
        title="Mosbach 2020, Table 4: fine-tuning tasks",
        caption="Items of the corpora; the paper prints rounded training sizes, and 874 and 278 where SST-2 and RTE "
        "have 872 and 277.",
        rows={"row": ""},
        columns=["task", "source"],
        order={"row": list(_SIZES.values()), "task": list(TASKS.values()), "source": SOURCES},
    )


_SIZES = {"training_examples": "training", "validation_examples": "validation", "evaluation_metric": "metric"}


def figure1(records: pl.LazyFrame) -> Chart:
    """Probing accuracy of the pre-trained models over layers, by pooling."""
    rows = frames.probe_scores(records).filter(pl.col("ft_task").is_null())
    points = frames.require(
        frames.in_print_units(frames.over_seeds(rows)), "probing accuracy of pre-trained models", generic.NO_DELTA[1]
    )
    return layer_curves(
        _sorted(points, "model"),
        title="Mosbach 2020, Figure 1: probing accuracy of the pre-trained models",
        y=Field("mean", "accuracy (%)"),
        color=Field("model", "model"),
        dash=Field("pooling", "pooling"),
        column=Field("task", "probing task"),
    )


def figure2a(records: pl.LazyFrame) -> Chart:
    """Entropy of what the classification token attends to, by block: pre-trained, and tuned with either head."""
    points = _attention(records, "attention_entropy")
    (unit,) = points["unit"].unique().to_list()
    return bars(
        points.filter(pl.col("position") == "cls"),
        title="Mosbach 2020, Figure 2a: entropy of the attention of CLS (whiskers: sd over tuning seeds)",
        x=Field("layer", "block"),
        y=Field("mean", f"mean entropy ({unit})"),
        color=Field("state", "state"),
        column=Field("panel", "model"),
        width=420,
    )


def figure2b(records: pl.LazyFrame) -> Chart:
    """Earth mover's distance between the attention before and after fine-tuning, by block."""
    points = _attention(records, "attention_emd")
    (unit,) = points["unit"].unique().to_list()
    return layer_curves(
        points,
        title="Mosbach 2020, Figure 2b: earth mover's distance of the attention to the pre-trained model's (± sd)",
        x=Field("layer", "block"),
        y=Field("mean", f"distance ({unit})"),
        color=Field("state", "state"),
        dash=Field("position", "position"),
        column=Field("panel", "model"),
        width=320,
    )


def _attention(records: pl.LazyFrame, metric: str) -> pl.DataFrame:
    """Points of an attention measure: mean and sd over tuning seeds, `state` with its n, and the `panel` it is in."""
    repair = "compare with `measure: {kind: attention}` and run the study"
    whole = pl.col("ft_task").is_null() | pl.col("variant").str.starts_with("finetuned")
    rows = frames.over_seeds(frames.attention(records, metric).filter(whole), interval=False)
    points = frames.with_short_options(frames.require(rows, f"{metric} of model states", repair))
    panel = frames.distinguishing(points, ["model"], ["corpus", "split", "domain", "config"])
    heads = frames.distinguishing(points, [*panel, "ft_task", "head_pooling"], ["variant"])[len(panel) + 2 :]
    names = [pl.col("ft_task").replace(TASKS), pl.format("head {}", "head_pooling"), *heads]
    tuned = pl.format("{} (n = {})", pl.concat_str(names, separator=", "), "n")
    return points.with_columns(
        low=pl.col("mean") - pl.col("sd"),
        high=pl.col("mean") + pl.col("sd"),
        state=pl.when(pl.col("ft_task").is_null()).then(pl.lit("pre-trained")).otherwise(tuned),
        panel=pl.concat_str(panel, separator=", ", ignore_nulls=True),
    ).sort("panel", "ft_task", "state", "position", "layer", nulls_last=False)


def figure4(records: pl.LazyFrame) -> Chart:
    """Change of probing accuracy over layers with CLS pooling; stars compare with the pre-trained mean pooling."""
    stars = frames.over_seeds(frames.strong_baseline(frames.probe_scores(records)), interval=False)
    at = ["study", "model", "ft_task", "variant", "head_pooling", "method", "task", "corpus", "layer"]
    stars = stars.select(*at, stars="mean").unique(at)
    points = frames.require(
        generic.layer_deltas(records).filter(pl.col("pooling") == "cls"), "probing accuracy with CLS pooling"
    )
    joined = points.join(stars.collect(), on=at, how="left", nulls_equal=True)
    return _delta_curves(
        joined,
        title="Mosbach 2020, Figure 4: change of probing accuracy, CLS pooling",
        stars=Field("stars", "against mean pooling (stars, points)"),
    )


def figure5(records: pl.LazyFrame) -> Chart:
    """Change of probing accuracy over layers with mean pooling."""
    points = frames.require(
        generic.layer_deltas(records).filter(pl.col("pooling") == "mean"), "probing accuracy with mean pooling"
    )
    return _delta_curves(points, title="Mosbach 2020, Figure 5: change of probing accuracy, mean pooling", stars=None)


def _delta_curves(points: pl.DataFrame, *, title: str, stars: Field | None) -> Chart:
    heads = pl.concat_str(pl.col("ft_task").replace(TASKS), pl.lit(", head "), "head_pooling")
    several = points["head_pooling"].n_unique() > 1
    return layer_curves(
        _sorted(points.with_columns(tuned=heads if several else pl.col("ft_task").replace(TASKS)), "tuned"),
        title=title,
        y=Field("mean", "change (points)"),
        color=Field("tuned", "fine-tuned on"),
        column=Field("task", "probing task"),
        row=Field("model", "model"),
        stars=stars,
        zero_line=True,
    )


def _sorted(points: pl.DataFrame, series: str) -> pl.DataFrame:
    """In the order in which panels and lines are drawn: the paper's sets and models first."""

    def place(column: str, names: Sequence[str]) -> list[pl.Expr]:
        return [
            pl.col(column).replace_strict({name: i for i, name in enumerate(names)}, default=len(names)),
            pl.col(column),
        ]

    first = [*place("task", SETS), *place("model", tuple(CHECKPOINTS)), *place(series, tuple(TASKS.values()))]
    return points.sort(*first, "pooling", "layer")


def _beside(
    own: pl.DataFrame, published: pl.DataFrame, rows: Mapping[str, str], columns: Sequence[str], records: pl.LazyFrame
) -> pl.DataFrame:
    """Cells of the study and the published ones: the paper tunes with a CLS head and probes linearly."""
    alike = (pl.col("runs") == "all") & (pl.col("variant") == "finetuned")
    alike &= pl.col("head_pooling").fill_null("cls") == "cls"
    alike &= pl.col("method").is_in(["finetune", "linear"])
    return beside(own, published, rows, columns, models=paper_models(records, CHECKPOINTS), alike=alike)


def _few_items(scores: pl.LazyFrame) -> str:
    """What the caption says of test sets too small to be told from chance by seeds alone; empty if none is."""
    sizes = frames.probe_scores(scores).group_by("task").agg(pl.col("n_items").min()).sort("task").collect()
    if (sizes["n_items"].min() or FEW_ITEMS) >= FEW_ITEMS:  # type: ignore[operator]
        return ""
    listed = ", ".join(f"{task} {n}" for task, n in sizes.rows())
    return f" Test sentences: {listed}; intervals are over tuning seeds and leave out the chance of the sentences."


def _generated_note(own: pl.DataFrame) -> str:
    """What the caption says of sets that are not SentEval's (METHODS 15)."""
    sets = own.filter(pl.col("task").is_in(SETS) & (pl.col("corpus") != pl.col("task")))
    names = sorted({f"{task} from {corpus}" for task, corpus in sets.select("task", "corpus").rows()})
    return f" Generated, not SentEval's sets: {', '.join(names)}." if names else ""


TABLES: dict[str, Callable[[pl.LazyFrame], Table]] = {
    "table1": table1,
    "table2": partial(deltas, number=2, tasks=("cola", "sst2")),
    "table3": table3,
    "table4": table4,
    "table5": partial(deltas, number=5, tasks=("rte", "squad")),
}
REPORT = Report(
    name=PAPER,
    title="Mosbach et al. 2020, On the Interplay Between Fine-tuning and Sentence-level Probing for Linguistic "
    "Knowledge in Pre-trained Transformers: this study's numbers beside the published ones.",
    tables=TABLES,
    figures={"figure1": figure1, "figure2a": figure2a, "figure2b": figure2b, "figure4": figure4, "figure5": figure5},
)
