"""What a report prints and draws, read back."""

from __future__ import annotations

import polars as pl

from ftprobe.report import Report
from ftprobe.tables import Table


def cell(table: Table, row: tuple[str, ...], column: str) -> str:
    """The printed cell of a row, by its leading headers, and a joined column header."""
    found = [line for line in table.frame.iter_rows(named=True) if tuple(line.values())[: len(row)] == row]
    assert found, f"no row {row} in {table.frame}"
    return str(found[0][column])


def drawn(report: Report, figure: str, records: pl.DataFrame) -> list[dict[str, object]]:
    """The points of a figure."""
    return next(iter(report.figures[figure](records.lazy()).to_dict()["datasets"].values()))
