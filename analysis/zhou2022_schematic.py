"""Zhou and Srikumar 2022: Figure 1, what DirectProbe sees in labels, on planted points of two dimensions.

The points are invented; their clusters and distances are those that `ftprobe.directprobe` finds. Axes: N points, D = 2
dimensions, C corners of a hull.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ftprobe.planes import Chart, Outlined, outlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOBS = (("A", (-3.2, 0.3)), ("A", (3.2, -0.3)), ("B", (0.0, 0.0)), ("C", (-2.4, 3.3)))
"""The label and the centre of each blob: the two of A lie on either side of B."""
N_EACH, RADIUS = 12, 1.1


def planted() -> tuple[Floats, list[str]]:
    """The points, (N, 2), and their labels."""
    random = np.random.default_rng(0)
    angle_N, radius_N = random.uniform(0, 2 * np.pi, (2, len(BLOBS) * N_EACH)) / ((1.0,), (2 * np.pi,))
    around_N2 = RADIUS * np.sqrt(radius_N)[:, None] * np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    centre_N2 = np.repeat([centre for _, centre in BLOBS], N_EACH, axis=0)
    return centre_N2 + around_N2, [label for label, _ in BLOBS for _ in range(N_EACH)]


def schematic(_records: pl.LazyFrame) -> Chart:
    """Labels taken whole, and the clusters that DirectProbe makes of them, with the distances of their convex hulls."""
    from ftprobe.directprobe import DirectProbe, label_distances  # scikit-learn, which no other figure needs

    X_N2, label_N = planted()
    names, whole_N = np.unique(label_N, return_inverse=True)
    whole, probe = label_distances(X_N2, label_N), DirectProbe().fit(X_N2, label_N)
    meet = [" and ".join(names[list(pair)]) for pair, far in zip(whole.pair_M2, whole.upper_M, strict=True) if far == 0]
    kind = "linear" if probe.is_linear_ else "not linear"
    found, of = probe.distances(), f"{probe.n_clusters_} clusters of {len(names)} labels"
    panels = [
        _panel(f"labels as wholes: {', '.join(meet)} overlap", X_N2, label_N, whole_N, whole.pair_M2, whole.upper_M),
        _panel(f"DirectProbe: {of}, {kind}", X_N2, label_N, probe.labels_, found.pair_M2, found.upper_M),
    ]
    return outlined(
        panels, title="Zhou 2022, Figure 1: labels, their clusters, and the distances of hulls (planted points)"
    )


def _panel(heading: str, X_N2: Floats, label_N: list[str], group_N: Ints, pair_M2: Ints, far_M: Floats) -> Outlined:
    """Points, the hull of each group, and the way from hull to hull where they do not meet."""
    label = dict(zip(group_N.tolist(), label_N, strict=True))
    corners = {group: hull(X_N2[group_N == group]) for group in sorted(label)}
    gaps = [(*np.concatenate(nearest_points(corners[a], corners[b])), f"{far:.1f}")
            for (a, b), far in zip(pair_M2.tolist(), far_M, strict=True) if far > 0]  # fmt: skip
    return Outlined(
        heading,
        pl.DataFrame({"x": X_N2[:, 0], "y": X_N2[:, 1], "label": label_N}),
        pl.DataFrame([(*corner, label[group], group) for group, corner_C2 in corners.items() for corner in corner_C2],
                     schema=["x", "y", "label", "group"], orient="row"),
        pl.DataFrame(gaps, schema=["x", "y", "x2", "y2", "text"], orient="row"),
    )  # fmt: skip


def hull(X_N2: Floats) -> Floats:
    """The corners of the convex hull of points that do not lie on a line, in order, (C, 2)."""
    from scipy.spatial import ConvexHull

    return np.asarray(X_N2[ConvexHull(X_N2).vertices])


def nearest_points(corner_C2: Floats, other_C2: Floats) -> tuple[Floats, Floats]:
    """The nearest points of two disjoint polygons: a corner of one and a point of an edge of the other."""
    ways = [(point, _on_edges(point, other_C2)) for point in corner_C2]
    ways += [(_on_edges(point, corner_C2), point) for point in other_C2]
    return min(ways, key=lambda way: float(np.linalg.norm(way[0] - way[1])))


def _on_edges(point_2: Floats, corner_C2: Floats) -> Floats:
    """The point of a polygon's edges that is nearest to a point."""
    edge_C2 = np.roll(corner_C2, -1, axis=0) - corner_C2
    part_C = np.clip(((point_2 - corner_C2) * edge_C2).sum(axis=1) / (edge_C2**2).sum(axis=1), 0, 1)
    on_C2 = corner_C2 + part_C[:, None] * edge_C2
    return np.asarray(on_C2[np.linalg.norm(on_C2 - point_2, axis=1).argmin()])
