"""Figures: every panel shows its own data, in four formats, without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ftprobe import figures
from ftprobe.errors import InputError
from ftprobe.figures import Field
from ftprobe.frames import MissingData

Y = Field("mean", "change (points)")
MAGIC = {"html": b"<!DOCTYPE html>", "svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}


def points() -> pl.DataFrame:
    """Two panels, two series: the series' height says which panel they are in."""
    return pl.DataFrame(
        [
            {"layer": layer, "mean": 10.0 * i + j + layer / 10, "task": task, "tuned": tuned, "pooling": "cls",
             "low": 10.0 * i + j - 0.5, "high": 10.0 * i + j + 0.5, "stars": -float(layer)}
            for i, task in enumerate(("bigram", "odd"))
            for j, tuned in enumerate(("cola", "sst2"))
            for layer in range(7)
        ]
    )  # fmt: skip


def curves(frame: pl.DataFrame, **options: Any) -> figures.Chart:
    given = {"color": Field("tuned", "tuned on"), "column": Field("task", "task"), "zero_line": True, **options}
    return figures.layer_curves(frame, title="Change by layer", y=Y, **given)


def drawn_lines(svg: str) -> list[str]:
    """The path of each line of series."""
    return re.findall(r'aria-roledescription="line mark"[^>]*?d="([^"]+)"', svg)


@pytest.mark.parametrize("stars", [None, Field("stars", "stars")], ids=["facets", "grid"])
def test_every_panel_shows_its_own_lines(stars: Field | None) -> None:
    lines = drawn_lines(figures.to_svg(curves(points(), stars=stars)))
    assert len(lines) == 4  # two panels of two lines
    assert len(set(lines)) == 4


def test_a_null_breaks_the_line() -> None:
    gap = pl.when(pl.col("layer") != 3).then("mean").alias("mean")
    lines = drawn_lines(figures.to_svg(curves(points().with_columns(gap))))
    assert all(line.count("M") == 2 for line in lines)


def test_a_missing_value_is_not_drawn_at_zero() -> None:
    text = curves(points().with_columns(mean=pl.when(pl.col("layer") != 3).then("mean"))).to_json()
    (values,) = json.loads(text)["datasets"].values()
    assert {row["mean"] for row in values if row["layer"] == 3} == {None}


@pytest.mark.parametrize("format", figures.FORMATS)
def test_formats(format: str, tmp_path: Path) -> None:
    path = figures.write(curves(points()), tmp_path / "new", "figure", format)
    assert path.name == f"figure.{format}"
    assert path.read_bytes().startswith(MAGIC[format])


def test_html_carries_its_scripts(tmp_path: Path) -> None:
    page = figures.write(curves(points()), tmp_path, "figure", "html").read_text(encoding="utf-8")
    scripts = re.findall(r"(<script\b[^>]*>)(.*?)</script>", page, flags=re.S)
    rest = re.sub(r"<script\b.*?</script>", "", page, flags=re.S)
    assert scripts
    assert not re.search(r"\b(?:src|href)\s*=|@import|url\(", rest + "".join(tag for tag, _ in scripts))
    code = "".join(body for _, body in scripts)
    assert len(code) > 500_000
    assert not re.search(r"import\s*\(|\bfrom\s*['\"]http|cdn\.", code)


def test_image_tag_is_self_contained() -> None:
    tag = figures.to_image_tag(figures.titled(curves(points()), 'a "b" <c>'))
    assert tag.startswith('<img alt="a &quot;b&quot; &lt;c&gt;" src="data:image/svg+xml;base64,')


def test_many_rows_are_drawn() -> None:
    many = pl.DataFrame({"layer": range(6_000), "mean": [layer % 7 for layer in range(6_000)]})
    (line,) = drawn_lines(figures.to_svg(curves(many, color=None, column=None)))
    assert line.count("L") == 5_999


def test_bars_have_whiskers() -> None:
    frame = points().filter(pl.col("layer") == 0)
    svg = figures.to_svg(figures.bars(frame, title="t", x=Field("task", "task"), y=Y, color=Field("tuned", "tuned on")))
    assert svg.count('aria-roledescription="bar"') == 4
    assert svg.count('aria-roledescription="rule mark"') == 4


def test_bars_stand_in_the_order_of_the_frame_as_in_the_legend() -> None:
    frame = points().filter(layer=1, task="odd").reverse()
    chart = figures.bars(frame, title="t", x=Field("layer", "block"), y=Y, color=Field("tuned", "tuned on"))
    bars = re.findall(r'aria-label="[^"]*tuned on: (\w+)" role="graphics-symbol" aria-roledescription="bar"[^>]*'
                      r'd="M([\d.]+),', figures.to_svg(chart))  # fmt: skip
    assert [name for name, _ in sorted(bars, key=lambda bar: float(bar[1]))] == ["sst2", "cola"]


def test_colours_do_not_repeat_among_few_series() -> None:
    assert len(set(figures.PALETTE)) == len(figures.PALETTE) >= 7


def test_no_values_is_missing_data() -> None:
    nothing = points().with_columns(mean=pl.lit(None, pl.Float64))
    with pytest.raises(MissingData, match="Change by layer"):
        curves(nothing)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'png'"):
        figures.write(curves(points()), tmp_path, "figure", "pngg")


def labels(svg: str) -> list[str]:
    """What stands at the ticks of the lower axis."""
    axis = svg.split("X-axis titled")[1].split("Y-axis titled")[0]
    return re.findall(r"<text[^>]*>(\d+)</text>", axis)


@pytest.mark.parametrize(("last", "expected"), [(1, ["0", "1"]), (3, ["0", "1", "2", "3"])])
def test_few_steps_have_a_tick_at_every_whole_number_and_none_between(last: int, expected: list[str]) -> None:
    frame = points().filter((pl.col("layer") <= last) & (pl.col("task") == "odd"))
    chart = curves(frame, column=None, x=Field("layer", "epoch"))
    assert labels(figures.to_svg(chart)) == expected


def test_panels_with_scales_of_their_own() -> None:
    texts = [figures.to_svg(curves(points(), own_scales=own)).count("Y-axis titled") for own in (False, True)]
    assert texts[1] > texts[0]  # every panel has an axis


def test_bars_are_named_by_areas_and_lines_by_strokes() -> None:
    bars = figures.bars(points(), title="t", x=Field("layer", "block"), y=Y, color=Field("tuned", "tuned on"))
    shapes = [set(re.findall(r'"symbolType": "(\w+)"', made.to_json())) for made in (bars, curves(points()))]
    assert shapes == [{"square"}, {"stroke"}]


def data(chart: figures.Chart) -> pl.DataFrame:
    """All rows that a figure carries."""
    return pl.DataFrame([row for rows in chart.to_dict()["datasets"].values() for row in rows])


def test_panels_with_series_of_their_own_have_legends_of_their_own() -> None:
    frame = points().with_columns(tuned=pl.format("{} {}", "tuned", "task"))
    apart = figures.to_svg(curves(frame, own_series=True))
    legends = re.findall(r"Symbol legend titled 'tuned on'[^\"]*", apart)
    assert len(legends) == 2
    assert all(("bigram" in legend) != ("odd" in legend) for legend in legends)
    assert len(set(drawn_lines(apart))) == 4
    assert figures.to_svg(curves(frame)).count("legend titled") == 1


def test_panels_with_legends_of_their_own_stand_two_in_a_line() -> None:
    frame = pl.concat([points(), points().with_columns(task=pl.col("task") + "2")])
    (line,) = curves(frame, own_series=True).to_dict()["vconcat"]
    assert (len(line["concat"]), line["columns"]) == (4, 2)


def test_headings_of_own_panels_are_at_one_height() -> None:
    """An axis whose last tick is below its end would have a lower heading than one with a number at its end."""
    values = pl.when(pl.col("task") == "odd").then(12.9 - pl.col("layer") * 2).otherwise(10.0 - pl.col("layer"))
    svg = figures.to_svg(
        curves(points().drop("low", "high").with_columns(mean=values), own_series=True, zero_line=False)
    )
    heights = re.findall(r'role-title"><g transform="translate\(120,([-\d.]+)\)', svg)
    assert len(heights) == 2
    assert len(set(heights)) == 1


def test_series_of_numbers_are_coloured_in_their_order() -> None:
    frame = points().with_columns(tuned=pl.when(pl.col("tuned") == "cola").then(10).otherwise(9))
    text = figures.to_svg(curves(frame, column=None))
    assert "stroke color with 2 values: 9, 10" in text
