"""Zhou 2022's Figure 1: what is drawn is what DirectProbe finds, and no record is needed for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ftprobe.directprobe import DirectProbe
from ftprobe.figures import to_svg
from ftprobe.report import Report, find_report, render_html
from ftprobe.rows import SCHEMA

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
NOTHING = pl.DataFrame(SCHEMA.empty_table()).lazy()


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("zhou2022", SWEEPS / "zhou2022_tiny.yaml")


def drawn(report: Report, panel: int, *columns: str) -> pl.DataFrame:
    """The rows of these columns that one panel of the figure draws."""
    made = report.figures["figure1"](NOTHING).to_dict()
    frames = [pl.DataFrame(made["datasets"][layer["data"]["name"]]) for layer in made["hconcat"][panel]["layer"]]
    return next(frame for frame in frames if set(frame.columns) == set(columns))


def gaps(report: Report, panel: int) -> pl.DataFrame:
    return drawn(report, panel, "x", "y", "x2", "y2", "text", "mid_x", "mid_y")


def found(report: Report) -> DirectProbe:
    points = drawn(report, 1, "x", "y", "label")
    return DirectProbe().fit(points.select("x", "y").to_numpy(), points["label"].to_list())


def test_the_drawn_distances_are_those_of_directprobe(report: Report) -> None:
    lines, far_M = gaps(report, 1), np.sort(found(report).distances().upper_M)
    length_M = np.linalg.norm(lines.select("x", "y").to_numpy() - lines.select("x2", "y2").to_numpy(), axis=1)
    assert np.sort(length_M) == pytest.approx(far_M, rel=1e-3)
    assert sorted(lines["text"].to_list()) == sorted(f"{far:.1f}" for far in far_M)
    assert len(far_M) == 5  # pairs of clusters with different labels
    assert len(gaps(report, 0)) == 2  # pairs of labels that do not overlap


def test_one_label_is_two_clusters_where_it_is_taken_apart(report: Report) -> None:
    probe = found(report)
    assert (probe.n_clusters_, probe.is_linear_, probe.n_undecided_) == (4, False, 0)
    columns = ("x", "y", "label", "group", "corner")
    groups = [drawn(report, n, *columns).group_by("label").agg(pl.col("group").n_unique()).sort("label").rows()
              for n in (0, 1)]  # fmt: skip
    assert groups == [[("A", 1), ("B", 1), ("C", 1)], [("A", 2), ("B", 1), ("C", 1)]]
    titles = [panel["title"] for panel in report.figures["figure1"](NOTHING).to_dict()["hconcat"]]
    assert titles == ["labels as wholes: A and B overlap", "DirectProbe: 4 clusters of 3 labels, not linear"]


def test_a_study_without_geometry_has_the_figure(report: Report) -> None:
    assert "<svg" in to_svg(report.figures["figure1"](NOTHING))
    page = render_html(report, NOTHING, "zhou2022_tiny")
    section = page.split('<section id="figure1">')[1].split("</section>")[0]
    assert 'src="data:image/svg+xml' in section
    assert '<section id="figure2">\n<h2>figure2</h2>\n<p class="missing">' in page
