"""The cluster probe: what can be asked of it (METHODS 7). Light: the geometry is `ftprobe.probes.clusters_run`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ftprobe.probes.probe import Size, Work

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PAIR_STEPS = 150  # over the hulls of two labels, until it is known whether they meet and how far apart they are


class ClusterOptions(BaseModel):
    """DirectProbe: clusters of one label whose convex hulls meet no other label's, and distances between labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conflicts: Literal["isolate", "drop", "error"] = "isolate"
    """Identical vectors with different labels stay clusters of their own, are left out, or are an error."""
    solver: Literal["auto", "minnorm", "lp"] = "auto"
    """What decides whether two hulls meet: min-norm and interior points, a linear program, or the first and, where they
    find no proof, the second."""
    scale: Literal["none", "standardise"] = "none"
    """`standardise`: features minus train mean, divided by train sd, also for distances and centroids."""
    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Largest relative gap between the two bounds of a distance."""
    overlap_eps: Positive = 1e-7
    """Hulls of many points in more than 64 dimensions: the search for a min-norm point is given up where the square of
    their distance is below this share of the mean squared norm of the centred features; the other ways decide."""
    max_iterations: Annotated[int, Field(ge=1)] = 5000
    """Steps towards a min-norm point of few points or dimensions; then the other ways decide."""
    nonlinear: Literal["skip", "cluster_mean"] = "skip"
    """Where a part is not linear it has no distance vector, as in the paper; or a pair of labels has the mean over the
    pairs of their clusters, as in the authors' code."""
    min_cluster: Annotated[int, Field(ge=1)] = 1
    """Clusters of fewer items are left out of the distance vector."""
    labels: Literal["intersection", "zero"] = "intersection"
    """Labels that train or test lacks are left out of the distance vectors; or their distances are 0 there."""
    predict: bool = False
    """Whether test items are given the label of the nearest cluster."""


def work(options: ClusterOptions, size: Size, *, part: object = None) -> Work:
    """Each item is in the hulls of K - 1 pairs of labels; labels that overlap take longer, nobody knows how much."""
    steps = 4.0 * size.n_train * size.dim * max(2, size.n_labels) * PAIR_STEPS
    return Work(size.n_layers, steps * size.n_layers)
