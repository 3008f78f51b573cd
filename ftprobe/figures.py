"""Figures: a small frame becomes an Altair chart, and a chart becomes HTML, SVG, PDF or PNG, all without a network.

Colours tell series apart for colour-blind readers too, and every series also has its own mark or dash where it can.
Values are drawn as they stand in the frame; nothing is aggregated here.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import altair as alt
import polars as pl

from ftprobe.errors import InputError, nearest
from ftprobe.frames import MissingData

Chart: TypeAlias = alt.TopLevelMixin
FORMATS = ("html", "svg", "pdf", "png")
# Okabe and Ito 2008, without yellow, which is too faint for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
_RAMP = [0.0, 0.85]  # of viridis: the end is too faint for a line
_PNG_SCALE = 2.0
_FONT_SLACK = 40  # pixels: a browser's font may be wider than the one the legend was measured with
_ACROSS = 2  # panels with legends of their own that stand side by side
_TICK_STEP = 40  # pixels between ticks, about, as Vega sets them
_TICKS = 16  # steps beyond which not every whole number has a tick
BANDS = 4  # series beyond which bands hide more than they show
_STAR = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.38,0.124L0.588,0.809L0,0.4L-0.588,0.809L-0.38,0.124L-0.951,-0.309L-0.235,-0.324Z"
)

_HEADER = alt.Header(titleFontSize=0, labelFontSize=12, labelFontWeight="bold")
_STROKES = alt.Legend(symbolType="stroke", symbolSize=300, symbolOpacity=1, symbolStrokeWidth=3)


class Field(NamedTuple):
    """A column of the frame and how the figure calls it."""

    name: str
    title: str


LAYER = Field("layer", "layer")


def layer_curves(
    frame: pl.DataFrame,
    *,
    title: str,
    y: Field,
    x: Field = LAYER,
    color: Field | None = None,
    dash: Field | None = None,
    column: Field | None = None,
    row: Field | None = None,
    stars: Field | None = None,
    zero_line: bool = False,
    own_scales: bool = False,
    own_series: bool = False,
    width: int = 240,
    height: int = 200,
) -> Chart:
    """Lines over layers, or another whole number, one panel for each value of `column` and `row`.

    Parameters
    ----------
    frame : polars.DataFrame
        One row a point: the columns of `x` and `y`, those of the series and panels, and where known `low` and `high`,
        drawn as a band. A null breaks the line. Series that are numbers have colours in their order.
    stars : Field, optional
        A second quantity, drawn as stars on an axis of its own on the right.
    zero_line : bool
        Whether to draw y = 0, for differences.
    own_scales : bool
        Whether each panel has axes of its own, for numbers that do not compare between panels.
    own_series : bool
        Whether each panel has series, a legend and axes of its own, two panels in a line; without stars.

    Raises
    ------
    MissingData
        No point has a value.
    """
    frame = shown_columns(frame, title, y, [x, color, dash, column, row, stars])
    # Panels whose axes end with a tick are of one height.
    own_scale = alt.Scale(zero=False, nice=math.ceil(height / _TICK_STEP))
    if own_series:

        def one(own: pl.DataFrame, heading: str) -> Any:
            panel = _curves(own, x, y, color, dash, own_scale, zero_line=zero_line)
            return panel.properties(data=own, title=heading, width=width, height=height)

        return _each(frame, title, column, row, one)
    starred = stars is not None and bool(frame[stars.name].is_not_null().any())
    scale = alt.Scale(domain=_domain(frame, y)) if starred else own_scale
    panel = _curves(frame, x, y, color, dash, scale, zero_line=zero_line).properties(width=width, height=height)
    if not starred or stars is None:
        return paneled(panel, frame, title, column, row, own_scales=own_scales)
    axis, right = alt.Axis(orient="right", grid=False), alt.Scale(domain=_domain(frame, stars))
    against = alt.Y(f"{stars.name}:Q", title=stars.title, axis=axis, scale=right)
    along = alt.X(f"{x.name}:Q", title=x.title, axis=_whole_numbers(frame[x.name]))
    marks = coloured(color, frame).mark_point(shape=_STAR, size=70, filled=True).encode(along, against, **_detail(dash))
    return _grid(alt.layer(panel, marks).resolve_scale(y="independent"), frame, title, column, row)


def _curves(
    frame: pl.DataFrame, x: Field, y: Field, color: Field | None, dash: Field | None, scale: Any, *, zero_line: bool
) -> Any:
    """The layers of one panel of `layer_curves`, without data."""
    own = alt.Y(f"{y.name}:Q", title=y.title, scale=scale, axis=alt.Axis(grid=True))
    base, lines = coloured(color, frame), [f.name for f in (color, dash) if f]
    along = alt.X(f"{x.name}:Q", title=x.title, axis=_whole_numbers(frame[x.name]))
    # Marks in a layer of their own: with marks on the line, Vega-Lite draws the legend of dashes without strokes.
    layers = [
        base.mark_line().encode(along, own, **_series(dash)),
        base.mark_point(filled=True, size=22, opacity=1).encode(along, own, **_detail(dash)),
    ]
    if _has_ends(frame) and (not lines or frame.select(lines).n_unique() <= BANDS):
        band = base.mark_area(opacity=0.15).encode(
            along, alt.Y("low:Q", title=y.title), alt.Y2("high:Q"), **_detail(dash)
        )
        layers.insert(0, band)
    if zero_line:
        # Counting leaves one row a panel, hence one rule.
        rule = alt.Chart().transform_aggregate(n="count()").mark_rule(color="#888888", strokeWidth=1)
        layers.insert(0, rule.encode(y=alt.datum(0)))
    return alt.layer(*layers)


def _whole_numbers(values: pl.Series) -> alt.Axis:
    """An axis with a tick at every whole number, as long as there is room for them."""
    known = values.drop_nulls().to_list()
    first, last = math.floor(min(known)), math.ceil(max(known))
    # A least step alone does not hold: Vega draws ticks between, and rounds their labels.
    ticks = {"values": list(range(first, last + 1))} if last - first <= _TICKS else {}
    return alt.Axis(tickMinStep=1, format="d", **ticks)


def _domain(frame: pl.DataFrame, field: Field) -> list[float]:
    """As far below 0 as above it, so that the zeros of two axes meet."""
    far = max(abs(value) for value in frame[field.name].drop_nulls().drop_nans().to_list()) or 1.0
    return [-far, far]


def bars(
    frame: pl.DataFrame,
    *,
    title: str,
    x: Field,
    y: Field,
    color: Field | None = None,
    column: Field | None = None,
    width: int = 240,
    height: int = 200,
) -> Chart:
    """Grouped bars: one group for each value of `x`, one bar for each of `color`, with `low` to `high` as a whisker.

    Raises
    ------
    MissingData
        No bar has a value.
    """
    frame = shown_columns(frame, title, y, [x, color, column])
    base = coloured(color, frame, legend=alt.Legend(symbolType="square", symbolSize=200))
    group = alt.X(f"{x.name}:N", title=x.title, sort=None, axis=alt.Axis(labelAngle=0))
    names = frame[color.name].unique(maintain_order=True).to_list() if color else []
    beside = {"xOffset": alt.XOffset(f"{color.name}:N", sort=names)} if color else {}
    layers = [base.mark_bar().encode(group, alt.Y(f"{y.name}:Q", title=y.title), **beside)]
    if _has_ends(frame):
        ends = {"y": alt.Y("low:Q", title=y.title), "y2": alt.Y2("high:Q"), "color": alt.value("#222222")}
        layers.append(base.mark_rule().encode(group, **ends, **beside))
    panel = alt.layer(*layers).properties(width=width, height=height)
    return paneled(panel, frame, title, column, None)


def shown_columns(frame: pl.DataFrame, title: str, y: Field, others: Sequence[Field | None]) -> pl.DataFrame:
    """The columns that are drawn, and no other: the figure carries its data.

    Raises
    ------
    MissingData
        No row has a value.
    """
    if frame.is_empty() or frame[y.name].null_count() == len(frame):
        raise MissingData.of(f"values for the figure '{title}'")
    names = dict.fromkeys(field.name for field in (y, *others) if field is not None)
    return frame.select(*names, *(name for name in ("low", "high") if name in frame.columns)).fill_nan(None)


def _has_ends(frame: pl.DataFrame) -> bool:
    return {"low", "high"} <= set(frame.columns) and bool(frame["low"].is_not_null().any())


def coloured(color: Field | None, frame: pl.DataFrame, legend: alt.Legend = _STROKES) -> Any:
    """A chart with a colour for each value of a column, as `frame` has them in order.

    Without data, which its panels share: a layer with data of its own would show it in every panel.
    """
    if color is None:
        return alt.Chart().encode(color=alt.value(PALETTE[0]))
    if frame[color.name].dtype.is_numeric():
        ramp = alt.Scale(scheme=alt.SchemeParams(name="viridis", extent=_RAMP))
        shown = alt.Color(f"{color.name}:O", title=color.title, scale=ramp, legend=legend)
        return alt.Chart().encode(color=shown)
    names = frame[color.name].unique(maintain_order=True).to_list()
    scale = alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in range(len(names))])
    return alt.Chart().encode(color=alt.Color(f"{color.name}:N", title=color.title, scale=scale, legend=legend))


def _series(dash: Field | None) -> dict[str, Any]:
    if dash is None:
        return {}
    scale = alt.Scale(range=[list(pattern) for pattern in _DASHES])
    legend = alt.Legend(symbolType="stroke", symbolSize=600, symbolStrokeWidth=2, symbolStrokeColor="#222222")
    shown = alt.StrokeDash(f"{dash.name}:N", title=dash.title, sort="descending", scale=scale, legend=legend)
    return {"strokeDash": shown}


def _detail(dash: Field | None) -> dict[str, Any]:
    return {} if dash is None else {"detail": f"{dash.name}:N"}


def paneled(
    panel: Any, frame: pl.DataFrame, title: str, column: Field | None, row: Field | None, *, own_scales: bool = False
) -> Chart:
    """`panel`, which has no data, for each value of `column` and `row` of the data."""
    split: dict[str, Any] = {}
    for name, field in (("column", column), ("row", row)):
        if field is not None:
            kind = {"column": alt.Column, "row": alt.Row}[name]
            order = frame[field.name].unique(maintain_order=True).to_list()
            split[name] = kind(f"{field.name}:N", title=None, sort=order, header=_HEADER)
    if not split:
        return finished(panel.properties(data=frame), title)
    panels = panel.facet(data=frame, **split)
    return finished(panels.resolve_scale(x="independent", y="independent") if own_scales else panels, title)


def _grid(panel: Any, frame: pl.DataFrame, title: str, column: Field | None, row: Field | None) -> Chart:
    """The same panels side by side: Vega-Lite cannot facet a panel with two y axes."""
    rows = []
    for across in frame[row.name].unique(maintain_order=True).to_list() if row else [None]:
        shown = []
        for down in frame[column.name].unique(maintain_order=True).to_list() if column else [None]:
            pairs = [(field, value) for field, value in ((row, across), (column, down)) if field is not None]
            own = panel.properties(title=": ".join(str(value) for _, value in pairs))
            for field, value in pairs:
                own = own.transform_filter(alt.FieldEqualPredicate(field=field.name, equal=value))
            shown.append(own)
        rows.append(alt.hconcat(*shown))
    return finished(alt.vconcat(*rows, data=frame), title)


def _each(
    frame: pl.DataFrame,
    title: str,
    column: Field | None,
    row: Field | None,
    draw: Callable[[pl.DataFrame, str], Any],
) -> Chart:
    """`draw` of each panel's own rows and heading, the panels of a `row` side by side, `_ACROSS` in a line."""
    fields, lines = [field for field in (row, column) if field is not None], []
    for across in _parts(frame, row):
        shown = [draw(own, ": ".join(str(own[each.name][0]) for each in fields)) for own in _parts(across, column)]
        lines.append(alt.concat(*shown, columns=_ACROSS).resolve_scale(color="independent", strokeDash="shared"))
    return finished(alt.vconcat(*lines).resolve_scale(color="independent", strokeDash="shared"), title)


def _parts(frame: pl.DataFrame, field: Field | None) -> list[pl.DataFrame]:
    return frame.partition_by(field.name, maintain_order=True) if field else [frame]


def finished(chart: Chart, title: str) -> Chart:
    """The whole figure: axes, frames and lines as all figures have them, and the title."""
    axes = chart.configure_axis(gridColor="#e6e6e6", labelFlush=False, labelSeparation=4)
    made: Chart = axes.configure_view(stroke="#cccccc").configure_line(strokeJoin="round")
    return titled(made.properties(padding={"left": 5, "top": 5, "bottom": 5, "right": _FONT_SLACK}), title)


def titled(chart: Chart, title: str) -> Chart:
    """The same chart under another title."""
    made: Chart = chart.properties(title=alt.TitleParams(title, anchor="start", fontSize=14))
    return made


def write(chart: Chart, folder: Path, name: str, format: str) -> Path:
    """Write `folder/name.format`; the folder is made.

    Raises
    ------
    InputError
        Another format than `FORMATS`.
    """
    if format not in FORMATS:
        raise InputError.one("format", f"figures have no format '{format}'", nearest(format, FORMATS))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{format}"
    if format == "html":
        path.write_text(to_html(chart), encoding="utf-8")
    else:
        options = {"scale_factor": _PNG_SCALE} if format == "png" else {}
        with _all_rows():
            chart.save(str(path), format=format, **options)
    return path


def _all_rows() -> AbstractContextManager[Any]:
    """Lifts Altair's limit on rows, which is there for notebooks, while a figure is written."""
    context: AbstractContextManager[Any] = alt.data_transformers.enable("default", max_rows=None)
    return context


def to_html(chart: Chart) -> str:
    """An interactive page that carries its scripts."""
    menu = {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}
    with _all_rows():
        return str(chart.to_html(inline=True, embed_options=menu))


def to_svg(chart: Chart) -> str:
    """The drawing alone."""
    import vl_convert

    with _all_rows():
        return str(vl_convert.vegalite_to_svg(chart.to_json(), vl_version=_VEGA_LITE))


def to_image_tag(chart: Chart) -> str:
    """An HTML image that carries its drawing; as an image of its own its ids meet those of no other figure."""
    drawn = base64.b64encode(to_svg(chart).encode()).decode()
    return f'<img alt="{html.escape(chart.title.text)}" src="data:image/svg+xml;base64,{drawn}">'


_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
