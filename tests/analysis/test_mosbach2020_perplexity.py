"""Mosbach 2020, section 5: attention and perplexity, from a real run of a model that the study pre-trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ftprobe import api
from ftprobe.figures import Chart
from ftprobe.frames import MissingData
from ftprobe.report import Report, find_report, render_html
from ftprobe.study import load_study, parse_study
from ftprobe.tables import DASH, Table

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
LAYERS = 2
SEEDS = (0, 1)
SIZE = {"layers": LAYERS, "dim": 16, "heads": 2, "vocab": 400, "block": 32, "updates": 8, "batch_size": 4}
TUNED: dict[str, Any] = {
    "task": "word_order@grammar",
    "recipe": "mosbach2020",
    "learning_rate": 5.0e-3,
    "epochs": 1,
    "train_items": 64,
    "dev_items": 16,
    "max_length": 32,
    "seed": list(SEEDS),
}
STUDY = {
    "name": "section5",
    "report": "mosbach2020_perplexity",
    "models": {"tiny": {"pretrain": {"text": "grammar", **SIZE}}},
    "finetune": [
        {**TUNED, "snapshots": {"epochs": 1}},
        {**TUNED, "replace_top": [1, 2]},
        {**TUNED, "replace_top": 2, "replace_embeddings": "pretrained"},
    ],
    "compare": [
        {"measure": {"kind": "perplexity", "block": 32}, "corpus": "grammar", "items": 60},
    ],
}
ATTENTION = {
    **STUDY,
    "finetune": [TUNED],  # the same runs: the store has them
    "compare": [{"measure": {"kind": "attention"}, "corpus": "grammar", "items": 10}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    for study in (STUDY, ATTENTION):
        done = api.run(parse_study(study), store=folder, offline=True, inline=True, device="cpu", threads=1)
        assert not done.failed
    return folder


@pytest.fixture(scope="module")
def records(store: Path) -> pl.DataFrame:
    return api.records(parse_study(STUDY), store=store).collect()


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("mosbach2020_perplexity", SWEEPS / "mosbach2020_perplexity.yaml")


def drawn(chart: Chart) -> pl.DataFrame:
    (rows,) = chart.to_dict()["datasets"].values()
    return pl.DataFrame(rows)


def numbers(table: Table, **at: str) -> dict[str, float | None]:
    return dict(table.values.filter(**at).select("blocks", "mean").rows())


def perplexity(records: pl.DataFrame, metric: str = "mlm_ppl") -> pl.DataFrame:
    return records.filter(pl.col("method") == "perplexity", pl.col("metric") == metric)


def test_perplexity_over_epochs_starts_at_the_pretrained_one(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report.figures["figure3ab"](records.lazy())).sort("epoch")
    rows = perplexity(records)
    (base,) = rows.filter(pl.col("ft_task").is_null())["value"].to_list()
    assert points["epoch"].to_list() == [0, 1]
    assert points["mean"][0] == base
    assert points["low"][0] == points["high"][0] == base
    whole = rows.filter(pl.col("variant") == "finetuned", pl.col("update").is_null())["value"]
    assert points["mean"][1] == pytest.approx(whole.mean())
    assert points["high"][1] - points["mean"][1] == pytest.approx(whole.std())
    assert points["state"].unique().to_list() == ["word_order (n = 2)"]
    assert points["mean"][1] != pytest.approx(base, rel=1e-4)


def test_perplexity_over_replaced_blocks_ends_at_the_pretrained_one(report: Report, records: pl.DataFrame) -> None:
    points = drawn(report.figures["figure3cd"](records.lazy()))
    level = points.filter(pl.col("state") == "pre-trained").sort("replaced")
    (base,) = perplexity(records).filter(pl.col("ft_task").is_null())["value"].to_list()
    assert level["mean"].to_list() == [base] * (LAYERS + 1)
    own = points.filter(pl.col("state") != "pre-trained").sort("embeddings", "replaced")
    assert own.select("embeddings", "replaced").rows() == [("pretrained", 2), ("tuned", 0), ("tuned", 1), ("tuned", 2)]
    assert own["mean"][0] == base
    named = perplexity(records).filter(pl.col("update").is_null(), pl.col("variant") == "replace_top_1")
    assert own["mean"][2] == pytest.approx(named["value"].mean())


def test_recovery_goes_from_nothing_to_everything(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["recovery"](records.lazy())
    assert table.columns == (("rise",), ("0",), ("1",), ("2",))
    assert table.frame["embeddings"].to_list() == ["pretrained", "tuned"]
    tuned, theirs = numbers(table, embeddings="tuned"), numbers(table, embeddings="pretrained")
    assert tuned["0"] == 0.0
    assert theirs["2"] == 1.0
    nll = perplexity(records, "mlm_nll").filter(pl.col("update").is_null())
    (base,) = nll.filter(pl.col("ft_task").is_null())["value"].to_list()
    by_run = nll.filter(pl.col("ft_task").is_not_null()).pivot("variant", index="ft_seed", values="value")
    lost = by_run["finetuned"] - base
    assert tuned["rise"] == pytest.approx(lost.mean())
    assert tuned["1"] == pytest.approx(((by_run["finetuned"] - by_run["replace_top_1"]) / lost).mean())
    assert table.values.filter(embeddings="tuned")["n"].unique().to_list() == [len(SEEDS)]
    assert "Corpus: grammar" in table.caption


def test_what_is_missing_is_a_dash_and_never_zero(report: Report, records: pl.DataFrame) -> None:
    gone = (pl.col("variant") == "replace_top_1") & (pl.col("method") == "perplexity")
    table = report.tables["recovery"](records.filter(~gone).lazy())
    assert [path[0] for path in table.columns] == ["rise", "0", "2"]
    # One run whose untouched state was not measured: it has no share to recover.
    lost = (pl.col("variant") == "finetuned") & (pl.col("method") == "perplexity")
    table = report.tables["recovery"](records.filter(~lost | pl.col("update").is_not_null()).lazy())
    assert table.frame.filter(embeddings="tuned").select("1", "2").rows() == [(DASH, DASH)]
    no_base = records.filter((pl.col("method") != "perplexity") | pl.col("ft_task").is_not_null())
    assert set(numbers(report.tables["recovery"](no_base.lazy()), embeddings="tuned").values()) == {None}
    with pytest.raises(MissingData, match="snapshots"):
        report.figures["figure3ab"](records.filter(pl.col("update").is_null()).lazy())
    with pytest.raises(MissingData, match="kind: perplexity"):
        report.figures["figure3cd"](records.filter(pl.col("method") != "perplexity").lazy())


def test_masks_drawn_anew_are_averaged_within_their_run(report: Report, records: pl.DataFrame) -> None:
    rows = perplexity(records)
    again = rows.with_columns(pl.col("value") + 2.0, probe_seed=pl.lit(1, pl.Int64))
    once = drawn(report.figures["figure3ab"](rows.lazy())).sort("epoch")
    both = drawn(report.figures["figure3ab"](pl.concat([rows, again]).lazy())).sort("epoch")
    assert (both["mean"] - once["mean"]).to_list() == pytest.approx([1.0] * 2)
    assert both["state"].unique().to_list() == ["word_order (n = 2)"]


def test_attention_is_drawn_by_block_and_state(store: Path) -> None:
    records = api.records(parse_study(ATTENTION), store=store).collect()
    whole = find_report("mosbach2020", SWEEPS / "mosbach2020.yaml")
    entropy = drawn(whole.figures["figure2a"](records.lazy())).sort("state", "layer")
    assert entropy.select("state", "layer").rows() == [
        (state, layer) for state in ("pre-trained", "word_order, head cls (n = 2)") for layer in (1, 2)
    ]
    emd = drawn(whole.figures["figure2b"](records.lazy()))
    assert emd.height == 2 * LAYERS  # positions, blocks: the pre-trained model is at no distance from itself
    assert emd["mean"].min() > 0
    own = records.filter(
        pl.col("metric") == "attention_emd", pl.col("variant") == "finetuned", pl.col("update").is_null(),
        pl.col("layer") == 1, pl.col("detail").str.contains('"head": null, "position": "cls"', literal=True)
    )  # fmt: skip
    assert own.height == len(SEEDS)
    assert emd.filter(layer=1, position="cls")["mean"].item() == pytest.approx(own["value"].mean())
    with pytest.raises(MissingData, match="kind: attention"):
        whole.figures["figure2a"](records.filter(pl.col("method") != "attention").lazy())


def test_page(report: Report, records: pl.DataFrame) -> None:
    page = render_html(report, records.lazy(), "section 5")
    assert "Missing" not in page
    assert page.count("<h2>") == 4


def test_the_shipped_study_is_that_of_the_paper() -> None:
    found = load_study(SWEEPS / "mosbach2020_perplexity.yaml")
    assert {(run.model, run.task) for run in found.finetune} == {
        (m, t) for m in ("bert", "roberta") for t in ("cola", "sst2")
    }
    assert {run.seed for run in found.finetune} == set(range(5))
    replaced = {(run.edit.replace_top, run.edit.replace_embeddings) for run in found.finetune}
    assert replaced == {(None, "tuned"), (12, "pretrained"), *((m, "tuned") for m in range(1, 13))}
    assert [run.snapshots.epochs for run in found.finetune if run.snapshots] == [1] * 20
    assert {(run.kind, run.corpus.partition("@")[2] or run.corpus, run.split) for run in found.compare} == {
        ("perplexity", "wikitext2", "test")
    }
    trained = {run.options for run in load_study(SWEEPS / "mosbach2020.yaml").finetune}
    assert {run.options for run in found.finetune} < trained


def test_the_small_study_replaces_every_block() -> None:
    found = load_study(SWEEPS / "mosbach2020_perplexity_tiny.yaml")
    pretrain = found.models["tiny"].pretrain
    assert pretrain is not None
    assert {run.edit.replace_top for run in found.finetune} == {None, *range(1, pretrain.layers + 1)}
    assert {run.options.max_length for run in found.finetune} == {pretrain.block}
    assert {run.seed for run in found.finetune} == {0, 1, 2}
    assert {run.options.model_dump()["block"] for run in found.compare} == {pretrain.block}
