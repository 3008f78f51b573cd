"""Zhou 2022: records planted from its published Table 7 give the tables back; gaps are dashes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from tablelab import cell

from ftprobe.frames import MissingData
from ftprobe.published import load
from ftprobe.report import Report, find_report, render_html
from ftprobe.study import load_study
from ftprobe.tables import DASH

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
MODELS = {
    "google/bert_uncased_L-2_H-128_A-2": ("tiny", 2),
    "google/bert_uncased_L-4_H-256_A-4": ("mini", 4),
    "google/bert_uncased_L-4_H-512_A-8": ("small", 4),
    "google/bert_uncased_L-8_H-512_A-8": ("medium", 8),
    "google-bert/bert-base-uncased": ("base", 12),
}
TASKS = {"pos": "upos", "trec50": "trec_50"}  # what the paper's tasks are called here, where that differs
CORPORA = {"upos": "ud_pud", "dep": "ud_pud", "ps_role": "streusle", "ps_fxn": "streusle", "trec_50": "trec"}
OFFSETS = (-0.01, 0.0, 0.01)  # of the tuning seeds: sd 1 point, mean unchanged
INITIALISATIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # sd sqrt(10 / 4) with ddof 1
GEOMETRY = {"num_clusters": ("n_clusters", "train"), "is_linear": ("is_linear", "train")}
GEOMETRY |= {"train_test_similarity": ("spatial_similarity", "test")}
N_LABELS = 40  # of PS-fxn, in Table 5
Row = dict[str, object]
Made = Callable[[Iterator[Row]], pl.DataFrame]


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("zhou2022", SWEEPS / "zhou2022.yaml")


def probe(model: str, layer: int, task: str, tuned: str, seed: int) -> Row:
    """What the rows of one trial share."""
    run: Row = {"variant": "pretrained"}
    if tuned != "none":
        run = {"variant": "finetuned", "ft_task": tuned, "ft_seed": seed, "head_pooling": "cls"}
    return {
        "model": model,
        "method": "mlp",
        "task": task,
        "corpus": CORPORA[task],
        "layer": layer,
        "pooling": "cls" if task == "trec_50" else "mean",
        "config": json.dumps({"probe": {"kind": "mlp"}}),
        "config_id": "mlp-config",
        "trial": f"{model}-{task}-{tuned}-{seed}-{layer}",
        "probe_seed": 0,
        "n_items": 4000,
        **run,
    }


def planted(tuned: str) -> tuple[tuple[int, float], ...]:
    """Seeds of a state and how far their accuracy is from the mean."""
    return ((0, 0.0),) if tuned == "none" else tuple(enumerate(OFFSETS))


def mlp_rows() -> Iterator[Row]:
    """Table 7; the layer below the last is never right."""
    printed = load("zhou2022").filter(pl.col("table") == "table7", pl.col("probe") == "mlp_2layer")
    for at in printed.rows(named=True):
        alias, layer = MODELS[at["model"]]
        task, tuned = (TASKS.get(at[name], at[name]) for name in ("probe_task", "finetune_task"))
        for seed, offset in planted(tuned):
            shared = probe(alias, layer, task, tuned, seed)
            if at["metric"] != "accuracy":
                metric = f"hidden{at['metric'][-1]}"
                yield {**shared, "metric": metric, "value": at["number"], "split": "dev", "unit": "units"}
                continue
            step = float(at["std"]) / math.sqrt(2.5)
            for index, steps in enumerate(INITIALISATIONS):
                value = (at["number"] + steps * step) / 100 + offset
                detail = json.dumps({"n_train": 12_000, "n_dev": 1500, "n_labels": 17}) if index == 0 else None
                yield {**shared, "metric": "accuracy", "value": value, "probe_seed": index, "detail": detail}
            yield {**probe(alias, layer - 1, task, tuned, seed), "metric": "accuracy", "value": 0.0}


def clusters(model: str, layer: int, task: str, tuned: str, seed: int) -> Row:
    """What the rows of one clustering share."""
    name = f"clusters-{model}-{task}-{tuned}-{seed}"
    config = json.dumps({"probe": {"kind": "clusters"}})
    own = {"method": "clusters", "trial": name, "config": config, "config_id": "clusters-config", "probe_seed": None}
    return {**probe(model, layer, task, tuned, seed), **own}


def clusters_rows() -> Iterator[Row]:
    """Table 7; what is not linear there has an undefined similarity."""
    printed = load("zhou2022").filter(pl.col("table") == "table7", pl.col("probe") == "directprobe")
    for at in printed.rows(named=True):
        alias, layer = MODELS[at["model"]]
        task, tuned = (TASKS.get(at[name], at[name]) for name in ("probe_task", "finetune_task"))
        metric, split = GEOMETRY[at["metric"]]
        for seed, _ in planted(tuned):
            shared = clusters(alias, layer, task, tuned, seed)
            yield {**shared, "metric": metric, "value": at["number"], "split": split}
            if metric == "is_linear" and not at["number"]:
                undefined = {"metric": "spatial_similarity", "value": math.nan, "status": "undefined"}
                yield {**shared, **undefined, "split": "test"}


def cross_rows() -> Iterator[Row]:
    """Table 5: PS-fxn after other tunings, and the minimum distances of its labels."""
    printed = load("zhou2022").filter(pl.col("table") == "table5")
    for (name,), group in printed.group_by("finetune_task", maintain_order=True):
        tuned = TASKS.get(name, name)
        numbers = dict(group.select("metric", "number").rows())
        for seed, offset in planted(tuned):
            if tuned not in ("none", "ps_fxn"):
                value = numbers["accuracy"] / 100 + offset
                yield {**probe("base", 12, "ps_fxn", tuned, seed), "metric": "accuracy", "value": value}
            fewer = int(numbers.get("num_labels_min_distance_decreased", 0))
            mean = numbers.get("mean_min_distance_change", 0.0)
            for label in range(N_LABELS):
                # Those that decrease by 0.5 each, or all by the mean; the rest make the mean what it is.
                least = -0.5 if fewer < N_LABELS else mean
                most = (mean * N_LABELS - fewer * least) / max(1, N_LABELS - fewer)
                distance = {"metric": "min_distance", "split": "train", "unit": "euclidean"}
                value = 9.0 + (least if label < fewer else most)
                detail = json.dumps({"label": f"p.{label}"})
                yield {**clusters("base", 12, "ps_fxn", tuned, seed), **distance, "value": value, "detail": detail}


def control_rows() -> Iterator[Row]:
    for task in CORPORA:
        shared = probe("tiny", 2, task, "none", 0)
        if task == "trec_50":
            yield {**shared, "metric": "selectivity", "value": math.nan, "status": "refused"}
            continue
        for index in range(3):
            yield {**shared, "metric": "control_accuracy", "value": 0.6 + 0.01 * index, "probe_seed": index}
            yield {**shared, "metric": "selectivity", "value": 0.3 - 0.01 * index, "probe_seed": index}


def corpus_rows() -> Iterator[Row]:
    for task, corpus in CORPORA.items():
        for split, n in (("train", 16_860), ("test", 4_000)):
            row = {"method": "corpus", "task": task, "corpus": corpus, "metric": "n_items", "unit": "count"}
            yield {**row, "split": split, "value": n}


@pytest.fixture(scope="module")
def records(as_records: Made) -> pl.DataFrame:
    rows = [*mlp_rows(), *clusters_rows(), *cross_rows(), *control_rows(), *corpus_rows()]
    return as_records(iter(rows)).sample(fraction=1, shuffle=True, seed=0)


def test_table7_is_the_published_one(report: Report, records: pl.DataFrame) -> None:
    values = report.tables["table7"](records.lazy()).values
    pairs = values.pivot("source", index=["model", "task", "ft_task", "measure"], values=["mean", "text"])
    numbers = pairs.filter(pl.col("measure").is_in(["accuracy", "sd of initialisations"]))
    cross = numbers["mean_published"].is_null()  # Table 5 has tunings that Table 7 does not
    assert (cross.sum(), numbers.height) == (2 * 2, 5 * 5 * 2 * 2 + 2 * 2)  # models, tasks, states, mean and sd
    numbers = numbers.filter(~cross)
    assert numbers["mean_ours"].to_list() == pytest.approx(numbers["mean_published"].to_list(), abs=1e-9)
    sizes = pairs.filter(pl.col("measure") == "best size")
    assert sizes.height == 50
    assert sizes["text_ours"].to_list() == sizes["text_published"].to_list()
    for measure, column, height in (("clusters", "text", 50), ("linear", "text", 50), ("similarity", "mean", 35)):
        shown = pairs.filter(pl.col("measure") == measure, pl.col(f"{column}_published").is_not_null())
        assert shown.height == height
        ours, theirs = (shown[f"{column}_{source}"].to_list() for source in ("ours", "published"))
        assert ours == (pytest.approx(theirs) if column == "mean" else theirs)
    ours = values.filter(pl.col("source") == "ours")
    tuned = ours.filter(pl.col("measure") == "accuracy", pl.col("ft_task") != "original")
    assert tuned["n"].unique().to_list() == [3]
    assert tuned["sd"].to_list() == pytest.approx([1.0] * 27)


def test_table7_prints_like_the_paper(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table7"](records.lazy())
    assert table.frame["model"].unique(maintain_order=True).to_list() == ["tiny", "", "mini", "small", "medium", "base"]
    assert [row[1:3] for row in table.frame.rows() if row[0] == "tiny"] == [
        (task, tuned) for task in ("POS", "DEP", "PS-fxn", "PS-role", "TREC-50") for tuned in ("original", task)
    ]
    assert [path[0] for path in table.columns[::2]] == [
        "accuracy",
        "sd of initialisations",
        "best size",
        "clusters",
        "linear",
        "similarity",
    ]
    row = ("tiny", "POS", "POS")
    assert cell(table, row, "accuracy / ours") == "91.67 ± 1.00"
    assert cell(table, row, "accuracy / published") == "91.67"
    assert cell(table, row, "sd of initialisations / ours") == "0.29"
    assert cell(table, ("base", "TREC-50", "TREC-50"), "best size / ours") == "(64, 32)"
    assert cell(table, ("tiny", "POS", "original"), "clusters / published") == "3,936"
    assert cell(table, ("tiny", "POS", "original"), "linear / published") == "N"
    assert cell(table, ("tiny", "POS", "original"), "clusters / ours") == "3,936"
    assert cell(table, ("tiny", "POS", "POS"), "linear / ours") == "N"
    assert cell(table, ("tiny", "POS", "POS"), "similarity / ours") == DASH
    assert cell(table, ("small", "POS", "POS"), "similarity / ours") == "0.72 ± 0.00"
    assert cell(table, ("small", "POS", "original"), "similarity / ours") == "0.96"
    for said in ("base 12, medium 8, mini 4, small 4, tiny 2", "Probe: clusters, mlp", "mlp-conf", "n = 1 to 3"):
        assert said in table.caption
    assert "95 % bootstrap intervals" in table.caption


def test_best_sizes_are_counted_where_runs_differ(report: Report, records: pl.DataFrame) -> None:
    other = (pl.col("metric") == "hidden1") & (pl.col("ft_seed") == 1) & (pl.col("model") == "base")
    table = report.tables["table7"](records.with_columns(value=pl.when(other).then(32).otherwise("value")).lazy())
    assert cell(table, ("base", "TREC-50", "TREC-50"), "best size / ours") == "(64, 32) (2), (32, 32) (1)"


def test_a_trial_under_two_names_counts_once(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table7"](pl.concat([records, records]).lazy())
    assert cell(table, ("tiny", "POS", "POS"), "sd of initialisations / ours") == "0.29"
    assert cell(table, ("base", "TREC-50", "TREC-50"), "best size / ours") == "(64, 32)"


@pytest.mark.parametrize(("name", "height"), [("table2", 10), ("table3", 10), ("table4", 10)])
def test_excerpts_have_the_accuracies_of_table7(name: str, height: int, report: Report, records: pl.DataFrame) -> None:
    values = report.tables[name](records.lazy()).values.filter(pl.col("measure") == "accuracy")
    pairs = values.pivot("source", index=["model", "task", "ft_task"], values="mean")
    assert pairs.height == height
    off = pairs.filter((pl.col("ours") - pl.col("published")).abs() > 1e-9).select("model", "task", "ft_task")
    # METHODS 18: Table 2 prints other numbers for POS than Table 7.
    wrong = [("small", "POS", "POS"), ("small", "POS", "original")] if name == "table2" else []
    assert sorted(off.rows()) == wrong


def test_what_only_some_seeds_are_is_said(report: Report, records: pl.DataFrame) -> None:
    """Of the third seed POS is not linear: no similarity, and more clusters."""
    third = (pl.col("ft_seed") == 2) & (pl.col("task") == "upos") & (pl.col("model") == "small")
    broken = {"n_clusters": 20.0, "is_linear": 0.0, "spatial_similarity": math.nan}
    value = pl.col("value")
    for metric, other in broken.items():
        value = pl.when(third & (pl.col("metric") == metric)).then(other).otherwise(value)
    table = report.tables["table7"](records.with_columns(value=value).lazy())
    row = ("small", "POS", "POS")
    assert cell(table, row, "linear / ours") == "Y (2), N (1)"
    assert cell(table, row, "clusters / ours") == "18.0 ± 1.7"
    assert cell(table, row, "similarity / ours") == "0.72 ± 0.00 (n = 2 of 3)"


def test_table5_is_the_published_one(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table5"](records.lazy())
    assert [path[0] for path in table.columns[::2]] == ["accuracy", "increased", "decreased", "mean increase"]
    pairs = table.values.filter(pl.col("model") == "base").pivot(
        "source", index=["ft_task", "measure"], values=["mean", "text"]
    )
    pairs = pairs.filter(pl.col("mean_published").is_not_null())
    assert pairs.height == 1 + 3 * 4  # the untuned model has an accuracy only
    assert pairs["mean_ours"].to_list() == pytest.approx(pairs["mean_published"].to_list(), abs=1e-9)
    assert pairs["text_ours"].to_list() == pairs["text_published"].to_list()
    assert cell(table, ("base", "PS-fxn", "POS"), "accuracy / ours") == "83.24 ± 1.00"
    assert cell(table, ("base", "PS-fxn", "PS-role"), "decreased / ours") == "13"
    assert cell(table, ("base", "PS-fxn", "PS-role"), "mean increase / ours") == "1.02 ± 0.00"
    assert cell(table, ("tiny", "PS-fxn", "PS-fxn"), "increased / ours") == DASH
    assert cell(table, ("tiny", "PS-fxn", "PS-fxn"), "accuracy / published") == DASH


def claim_cells(report: Report, records: pl.DataFrame) -> dict[str, list[float]]:
    values = report.tables["claim_cells"](records.lazy()).values.filter(pl.col("column") == "effect")
    return {claim: group["mean"].to_list() for (claim,), group in values.group_by("claim")}


def test_claims_that_the_printed_tables_determine_hold_on_them(report: Report, records: pl.DataFrame) -> None:
    printed = load("zhou2022").filter(pl.col("table") == "table7")
    pairs = printed.pivot("condition", index=["model", "probe_task", "metric"], values="number")
    both = pairs.filter(pl.col("metric") == "train_test_similarity").drop_nulls().height
    crooked = pairs.filter(pl.col("metric") == "is_linear", pl.col("pretrained") == 0).height
    effects = claim_cells(report, records)
    found = {claim: len(cells) for claim, cells in effects.items()}
    assert found == {"Z1": 25, "Z2": both, "Z3": crooked, "Z4": 1, "Z5": 3, "Z6": 3}
    assert (both, crooked) == (16, 9)
    for claim in ("Z2", "Z3", "Z5", "Z6"):
        assert min(effects[claim]) > 0, claim
    assert sum(effect > 0 for effect in effects["Z1"]) >= 0.8 * 25
    table = report.tables["claims"](records.lazy())
    assert cell(table, ("Z2",), "verdict") == "supported"
    assert cell(table, ("Z5",), "verdict") == "supported"
    assert cell(table, ("Z7",), "verdict") == "untested"
    assert cell(table, ("Z3",), "holds in") == cell(table, ("Z3",), "cells") == "9"


def test_table6_counts(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table6"](records.lazy())
    assert table.frame["probing task"].to_list() == ["POS", "DEP", "PS-fxn", "PS-role", "TREC-50"]
    assert cell(table, ("POS",), "training / ours") == "16,860 (12,000 used)"
    assert cell(table, ("POS",), "training / published") == "16,860"
    assert cell(table, ("DEP",), "test / ours") == "4,000"
    assert cell(table, ("PS-role",), "labels / ours") == "17"
    assert cell(table, ("PS-role",), "labels / published") == "47"
    assert "upos" not in table.caption
    assert "POS ud_pud" in table.caption


def test_selectivity_is_over_control_tasks(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["selectivity"](records.lazy())
    assert cell(table, ("tiny", "POS", "original"), "control accuracy") == "61.00"
    assert cell(table, ("tiny", "POS", "original"), "selectivity") == "29.00"
    assert cell(table, ("tiny", "TREC-50", "original"), "selectivity") == DASH
    assert cell(table, ("tiny", "TREC-50", "original"), "accuracy") == "68.12"
    assert cell(table, ("tiny", "POS", "POS"), "control accuracy") == DASH


def test_what_is_not_the_papers_has_no_published_numbers(report: Report, records: pl.DataFrame) -> None:
    tiny = records.filter(pl.col("model") == "tiny")
    on_cola = tiny.with_columns(ft_task=pl.when(pl.col("ft_task").is_not_null()).then(pl.lit("cola")))
    table = report.tables["table7"](on_cola.lazy())
    assert cell(table, ("tiny", "DEP", "CoLA"), "accuracy / ours") == "89.04 ± 1.00"
    assert cell(table, ("tiny", "DEP", "CoLA"), "accuracy / published") == DASH
    assert cell(table, ("tiny", "DEP", "DEP"), "accuracy / ours") == DASH
    assert cell(table, ("tiny", "DEP", "DEP"), "accuracy / published") == "89.04"
    for other in (tiny.with_columns(model=pl.lit("minilm")), tiny.with_columns(pooling=pl.lit("last"))):
        table = report.tables["table7"](other.lazy())
        shown = table.frame.select(name for name in table.frame.columns if name.endswith("published"))
        assert shown.width == 6
        assert set(shown.unpivot()["value"]) <= {DASH, ""}
    with pytest.raises(MissingData, match="BERT-small"):
        report.tables["table2"](tiny.lazy())


def test_a_failed_run_is_left_out_in_a_second_row(report: Report, records: pl.DataFrame, as_records: Made) -> None:
    def scores() -> Iterator[Row]:
        for seed in range(len(OFFSETS)):
            run = {"variant": "finetuned", "ft_task": "dep", "ft_seed": seed, "head_pooling": "cls", "task": "dep"}
            detail = json.dumps({"collapsed": seed == 2})
            yield {**run, "model": "tiny", "method": "finetune", "metric": "accuracy", "value": 0.5, "detail": detail}

    both = pl.concat([records, as_records(scores())]).lazy()
    for name, row in (("table7", ("tiny", "DEP", "DEP")), ("table3", ("tiny", "DEP", "DEP"))):
        table = report.tables[name](both)
        assert table.headers[-1] == "runs"
        assert cell(table, (*row, "all"), "accuracy / ours") == "89.04 ± 1.00"
        assert cell(table, (*row, "not collapsed"), "accuracy / ours") == "88.54 ± 0.71"
        assert "tiny on dep (1)" in table.caption


def test_without_mlp_probes_a_table_says_what_is_missing(report: Report, records: pl.DataFrame) -> None:
    none = records.with_columns(method=pl.lit("linear")).lazy()
    for name in ("table2", "table3", "table4", "table5", "table6", "table7", "selectivity"):
        with pytest.raises(MissingData, match="kind: mlp"):
            report.tables[name](none)


def test_page(report: Report, records: pl.DataFrame) -> None:
    page = render_html(report, records.lazy(), "Zhou 2022")
    assert page.count("Missing") == 11  # nothing is planted of fine-tuning, nor of several layers and states on the way
    assert page.count("<h2>") == 22


def test_the_shipped_study_is_that_of_the_paper() -> None:
    found = load_study(SWEEPS / "zhou2022.yaml")
    mlp = [run for run in found.probe if run.kind == "mlp"]
    assert {run.task for run in mlp} == {"upos@ud_pud", "dep@ud_pud", "ps_fxn", "ps_role", "trec_50"}
    assert {run.activation.pooling for run in found.probe if run.task != "trec_50"} == {"mean"}
    assert {run.activation.pooling for run in found.probe if run.task == "trec_50"} == {"cls"}
    assert {run.model: run.layers for run in mlp} == {"tiny": (2,), "base": (12,)}
    (grid,) = {run.options for run in mlp}
    options = grid.model_dump()
    assert len(options["hidden1"]) * len(options["hidden2"]) * len(options["alpha"]) == 128  # METHODS 4
    assert {run.options.epochs for run in found.finetune if run.model == "base"} == {3}
    assert {run.options.epochs for run in found.finetune if run.model == "tiny"} == {10}
