"""Zhou 2022's claims on accuracies: planted predictions give each verdict, by the sentences of the probed items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from itemlab import Trial, drawn, state, written
from numpy.typing import NDArray
from tablelab import cell

from ftprobe.items import ReadPredictions
from ftprobe.report import Report, find_report, render_html

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
ITEMS = drawn(200)
BASE_N = np.arange(len(ITEMS.gold_N)) % 2 == 0  # what the pre-trained state gets right


class Moved(NamedTuple):
    """Items that tuning gets right that were wrong, and the other way round."""

    won: int
    lost: int


BETTER, WORSE, UNSURE = Moved(80, 0), Moved(0, 80), Moved(45, 40)
Gains = Mapping[tuple[str, str], Moved]  # by the probed task and the one that was tuned on
Found = tuple[pl.LazyFrame, ReadPredictions]


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("zhou2022", SWEEPS / "zhou2022.yaml")


def tuned(moved: Moved, *seed: int) -> NDArray[np.bool_]:
    rng, right_N = np.random.default_rng(seed), BASE_N.copy()
    right_N[rng.permutation(np.flatnonzero(~BASE_N))[: moved.won]] = True
    right_N[rng.permutation(np.flatnonzero(BASE_N))[: moved.lost]] = False
    return right_N


def study(folder: Path, gains: Gains, *, seeds: int = 3, without: str = "") -> Found:
    """The records and predictions of MLPs; the trial `without` keeps no predictions."""
    made = [Trial(state(task), ITEMS, BASE_N) for task in dict.fromkeys(task for task, _ in gains)]
    made += [
        Trial(state(task, by, seed), ITEMS, tuned(moved, number, seed))
        for number, ((task, by), moved) in enumerate(gains.items())
        for seed in range(seeds)
    ]
    return written(folder, [trial._replace(keeps=trial.columns["trial"] != without) for trial in made])


def verdicts(report: Report, found: Found) -> dict[str, str]:
    return dict(report.tables["claims"](*found).frame.select("claim", "verdict").rows())


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([BETTER] * 4 + [WORSE], "supported"),
        ([BETTER] * 2 + [WORSE] * 3, "contradicted"),
        ([BETTER] * 3 + [UNSURE] * 2, "inconclusive"),
        ([], "untested"),
    ],
    ids=["supported", "contradicted", "inconclusive", "untested"],
)
def test_z1_asks_for_most_tasks(gains: list[Moved], expected: str, report: Report, tmp_path: Path) -> None:
    tasks = ("upos", "dep", "ps_fxn", "ps_role", "trec_50")
    own = {(task, task): moved for task, moved in zip(tasks, gains, strict=False)}
    found = study(tmp_path, {**own, ("ps_fxn", "upos"): WORSE})
    assert verdicts(report, found)["Z1"] == expected
    assert "no item-level" not in report.tables["claims"](*found).caption


@pytest.mark.parametrize(
    ("after", "expected", "each"),
    [
        ({"ps_fxn": Moved(160, 0), "ps_role": BETTER, "upos": WORSE}, "supported", ["supported"] * 3),
        (
            {"ps_fxn": BETTER, "ps_role": Moved(160, 0), "upos": WORSE},
            "contradicted",
            ["contradicted", "supported", "supported"],
        ),
        (
            {"ps_fxn": BETTER, "ps_role": UNSURE, "upos": WORSE},
            "inconclusive",
            ["supported", "inconclusive", "supported"],
        ),
        ({}, "untested", []),
    ],
    ids=["supported", "contradicted", "inconclusive", "untested"],
)
def test_z6_asks_for_each_neighbour(
    after: dict[str, Moved], expected: str, each: list[str], report: Report, tmp_path: Path
) -> None:
    gains = {("ps_fxn", task): moved for task, moved in after.items()}
    found = study(tmp_path, {**gains, ("dep", "dep"): BETTER})
    assert verdicts(report, found)["Z6"] == expected
    own = report.tables["claim_cells"](*found).frame.filter(pl.col("claim") == "Z6")
    names = ("PS-fxn > PS-role", "PS-role > pre-trained", "pre-trained > POS")
    assert own["cell"].to_list() == [f"m PS-fxn: {name}" for name in names[: len(each)]]
    assert own["verdict"].to_list() == each
    assert set(own["decided by"]) <= {"sentences and seeds"}


def test_seeds_that_agree_are_not_enough_where_sentences_do_not(report: Report, tmp_path: Path) -> None:
    records, predictions = study(tmp_path, {("upos", "upos"): UNSURE, ("dep", "dep"): BETTER})
    by_items, by_sign = (report.tables["claim_cells"](records, *more) for more in ([predictions], []))
    for table, decided, verdict in ((by_items, "sentences and seeds", "inconclusive"), (by_sign, "sign", "supported")):
        assert cell(table, ("Z1", "m POS"), "decided by") == decided
        assert cell(table, ("Z1", "m POS"), "verdict") == verdict
        assert cell(table, ("Z1", "m POS"), "effect") == cell(by_sign, ("Z1", "m POS"), "effect")
    assert "The cells of Z1 and Z6 have no item-level predictions" in by_sign.caption
    # q is over both cells of the claim: the smallest p there is, (0 + 1) / (10,000 + 1), is doubled.
    assert cell(by_items, ("Z1", "m DEP"), "q") == "0.0002"


def test_two_seeds_are_judged_by_sentences_alone(report: Report, tmp_path: Path) -> None:
    found = study(tmp_path, {("upos", "upos"): BETTER}, seeds=2)
    table = report.tables["claim_cells"](*found)
    assert cell(table, ("Z1", "m POS"), "decided by") == "sentences"
    assert cell(table, ("Z1", "m POS"), "verdict") == "supported"


@pytest.mark.parametrize("lacks", ["upos-None-0", "upos-upos-2"])
def test_a_cell_without_predictions_goes_by_its_sign_and_is_counted(lacks: str, report: Report, tmp_path: Path) -> None:
    found = study(tmp_path, {("upos", "upos"): BETTER, ("dep", "dep"): BETTER}, without=lacks)
    table = report.tables["claim_cells"](*found)
    assert cell(table, ("Z1", "m POS"), "decided by") == "sign"
    assert cell(table, ("Z1", "m POS"), "interval") == "–"
    assert cell(table, ("Z1", "m POS"), "q") == "–"
    assert cell(table, ("Z1", "m DEP"), "q") == "0.0001"
    for name in ("claims", "claim_cells"):
        assert "1 of the 2 cells of Z1 and Z6 have no item-level" in report.tables[name](*found).caption


def test_the_page_shows_what_the_tables_do(report: Report, tmp_path: Path) -> None:
    records, predictions = study(tmp_path, {("upos", "upos"): BETTER})
    assert "sentences and seeds" in render_html(report, records, "t", predictions)
    assert "sentences and seeds" not in render_html(report, records, "t")
