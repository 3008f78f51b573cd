"""Claims: planted effects give each of the four verdicts; resampled units give numpy's mean and a p that is fair."""

from __future__ import annotations

import numpy as np
import pytest

from ftprobe.claims import Cell, over_units, share, verdict, with_q

RNG = np.random.default_rng(0)


def cell(*effects: float) -> Cell:
    return Cell("X", "here", effects)


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ((0.1, 0.2, 0.3), "supported"),
        ((-0.1, -0.2, -0.3), "contradicted"),
        ((0.1, -0.2, 0.3), "inconclusive"),
        ((0.1, 0.0, 0.3), "inconclusive"),
        ((0.1, 0.2), "inconclusive"),
    ],
)
def test_sign_of_at_least_three_seeds(effects: tuple[float, ...], expected: str) -> None:
    assert cell(*effects).verdict == expected
    assert cell(*effects).holds == (sum(effects) > 0)


@pytest.mark.parametrize(
    ("low", "high", "q", "expected"),
    [
        (0.1, 0.3, 0.01, "supported"),
        (0.1, 0.3, 0.2, "inconclusive"),
        (-0.1, 0.3, 0.01, "inconclusive"),
        (-0.3, -0.1, 0.01, "contradicted"),
        (0.1, 0.3, None, "supported"),
        (np.nan, np.nan, 0.001, "inconclusive"),
    ],
)
def test_an_interval_decides_with_its_q(low: float, high: float, q: float | None, expected: str) -> None:
    assert Cell("X", "here", (1.0, 1.0, 1.0), low, high, q).verdict == expected


def test_a_claim_over_cells() -> None:
    yes, no, open_ = cell(1, 1, 1), cell(-1, -1, -1), cell(1, -1, 1)
    assert verdict([]) == "untested"
    assert verdict([yes, yes]) == "supported"
    assert verdict([yes, open_]) == "inconclusive"
    assert verdict([yes, yes, no]) == "contradicted"
    assert verdict([yes] * 8 + [no] * 2, mostly=True) == "supported"
    assert verdict([yes] * 7 + [no] * 3, mostly=True) == "inconclusive"
    assert verdict([yes] * 4 + [no] * 6, mostly=True) == "contradicted"
    assert verdict([yes] * 5 + [no] * 5, mostly=True) == "inconclusive"


def test_units_are_resampled() -> None:
    effect_SU = RNG.normal(1.0, 1.0, (3, 40))
    found, p = over_units("Z5", "here", effect_SU)
    assert found.effect == pytest.approx(effect_SU.mean())
    assert found.effects == pytest.approx(tuple(effect_SU.mean(axis=1)))
    assert found.low is not None
    assert found.low < found.effect < found.high
    # The normal interval over units, which the bootstrap approximates; seeds add to it.
    width = 2 * 1.96 * effect_SU.mean(axis=0).std(ddof=1) / np.sqrt(40)
    assert 0.8 < (found.high - found.low) / width < 2.0
    assert p < 0.01
    assert found._replace(q=p).verdict == "supported"


def test_few_units_decide_nothing() -> None:
    found, p = over_units("Z5", "here", np.ones((3, 9)))
    assert found._replace(q=p).verdict == "inconclusive"


@pytest.mark.parametrize(("rising", "expected"), [(40, "supported"), (38, "inconclusive"), (20, "contradicted")])
def test_share_against_its_bound(rising: int, expected: str) -> None:
    holds_SU = np.tile(np.arange(40) < rising, (3, 1))
    found = share("Z4", "here", holds_SU, least=0.95)
    assert found.effect == pytest.approx(rising / 40 - 0.95, abs=1e-9)
    assert found.verdict == expected


def test_q_is_over_the_family() -> None:
    cells = with_q([(cell(1.0), 0.01), (cell(1.0), 0.04), (cell(1.0), 0.03)])
    assert [each.q for each in cells] == pytest.approx([0.03, 0.04, 0.04])
    assert with_q([]) == []
