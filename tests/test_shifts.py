"""Shifts: planted translations come back exactly; PCA, cosines and paths are those of numpy and scikit-learn."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pointlab import Trial, geometry, state, training, written
from sklearn.decomposition import PCA

from ftprobe.shifts import centroid_paths, label_shifts, mean_cosine, principal_plane, shift_summaries

LABELS = ("a", "b", "c", "d")
D = 6
START_KD = np.random.default_rng(0).standard_normal((4, D)).astype(np.float32).astype(np.float64)
SHIFT_KD = np.random.default_rng(1).integers(-8, 9, (4, D)) / 4.0  # exact in float32 with what follows
START_KD = np.round(START_KD * 64) / 64


def two_states(tmp_path: Path, shift_KD: np.ndarray) -> pl.LazyFrame:
    trials = [
        Trial(state("pos"), list(geometry(START_KD, LABELS, 2))),
        Trial(state("pos", "pos", update=5), list(geometry(START_KD + shift_KD / 2, LABELS, 2))),
        Trial(state("pos", "pos"), list(geometry(START_KD + shift_KD, LABELS, 2))),
        training("pos", 0, 10),
    ]
    return written(tmp_path, trials)


def summary(records: pl.LazyFrame, **options: bool) -> dict[str, float | None]:
    return dict(shift_summaries(records, **options).select("metric", "value").rows())


def test_one_label_translated(tmp_path: Path) -> None:
    shift_KD = np.zeros((4, D))
    shift_KD[2] = np.arange(D)
    records = two_states(tmp_path, shift_KD)
    norms = dict(label_shifts(records).select("label", "norm").rows())
    assert norms == {"a": 0.0, "b": 0.0, "c": np.sqrt(55.0), "d": 0.0}
    assert summary(records) == {
        "shift_norm": np.sqrt(55.0) / 4,
        "shift_cosine": None,  # one shift has no other to compare with
        "shift_pc1": pytest.approx(1.0),
    }


def test_all_translated_alike_is_the_origin_of_centred_pca_only(tmp_path: Path) -> None:
    records = two_states(tmp_path, np.tile(np.arange(1.0, D + 1), (4, 1)))
    assert summary(records)["shift_cosine"] == pytest.approx(1.0)
    assert summary(records)["shift_pc1"] is None
    assert summary(records, centre=False)["shift_pc1"] == pytest.approx(1.0)
    shifts = label_shifts(records)
    assert np.abs(shifts.select("pc1", "pc2").to_numpy()).max() == 0
    apart = label_shifts(records, centre=False)
    assert apart["pc1"].to_list() == pytest.approx([np.sqrt(91.0)] * 4)


@pytest.mark.parametrize("centre", [True, False])
def test_numbers_are_those_of_numpy(centre: bool, tmp_path: Path) -> None:
    records = two_states(tmp_path, SHIFT_KD)
    s_KD = SHIFT_KD - SHIFT_KD.mean(axis=0) if centre else SHIFT_KD
    energy = np.linalg.svd(s_KD, compute_uv=False) ** 2
    unit_KD = SHIFT_KD / np.linalg.norm(SHIFT_KD, axis=1, keepdims=True)
    found = summary(records, centre=centre)
    assert found["shift_norm"] == pytest.approx(np.linalg.norm(SHIFT_KD, axis=1).mean(), rel=1e-12)
    assert found["shift_cosine"] == pytest.approx(np.mean([a @ b for a, b in combinations(unit_KD, 2)]), rel=1e-12)
    assert found["shift_pc1"] == pytest.approx(energy[0] / energy.sum(), rel=1e-12)
    at_K2 = label_shifts(records, centre=centre).sort("label").select("pc1", "pc2").to_numpy()
    # What is left of all distances to the origin is what two components keep.
    assert (at_K2**2).sum(axis=0) == pytest.approx(energy[:2])
    assert label_shifts(records, centre=centre)["share2"].to_list() == pytest.approx([energy[1] / energy.sum()] * 4)


def test_plane_is_that_of_scikit_learn_with_its_largest_loadings_positive() -> None:
    x_PD = np.random.default_rng(3).standard_normal((20, 9))
    found, reference = principal_plane(x_PD), PCA(2).fit(x_PD)
    axis_2D = np.linalg.lstsq(x_PD - x_PD.mean(axis=0), found.at_P2, rcond=None)[0].T
    assert np.abs(found.at_P2) == pytest.approx(np.abs(reference.transform(x_PD)), abs=1e-12)
    assert found.share_2 == pytest.approx(reference.explained_variance_ratio_)
    for axis_D in axis_2D:
        assert axis_D[np.abs(axis_D).argmax()] > 0


def test_plane_of_one_dimension_and_of_one_point() -> None:
    line = principal_plane(np.array([[0.0], [3.0]]))
    assert line.at_P2.tolist() == [[-1.5, 0.0], [1.5, 0.0]]
    assert line.share_2.tolist() == [1.0, 0.0]
    point = principal_plane(np.ones((3, 4)))
    assert point.at_P2.tolist() == [[0.0, 0.0]] * 3
    assert np.isnan(point.share_2).all()


def test_mean_cosine_leaves_out_what_did_not_move() -> None:
    assert mean_cosine(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])) == pytest.approx(0.0)
    assert mean_cosine(np.array([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-1.0)
    assert np.isnan(mean_cosine(np.array([[1.0, 0.0], [0.0, 0.0]])))


def test_paths_are_in_one_plane_of_their_own_points(tmp_path: Path) -> None:
    records = two_states(tmp_path, SHIFT_KD)
    paths = centroid_paths(records, ["a", "c"])
    assert paths.select("label", "update").rows() == [(label, update) for label in "ac" for update in (0, 5, 10)]
    x_PD = np.array([START_KD[k] + SHIFT_KD[k] * part for k in (0, 2) for part in (0.0, 0.5, 1.0)])
    expected = PCA(2).fit_transform(x_PD)
    assert np.abs(paths.select("pc1", "pc2").to_numpy()) == pytest.approx(np.abs(expected), abs=1e-6)
    middle = paths.filter(pl.col("label") == "a").select("pc1", "pc2").to_numpy()
    assert middle[1] == pytest.approx((middle[0] + middle[2]) / 2)


def test_a_snapshot_of_the_last_update_is_the_final_state_once(tmp_path: Path) -> None:
    own = Trial(state("pos", "pos", update=10), list(geometry(START_KD + SHIFT_KD, LABELS, 2)))
    again = written(tmp_path / "more", [own])
    records = two_states(tmp_path / "plain", SHIFT_KD)
    assert centroid_paths(pl.concat([records, again]), ["a", "c"]).height == 6
    assert shift_summaries(pl.concat([records, again])).height == 3


def test_without_centroids_there_are_no_rows() -> None:
    nothing = written(Path(), [])
    for found in (label_shifts(nothing), shift_summaries(nothing), centroid_paths(nothing, ["a"])):
        assert found.is_empty()
    assert "pc1" in label_shifts(nothing).columns
    assert "value" in shift_summaries(nothing).columns
