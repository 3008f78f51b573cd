"""Mosbach et al. 2020, section 5.2: masked-LM perplexity of fine-tuned encoders (Figure 3), and what replacing blocks
recovers of it (METHODS 13).

The paper prints no numbers of Figure 3, so nothing stands beside them. Perplexities of models with other tokenizers do
not compare: every model has a panel, or rows, of its own.
"""

from __future__ import annotations

import polars as pl

from ftprobe import frames, generic
from ftprobe.compare.recovery import recovery
from ftprobe.figures import Chart, Field, layer_curves
from ftprobe.report import Report
from ftprobe.tables import Table, layout

MODELS = ("bert", "roberta")
TASKS = {"cola": "CoLA", "sst2": "SST-2", "rte": "RTE", "squad": "SQuAD"}
PRETRAINED = "pre-trained"
RISE = "rise"
_REPAIR = "compare with `measure: {kind: perplexity}` and run the study"
_SETTING = ["corpus", "split", "domain", "config"]


def figure3ab(records: pl.LazyFrame) -> Chart:
    """Perplexity over the epochs of fine-tuning; epoch 0 is the pre-trained model."""
    rows = frames.over_seeds(_perplexity(frames.snapshots(records), "mlm_ppl").filter(_whole()), interval=False)
    repair = f"{_REPAIR}; fine-tune with `snapshots: {{epochs: 1}}`"
    points = _drawn(frames.require(rows, "perplexity of the states on the way", repair))
    return _curves(
        points.sort("epoch"),
        title="Mosbach 2020, Figure 3a, b: masked-LM perplexity while fine-tuning (± sd over tuning seeds)",
        x=Field("epoch", "epoch"),
    )


def figure3cd(records: pl.LazyFrame) -> Chart:
    """Perplexity over how many of the highest blocks are the pre-trained ones again."""
    finals = _perplexity(frames.final_states(records), "mlm_ppl")
    rows = frames.over_seeds(frames.replaced(finals), interval=False)
    points = _drawn(frames.require(rows, "perplexity of fine-tuned states", _REPAIR))
    lines = [points, _level(finals, points)]
    return _curves(
        pl.concat(lines, how="diagonal_relaxed").sort("replaced"),
        title="Mosbach 2020, Figure 3c, d: masked-LM perplexity with blocks replaced (± sd over tuning seeds)",
        x=Field("replaced", "highest blocks that are pre-trained"),
    )


def recovered(records: pl.LazyFrame) -> Table:
    """What replacing m blocks recovers of the log perplexity that fine-tuning lost."""
    nll = frames.replaced(frames.delta_to_pretrained(_perplexity(frames.final_states(records), "mlm_nll")))
    run = [*frames.RUN, *_SETTING, "probe_seed"]
    plain = nll.filter(pl.col("replaced") == 0, pl.col("embeddings") == "tuned").group_by(run)
    both = nll.join(plain.agg(lost=pl.col("value").mean()), on=run, how="left", nulls_equal=True)
    runs = frames.require(both, "perplexity of fine-tuned states", _REPAIR)
    # Rises over the pre-trained model stand for the log perplexities: its own is then 0.
    shares = recovery(runs["value"].to_numpy(), nll_tuned=runs["lost"].to_numpy(), nll_pretrained=0.0)
    first = (pl.col("replaced") == 0) & (pl.col("embeddings") == "tuned")
    parts = [
        runs.filter(first).with_columns(blocks=pl.lit(RISE)),
        runs.with_columns(value=pl.Series(shares), blocks=pl.col("replaced").cast(pl.String)),
    ]
    named = pl.concat(parts).with_columns(pl.col("value").fill_nan(None), pl.col("ft_task").replace(TASKS))
    cells = frames.over_seeds(named.drop("lost", "replaced", "unit").lazy(), interval=False).collect()
    order = [str(m) for m in range(int(runs["replaced"].max()) + 1)]  # type: ignore[arg-type]
    sometimes = ("head_pooling", "variant", "embeddings", *_SETTING)
    cells = frames.with_short_options(cells)
    chosen = frames.distinguishing(cells, ["blocks", "model", "ft_task"], sometimes)[1:]
    return layout(
        cells.sort(*chosen, nulls_last=True),
        title="Recovery of masked-LM perplexity",
        caption="rise: log perplexity of the fine-tuned model minus that of the pre-trained one (nat). Other columns: "
        "the share of it that is gone with so many of the highest blocks pre-trained again; of little worth where the "
        f"rise is small. Corpus: {_corpora(cells)}.",
        rows={name: _HEADERS.get(name, generic.HEADERS.get(name, name)) for name in chosen},
        columns=["blocks"],
        digits=3,
        order={"model": MODELS, "ft_task": list(TASKS.values()), "blocks": [RISE, *order]},
    )


_HEADERS = {"embeddings": "embeddings", "split": "split", "domain": "domain"}


def _whole() -> pl.Expr:
    """Rows of states that nothing was done to after training."""
    return ~pl.col("variant").str.contains(r"(?:replace_top|cut_top|cut_bottom)_")


def _perplexity(records: pl.LazyFrame, metric: str) -> pl.LazyFrame:
    rows = records.filter(pl.col("method") == "perplexity", pl.col("metric") == metric)
    return frames.measured(rows)


def _drawn(points: pl.DataFrame) -> pl.DataFrame:
    """Points with their band, the line they are on, with its n, and the panel they are in."""
    if "embeddings" not in points.columns:
        points = points.with_columns(embeddings=pl.lit("tuned"))
    line = frames.distinguishing(points, ["ft_task"], ["head_pooling", "variant"])
    seeds = pl.col("n").max().over("model", *line, "embeddings")
    names = [pl.col(name).replace(TASKS) if name == "ft_task" else pl.col(name) for name in line]
    state = pl.format("{} (n = {})", pl.concat_str(names, separator=", ", ignore_nulls=True), seeds)
    return _paneled(points).with_columns(
        low=pl.col("mean") - pl.col("sd"), high=pl.col("mean") + pl.col("sd"), state=state
    )


def _paneled(points: pl.DataFrame) -> pl.DataFrame:
    points = frames.with_short_options(points)
    panel = frames.distinguishing(points, ["model"], _SETTING)
    return points.with_columns(panel=pl.concat_str(panel, separator=", ", ignore_nulls=True))


def _level(finals: pl.LazyFrame, points: pl.DataFrame) -> pl.DataFrame:
    """The pre-trained model's perplexity at every number of blocks that is drawn for it."""
    base = frames.over_seeds(finals.filter(pl.col("ft_task").is_null()), interval=False).collect()
    places = points.select("model", "panel", "replaced").unique()
    level = _paneled(base).select("panel", "mean").join(places, on="panel")
    return level.with_columns(state=pl.lit(PRETRAINED), embeddings=pl.lit("tuned"))


def _curves(points: pl.DataFrame, *, title: str, x: Field) -> Chart:
    ranks = {name: place for place, name in enumerate(MODELS)}
    first = pl.col("model").replace_strict(ranks, default=len(ranks))
    several = points["embeddings"].n_unique() > 1
    return layer_curves(
        points.sort(first, "panel", pl.col("state") == PRETRAINED, "state", "embeddings", x.name),
        title=title,
        x=x,
        y=Field("mean", "perplexity"),
        color=Field("state", "fine-tuned on"),
        dash=Field("embeddings", "embeddings") if several else None,
        column=Field("panel", "model"),
        own_scales=True,
    )


def _corpora(cells: pl.DataFrame) -> str:
    return ", ".join(cells["corpus"].unique().sort().to_list())


REPORT = Report(
    name="mosbach2020_perplexity",
    title="Mosbach et al. 2020, On the Interplay Between Fine-tuning and Sentence-level Probing for Linguistic "
    "Knowledge in Pre-trained Transformers, section 5.2: fine-tuning and the masked language model.",
    tables={"finetune": generic.finetune, "recovery": recovered},
    figures={"figure3ab": figure3ab, "figure3cd": figure3cd},
)
