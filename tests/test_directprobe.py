"""DirectProbe against what the published code returned, closed forms and the rules of METHODS 7."""

import json
from pathlib import Path

import numpy as np
import pytest

from ftprobe.directprobe import DirectProbe, distance_vector, label_distances, spatial_similarity
from ftprobe.errors import InputError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "directprobe"
FACTS = json.loads((GOLDEN / "datasets.json").read_text())["datasets"] if GOLDEN.is_dir() else []
CORNERS = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])


def by_first_row(cluster_N):
    """Clusters named by their first row: equal for equal partitions."""
    _, first, inverse = np.unique(cluster_N, return_index=True, return_inverse=True)
    return first[inverse]


def xor(seed=0, n=12, width=0.1):
    rng = np.random.default_rng(seed)
    corner_N = np.arange(4 * n) % 4
    return CORNERS[corner_N] + width * rng.normal(size=(4 * n, 2)), np.where(corner_N < 2, "same", "other")


@pytest.mark.parametrize("facts", FACTS, ids=[facts["name"] for facts in FACTS])
def test_the_published_partition_and_distances(facts):
    golden = np.load(GOLDEN / f"{facts['name']}.npz")
    probe = DirectProbe(tol=1e-5).fit(golden["X_ND"], golden["y_N"])
    assert by_first_row(probe.labels_).tolist() == by_first_row(golden["assignment_N"]).tolist()
    assert (probe.n_clusters_, probe.is_linear_, probe.n_undecided_) == (facts["n_clusters"], facts["linear"], 0)
    ours = dict(zip(golden["assignment_N"], probe.labels_, strict=True))
    found = probe.distances()
    at = {tuple(pair): m for m, pair in enumerate(found.pair_M2.tolist())}
    pairs = [at[tuple(sorted((ours[a], ours[b])))] for a, _, b, _ in golden["dis_pairs_M4"]]
    assert len(pairs) == len(at)
    upper_M, high_M, low_M = found.upper_M[pairs], *golden["check_dis_bounds_M2"].T
    assert (found.lower_M <= found.upper_M).all()
    assert (upper_M <= high_M * (1 + 1e-3)).all()
    assert (upper_M >= low_M * (1 - 1e-3)).all()
    assert (upper_M >= golden["dis_M"] * (1 - 1e-5)).all()
    if facts["name"] != "d10_k4_offset":
        converged_M = golden["dis_svc_converged_M"]
        np.testing.assert_allclose(upper_M[converged_M], golden["dis_M"][converged_M], rtol=5e-4)


@pytest.mark.parametrize("facts", FACTS, ids=[facts["name"] for facts in FACTS])
@pytest.mark.parametrize("min_cluster", [1, 6])
def test_the_published_distance_vector(facts, min_cluster):
    golden = np.load(GOLDEN / f"{facts['name']}.npz")
    probe = DirectProbe(tol=1e-5).fit(golden["X_ND"], golden["y_N"])
    v_P = distance_vector(probe, nonlinear="cluster_mean", labels="zero", min_cluster=min_cluster)
    reliable_P = golden[f"check_ft_min{min_cluster}_vec_reliable"].astype(bool)
    rtol = 1e-3 if facts["name"] == "d10_k4_offset" else 5e-4
    np.testing.assert_allclose(v_P[reliable_P], golden[f"ft_min{min_cluster}_vec"][reliable_P], rtol=rtol)


def test_xor_has_three_clusters():
    X_ND, y_N = xor()
    probe = DirectProbe().fit(X_ND, y_N)
    assert (probe.n_clusters_, probe.is_linear_) == (3, False)
    assert (probe.predict(X_ND) == y_N).all()


def test_a_shift_changes_nothing():
    X_ND, y_N = xor(width=0.4)
    here, there = (DirectProbe().fit(X_ND + shift, y_N) for shift in (0.0, 1e4))
    assert here.labels_.tolist() == there.labels_.tolist()
    np.testing.assert_allclose(there.distances().upper_M, here.distances().upper_M, rtol=1e-6)
    np.testing.assert_allclose(there.centroids_ - 1e4, here.centroids_, atol=1e-8)


CONFLICT = (np.array([[0.0], [1.0], [1.0], [2.0]]), ["a", "a", "b", "b"])


def test_conflicts_stay_alone_and_block_others():
    probe = DirectProbe().fit(*CONFLICT)
    assert (probe.labels_.tolist(), probe.n_conflicts_, probe.is_linear_) == ([0, 1, 2, 3], 2, False)


def test_conflicts_are_dropped():
    probe = DirectProbe(conflicts="drop").fit(*CONFLICT)
    assert (probe.labels_.tolist(), probe.n_clusters_, probe.is_linear_) == ([0, -1, -1, 1], 2, True)


def test_conflicts_are_an_error():
    with pytest.raises(InputError, match="2 items share a vector"):
        DirectProbe(conflicts="error").fit(*CONFLICT)


@pytest.mark.parametrize("options", [{"conflicts": "keep"}, {"solver": "svm"}, {"scale": "x"}, {"tol": 0}])
def test_a_wrong_option_is_named(options):
    with pytest.raises(InputError, match=f"DirectProbe.{next(iter(options))}"):
        DirectProbe(**options).fit(*CONFLICT)


def test_label_distances_are_those_of_whole_labels():
    X_ND = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [6.0, 0.5], [0.5, 0.5]])
    found = label_distances(X_ND, ["square"] * 4 + ["far", "inside"], tol=1e-6)
    assert found.pair_M2.tolist() == [[0, 1], [0, 2], [1, 2]]  # far, inside, square
    np.testing.assert_allclose(found.upper_M, [5.5, 5.0, 0.0], rtol=1e-9)


def test_similarity_is_undefined_for_few_pairs_and_constants():
    assert np.isnan(spatial_similarity([1.0, 2.0, np.nan], [1.0, 2.0, 3.0]))
    assert np.isnan(spatial_similarity([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_two_clouds_are_two_clusters(dtype):
    rng = np.random.default_rng(0)
    y_N = np.arange(60) % 2
    X_ND = (rng.normal(size=(60, 5)) + 12 * y_N[:, None]).astype(dtype)
    probe = DirectProbe().fit(X_ND, y_N)
    assert (probe.n_clusters_, probe.is_linear_, probe.trivial_) == (2, True, 0.0)
    np.testing.assert_allclose(probe.centroids_, [X_ND[y_N == k].astype(float).mean(0) for k in (0, 1)], atol=1e-9)


def test_scaling_scales_distances_and_leaves_similarity():
    rng = np.random.default_rng(1)
    y_N = np.arange(40) % 4
    X_ND = rng.normal(size=(40, 30)) + 3 * rng.normal(size=(4, 30))[y_N]
    one, five = (distance_vector(DirectProbe(tol=1e-6).fit(c * X_ND, y_N)) for c in (1.0, 5.0))
    np.testing.assert_allclose(five, 5 * one, rtol=1e-5)
    assert spatial_similarity(one, five) == pytest.approx(1.0)


def test_pairs_too_small_to_meet_are_trivial():
    rng = np.random.default_rng(2)
    probe = DirectProbe().fit(rng.normal(size=(9, 3)), [0, 0, 1, 1, 2, 2, 2, 2, 2])
    assert probe.trivial_ == pytest.approx(1 / 3)  # 4 = D + 1 items of labels 0 and 1, 7 of the other pairs


def test_a_nonlinear_probe_has_no_vector_unless_asked():
    probe = DirectProbe().fit(*xor())
    assert np.isnan(distance_vector(probe)).all()
    pair = probe.distances()
    np.testing.assert_allclose(distance_vector(probe, nonlinear="cluster_mean"), [pair.upper_M.mean()])


def test_a_vector_over_other_labels():
    probe = DirectProbe().fit([[0.0], [3.0], [7.0]], ["a", "b", "d"])
    np.testing.assert_allclose(distance_vector(probe, ["b", "c", "d"]), [np.nan, 4.0, np.nan])
    np.testing.assert_allclose(distance_vector(probe, ["d", "c", "a"], labels="zero"), [0.0, 7.0, 0.0])


def test_prediction_is_the_nearest_hull():
    """The centroid of b is nearer to (0.5, 6) than that of a, the hull of a is nearer."""
    X_ND = np.array([[0.0, 0.0], [0.0, 20.0], [2.0, 6.0], [2.0, 6.5]])
    probe = DirectProbe().fit(X_ND, ["a", "a", "b", "b"])
    assert probe.predict([[0.5, 6.0], [1.5, 6.0], [0.0, 10.0], [2.0, 6.2]]).tolist() == ["a", "b", "a", "b"]


def test_standardising_weighs_features_alike():
    X_ND = np.array([[0.0, 0.0], [1e-3, 100.0], [1.0, 0.0], [1.0 + 1e-3, 100.0]])
    probe = DirectProbe(scale="standardise").fit(X_ND, [0, 0, 1, 1])
    assert probe.predict([[0.3, 50.0], [0.7, 50.0]]).tolist() == [0, 1]
    np.testing.assert_allclose(probe.centroids_[0], [5e-4, 50.0])


def test_many_dimensions_with_conflicts():
    """Copies of a vector in two labels among 90 dimensions block nothing but themselves."""
    rng = np.random.default_rng(3)
    X_ND, y_N = rng.normal(size=(40, 90)), np.arange(40) % 2
    X_ND[1] = X_ND[0]
    probe = DirectProbe().fit(X_ND, y_N)
    assert (probe.n_clusters_, probe.n_conflicts_, probe.n_undecided_) == (4, 2, 0)


@pytest.mark.parametrize(
    ("X_ND", "y_N", "message"),
    [
        ([[1.0], [np.nan]], [0, 1], "not finite"),
        ([1.0, 2.0], [0, 1], "expected"),
        ([[1.0], [2.0]], [0], "labels of shape"),
        ([[1.0], [2.0]], [0, 0], "1 labels"),
    ],
)
def test_bad_items_are_one_error(X_ND, y_N, message):
    with pytest.raises(InputError, match=message):
        DirectProbe().fit(X_ND, y_N)
