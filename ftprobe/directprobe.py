"""DirectProbe: clusters of labelled vectors whose convex hulls do not meet, and how far apart they lie (METHODS 7).

Zhou and Srikumar 2021 (the method) and 2022 (fine-tuning). Computed in float64 on centred vectors: a shift of all
vectors changes nothing.

Axes: N items, D dimensions, K labels, M clusters or pairs of them, P pairs of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ftprobe.errors import InputError
from ftprobe.solvers.clustering import cluster_items, distinct_items
from ftprobe.solvers.grouped import group_sums
from ftprobe.solvers.hulls import Rules, hull_bounds, nearest_hulls
from ftprobe.solvers.threads import own_threads

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_PLACE = "DirectProbe"
_CHOICES = {
    "conflicts": ("isolate", "drop", "error"),
    "solver": ("auto", "minnorm", "lp"),
    "scale": ("none", "standardise"),
    "nonlinear": ("skip", "cluster_mean"),
    "labels": ("intersection", "zero"),
}


class Distances(NamedTuple):
    """Hull distances of pairs (M, 2), a < b: Euclidean, from above and below (M,), equal up to tol; 0, 0 is overlap."""

    pair_M2: Ints
    upper_M: Array
    lower_M: Array


class DirectProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Greedy clusters of one label each with disjoint convex hulls; it predicts the label of the nearest hull.

    Parameters
    ----------
    conflicts : {"isolate", "drop", "error"}
        Equal vectors with different labels stay clusters of their own and still block others, are left out, or are an
        error.
    solver : {"auto", "minnorm", "lp"}
        What decides whether hulls meet: min-norm and interior points and, where they have no proof, a linear program;
        the former alone; the latter alone.
    scale : {"none", "standardise"}
        Whether features are brought to unit variance first.
    tol : float
        Largest relative gap between the bounds of a distance.
    overlap_eps : float
        Squared distance of hulls, relative to the mean squared norm, below which the search for a min-norm point of
        many points in more than 64 dimensions is given up for the other ways.
    max_iterations : int
        Of the min-norm solver for few points or dimensions, for one pair.

    Attributes
    ----------
    classes_ : array of shape (K,)
    labels_ : int64 array of shape (N,)
        Cluster of each item, numbered by lowest row; -1 for a conflict that was dropped.
    cluster_classes_ : int64 array of shape (M,)
        Index into `classes_` of each cluster.
    centroids_ : float64 array of shape (M, D)
        In the units of X.
    n_clusters_, n_conflicts_, n_undecided_ : int
        Clusters; items in conflict; tests that no solver settled, which count as overlap.
    is_linear_ : bool
        One cluster per label.
    trivial_ : float
        Share of label pairs that no more than D + 1 items have: these are separable wherever the items lie.

    Examples
    --------
    >>> X_ND = np.array([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 1.0]])
    >>> probe = DirectProbe().fit(X_ND, ["a", "a", "b", "b"])
    >>> probe.n_clusters_, probe.is_linear_, probe.distances().upper_M.tolist()
    (2, True, [3.0])
    """

    def __init__(
        self,
        *,
        conflicts: str = "isolate",
        solver: str = "auto",
        scale: str = "none",
        tol: float = 1e-3,
        overlap_eps: float = 1e-7,
        max_iterations: int = 5000,
    ) -> None:
        self.conflicts = conflicts
        self.solver = solver
        self.scale = scale
        self.tol = tol
        self.overlap_eps = overlap_eps
        self.max_iterations = max_iterations

    @own_threads()
    def fit(self, X_ND: ArrayLike, y_N: ArrayLike) -> Self:
        """Cluster items.

        Parameters
        ----------
        X_ND : float array of shape (N, D)
        y_N : array of shape (N,)

        Raises
        ------
        InputError
            A wrong option or shape, a value that is not finite, conflicts where `conflicts` is "error", or fewer than
            two labels left.
        """
        self._check()
        X_ND, label_N = _items(X_ND, y_N)
        given = distinct_items(X_ND, label_N)
        conflict_N = given.conflict_U[given.item_N]
        self.n_conflicts_ = int(conflict_N.sum())
        if self.n_conflicts_ and self.conflicts == "error":
            raise InputError.one(_PLACE, f"{self.n_conflicts_} items share a vector with items of other labels",
                                 "set conflicts to isolate or drop")  # fmt: skip
        kept_N = ~conflict_N if self.conflicts == "drop" else np.ones(len(X_ND), dtype=bool)
        self.classes_, y_n = np.unique(label_N[kept_N], return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError.one(_PLACE, f"{len(self.classes_)} labels to tell apart", "give items of two at least")
        self._X_nD = self._scaled(X_ND, kept_N)
        self._rules = self._rules_of(self._X_nD)
        items = given if kept_N.all() else distinct_items(X_ND[kept_N], y_n)
        found = cluster_items(self._X_nD, y_n, items, self._rules)
        self.labels_ = np.full(len(X_ND), -1)
        self.labels_[kept_N] = found.cluster_N
        self.n_undecided_ = found.n_undecided
        self._describe(y_n, found.cluster_N)
        return self

    def _check(self) -> None:
        for name in ("conflicts", "solver", "scale"):
            _choose(name, getattr(self, name))
        for name, low in (("tol", 0), ("overlap_eps", 0), ("max_iterations", 1)):
            value = getattr(self, name)
            if not (np.isreal(value) and low <= value < np.inf) or (name == "tol" and not 0 < value < 1):
                raise InputError.one(f"{_PLACE}.{name}", f"{value!r} is out of range")

    def _scaled(self, X_ND: Array, kept_N: NDArray[np.bool_]) -> Array:
        """What is fitted: centred, and in unit variance where asked."""
        kept_nD = X_ND if kept_N.all() else X_ND[kept_N]
        self._mean_D = kept_nD.mean(axis=0)
        X_nD: Array = np.subtract(kept_nD, self._mean_D, order="C")
        self._width_D = np.ones(X_ND.shape[1])
        if self.scale == "standardise":
            std_D = X_nD.std(axis=0)
            self._width_D = np.where(std_D > 0, std_D, 1.0)
            X_nD /= self._width_D
        return X_nD

    def _rules_of(self, X_ND: Array) -> Rules:
        return Rules(_mean_square(X_ND), self.solver, self.overlap_eps, self.max_iterations)

    def _describe(self, y_n: Ints, cluster_n: Ints) -> None:
        """Set what follows from the labels 0..K-1 and clusters of the items kept."""
        self._cluster_n = cluster_n
        self.n_clusters_ = int(cluster_n.max()) + 1
        self.cluster_classes_ = np.empty(self.n_clusters_, dtype=np.int64)
        self.cluster_classes_[cluster_n] = y_n
        self.is_linear_ = self.n_clusters_ == len(self.classes_)
        self.centroids_ = (
            group_sums(self._X_nD, cluster_n) / np.bincount(cluster_n)[:, None] * self._width_D + self._mean_D
        )
        size_K, D = np.bincount(y_n), self._X_nD.shape[1]
        self.trivial_ = float(np.mean([size_K[a] + size_K[b] <= D + 1 for a, b in combinations(range(len(size_K)), 2)]))
        self.n_features_in_ = D

    def predict(self, X_ND: ArrayLike) -> NDArray[Any]:
        """The label of the nearest hull of each item, by Euclidean distance; of equally near ones the first cluster's.

        Raises
        ------
        InputError
            Not (N, D) with the D that was fitted, or a value that is not finite.
        """
        check_is_fitted(self, "labels_")
        X_ND = _vectors(X_ND)
        if X_ND.shape[1] != self.n_features_in_:
            raise InputError.one(_PLACE, f"items of {X_ND.shape[1]} dimensions, fitted on {self.n_features_in_}")
        sides = [self._X_nD[self._cluster_n == m] for m in range(self.n_clusters_)]
        nearest_N = nearest_hulls((X_ND - self._mean_D) / self._width_D, sides, self._rules, tol=self.tol)
        return np.asarray(self.classes_[self.cluster_classes_[nearest_N]])

    @own_threads()
    def distances(self, *, min_cluster: int = 1) -> Distances:
        """Hull distances of all pairs of clusters with different labels.

        Parameters
        ----------
        min_cluster : int
            Clusters of fewer items are left out.
        """
        check_is_fitted(self, "labels_")
        large = np.flatnonzero(np.bincount(self._cluster_n) >= min_cluster)
        pairs = [(a, b) for a, b in combinations(large, 2) if self.cluster_classes_[a] != self.cluster_classes_[b]]
        return _distances(self._X_nD, self._cluster_n, pairs, self._rules, self.tol)


@own_threads()
def label_distances(
    X_ND: ArrayLike,
    y_N: ArrayLike,
    *,
    tol: float = 1e-3,
    scale: str = "none",
    solver: str = "auto",
    overlap_eps: float = 1e-7,
    max_iterations: int = 5000,
) -> Distances:
    """Hull distances of all pairs of labels, each label's items taken together.

    Returns
    -------
    Distances
        Of pairs of indices into `np.unique(y_N)`.

    Raises
    ------
    InputError
        As `DirectProbe.fit`.
    """
    probe = DirectProbe(solver=solver, scale=scale, tol=tol, overlap_eps=overlap_eps, max_iterations=max_iterations)
    probe._check()
    X_ND, label_N = _items(X_ND, y_N)
    labels_K, y_N = np.unique(label_N, return_inverse=True)
    X_ND = probe._scaled(X_ND, np.ones(len(X_ND), dtype=bool))
    return _distances(X_ND, y_N, list(combinations(range(len(labels_K)), 2)), probe._rules_of(X_ND), tol)


def distance_vector(
    probe: DirectProbe,
    labels_K: Sequence[Any] | None = None,
    *,
    nonlinear: str = "skip",
    min_cluster: int = 1,
    labels: str = "intersection",
) -> Array:
    """Distances between labels, of pairs k < k' of the given labels in their order (Zhou and Srikumar 2022, 2.2).

    Parameters
    ----------
    probe : DirectProbe
        Fitted.
    labels_K : sequence, optional
        Those of the probe by default.
    nonlinear : {"skip", "cluster_mean"}
        Of a probe with more clusters than labels: no value at all, or the mean over the two labels' cluster pairs.
    min_cluster : int
        Clusters of fewer items are left out.
    labels : {"intersection", "zero"}
        A pair without a value is NaN, which `spatial_similarity` leaves out, or 0.

    Returns
    -------
    float64 array of shape (P,)
        P = K (K - 1) / 2.

    Raises
    ------
    InputError
        An unknown choice.
    """
    _choose("nonlinear", nonlinear)
    _choose("labels", labels)
    names = list(probe.classes_ if labels_K is None else labels_K)
    place = {name: k for k, name in enumerate(names)}
    sum_KK, count_KK = np.zeros((len(names),) * 2), np.zeros((len(names),) * 2)
    if probe.is_linear_ or nonlinear == "cluster_mean":
        found = probe.distances(min_cluster=min_cluster)
        for (a, b), upper in zip(found.pair_M2, found.upper_M, strict=True):
            at = sorted(place.get(probe.classes_[probe.cluster_classes_[m]], -1) for m in (a, b))
            if at[0] >= 0:
                sum_KK[at[0], at[1]] += upper
                count_KK[at[0], at[1]] += 1
    above = np.triu_indices(len(names), 1)
    missing = 0.0 if labels == "zero" else np.nan
    mean_P = sum_KK[above] / np.maximum(count_KK[above], 1)
    return np.asarray(np.where(count_KK[above] > 0, mean_P, missing))


def spatial_similarity(v_P: ArrayLike, w_P: ArrayLike) -> float:
    """Pearson r of two distance vectors over the pairs that both have (Zhou and Srikumar 2022, section 2.2).

    NaN where fewer than three pairs are common or either vector is constant.

    >>> round(spatial_similarity([1.0, 2.0, 4.0, np.nan], [2.0, 4.0, 8.0, 1.0]), 12)
    1.0
    """
    both_2P = np.stack([np.asarray(v_P, dtype=np.float64), np.asarray(w_P, dtype=np.float64)])
    both_2P = both_2P[:, np.isfinite(both_2P).all(axis=0)]
    if both_2P.shape[1] < 3 or (np.ptp(both_2P, axis=1) == 0).any():
        return float("nan")
    return float(np.asarray(np.corrcoef(both_2P))[0, 1])


def _distances(X_ND: Array, part_N: Ints, pairs: Sequence[tuple[Any, Any]], rules: Rules, tol: float) -> Distances:
    sides = [X_ND[part_N == m] for m in range(int(part_N.max()) + 1)]
    pair_M2 = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Distances(pair_M2, *hull_bounds(sides, pair_M2, rules, tol=tol))


def _choose(name: str, value: str) -> None:
    if value not in _CHOICES[name]:
        raise InputError.one(f"{_PLACE}.{name}", f"{value!r} is unknown", f"one of: {', '.join(_CHOICES[name])}")


def _vectors(X_ND: ArrayLike) -> Array:
    array_ND = np.asarray(X_ND, dtype=np.float64)
    if array_ND.ndim != 2 or not array_ND.size:
        raise InputError.one(_PLACE, f"vectors of shape {array_ND.shape}; expected (N, D) with N, D > 0")
    if not np.isfinite(array_ND).all():
        raise InputError.one(_PLACE, "a vector is not finite", "extract these activations again")
    return array_ND


def _items(X_ND: ArrayLike, y_N: ArrayLike) -> tuple[Array, NDArray[Any]]:
    array_ND, label_N = _vectors(X_ND), np.asarray(y_N)
    if label_N.shape != array_ND.shape[:1]:
        raise InputError.one(_PLACE, f"labels of shape {label_N.shape} for {len(array_ND)} vectors")
    return array_ND, label_N


def _mean_square(X_ND: Array) -> float:
    return float(np.vdot(X_ND, X_ND)) / len(X_ND) or 1.0
