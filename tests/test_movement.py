"""Movement: planted moves of points come back; what one state lacks is left out; numpy says the same."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pointlab as lab
import polars as pl
import pytest
from pointlab import Floats, Trial, geometry, state, training, written

from ftprobe import movement

LABELS = ("a", "b.x", "c'd", "z", "é]")
START_KD = np.random.default_rng(0).standard_normal((len(LABELS), 6)) * 3


def run(tmp_path: Path, tuned_KD: Floats, *, start_KD: Floats = START_KD, **more: object) -> pl.LazyFrame:
    """One state before and one after fine-tuning, at one layer."""
    trials = [
        Trial(state("pos"), list(geometry(start_KD, LABELS, 3))),
        Trial(state("pos", "pos"), list(geometry(tuned_KD, LABELS, 3, **more))),
    ]
    return written(tmp_path, trials)


def values(rows: pl.LazyFrame) -> dict[str, float]:
    return dict(rows.collect().select("metric", "value").rows())


def nearest(c_KD: Floats) -> Floats:
    d_KK = np.linalg.norm(c_KD[:, None] - c_KD[None], axis=2) + np.diag([np.inf] * len(c_KD))
    return d_KK.min(axis=1)


def test_changes_are_those_of_numpy(tmp_path: Path) -> None:
    tuned_KD = START_KD + np.random.default_rng(1).standard_normal(START_KD.shape)
    found = movement.distance_changes(run(tmp_path, tuned_KD)).sort("label").collect()
    change_K = nearest(tuned_KD) - nearest(START_KD)
    assert found["label"].to_list() == sorted(LABELS)
    assert found["change"].to_list() == pytest.approx(change_K.tolist())
    assert found["direction"].to_list() == np.sign(change_K).tolist()
    summary = values(movement.increases(run(tmp_path / "2", tuned_KD)))
    assert summary == {
        "n_inc": (change_K > 0).sum(),
        "n_dec": (change_K < 0).sum(),
        "mean_inc": pytest.approx(change_K.mean()),
    }


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaling_moves_every_minimum_and_leaves_r(factor: float, tmp_path: Path) -> None:
    records = run(tmp_path, START_KD * factor)
    changes = movement.distance_changes(records).collect()
    assert (changes["value"] / changes["baseline"]).to_list() == pytest.approx([factor] * len(LABELS))
    counts = values(movement.increases(records))
    assert (counts["n_inc"], counts["n_dec"]) == ((5, 0) if factor > 1 else (0, 5))
    assert values(movement.similarity_to_pretrained(records)) == {"spatial_similarity": pytest.approx(1.0)}


def test_a_change_below_the_tolerance_of_the_solver_is_none(tmp_path: Path) -> None:
    records = run(tmp_path, START_KD * 1.0005)
    counts = values(movement.increases(records))
    assert (counts["n_inc"], counts["n_dec"]) == (0, 0)
    assert counts["mean_inc"] == pytest.approx(0.0005 * nearest(START_KD).mean())
    finer = values(movement.increases(records, tolerance=1e-4))
    assert (finer["n_inc"], finer["n_dec"]) == (5, 0)


def test_overlap_before_and_after_is_no_change(tmp_path: Path) -> None:
    counts = values(movement.increases(run(tmp_path, START_KD * 0, start_KD=START_KD * 0)))
    assert counts == {"n_inc": 0, "n_dec": 0, "mean_inc": 0}


def test_r_is_that_of_numpy_over_the_labels_of_both(tmp_path: Path) -> None:
    tuned_KD = START_KD + np.random.default_rng(2).standard_normal(START_KD.shape)
    kept = [0, 2, 3, 4]  # the tuned state has no item of the second label
    trials = [
        Trial(state("pos"), list(geometry(START_KD, LABELS, 1))),
        Trial(state("pos", "pos"), list(geometry(tuned_KD[kept], [LABELS[i] for i in kept], 1))),
    ]
    found = movement.similarity_to_pretrained(written(tmp_path, trials)).collect()
    d_P2 = [[np.linalg.norm(c[i] - c[j]) for c in (START_KD, tuned_KD)] for i, j in combinations(kept, 2)]
    assert found["value"].to_list() == pytest.approx([np.corrcoef(np.array(d_P2).T)[0, 1]], rel=1e-12)
    assert found.select("n_items", "layer", "split", "status").rows() == [(6, 1, "train", "ok")]


def test_layers_of_one_state_are_compared_with_each_other(tmp_path: Path) -> None:
    other_KD = START_KD + np.random.default_rng(3).standard_normal(START_KD.shape)
    trials = [
        Trial(
            state("pos", "pos", update=update), [row for layer, c_KD in layers for row in geometry(c_KD, LABELS, layer)]
        )
        for update, layers in ((None, [(1, START_KD), (3, other_KD), (5, 2 * START_KD)]), (4, [(1, other_KD)]))
    ]
    found = movement.similarity_between_layers(written(tmp_path, trials)).sort("layer", "other").collect()
    d_P2 = [[np.linalg.norm(c[i] - c[j]) for c in (START_KD, other_KD)] for i, j in combinations(range(5), 2)]
    r = np.corrcoef(np.array(d_P2).T)[0, 1]
    assert found.select("layer", "other", "n_items", "status").rows() == [
        (1, 3, 10, "ok"),
        (1, 5, 10, "ok"),
        (3, 5, 10, "ok"),
    ]
    assert found["value"].to_list() == pytest.approx([r, 1.0, r], rel=1e-12)


def overlapping(c_KD: Floats) -> Floats:
    c_KD = c_KD.copy()
    c_KD[1] = c_KD[0]
    return c_KD


@pytest.mark.parametrize(
    ("start_KD", "tuned_KD", "reason"),
    [
        (START_KD, overlapping(START_KD), "not linear"),
        (overlapping(START_KD), START_KD, "not linear"),
        (np.eye(5), START_KD, "constant distances"),
        (START_KD[:2], START_KD[:2], "fewer than 3 pairs of labels"),
    ],
    ids=["tuned", "pretrained", "constant", "few"],
)
def test_r_is_undefined_with_a_reason(start_KD: Floats, tuned_KD: Floats, reason: str, tmp_path: Path) -> None:
    trials = [
        Trial(state("pos"), list(geometry(start_KD, LABELS[: len(start_KD)], 1))),
        Trial(state("pos", "pos"), list(geometry(tuned_KD, LABELS[: len(tuned_KD)], 1))),
    ]
    found = movement.similarity_to_pretrained(written(tmp_path, trials)).collect()
    assert found.select("value", "status", "reason").rows() == [(None, "undefined", reason)]


def test_means_over_clusters_are_the_vector_of_a_state_that_is_not_linear(tmp_path: Path) -> None:
    config = {"probe": {"kind": "clusters", "nonlinear": "cluster_mean"}}
    rng = np.random.default_rng(5)
    means, pairs = {}, []
    for row in geometry(overlapping(START_KD), LABELS, 1):
        if row.metric == "hull_distance":
            one, other = row.detail["labels"]
            means[one, other] = rng.random() + 1
            # A pair whose clusters are all too small has no mean.
            given = {} if (one, other) == ("b.x", "z") else {"cluster_mean": means[one, other]}
            row = row._replace(detail={**row.detail, **given})
        pairs.append(row)
    trials = [
        Trial(state("pos", config=config), list(geometry(START_KD, LABELS, 1))),
        Trial(state("pos", "pos", config=config), pairs),
        Trial(state("pos", "pos", seed=1, config=config), list(geometry(START_KD, LABELS, 1))),
    ]
    found = movement.similarity_to_pretrained(written(tmp_path, trials)).sort("ft_seed").collect()
    kept = [(i, j) for i, j in combinations(range(5), 2) if (LABELS[i], LABELS[j]) != ("b.x", "z")]
    d_P = [np.linalg.norm(START_KD[i] - START_KD[j]) for i, j in kept]
    r = np.corrcoef(d_P, [means[LABELS[i], LABELS[j]] for i, j in kept])[0, 1]
    assert found["value"].to_list() == pytest.approx([r, 1.0])
    assert found["n_items"].to_list() == [9, 10]


def test_an_undefined_distance_is_no_change(tmp_path: Path) -> None:
    records = run(tmp_path, START_KD * 2, status="undefined")
    assert movement.increases(records).collect().is_empty()
    assert movement.similarity_to_pretrained(records).collect()["reason"].to_list() == ["not linear"]


def test_states_on_the_way_and_layers_do_not_mix(tmp_path: Path) -> None:
    def at(factor: float) -> list[lab.Measurement]:
        return [row for layer in (0, 1) for row in geometry(START_KD * (1 + layer) * factor, LABELS, layer)]

    trials = [
        Trial(state("pos"), at(1.0)),
        Trial(state("pos", "pos", update=5), at(2.0)),
        Trial(state("pos", "pos", update=10), at(3.0)),
        Trial(state("pos", "pos"), at(3.0)),
        Trial(state("pos", "dep"), at(0.5)),
        Trial(state("dep", "dep"), at(1.0)),  # nothing of the pre-trained state to compare with
        training("pos", 0, 10),
    ]
    records = written(tmp_path, trials)
    means = movement.increases(records).filter(pl.col("metric") == "mean_inc").collect()
    found = {(row["ft_task"], row["update"], row["final"], row["layer"]): row["value"] for row in means.to_dicts()}
    plain = nearest(START_KD).mean()
    expected = {("pos", 5, False): 1.0, ("pos", 10, False): 2.0, ("pos", 10, True): 2.0, ("dep", None, True): -0.5}
    assert found == {
        (*where, layer): pytest.approx(factor * plain * (1 + layer))
        for where, factor in expected.items()
        for layer in (0, 1)
    }
    way = movement.from_the_start(movement.compared(records, "min_distance")).collect()
    assert way["update"].unique().sort().to_list() == [0, 5, 10]
    first = way.filter(pl.col("label") == "a", pl.col("layer") == 1).sort("update")
    assert (first["value"] / (2 * nearest(START_KD)[0])).to_list() == pytest.approx([1.0, 2.0, 3.0])


def test_a_trial_under_two_names_counts_once(tmp_path: Path) -> None:
    records = run(tmp_path, START_KD * 2)
    twice = pl.concat([records, records])
    for measure in (movement.increases, movement.similarity_to_pretrained):
        assert measure(twice).collect().rows() == measure(records).collect().rows()


@pytest.mark.parametrize(("n", "largest", "smallest"), [(1, ("d",), ("a",)), (3, ("d", "c"), ("a", "b"))])
def test_extreme_labels_are_of_the_mean_and_apart(n: int, largest: tuple[str, ...], smallest: tuple[str, ...]) -> None:
    changes = pl.DataFrame({"label": ["a", "b", "c", "d"] * 2, "change": [-1.0, 5.0, 2.0, 3.0, -1.0, -5.0, 2.0, 3.0]})
    assert movement.extreme_labels(changes, n=n) == (largest, smallest)


def distances(d: dict[str, float]) -> pl.DataFrame:
    return pl.DataFrame({"label": [f'["{pair[0]}","{pair[1]}"]' for pair in d], "value": list(d.values())})


def test_closest_labels() -> None:
    # d and e are the closest two, but far from all others; a, b, c are together.
    near = dict.fromkeys(("ab", "ac", "bc"), 2.0)
    far = dict.fromkeys(("ad", "ae", "bd", "be", "cd", "ce"), 9.0)
    frame = distances({**near, **far, "de": 1.0})
    assert movement.closest_labels(frame) == ("a", "b", "c")
    assert movement.closest_labels(frame, closest="smallest_min") == ("a", "d", "e")
    assert movement.closest_labels(frame.filter(pl.col("value") == 2.0)) == ("a", "b", "c")
    assert movement.closest_labels(frame.head(1)) == ("a", "b")


def test_without_records_there_are_no_rows() -> None:
    nothing = written(Path(), [])
    assert movement.increases(nothing).collect().is_empty()
    assert movement.similarity_to_pretrained(nothing).collect().is_empty()
