"""Merchant et al. 2020: its Figures 2 and 5, their numbers, and what it claims of similarity, from records.

RSA is to the pre-trained model: on Wikipedia, which WikiText is here, and on several texts. The claims R7, R8, R9, R14
(METHODS 16.4) are about the parser, MNLI and SQuAD; where a study has none of these tasks, those of `STAND_INS` are in
their place, and the claim says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from ftprobe import frames, similarities
from ftprobe.claims import Cell, verdict, with_q
from ftprobe.figures import BANDS, Chart, Field, layer_curves
from ftprobe.similarities import Curve
from ftprobe.stats import Floats, block_jackknife
from ftprobe.tables import Table, layout

TASKS = {
    "mnli": "MNLI",
    "squad": "SQuAD",
    "ud_parsing": "Dep",
    "cola": "CoLA",
    "sst2": "SST-2",
    "rte": "RTE",
    "upos": "POS",
}
"""Tuning tasks: the paper's three first, in its order, then some that stand for them where a study has others."""
WIKIPEDIA = ("wikitext2", "wikitext103")
STAND_INS = {"mnli": "sst2", "squad": "upos"}
MEASURES = {
    "rsa": "RSA",
    "cka": "CKA",
    "cka_debiased": "CKA, debiased",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "procrustes": "Procrustes",
    "neighbour_overlap": "neighbours",
}
STATEMENTS = {
    "R7": "RSA with base falls with layer",
    "R8": "Dep diverges at a lower layer than SQuAD and MNLI",
    "R9": "RSA one layer below the top: MNLI > SQuAD > Dep",
    "R14": "RSA of MNLI and SQuAD models, upper layers: Wikipedia > own corpus",
}

_NO_SIMILARITY = ("similarity of representations", "compare with `measure: {kind: similarity}` and run the study")
_NO_WIKIPEDIA = ("RSA of tuned models on WikiText", _NO_SIMILARITY[1])
_NO_DOMAINS = ("RSA of tuned models on several texts", _NO_SIMILARITY[1])


def figure2(records: pl.LazyFrame) -> Chart:
    """RSA to the pre-trained model on Wikipedia by layer, one line a tuning task."""
    points = _similarity_points(_whole(records, ("rsa",), WIKIPEDIA), *_NO_WIKIPEDIA)
    return layer_curves(
        points.with_columns(line=pl.format("{} (n = {})", "state", _n_seeds("panel", "state"))),
        title="Merchant 2020, Figure 2: RSA to the pre-trained model on Wikipedia (mean ± sd over tuning seeds)",
        y=Field("mean", "RSA (Pearson r)"),
        color=Field("line", "fine-tuned on"),
        column=Field("panel", "model"),
        width=360,
        height=260,
    )


def figure5(records: pl.LazyFrame) -> Chart:
    """RSA to the pre-trained model by layer, one panel a tuned model, one line a text."""
    several = [curve for curve in _whole(records, ("rsa",)) if curve.of["domain"] is not None]
    points = _similarity_points(several, *_NO_DOMAINS)
    spread = " ± sd" if points.select("text", "domain").n_unique() <= BANDS else ""
    return layer_curves(
        points.with_columns(panel=pl.format("{}, {} (n = {})", "model", "state", _n_seeds("model", "state"))),
        title=f"Merchant 2020, Figure 5: RSA to the pre-trained model by text (mean{spread} over tuning seeds)",
        y=Field("mean", "RSA (Pearson r)"),
        color=Field("text", "text"),
        dash=Field("domain", "domain"),
        column=Field("panel", "model"),
        width=280,
        height=240,
    )


def _n_seeds(*group: str) -> pl.Expr:
    """How many seeds the points of a group have: `3`, or `1 to 3`."""
    least, most = (getattr(pl.col("n"), end)().over(group) for end in ("min", "max"))
    return pl.when(least == most).then(pl.format("{}", most)).otherwise(pl.format("{} to {}", least, most))


def similarity(records: pl.LazyFrame) -> Table:
    """Similarity of each state to the pre-trained one, or to another, by layer and group of layers."""
    cells = frames.with_short_options(frames.require(_cells(similarities.curves(records)), *_NO_SIMILARITY))
    named = ("model", "ft_task", "corpus", "domain", "measure")
    sometimes = frames.distinguishing(cells, ["column", *named], ("variant", "head_pooling", "split", "config"))
    heads = {"corpus": "text", "measure": "measure", "config": "options", "variant": "variant", "head_pooling": "head"}
    rows = {name: heads.get(name, name) for name in (*named, *sometimes[len(named) + 1 :])} | {
        "ft_task": "fine-tuned on"
    }
    layers = cells["layer"].drop_nulls().unique().sort().cast(pl.String).to_list()
    return layout(
        cells.with_columns(pl.col("ft_task").replace(TASKS)),
        title="Merchant 2020, Figures 2 and 5 in numbers: similarity to the pre-trained model",
        caption="Layer 0 is the embedding output; lower and upper are means over the layers 0 to floor(L/2) and the "
        f"rest. Tokens: {', '.join(f'{n:,}' for n in cells['n_items'].unique().sort().to_list())}.",
        rows=rows,
        columns=["column"],
        order={
            "ft_task": list(TASKS.values()),
            "measure": list(MEASURES.values()),
            "domain": ["in", "out"],
            "column": [*layers, "lower", "upper"],
        },
        digits=3,
        interval="line",
        interval_note="95 % jackknife intervals over blocks of text and tuning seeds (RSA, CKA), else lowest and "
        "highest draw",
    )


def _cells(curves: Sequence[Curve]) -> pl.LazyFrame:
    """Means over seeds at every layer and over both groups of layers."""
    rows: list[dict[str, object]] = []
    for curve in curves:
        groups = {group.name: range(group.first, group.last + 1) for group in frames.layer_groups(curve.n_layers)}
        places = {**{str(layer): range(layer, layer + 1) for layer in range(curve.n_layers + 1)}, **groups}
        for column, layers in places.items():
            found = similarities.summary(curve, layers)
            own = {"column": column, "layer": int(column) if column.isdigit() else None, "n_items": curve.n_items}
            rows.append({**curve.of, **own, **found._asdict(), "measure": MEASURES[curve.of["metric"]]})
    return (
        pl.LazyFrame(rows, infer_schema_length=None).with_columns(pl.col("mean").fill_nan(None))
        if rows
        else pl.LazyFrame({"layer": []})
    )


def _whole(records: pl.LazyFrame, metrics: Sequence[str], corpora: Sequence[str] = ()) -> list[Curve]:
    """Curves, to the pre-trained model, of models that are tuned whole."""
    return [
        curve
        for curve in similarities.curves(records, metrics)
        if str(curve.of["variant"]).startswith("finetuned")
        and '"against"' not in curve.of["config"]
        and (not corpora or curve.of["corpus"] in corpora)
    ]


def _similarity_points(curves: Sequence[Curve], what: str, repair: str) -> pl.DataFrame:
    """Points with mean and sd; `state` and `text` say what tells lines apart, `panel` what tells panels apart."""
    points = frames.require(_cells(curves).filter(pl.col("layer").is_not_null()), what, repair)
    points = frames.with_short_options(points)
    given = ["model", "ft_task", "corpus", "layer"]
    tuned = frames.distinguishing(points, given, ("variant", "head_pooling"))[len(given) :]
    given += tuned
    text = frames.distinguishing(points, given, ("split", "config"))[len(given) :]
    place = pl.col("ft_task").replace_strict({name: i for i, name in enumerate(TASKS)}, default=len(TASKS))
    panel = frames.distinguishing(points, ["model"], ("corpus", *text))
    return points.with_columns(
        state=pl.concat_str(pl.col("ft_task").replace(TASKS), *tuned, separator=", ", ignore_nulls=True),
        text=pl.concat_str("corpus", *text, separator=", ", ignore_nulls=True),
        panel=pl.concat_str(panel, separator=", ", ignore_nulls=True),
        low=pl.col("mean") - pl.col("sd"),
        high=pl.col("mean") + pl.col("sd"),
    ).sort("model", place, "state", "domain", "text", "layer")


def claims(records: pl.LazyFrame) -> Table:
    """What the paper says of similarity: every cell, and the verdict of METHODS 16.3."""
    rows = []
    for claim, cells in claim_cells(records).items():
        whole = {"claim": claim, "statement": STATEMENTS[claim], "cell": "all", "verdict": verdict(cells)}
        held = f"{sum(cell.holds for cell in cells)} of {len(cells)} hold" if cells else None
        rows.append({**whole, "effect": held})
        rows += [{**_printed(cell), "claim": claim, "statement": STATEMENTS[claim]} for cell in cells]
    long = pl.DataFrame(rows).unpivot(index=["claim", "statement", "cell"], variable_name="column", value_name="text")
    return layout(
        long.with_columns(mean=pl.lit(None, pl.Float64)),
        title="Merchant 2020: what is claimed of similarity",
        caption="Effects are signed so that the claim says they are above 0, one value a tuning seed; without an "
        "interval the sign decides, which at least 3 seeds must share.",
        rows={"claim": "claim", "statement": "statement", "cell": "cell"},
        columns=["column"],
        order={"column": ["effect", "interval", "q", "verdict"]},
    )


def _printed(cell: Cell) -> dict[str, str | None]:
    ends = None if cell.low is None or math.isnan(cell.low) else f"[{cell.low:.3f}, {cell.high:.3f}]"
    effects = ", ".join(f"{effect:.3g}" for effect in cell.effects)
    q = None if cell.q is None or math.isnan(cell.q) else f"{cell.q:.3f}"
    return {"cell": cell.where, "effect": effects, "interval": ends, "q": q, "verdict": cell.verdict}


def claim_cells(records: pl.LazyFrame) -> dict[str, list[Cell]]:
    """The cells of R7, R8, R9 and R14 that the records have, by claim."""
    tuned = _whole(records, ("rsa",))
    frames.require(_cells(tuned), *_NO_SIMILARITY)
    found: dict[str, list[tuple[Cell, float]]] = {claim: [] for claim in STATEMENTS}
    for group in _comparable(tuned):
        for claim, cell in (*_by_sign(group), *_of_texts(group)):
            found[claim].append(cell)
    return {claim: with_q(own) if claim in ("R9", "R14") else [cell for cell, _ in own] for claim, own in found.items()}


def _comparable(curves: Sequence[Curve]) -> Iterator[dict[tuple[str, str], Curve]]:
    """Curves of one model with one setting of tuning and measure, by the task in the paper's words and the text."""
    groups: dict[tuple[object, ...], dict[tuple[str, str], Curve]] = {}
    for curve in curves:
        own = groups.setdefault(tuple(curve.of[name] for name in ("model", "split", "config")), {})
        own.setdefault((str(curve.of["ft_task"]), str(curve.of["corpus"])), curve)
    yield from groups.values()


def _tuned(group: Mapping[tuple[str, str], Curve], task: str) -> str:
    """The task that is there for one of the paper's."""
    return task if task in {own for own, _ in group} else STAND_INS.get(task, task)


def _named(curve: Curve, what: str = "") -> str:
    task = str(curve.of["ft_task"])
    stands = {TASKS[own]: TASKS[paper] for paper, own in STAND_INS.items()}
    name = TASKS.get(task, task)
    said = f"{name} (for {stands[name]})" if name in stands else name
    return f"{curve.of['model']}, {said}{what}"


def _by_sign(group: Mapping[tuple[str, str], Curve]) -> Iterator[tuple[str, tuple[Cell, float]]]:
    """R7 and R8: of each seed, whether the curve falls and where it diverges."""
    wikipedia = {task: curve for (task, corpus), curve in group.items() if corpus in WIKIPEDIA}
    for curve in wikipedia.values():
        falls = -similarities.trends(curve)
        yield "R7", (Cell("R7", _named(curve), tuple(falls[np.isfinite(falls)])), math.nan)
    dep = wikipedia.get("ud_parsing")
    for task in ("squad", "mnli"):
        other = wikipedia.get(_tuned(group, task))
        if dep is not None and other is not None:
            pair = similarities.of_common_seeds(dep, other)
            later = similarities.divergence_layers(pair[1]) - similarities.divergence_layers(pair[0])
            yield "R8", (Cell("R8", _named(other, " less Dep"), tuple(later[np.isfinite(later)])), math.nan)


def _of_texts(group: Mapping[tuple[str, str], Curve]) -> Iterator[tuple[str, tuple[Cell, float]]]:
    """R9 and R14: differences of RSA, with their intervals."""
    for corpus in WIKIPEDIA:
        for more, less in (("squad", "ud_parsing"), ("mnli", "squad")):
            pair = [group.get((_tuned(group, task), corpus)) for task in (more, less)]
            if pair[0] is None or pair[1] is None:
                continue
            one, other = similarities.of_common_seeds(pair[0], pair[1])
            at = one.n_layers - 1
            effect_S = one.value_SL[:, at] - other.value_SL[:, at]
            without_SB = one.without_SLB[:, at] - other.without_SLB[:, at]
            name = _named(one, f" less {_named(other).partition(', ')[2]}")
            yield "R9", _tested("R9", name, effect_S, [without_SB])
        for task in ("mnli", "squad"):
            wikipedia = group.get((_tuned(group, task), corpus))
            for curve in group.values():
                if wikipedia is None or curve.of["domain"] != "in" or curve.of["ft_task"] != wikipedia.of["ft_task"]:
                    continue
                pair_S = similarities.of_common_seeds(wikipedia, curve)
                upper = similarities.upper_layers(curve)
                one_S, own_S = (each.value_SL[:, upper].mean(1) for each in pair_S)
                one_SB, own_SB = (each.without_SLB[:, upper].mean(1) for each in pair_S)
                name = _named(curve, f", {corpus} less {curve.of['corpus']}")
                yield "R14", _tested("R14", name, one_S - own_S, [one_SB, -own_SB])


def _tested(claim: str, where: str, effect_S: Floats, without: Sequence[Floats]) -> tuple[Cell, float]:
    found = block_jackknife(effect_S, without)
    return Cell(claim, where, tuple(effect_S), found.low, found.high), found.p
