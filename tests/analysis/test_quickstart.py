"""The quickstart's report: the change at every layer, first thing."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ftprobe.report import find_report, render_html

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def test_delta_table_shows_every_layer(paper_records: pl.DataFrame) -> None:
    report = find_report("quickstart", SWEEPS / "quickstart.yaml")
    assert next(iter(report.tables)) == "delta"
    table = report.tables["delta"](paper_records.lazy())
    assert table.columns == tuple((str(layer),) for layer in range(13))
    own = table.values.filter(model="bert", ft_task="cola", task="bigram_shift", pooling="cls")
    by_layer = dict(own.select("layer", "mean").rows())
    # Planted: the published 4.73 points over layers 7 to 12, half a layer's tilt away from their middle.
    assert round(by_layer["9"], 9) == 4.23
    assert round(by_layer["10"], 9) == 5.23


def test_page(paper_records: pl.DataFrame) -> None:
    report = find_report("quickstart", SWEEPS / "quickstart.yaml")
    assert "Missing" not in render_html(report, paper_records.lazy(), "quickstart")
