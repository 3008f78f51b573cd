"""The cluster probe: its rows against METHODS 7 executed as written, and what odd parts and labels give."""

import base64
from itertools import combinations

import geometrylab
import numpy as np
import pytest
from pydantic import ValidationError

from ftprobe.errors import InputError
from ftprobe.probes.clusters import ClusterOptions, work
from ftprobe.probes.clusters_run import run
from ftprobe.probes.probe import Size

TOL = 1e-3


def silent(metrics):
    pass


class Rows:
    """An outcome's rows by metric, part and label."""

    def __init__(self, data, **options):
        self.data = data
        self.outcome = run(ClusterOptions(**options), data, seed=0, device="cpu", threads=1, report=silent)
        self.of = {(m.metric, m.split, *_names(m)): m for m in self.outcome.measurements}
        assert len(self.of) == len(self.outcome.measurements)

    def __getitem__(self, key):
        return self.of[key]

    def values(self, metric, split):
        return {key[2:]: m.value for key, m in self.of.items() if key[:2] == (metric, split)}

    def part(self, name):
        at_N = self.data.split_N == name
        return np.asarray(self.data.layer(self.data.layers[0]), np.float64)[at_N], self.data.y_N[at_N]


def _names(m):
    return m.detail["labels"] if m.metric == "hull_distance" else [m.detail["label"]] if "label" in m.detail else ()


def cloud(word_data, *, n=48, dim=3, classes=4, apart=1.0, seed=0, shift=0.0, split_N=None):
    """Normal clouds around random centres: the further `apart`, the fewer overlap; two copies of an item."""
    rng = np.random.default_rng(seed)
    y_N = np.arange(n) % classes
    h_ND = rng.normal(size=(n, dim)) + apart * rng.normal(size=(classes, dim))[y_N] + shift
    split_N = np.where(np.arange(n) < 2 * n // 3, "train", "test") if split_N is None else split_N
    h_ND[classes] = h_ND[0]
    return word_data(h_ND[None].astype(np.float32), y_N, split_N=split_N)


def partition(outcome):
    cluster_N = outcome.arrays["cluster_N"]
    return {frozenset(np.flatnonzero(cluster_N == m).tolist()) for m in np.unique(cluster_N[cluster_N >= 0])}


def expected_pairs(x_ND, y_N):
    return {(f"label{a}", f"label{b}"): d for (a, b), d in geometrylab.distances(x_ND, y_N).items()}


@pytest.mark.parametrize(("apart", "n_clusters", "meeting"), [(0.5, 8, 4), (1.5, 7, 2), (8.0, 4, 0)])
def test_rows_are_those_of_the_definition(word_data, apart, n_clusters, meeting):
    rows = Rows(cloud(word_data, apart=apart))
    clusters = geometrylab.clusters(*rows.part("train"))
    assert len(clusters) == n_clusters
    assert list(rows.values("hull_distance", "train").values()).count(0.0) == meeting
    assert partition(rows.outcome) == {frozenset(each) for each in clusters}
    values = {metric: rows[metric, "train"].value for metric in ("n_clusters", "n_labels", "is_linear", "n_undecided")}
    assert values == {
        "n_clusters": len(clusters),
        "n_labels": 4,
        "is_linear": float(len(clusters) == 4),
        "n_undecided": 0,
    }
    for part in ("train", "test"):
        x_ND, y_N = rows.part(part)
        pairs = expected_pairs(x_ND, y_N)
        assert rows.values("hull_distance", part) == pytest.approx(pairs, rel=TOL, abs=1e-6)
        nearest = {(f"label{k}",): min(d for pair, d in pairs.items() if f"label{k}" in pair) for k in range(4)}
        assert rows.values("min_distance", part) == pytest.approx(nearest, rel=TOL, abs=1e-6)
        mean = np.mean(list(nearest.values()))
        assert rows["min_distance_mean", part].value == pytest.approx(mean, rel=TOL, abs=1e-6)
        for key in rows.values("hull_distance", part):
            m = rows["hull_distance", part, *key]
            assert m.detail["lower"] <= m.value == m.detail["upper"]
            assert (m.status, m.unit, m.n_items) == ("ok", "euclidean", len(y_N))


def test_similarity_of_train_and_test_is_the_correlation_of_their_distances(word_data):
    rows = Rows(cloud(word_data, apart=8.0, classes=5))
    v, w = (expected_pairs(*rows.part(part)) for part in ("train", "test"))
    m = rows["spatial_similarity", "test"]
    assert m.value == pytest.approx(np.corrcoef([v[pair] for pair in v], [w[pair] for pair in v])[0, 1], abs=5e-3)
    assert (m.status, m.unit, m.detail) == ("ok", "r", {"against": "train", "n_pairs": 10})


def test_centroids_are_the_means_of_train_items(word_data):
    rows = Rows(cloud(word_data))
    x_ND, y_N = rows.part("train")
    for k in range(4):
        m = rows["centroid", "train", f"label{k}"]
        c_D = np.frombuffer(base64.b64decode(m.detail["vector"]), "<f4")
        np.testing.assert_allclose(c_D, x_ND[y_N == k].mean(0), rtol=1e-6)
        assert m.value == pytest.approx(np.linalg.norm(c_D), rel=1e-6)
        assert m.n_items == (y_N == k).sum()


def test_the_artifact_says_the_cluster_of_each_train_item(word_data):
    rows = Rows(cloud(word_data))
    arrays = rows.outcome.arrays
    at_N = np.flatnonzero(rows.data.split_N == "train")
    np.testing.assert_array_equal(arrays["sentence_N"], rows.data.sentence_N[at_N])
    np.testing.assert_array_equal(arrays["word_N"], rows.data.word_N[at_N])
    labels_N = np.asarray(rows.data.labels)[rows.data.y_N[at_N]]
    np.testing.assert_array_equal(arrays["label_M"][arrays["cluster_N"]], labels_N)


def test_dev_items_have_no_say(word_data):
    split_N = np.array(["train", "train", "dev", "test"])[np.random.default_rng(1).integers(0, 4, 60)]
    data = cloud(word_data, apart=8.0, n=60, split_N=split_N)
    h_ND = np.where((split_N == "dev")[:, None], 1e6, data.layer(0))
    moved = word_data(h_ND[None], data.y_N, split_N=split_N)
    assert Rows(moved).of == Rows(data).of


def test_small_gaps_far_from_zero_are_measured_in_float64(word_data):
    """Gaps of 1/64 at 1,000: a float16 shard holds such numbers only near zero, float32 squares lose them."""
    rng = np.random.default_rng(2)
    y_N = np.arange(60) % 3
    h_ND = rng.integers(-4, 5, size=(60, 4)) / 64.0
    h_ND[:, 0] = y_N / 4 + rng.integers(0, 4, size=60) / 64
    split_N = np.where(np.arange(60) < 40, "train", "test")
    near = Rows(word_data(h_ND.astype(np.float16)[None], y_N, split_N=split_N))
    far = Rows(word_data((h_ND + 1000).astype(np.float32)[None], y_N, split_N=split_N))
    for part in ("train", "test"):
        pairs = expected_pairs(*near.part(part))
        assert near.values("hull_distance", part) == pytest.approx(pairs, rel=TOL)
        assert far.values("hull_distance", part) == pytest.approx(pairs, rel=TOL)
    assert near["is_linear", "train"].value == far["is_linear", "train"].value == 1.0


def test_labels_that_test_lacks_or_that_have_one_item(word_data):
    data = cloud(word_data, apart=8.0, classes=5, n=75)
    only = (data.split_N == "test") & (data.y_N == 4)  # label 4 is in train alone, label 0 has one item there
    first = np.flatnonzero((data.split_N == "train") & (data.y_N == 0))
    split_N = np.where(only, "dev", data.split_N)
    split_N[first[1:]] = "dev"
    data = data._replace(split_N=split_N)
    rows, zero = Rows(data), Rows(data, labels="zero")
    assert rows["n_labels", "train"].value == rows["n_clusters", "train"].value == 5
    assert len(rows.values("hull_distance", "train")) == 10
    assert len(rows.values("hull_distance", "test")) == 6
    assert ("label4",) not in rows.values("min_distance", "test")
    v, w = (expected_pairs(*rows.part(part)) for part in ("train", "test"))
    common = [(v[pair], w[pair]) for pair in w]
    assert rows["spatial_similarity", "test"].value == pytest.approx(np.corrcoef(np.transpose(common))[0, 1], abs=5e-3)
    padded = [(v[pair], w.get(pair, 0.0)) for pair in v]
    assert zero["spatial_similarity", "test"].value == pytest.approx(np.corrcoef(np.transpose(padded))[0, 1], abs=5e-3)
    assert [each["spatial_similarity", "test"].detail["n_pairs"] for each in (rows, zero)] == [6, 10]


def test_small_clusters_are_left_out_of_the_vector_alone(word_data):
    data = cloud(word_data, apart=8.0, classes=5, n=75)
    split_N = data.split_N.copy()
    split_N[np.flatnonzero((split_N == "test") & (data.y_N == 2))[3:]] = "dev"
    rows = Rows(data._replace(split_N=split_N), min_cluster=4)
    assert rows["spatial_similarity", "test"].detail["n_pairs"] == 6
    assert len(rows.values("hull_distance", "test")) == 10


def test_parts_that_are_not_linear_have_a_vector_of_cluster_means_or_none(word_data):
    data = cloud(word_data, apart=1.0)
    skipped = Rows(data)["spatial_similarity", "test"]
    assert (skipped.status, np.isnan(skipped.value)) == ("undefined", True)
    assert skipped.detail["reason"] == "train and test not linear: some hulls of labels overlap"
    rows, vectors = Rows(data, nonlinear="cluster_mean"), []
    for part in ("train", "test"):
        x_ND, y_N = rows.part(part)
        found = geometrylab.clusters(x_ND, y_N)
        between = {}
        for one, other in combinations(found, 2):
            a, b = sorted((y_N[min(one)], y_N[min(other)]))
            if a != b:
                d = geometrylab.distance(x_ND[sorted(one)], x_ND[sorted(other)])
                between.setdefault((f"label{a}", f"label{b}"), []).append(d)
        means = {pair: np.mean(each) for pair, each in between.items()}
        said = {pair: rows["hull_distance", part, *pair].detail["cluster_mean"] for pair in means}
        assert said == pytest.approx(means, rel=TOL)
        vectors.append([means[pair] for pair in sorted(means)])
    r = rows["spatial_similarity", "test"]
    assert r.value == pytest.approx(np.corrcoef(vectors)[0, 1], abs=5e-3)
    assert r.status == "ok"


def conflicting(word_data):
    """Three labels far apart, and one vector that two of them share."""
    data = cloud(word_data, apart=20.0, classes=3)
    h_ND = data.layer(0).copy()
    h_ND[1] = h_ND[0]
    h_ND[3] = h_ND[0]  # the copy has the label of the first
    return word_data(h_ND[None], data.y_N, split_N=data.split_N)


def test_conflicts_stay_clusters_are_left_out_or_refused(word_data):
    data = conflicting(word_data)
    isolated, dropped = Rows(data), Rows(data, conflicts="drop")
    assert partition(isolated.outcome) == {frozenset(c) for c in geometrylab.clusters(*isolated.part("train"))}
    assert isolated["n_conflicts", "train"].value == dropped["n_conflicts", "train"].value > 0
    assert isolated["is_linear", "train"].value == 0
    assert isolated["hull_distance", "train", "label0", "label1"].value == 0
    assert dropped["is_linear", "train"].value == 1
    left = dropped.outcome.arrays["cluster_N"] < 0
    assert set(np.flatnonzero(left)) == {0, 1, 3}
    x_ND, y_N = dropped.part("train")
    pairs = expected_pairs(x_ND[~left], y_N[~left])
    assert dropped.values("hull_distance", "train") == pytest.approx(pairs, rel=TOL)
    with pytest.raises(InputError):
        Rows(data, conflicts="error")


def test_labels_that_are_nothing_but_conflicts_leave_a_part_undefined(word_data):
    h_ND = np.ones((8, 2), np.float32)
    h_ND[4:] = [[0, 0], [0, 1], [5, 0], [5, 1]]
    data = word_data(h_ND[None], [0, 1, 0, 1, 0, 0, 1, 1], split_N=["train"] * 4 + ["test"] * 4)
    rows = Rows(data, conflicts="drop")
    assert (
        rows["n_clusters", "train"].detail["reason"] == "all 4 train items share a vector with an item of another label"
    )
    assert rows["hull_distance", "test", "label0", "label1"].value == 5
    swapped = Rows(data._replace(split_N=np.roll(data.split_N, 4)), conflicts="drop")
    assert swapped["n_clusters", "train"].value == 2
    assert swapped["min_distance_mean", "test"].status == "undefined"


def test_one_label_in_train_leaves_its_rows_undefined(word_data):
    data = cloud(word_data, apart=8.0)
    split_N = np.where((data.split_N == "train") & (data.y_N > 0), "dev", data.split_N)
    rows = Rows(data._replace(split_N=split_N), predict=True)
    undefined = {m.metric for m in rows.outcome.measurements if m.split == "train" and m.status == "undefined"}
    counts = {"n_clusters", "n_labels", "is_linear", "n_conflicts", "n_undecided"}
    assert undefined == counts | {"min_distance_mean"}
    for metric in ("spatial_similarity", "accuracy"):
        assert rows[metric, "test"].detail["reason"] == "all 8 train items have the label 'label0'"
    assert rows["min_distance_mean", "test"].status == "ok"
    assert rows["centroid", "train", "label0"].n_items == 8
    assert rows.outcome.arrays == {}


def test_one_label_in_test_leaves_its_distances_undefined(word_data):
    data = cloud(word_data, apart=8.0)
    split_N = np.where((data.split_N == "test") & (data.y_N > 0), "dev", data.split_N)
    rows = Rows(data._replace(split_N=split_N))
    for metric in ("spatial_similarity", "min_distance_mean"):
        assert rows[metric, "test"].status == "undefined"
        assert rows[metric, "test"].detail["reason"] == "all 4 test items have the label 'label0'"
    assert rows["min_distance_mean", "train"].status == "ok"


def test_two_labels_have_no_correlation(word_data):
    m = Rows(cloud(word_data, apart=8.0, classes=2))["spatial_similarity", "test"]
    assert (m.status, m.detail["reason"]) == ("undefined", "1 common pairs of labels")


def test_what_could_not_be_decided_is_not_converged(word_data):
    """Two squares with a common edge: no point proves that they meet, no plane that they do not."""
    square = [(0, 0), (0, 1), (1, 0), (1, 1)]
    touching = [(1, 0.5), (2, 0), (2, 1)]
    h_ND = np.array([*square, *touching, *np.add(square, 9)] * 2, np.float32)
    data = word_data(h_ND[None], ([0] * 4 + [1] * 3 + [2] * 4) * 2, split_N=np.repeat(["train", "test"], 11))
    rows = Rows(data, solver="minnorm")
    assert rows["n_undecided", "train"].value == 1
    assert {rows[metric, "train"].status for metric in ("n_clusters", "is_linear")} == {"not_converged"}
    assert {rows[metric, "train"].status for metric in ("n_undecided", "n_labels")} == {"ok"}
    for part in ("train", "test"):
        pair = rows["hull_distance", part, "label0", "label1"]
        assert (pair.value, pair.status) == (0.0, "not_converged")  # counts as overlap
        assert rows["hull_distance", part, "label0", "label2"].status == "ok"
        statuses = [rows["min_distance", part, f"label{k}"].status for k in range(3)]
        assert statuses == ["not_converged", "not_converged", "ok"]
        assert rows["min_distance_mean", part].status == "not_converged"
    decided = Rows(data)
    assert decided["n_undecided", "train"].value == 0
    assert decided["hull_distance", "train", "label0", "label1"].status == "ok"


def test_the_nearest_cluster_gives_the_label(word_data):
    rows = Rows(cloud(word_data, apart=4.0, n=90), predict=True)
    x_ND, y_N = rows.part("train")
    test_ND, gold_N = rows.part("test")
    found = geometrylab.clusters(x_ND, y_N)
    far_NM = [[geometrylab.distance(x_D[None], x_ND[sorted(c)]) for c in found] for x_D in test_ND]
    said_N = np.array([y_N[min(c)] for c in found])[np.argmin(far_NM, axis=1)]
    (predictions,) = rows.outcome.predictions
    np.testing.assert_array_equal(predictions.predicted_N, said_N)
    np.testing.assert_array_equal(predictions.gold_N, gold_N)
    assert rows["accuracy", "test"].value == np.mean(said_N == gold_N) < 1.0
    assert np.isnan(predictions.score_N).all()
    assert ("accuracy", "test") not in Rows(cloud(word_data)).of


def test_standardised_features_are_those_of_train(word_data):
    data = cloud(word_data, apart=8.0)
    x_ND, _ = Rows(data).part("train")
    h_ND = (np.asarray(data.layer(0), np.float64) - x_ND.mean(0)) / x_ND.std(0)
    by_hand = word_data(h_ND.astype(np.float32)[None], data.y_N, split_N=data.split_N)
    scaled, expected = Rows(data, scale="standardise"), Rows(by_hand)
    for part in ("train", "test"):
        distances = expected.values("hull_distance", part)
        assert scaled.values("hull_distance", part) == pytest.approx(distances, rel=TOL)


def test_an_activation_that_is_not_finite_is_refused(word_data):
    data = cloud(word_data)
    h_ND = data.layer(0).copy()
    h_ND[7, 1] = np.inf
    with pytest.raises(InputError, match=r"layer 0: 1 of 48 items .* sentence 7, word 0"):
        Rows(word_data(h_ND[None], data.y_N, split_N=data.split_N))


def test_options_and_work():
    for wrong in ({"conflicts": "keep"}, {"tol": 0.0}, {"min_cluster": 0}, {"centroids": False}):
        with pytest.raises(ValidationError):
            ClusterOptions(**wrong)
    one, all_ = (work(ClusterOptions(), Size(1000, 384, 17, n_layers)) for n_layers in (1, 7))
    assert (one.cells, all_.cells) == (1, 7)
    assert all_.flops == 7 * one.flops > 0
