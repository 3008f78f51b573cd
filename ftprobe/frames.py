"""Frames: polars verbs over records, from rows of single runs to what tables and figures show.

Every verb takes and gives a lazy frame in the columns of METHODS 0. What is missing stays missing: a row without its
baseline, an `undefined` or `refused` value and an incomplete layer group become null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from ftprobe.errors import InputError
from ftprobe.stats import seed_interval

RUN = ("study", "model", "ft_task", "variant", "head_pooling", "ft_seed")
"""What names one fine-tuning run."""
MEASURED = (
    *("value", "tuned", "baseline", "baseline_trials", "n_items", "n_dropped", "status", "detail", "trial"),
    "config_id",
)
SEEDS = ("ft_seed", "probe_seed")
_PAIRED = ("study", "model", "method", "task", "corpus", "split", "domain", "layer", "metric", "probe_seed")
_POOLING_TEXT = r'"pooling": ?"[a-z]+"'
_EDIT = r"(^|\+)(?:replace_top|embeddings|cut_top|cut_bottom)_\w+"
"""What the name of a variant says of what was done to the state after training (METHODS 1.3)."""


class MissingData(InputError):
    """The records lack what a table or figure is made of; the message names it and the repair."""

    @classmethod
    def of(cls, what: str, repair: str = "") -> MissingData:
        """No records of `what`."""
        return cls(InputError.one("records", f"no {what}", repair).problems)


def require(frame: pl.LazyFrame, what: str, repair: str = "") -> pl.DataFrame:
    """Collect `frame`.

    Raises
    ------
    MissingData
        It has no rows; the error calls them `what`.
    """
    collected = frame.collect()
    if collected.is_empty():
        raise MissingData.of(what, repair)
    return collected


def measured(records: pl.LazyFrame) -> pl.LazyFrame:
    """The same rows with the values that mean nothing (`undefined`, `refused`, NaN) as null.

    `config` then says everywhere what was asked for: it takes `config_id` where a row has none.
    """
    refused = pl.col("status").is_in(["undefined", "refused"]).fill_null(False)
    value = pl.col("value").fill_nan(None)
    # The id of a probe's options also hashes the layers asked for and the seed; the options alone decide what compares.
    return records.with_columns(value=pl.when(~refused).then(value), config=pl.coalesce("config", "config_id"))


def delta_to_pretrained(records: pl.LazyFrame) -> pl.LazyFrame:
    """Tuned minus pre-trained (METHODS 16.1) for every row of a fine-tuned state.

    The baseline is the row without `ft_task` of the same model, task, corpus, split, layer, pooling, metric, probe seed
    and probe options (`config`, or `config_id` where that is null).

    Returns
    -------
    polars.LazyFrame
        The tuned rows; `tuned` and `baseline` are the two values, `value` their difference: in `points` (x 100) where
        the unit was `fraction`, else in the metric's own unit. `baseline_trials`: the trials that gave the baseline.
    """
    keyed = measured(records)
    return _minus(keyed, keyed, [*_PAIRED, "pooling", "config"])


def strong_baseline(records: pl.LazyFrame, *, tuned: str = "cls", baseline: str = "mean") -> pl.LazyFrame:
    """Tuned with `tuned` pooling minus pre-trained with `baseline` pooling (METHODS 16.1; Mosbach 2020, Figure 4).

    Probe options are compared without their pooling. Returns the columns of `delta_to_pretrained`.
    """
    keyed = measured(records).with_columns(config=pl.col("config").str.replace_all(_POOLING_TEXT, ""))
    own, other = (keyed.filter(pl.col("pooling") == pooling) for pooling in (tuned, baseline))
    return _minus(own, other, [*_PAIRED, "config"])


def _minus(tuned: pl.LazyFrame, baseline: pl.LazyFrame, on: Sequence[str]) -> pl.LazyFrame:
    # The mean makes one baseline of probe seeds that leave no mark on their rows, and of a row that is named twice.
    measured_in = pl.col("trial").filter(pl.col("value").is_not_null()).unique().sort()
    bases = baseline.filter(pl.col("ft_task").is_null()).group_by(on).agg(baseline="value", baseline_trials=measured_in)
    bases = bases.with_columns(baseline=_mean("baseline"))
    joined = tuned.filter(pl.col("ft_task").is_not_null()).join(bases, on=on, how="left", nulls_equal=True)
    fraction = pl.col("unit") == "fraction"
    scale = pl.when(fraction).then(100.0).otherwise(1.0)
    return joined.with_columns(
        tuned=pl.col("value"),
        value=(pl.col("value") - pl.col("baseline")) * scale,
        unit=pl.when(fraction).then(pl.lit("points")).otherwise("unit"),
    )


class LayerGroup(NamedTuple):
    """Layers `first` to `last`, both included; layer 0 is the embedding output."""

    name: str
    first: int
    last: int

    @property
    def label(self) -> str:
        """As printed: `0-6`."""
        return f"{self.first}-{self.last}" if self.first < self.last else str(self.first)


def layer_groups(n_layers: int) -> tuple[LayerGroup, LayerGroup]:
    """Lower (0 to floor(L/2)) and upper (the rest) layers of a model with L blocks (METHODS 16.1).

    >>> [group.label for n in (12, 6) for group in layer_groups(n)]
    ['0-6', '7-12', '0-3', '4-6']

    Raises
    ------
    ValueError
        Fewer than one block.
    """
    if n_layers < 1:
        raise ValueError(f"a model has at least one block, not {n_layers}")
    middle = n_layers // 2
    return LayerGroup("lower", 0, middle), LayerGroup("upper", middle + 1, n_layers)


def group_means(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Plain mean of `value` over the lower and the upper layers of every run (METHODS 16.1).

    L is the highest layer of the model in `frame`. A group of which a layer is missing or null is null.

    Returns
    -------
    polars.LazyFrame
        `layer` is replaced by `group` (lower, upper) and `layers` (`0-6`).
    """
    layer, value = pl.col("layer"), pl.col("value")
    grouped = frame.filter(layer.is_not_null()).with_columns(_highest=layer.max().over("study", "model"))
    middle, lower = pl.col("_highest") // 2, layer <= pl.col("_highest") // 2
    grouped = grouped.with_columns(
        group=pl.when(lower).then(pl.lit("lower")).otherwise(pl.lit("upper")),
        _first=pl.when(lower).then(0).otherwise(middle + 1),
        _last=pl.when(lower).then(middle).otherwise("_highest"),
    ).drop("_highest")
    by = [c for c in grouped.collect_schema().names() if c not in (*MEASURED, "layer")]
    means = grouped.group_by(by).agg(value=value, _n=layer.n_unique(), _gaps=value.null_count())
    whole = (pl.col("_n") == pl.col("_last") - pl.col("_first") + 1) & (pl.col("_gaps") == 0)
    several = pl.format("{}-{}", "_first", "_last")
    label = pl.when(pl.col("_first") < pl.col("_last")).then(several).otherwise(pl.col("_first").cast(pl.String))
    return means.with_columns(value=pl.when(whole).then(_mean("value")), layers=label).drop(
        "_first", "_last", "_n", "_gaps"
    )


def over_seeds(frame: pl.LazyFrame, *, interval: bool = True) -> pl.LazyFrame:
    """Average `value` over probe seeds, then over tuning seeds (METHODS 16.1).

    Rows belong together when they agree in every column but the seeds and what was measured (`MEASURED`).

    Parameters
    ----------
    interval : bool
        Whether to bootstrap seeds, 95 % (METHODS 16.2).

    Returns
    -------
    polars.LazyFrame
        `mean`, `sd` (ddof 1; null at n = 1), `n` (tuning seeds with a value), and `low`, `high`: null below 3 seeds
        or if a seed's value is undefined.
    """
    by = [c for c in frame.collect_schema().names() if c not in (*MEASURED, *SEEDS)]
    value, values = pl.col("value"), pl.col("_values")
    runs = frame.group_by([*by, "ft_seed"]).agg(value=value, _gap=value.null_count() > 0)
    seeds = value.sort_by("ft_seed")
    summary = runs.with_columns(value=_mean("value")).group_by(by).agg(_values=seeds, _gap=pl.col("_gap").any())
    summary = summary.with_columns(
        mean=_mean("_values"), sd=values.list.std(ddof=1), n=values.list.drop_nulls().list.len()
    )
    if interval:
        whole = pl.when(~pl.col("_gap")).then("_values")
        ends = whole.map_batches(_intervals, return_dtype=pl.Struct({"low": pl.Float64, "high": pl.Float64}))
        summary = summary.with_columns(_ends=ends).unnest("_ends")
    return summary.drop("_values", "_gap")


def _mean(name: str) -> pl.Expr:
    """The mean of each list of a column, the same whatever the order of its values, which is that of files and threads.

    Sorted as lists: polars leaves out a sort in front of a mean of a group.
    """
    return pl.col(name).list.sort().list.mean()


def _intervals(values: pl.Series) -> pl.Series:
    """The interval of each list of values, one call of numpy for each number of seeds."""
    n_G = values.list.len().fill_null(0).to_numpy()
    low_G, high_G = np.full(len(n_G), np.nan), np.full(len(n_G), np.nan)
    for n_seeds in set(n_G.tolist()) - {0}:
        (where,) = np.nonzero(n_G == n_seeds)
        value_GS = values.gather(where).explode().to_numpy().reshape(len(where), n_seeds)
        low_G[where], high_G[where] = seed_interval(value_GS)
    ends = pl.DataFrame({"low": low_G, "high": high_G}).with_columns(pl.all().fill_nan(None))
    return ends.to_struct(values.name)


def final_scores(records: pl.LazyFrame) -> pl.LazyFrame:
    """The development scores of every fine-tuning run: the rows of the epoch that was kept.

    Rows marked `selected` in their detail; of runs without the mark, those of the highest update. GLUE's development
    set is the split `test` (METHODS 0). The columns `update` and `epoch` are gone.
    """
    scores = measured(records).filter(
        pl.col("method") == "finetune", pl.col("split") == "test", pl.col("metric") != "train_loss"
    )
    by = [*RUN, "task", "corpus", "metric"]
    kept = _flag("selected")
    last = (pl.col("update") == pl.col("update").max().over(by)).fill_null(True)
    return scores.filter(kept | (last & ~kept.any().over(by))).drop("update", "epoch")


def collapsed_runs(records: pl.LazyFrame) -> pl.LazyFrame:
    """The fine-tuning runs whose development score is not above the majority class (METHODS 1.2), one row each."""
    rows = records.filter((pl.col("method") == "finetune") & _flag("collapsed"))
    return rows.select(RUN).unique(maintain_order=True)


def _flag(name: str) -> pl.Expr:
    return (pl.col("detail").str.json_path_match(f"$.{name}") == "true").fill_null(False)


def with_and_without_collapsed(records: pl.LazyFrame, measure: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.LazyFrame:
    """`measure` of all runs and, where that differs, without the collapsed ones (METHODS 1.2).

    Returns
    -------
    polars.LazyFrame
        What `measure` gives, with a column `runs`: `all`, and `not collapsed` for the model states of which some runs
        collapsed and some did not.
    """
    everything = measure(records).with_columns(runs=pl.lit("all"))
    collapsed = collapsed_runs(records).rename({"variant": "_trained"}).collect()
    if collapsed.is_empty():
        return everything
    # A run that collapsed takes the states with it that were made of its own.
    run = [c if c != "variant" else "_trained" for c in RUN]
    state = [c for c in run if c != "ft_seed"]
    rest = records.with_columns(_trained=_trained()).join(collapsed.lazy(), on=run, how="anti", nulls_equal=True)
    touched = collapsed.lazy().select(state).unique()
    some = measure(rest.drop("_trained")).with_columns(_trained=_trained())
    some = some.join(touched, on=state, how="semi", nulls_equal=True).drop("_trained")
    return pl.concat([everything, some.with_columns(runs=pl.lit("not collapsed"))])


def _trained() -> pl.Expr:
    """The variant without what was done to the state after training: that of the run itself."""
    name = pl.col("variant").str.replace_all(_EDIT, "").str.strip_prefix("+")
    plain = (name == "") | name.str.starts_with("[")
    return pl.when(plain).then(pl.concat_str(pl.lit("finetuned"), name)).otherwise(name)


def snapshots(records: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of states that a run passed on its way; `update` and `epoch` say where (METHODS 1.3)."""
    return records.filter(_ON_THE_WAY)


def final_states(records: pl.LazyFrame) -> pl.LazyFrame:
    """All rows but those of `snapshots`: of pre-trained states, and of those that runs end with."""
    return records.filter(~_ON_THE_WAY)


# Training scores its own epochs: those rows have an update too, and are of the run.
_ON_THE_WAY = pl.col("update").is_not_null() & ~pl.col("method").is_in(["finetune", "pretrain"])


def replaced(records: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of fine-tuned states by how many of their highest blocks are the pre-trained ones again (METHODS 1.3).

    Returns
    -------
    polars.LazyFrame
        `replaced` (0 where none is) and `embeddings` (`tuned`, `pretrained`) are new, and `variant` is that of the run.
        States that were cut after training are left out.
    """
    name = pl.col("variant")
    blocks = name.str.extract(r"replace_top_(\d+)").cast(pl.Int64).fill_null(0)
    theirs = name.str.contains("embeddings_pretrained", literal=True)
    kept = records.filter(pl.col("ft_task").is_not_null() & ~name.str.contains(r"cut_(?:top|bottom)_"))
    embeddings = pl.when(theirs).then(pl.lit("pretrained")).otherwise(pl.lit("tuned"))
    return kept.with_columns(replaced=blocks, embeddings=embeddings, variant=_trained())


def probe_scores(records: pl.LazyFrame, metric: str = "accuracy") -> pl.LazyFrame:
    """The rows of probes of final states: `metric` on the test split, by layer."""
    stages = pl.col("method").is_in(["finetune", "corpus", "activations"])
    return measured(final_states(records)).filter(
        pl.col("metric") == metric, pl.col("split") == "test", pl.col("layer").is_not_null(), ~stages
    )


def attention(records: pl.LazyFrame, metric: str) -> pl.LazyFrame:
    """The rows of an attention measure of final states, means over heads, by block (METHODS 12).

    `metric` is `attention_entropy` or `attention_emd`; `position` is new: `cls`, or `other` for all other positions.
    """
    detail = pl.col("detail")
    rows = measured(final_states(records)).filter(pl.col("method") == "attention", pl.col("metric") == metric)
    rows = rows.filter(pl.col("layer").is_not_null(), detail.str.contains(r'"head": ?null'))
    return rows.with_columns(position=detail.str.json_path_match("$.position"))


def item_counts(records: pl.LazyFrame) -> pl.LazyFrame:
    """How many items each probing task has: those of its corpus, and those that probes took.

    Returns
    -------
    polars.LazyFrame
        `task`, `corpus`, `part` (train, dev, test, labels), `size` (null where the corpus has no such part; labels: of
        all parts together), and `used`: the list of the different numbers that probes took.
    """
    task, detail = ["task", "corpus"], pl.col("detail")
    sizes = records.filter((pl.col("method") == "corpus") & (pl.col("metric") == "n_items"))
    sizes = sizes.select(*task, part="split", size="value").unique()
    told = records.filter(detail.str.contains("n_train", literal=True), pl.col("split") == "test")
    number = {
        name: detail.str.json_path_match(f"$.n_{name}").cast(pl.Int64, strict=False)
        for name in ("train", "dev", "labels")
    }
    taken = told.select(*task, **number, test="n_items").unpivot(index=task, variable_name="part", value_name="used")
    used = taken.group_by(*task, "part").agg(used=pl.col("used").drop_nulls().unique().sort())
    joined = used.join(sizes, on=[*task, "part"], how="left")
    labels = pl.when(pl.col("part") == "labels").then(pl.col("used").list.max().cast(pl.Float64))
    return joined.with_columns(size=pl.coalesce(labels, "size"))


def in_print_units(summary: pl.LazyFrame) -> pl.LazyFrame:
    """`mean`, `sd`, `low` and `high` times 100 where the unit is `fraction`, which becomes `percent`."""
    fraction = pl.col("unit") == "fraction"
    names = [n for n in ("mean", "sd", "low", "high") if n in summary.collect_schema().names()]
    scaled = [pl.when(fraction).then(pl.col(n) * 100).otherwise(n).alias(n) for n in names]
    return summary.with_columns(*scaled, unit=pl.when(fraction).then(pl.lit("percent")).otherwise("unit"))


def distinguishing(frame: pl.DataFrame, always: Sequence[str], sometimes: Sequence[str]) -> list[str]:
    """`always`, and those of `sometimes` that tell apart rows which the columns before them leave together.

    >>> frame = pl.DataFrame({"task": ["a", "b"], "corpus": ["x", "y"], "pooling": ["cls", "cls"]})
    >>> distinguishing(frame, ["task"], ["corpus", "pooling"])
    ['task']
    """
    chosen = list(always)
    for name in sometimes:
        if frame.select(*chosen, name).n_unique() > frame.select(chosen).n_unique():
            chosen.append(name)
    return chosen


def with_short_options(frame: pl.DataFrame) -> pl.DataFrame:
    """The same with `config` as text of those options only that are not the same in all rows: `strength=0.01`."""
    texts = frame["config"].drop_nulls().unique().to_list()
    options = {text: _flat(json.loads(text)) if text.startswith("{") else {"id": text} for text in texts}
    names = sorted({name for values in options.values() for name in values})
    varied = [n for n in names if len({json.dumps(values.get(n)) for values in options.values()}) > 1]
    short = {text: ", ".join(f"{n}={values[n]}" for n in varied if n in values) for text, values in options.items()}
    return frame.with_columns(pl.col("config").replace_strict(short, default=None, return_dtype=pl.String))


def _flat(options: Mapping[str, object]) -> dict[str, object]:
    """Nested options by their innermost names."""
    flat: dict[str, object] = {}
    for name, value in options.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat
