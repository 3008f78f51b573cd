"""Claims: what a paper says of a study's numbers, cell by cell, and the verdict (METHODS 16.3).

A cell holds one effect, signed so that the claim says it is above 0, with one value a tuning seed. It is decided by its
interval and q where it has them; else by its sign alone, which all of at least 3 seeds must share (METHODS 16.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ftprobe.stats import MIN_SEEDS, Floats, benjamini_hochberg, paired_permutation, sentence_bootstrap

Verdict = Literal["supported", "contradicted", "inconclusive", "untested"]
LEVEL = 0.05
MOSTLY = 0.8  # share of cells that must be supported where a claim is marked "mostly"


class Cell(NamedTuple):
    """One effect.

    Attributes
    ----------
    claim, where : str
        The id of the claim, and what tells its cells apart.
    effects : tuple of float
        One a tuning seed, without those that are undefined; above 0 where the claim holds.
    low, high : float, optional
        Ends of the 95 % interval of the mean; None: decided by the sign.
    q : float, optional
        Of "the effect is 0"; None where the interval alone decides, as for a share against its bound.
    """

    claim: str
    where: str
    effects: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    q: float | None = None

    @property
    def effect(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.effects))

    @property
    def holds(self) -> bool:
        """Whether the mean is on the side that the claim says, whatever its uncertainty."""
        return self.effect > 0

    @property
    def verdict(self) -> Verdict:
        """Supported, contradicted or inconclusive.

        >>> Cell("Z2", "pos", (0.1, 0.2, 0.1)).verdict, Cell("Z2", "pos", (0.1, 0.2)).verdict
        ('supported', 'inconclusive')
        >>> Cell("Z5", "fxn", (0.1,), low=-2.0, high=-1.0, q=0.01).verdict
        'contradicted'
        """
        if self.low is None or self.high is None:
            return _by_sign(self.effects) if len(self.effects) >= MIN_SEEDS else "inconclusive"
        sure = self.q is None or self.q < LEVEL
        return _by_sign((self.low, self.high)) if sure else "inconclusive"


def _by_sign(values: Sequence[float]) -> Verdict:
    if all(value > 0 for value in values):
        return "supported"
    return "contradicted" if all(value < 0 for value in values) else "inconclusive"


def verdict(cells: Sequence[Cell], *, mostly: bool = False) -> Verdict:
    """The verdict of a claim from those of its cells.

    Parameters
    ----------
    mostly : bool
        Supported if 80 % of the cells are, contradicted if more than half are; else all of them must be supported, and
        one that is contradicted decides.
    """
    if not cells:
        return "untested"
    found = [cell.verdict for cell in cells]
    supported, contradicted = (found.count(each) / len(found) for each in ("supported", "contradicted"))
    if supported >= (MOSTLY if mostly else 1.0):
        return "supported"
    return "contradicted" if contradicted > (0.5 if mostly else 0.0) else "inconclusive"


def over_units(claim: str, where: str, total_SU: ArrayLike, count_U: ArrayLike | None = None) -> tuple[Cell, float]:
    """A cell whose units (labels, sentences) are resampled, and its p: sign flips over units (METHODS 16.2).

    Parameters
    ----------
    total_SU : array of shape (S, U)
        The effect of each seed on each unit, signed as the claim says: the sum over its items.
    count_U : array of shape (U,), optional
        Items of each unit; one by default.
    """
    total_SU = np.asarray(total_SU, dtype=np.float64)
    count_U = np.ones(total_SU.shape[1]) if count_U is None else np.asarray(count_U, dtype=np.float64)
    cell = Cell(claim, where, tuple(total_SU.sum(axis=1) / count_U.sum()), *_ends(total_SU, count_U))
    return cell, paired_permutation(total_SU)


def share(claim: str, where: str, holds_SU: ArrayLike, *, least: float) -> Cell:
    """A cell on the share of units of which something holds, less the bound that it must reach.

    An interval that ends at the bound itself lies within it.

    Parameters
    ----------
    holds_SU : boolean array of shape (S, U)
    """
    holds_SU = np.asarray(holds_SU, dtype=np.float64)
    margin_SU = holds_SU - least + _ROUNDING
    return Cell(claim, where, tuple(margin_SU.mean(axis=1)), *_ends(margin_SU, np.ones(margin_SU.shape[1])))


def _ends(total_SU: Floats, count_U: Floats) -> tuple[float, float]:
    """The interval of the mean over items; with fewer than 10 units it is undefined (NaN), which decides nothing."""
    drawn = sentence_bootstrap(total_SU, count_U)
    return drawn.low, drawn.high


_ROUNDING = 1e-12  # what sums of shares may be below the share itself


def with_q(found: Sequence[tuple[Cell, float]]) -> list[Cell]:
    """The cells of one family with their q (Benjamini and Hochberg); one whose p is NaN has none and is no member."""
    q_M = benjamini_hochberg([p for _, p in found])
    return [cell._replace(q=None if np.isnan(q) else float(q)) for (cell, _), q in zip(found, q_M, strict=True)]
