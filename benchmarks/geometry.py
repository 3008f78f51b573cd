"""Clusters and hull distances of DirectProbe beside the two ways the published code works: same data, one thread.

    python benchmarks/geometry.py [SECTION ...] [--data ../shared/data]

Sections: `separable` (1,000 x 384, 16 labels) and `overlapping` (400 x 10) against the definition executed with
HiGHS, `many` (4,000 x 32: time; partition of random samples of it against the same), `distances` (4,000 x 768, all
pairs of labels, against SVC(C=1e6) as the published code calls it), `streusle` (PS-role, the whole train set) and
`memory` (17,000 x 768; run it alone). MiniLM activations of UD English EWT and STREUSLE; random features where these
are absent. Seconds are CPU time of this process with one thread unless said; SVC and HiGHS have but one. The compiled
parts are loaded before any clock starts.
The peer of `separable` and `overlapping` tests labels as wholes first and then only unions, as ours does: linear
programs replace its proofs, nothing else.
"""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import minilm
import numpy as np
from minilm import timed
from numpy.typing import NDArray
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from ftprobe.directprobe import DirectProbe, label_distances
from ftprobe.solvers.hulls import lp_verdict
from ftprobe.tasks import streusle

Array, Ints = NDArray[np.float64], NDArray[np.int64]


class LinearPrograms:
    """The clusters of METHODS 7.1 with a linear program for each test; counts them."""

    def __init__(self, X_ND: Array, y_N: Ints) -> None:
        self.X_ND, self.y_N, self.calls = X_ND - X_ND.mean(0), y_N, 0

    def apart(self, rows: list[int], others: list[int]) -> bool:
        self.calls += 1
        return lp_verdict(self.X_ND[rows], self.X_ND[others]) == 1

    def partition(self) -> Ints:
        whole = {k: np.flatnonzero(self.y_N == k).tolist() for k in np.unique(self.y_N).tolist()}
        meets = {pair for pair in combinations(whole, 2) if not self.apart(whole[pair[0]], whole[pair[1]])}
        foes = {k: [b for b in whole if (min(k, b), max(k, b)) in meets] for k in whole}
        clusters = {rows[0]: rows for k, rows in whole.items() if not foes[k]}
        clusters |= {n: [n] for k, rows in whole.items() if foes[k] for n in rows}
        self._merge(clusters, whole, foes)
        cluster_N = np.empty(len(self.y_N), np.int64)
        for slot, rows in clusters.items():
            cluster_N[rows] = slot
        return cluster_N

    def _merge(self, clusters: dict[int, list[int]], whole: dict[int, list[int]], foes: dict[int, list[int]]) -> None:
        n = len(self.y_N)
        centre_ND, distance_NN = self.X_ND.copy(), np.full((n, n), np.inf)
        moving = sorted(slot for slot in clusters if foes[self.y_N[slot]])
        for i, j in combinations(moving, 2):
            if self.y_N[i] == self.y_N[j]:
                distance_NN[i, j] = np.linalg.norm(centre_ND[i] - centre_ND[j])
        forbidden = np.zeros((n, n), bool)
        while np.isfinite(distance_NN.min()):
            i, j = divmod(int(distance_NN.argmin()), n)
            union = clusters[i] + clusters[j]
            against = [b for b in foes[self.y_N[i]] if not self.apart(union, whole[b])]
            others = [clusters[c] for c in clusters if self.y_N[c] in against]
            if not all(self.apart(union, rows) for rows in others):
                forbidden[i, j] = forbidden[j, i] = True
                distance_NN[i, j] = np.inf
                continue
            clusters[i] = union
            del clusters[j]
            forbidden[i] |= forbidden[j]
            forbidden[:, i] |= forbidden[:, j]
            distance_NN[j], distance_NN[:, j] = np.inf, np.inf
            centre_ND[i] = self.X_ND[union].mean(0)
            for c in clusters:
                if c != i and self.y_N[c] == self.y_N[i]:
                    at = (min(c, i), max(c, i))
                    distance_NN[at] = np.inf if forbidden[at] else np.linalg.norm(centre_ND[c] - centre_ND[i])


def canonical(cluster_N: Ints) -> Ints:
    """Clusters named by their first row."""
    _, first, inverse = np.unique(cluster_N, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


def fastest(work: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of several runs."""
    return float(np.median([timed(work).cpu_s for _ in range(repeats)]))


def shared_out(work: Callable[[], object], threads: int, repeats: int = 5) -> float:
    """Median wall seconds of several runs that may use so many threads."""
    with threadpool_limits(threads, user_api="blas"):
        return float(np.median([timed(work).wall_s for _ in range(repeats)]))


def against_programs(name: str, X_ND: Array, y_N: Ints) -> None:
    ours_s = fastest(lambda: DirectProbe().fit(X_ND, y_N))
    probe, peer = DirectProbe().fit(X_ND, y_N), LinearPrograms(X_ND, y_N)
    theirs = timed(peer.partition)
    same = np.array_equal(canonical(probe.labels_), canonical(theirs.value))
    shape = f"{X_ND.shape[0]} x {X_ND.shape[1]}"
    print(
        f"{name}: {shape}, {len(probe.classes_)} labels, {probe.n_clusters_} clusters, {probe.n_undecided_} undecided"
    )
    print(f"  ftprobe {ours_s:.4f} s   {peer.calls} linear programs {theirs.cpu_s:.2f} s   "
          f"ratio {theirs.cpu_s / ours_s:.0f}   same partition: {same}")  # fmt: skip


def principal(X_ND: Array, n: int) -> Array:
    centred_ND = X_ND - X_ND.mean(0)
    return np.asarray(centred_ND @ np.linalg.svd(centred_ND, full_matrices=False)[2][:n].T)


def separable(words: minilm.Data) -> None:
    for layer in (3, 6):
        top = np.argsort(-np.bincount(words.y_N), kind="stable")[:16]
        rows = np.flatnonzero(np.isin(words.y_N, top))[:1000]
        against_programs(
            f"separable, UPOS, layer {layer}", words.X_LND[layer, rows].astype(np.float64), words.y_N[rows]
        )
    rng = np.random.default_rng(0)
    y_N = np.arange(1000) % 16
    against_programs("separable, random", 0.5 * rng.normal(size=(16, 384))[y_N] + rng.normal(size=(1000, 384)), y_N)


def overlapping(words: minilm.Data) -> None:
    X_ND = words.X_LND[3, :400].astype(np.float64)
    against_programs("overlapping, UPOS, 10 components", principal(X_ND, 10), words.y_N[:400])
    rng = np.random.default_rng(0)
    y_N = np.arange(400) % 4
    against_programs("overlapping, random", rng.normal(size=(4, 10))[y_N] + rng.normal(size=(400, 10)), y_N)


def many(words: minilm.Data) -> None:
    for layer in (0, 3, 6):
        X_ND, y_N = principal(words.X_LND[layer, :4000].astype(np.float64), 32), words.y_N[:4000]
        ours = timed(lambda X_ND=X_ND, y_N=y_N: DirectProbe().fit(X_ND, y_N))
        print(f"many: layer {layer}, {X_ND.shape}, {len(ours.value.classes_)} labels, "
              f"{ours.value.n_clusters_} clusters, {ours.value.n_undecided_} undecided: "
              f"{ours.cpu_s:.2f} s")  # fmt: skip
        rng = np.random.default_rng(layer)
        for _ in range(2):
            rows = rng.choice(4000, 250, replace=False)
            some_ND = X_ND[rows, :8]
            same = np.array_equal(
                canonical(DirectProbe().fit(some_ND, y_N[rows]).labels_),
                canonical(LinearPrograms(some_ND, y_N[rows]).partition()),
            )
            print(f"  250 of them, 8 components, {len(set(y_N[rows]))} labels: same partition: {same}")


def svc_distance(A_ND: Array, B_ND: Array) -> float:
    sides = np.r_[np.ones(len(A_ND)), -np.ones(len(B_ND))]
    svc = SVC(C=1e6, kernel="linear", tol=1e-5, max_iter=50_000).fit(np.vstack([A_ND, B_ND]), sides)
    return float(2 / np.linalg.norm(svc.coef_))


def distances(words: minilm.Data) -> None:
    for name, X_ND, y_N in distance_sets(words):
        sides = [X_ND[y_N == k] for k in np.unique(y_N).tolist()]
        ours_s = fastest(lambda X_ND=X_ND, y_N=y_N: label_distances(X_ND, y_N, tol=1e-4))
        shared_s = shared_out(lambda X_ND=X_ND, y_N=y_N: label_distances(X_ND, y_N, tol=1e-4), 2)
        found = label_distances(X_ND, y_N, tol=1e-4)
        theirs = timed(lambda found=found, sides=sides: [svc_distance(sides[a], sides[b]) for a, b in found.pair_M2])
        apart_M = found.lower_M > 0
        error = np.abs(np.array(theirs.value)[apart_M] / found.upper_M[apart_M] - 1).max()
        print(f"distances: {name}, {X_ND.shape}, {len(found.pair_M2)} pairs, {apart_M.sum()} apart: "
              f"ftprobe {ours_s:.3f} s   SVC {theirs.cpu_s:.2f} s   ratio {theirs.cpu_s / ours_s:.1f}   "
              f"two threads, wall: {shared_s:.3f} s, ratio {theirs.wall_s / shared_s:.1f}   "
              f"largest relative difference {error:.1e}")  # fmt: skip


def distance_sets(words: minilm.Data) -> list[tuple[str, Array, Ints]]:
    rng = np.random.default_rng(0)
    y_N = np.arange(4000) % 16
    two_layers_ND = np.hstack([words.X_LND[layer, :4000] for layer in (3, 6)]).astype(np.float64)
    random_ND = 0.3 * rng.normal(size=(16, 768))[y_N] + rng.normal(size=(4000, 768))
    return [("UPOS, layers 3 and 6", two_layers_ND, words.y_N[:4000]), ("random", random_ND, y_N)]


def prepositions(data: Path) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """MiniLM activations (L, N, D) and roles (N,) of STREUSLE's train set."""
    task = streusle.read("ps_role", (("train", data / "streusle" / "streusle.ud_train.conllulex"),), "streusle")
    wanted = sorted(set(task.labels.sentence_N))
    states = dict(zip(wanted, minilm.word_states([list(task.corpus.sentences[s].words) for s in wanted]), strict=True))
    at = [
        (s, w, label)
        for s, w, label in zip(task.labels.sentence_N, task.labels.word_N, task.labels.label_N, strict=True)
        if w < states[s].shape[1]
    ]
    return np.stack([states[s][:, w] for s, w, _ in at], axis=1), np.array([label for _, _, label in at])


def streusle_train(data: Path) -> None:
    X_LND, y_N = prepositions(data)
    for layer in (0, 3, 6):
        fitted = timed(lambda layer=layer: DirectProbe().fit(X_LND[layer], y_N))
        found = timed(fitted.value.distances)
        print(f"streusle: PS-role, layer {layer}, {X_LND.shape[1:]}, {len(fitted.value.classes_)} labels, "
              f"{fitted.value.n_clusters_} clusters, {fitted.value.n_undecided_} undecided: "
              f"clusters {fitted.cpu_s:.2f} s, {len(found.value.pair_M2)} distances {found.cpu_s:.2f} s")  # fmt: skip


def memory() -> None:
    rng = np.random.default_rng(0)
    y_N = rng.integers(0, 17, 17_000)
    X_ND = (0.5 * rng.normal(size=(17, 768))[y_N] + rng.normal(size=(17_000, 768))).astype(np.float32)
    fitted = timed(lambda: DirectProbe().fit(X_ND, y_N))
    found = timed(fitted.value.distances)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"memory: {X_ND.shape}: clusters {fitted.cpu_s:.1f} s, "
          f"{len(found.value.pair_M2)} distances {found.cpu_s:.1f} s, peak of the process {peak:.2f} GiB")  # fmt: skip


def warm() -> None:
    """Load the compiled parts."""
    rng = np.random.default_rng(0)
    for dim in (2, 80):
        DirectProbe().fit(rng.normal(size=(60, dim)), np.arange(60) % 3).distances()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("separable", "overlapping", "many", "distances", "streusle", "memory")
    parser.add_argument("sections", nargs="*", choices=[[], *names])
    parser.add_argument("--data", type=Path, default=minilm.DATA)
    chosen = parser.parse_args()
    sections = chosen.sections or names
    with threadpool_limits(1):
        warm()
        words = minilm.words(chosen.data, 4000)["upos"] if set(sections) - {"streusle", "memory"} else None
        for section in sections:
            if section == "streusle":
                streusle_train(chosen.data)
            elif section == "memory":
                memory()
            else:
                {"separable": separable, "overlapping": overlapping, "many": many, "distances": distances}[section](
                    words
                )


if __name__ == "__main__":
    main()
