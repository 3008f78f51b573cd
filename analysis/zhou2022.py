"""Zhou and Srikumar 2022: its Tables 2 to 7, what fine-tuning moves at each layer, and selectivity.

The figures and the claims are in files of their own. Published numbers stand beside a model of the study that is
the paper's: by its checkpoint where the records name it (`detail.checkpoint`), else by its alias, `tiny`, `mini`,
`small`, `medium` or `base`. The paper's tasks are `upos` (POS), `dep`, `ps_fxn`, `ps_role` and `trec_50`. Table 1, the
sizes of the models, is not made: records do not name heads and parameters.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import polars as pl

from ftprobe import frames, generic, movement, shifts
from ftprobe.published.beside import SOURCES, beside, paper_models, printed, size_text
from ftprobe.report import Report
from ftprobe.tables import Table, agreed, layout

from .zhou2022_claims import claim_cells, claims
from .zhou2022_figures import FIGURES
from .zhou2022_layers import layers
from .zhou2022_schematic import schematic

PAPER = "zhou2022"
CHECKPOINTS = {
    "tiny": "google/bert_uncased_L-2_H-128_A-2",
    "mini": "google/bert_uncased_L-4_H-256_A-4",
    "small": "google/bert_uncased_L-4_H-512_A-8",
    "medium": "google/bert_uncased_L-8_H-512_A-8",
    "base": "google-bert/bert-base-uncased",
}
"""The paper's models by the alias that stands for them."""
NAMES = {"upos": "pos", "trec_50": "trec50"}
"""What the paper's tasks are called there, where it is not as here."""
TASKS = {"pos": "POS", "dep": "DEP", "ps_fxn": "PS-fxn", "ps_role": "PS-role", "trec50": "TREC-50"}
ORIGINAL = "original"
TUNED = {"none": ORIGINAL, **TASKS, "cola": "CoLA", "sst2": "SST-2", "rte": "RTE"}
MEASURES = {
    "accuracy": "accuracy",
    "std": "sd of initialisations",
    "size": "best size",
    "num_labels_min_distance_increased": "increased",
    "num_labels_min_distance_decreased": "decreased",
    "mean_min_distance_change": "mean increase",
    "num_clusters": "clusters",
    "is_linear": "linear",
    "train_test_similarity": "similarity",
}
"""The columns of the paper's tables."""
GEOMETRY = {
    "n_clusters": "num_clusters",
    "is_linear": "is_linear",
    "spatial_similarity": "train_test_similarity",
    "n_inc": "num_labels_min_distance_increased",
    "n_dec": "num_labels_min_distance_decreased",
    "mean_inc": "mean_min_distance_change",
}
"""What records call those of them that are of label geometry."""
INCREASES = ("num_labels_min_distance_increased", "num_labels_min_distance_decreased", "mean_min_distance_change")
MOVED = {
    "n_inc": "increased",
    "n_dec": "decreased",
    "mean_inc": "mean increase",
    "spatial_similarity": "r to pre-trained",
    "shift_norm": "shift",
    "shift_cosine": "cosine of shifts",
    "shift_pc1": "first component",
}
"""The columns of the table of movement."""
COUNTS = ("n_clusters", "n_inc", "n_dec")
PARTS = {"train": "training", "test": "test", "labels": "labels"}
SELECTIVITY = {"accuracy": "accuracy", "control_accuracy": "control accuracy", "selectivity": "selectivity"}
NO_PROBE = "add `probe: {kind: mlp}` to the study and run it"
NO_GEOMETRY = "probe with `{kind: clusters}` before and after fine-tuning, and run the study"
_SOMETIMES = ("head_pooling", "pooling", "variant", "corpus", "config", "runs")
_STATE = ("study", "model", "ft_task", "variant", "head_pooling", "method", "task", "corpus", "pooling", "config")
_ALIKE = (
    (pl.col("runs") == "all")
    & pl.col("variant").is_in(["pretrained", "finetuned"])
    & ((pl.col("ft_task") != "trec50") | (pl.col("head_pooling").fill_null("cls") == "cls"))
    & (pl.col("pooling") == pl.when(pl.col("task") == "trec50").then(pl.lit("cls")).otherwise(pl.lit("mean")))
)


def scores(records: pl.LazyFrame, *, number: int, what: str, of: Mapping[str, str]) -> Table:
    """Probes of the last layer (Tables 2 to 5 and 7): `of` names the one model or task that a table shows.

    Each table has the columns that the paper's has.
    """
    models = paper_models(records, CHECKPOINTS)
    chosen = _last_layer(records).filter(_shown(of, models) | (pl.col("method") == "finetune"))
    published = _published(number)
    shown = pl.col("measure").is_in(published["measure"].unique().to_list())
    found = frames.with_and_without_collapsed(chosen, _measured).filter(shown)
    own = frames.require(found, f"MLP probes or clusters of {what}", f"{NO_PROBE}, or `{{kind: clusters}}`")
    own = own.with_columns(pl.col("task", "ft_task").replace(NAMES).fill_null("none"))
    cells, rows = generic.arranged(own, ("model", "task", "ft_task"), _SOMETIMES, ("measure",))
    rows = {name: rows[name] for name in ("model", "task", "ft_task", *rows)}
    cells = beside(cells, published, rows, ("measure",), models=models, alike=_ALIKE)
    label = pl.col("ft_task").replace(TUNED)
    return layout(
        cells.with_columns(pl.col("measure").replace(MEASURES), pl.col("task").replace(TASKS), ft_task=label),
        title=f"Zhou 2022, Table {number}: {what}",
        caption=_caption(chosen, number, own["measure"].unique().to_list()),
        rows=rows,
        columns=["measure", "source"],
        order={
            "model": tuple(CHECKPOINTS),
            "task": tuple(TASKS.values()),
            "ft_task": tuple(TUNED.values()),
            "measure": tuple(MEASURES.values()),
            "source": SOURCES,
        },
        interval="line",
    )


def _caption(chosen: pl.LazyFrame, number: int, measures: Sequence[str]) -> str:
    geometry = [measure for measure in measures if measure in GEOMETRY.values()]
    return (
        f"Last layer ({_depths(chosen)}). Accuracy: MLP probes, test, mean of the initialisations"
        + _SPREAD * (number == 7)
        + "."
        + " Clusters and linearity: training items; in brackets how many seeds, where they differ."
        * bool({"num_clusters", "is_linear"} & set(geometry))
        + " Similarity: Pearson's r of the distances of labels, training to test items; of seeds that are linear only."
        * ("train_test_similarity" in geometry)
        + " Increased, decreased: labels by their minimum distance, against the pre-trained model; training items."
        * bool(set(INCREASES) & set(geometry))
        + _MISPRINT * (number == 2)
        + _notes(chosen)
    )


def _shown(of: Mapping[str, str], models: Mapping[str, str | None]) -> pl.Expr:
    """Whether a probe is of the paper's model or task that is named; of every one where none is."""
    if "task" in of:
        return pl.col("task").replace(NAMES) == of["task"]
    if "model" in of:
        return pl.col("model").is_in([alias for alias, where in models.items() if where == CHECKPOINTS[of["model"]]])
    return pl.lit(True)


def _last_layer(records: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of probes of the highest layer that the study has of a model, and the scores of fine-tuning."""
    last = pl.col("layer") == pl.col("layer").max().over("study", "model")
    probed = pl.col("method").is_in(["mlp", "clusters"])
    return frames.final_states(records).filter((last & probed).fill_null(False) | (pl.col("method") == "finetune"))


def _measured(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Accuracy, its sd over initialisations, the best sizes and the geometry, one row a model state and task."""
    probes = frames.measured(rows).filter(pl.col("method") == "mlp")
    accuracy = probes.filter(pl.col("metric") == "accuracy")
    summary = frames.in_print_units(frames.over_seeds(accuracy)).with_columns(measure=pl.lit("accuracy"))
    # Two names of one trial give its rows twice: each initialisation counts once.
    once = accuracy.unique([*_STATE, "ft_seed", "trial", "probe_seed"])
    spread = once.group_by(*_STATE, "ft_seed", "trial").agg(pl.col("value").std(ddof=1), pl.col("unit").first())
    spread = frames.in_print_units(frames.over_seeds(spread, interval=False)).drop("sd")
    parts = [summary, spread.with_columns(measure=pl.lit("std")), _best_sizes(probes), _geometry(rows)]
    shown = [*_STATE, "measure", "mean", "sd", "n", "low", "high", "text"]
    return pl.concat([part.collect() for part in parts], how="diagonal_relaxed").select(shown).lazy()


def _geometry(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Clusters, linearity, similarity and increases of one layer over seeds; what seeds do not share is in the text."""
    own = frames.measured(rows).filter(
        pl.col("method") == "clusters",
        ((pl.col("split") == "train") & pl.col("metric").is_in(["n_clusters", "is_linear"]))
        | ((pl.col("split") == "test") & (pl.col("metric") == "spatial_similarity")),
    )
    risen = movement.increases(rows.filter((pl.col("split") == "train") | (pl.col("method") == "finetune")))
    of = [*_STATE, "ft_seed", "metric", "value"]
    summary = _over_seeds(pl.concat([own.select(of), risen.select(of)]), [*_STATE, "metric"])
    return summary.with_columns(measure=pl.col("metric").replace(GEOMETRY)).drop("metric").lazy()


def _over_seeds(rows: pl.LazyFrame, by: Sequence[str]) -> pl.DataFrame:
    """Mean, sd and n over tuning seeds, and as text what these do not say (`seed_text`)."""
    # Two names of one trial give its rows twice.
    runs = rows.unique([*by, "ft_seed"]).group_by(by).agg(pl.col("value").sort_by("ft_seed")).collect()
    value, n = pl.col("value").list, pl.col("value").list.drop_nulls().list.len()
    texts = [seed_text(metric, values) for metric, values in runs.select("metric", "value").rows()]
    text = pl.Series(texts, dtype=pl.String)
    return runs.with_columns(mean=value.mean(), sd=value.std(ddof=1), n=n, text=text).drop("value")


def seed_text(metric: str, values: Sequence[float | None]) -> str | None:
    """What seeds say of the geometry of a state: counts without decimals where they agree, and who is undefined.

    >>> seed_text("n_clusters", [46.0, 46.0]), seed_text("n_clusters", [46.0, 49.0]), seed_text("is_linear", [1, 0, 1])
    ('46', '47.5 ± 2.1', 'Y (2), N (1)')
    >>> seed_text("spatial_similarity", [0.7, None, 0.8]), seed_text("spatial_similarity", [0.7, 0.8])
    ('0.75 ± 0.07 (n = 2 of 3)', None)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    if metric == "is_linear":
        return agreed(["Y" if value else "N" for value in known])
    digits = 1 if metric in COUNTS else 2
    mean = f"{statistics.fmean(known):,.{digits}f}"
    if metric in COUNTS and len(set(known)) == 1:
        mean = f"{known[0]:,.0f}"
    elif len(known) > 1:
        mean += f" ± {statistics.stdev(known):,.{digits}f}"
    if len(known) < len(values):
        return f"{mean} (n = {len(known)} of {len(values)})"
    return mean if metric in COUNTS else None


def moved(records: pl.LazyFrame) -> Table:
    """How far fine-tuning moved the labels, layer by layer: the numbers behind Figures 2 to 10 and Table 5."""
    final = frames.final_states(records).filter((pl.col("split") == "train") | (pl.col("method") == "finetune"))

    def summary(rows: pl.LazyFrame) -> pl.LazyFrame:
        parts = [
            movement.increases(rows),
            movement.similarity_to_pretrained(rows),
            shifts.shift_summaries(rows).lazy(),
        ]
        by = [*_STATE, "layer", "metric"]
        return _over_seeds(pl.concat([part.select(*by, "ft_seed", "value") for part in parts]), by).lazy()

    found = frames.with_and_without_collapsed(final, summary)
    own = frames.require(found, "label geometry before and after fine-tuning", NO_GEOMETRY)
    own = own.with_columns(pl.col("task", "ft_task").replace(NAMES))
    heads = ("model", "task", "ft_task", "layer")
    cells, rows = generic.arranged(own, heads[:3], _SOMETIMES, ("metric", "layer"))
    return layout(
        cells.with_columns(
            pl.col("metric").replace(MOVED), pl.col("task").replace(TASKS), pl.col("ft_task").replace(TUNED)
        ),
        title="Movement of the labels in fine-tuning, by layer",
        caption="Training items, against the pre-trained model. Increased, decreased: labels by their minimum "
        "distance; r: of all distances of labels, where both states are linear; shift: mean length of the way of a "
        "label's centroid; cosine: mean over pairs of these shifts; first component: its share of their variance."
        + generic.collapse_note(records),
        rows={**{name: rows.get(name, name) for name in heads}, **rows},
        columns=["metric"],
        order={
            "model": tuple(CHECKPOINTS),
            "task": tuple(TASKS.values()),
            "ft_task": tuple(TUNED.values()),
            "layer": [str(layer) for layer in sorted(set(cells["layer"].to_list()))],
            "metric": tuple(MOVED.values()),
        },
    )


def _best_sizes(probes: pl.LazyFrame) -> pl.LazyFrame:
    """The sizes that the grid chose, as text: `(256, 128)`."""
    sizes = [pl.col("value").filter(pl.col("metric") == name).first().cast(pl.Int64) for name in ("hidden1", "hidden2")]
    runs = probes.filter(pl.col("metric").is_in(["hidden1", "hidden2"])).group_by(*_STATE, "ft_seed", "trial")
    found = runs.agg(text=pl.format("({}, {})", *sizes)).group_by(_STATE).agg(pl.col("text").drop_nulls()).collect()
    texts = pl.Series("text", [agreed(each) for each in found["text"].to_list()], dtype=pl.String)
    return found.with_columns(texts, measure=pl.lit("size")).lazy()


def _published(number: int) -> pl.DataFrame:
    """A published table as cells of `measure`: sizes, counts and linearity as text."""
    own = printed(PAPER, f"table{number}", std=pl.col("std").cast(pl.Float64))
    place = ("checkpoint", "task", "ft_task")
    cells: list[tuple[object, ...]] = []
    sizes: dict[tuple[str, ...], list[str]] = {}
    for *at, metric, mean, std in own.select(*place, "metric", "mean", "std").rows():
        if metric.startswith("best_probe_hidden_size"):
            sizes.setdefault(tuple(at), []).append(f"{mean:.0f}")
        elif metric == "is_linear":
            cells.append((*at, metric, mean, "Y" if mean else "N"))
        else:
            cells.append((*at, metric, mean, f"{mean:,.0f}" if metric.startswith("num_") else None))
        if std is not None:
            cells.append((*at, "std", std, None))
    cells += [(*at, "size", None, f"({', '.join(pair)})") for at, pair in sizes.items()]
    schema = {**dict.fromkeys((*place, "measure"), pl.String), "mean": pl.Float64, "text": pl.String}
    return pl.DataFrame(cells, schema=schema, orient="row")


def table6(records: pl.LazyFrame) -> Table:
    """Sizes of the probing tasks."""
    probed = records.filter(pl.col("method").is_in(["mlp", "corpus"]))
    own = frames.require(frames.item_counts(probed), "sizes of probing tasks", NO_PROBE)
    own = own.filter(pl.col("part").is_in(PARTS.keys())).with_columns(pl.col("task").replace(NAMES))
    named = {"training_examples": "train", "test_examples": "test", "num_labels": "labels"}
    published = printed(PAPER, "table6", part=pl.col("metric").replace(named)).select("part", "task", "mean")
    ours = own.select("part", "task", "corpus", "used", mean="size", source=pl.lit("ours"))
    cells = pl.concat([ours, published.with_columns(source=pl.lit("published"))], how="diagonal_relaxed")
    texts = [size_text(mean, used or []) for mean, used in cells.select("mean", "used").rows()]
    # A task on one corpus is one row with the published sizes of its name.
    several = own.group_by("task").agg(pl.col("corpus").n_unique())["corpus"].max() != 1
    where = own.select("task", "corpus").unique().sort("task", "corpus").rows()
    return layout(
        cells.with_columns(
            pl.col("part").replace(PARTS), pl.col("task").replace(TASKS), text=pl.Series(texts, dtype=pl.String)
        ),
        title="Zhou 2022, Table 6: probing tasks",
        caption="Labelled items, in brackets those that probes took where they took fewer. Corpora: "
        f"{', '.join(f'{TASKS.get(task, task)} {corpus}' for task, corpus in where)}. The marks of the paper's table "
        "(token-based, pair-wise, ...) are not transcribed.",
        rows={"task": "probing task"} | ({"corpus": "corpus"} if several else {}),
        columns=["part", "source"],
        order={"task": tuple(TASKS.values()), "part": tuple(PARTS.values()), "source": SOURCES},
    )


def selectivity(records: pl.LazyFrame) -> Table:
    """Accuracy on each task and on its control tasks, and the difference."""
    chosen = _last_layer(records)

    def summary(rows: pl.LazyFrame) -> pl.LazyFrame:
        wanted = pl.col("metric").is_in(list(SELECTIVITY)) & (pl.col("method") == "mlp")
        return frames.in_print_units(frames.over_seeds(frames.measured(rows).filter(wanted)))

    own = frames.require(frames.with_and_without_collapsed(chosen, summary), "MLP probes", NO_PROBE)
    own = own.with_columns(pl.col("task", "ft_task").replace(NAMES).fill_null("none"))
    cells, rows = generic.arranged(own, ("model", "task", "ft_task"), _SOMETIMES, ("metric",))
    measure = pl.col("metric").replace(SELECTIVITY)
    return layout(
        cells.with_columns(measure, pl.col("task").replace(TASKS), pl.col("ft_task").replace(TUNED)),
        title="Selectivity of the MLP probes",
        caption="Test accuracy on the task and on control tasks, which give each word type a label at random, and "
        f"their difference in points; last layer ({_depths(chosen)}). A task over sentences has no control task."
        f"{_notes(chosen)}",
        rows={name: rows[name] for name in ("model", "task", "ft_task", *rows)},
        columns=["metric"],
        order={
            "model": tuple(CHECKPOINTS),
            "task": tuple(TASKS.values()),
            "ft_task": tuple(TUNED.values()),
            "metric": tuple(SELECTIVITY.values()),
        },
    )


def _depths(records: pl.LazyFrame) -> str:
    """Which layer is a model's last: `minilm 6`."""
    found = records.filter(pl.col("layer").is_not_null()).group_by("model").agg(pl.col("layer").max()).sort("model")
    return ", ".join(f"{model} {layer}" for model, layer in found.collect().rows())


def _notes(records: pl.LazyFrame) -> str:
    """What every caption says: collapsed runs, and the setting of the probes."""
    told = pl.col("metric").is_in(["accuracy", "n_clusters"])
    probes = records.filter(pl.col("method").is_in(["mlp", "clusters"]), told)
    return f"{generic.collapse_note(records)}{generic.probe_note(probes)}"


_SPREAD = (
    ", whose sd (ddof 1) is a mean over tuning seeds; best size: in brackets how many runs chose it, where they differ"
)
_MISPRINT = " The paper's Tables 2 and 7 print different POS accuracies (METHODS 18)."
_EVERY: Mapping[str, str] = {}
_EXCERPTS: Sequence[tuple[int, str, Mapping[str, str]]] = (
    (2, "BERT-small", {"model": "small"}),
    (3, "BERT-tiny", {"model": "tiny"}),
    (4, "TREC-50", {"task": "trec50"}),
    (5, "PS-fxn after tuning on it and on other tasks", {"task": "ps_fxn"}),
    (7, "all models and tasks", _EVERY),
)
TABLES: dict[str, Callable[[pl.LazyFrame], Table]] = {
    **{f"table{number}": partial(scores, number=number, what=what, of=of) for number, what, of in _EXCERPTS},
    "table6": table6,
    "selectivity": selectivity,
    "movement": moved,
    "layers": layers,
    "claims": claims,
    "claim_cells": claim_cells,
    "finetune": generic.finetune,
}
REPORT = Report(
    name=PAPER,
    title="Zhou and Srikumar 2022, A Closer Look at How Fine-tuning Changes BERT: this study's numbers beside the "
    "published ones.",
    tables=dict(sorted(TABLES.items(), key=lambda each: (not each[0].startswith("table"), each[0]))),
    figures={"figure1": schematic, **FIGURES},
)
