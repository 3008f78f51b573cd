"""Tables: what is printed, in five formats; a missing cell is a dash; the LaTeX compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from ftprobe.errors import InputError
from ftprobe.frames import MissingData
from ftprobe.tables import DASH, FORMATS, Table, layout, render, to_html, to_latex, to_markdown, write

CELLS = [
    ("bert", "cls", "CoLA", "0-6", 1.234, 0.5, 3, 0.5, 2.0),
    ("bert", "cls", "CoLA", "7-12", -0.001, None, 1, None, None),
    ("bert", "cls", "SST-2", "0-6", -2.0, 0.25, 3, -2.5, -1.5),
    ("bert", "mean", "SST-2", "7-12", None, None, 0, None, None),
    ("roberta", "cls", "CoLA", "0-6", 12.0, 1.0, 3, 11.0, 13.0),
]
NAMES = ["model", "pooling", "tuned", "layers", "mean", "sd", "n", "low", "high"]


def planted(**options: object) -> Table:
    frame = pl.DataFrame(CELLS, schema=NAMES, orient="row")
    return layout(
        frame,
        title="Change",
        caption="In points.",
        rows={"model": "model", "pooling": "pooling"},
        columns=["tuned", "layers"],
        **options,  # type: ignore[arg-type]
    )


def test_printed_cells() -> None:
    assert planted().frame.rows() == [
        ("bert", "cls", "1.23 ± 0.50", "0.00", "-2.00 ± 0.25", DASH),
        ("bert", "mean", DASH, DASH, DASH, DASH),
        ("roberta", "cls", "12.00 ± 1.00", DASH, DASH, DASH),
    ]


def test_columns_and_spanners() -> None:
    table = planted()
    assert table.columns == (("CoLA", "0-6"), ("CoLA", "7-12"), ("SST-2", "0-6"), ("SST-2", "7-12"))
    assert table.spanners == ((("CoLA", 2), ("SST-2", 2)),)


def test_caption_says_n() -> None:
    assert planted().caption == "In points. n = 1 to 3 tuning seeds; mean ± sd over seeds."


def test_order_of_headers() -> None:
    table = planted(order={"tuned": ["SST-2"], "layers": ["7-12", "0-6"], "model": ["roberta", "bert"]})
    assert table.columns == (("SST-2", "7-12"), ("SST-2", "0-6"), ("CoLA", "7-12"), ("CoLA", "0-6"))
    assert [row[:2] for row in table.frame.rows()] == [("roberta", "cls"), ("bert", "cls"), ("bert", "mean")]


def test_intervals_in_lines() -> None:
    lines = planted(interval="line").frame.rows()
    assert lines[1] == ("", "", "[0.50, 2.00]", "", "[-2.50, -1.50]", "")
    assert len(lines) == 5


def test_intervals_in_columns() -> None:
    table = planted(interval="column")
    assert table.columns[:3] == (("CoLA", "0-6"), ("CoLA", "0-6 (95 %)"), ("CoLA", "7-12"))
    assert table.frame.row(0)[2:5] == ("1.23 ± 0.50", "[0.50, 2.00]", "0.00")
    assert table.frame.row(1)[3] == DASH


def test_numbers_are_kept_whole(tmp_path: Path) -> None:
    table = planted()
    assert table.values["mean"].to_list() == [1.234, -0.001, -2.0, None, 12.0]
    assert pl.read_csv(render(table, "csv").encode())["mean"].to_list() == table.values["mean"].to_list()
    back = pl.read_parquet(write(table, tmp_path / "new", "t", "parquet"))
    assert back.equals(table.values)


def test_text_cells() -> None:
    cells = pl.DataFrame({"row": ["lr", "lr"], "column": ["a", "b"], "mean": [None, None], "text": ["2e-5", None]})
    table = layout(cells, title="t", rows={"row": ""}, columns=["column"])
    assert table.frame.rows() == [("lr", "2e-5", DASH)]


def test_markdown() -> None:
    lines = to_markdown(planted()).splitlines()
    assert lines[0] == "**Change**"
    assert lines[2].split("|")[3].strip() == "CoLA / 0-6"
    assert {len(line) for line in lines[2:7]} == {len(lines[2])}
    assert lines[5].split("|")[1].strip() == ""  # bert again
    assert lines[6].split("|")[1].strip() == "roberta"
    assert lines[-1] == planted().caption


def test_no_cells_is_missing_data() -> None:
    with pytest.raises(MissingData, match="Change"):
        layout(pl.DataFrame(schema={"model": pl.String}), title="Change", rows={"model": ""}, columns=[])


def test_two_cells_of_one_place_are_an_error() -> None:
    frame = pl.DataFrame([CELLS[0], CELLS[0]], schema=NAMES, orient="row")
    with pytest.raises(ValueError, match="two cells"):
        layout(frame, title="t", rows={"model": "model"}, columns=["tuned"])


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'latex'"):
        write(planted(), tmp_path, "t", "latx")
    assert not list(tmp_path.iterdir())


def test_every_format_is_written(tmp_path: Path) -> None:
    names = [write(planted(), tmp_path, "t", format).name for format in FORMATS]
    assert names == ["t.md", "t.csv", "t.tex", "t.html", "t.parquet"]
    assert all((tmp_path / name).stat().st_size for name in names)


class Seen(HTMLParser):
    """The texts of a page's cells, and everything it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.spans: dict[str, str] = {}
        self.fetched: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th", "tr")


def test_html_holds_the_cells_and_fetches_nothing() -> None:
    page = to_html(planted())
    seen = Seen(page)
    assert ["bert", "cls", "1.23 ± 0.50", "0.00", "-2.00 ± 0.25", DASH] in seen.rows
    assert any("CoLA" in row and "SST-2" in row for row in seen.rows)
    assert not seen.fetched
    assert not re.search(r"url\(|@import", page)


def test_html_escapes_what_users_write() -> None:
    cells = pl.DataFrame({"model": ["<b>&"], "task": ["<i>"], "mean": [1.0]})
    page = to_html(layout(cells, title="<u>", caption="<s> bigram_shift_x", rows={"model": "<h>"}, columns=["task"]))
    for tag in ("<b>", "<i>", "<u>", "<s>", "<h>"):
        assert tag not in page
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;s&gt; bigram_shift_x" in page


def test_html_is_the_same_every_time() -> None:
    assert to_html(planted()) == to_html(planted())


def test_latex() -> None:
    text = to_latex(planted())
    assert r" &  & \multicolumn{2}{c}{CoLA} & \multicolumn{2}{c}{SST-2} \\" in text
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}" in text
    assert r"bert & cls & 1.23 $\pm$ 0.50 & 0.00 & $-$2.00 $\pm$ 0.25 & -- \\" in text
    assert r"\midrule" in text.split("roberta")[0].splitlines()[-1]


def compiled(text: str, folder: Path) -> str:
    """The log of pdflatex."""
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex")
    packages = text.splitlines()[0].removeprefix("% ")
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{text.split(chr(10), 1)[1]}\end{{document}}"
    (folder / "t.tex").write_text(document, encoding="utf-8")
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:]
    assert (folder / "t.pdf").stat().st_size > 1000
    return run.stdout


HOSTILE = r"a_b & 50% $x$ #1 {y} ~ ^ \z <w> | … × Δ ≥ é “q” 'p' -"


@pytest.mark.parametrize(("n_rows", "n_columns"), [(2, 2), (3, 14), (120, 3)], ids=["small", "wide", "long"])
def test_latex_compiles(n_rows: int, n_columns: int, tmp_path: Path) -> None:
    cells = pl.DataFrame(
        [
            (f"{HOSTILE}{row // 2}", "[x]" if row % 2 else "", f"{HOSTILE}{column // 2}", str(column), -1.5, 0.5, 3)
            for row in range(n_rows)
            for column in range(n_columns)
        ],
        schema=["model", "pooling", "task", "layer", "mean", "sd", "n"],
        orient="row",
    ).with_columns(low=pl.lit(-2.0), high=pl.lit(1.0))
    table = layout(
        cells,
        title=HOSTILE,
        caption=HOSTILE,
        rows={"model": HOSTILE, "pooling": "[p]"},
        columns=["task", "layer"],
        interval="line",
    )
    log = compiled(to_latex(table), tmp_path)
    assert "Missing character" not in log
