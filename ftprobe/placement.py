"""Placement: where the names of points stand in a picture so that none hides another, or a point.

A name stands beside its point where it can, else farther off at the end of a line. All in pixels from the upper left
corner. Axes: P points, C candidate places of one name, O obstacles, S points of a line; a box is its left, top, right
and bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DOT = 3.2  # half the side of the box that a point takes
_LINE_WIDTH = 2.0  # of the boxes along a line, and the distance between them
_NEAR = 4  # boxes of a line that others may cross: points that lie on each other have lines that part from there
_EM = {**dict.fromkeys("fijlrt.,:;'|!I ()[]-", 0.36), **dict.fromkeys("mwMW@%", 0.92)}
_UPPER, _LOWER, _HEIGHT = 0.72, 0.56, 1.15


class Places(NamedTuple):
    """Where names stand.

    Attributes
    ----------
    box_P4 : array of shape (P, 4)
        The box of each name; NaN where there is no room for it.
    far_P : bool array of shape (P,)
        Whether a line leads from the point to the name.
    """

    box_P4: Floats
    far_P: NDArray[np.bool_]


class _Rule(NamedTuple):
    """Where names are looked for: how far off, in which directions, and how much room other points have."""

    radii: Sequence[float]
    degrees: Sequence[int]
    """In the order of preference; negative is above, as y points down."""
    clearance: float
    crosses: bool
    """Whether the line to a name may cross other points."""


_BESIDE = _Rule((5.0,), (0, -30, 30, 180, 210, 150, -60, 60, -90, 90, 240, 120, -15, 15, 165, 195), 3.0, False)
_FAR = _Rule(range(10, 150, 5), range(0, 360, 10), 1.0, False)
_RULES = (_BESIDE, _FAR, _BESIDE._replace(clearance=0.0), _FAR._replace(clearance=0.0, crosses=True))


def place_names(at_P2: Floats, names: Sequence[str], *, width: float, height: float, font_size: float) -> Places:
    """Places for the names of points, greedily: beside their points first, those with the least choice before others.

    Parameters
    ----------
    at_P2 : array of shape (P, 2)
        Inside a picture of `width` times `height`.

    Returns
    -------
    Places
        Boxes inside the picture that meet no other box, no point and no line; lines that meet no box and, away from
        their points, no other line.

    Examples
    --------
    >>> places = place_names(np.array([[50.0, 50.0]]), ["here"], width=100, height=100, font_size=10)
    >>> float(places.box_P4[0, 0]), bool(places.far_P[0])
    (55.0, False)
    """
    size_P2 = np.array([(text_width(name, font_size), _HEIGHT * font_size) for name in names]).reshape(-1, 2)
    frame_4 = np.array([0.0, 0.0, width, height])
    dot_P4, drawn_O4 = _boxes(at_P2, _DOT), np.empty((0, 4))
    beside = [_candidates(at, size, _BESIDE) for at, size in zip(at_P2, size_P2, strict=True)]
    order_P = np.argsort([_free(box_C4, dot_P4, frame_4).sum() for box_C4 in beside], kind="stable")
    found = Places(np.full((len(names), 4), np.nan), np.zeros(len(names), dtype=np.bool_))
    for rule in _RULES:
        others_P4 = _boxes(at_P2, _DOT + rule.clearance)
        for p in order_P[np.isnan(found.box_P4[order_P, 0])]:
            others_O4 = np.concatenate([drawn_O4, np.delete(others_P4, p, axis=0)])
            candidate_C4 = _candidates(at_P2[p], size_P2[p], rule)
            free_C = _free(candidate_C4, np.concatenate([others_O4, dot_P4[p : p + 1]]), frame_4)
            for box_4 in candidate_C4[free_C]:
                far = len(rule.radii) > 1
                way_S2 = _way(at_P2[p], box_4) if far else np.empty((0, 2))
                if not _inside(way_S2, drawn_O4 if rule.crosses else others_O4):
                    found.box_P4[p], found.far_P[p] = box_4, far
                    drawn_O4 = np.concatenate([drawn_O4, box_4[None], _boxes(way_S2[_NEAR:], _LINE_WIDTH / 2)])
                    break
    return found


def text_width(text: str, font_size: float) -> float:
    """How wide a text in a sans-serif font is, rather too wide than too narrow."""
    return font_size * sum(_EM.get(each, _UPPER if each.isupper() else _LOWER) for each in text)


def line_end(at_2: Floats, box_4: Floats) -> Floats:
    """The point of a box that is nearest to a point."""
    return np.clip(at_2, box_4[:2], box_4[2:])


def _boxes(at_P2: Floats, half: float) -> Floats:
    return np.concatenate([at_P2 - half, at_P2 + half], axis=1)


def _candidates(at_2: Floats, size_2: Floats, rule: _Rule) -> Floats:
    """Boxes around a point, (C, 4), the nearest first."""
    angle_A = np.deg2rad(rule.degrees)
    toward_A2 = np.stack([np.cos(angle_A), np.sin(angle_A)], axis=1)
    centre_C2 = np.concatenate([at_2 + toward_A2 * (radius + size_2 / 2) for radius in rule.radii])
    return np.concatenate([centre_C2 - size_2 / 2, centre_C2 + size_2 / 2], axis=1)


def _free(box_C4: Floats, obstacle_O4: Floats, frame_4: Floats) -> NDArray[np.bool_]:
    """Which boxes lie in the frame and meet no obstacle."""
    inside_C = (box_C4[:, :2] >= frame_4[:2]).all(axis=1) & (box_C4[:, 2:] <= frame_4[2:]).all(axis=1)
    low_CO2 = np.maximum(box_C4[:, None, :2], obstacle_O4[:, :2])
    high_CO2 = np.minimum(box_C4[:, None, 2:], obstacle_O4[:, 2:])
    meets_CO = (low_CO2 < high_CO2).all(axis=2)
    return np.asarray(inside_C & ~np.any(meets_CO, axis=1))


def _way(at_2: Floats, box_4: Floats) -> Floats:
    """Points of the line from a point to a box, (S, 2), the ends left out."""
    end_2 = line_end(at_2, box_4)
    n = max(int(np.linalg.norm(end_2 - at_2) / _LINE_WIDTH), 1)
    return at_2 + (end_2 - at_2) * (np.arange(1, n) / n)[:, None]


def _inside(point_S2: Floats, box_O4: Floats) -> bool:
    """Whether any point lies in any box."""
    inside_SO2 = (point_S2[:, None] > box_O4[:, :2]) & (point_S2[:, None] < box_O4[:, 2:])
    return bool(np.any(inside_SO2.all(axis=2)))
