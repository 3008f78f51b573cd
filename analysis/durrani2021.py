"""Durrani et al. 2021: its Tables 1 to 8 and Figures 1 to 4 from records, beside the published numbers.

Published numbers stand beside a model of the study that is the paper's: by its checkpoint where the records name it
(`detail.checkpoint`), else by its alias, `bert`, `roberta` or `xlnet`. The paper does not say which BERT base it took;
the cased one is meant here (METHODS 1.2). Its POS is that of the Penn Treebank: published POS numbers stand beside the
first of `ptb_pos`, `xpos` and `upos` that the study probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import polars as pl

from ftprobe import frames, generic
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.published.beside import SOURCES, beside, paper_models, printed, size_text
from ftprobe.report import Report
from ftprobe.tables import Table, agreed, layout

PAPER = "durrani2021"
CHECKPOINTS = {
    "bert": "google-bert/bert-base-cased",
    "roberta": "FacebookAI/roberta-base",
    "xlnet": "xlnet/xlnet-base-cased",
}
"""The paper's models by the alias that stands for them."""
TUNINGS = {
    "none": "base",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "mnli": "MNLI",
    "rte": "RTE",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "cola": "CoLA",
}
"""What a model was tuned on, as the paper's tables order it; CoLA is not among the paper's."""
POS = ("ptb_pos", "xpos", "upos")
TASKS = (*POS, "chunk", "sem")
ENDS = {"top_accuracy": "top", "bottom_accuracy": "bottom"}
SETS = {
    "n_neurons": ("neurons", "all"),
    "minimal_n": ("neurons", "kept"),
    "minimal_fraction": ("neurons", "kept (%)"),
    "accuracy_all": ("accuracy", "all"),
    "accuracy_minimal": ("accuracy", "kept"),
    "selectivity_all": ("selectivity", "all"),
    "selectivity_minimal": ("selectivity", "kept"),
}
"""Where each metric of a neuron study stands in Table 7."""
COUNTS = ("n_neurons", "minimal_n")
CHECKED = {
    "accuracy_all": "accuracy, all",
    "top_accuracy": "accuracy, top",
    "bottom_accuracy": "accuracy, bottom",
    "minimal_fraction": "kept (%)",
    "mean_layer": "mean layer of top",
}
CHECKS = {"": "main", "_standardised": "standardised", "_raw": "raw", "_probeless": "probeless"}
"""The suffix of a metric, and what it says of how the neurons were ranked."""
PARTS = {"train": "training", "dev": "development", "test": "test", "labels": "labels"}
NO_NEURONS = "add `probe: {kind: neurons}` to the study and run it"
NO_CURVES = "add `probe: {kind: elastic_net}` to the study and run it"
_SOMETIMES = ("head_pooling", "pooling", "variant", "corpus", "config", "runs")
_ALIKE = (
    (pl.col("runs") == "all")
    & pl.col("variant").is_in(["pretrained", "finetuned"])
    & (pl.col("head_pooling").fill_null("cls") == "cls")
    & (pl.col("pooling") == "last")
)
_MISPRINT = " XLNet's published base repeats Table 1's, a misprint (Table 7 has 92.29 with all neurons)."


def ends(records: pl.LazyFrame, *, number: int, tasks: tuple[str, ...], what: str) -> Table:
    """Accuracy with the first and the last N neurons of the ranking (Tables 1, 4 and 5)."""
    chosen = records.filter(pl.col("task").is_in(tasks) | (pl.col("method") != "neurons"))
    own = _summary(chosen, ENDS, f"top and bottom neurons of {what}")
    published = printed(
        PAPER, f"table{number}", metric=pl.format("{}_accuracy", "condition"), task=_tasks(records), **_PRINTED
    )
    cells, rows = _arranged(own, ("metric",))
    models = paper_models(records, CHECKPOINTS)
    cells = beside(cells, published, rows, ("metric",), models=models, alike=_ALIKE)
    wrong = _MISPRINT if number == 5 and CHECKPOINTS["xlnet"] in models.values() else ""
    return layout(
        _named(cells.with_columns(end=pl.col("metric").replace(ENDS))),
        title=f"Durrani 2021, Table {number}: accuracy with top and bottom neurons, {what}",
        caption=f"A probe trained on the first and on the last N neurons of the ranking, all layers together; "
        f"{_n_note(chosen)}.{wrong}{_notes(chosen, ENDS)}",
        rows=rows,
        columns=["end", "source"],
        order={**_ORDER, "end": list(ENDS.values())},
        digits=1,
        interval="line",
    )


def pruned(records: pl.LazyFrame, *, number: int) -> Table:
    """Scores of models whose upper or lower blocks were removed before tuning: all (Table 2), XLNet (Table 6)."""
    models = paper_models(records, CHECKPOINTS)
    if number == 6:
        records = records.filter(pl.col("model").replace_strict(models, default=None) == CHECKPOINTS["xlnet"])
    found = frames.with_and_without_collapsed(records, _pruned_scores).drop("variant")
    what = "scores of pruned models" + " of XLNet" * (number == 6)
    own = frames.require(found, what, "add `prune_top` to `finetune`")
    shown = frames.distinguishing(own, ["ft_task", "model", "pruned"], ["head_pooling", "runs"])[1:]
    rows = {name: generic.HEADERS.get(name, name) for name in shown}
    condition = pl.col("condition").str.replace("baseline", "nothing").str.replace("prune_(top|bottom)", "$1 ")
    published = printed(PAPER, f"table{number}", pruned=condition, **_PRINTED).drop("condition", "task", "metric")
    alike = (pl.col("runs") == "all") & (pl.col("head_pooling").fill_null("cls") == "cls")
    own = own.sort("model", "pruned", *shown[2:], "ft_task", descending=[False, True, *[False] * (len(shown) - 1)])
    return layout(
        _named(beside(own, published, rows, ("ft_task",), models=models, alike=alike)),
        title=f"Durrani 2021, Table {number}: fine-tuning of pruned models",
        caption="Blocks are removed before tuning. Scores times 100 on the development set: MCC of CoLA, Pearson's r "
        f"of STS-B, else accuracy; the paper names no metric.{generic.collapse_note(records)}",
        rows=rows,
        columns=["ft_task", "source"],
        order={**_ORDER, "ft_task": ["SST-2", "MNLI", "QNLI"], "pruned": ["nothing"]},
        digits=1,
    )


def _pruned_scores(records: pl.LazyFrame) -> pl.LazyFrame:
    """Over seeds: models that are whole, and those with blocks removed, on the tasks that have some of these."""
    metric = pl.col("ft_task").replace_strict({"cola": "mcc", "stsb": "pearson"}, default="accuracy")
    whole, cut = (pl.col("variant").str.contains(rf"^{each}(\[|$)") for each in ("finetuned", r"prune_[a-z]+_\d+"))
    name = pl.col("variant").str.replace("^finetuned", "nothing").str.replace("^prune_(top|bottom)_", "$1 ")
    scores = frames.final_scores(records).filter(pl.col("metric") == metric, whole | cut)
    scores = scores.filter(cut.any().over("ft_task")).with_columns(pruned=name)
    # What pruning changes of the options would keep a task's scores apart.
    return frames.in_print_units(frames.over_seeds(scores.drop("config"), interval=False))


def table7(records: pl.LazyFrame) -> Table:
    """The minimal sets of neurons of the pre-trained models: how many, how accurate, how selective."""
    base = records.filter(pl.col("ft_task").is_null())
    own = _summary(base, SETS, "minimal sets of neurons of pre-trained models")
    cells, rows = _arranged(own.drop("ft_task"), ("metric",), always=("model", "task"))
    models = paper_models(records, CHECKPOINTS)
    cells = beside(cells, _minimal_sets(records), rows, ("metric",), models=models, alike=_ALIKE)
    texts = [
        size_text(mean, ()) if metric in COUNTS else None for metric, mean in cells.select("metric", "mean").rows()
    ]
    return layout(
        _split(cells, SETS, ("measure", "set")).with_columns(text=pl.Series(texts, dtype=pl.String)),
        title="Durrani 2021, Table 7: minimal sets of neurons of the pre-trained models",
        caption="Kept: the fewest first neurons of the ranking, by steps of one per cent, that come within delta of "
        f"all neurons on dev. Accuracy on test, selectivity in points.{_notes(base, SETS)}",
        rows=rows,
        columns=["measure", "set", "source"],
        order={**_ORDER, "measure": ["neurons", "accuracy", "selectivity"], "set": ["all", "kept", "kept (%)"]},
    )


def _minimal_sets(records: pl.LazyFrame) -> pl.DataFrame:
    """Published Table 7; its number of all neurons belongs to every task."""
    names = {"num_neurons": "neurons", "share_of_neurons": "neurons (%)"}
    metric = pl.concat_str(pl.col("metric").replace(names), pl.col("condition"), separator="/")
    where = {
        "neurons/all_neurons": "n_neurons",
        "neurons/top": "minimal_n",
        "neurons (%)/top": "minimal_fraction",
        "accuracy/all_neurons": "accuracy_all",
        "accuracy/top": "accuracy_minimal",
        "selectivity/all_neurons": "selectivity_all",
        "selectivity/top": "selectivity_minimal",
    }
    published = printed(PAPER, "table7", metric=metric.replace_strict(where), task=_tasks(records), **_PRINTED)
    published = published.drop("ft_task", "condition")
    general = pl.col("task").is_null()
    tasks = published.filter(~general).select("task").unique(maintain_order=True)
    shared = published.filter(general).drop("task").join(tasks, how="cross").select(published.columns)
    return pl.concat([published.filter(~general), shared])


def table8(records: pl.LazyFrame) -> Table:
    """The lambdas that were chosen for the pre-trained models."""
    base = records.filter(pl.col("ft_task").is_null())
    chosen = _rows(base, ("chosen_l1", "chosen_l2"))
    at = ["model", "method", "task", "corpus", "pooling", "variant", "head_pooling", "config"]
    value = {f"l{i}": pl.col("value").filter(pl.col("metric") == f"chosen_l{i}").first() for i in (1, 2)}
    runs = frames.require(chosen.group_by(*at, "trial", "probe_seed").agg(**value), "chosen lambdas", NO_NEURONS)
    texts: dict[tuple[object, ...], list[str]] = {}
    for *place, l1, l2 in runs.select(*at, "l1", "l2").rows():
        texts.setdefault(tuple(place), []).append(_lambdas(l1, l2))
    own = pl.DataFrame(
        [(*place, agreed(said)) for place, said in texts.items()],
        schema={**dict.fromkeys(at, pl.String), "text": pl.String},
        orient="row",
    ).with_columns(runs=pl.lit("all"), mean=pl.lit(None, pl.Float64))
    cells, rows = _arranged(own, (), always=("model", "task"))
    both = printed(PAPER, "table8", task=_tasks(records), **_PRINTED).pivot(
        "metric", index=["checkpoint", "task"], values="mean"
    )
    said = [_lambdas(l1, l2) for l1, l2 in both.select("lambda1", "lambda2").rows()]
    published = both.select("checkpoint", "task", text=pl.Series(said, dtype=pl.String))
    cells = beside(cells, published, rows, (), models=paper_models(records, CHECKPOINTS), alike=_ALIKE)
    return layout(
        cells,
        title="Durrani 2021, Table 8: chosen (l1, l2) of the pre-trained models",
        caption="In brackets how many probe seeds chose it, where they differ. The published columns of RoBERTa and "
        f"XLNet may be swapped (METHODS 18).{generic.probe_note(chosen)}",
        rows=rows,
        columns=["source"],
        order=_ORDER,
    )


def _lambdas(l1: float | None, l2: float | None) -> str:
    """A pair of lambdas as the paper prints them: `(1e-3, 1e-2)`."""
    return f"({', '.join(_lambda(value) for value in (l1, l2))})"


def _lambda(value: float | None) -> str:
    if not value:
        return "0" if value == 0 else "undefined"
    digits, power = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def table3(records: pl.LazyFrame) -> Table:
    """Sizes of the corpora: labelled words here, sentences in the paper."""
    probed = records.filter(pl.col("method").is_in(["neurons", "elastic_net", "corpus"]))
    own = frames.require(frames.item_counts(probed), "sizes of probing tasks", NO_NEURONS)
    names = {"training_sentences": "train", "development_sentences": "dev", "test_sentences": "test"}
    part = pl.col("metric").replace(names | {"num_labels": "labels"})
    published = printed(PAPER, "table3", part=part, task=_tasks(records))
    published = published.select("part", "task", "mean", source=pl.lit("published"))
    ours = own.select("part", "task", "corpus", "used", mean="size", source=pl.lit("ours"))
    cells = pl.concat([ours, published], how="diagonal_relaxed")
    # A task on one corpus is one row with the published sizes of its name.
    several = own.group_by("task").agg(pl.col("corpus").n_unique())["corpus"].max() != 1
    rows = {"task": "probing task"} | ({"corpus": "corpus"} if several else {})
    texts = [size_text(mean, used or []) for mean, used in cells.select("mean", "used").rows()]
    return layout(
        cells.with_columns(part=pl.col("part").replace(PARTS), text=pl.Series(texts, dtype=pl.String)),
        title="Durrani 2021, Table 3: probing data",
        caption="Ours: labelled words, in brackets those that probes took where they took fewer; published: sentences, "
        f"of the Penn Treebank for {_pos(records)}. A corpus without a development part has one cut from training.",
        rows=rows,
        columns=["part", "source"],
        order={"task": TASKS, "part": list(PARTS.values()), "source": SOURCES},
    )


def sensitivity(records: pl.LazyFrame) -> Table:
    """The neuron study with standardised features, and with the probeless ranking, beside the main one."""
    suffixed = {name + end: (what, how) for end, how in CHECKS.items() for name, what in CHECKED.items()}
    own = _summary(records, suffixed, "neuron studies")
    cells, rows = _arranged(own, ("metric",))
    return layout(
        _named(_split(cells, suffixed, ("measure", "check"))),
        title="Neuron studies: how much the ranking depends on scale and method",
        caption="Main: as the study says. Standardised: features of train mean 0 and sd 1; raw: as they are, where "
        "main is standardised. Probeless: neurons ranked by the differences of the labels' means, without a probe; "
        f"{_n_note(records)}.{generic.collapse_note(records)}{generic.probe_note(_rows(records, tuple(suffixed)))}",
        rows=rows,
        columns=["measure", "check"],
        order={**_ORDER, "measure": list(CHECKED.values()), "check": list(CHECKS.values())},
    )


def accuracies(records: pl.LazyFrame, *, number: int, sem: bool) -> Chart:
    """Accuracy of elastic-net probes by layer (Figures 1 and 4); what the paper does not probe is in Figure 1."""
    task = pl.col("task") == "sem"
    rows = frames.probe_scores(records).filter(pl.col("method") == "elastic_net", task if sem else ~task)
    what = "accuracy of elastic-net probes" + " of sem" * sem
    points = frames.require(frames.in_print_units(frames.over_seeds(rows)), what, NO_CURVES)
    return _curves(points, f"Durrani 2021, Figure {number}: elastic-net accuracy by layer", "accuracy (%)")


def layer_counts(records: pl.LazyFrame, *, number: int, tasks: tuple[str, ...] | None) -> Chart:
    """Number of the top neurons in each layer (Figures 2 and 3)."""
    rows = _rows(records, ("layer_count",)).filter(pl.col("task").is_in(tasks) if tasks else pl.lit(True))
    points = frames.require(frames.over_seeds(rows), "top neurons by layer", NO_NEURONS)
    return _curves(points, f"Durrani 2021, Figure {number}: top neurons by layer", "neurons")


def _curves(points: pl.DataFrame, title: str, y: str) -> Chart:
    """One line a tuning, one panel a model and task; further differences are said in the names of lines."""
    points = frames.with_short_options(points).with_columns(pl.col("ft_task").fill_null("none"))
    given = ["model", "task", "layer", "ft_task"]
    names = frames.distinguishing(points, given, [name for name in _SOMETIMES if name != "runs"])[len(given) :]
    parts = [pl.col("ft_task").replace(TUNINGS), *(pl.col(name) for name in names)]
    points = points.with_columns(state=pl.concat_str(parts, separator=", ", ignore_nulls=True))
    first = [
        pl.col(column).replace_strict({name: i for i, name in enumerate(order)}, default=len(order))
        for column, order in (("task", TASKS), ("model", tuple(CHECKPOINTS)), ("ft_task", tuple(TUNINGS)))
    ]
    return layer_curves(
        points.sort(*first, "task", "model", "state", "layer"),
        title=title,
        y=Field("mean", y),
        color=Field("state", "fine-tuned on"),
        column=Field("model", "model"),
        row=Field("task", "probing task"),
    )


def _rows(records: pl.LazyFrame, metrics: Sequence[str]) -> pl.LazyFrame:
    """The rows of neuron studies."""
    return frames.measured(records).filter(pl.col("method") == "neurons", pl.col("metric").is_in(list(metrics)))


def _summary(records: pl.LazyFrame, metrics: Mapping[str, object], what: str) -> pl.DataFrame:
    """Over seeds, with and without collapsed runs; pre-trained models are tuned on `none`."""

    def measure(rows: pl.LazyFrame) -> pl.LazyFrame:
        return frames.in_print_units(frames.over_seeds(_rows(rows, tuple(metrics))))

    found = frames.require(frames.with_and_without_collapsed(records, measure), what, NO_NEURONS)
    return found.with_columns(pl.col("ft_task").fill_null("none"))


def _arranged(
    cells: pl.DataFrame, within: tuple[str, ...], always: tuple[str, ...] = ("model", "task", "ft_task")
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Cells in order, and their row headers: models, then tasks, then tunings."""
    cells, rows = generic.arranged(cells, always, _SOMETIMES, within)
    return cells, {name: rows[name] for name in (*always, *(name for name in rows if name not in always))}


def _split(cells: pl.DataFrame, places: Mapping[str, tuple[str, str]], names: tuple[str, str]) -> pl.DataFrame:
    """Two header columns from the metric."""
    return cells.with_columns(
        pl.col("metric").replace_strict({each: place[i] for each, place in places.items()}).alias(name)
        for i, name in enumerate(names)
    )


def _named(cells: pl.DataFrame) -> pl.DataFrame:
    return cells.with_columns(pl.col("ft_task").replace(TUNINGS))


def _pos(records: pl.LazyFrame) -> str:
    """The task of the study beside which the published POS numbers stand."""
    probed = records.filter(pl.col("method").is_in(["neurons", "elastic_net"])).select("task").unique().collect()
    return next((task for task in POS if task in probed["task"]), POS[0])


def _tasks(records: pl.LazyFrame) -> pl.Expr:
    """The study's names of the published tasks."""
    return pl.col("probe_task").replace({"pos": _pos(records), "chunking": "chunk"})


def _n_note(records: pl.LazyFrame) -> str:
    """What a caption says of N: `N = 5 % (bert 500, minilm 135)`."""
    n, percent = (pl.col("detail").str.json_path_match(f"$.{name}").cast(pl.Float64) for name in ("n", "percent"))
    found = _rows(records, ("top_accuracy",)).select("model", n=n, percent=percent.round(1)).unique().drop_nulls()
    by_share: dict[float, list[str]] = {}
    for model, count, share in found.sort("percent", "model", "n").collect().rows():
        by_share.setdefault(share, []).append(f"{model} {count:,.0f}")
    return "N = " + " or ".join(f"{share:g} % ({', '.join(said)})" for share, said in by_share.items())


def _notes(records: pl.LazyFrame, metrics: Mapping[str, object]) -> str:
    """What captions say: where published POS numbers stand, collapsed runs, and the setting of the probes."""
    rows = _rows(records, tuple(metrics))
    known = any(paper_models(records, CHECKPOINTS).values())
    pos = [task for task in POS if known and task in rows.select("task").unique().collect()["task"]]
    where = f" Published POS is of the Penn Treebank and stands beside {pos[0]}." if pos else ""
    return f"{where}{generic.collapse_note(records)}{generic.probe_note(rows)}"


_PRINTED = {"checkpoint": pl.col("model").replace({"google-bert/bert-base": CHECKPOINTS["bert"]})}
_ORDER: Mapping[str, Sequence[str]] = {
    "model": tuple(CHECKPOINTS),
    "task": TASKS,
    "ft_task": tuple(TUNINGS.values()),
    "source": SOURCES,
}
TABLES: dict[str, Callable[[pl.LazyFrame], Table]] = {
    "table1": partial(ends, number=1, tasks=POS, what="POS"),
    "table2": partial(pruned, number=2),
    "table3": table3,
    "table4": partial(ends, number=4, tasks=("chunk",), what="chunking"),
    "table5": partial(ends, number=5, tasks=("sem",), what="semantic tags"),
    "table6": partial(pruned, number=6),
    "table7": table7,
    "table8": table8,
    "sensitivity": sensitivity,
    "finetune": generic.finetune,
}
FIGURES: dict[str, Callable[[pl.LazyFrame], Chart]] = {
    "figure1": partial(accuracies, number=1, sem=False),
    "figure2": partial(layer_counts, number=2, tasks=("sem", "chunk")),
    "figure3": partial(layer_counts, number=3, tasks=None),
    "figure4": partial(accuracies, number=4, sem=True),
}
REPORT = Report(
    name=PAPER,
    title="Durrani, Sajjad and Dalvi 2021, How transfer learning impacts linguistic knowledge in deep NLP models?: "
    "this study's numbers beside the published ones.",
    tables=TABLES,
    figures=FIGURES,
)
