"""Shifts: where fine-tuning moves the centroids of labels, from the records of the probe `clusters` (METHODS 7.3).

Axes: P points, K labels, D dimensions. Vectors are float32 in the records and float64 here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ftprobe.movement import PLACE, STATE, compared, from_the_start

Floats = NDArray[np.float64]
_VECTOR = "$.vector"


class Plane(NamedTuple):
    """The first two principal components.

    Attributes
    ----------
    at_P2 : array of shape (P, 2)
        Where each point lies; the second coordinate is 0 where there is one dimension only.
    share_2 : array of shape (2,)
        Share of the variance (of the mean square, where points were not centred); NaN when all points are one.
    """

    at_P2: Floats
    share_2: Floats


def principal_plane(x_PD: Floats, *, centre: bool = True) -> Plane:
    """PCA with two components; in each the loading of largest magnitude is positive (METHODS 7.3).

    Parameters
    ----------
    x_PD : array of shape (P, D)
    centre : bool
        Whether the mean of the points is taken off first; else the origin is where it was.
    """
    x_PD = np.asarray(x_PD, dtype=np.float64)
    x_PD = x_PD - x_PD.mean(axis=0) if centre else x_PD
    _, s_R, axis_RD = np.linalg.svd(x_PD, full_matrices=False)
    axis_RD = axis_RD[:2]
    top_R = np.abs(axis_RD).argmax(axis=1)
    axis_RD = axis_RD * np.where(axis_RD[np.arange(len(axis_RD)), top_R] < 0, -1.0, 1.0)[:, None]
    at_P2, share_2 = np.zeros((len(x_PD), 2)), np.zeros(2)
    at_P2[:, : len(axis_RD)] = x_PD @ axis_RD.T
    total = float((s_R**2).sum())
    share_2[: len(axis_RD)] = s_R[:2] ** 2 / total if total > 0 else np.nan
    return Plane(at_P2, share_2)


def mean_cosine(shift_KD: Floats) -> float:
    """Mean cosine over all pairs of shifts; a shift of length 0 has no direction and is left out; NaN below two."""
    norm_K = np.linalg.norm(shift_KD, axis=1)
    unit_KD = shift_KD[norm_K > 0] / norm_K[norm_K > 0, None]
    n = len(unit_KD)
    return float((np.square(unit_KD.sum(axis=0)).sum() - n) / (n * (n - 1))) if n > 1 else float("nan")


def label_shifts(records: pl.LazyFrame, *, centre: bool = True) -> pl.DataFrame:
    """Where the centroid of each label went, at every layer, from the pre-trained to the final state.

    Parameters
    ----------
    centre : bool
        As `principal_plane` takes it: `pca_centre` of METHODS 7.3.

    Returns
    -------
    polars.DataFrame
        `STATE`, `PLACE`, `label`, `norm` (length of the shift), `pc1`, `pc2` (in the plane of its layer's shifts) and
        `share1`, `share2` (of their variance).
    """

    def own(group: pl.DataFrame) -> pl.DataFrame:
        shift_KD = _shift(group)
        norm = pl.Series("norm", np.linalg.norm(shift_KD, axis=1))
        labels = group.select(*STATE, *PLACE, "label")
        return pl.concat([labels.with_columns(norm), _planar(shift_KD, centre=centre)], how="horizontal")

    moved = compared(records, "centroid").filter("final").collect()
    empty = moved.clear().select(*STATE, *PLACE, "label", norm=pl.lit(0.0))
    return pl.concat([pl.concat([empty, _NOWHERE], how="horizontal"), *map(own, _groups(moved))])


def shift_summaries(records: pl.LazyFrame, *, centre: bool = True) -> pl.DataFrame:
    """`shift_norm` (mean length), `shift_cosine` (mean over pairs of labels) and `shift_pc1` (share of the first
    component) of every final state and layer (METHODS 7.3).

    Returns
    -------
    polars.DataFrame
        `STATE`, `PLACE`, `metric`, `value` (null where it is not defined), `unit`, `n_items` (labels).
    """

    def own(group: pl.DataFrame) -> pl.DataFrame:
        shift_KD = _shift(group)
        values = {
            "shift_norm": (np.linalg.norm(shift_KD, axis=1).mean(), group["unit"][0]),
            "shift_cosine": (mean_cosine(shift_KD), "cosine"),
            "shift_pc1": (principal_plane(shift_KD, centre=centre).share_2[0], "fraction"),
        }
        rows = [(name, float(value), unit, len(group)) for name, (value, unit) in values.items()]
        return group.head(1).select(*STATE, *PLACE).join(pl.DataFrame(rows, _SUMMARY, orient="row"), how="cross")

    moved = compared(records, "centroid").filter("final").collect()
    empty = moved.clear().select(*STATE, *PLACE).join(pl.DataFrame(schema=_SUMMARY), how="cross")
    return pl.concat([empty, *map(own, _groups(moved))]).with_columns(pl.col("value").fill_nan(None))


def centroid_paths(records: pl.LazyFrame, labels: Collection[str]) -> pl.DataFrame:
    """The ways of the centroids of `labels` over all updates, in a plane fitted on just these points.

    Update 0 is the pre-trained state; every run and layer has a plane of its own (METHODS 7.3; Zhou and Srikumar 2022,
    Figure 3).

    Returns
    -------
    polars.DataFrame
        `STATE`, `PLACE`, `label`, `pc1`, `pc2`, `share1`, `share2`, by run and layer in the order of labels and
        updates.
    """

    def own(group: pl.DataFrame) -> pl.DataFrame:
        where = _planar(_vectors(group["detail"]))
        return pl.concat([group.select(*STATE, *PLACE, "label"), where], how="horizontal")

    rows = from_the_start(compared(records, "centroid").filter(pl.col("label").is_in(list(labels))))
    points = rows.sort("label", "update", maintain_order=True).collect()
    run = [name for name in (*STATE, *PLACE) if name not in ("update", "epoch", "final")]
    empty = pl.concat([points.clear().select(*STATE, *PLACE, "label"), _NOWHERE], how="horizontal")
    return pl.concat([empty, *map(own, _groups(points, run))])


_NOWHERE = pl.DataFrame(schema=dict.fromkeys(("pc1", "pc2", "share1", "share2"), pl.Float64))
_SUMMARY = {"metric": pl.String, "value": pl.Float64, "unit": pl.String, "n_items": pl.Int64}


def _groups(rows: pl.DataFrame, by: Collection[str] = (*STATE, *PLACE)) -> list[pl.DataFrame]:
    return rows.partition_by(list(by), maintain_order=True) if len(rows) else []


def _planar(x_PD: Floats, *, centre: bool = True) -> pl.DataFrame:
    at, share = principal_plane(x_PD, centre=centre)
    return pl.DataFrame({"pc1": at[:, 0], "pc2": at[:, 1]}).with_columns(
        share1=pl.lit(float(share[0])), share2=pl.lit(float(share[1]))
    )


def _shift(group: pl.DataFrame) -> Floats:
    """The shift of each label of one state and layer, (K, D)."""
    return _vectors(group["detail"]) - _vectors(group["baseline_detail"])


def _vectors(details: pl.Series) -> Floats:
    """The vectors that details carry: base64 of little-endian float32, (P, D)."""
    raw = details.str.json_path_match(_VECTOR).str.decode("base64").to_list()
    return np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), -1).astype(np.float64)
