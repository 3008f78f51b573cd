"""Merchant 2020: planted scores stand where the figures say; a study in small is run, drawn and printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import tinylm
from tablelab import cell, drawn

import ftprobe
from ftprobe.figures import write
from ftprobe.frames import MissingData
from ftprobe.planner import make_plan
from ftprobe.report import Report, find_report, render_html
from ftprobe.store import Store
from ftprobe.study import load_study, parse_study
from ftprobe.tables import DASH

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
SCORES = {"mnli": ("accuracy",), "squad": ("f1", "em"), "ud_parsing": ("las", "uas")}
OFFSETS = (-0.01, 0.0, 0.01)  # of three seeds: sd 1 point, mean unchanged
L = 12
Row = dict[str, object]
Made = Callable[[Iterator[Row]], pl.DataFrame]


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("merchant2020", SWEEPS / "merchant2020.yaml")


def score(task: str, variant: str, k: int) -> float:
    """Freezing k of 12 blocks takes a point each, keeping k of them leaves 90 minus 3 for each that is gone."""
    base = {"mnli": 0.84, "squad": 0.88, "ud_parsing": 0.92}[task]
    return base - 0.01 * k if variant == "freeze" else base - 0.03 * (L - k) if variant == "truncate" else base


def runs() -> Iterator[Row]:
    variants = [("finetuned", 0), *(("freeze", k) for k in range(L + 1)), *(("truncate", k) for k in range(1, L + 1))]
    for task, metrics in SCORES.items():
        for variant, k in variants:
            name = variant if variant == "finetuned" else f"{variant}_{k}"
            options = {"epochs": 20, "arc_size": 400} if task == "ud_parsing" else {"epochs": 3}
            for seed, offset in enumerate(OFFSETS):
                run: Row = {
                    "model": "bert",
                    "method": "finetune",
                    "variant": name,
                    "ft_task": task,
                    "task": task,
                    "corpus": "ud_ewt" if task == "ud_parsing" else task,
                    "ft_seed": seed,
                    "head_pooling": "cls",
                    "update": 100,
                    "epoch": 3.0,
                    "detail": '{"selected": true}',
                    "config": json.dumps(options | ({} if variant == "finetuned" else {variant: k})),
                    "trial": f"{task}-{name}-{seed}",
                }
                yield {**run, "metric": "train_loss", "split": "train", "unit": "loss", "value": 0.1, "n_items": 12_000}
                for i, metric in enumerate(metrics):
                    value = score(task, variant, k) + offset - 0.05 * i
                    yield {**run, "metric": metric, "value": value, "n_items": 9815}
                    if task == "mnli":
                        yield {**run, "metric": metric, "split": "mismatched", "value": value + 0.02, "n_items": 9832}


@pytest.fixture(scope="module")
def records(as_records: Made) -> pl.DataFrame:
    return as_records(runs()).sample(fraction=1, shuffle=True, seed=0)


def test_figure3_starts_with_nothing_frozen(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report, "figure3", records)
    assert len(points) == 3 * (L + 1)
    lines = list(dict.fromkeys(row["line"] for row in points))
    assert lines == ["MNLI acc. (n = 3)", "SQuAD F1 (n = 3)", "Dep LAS (n = 3)"]
    at = {(str(row["line"]).split()[0], row["x"]): row for row in points}
    assert sorted(x for task, x in at if task == "Dep") == list(range(-1, L))
    assert at["MNLI", -1]["mean"] == pytest.approx(84.0)
    # x counts blocks from 0 (METHODS 1.3): eight frozen blocks are 0 to 7.
    assert at["MNLI", 7]["mean"] == pytest.approx(100 * score("mnli", "freeze", 8))
    assert (at["Dep", 11]["low"], at["Dep", 11]["high"]) == (pytest.approx(79.0), pytest.approx(81.0))


def test_figure4_counts_the_blocks_that_are_kept(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report, "figure4", records)
    at = {(str(row["line"]).split()[0], row["x"]): row["mean"] for row in points}
    assert sorted(x for task, x in at if task == "SQuAD") == list(range(1, L + 1))
    assert at["SQuAD", 12] == pytest.approx(88.0)
    assert at["SQuAD", 5] == pytest.approx(88.0 - 21.0)


def test_missing_seeds_show_in_the_legend_and_as_a_missing_band(report: Report, records: pl.DataFrame) -> None:
    gone = (pl.col("ft_seed") > 0) & (pl.col("variant") == "freeze_3") & (pl.col("ft_task") == "mnli")
    points = drawn(report, "figure3", records.filter(~gone))
    line = {row["x"]: row for row in points if row["line"] == "MNLI acc. (n = 1 to 3)"}
    assert len(line) == L + 1
    assert line[2]["mean"] == pytest.approx(80.0)
    assert line[2]["low"] is None


def test_the_numbers_of_the_figures_are_tables(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["frozen"](records.lazy())
    assert [path[0] for path in table.columns] == ["nothing", "embeddings", *(str(k) for k in range(1, L + 1))]
    assert cell(table, ("bert", "MNLI", "acc."), "nothing") == "84.0 ± 1.0"
    assert cell(table, ("bert", "Dep", "LAS"), "12") == "80.0 ± 1.0"
    table = report.tables["kept"](records.lazy())
    assert [path[0] for path in table.columns] == [*(str(k) for k in range(1, L + 1)), "whole model"]
    assert cell(table, ("bert", "SQuAD", "F1"), "12") == cell(table, ("bert", "SQuAD", "F1"), "whole model")
    part = records.filter(~((pl.col("variant") == "truncate_4") & (pl.col("ft_task") == "squad")))
    assert cell(report.tables["kept"](part.lazy()), ("bert", "SQuAD", "F1"), "4") == DASH


def test_appendix_c_shows_the_whole_models(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["appendix_c"](records.lazy())
    assert table.frame["fine-tuned on"].to_list() == ["MNLI", "SQuAD", "Dep"]
    assert cell(table, ("bert", "MNLI"), "acc.") == "84.0 ± 1.0"
    assert cell(table, ("bert", "MNLI"), "acc., mismatched") == "86.0 ± 1.0"
    assert cell(table, ("bert", "SQuAD"), "acc., mismatched") == DASH
    assert cell(table, ("bert", "SQuAD"), "EM") == "83.0 ± 1.0"
    assert cell(table, ("bert", "Dep"), "UAS") == "87.0 ± 1.0"
    assert cell(table, ("bert", "Dep"), "training items") == "12,000"
    assert cell(table, ("bert", "Dep"), "test items") == "9,815"
    # 400 is the study's, 100 and 0.33 are the parser's own (Dozat and Manning 2017).
    assert "Parser: arc maps of width 400, label maps of width 100, dropout 0.33." in table.caption
    assert "n = 3 tuning seeds" in table.caption


def test_a_failed_run_is_left_out_in_a_second_row(report: Report, records: pl.DataFrame) -> None:
    failed = (pl.col("variant") == "freeze_12") & (pl.col("ft_task") == "mnli") & (pl.col("ft_seed") == 2)
    detail = pl.when(failed).then(pl.lit('{"selected": true, "collapsed": true}')).otherwise("detail")
    table = report.tables["frozen"](records.with_columns(detail=detail).lazy())
    assert cell(table, ("bert", "MNLI", "all", "acc."), "12") == "72.0 ± 1.0"
    assert cell(table, ("bert", "MNLI", "not collapsed", "acc."), "12") == "71.5 ± 0.7"
    assert cell(table, ("bert", "MNLI", "not collapsed", "acc."), "11") == DASH


def test_what_else_a_study_varies_is_a_line_of_its_own(report: Report, records: pl.DataFrame) -> None:
    def renamed(rate: str, drop: float) -> pl.DataFrame:
        varied = pl.concat_str("variant", pl.lit(f"[learning_rate={rate}]"))
        return records.with_columns(variant=varied, value=pl.col("value") - drop)

    both = pl.concat([renamed("2e-05", 0.0), renamed("5e-05", 0.1)])
    points = drawn(report, "figure3", both)
    mnli = {row["line"]: row["mean"] for row in points if row["x"] == 0 and str(row["line"]).startswith("MNLI")}
    assert mnli == {
        "MNLI acc., learning_rate=2e-05 (n = 3)": pytest.approx(83.0),
        "MNLI acc., learning_rate=5e-05 (n = 3)": pytest.approx(73.0),
    }
    assert "options" in report.tables["appendix_c"](both.lazy()).headers


def test_without_the_variants_a_figure_says_what_is_missing(report: Report, records: pl.DataFrame) -> None:
    whole = records.filter(pl.col("variant") == "finetuned").lazy()
    for name, key in (("figure3", "freeze"), ("figure4", "truncate")):
        with pytest.raises(MissingData, match=f"add `{key}`"):
            report.figures[name](whole)
    assert report.tables["appendix_c"](whole).frame.height == 3
    of_similarity = 4  # two figures and two tables, of which these records have nothing
    assert render_html(report, whole, "Merchant").count("Missing") == 4 + of_similarity
    assert render_html(report, records.lazy(), "Merchant").count("Missing") == of_similarity


def test_a_small_study_is_run_drawn_and_printed(report: Report, tmp_path: Path) -> None:
    entry = {"task": "word_order@grammar", "epochs": 1, "train_items": 32, "dev_items": 16, "max_length": 16}
    study = parse_study(
        {
            "name": "small",
            "models": {"tiny": {"checkpoint": str(tinylm.save(tmp_path / "tiny", "bert"))}},
            "finetune": [{**entry, "freeze": [None, 1], "seed": [0, 1]}, {**entry, "truncate": [1, 2]}],
        }
    )
    summary = ftprobe.run(study, store=tmp_path / "store", offline=True, inline=True, threads=1, device="cpu")
    assert not summary.failed
    frame = ftprobe.records(study, store=tmp_path / "store", offline=True)
    three, four = (drawn(report, name, frame.collect()) for name in ("figure3", "figure4"))
    assert [(row["line"], row["x"]) for row in three] == [("word_order acc. (n = 2)", x) for x in (-1, 0)]
    assert [(row["line"], row["x"]) for row in four] == [("word_order acc. (n = 1)", x) for x in (1, 2)]
    one = report.tables["kept"](frame.filter(pl.col("ft_seed") == 0)).frame.row(0, named=True)
    assert one["2"] == one["whole model"]  # truncation to all blocks (METHODS 1.3)
    assert write(report.figures["figure3"](frame), tmp_path, "figure3", "png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "n_blocks", "n_tasks", "own_texts"),
    [("merchant2020", 12, 3, {"mnli", "squad"}), ("merchant2020_minilm", 6, 3, {"sst2", "ud_ewt"})],
)
def test_the_shipped_studies_are_planned(
    name: str, n_blocks: int, n_tasks: int, own_texts: set[str], shared_data: Path, tmp_path: Path
) -> None:
    found = load_study(SWEEPS / f"{name}.yaml")
    per_task = {(run.variant, run.seed) for run in found.finetune}
    cuts = {f"{cut}_{k}" for cut in ("freeze", "truncate") for k in range(1, n_blocks + 1)}
    assert {variant for variant, _ in per_task} - {"freeze_0"} == {"finetuned"} | cuts
    assert {seed for _, seed in per_task} == {0, 1, 2}
    assert len(found.finetune) == n_tasks * len(per_task)
    planned = make_plan(found, Store.open(tmp_path), data_dir=str(shared_data), offline=name.endswith("minilm"))
    compared = [trial for trial in planned.trials.values() if trial.stage == "compare"]
    assert len(planned.trials) == len(found.finetune) + len(compared)
    assert {(trial.columns["variant"], trial.columns["ft_seed"]) for trial in compared} == {
        ("finetuned", seed) for seed in range(3)
    }
    domains = {(trial.columns["ft_task"], trial.columns["corpus"]): trial.columns["domain"] for trial in compared}
    assert {text for (_, text), domain in domains.items() if domain == "in"} == own_texts
    assert domains["ud_parsing", "wikitext2"] == "out"


def test_the_shipped_study_is_that_of_the_paper() -> None:
    found = load_study(SWEEPS / "merchant2020.yaml")
    own = {run.task: run.options for run in found.finetune}
    assert {task: (o.learning_rate, o.epochs, o.max_length, o.epsilon) for task, o in own.items()} == {
        "mnli": (3e-5, 3, 128, 1e-6),
        "squad": (5e-5, 3, 384, 1e-6),
        "ud_parsing": (3e-5, 20, 128, 1e-6),
    }
