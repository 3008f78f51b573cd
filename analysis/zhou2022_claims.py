"""Zhou and Srikumar 2022: its claims Z1 to Z8 (METHODS 16.4) on the numbers of a study, cell by cell.

Effects are signed so that a claim says they are above 0. Probing accuracies are judged by their sign over tuning seeds:
resampling their sentences needs item-level predictions, which are not records. Axes: S seeds, U labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from ftprobe import frames, movement, shifts
from ftprobe.claims import Cell, over_units, share, verdict, with_q
from ftprobe.tables import DASH, Table, layout

TASKS = {"upos": "POS", "dep": "DEP", "ps_fxn": "PS-fxn", "ps_role": "PS-role", "trec_50": "TREC-50"}
STATEMENTS = {
    "Z1": "tuning raises accuracy (points)",
    "Z2": "similarity of training to test falls, where linear",
    "Z3": "number of clusters falls, where not linear before",
    "Z4": "minimum distance rises for 95 % of labels, last layer",
    "Z5": "PS-fxn, mean increase: after PS-fxn > PS-role > 0 > POS",
    "Z6": "PS-fxn, accuracy: after PS-fxn > PS-role > pre-trained > POS (points)",
    "Z7": "r to pre-trained > 0.5, upper layers, all updates",
    "Z8": "shifts grow with the layer, their cosine falls (Spearman)",
}
MOSTLY = ("Z1",)
LEAST_SHARE, LEAST_R = 0.95, 0.5
NOTHING = "probe with `{kind: mlp}` and `{kind: clusters}` before and after fine-tuning on the probed task"
_SETTING = ("variant", "head_pooling", "corpus", "pooling", "config")
_CELL = ("study", "model", "task", *_SETTING)


def claims(records: pl.LazyFrame) -> Table:
    """Each claim: how many cells it has, in how many it holds, the effects, and the verdict."""
    found = _required(records)
    lines = []
    for claim, statement in STATEMENTS.items():
        cells = [cell for cell in found if cell.claim == claim]
        effects = sorted(cell.effect for cell in cells)
        spread = f"{np.median(effects):.2f} [{effects[0]:.2f}, {effects[-1]:.2f}]" if effects else DASH
        texts = {
            "cells": str(len(cells)),
            "holds in": str(sum(cell.holds for cell in cells)) if cells else DASH,
            "supported in": str(sum(cell.verdict == "supported" for cell in cells)) if cells else DASH,
            "effect": spread,
            "verdict": verdict(cells, mostly=claim in MOSTLY),
        }
        lines += [
            {"claim": claim, "statement": statement, "column": name, "text": text} for name, text in texts.items()
        ]
    return layout(
        pl.DataFrame(lines),
        title="Zhou 2022: claims",
        caption="Effect: median [least, most] over cells, each a mean over seeds, above 0 where the claim holds. Holds "
        f"in: cells with an effect above 0. {_RULE} Z1 asks for 80 % of its cells, the others for all. Corpora: "
        f"{_corpora(records)}.",
        rows={"claim": "claim", "statement": "statement"},
        columns=["column"],
    )


def claim_cells(records: pl.LazyFrame) -> Table:
    """The cells of each claim."""
    lines: list[dict[str, object]] = []
    for cell in _required(records):
        at = {"claim": cell.claim, "where": cell.where}
        sd = float(np.std(cell.effects, ddof=1)) if len(cell.effects) > 1 else None
        ends = None if cell.low is None else f"[{cell.low:.3f}, {cell.high:.3f}]".replace("[nan, nan]", "undefined")
        q = None if cell.q is None else f"{cell.q:.4f}"
        lines.append({**at, "column": "effect", "mean": cell.effect, "sd": sd, "n": len(cell.effects)})
        texts = {"interval": ends, "q": q, "verdict": cell.verdict}
        lines += [{**at, "column": name, "text": text} for name, text in texts.items()]
    columns = {"mean": pl.Float64, "sd": pl.Float64, "n": pl.Int64, "text": pl.String}
    return layout(
        pl.DataFrame(lines, schema={**dict.fromkeys(("claim", "where", "column"), pl.String), **columns}),
        title="Zhou 2022: the cells of the claims",
        caption=f"Effects are above 0 where the claim holds. {_RULE} Intervals: 95 %, labels inside seeds, "
        "undefined below 10 labels; q: Benjamini-Hochberg over the cells of Z5.",
        rows={"claim": "claim", "where": "cell"},
        columns=["column"],
        order={"claim": tuple(STATEMENTS), "column": ("effect", "interval", "q", "verdict")},
        digits=3,
    )


_RULE = (
    "A cell of Z4 or Z5 is supported if its interval over labels lies above 0 (Z5: and q < 0.05), any other if all of "
    "at least 3 seeds agree in sign; the sentences of accuracies are not resampled."
)


def found_cells(records: pl.LazyFrame) -> list[Cell]:
    """All cells that the records determine, claim by claim."""
    rows = frames.final_states(records).filter(pl.col("method").is_in(["mlp", "clusters", "finetune"]))
    last = _last_layer(rows)
    parts = [
        _tested(last, "Z1", "mlp", "accuracy", sign=1.0),
        _tested(last, "Z2", "clusters", "spatial_similarity", sign=-1.0),
        _fewer_clusters(last),
        _risen(last),
        _increase_order(last),
        _accuracy_order(last),
        _alike(records),
        _deeper(rows),
    ]
    return [cell for part in parts for cell in part]


_WITHOUT_TREC = pl.col("task") != "trec_50"  # not linear, and not in sections 4.3 to 4.5 of the paper


def _required(records: pl.LazyFrame) -> list[Cell]:
    found = found_cells(records)
    if not found:
        raise frames.MissingData.of("cells of the claims Z1 to Z8", NOTHING)
    return found


def _tested(rows: pl.LazyFrame, claim: str, method: str, metric: str, *, sign: float) -> Iterator[Cell]:
    """Z1, Z2: what tuning on the probed task changes of a number on the test items."""
    changes = frames.delta_to_pretrained(_of(rows, method, metric, "test"))
    yield from _cells(claim, _by_seed(changes.filter(_own_task()), sign=sign))


def _fewer_clusters(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z3: how many clusters fewer, of states that were not linear before."""
    linear = frames.delta_to_pretrained(_of(rows, "clusters", "is_linear", "train")).filter(pl.col("baseline") == 0)
    counts = frames.delta_to_pretrained(_of(rows, "clusters", "n_clusters", "train"))
    both = counts.filter(_own_task()).join(linear, on=[*_CELL, "ft_task", "ft_seed"], how="semi", nulls_equal=True)
    yield from _cells("Z3", _by_seed(both, sign=-1.0))


def _risen(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z4: the share of labels whose minimum distance rises, less 95 %."""
    changes = movement.distance_changes(_train(rows)).filter("final", _own_task(), _WITHOUT_TREC).collect()
    for where, group in _grouped(changes, _CELL):
        yield share("Z4", where, _by_label(group, pl.col("direction") == 1), least=LEAST_SHARE)


def _increase_order(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z5: increases of the labels of PS-fxn, each tuning against the next of the claim's order; one family."""
    of = pl.col("task") == "ps_fxn"
    found = []
    for where, group in _grouped(movement.distance_changes(_train(rows)).filter("final", of).collect(), _CELL):
        after = {task: _by_label(part, pl.col("change")) for (task,), part in group.group_by("ft_task")}
        fxn, role, pos = (after.get(task) for task in ("ps_fxn", "ps_role", "upos"))
        if fxn is not None and role is not None:
            found.append(over_units("Z5", f"{where}: PS-fxn > PS-role", _less(fxn, role)))
        if role is not None:
            found.append(over_units("Z5", f"{where}: PS-role > 0", role))
        if pos is not None:
            found.append(over_units("Z5", f"{where}: 0 > POS", -pos))
    yield from with_q(found)


def _less(more_SU: np.ndarray, less_SU: np.ndarray) -> np.ndarray:
    """The difference of two tunings: seed by seed, or of their means where they have not as many seeds."""
    if len(more_SU) == len(less_SU):
        return more_SU - less_SU
    return more_SU.mean(axis=0, keepdims=True) - less_SU.mean(axis=0, keepdims=True)


def _accuracy_order(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z6: accuracies of PS-fxn, each state against the next of the claim's order."""
    of = pl.col("task") == "ps_fxn"
    changes = frames.delta_to_pretrained(_of(rows, "mlp", "accuracy", "test")).filter(of)
    for where, group in _grouped(_by_seed(changes), _CELL):
        after = {task: part["value"].to_numpy() for (task,), part in group.group_by("ft_task", maintain_order=True)}
        fxn, role, pos = (after.get(task) for task in ("ps_fxn", "ps_role", "upos"))
        if fxn is not None and role is not None:
            n = min(len(fxn), len(role))
            yield Cell("Z6", f"{where}: PS-fxn > PS-role", tuple(fxn[:n] - role[:n]))
        if role is not None:
            yield Cell("Z6", f"{where}: PS-role > pre-trained", tuple(role))
        if pos is not None:
            yield Cell("Z6", f"{where}: pre-trained > POS", tuple(-pos))


def _alike(records: pl.LazyFrame) -> Iterator[Cell]:
    """Z7: the least similarity to the pre-trained model over all updates, less 0.5, of each upper layer."""
    rows = movement.similarity_to_pretrained(_train(records)).filter(_own_task(), _WITHOUT_TREC).collect()
    upper = rows.filter(pl.col("layer") > pl.col("layer").max().over("study", "model") // 2)
    least = upper.group_by(*_CELL, "layer", "ft_task", "ft_seed").agg(pl.col("value").min() - LEAST_R)
    named = least.with_columns(part=pl.format("layer {}", "layer")).sort("layer")
    yield from _cells("Z7", named, "part")


def _deeper(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z8: Spearman's correlation of the layer with the length of shifts, and with their cosine (falling)."""
    summary = shifts.shift_summaries(_train(rows)).filter(_own_task(), _WITHOUT_TREC, pl.col("value").is_not_null())
    for metric, sign, part in (("shift_norm", 1.0, "length"), ("shift_cosine", -1.0, "cosine")):
        runs = []
        for key, group in summary.filter(pl.col("metric") == metric).group_by(
            *_CELL, "ft_task", "ft_seed", maintain_order=True
        ):
            if group["layer"].n_unique() > 2 and group["value"].n_unique() > 1:
                rho = spearmanr(group["layer"].to_numpy(), group["value"].to_numpy()).statistic
                runs.append((*key, sign * float(rho), part))
        schema = {**summary.select(*_CELL, "ft_task", "ft_seed").schema, "value": pl.Float64, "part": pl.String}
        yield from _cells("Z8", pl.DataFrame(runs, schema=schema, orient="row"), "part")


def _cells(claim: str, runs: pl.DataFrame, *parts: str) -> Iterator[Cell]:
    """One cell for each place and each value of `parts`, from its values over seeds."""
    for where, group in _grouped(runs, (*_CELL, "ft_task", *parts), parts):
        values = group.sort("ft_seed")["value"].drop_nulls().to_list()
        if values:
            yield Cell(claim, where, tuple(values))


def _grouped(rows: pl.DataFrame, by: Sequence[str], parts: Sequence[str] = ()) -> Iterable[tuple[str, pl.DataFrame]]:
    """Groups of rows with a name: model, task, `parts`, and settings of which the rows have several."""
    if rows.is_empty():
        return
    rows = rows.with_columns(_options=pl.col("config"))
    named = frames.with_short_options(rows)
    several = frames.distinguishing(named, ["study", "model", "task", *parts], _SETTING)[3 + len(parts) :]
    task = pl.col("task").replace(TASKS)
    names = pl.concat_str("model", task, *parts, *several, separator=" ", ignore_nulls=True)
    keys = ["_options" if name == "config" else name for name in by]
    order = pl.col("task").replace_strict({each: i for i, each in enumerate(TASKS)}, default=len(TASKS))
    settings = ["_options" if name == "config" else name for name in _SETTING]
    named = named.with_columns(_where=names).sort("study", "model", order, *settings, maintain_order=True)
    for group in named.partition_by(keys, maintain_order=True):
        yield group["_where"][0], group


def _by_seed(rows: pl.LazyFrame, *, sign: float = 1.0) -> pl.DataFrame:
    """One value a tuning seed: the mean over probe seeds."""
    by = [*_CELL, "ft_task", "ft_seed"]
    means = rows.group_by(by).agg(pl.col("value").sort().mean() * sign).collect()
    return means.sort("ft_task", "ft_seed")


def _by_label(changes: pl.DataFrame, value: pl.Expr) -> np.ndarray:
    """One row a seed, one column a label that all seeds have, (S, U)."""
    table = changes.with_columns(_value=value).pivot("label", index="ft_seed", values="_value").sort("ft_seed")
    whole = table.drop("ft_seed").select(pl.all().cast(pl.Float64))
    return whole.select(name for name in whole.columns if whole[name].null_count() == 0).to_numpy()


def _of(rows: pl.LazyFrame, method: str, metric: str, split: str) -> pl.LazyFrame:
    return rows.filter(pl.col("method") == method, pl.col("metric") == metric, pl.col("split") == split)


def _train(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Clusterings of training items, and what fine-tuning says of itself."""
    return rows.filter((pl.col("split") == "train") | (pl.col("method") == "finetune"))


def _last_layer(rows: pl.LazyFrame) -> pl.LazyFrame:
    last = pl.col("layer") == pl.col("layer").max().over("study", "model")
    return rows.filter(last.fill_null(False) | (pl.col("method") == "finetune"))


def _own_task() -> pl.Expr:
    return pl.col("ft_task") == pl.col("task")


def _corpora(records: pl.LazyFrame) -> str:
    """Which corpora the tasks are on: `POS ud_ewt`."""
    probed = records.filter(pl.col("method").is_in(["mlp", "clusters"])).select("task", "corpus").unique()
    return ", ".join(
        f"{TASKS.get(task, task)} {corpus}" for task, corpus in probed.sort("task", "corpus").collect().rows()
    )
