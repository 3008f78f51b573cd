"""Mosbach 2020: records planted from its published tables give these tables back; gaps are dashes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tablelab import cell

from ftprobe.frames import MissingData
from ftprobe.published import load
from ftprobe.report import Report, find_report, render_html
from ftprobe.tables import DASH

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("mosbach2020", SWEEPS / "mosbach2020.yaml")


CELLS = 72  # of Table 2 and of Table 5: models x sets x poolings x tasks x groups


@pytest.mark.parametrize("name", ["table2", "table5"])
def test_delta_tables_are_the_published_ones(name: str, report: Report, paper_records: pl.DataFrame) -> None:
    values = report.tables[name](paper_records.lazy()).values
    pairs = values.pivot("source", index=["model", "task", "pooling", "tuned", "layers"], values="mean")
    assert pairs.height == CELLS
    assert pairs["ours"].to_list() == pytest.approx(pairs["published"].to_list(), abs=1e-9)
    assert values.filter(pl.col("source") == "ours")["n"].unique().to_list() == [3]
    assert values.filter(pl.col("source") == "ours")["sd"].to_list() == pytest.approx([1.0] * CELLS)


def test_delta_tables_print_like_the_paper(report: Report, paper_records: pl.DataFrame) -> None:
    table = report.tables["table2"](paper_records.lazy())
    assert table.spanners[0] == (("CoLA", 4), ("SST-2", 4))
    assert table.spanners[1] == (("0-6", 2), ("7-12", 2), ("0-6", 2), ("7-12", 2))
    assert table.frame["model"].unique(maintain_order=True).to_list() == ["bert", "roberta", "albert"]
    row = ("bert", "bigram_shift", "cls")
    assert cell(table, row, "CoLA / 7-12 / ours") == "4.73 ± 1.00"
    assert cell(table, row, "CoLA / 7-12 / published") == "4.73"


def test_table1_is_the_published_one(report: Report, paper_records: pl.DataFrame) -> None:
    table = report.tables["table1"](paper_records.lazy())
    assert [path[0] for path in table.columns[::2]] == ["CoLA MCC", "SST-2 acc.", "RTE acc.", "SQuAD EM", "SQuAD F1"]
    pairs = table.values.filter(pl.col("model") != "BERT, Devlin et al. 2019").pivot(
        "source", index=["model", "score"], values="mean"
    )
    assert pairs.height == 15
    assert pairs["ours"].to_list() == pytest.approx(pairs["published"].to_list())
    assert cell(table, ("BERT, Devlin et al. 2019",), "SQuAD F1 / published") == "88.5"
    assert cell(table, ("BERT, Devlin et al. 2019",), "SQuAD F1 / ours") == DASH
    assert cell(table, ("roberta",), "CoLA MCC / ours") == "60.3 ± 1.0"


def test_table3_says_what_differs_by_task(report: Report, paper_records: pl.DataFrame) -> None:
    table = report.tables["table3"](paper_records.lazy())
    own = {row[0]: row[1:] for row in table.frame.rows()}
    assert own["epochs"] == ("3 (1 for SST-2)", "3 (1 for SST-2)")
    assert own["learning rate"] == ("2e-5", "2e-5")
    assert own["warm-up steps"] == ("10 %", "10 %")
    assert own["learning rate schedule"] == ("warmup-constant", "warmup-constant")
    assert own["Adam beta2"] == ("0.99", "0.99")
    assert own["longest input (sub-words)"] == (DASH, DASH)


def test_table4_counts(report: Report, paper_records: pl.DataFrame) -> None:
    table = report.tables["table4"](paper_records.lazy())
    assert cell(table, ("training",), "CoLA / ours") == "8,551"
    assert cell(table, ("training",), "CoLA / published") == "8,600"
    assert cell(table, ("validation",), "SST-2 / ours") == "872"
    assert cell(table, ("validation",), "SST-2 / published") == "874"
    assert cell(table, ("metric",), "CoLA / ours") == "MCC"
    assert cell(table, ("training",), "SQuAD / ours") == DASH
    assert not [path for path in table.columns if "odd" in path[0]]


def test_table4_says_when_a_sample_was_used(report: Report, paper_records: pl.DataFrame) -> None:
    scored = (pl.col("method") == "finetune") & (pl.col("ft_task") == "cola")
    capped = paper_records.with_columns(n_items=pl.when(scored).then(500).otherwise("n_items"))
    table = report.tables["table4"](capped.lazy())
    assert cell(table, ("validation",), "CoLA / ours") == "1,043 (500 used)"
    assert cell(table, ("validation",), "SST-2 / ours") == "872"


@pytest.mark.parametrize("gone", ["pretrained", "finetuned"])
def test_a_missing_layer_is_a_dash_beside_the_published_number(
    gone: str, report: Report, paper_records: pl.DataFrame
) -> None:
    hole = (pl.col("layer") == 9) & (pl.col("task") == "odd_man_out") & (pl.col("model") == "bert")
    hole &= (pl.col("pooling") == "cls") & (pl.col("variant") == gone)
    table = report.tables["table2"](paper_records.filter(~hole.fill_null(False)).lazy())
    row = ("bert", "odd_man_out", "cls")
    assert cell(table, row, "CoLA / 7-12 / ours") == DASH
    assert cell(table, row, "CoLA / 7-12 / published") == "0.26"
    assert cell(table, row, "CoLA / 0-6 / ours") == "-0.20 ± 1.00"


def test_what_the_study_leaves_out_is_dashes(report: Report, paper_records: pl.DataFrame) -> None:
    part = paper_records.filter(
        pl.col("ft_task").fill_null("cola") == "cola", pl.col("model") == "bert", pl.col("task") != "odd_man_out"
    ).lazy()
    table = report.tables["table2"](part)
    assert cell(table, ("bert", "odd_man_out", "cls"), "CoLA / 0-6 / ours") == DASH
    assert cell(table, ("bert", "odd_man_out", "cls"), "CoLA / 0-6 / published") == "-0.20"
    assert cell(table, ("bert", "bigram_shift", "cls"), "SST-2 / 0-6 / ours") == DASH
    with pytest.raises(MissingData, match="tuned on RTE or SQuAD"):
        report.tables["table5"](part)


def test_another_model_has_dashes_for_published(report: Report, paper_records: pl.DataFrame) -> None:
    other = paper_records.filter(pl.col("layer").is_null() | (pl.col("layer") <= 6))
    other = other.with_columns(model=pl.col("model").replace("bert", "minilm")).filter(pl.col("model") == "minilm")
    table = report.tables["table2"](other.lazy())
    assert {path[1] for path in table.columns} == {"0-3", "4-6"}
    published = [name for name in table.frame.columns if name.endswith("published")]
    assert len(published) == 4
    assert set(table.frame.select(published).unpivot()["value"]) == {DASH}
    assert cell(table, ("minilm", "bigram_shift", "cls"), "CoLA / 0-3 / ours") != DASH
    assert set(report.tables["table1"](other.lazy()).frame["model"]) == {"BERT, Devlin et al. 2019", "minilm"}


@pytest.mark.parametrize(
    ("alias", "checkpoint", "matches"),
    [
        ("bert", "google-bert/bert-base-uncased", False),
        ("mine", "google-bert/bert-base-cased", True),
        ("mine", "/models/bert-base-cased", True),
        ("mine", None, False),
        ("bert", None, True),
    ],
)
def test_the_checkpoint_decides_before_the_alias(
    alias: str, checkpoint: str | None, matches: bool, report: Report, paper_records: pl.DataFrame
) -> None:
    detail = None if checkpoint is None else f'{{"checkpoint": "{checkpoint}"}}'
    own = paper_records.filter(pl.col("model") == "bert").with_columns(
        model=pl.lit(alias), detail=pl.lit(detail, pl.String)
    )
    table = report.tables["table2"](own.lazy())
    shown = cell(table, (alias, "bigram_shift", "cls"), "CoLA / 7-12 / published")
    assert shown == ("4.73" if matches else DASH)


def test_a_second_head_is_a_row_without_published_numbers(report: Report, paper_records: pl.DataFrame) -> None:
    mean = paper_records.filter(pl.col("ft_task").is_not_null()).with_columns(head_pooling=pl.lit("mean"))
    for name, row in (("table1", ("bert",)), ("table2", ("bert", "bigram_shift"))):
        table = report.tables[name](pl.concat([paper_records, mean]).lazy())
        assert "head" in table.headers
        column = table.frame.columns[table.headers.index("head") + 1 :][-1]
        assert column.endswith("published")
        by_head = dict(table.frame.filter(pl.col("model") == row[0]).select("head", column).unique("head").rows())
        assert by_head["mean"] == DASH
        assert by_head["cls"] != DASH


def test_generated_sets_are_named(report: Report, paper_records: pl.DataFrame) -> None:
    corpus = pl.when(pl.col("method") == "linear").then(pl.lit("ud_ewt")).otherwise("corpus")
    generated = paper_records.with_columns(corpus=corpus, n_items=pl.lit(500, pl.Int64))
    table = report.tables["table2"](generated.lazy())
    assert "Generated, not SentEval's sets: bigram_shift from ud_ewt" in table.caption
    assert "95 % bootstrap intervals" in table.caption  # fewer than 1,000 items (METHODS 15)
    assert any(str(text).startswith("[") for text in table.frame["CoLA / 0-6 / ours"])
    assert "Generated" not in report.tables["table2"](paper_records.lazy()).caption


def test_figures_draw_every_point_once(report: Report, paper_records: pl.DataFrame) -> None:
    rows = {
        name: next(iter(make(paper_records.lazy()).to_dict()["datasets"].values()))
        for name, make in report.figures.items()
    }
    assert len(rows["figure1"]) == 3 * 3 * 2 * 13  # models, sets, poolings, layers
    assert len(rows["figure4"]) == len(rows["figure5"]) == 3 * 3 * 4 * 13  # models, sets, tasks, layers
    starred = {(r["model"], r["task"], r["tuned"], r["layer"]): r for r in rows["figure4"]}
    point = starred["bert", "bigram_shift", "CoLA", 12]
    assert point["stars"] == pytest.approx(point["mean"] - 5.0)  # mean pooling is planted 5 points above CLS


def test_attention_figures_show_each_block_of_final_states(report: Report, paper_records: pl.DataFrame) -> None:
    drawn = {}
    for name in ("figure2a", "figure2b"):
        (rows,) = report.figures[name](paper_records.lazy()).to_dict()["datasets"].values()
        drawn[name] = pl.DataFrame(rows)
    states = ["pre-trained", "CoLA, head cls (n = 3)", "CoLA, head mean (n = 3)"]
    entropy = drawn["figure2a"]
    assert entropy["state"].unique(maintain_order=True).to_list() == states  # bars stand in this order
    at_top = entropy.filter(layer=12).select("state", "mean").rows()
    assert [state for state, _ in at_top] == states
    assert [mean for _, mean in at_top] == pytest.approx([1.4, 4.4, 2.9])
    assert entropy.height == 3 * 12
    ends = entropy.filter(layer=12, state=states[1]).select("low", "high").row(0)
    assert ends == pytest.approx((4.39, 4.41))  # planted: an sd of 0.01 over seeds
    distance = drawn["figure2b"]
    assert distance.height == 2 * 2 * 12  # heads, positions, blocks
    assert distance.filter(layer=12, state=states[1], position="other")["mean"].item() == pytest.approx(1.5)
    assert distance.filter(layer=6)["mean"].to_list() == pytest.approx([0.0] * 4)


def test_attention_of_two_corpora_is_in_two_panels(report: Report, paper_records: pl.DataFrame) -> None:
    again = paper_records.filter(pl.col("method") == "attention").with_columns(corpus=pl.lit("cola"))
    (rows,) = report.figures["figure2a"](pl.concat([paper_records, again]).lazy()).to_dict()["datasets"].values()
    assert {row["panel"] for row in rows} == {"roberta, bigram_shift", "roberta, cola"}
    assert len(rows) == 2 * 3 * 12


def test_page(report: Report, paper_records: pl.DataFrame) -> None:
    page = render_html(report, paper_records.lazy(), "Mosbach 2020")
    assert "Missing" not in page
    assert page.count("<h2>") == 10


def test_published_tables_are_whole() -> None:
    heights = {p: load(p).height for p in ("mosbach2020", "merchant2020", "zhou2022", "durrani2021", "cai2020")}
    assert heights == {"mosbach2020": 190, "merchant2020": 48, "zhou2022": 411, "durrani2021": 249, "cai2020": 12}
    frame = load("mosbach2020")
    assert frame.filter(pl.col("unit") != "text")["number"].null_count() == 0
