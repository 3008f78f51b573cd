"""Merchant 2020, similarity: planted RSA stands where figures, table and claims say; a small study is run and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tinylm

import ftprobe
from ftprobe.figures import write
from ftprobe.frames import MissingData
from ftprobe.report import Report, find_report
from ftprobe.study import parse_study
from ftprobe.tables import Table

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
L, BLOCKS = 12, 50
CORPORA = {"mnli": "mnli", "squad": "squad", "ud_parsing": "ud_ewt", "sst2": "sst2", "upos": "ud_ewt"}
FALL = {"mnli": 0.005, "squad": 0.015, "ud_parsing": 0.04, "sst2": 0.005, "upos": 0.015}
"""By how much RSA falls a layer: MNLI stays nearest to the pre-trained model."""
Row = dict[str, object]
Made = Callable[[Iterator[Row]], pl.DataFrame]


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("merchant2020", SWEEPS / "merchant2020.yaml")


def rsa(task: str, corpus: str, layer: int, seed: int) -> float:
    """Own text moves twice as much."""
    return 1 - (1 + (corpus == CORPORA[task])) * FALL[task] * layer + 0.001 * (seed - 1)


def rows(tasks: tuple[str, ...], corpora: tuple[str, ...], **changes: object) -> Iterator[Row]:
    for task in tasks:
        for corpus in corpora:
            for seed in range(3):
                for layer in range(L + 1):
                    value = rsa(task, corpus, layer, seed)
                    noise = np.random.default_rng([layer, len(corpus)]).normal(size=BLOCKS) * 1e-4
                    without = (value + noise).tolist()
                    yield {
                        "model": "bert",
                        "method": "similarity",
                        "variant": "finetuned",
                        "ft_task": task,
                        "ft_seed": seed,
                        "head_pooling": "cls",
                        "corpus": corpus,
                        "domain": "in" if corpus == CORPORA[task] else "out",
                        "layer": layer,
                        "probe_seed": 0,
                        "metric": "rsa",
                        "unit": "r",
                        "value": value,
                        "n_items": 5000,
                        "config": '{"compare": {"kind": "similarity", "n": 5000}}',
                        "detail": json.dumps({"draw": 0, "against": "pretrained", "without": without}),
                        **changes,
                    }


PAPER = ("mnli", "squad", "ud_parsing")


@pytest.fixture(scope="module")
def records(as_records: Made) -> pl.DataFrame:
    every = [*rows(PAPER, ("wikitext2", "mnli", "squad"))]
    # What no figure shows: a frozen variant, a state on the way, and two seeds compared with one another.
    every += rows(("mnli",), ("wikitext2",), variant="freeze_3", value=0.1)
    every += rows(("mnli",), ("wikitext2",), update=7, value=0.2)
    every += rows(("mnli",), ("wikitext2",), config='{"against": "seed=1", "compare": {"n": 5000}}', value=0.3)
    return as_records(iter(every)).sample(fraction=1, shuffle=True, seed=0)


def drawn(report: Report, figure: str, records: pl.DataFrame) -> list[dict[str, object]]:
    return next(iter(report.figures[figure](records.lazy()).to_dict()["datasets"].values()))


def lines(table: Table, claim: str) -> dict[str, dict[str, str]]:
    """The cells of a claim by what they are of."""
    return {str(row["cell"]): row for row in table.frame.iter_rows(named=True) if row["claim"] == claim}


def test_figure2_is_rsa_on_wikipedia(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report, "figure2", records)
    assert len(points) == 3 * (L + 1)
    assert list(dict.fromkeys(row["line"] for row in points)) == ["MNLI (n = 3)", "SQuAD (n = 3)", "Dep (n = 3)"]
    (point,) = [row for row in points if (row["line"], row["layer"]) == ("Dep (n = 3)", 10)]
    assert point["mean"] == pytest.approx(0.6)
    assert (point["low"], point["high"]) == (pytest.approx(0.599), pytest.approx(0.601))


def test_figure5_has_a_panel_a_model_and_a_line_a_text(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report, "figure5", records)
    panels = {(row["panel"], row["text"], row["domain"]) for row in points}
    assert ("bert, MNLI (n = 3)", "mnli", "in") in panels
    assert ("bert, MNLI (n = 3)", "squad", "out") in panels
    assert ("bert, SQuAD (n = 3)", "squad", "in") in panels
    assert len(panels) == 9
    means = {row["text"]: row["mean"] for row in points if (row["panel"], row["layer"]) == ("bert, SQuAD (n = 3)", 12)}
    assert means == {name: pytest.approx(rsa("squad", name, 12, 1)) for name in ("wikitext2", "mnli", "squad")}


def test_the_table_has_layers_groups_and_intervals(report: Report, records: pl.DataFrame) -> None:
    whole = records.filter(pl.col("variant") == "finetuned", ~pl.col("config").str.contains("against"))
    table = report.tables["similarity"](whole.lazy())
    assert [path[0] for path in table.columns] == [*map(str, range(L + 1)), "lower", "upper"]
    assert table.headers == ("model", "fine-tuned on", "text", "domain", "measure")
    row, interval = table.frame.filter(pl.col("fine-tuned on").is_in(["MNLI", ""])).rows(named=True)[:2]
    assert (row["text"], row["domain"], row["measure"]) == ("mnli", "in", "RSA")
    assert row["12"] == "0.880 ± 0.001"
    assert row["upper"] == f"{np.mean([rsa('mnli', 'mnli', layer, 1) for layer in range(7, 13)]):.3f} ± 0.001"
    assert interval["12"].startswith("[0.87")
    assert "jackknife" in table.caption
    assert "Tokens: 5,000." in table.caption
    # With everything else there are headers that tell it apart.
    assert {"variant", "options"} <= set(report.tables["similarity"](records.lazy()).headers)


def test_claims_of_planted_curves(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["claims"](records.lazy())
    assert {claim: lines(table, claim)["all"]["verdict"] for claim in ("R7", "R8", "R9", "R14")} == dict.fromkeys(
        ("R7", "R8", "R9", "R14"), "supported"
    )
    # RSA falls below 0.9 at layer 3 for Dep, 7 for SQuAD, never for MNLI.
    assert lines(table, "R8")["bert, SQuAD less Dep"]["effect"] == "4, 4, 4"
    assert lines(table, "R8")["bert, MNLI less Dep"]["effect"] == "10, 10, 10"
    assert lines(table, "R9")["bert, SQuAD less Dep"]["effect"] == "0.275, 0.275, 0.275"
    assert lines(table, "R9")["bert, MNLI less SQuAD"]["effect"] == "0.11, 0.11, 0.11"
    upper = np.mean([0.005 * layer for layer in range(7, 13)])
    own = lines(table, "R14")["bert, MNLI, wikitext2 less mnli"]
    assert [float(each) for each in own["effect"].split(", ")] == pytest.approx([upper] * 3, abs=5e-5)
    assert float(own["q"]) < 0.05
    assert len(lines(table, "R7")) == 1 + 3


def test_turned_round_the_claims_are_contradicted(report: Report, records: pl.DataFrame) -> None:
    swapped = {"mnli": "ud_parsing", "ud_parsing": "mnli"}
    turned = records.with_columns(pl.col("ft_task").replace(swapped)).filter(pl.col("variant") == "finetuned")
    table = report.tables["claims"](turned.lazy())
    assert lines(table, "R8")["all"]["verdict"] == "contradicted"
    assert lines(table, "R9")["bert, MNLI less SQuAD"]["verdict"] == "contradicted"
    two = records.filter(pl.col("ft_seed") < 2)
    assert lines(report.tables["claims"](two.lazy()), "R7")["all"]["verdict"] == "inconclusive"


def test_stand_ins_are_named(report: Report, as_records: Made) -> None:
    own = as_records(rows(("sst2", "upos", "ud_parsing"), ("wikitext2", "sst2", "ud_ewt")))
    table = report.tables["claims"](own.lazy())
    assert "bert, POS (for SQuAD) less Dep" in lines(table, "R9")
    assert "bert, SST-2 (for MNLI) less POS (for SQuAD)" in lines(table, "R9")
    assert set(lines(table, "R14")) == {
        "all",
        "bert, SST-2 (for MNLI), wikitext2 less sst2",
        "bert, POS (for SQuAD), wikitext2 less ud_ewt",
    }


def test_without_similarity_what_is_missing_is_said(report: Report, records: pl.DataFrame) -> None:
    none = records.filter(pl.lit(False)).lazy()
    for make in (
        report.figures["figure2"],
        report.figures["figure5"],
        *(report.tables[n] for n in ("similarity", "claims")),
    ):
        with pytest.raises(MissingData, match="kind: similarity"):
            make(none)
    elsewhere = records.filter(pl.col("corpus") != "wikitext2").lazy()
    with pytest.raises(MissingData, match="on WikiText"):
        report.figures["figure2"](elsewhere)
    assert lines(report.tables["claims"](elsewhere), "R9")["all"]["verdict"] == "untested"


def test_a_small_study_is_compared_drawn_and_printed(report: Report, tmp_path: Path) -> None:
    (tmp_path / "wikitext2").mkdir()
    texts = np.random.default_rng(0).choice(tinylm.WORDS, (60, 8))
    (tmp_path / "wikitext2" / "test.txt").write_text("\n".join(map(" ".join, texts)) + "\n")
    entry = {"task": "acceptability", "epochs": 1, "train_items": 32, "dev_items": 16, "max_length": 16}
    measure = {"kind": "similarity", "n": 50, "draws": 2}
    study = parse_study(
        {
            "name": "small",
            "models": {"tiny": {"checkpoint": str(tinylm.save(tmp_path / "tiny", "bert"))}},
            "data": {"wikitext2": str(tmp_path / "wikitext2")},
            "finetune": [{**entry, "seed": [0, 1]}],
            "compare": [{"corpus": ["wikitext2", "grammar"], "on": "finetuned", "measure": measure}],
        }
    )
    summary = ftprobe.run(study, store=tmp_path / "store", offline=True, inline=True, threads=1, device="cpu")
    assert not summary.failed
    frame = ftprobe.records(study, store=tmp_path / "store", offline=True)
    assert {row["domain"] for row in drawn(report, "figure5", frame.collect())} == {"in", "out"}
    assert {row["line"] for row in drawn(report, "figure2", frame.collect())} == {"acceptability (n = 2)"}
    assert report.tables["similarity"](frame).values.filter(pl.col("measure") == "CKA").height == 2 * 5
    assert write(report.figures["figure5"](frame), tmp_path, "figure5", "png").stat().st_size > 10_000
