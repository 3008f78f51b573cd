"""Zhou 2022's figures, movement and claims: planted ways of points give the curves and verdicts that they must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pointlab import Floats, Trial, clustering, geometry, state, training, written

from ftprobe import figures
from ftprobe.frames import MissingData
from ftprobe.report import Report, find_report
from ftprobe.tables import Table

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
LABELS = {"upos": 10, "ps_fxn": 12}
LAYERS, SEEDS = (0, 1, 2), (0, 1, 2)
UPDATES = {5: 0.5, 10: 1.0, None: 1.0}  # the share of the way; None is the final state
D = 16


def names(task: str) -> list[str]:
    return [f"{task}-{i:02d}" for i in range(LABELS[task])]


def start(task: str, layer: int) -> Floats:
    return np.random.default_rng([len(task), layer]).standard_normal((LABELS[task], D)) * 4


def tuned(task: str, layer: int, seed: int, part: float, sign: float = 1.0) -> Floats:
    """Everything moves outwards, more in higher layers and in all directions; label 0 most of all, label 1 inwards."""
    wander = np.random.default_rng([len(task), layer, seed]).standard_normal((LABELS[task], D))
    factor = np.ones(LABELS[task])
    factor[0], factor[1] = 2.0, -0.2
    return start(task, layer) * (1 + sign * layer * part * factor[:, None] / 4) + 0.05 * part * layer * wander


def states(task: str, by: str, seed: int, sign: float) -> Iterator[Trial]:
    for update, part in UPDATES.items():
        rows = [
            row
            for layer in LAYERS
            for row in [
                *geometry(tuned(task, layer, seed, part, sign), names(task), layer),
                *clustering(LABELS[task], LABELS[task], 0.6, layer),
            ]
        ]
        yield Trial(state(task, by, seed, update=update), rows)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pl.LazyFrame:
    trials = []
    for task in LABELS:
        rows = [
            row
            for layer in LAYERS
            for row in [
                *geometry(start(task, layer), names(task), layer),
                *clustering(LABELS[task] + 3 * (task == "upos"), LABELS[task], 0.9, layer),
            ]
        ]
        trials.append(Trial(state(task), rows))
        for seed in SEEDS:
            trials += [*states(task, task, seed, 1.0), training(task, seed, 10)]
    for seed in SEEDS:
        trials += states("ps_fxn", "upos", seed, -0.5)
    return written(tmp_path_factory.mktemp("records"), trials)


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("zhou2022", SWEEPS / "zhou2022.yaml")


def drawn(report: Report, name: str, records: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a figure, which also must be drawn."""
    chart = report.figures[name](records)
    assert "<svg" in figures.to_svg(chart)
    sets: dict[str, list[dict[str, Any]]] = chart.to_dict()["datasets"]
    return pl.DataFrame([row for rows in sets.values() for row in rows])


def nearest(c_KD: Floats) -> Floats:
    d_KK = np.linalg.norm(c_KD[:, None] - c_KD[None], axis=2) + np.diag([np.inf] * len(c_KD))
    return d_KK.min(axis=1)


@pytest.mark.parametrize(("name", "panels"), [("figure2", ["POS"]), ("figure6", ["POS", "PS-fxn"])])
def test_distances_of_the_labels_that_grow_most_and_least(
    name: str, panels: list[str], report: Report, records: pl.LazyFrame
) -> None:
    points = drawn(report, name, records)
    assert points["panel"].unique(maintain_order=True).to_list() == panels
    for task, panel in (("upos", "POS"), ("ps_fxn", "PS-fxn")):
        if panel not in panels:
            continue
        own = points.filter(pl.col("panel") == panel)
        way = {u: np.mean([nearest(tuned(task, 2, s, u / 10)) for s in SEEDS], axis=0) for u in (0, 5, 10)}
        order = np.argsort(way[10] - way[0])
        expected = {"most": set(order[-3:].tolist()), "least": set(order[:3].tolist())}
        for kind, labels in expected.items():
            assert set(own.filter(pl.col("increase") == kind)["label"]) == {names(task)[k] for k in labels}
        for label, update, mean in own.select("label", "update", "mean").rows():
            assert mean == pytest.approx(way[update][names(task).index(label)])
        assert own.height == 6 * 3


def test_paths_of_the_three_closest_labels(report: Report, records: pl.LazyFrame) -> None:
    points = drawn(report, "figure3", records)
    d_KK = np.linalg.norm(start("upos", 2)[:, None] - start("upos", 2)[None], axis=2)
    triples = [(i, j, k) for i in range(10) for j in range(i) for k in range(j)]
    best = min(triples, key=lambda t: d_KK[t[0], t[1]] + d_KK[t[0], t[2]] + d_KK[t[1], t[2]])
    assert set(points["label"]) == {names("upos")[k] for k in best}
    assert points["panel"].unique(maintain_order=True).to_list() == ["minilm, layer 1", "minilm, layer 2"]
    assert points.height == 3 * 3 * 2
    assert points.filter("start")["update"].unique().to_list() == [0]
    title = report.figures["figure3"](records).title.text
    assert "tuning seed 0" in title


def test_similarity_starts_at_one_and_falls_with_depth(report: Report, records: pl.LazyFrame) -> None:
    points = drawn(report, "figure4", records)
    assert points["panel"].unique(maintain_order=True).to_list() == ["POS", "PS-fxn"]
    assert points.filter(pl.col("update") == 0)["mean"].unique().to_list() == [1.0]
    last = points.filter(pl.col("update") == 10, pl.col("panel") == "POS").sort("layer")
    assert last["layer"].to_list() == [1, 2]

    def r(layer: int, seed: int) -> float:
        pairs = np.triu_indices(10, 1)
        d = [np.linalg.norm(c[:, None] - c[None], axis=2)[pairs]
             for c in (start("upos", layer), tuned("upos", layer, seed, 1.0))]  # fmt: skip
        return float(np.corrcoef(d)[0, 1])

    expected = [np.mean([r(layer, seed) for seed in SEEDS]) for layer in (1, 2)]
    assert last["mean"].to_list() == pytest.approx(expected)


def test_a_layer_that_is_not_linear_has_no_similarity(report: Report, records: pl.LazyFrame) -> None:
    overlaps = (pl.col("layer") == 1) & pl.col("ft_task").is_null() & (pl.col("metric") == "hull_distance")
    crooked = records.with_columns(value=pl.when(overlaps).then(0.0).otherwise("value"))
    points = drawn(report, "figure4", crooked)
    known = points.group_by("layer").agg(pl.col("mean").is_not_null().sum()).sort("layer")
    assert known.rows() == [(1, 0), (2, 2 * 3)]
    with pytest.raises(MissingData, match="states that are linear"):
        report.figures["figure4"](crooked.filter(pl.col("layer") < 2))


def test_a_task_that_is_never_linear_is_named_and_has_no_panel(report: Report, records: pl.LazyFrame) -> None:
    overlaps = (pl.col("task") == "ps_fxn") & pl.col("ft_task").is_null() & (pl.col("metric") == "hull_distance")
    crooked = records.with_columns(value=pl.when(overlaps).then(0.0).otherwise("value"))
    assert drawn(report, "figure4", crooked)["panel"].unique().to_list() == ["POS"]
    titles = [report.figures["figure4"](rows).title.text for rows in (crooked, records)]
    assert ["not linear: PS-fxn" in title for title in titles] == [True, False]


@pytest.mark.parametrize(("name", "layers"), [("figure5", 2), ("figure7", 3), ("figure9", 3)])
def test_shifts_of_every_label_in_a_panel_of_each_layer(
    name: str, layers: int, report: Report, records: pl.LazyFrame
) -> None:
    points = drawn(report, name, records)
    task = "ps_fxn" if name == "figure9" else "upos"
    assert points["panel"].n_unique() == layers
    top = points.filter(pl.col("panel") == "minilm, layer 2").sort("label")
    assert top["label"].to_list() == names(task)
    s_KD = tuned(task, 2, 0, 1.0) - start(task, 2)
    energy = np.linalg.svd(s_KD - s_KD.mean(axis=0), compute_uv=False) ** 2
    assert [float((top[name] ** 2).sum()) for name in ("pc1", "pc2")] == pytest.approx(energy[:2], rel=1e-5)


@pytest.mark.parametrize("name", ["figure8", "figure10"])
def test_a_task_that_the_study_lacks_is_missing(name: str, report: Report, records: pl.LazyFrame) -> None:
    with pytest.raises(MissingData, match=r"DEP|PS-role"):
        report.figures[name](records)


def test_without_states_on_the_way_figures_over_updates_have_two_points(report: Report, records: pl.LazyFrame) -> None:
    final = records.filter(pl.col("update").is_null() | (pl.col("method") == "finetune"))
    assert drawn(report, "figure4", final)["update"].unique().sort().to_list() == [0, 10]
    with pytest.raises(MissingData, match="snapshots"):
        report.figures["figure2"](final.filter(pl.col("method") != "finetune"))


def line(table: Table, *heads: str) -> dict[str, str]:
    (found,) = [row for row in table.frame.iter_rows(named=True) if tuple(row.values())[: len(heads)] == heads]
    return found


def test_movement_is_by_layer(report: Report, records: pl.LazyFrame) -> None:
    table = report.tables["movement"](records)
    assert table.frame.height == 3 * len(LAYERS)
    top, bottom = (line(table, "minilm", "PS-fxn", "PS-fxn", str(layer)) for layer in (2, 0))
    assert (bottom["increased"], bottom["decreased"], bottom["r to pre-trained"]) == ("0", "0", "1.00 ± 0.00")
    assert bottom["cosine of shifts"] == "–"  # nothing moved
    length = [np.linalg.norm(tuned("ps_fxn", 2, s, 1.0) - start("ps_fxn", 2), axis=1).mean() for s in SEEDS]
    assert top["shift"] == f"{np.mean(length):.2f} ± {np.std(length, ddof=1):.2f}"
    rise = [np.mean(nearest(tuned("ps_fxn", 2, s, 1.0, -0.5)) - nearest(start("ps_fxn", 2))) for s in SEEDS]
    shown = line(table, "minilm", "PS-fxn", "POS", "2")["mean increase"]
    assert shown == f"{np.mean(rise):.2f} ± {np.std(rise, ddof=1):.2f}"


def test_claims(report: Report, records: pl.LazyFrame) -> None:
    table = report.tables["claims"](records)
    verdicts = dict(table.frame.select("claim", "verdict").rows())
    assert {claim: verdicts[claim] for claim in ("Z1", "Z2", "Z3", "Z6", "Z7")} == {
        "Z1": "untested",
        "Z2": "supported",
        "Z3": "supported",
        "Z6": "untested",
        "Z7": "supported",
    }
    cells = report.tables["claim_cells"](records)
    assert line(cells, "Z3", "minilm POS")["effect"] == "3.000 ± 0.000"
    share = [(nearest(tuned("upos", 2, s, 1.0)) > 1.001 * nearest(start("upos", 2))).mean() for s in SEEDS]
    assert line(cells, "Z4", "minilm POS")["effect"].startswith(f"{np.mean(share) - 0.95:.3f}")
    assert line(cells, "Z5", "minilm PS-fxn: 0 > POS")["verdict"] == "supported"
    assert line(cells, "Z8", "minilm POS length")["effect"] == "1.000 ± 0.000"
    assert {path[-1] for path in cells.columns} == {"effect", "interval", "q", "decided by", "verdict"}


def test_cells_do_not_depend_on_the_order_of_records(report: Report, records: pl.LazyFrame) -> None:
    orders = [
        records.collect(),
        records.reverse().collect(),
        records.collect().sample(fraction=1, shuffle=True, seed=0),
    ]
    tables = [report.tables["claim_cells"](rows.lazy()).frame for rows in orders]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_two_seeds_decide_nothing_by_sign(report: Report, records: pl.LazyFrame) -> None:
    two = records.filter(pl.col("ft_seed").is_null() | (pl.col("ft_seed") < 2))
    verdicts = dict(report.tables["claims"](two).frame.select("claim", "verdict").rows())
    assert (verdicts["Z2"], verdicts["Z7"]) == ("inconclusive", "inconclusive")
