"""Figures in a plane: ways, points with their names, and the outlines of groups of points.

Axes: P points, C corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ftprobe.figures import PALETTE, Chart, Field, coloured, finished, paneled, shown_columns
from ftprobe.placement import line_end, place_names

Floats = NDArray[np.float64]

_PLANE = {"width": 280, "height": 240}  # pixels
_CROWD = 20  # names beyond which their panel is twice as wide and high, and fewer stand side by side
_MARGIN = 0.08  # of the range of the points, on every side
_NAME_SIZE = 9
_WIDTH = 420  # pixels of a panel with outlines
_HALO = {"stroke": "white", "strokeWidth": 7.0, "strokeJoin": "round"}


def paths(
    frame: pl.DataFrame,
    *,
    title: str,
    x: Field,
    y: Field,
    along: Field,
    color: Field,
    column: Field | None = None,
    row: Field | None = None,
) -> Chart:
    """Ways through a plane, one line for each value of `color`; a ring marks where it starts.

    Parameters
    ----------
    frame : polars.DataFrame
        One row a point: `x` and `y`, and `along`, a number that puts the points of a line in order. Each panel has axes
        of its own.

    Raises
    ------
    MissingData
        No point has a value.
    """
    frame = shown_columns(frame, title, y, [x, along, color, column, row])
    line = [field.name for field in (color, column, row) if field is not None]
    frame = frame.with_columns(start=pl.col(along.name) == pl.col(along.name).min().over(line))
    base = coloured(color, frame).encode(
        alt.X(f"{x.name}:Q", title=x.title, scale=alt.Scale(zero=False, padding=12)),
        alt.Y(f"{y.name}:Q", title=y.title, scale=alt.Scale(zero=False, padding=12)),
    )
    panel = alt.layer(
        base.mark_line().encode(order=alt.Order(f"{along.name}:Q")),
        base.mark_point(filled=True, size=22, opacity=1).encode(tooltip=[color.name, along.name]),
        base.mark_point(size=130, strokeWidth=2.5, opacity=1).transform_filter(alt.datum.start),
    )
    return paneled(panel.properties(**_PLANE), frame, title, column, row, own_scales=True)


def named_points(frame: pl.DataFrame, *, title: str, x: Field, y: Field, name: Field, panel: Field) -> Chart:
    """Points with their names, three panels in a line, or two larger ones of many points; each with axes of its own.

    A name stands beside its point, or at the end of a line from it where others are in the way. Those that find no room
    are left out, and the heading of the panel counts them.

    Raises
    ------
    MissingData
        No point has a value.
    """
    frame = shown_columns(frame, title, y, [x, name, panel]).drop_nulls([x.name, y.name])
    crowded = frame[name.name].n_unique() > _CROWD
    size = {key: (1 + crowded) * side for key, side in _PLANE.items()}
    shown = [_named(own, x, y, name, panel, size) for own in frame.partition_by(panel.name, maintain_order=True)]
    return finished(alt.concat(*shown, columns=2 if crowded else 3), title)


def _named(own: pl.DataFrame, x: Field, y: Field, name: Field, panel: Field, size: dict[str, int]) -> Any:
    """One panel of `named_points`."""
    low_2, high_2 = _frame(own.select(x.name, y.name).to_numpy())
    own = own.with_columns(
        _places(own.select(x.name, y.name).to_numpy(), own[name.name].to_list(), low_2, high_2, size)
    )
    without = own["name_x"].null_count()
    heading = f"{own[panel.name][0]}{f' ({without} of {len(own)} names have no room)' if without else ''}"
    base = alt.Chart(own)
    dots, names = (
        _scales(x, y, low_2, high_2),
        _scales(Field("name_x", x.title), Field("name_y", y.title), low_2, high_2),
    )
    ends = {"x2": alt.X2("end_x"), "y2": alt.Y2("end_y")}
    return alt.layer(
        base.mark_rule(color="#999999", strokeWidth=0.7).transform_filter("isValid(datum.end_x)").encode(*dots, **ends),
        base.mark_point(filled=True, size=30, opacity=1, color=PALETTE[0]).encode(*dots, tooltip=name.name),
        base.mark_text(align="left", baseline="middle", fontSize=_NAME_SIZE, color="#333333")
        .transform_filter("isValid(datum.name_x)")
        .encode(*names, text=f"{name.name}:N"),
    ).properties(title=heading, **size)


def _places(at_P2: Floats, names: Sequence[str], low_2: Floats, high_2: Floats, size: dict[str, int]) -> pl.DataFrame:
    """Where names start, and where the lines to them end, in units of the axes; null where there is none."""
    scale_2 = np.array([size["width"], -size["height"]]) / (high_2 - low_2)
    corner_2 = np.array([low_2[0], high_2[1]])
    pixel_P2 = (at_P2 - corner_2) * scale_2
    box_P4, far_P = place_names(pixel_P2, names, width=size["width"], height=size["height"], font_size=_NAME_SIZE)
    start_P2 = np.stack([box_P4[:, 0], box_P4[:, [1, 3]].mean(axis=1)], axis=1) / scale_2 + corner_2
    end_P2 = np.array([line_end(at, box) for at, box in zip(pixel_P2, box_P4, strict=True)]) / scale_2 + corner_2
    end_P2[~far_P] = np.nan
    columns = np.concatenate([start_P2, end_P2], axis=1)
    return pl.DataFrame(columns, schema=["name_x", "name_y", "end_x", "end_y"]).fill_nan(None)


class Outlined(NamedTuple):
    """One panel of `outlined`.

    Attributes
    ----------
    heading : str
    points : polars.DataFrame
        `x`, `y` and `label`.
    outlines : polars.DataFrame
        The corners of each group in order: `x`, `y`, `label` and `group`.
    gaps : polars.DataFrame
        Lines between groups, `x`, `y` to `x2`, `y2`, and `text`, what stands at their middle.
    """

    heading: str
    points: pl.DataFrame
    outlines: pl.DataFrame
    gaps: pl.DataFrame


def outlined(panels: Sequence[Outlined], *, title: str) -> Chart:
    """Points with the outlines of their groups and lines between these, panels side by side on equal scales.

    A unit is as long on both axes, which are not drawn.
    """
    low_2, high_2 = _frame(pl.concat([panel.points.select("x", "y") for panel in panels]).to_numpy())
    height = round(_WIDTH * float((high_2 - low_2)[1] / (high_2 - low_2)[0]))
    x, y = (axis.axis(None) for axis in _scales(Field("x", ""), Field("y", ""), low_2, high_2))
    mid_x, mid_y = (axis.axis(None) for axis in _scales(Field("mid_x", ""), Field("mid_y", ""), low_2, high_2))

    def one(panel: Outlined) -> Any:
        across = panel.gaps.with_columns(mid_x=(pl.col("x") + pl.col("x2")) / 2, mid_y=(pl.col("y") + pl.col("y2")) / 2)
        names = panel.points["label"].unique(maintain_order=True).to_list()
        # Of one domain, so that colours and shapes have one legend.
        shape = alt.Shape("label:N", title="label", scale=alt.Scale(domain=names))
        base, lines = coloured(Field("label", "label"), panel.points, alt.Undefined), alt.Chart(across)
        areas, dots = base.properties(data=_closed(panel.outlines)), base.properties(data=panel.points)
        return alt.layer(
            areas.mark_line(strokeWidth=1.5, filled=True, fillOpacity=0.12).encode(
                x, y, order="corner:Q", detail="group:N"
            ),
            areas.mark_line(strokeWidth=1.5).encode(x, y, order="corner:Q", detail="group:N"),
            lines.mark_rule(strokeDash=[4, 3], color="#222222").encode(x, y, x2="x2", y2="y2"),
            dots.mark_point(filled=True, size=36, opacity=1).encode(x, y, shape=shape),
            lines.mark_text(fontSize=11, **_HALO).encode(mid_x, mid_y, text="text:N"),
            lines.mark_text(fontSize=11, color="#222222").encode(mid_x, mid_y, text="text:N"),
        ).properties(title=panel.heading, width=_WIDTH, height=height)

    return finished(alt.hconcat(*map(one, panels)), title)


def _closed(outlines: pl.DataFrame) -> pl.DataFrame:
    """The corners of outlines, numbered, the first one again at the end."""
    again = outlines.group_by("group", maintain_order=True).first().select(outlines.columns)
    return pl.concat([outlines, again]).with_row_index("corner")


def _frame(at_P2: Floats) -> tuple[Floats, Floats]:
    """The lower left and the upper right of the points with a margin around them."""
    low_2, high_2 = at_P2.min(axis=0), at_P2.max(axis=0)
    wide_2 = np.where(high_2 > low_2, (high_2 - low_2) * _MARGIN, 1.0)
    return low_2 - wide_2, high_2 + wide_2


def _scales(x: Field, y: Field, low_2: Floats, high_2: Floats) -> tuple[alt.X, alt.Y]:
    """Both axes, from the lower left to the upper right."""
    domains = [alt.Scale(domain=[float(low), float(high)], nice=False) for low, high in zip(low_2, high_2, strict=True)]
    across, up = (
        alt.X(f"{x.name}:Q", title=x.title, scale=domains[0]),
        alt.Y(f"{y.name}:Q", title=y.title, scale=domains[1]),
    )
    return across, up
