"""Placement: names hide neither each other nor points, however close these lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.placement import Floats, Places, line_end, place_names, text_width

WIDTH, HEIGHT, FONT = 280.0, 240.0, 9.0


def placed(at_P2: Floats, names: list[str]) -> Places:
    return place_names(at_P2, names, width=WIDTH, height=HEIGHT, font_size=FONT)


def overlap(one_4: Floats, other_4: Floats) -> bool:
    low_2, high_2 = np.maximum(one_4[:2], other_4[:2]), np.minimum(one_4[2:], other_4[2:])
    return bool((high_2 - low_2 > 1e-9).all())


def line(at_2: Floats, box_4: Floats) -> Floats:
    """Points of the line to a name, a quarter of a pixel apart."""
    end_2 = line_end(at_2, box_4)
    n = int(np.linalg.norm(end_2 - at_2) * 4) + 2
    return at_2 + (end_2 - at_2) * np.linspace(0, 1, n)[:, None]


@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 16), spread=st.floats(0.0, 60.0), seed=st.integers(0, 1000))
def test_names_meet_no_name_no_point_and_no_line(n: int, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    at_P2 = np.clip(random.normal((140, 120), spread, (n, 2)), 5, 235)
    places = placed(at_P2, [f"label {i}" for i in range(n)])
    shown = np.flatnonzero(~np.isnan(places.box_P4[:, 0]))
    for p in shown:
        box_4 = places.box_P4[p]
        assert (box_4[:2] >= 0).all()
        assert box_4[2] <= WIDTH
        assert box_4[3] <= HEIGHT
        assert not any(overlap(box_4, np.concatenate([at - 3, at + 3])) for at in at_P2)
        assert not any(overlap(box_4, places.box_P4[q]) for q in shown if q != p)
        for q in shown[places.far_P[shown]]:
            way_S2 = line(at_P2[q], places.box_P4[q])
            # A line is looked at every two pixels: it may graze a corner.
            inside = (way_S2 > box_4[:2] + 2) & (way_S2 < box_4[2:] - 2)
            assert q == p or not inside.all(axis=1).any()


def test_a_point_alone_has_its_name_on_the_right() -> None:
    (box_4,), (far,) = placed(np.array([[140.0, 120.0]]), ["name"])
    assert box_4 == pytest.approx([145, 120 - 1.15 * FONT / 2, 145 + text_width("name", FONT), 120 + 1.15 * FONT / 2])
    assert not far


def test_points_far_apart_need_no_lines_and_a_knot_does() -> None:
    grid_P2 = np.array([(x, y) for x in range(20, 240, 60) for y in range(20, 230, 30)], dtype=float)
    names = [f"n{i}" for i in range(len(grid_P2))]
    assert not placed(grid_P2, names).far_P.any()
    knot = placed(np.full((6, 2), 120.0), names[:6])
    assert not np.isnan(knot.box_P4).any()
    assert knot.far_P.any()


def test_a_name_that_is_wider_than_the_picture_has_no_place() -> None:
    places = placed(np.array([[140.0, 120.0], [20.0, 20.0]]), ["w" * 60, "short"])
    assert np.isnan(places.box_P4[0]).all()
    assert not np.isnan(places.box_P4[1]).any()
    assert not places.far_P[0]


def test_no_points() -> None:
    assert placed(np.empty((0, 2)), []).box_P4.shape == (0, 4)
