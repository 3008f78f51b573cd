"""Zhou and Srikumar 2022: its claims Z1 to Z8 (METHODS 16.4) on the numbers of a study, cell by cell.

Effects are signed so that a claim says they are above 0. Probing accuracies (Z1, Z6) are judged by intervals over the
sentences of their test items where the trials keep item-level predictions, else by their sign over tuning seeds.
Axes: S seeds, U labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from ftprobe import frames, movement, shifts
from ftprobe.claims import Cell, over_units, share, verdict, with_q
from ftprobe.items import Differences, ReadPredictions, Scored, minus, no_predictions
from ftprobe.stats import DRAWS, MIN_SEEDS
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
UNITS = {"Z1": "sentences", "Z4": "labels", "Z5": "labels", "Z6": "sentences"}
"""What is resampled, where a claim's cells have intervals."""
LEAST_SHARE, LEAST_R = 0.95, 0.5
NOTHING = "probe with `{kind: mlp}` and `{kind: clusters}` before and after fine-tuning on the probed task"
_SETTING = ("variant", "head_pooling", "corpus", "pooling", "config")
_CELL = ("study", "model", "task", *_SETTING)


def claims(records: pl.LazyFrame, predictions: ReadPredictions = no_predictions) -> Table:
    """Each claim: how many cells it has, in how many it holds, the effects, and the verdict."""
    found = _required(records, predictions)
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
        f"in: cells with an effect above 0. {_RULE}{_without_items(found)} Z1 asks for 80 % of its cells, the others "
        f"for all. Corpora: {_corpora(records)}.",
        rows={"claim": "claim", "statement": "statement"},
        columns=["column"],
    )


def claim_cells(records: pl.LazyFrame, predictions: ReadPredictions = no_predictions) -> Table:
    """The cells of each claim."""
    lines: list[dict[str, object]] = []
    found = _required(records, predictions)
    for cell in found:
        at = {"claim": cell.claim, "where": cell.where}
        sd = float(np.std(cell.effects, ddof=1)) if len(cell.effects) > 1 else None
        ends = None if cell.low is None else f"[{cell.low:.3f}, {cell.high:.3f}]".replace("[nan, nan]", "undefined")
        q = None if cell.q is None else f"{cell.q:.4f}"
        lines.append({**at, "column": "effect", "mean": cell.effect, "sd": sd, "n": len(cell.effects)})
        texts = {"interval": ends, "q": q, "decided by": _decided_by(cell), "verdict": cell.verdict}
        lines += [{**at, "column": name, "text": text} for name, text in texts.items()]
    columns = {"mean": pl.Float64, "sd": pl.Float64, "n": pl.Int64, "text": pl.String}
    return layout(
        pl.DataFrame(lines, schema={**dict.fromkeys(("claim", "where", "column"), pl.String), **columns}),
        title="Zhou 2022: the cells of the claims",
        caption=f"Effects are above 0 where the claim holds. {_RULE}{_without_items(found)} Intervals: 95 %, "
        f"{DRAWS:,} draws of the units inside draws of the seeds, of fewer than 3 seeds of the units alone; "
        "undefined below 10 units. q: units swapped, Benjamini-Hochberg over the cells of a claim.",
        rows={"claim": "claim", "where": "cell"},
        columns=["column"],
        order={"claim": tuple(STATEMENTS), "column": ("effect", "interval", "q", "decided by", "verdict")},
        digits=3,
    )


_RULE = (
    "A cell of Z1, Z5 or Z6 is supported if its interval, over sentences (Z5: labels), lies above 0 and q < 0.05, one "
    "of Z4 if its interval over labels does, any other if all of at least 3 seeds agree in sign."
)


def _without_items(found: Sequence[Cell]) -> str:
    """What a caption says of accuracies whose sentences cannot be resampled."""
    cells = [cell for cell in found if UNITS.get(cell.claim) == "sentences"]
    signs = sum(cell.low is None for cell in cells)
    if not signs:
        return ""
    said = f"{signs} of the {len(cells)} cells" if signs < len(cells) else "The cells"
    return f" {said} of Z1 and Z6 have no item-level predictions of the same items, and go by the sign."


def _decided_by(cell: Cell) -> str:
    if cell.low is None:
        return "sign"
    return UNITS[cell.claim] + (" and seeds" if len(cell.effects) >= MIN_SEEDS else "")


def found_cells(records: pl.LazyFrame, predictions: ReadPredictions = no_predictions) -> list[Cell]:
    """All cells that the records determine, claim by claim; with predictions, Z1 and Z6 by sentences."""
    rows = frames.final_states(records).filter(pl.col("method").is_in(["mlp", "clusters", "finetune"]))
    last = _last_layer(rows)
    parts = [
        _higher_accuracy(last, predictions),
        _less_alike(last),
        _fewer_clusters(last),
        _risen(last),
        _increase_order(last),
        _accuracy_order(last, predictions),
        _alike(records),
        _deeper(rows),
    ]
    return [cell for part in parts for cell in part]


_WITHOUT_TREC = pl.col("task") != "trec_50"  # not linear, and not in sections 4.3 to 4.5 of the paper


def _required(records: pl.LazyFrame, predictions: ReadPredictions) -> list[Cell]:
    found = found_cells(records, predictions)
    if not found:
        raise frames.MissingData.of("cells of the claims Z1 to Z8", NOTHING)
    return found


class _Change(NamedTuple):
    """What one tuning changes of an accuracy: in points for each seed, and on which items, if these are known."""

    points_S: np.ndarray
    items: Differences | None

    def minus(self, other: _Change) -> _Change:
        n = min(len(self.points_S), len(other.points_S))
        known = self.items is not None and other.items is not None
        return _Change(self.points_S[:n] - other.points_S[:n], minus(self.items, other.items) if known else None)


def _accuracy_changes(
    rows: pl.LazyFrame, of: pl.Expr, predictions: ReadPredictions
) -> Iterator[tuple[str, dict[str, _Change]]]:
    """Each place, and what the tunings change of it, by the task that was tuned on."""
    changes = frames.delta_to_pretrained(_of(rows, "mlp", "accuracy", "test"))
    changes = changes.filter(pl.col("value").is_not_null(), of).collect().sort("ft_task", "ft_seed")
    scored = Scored(changes, predictions)
    for where, group in _grouped(changes, _CELL):
        after = group.group_by("ft_task", maintain_order=True)
        yield where, {task: _Change(_points(part), scored.differences(part)) for (task,), part in after}


def _points(changes: pl.DataFrame) -> np.ndarray:
    """One value a tuning seed: the mean over probe seeds."""
    seeds = changes.group_by("ft_seed").agg(pl.col("value").sort().mean())
    return seeds.sort("ft_seed")["value"].to_numpy()


def _compared(claim: str, where: str, change: _Change, sign: float = 1.0) -> tuple[Cell, float]:
    """A cell and its p: over the sentences of the items or, where these are not known, by the sign of each seed."""
    if change.items is None:
        return Cell(claim, where, tuple(sign * change.points_S)), math.nan
    return over_units(claim, where, sign * 100 * change.items.total_SU, change.items.count_U)


def _higher_accuracy(rows: pl.LazyFrame, predictions: ReadPredictions) -> Iterator[Cell]:
    """Z1: what tuning on the probed task changes of accuracy; one family."""
    changes = _accuracy_changes(rows, _own_task(), predictions)
    yield from with_q([_compared("Z1", where, change) for where, after in changes for change in after.values()])


def _less_alike(rows: pl.LazyFrame) -> Iterator[Cell]:
    """Z2: how much less alike training and test are after tuning on the probed task."""
    changes = frames.delta_to_pretrained(_of(rows, "clusters", "spatial_similarity", "test"))
    yield from _cells("Z2", _by_seed(changes.filter(_own_task()), sign=-1.0))


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
        yield share("Z4", where, _by_label(group, pl.col("direction") == 1).to_numpy(), least=LEAST_SHARE)


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
            found.append(over_units("Z5", f"{where}: PS-role > 0", role.to_numpy()))
        if pos is not None:
            found.append(over_units("Z5", f"{where}: 0 > POS", -pos.to_numpy()))
    yield from with_q(found)


def _less(more: pl.DataFrame, less: pl.DataFrame) -> np.ndarray:
    """The difference of two tunings by label: seed by seed, or of their means where they have not as many seeds."""
    both = [label for label in more.columns if label in less.columns]
    more_SU, less_SU = more.select(both).to_numpy(), less.select(both).to_numpy()
    if len(more_SU) == len(less_SU):
        return more_SU - less_SU
    return more_SU.mean(axis=0, keepdims=True) - less_SU.mean(axis=0, keepdims=True)


def _accuracy_order(rows: pl.LazyFrame, predictions: ReadPredictions) -> Iterator[Cell]:
    """Z6: accuracies of PS-fxn, each state against the next of the claim's order; one family."""
    found = []
    for where, after in _accuracy_changes(rows, pl.col("task") == "ps_fxn", predictions):
        fxn, role, pos = (after.get(task) for task in ("ps_fxn", "ps_role", "upos"))
        if fxn is not None and role is not None:
            found.append(_compared("Z6", f"{where}: PS-fxn > PS-role", fxn.minus(role)))
        if role is not None:
            found.append(_compared("Z6", f"{where}: PS-role > pre-trained", role))
        if pos is not None:
            found.append(_compared("Z6", f"{where}: pre-trained > POS", pos, sign=-1.0))
    yield from with_q(found)


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


def _by_label(changes: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    """One row a seed, one column a label that all seeds have, in alphabetical order (S, U)."""
    table = changes.with_columns(_value=value).pivot("label", index="ft_seed", values="_value").sort("ft_seed")
    whole = table.drop("ft_seed").select(pl.all().cast(pl.Float64))
    return whole.select(name for name in sorted(whole.columns) if whole[name].null_count() == 0)


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
