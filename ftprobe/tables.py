"""Tables: a long frame of cells and a layout become Markdown, CSV, LaTeX, HTML or Parquet.

A cell without a number prints as a dash, never as 0. The text of a table is what is printed; CSV and Parquet hold its
numbers, one row a cell, at full precision and in the printed unit.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from ftprobe import hashing
from ftprobe.errors import InputError, nearest
from ftprobe.frames import MissingData

DASH = "–"
NUMBERS = ("mean", "sd", "n", "low", "high")
FORMATS = ("md", "csv", "latex", "html", "parquet")
_SUFFIXES = {"latex": "tex"}
_WIDE = 8  # cell columns beyond which a LaTeX table is scaled to the line
_LONG = 45  # rows beyond which a LaTeX table breaks over pages
_LATEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"${c}$" for c in "<>|"},
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
}

Header = tuple[str, ...]
Intervals = Literal["none", "line", "column"]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    headers : tuple of str
        The printed names of the row headers: the first columns of `frame`.
    columns : tuple of tuple of str
        The header of each cell column of `frame`, outermost spanner first; all of one length.
    frame : polars.DataFrame
        The printed text, in columns named by the row headers and by the joined column headers.
    values : polars.DataFrame
        The numbers: one row a cell, with the header columns, `mean`, `sd`, `n`, `low`, `high`.
    """

    title: str
    caption: str
    headers: tuple[str, ...]
    columns: tuple[Header, ...]
    frame: pl.DataFrame
    values: pl.DataFrame

    @property
    def spanners(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Above the lowest headers: for each level its spanners from left to right, with the columns each covers."""
        depth = len(self.columns[0]) if self.columns else 1
        levels = []
        for level in range(depth - 1):
            runs = itertools.groupby(path[: level + 1] for path in self.columns)
            levels.append(tuple((path[-1], len(list(run))) for path, run in runs))
        return tuple(levels)


def layout(
    cells: pl.DataFrame,
    *,
    title: str,
    caption: str = "",
    rows: Mapping[str, str],
    columns: Sequence[str],
    order: Mapping[str, Sequence[str]] | None = None,
    digits: int = 2,
    interval: Intervals = "none",
    interval_note: str = "95 % bootstrap intervals over seeds",
) -> Table:
    """Arrange cells: one row for each combination of `rows`, one column for each of `columns`.

    Parameters
    ----------
    cells : polars.DataFrame
        One row a cell: the columns of `rows` and `columns`, `mean`, and as they are known `sd`, `n`, `low`, `high`,
        and `text`, printed where it is not null. A null `mean` prints as a dash, and so does a cell without a row.
    rows : mapping of str to str
        Row header columns, and how each is printed.
    columns : sequence of str
        Column header columns, outermost first.
    order : mapping of str to sequence of str, optional
        For a header column the order of its values; others follow in order of appearance, as do those of all columns
        that are not named here.
    interval : {"none", "line", "column"}
        Where the 95 % intervals stand: nowhere, in a line below each row, in a column beside each column.
    interval_note : str
        What they are, for the caption.

    Raises
    ------
    MissingData
        There are no cells.
    ValueError
        Two cells have one place.
    """
    if cells.is_empty():
        raise MissingData.of(f"cells for the table '{title}'")
    absent = [pl.lit(None, pl.Float64).alias(name) for name in NUMBERS if name not in cells.columns]
    text = [] if "text" in cells.columns else [pl.lit(None, pl.String).alias("text")]
    headed = [pl.col(name).cast(pl.String).fill_null(DASH) for name in (*rows, *columns)]
    cells = cells.with_columns(*absent, *text, *headed)
    if cells.select(*rows, *columns).is_duplicated().any():
        raise ValueError(f"table '{title}': two cells have one place; a header is missing from {(*rows, *columns)}")
    places = {(row[: len(rows)], row[len(rows) :]): i for i, row in enumerate(cells.select(*rows, *columns).rows())}
    printed = cells.select("mean", "sd", "n", "text").rows(named=True)
    ends = cells.select("low", "high").rows()
    texts = {place: _printed(printed[i], digits) for place, i in places.items()}
    intervals = {
        place: f"[{_number(ends[i][0], digits)}, {_number(ends[i][1], digits)}]"
        for place, i in places.items()
        if None not in ends[i]
    }
    row_keys = _nested([row for row, _ in places], tuple(rows), order or {})
    column_keys = _nested([column for _, column in places], tuple(columns), order or {})
    lines, paths = _arrange(row_keys, column_keys, texts, intervals, interval)
    names = [*rows.values(), *(" / ".join(path) for path in paths)]
    shown = f" In brackets: {interval_note}." if intervals and interval != "none" else ""
    frame = pl.DataFrame(lines, schema=dict.fromkeys(names, pl.String), orient="row")
    values = cells.select(*rows, *columns, *NUMBERS, "text")
    unused = [name for name in ("text", "low", "high", "sd", "n") if values[name].null_count() == len(values)]
    return Table(title, _captioned(caption + shown, cells), tuple(rows.values()), paths, frame, values.drop(unused))


def _arrange(
    row_keys: Sequence[Header],
    column_keys: Sequence[Header],
    texts: Mapping[tuple[Header, Header], str],
    intervals: Mapping[tuple[Header, Header], str],
    where: Intervals,
) -> tuple[list[Header], tuple[Header, ...]]:
    """Printed rows and the headers of their cell columns."""
    with_interval = {column for _, column in intervals} if where == "column" else set()
    paths: list[Header] = []
    for column in column_keys:
        paths += [column, (*column[:-1], f"{column[-1]} (95 %)")] if column in with_interval else [column]
    lines: list[Header] = []
    for row in row_keys:
        line = list(row)
        for column in column_keys:
            line.append(texts.get((row, column), DASH))
            if column in with_interval:
                line.append(intervals.get((row, column), DASH))
        lines.append(tuple(line))
        if where == "line" and any((row, column) in intervals for column in column_keys):
            lines.append((*[""] * len(row), *(intervals.get((row, column), "") for column in column_keys)))
    return lines, tuple(paths)


def _nested(keys: Sequence[Header], names: Header, order: Mapping[str, Sequence[str]]) -> list[Header]:
    """Each key once, equal outer headers side by side, every level in its `order` and then in order of appearance."""
    rank: dict[Header, int] = {}
    for key in keys:
        for depth in range(1, len(key) + 1):
            known = list(order.get(names[depth - 1], ()))
            value = key[depth - 1]
            rank.setdefault(key[:depth], known.index(value) if value in known else len(known) + len(rank))
    return sorted(dict.fromkeys(keys), key=lambda key: [rank[key[:depth]] for depth in range(1, len(key) + 1)])


def _printed(cell: Mapping[str, object], digits: int) -> str:
    if cell["text"] is not None:
        return str(cell["text"])
    if cell["mean"] is None:
        return DASH
    mean = _number(cell["mean"], digits)
    several = isinstance(cell["n"], int | float) and cell["n"] > 1
    return f"{mean} ± {_number(cell['sd'], digits)}" if several and cell["sd"] is not None else mean


def _number(value: object, digits: int) -> str:
    """Fixed decimals; what rounds to zero has no sign.

    >>> _number(-0.004, 2), _number(1.005, 1)
    ('0.00', '1.0')
    """
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not re.search("[1-9]", text) else text


def agreed(texts: Sequence[str]) -> str | None:
    """One text for many: the text itself where all agree, else each with how often it occurs; None for none.

    >>> agreed(["(32, 64)", "(32, 64)"]), agreed(["b", "a", "b"]), agreed([])
    ('(32, 64)', 'b (2), a (1)', None)
    """
    counts = sorted(Counter(texts).items(), key=lambda pair: (-pair[1], pair[0]))
    if len(counts) < 2:
        return counts[0][0] if counts else None
    return ", ".join(f"{text} ({n})" for text, n in counts)


def _captioned(caption: str, cells: pl.DataFrame) -> str:
    """The caption with n, which is always said (METHODS 16.1)."""
    counts = cells.filter(pl.col("mean").is_not_null())["n"].drop_nulls().cast(pl.Int64).unique().sort().to_list()
    if not counts:
        return caption
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spread = "; mean ± sd over seeds" if counts[-1] > 1 else ""
    return f"{caption} n = {n} tuning seed{'s' if counts[-1] > 1 else ''}{spread}.".strip()


def render(table: Table, format: str) -> str:
    """The table as text in one of `FORMATS` but Parquet.

    Raises
    ------
    InputError
        Another format.
    """
    renderers = {"md": to_markdown, "csv": to_csv, "latex": to_latex, "html": to_html}
    if format not in renderers:
        raise InputError.one("format", f"tables have no text format '{format}'", nearest(format, renderers))
    return renderers[format](table)


def write(table: Table, folder: Path, name: str, format: str) -> Path:
    """Write `folder/name` with the suffix of its format; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{_SUFFIXES.get(format, format)}"
    if format == "parquet":
        table.values.write_parquet(path)
    elif format == "html":
        head = '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"></head><body>'
        path.write_text(f"{head}\n{to_html(table)}\n</body></html>\n", encoding="utf-8")
    else:
        path.write_text(render(table, format), encoding="utf-8")
    return path


def to_csv(table: Table) -> str:
    """The numbers, one row a cell."""
    return table.values.write_csv()


def to_markdown(table: Table) -> str:
    """A pipe table, aligned so that it also reads in a terminal; spanners stand before each header."""
    head = [*table.headers, *(" / ".join(path) for path in table.columns)]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (head, *_sparse(table))]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    n_headers = len(table.headers)

    def row(line: Sequence[str]) -> str:
        cells = enumerate(zip(line, widths, strict=True))
        padded = (text.ljust(width) if i < n_headers else text.rjust(width) for i, (text, width) in cells)
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i < n_headers else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    body = "\n".join([row(lines[0]), f"|{rule}|", *map(row, lines[1:])])
    return "\n\n".join(part for part in (f"**{table.title}**", body, table.caption) if part) + "\n"


def _sparse(table: Table) -> list[list[str]]:
    """The printed rows, with a row header left blank where it repeats the one above (as do those left of it)."""
    lines: list[list[str]] = []
    above: Sequence[str] = ()
    for line in table.frame.rows():
        shown = list(line)
        for i in range(len(table.headers) - 1):
            if line[: i + 1] == tuple(above[: i + 1]):
                shown[i] = ""
        lines.append(shown)
        if any(line[: len(table.headers)]):
            above = line
    return lines


def to_latex(table: Table) -> str:
    r"""A booktabs table; needs `booktabs`, and as its first line says `graphicx` or `longtable`."""
    n_headers, n_cells = len(table.headers), len(table.columns)
    spec = "l" * n_headers + "r" * n_cells
    head = "\n".join(_latex_head(table))
    body = "\n".join(_latex_rows(table))
    caption = _escape(f"{table.title}. {table.caption}".strip())
    if table.frame.height > _LONG:
        return (
            "% \\usepackage{booktabs,longtable}\n{\\scriptsize\\setlength{\\tabcolsep}{3pt}\n"
            f"\\begin{{longtable}}{{{spec}}}\n\\caption{{{caption}}}\\\\\n\\toprule\n{head}\n\\midrule\n\\endfirsthead\n"
            f"\\toprule\n{head}\n\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n{body}\n\\end{{longtable}}}}\n"
        )
    tabular = f"\\begin{{tabular}}{{{spec}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    packages = "booktabs"
    if n_cells > _WIDE:
        packages, tabular = "booktabs,graphicx", f"\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular}}}"
    start = f"% \\usepackage{{{packages}}}\n\\begin{{table}}[t]\n\\centering\n\\caption{{{caption}}}"
    return f"{start}\n{tabular}\n\\end{{table}}\n"


def _latex_head(table: Table) -> list[str]:
    first = len(table.headers) + 1
    lines = []
    for level in table.spanners:
        cells, rules, at = [""] * len(table.headers), [], first
        for label, width in level:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_escape(label)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        lines += [" & ".join(cells) + r" \\", "".join(rules)]
    lowest = [*table.headers, *(path[-1] for path in table.columns)]
    return [*lines, " & ".join(map(_escape, lowest)) + r" \\"]


def _latex_rows(table: Table) -> list[str]:
    lines = []
    for i, line in enumerate(_sparse(table)):
        if i and len(table.headers) > 1 and line[0]:
            lines.append(r"\midrule")
        # A row that starts with a bracket would be read as the option of the line break above it.
        lines.append("{}" * (not line[0]) + " & ".join(map(_latex_cell, line)) + r" \\")
    return lines


def _latex_cell(text: str) -> str:
    numeric = re.fullmatch(r"[-\d.,\[\] ±]+", text)
    return _escape(text.replace("-", "−") if numeric else text)


def _escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def to_html(table: Table) -> str:
    """A fragment with its own style, by great_tables; it fetches nothing."""
    from great_tables import GT
    from great_tables import html as verbatim

    names = table.frame.columns
    cells = names[len(table.headers) :]
    sparse = pl.DataFrame(_sparse(table), schema=dict.fromkeys(names, pl.String), orient="row")
    made = GT(sparse, id=f"table-{hashing.content_id(table.title)[:8]}")
    made = made.tab_header(table.title).cols_align("left", list(table.headers)).cols_align("right", cells)
    made = made.cols_label({name: path[-1] for name, path in zip(cells, table.columns, strict=True)})
    for depth, level in enumerate(reversed(table.spanners)):
        at = 0
        for i, (label, width) in enumerate(level):
            made = made.tab_spanner(label, cells[at : at + width], level=depth, id=f"{depth}-{i}")
            at += width
    if table.caption:
        made = made.tab_source_note(verbatim(html.escape(table.caption)))
    return str(made.tab_options(table_font_size="14px", data_row_padding="3px").as_raw_html())
