"""Figures in a plane: ways, names that stay readable, and outlines."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from ftprobe import planes
from ftprobe.figures import Chart, Field, to_svg
from ftprobe.frames import MissingData

X, Y = Field("x", "x"), Field("y", "y")


def data(chart: Chart) -> pl.DataFrame:
    """All rows that a figure carries."""
    return pl.concat([pl.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()], how="diagonal_relaxed")


def test_paths_ring_the_start_and_follow_the_order() -> None:
    way = [
        {"x": float(step), "y": float(step * sign), "update": step, "label": label, "panel": "p"}
        for label, sign in (("a", 1), ("b", -1))
        for step in (2, 0, 1)
    ]
    chart = planes.paths(
        pl.DataFrame(way), title="t", x=X, y=Y, along=Field("update", "update"), color=Field("label", "label"),
        column=Field("panel", "panel"),
    )  # fmt: skip
    assert data(chart).filter("start").select("label", "update").rows() == [("a", 0), ("b", 0)]
    lines = re.findall(r'aria-roledescription="line mark"[^>]*?d="([^"]+)"', to_svg(chart))
    assert len(lines) == 2
    for line in lines:
        xs = [float(x) for x in re.findall(r"[ML]([-\d.]+),", line)]
        assert len(xs) == 3
        assert xs == sorted(xs)


def named(rows: list[dict[str, object]]) -> Chart:
    frame = pl.DataFrame(rows)
    return planes.named_points(frame, title="t", x=X, y=Y, name=Field("name", "name"), panel=Field("layer", "layer"))


@pytest.mark.parametrize(("n", "width", "columns"), [(5, 280, 3), (30, 560, 2)])
def test_named_points_have_their_names_and_room_for_them(n: int, width: int, columns: int) -> None:
    chart = named([{"x": i * scale, "y": -i * scale, "name": f"n{i}", "layer": f"layer {scale}"}
                   for scale in (1.0, 50.0) for i in range(n)])  # fmt: skip
    svg, made = to_svg(chart), chart.to_dict()
    assert all(svg.count(f">n{i}</text>") == 2 for i in range(n))
    assert svg.count("Y-axis titled") == 2
    assert (made["concat"][0]["width"], made["columns"]) == (width, columns)
    assert [panel["title"] for panel in made["concat"]] == ["layer 1.0", "layer 50.0"]


def test_names_of_a_knot_of_points_stand_apart_at_the_end_of_lines() -> None:
    knot = [{"x": 0.5 + 0.001 * i, "y": 0.5, "name": f"name {i}", "layer": "layer 1"} for i in range(4)]
    chart = named([*knot, *({"x": at, "y": at, "name": f"end {at}", "layer": "layer 1"} for at in (0.0, 1.0))])
    svg, rows = to_svg(chart), data(chart)
    assert all(svg.count(f">name {i}</text>") == 1 for i in range(4))
    assert len(rows.select("name_x", "name_y").drop_nulls().unique()) == 6
    assert svg.count('aria-roledescription="rule mark"') == rows["end_x"].count() > 0


def test_names_without_room_are_counted_in_the_heading() -> None:
    chart = named([{"x": 0.0, "y": 0.0, "name": "a name too long to stand in one panel" * 3, "layer": "layer 1"},
                   {"x": 1.0, "y": 1.0, "name": "short", "layer": "layer 1"}])  # fmt: skip
    assert chart.to_dict()["concat"][0]["title"] == "layer 1 (1 of 2 names have no room)"
    assert "too long" not in re.sub(r'aria-label="[^"]*"', "", to_svg(chart))


def test_planes_without_points_are_missing_data() -> None:
    nothing = pl.DataFrame({"x": [None], "y": [None], "n": ["a"]}, schema_overrides={"y": pl.Float64})
    with pytest.raises(MissingData, match="no ways"):
        planes.paths(nothing, title="no ways", x=X, y=Y, along=Field("x", ""), color=Field("n", ""))
    with pytest.raises(MissingData, match="no names"):
        planes.named_points(nothing, title="no names", x=X, y=Y, name=Field("n", ""), panel=Field("n", ""))


def test_outlines_are_closed_and_a_unit_is_as_long_on_both_axes() -> None:
    square = pl.DataFrame({"x": [0.0, 4.0, 4.0, 0.0], "y": [0.0, 0.0, 2.0, 2.0], "label": "a"})
    gaps = pl.DataFrame({"x": [4.0], "y": [1.0], "x2": [5.0], "y2": [1.0], "text": ["1.0"]})
    panel = planes.Outlined("one", square, square.with_columns(group=0), gaps)
    chart = planes.outlined([panel, panel], title="t")
    svg, made = to_svg(chart), chart.to_dict()["hconcat"][0]
    line = re.search(r'aria-roledescription="line mark"[^>]*?d="([^"]+)"', svg)
    assert line is not None
    corners = np.array(re.findall(r"([-\d.]+),([-\d.]+)", line.group(1)), dtype=float)
    assert len(corners) == 5
    assert (corners[0] == corners[-1]).all()
    assert np.ptp(corners[:, 0]) == pytest.approx(2 * np.ptp(corners[:, 1]), rel=0.01)
    assert made["width"] > made["height"]
    assert svg.count("legend titled") == 1
    assert ">1.0</text>" in svg
