"""Errors a user can act on: each names the thing, its place and the repair.

`InputError` becomes exit code 2; `CorruptArtifact` makes the sweep rebuild an artifact; `StoreError` stops a run
with everything already published intact.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with the input.

    `place` is a path into the study (`probe[0].task`) or a file and line (`train.tsv:17`).
    """

    place: str
    what: str
    repair: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" + (f"; {self.repair}" if self.repair else "")


class InputError(Exception):
    """Everything that is wrong with a study, its data or its options, found in one pass."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def one(cls, place: str, what: str, repair: str = "") -> InputError:
        """An error with a single problem."""
        return cls([Problem(place, what, repair)])

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class StoreError(Exception):
    """The store cannot be read or written (full disk, missing permission, unreachable URL)."""


class NodeError(StoreError):
    """This machine's own disk, scratch or cache, cannot be used; the same work may go well on another machine."""


class CorruptArtifact(Exception):
    """An artifact whose bytes are not what its manifest says.

    Attributes
    ----------
    stage, artifact : str
        Which artifact; the sweep removes and rebuilds it.
    """

    def __init__(self, stage: str, artifact: str, what: str) -> None:
        self.stage, self.artifact, self.what = stage, artifact, what
        super().__init__(f"{stage}/{artifact}: {what}")

    def __reduce__(self) -> tuple[type[CorruptArtifact], tuple[str, str, str]]:
        return type(self), (self.stage, self.artifact, self.what)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The repair for an unknown name: the nearest allowed one, or all of them.

    >>> nearest("bigramshift", ["bigram_shift", "cola"])
    "did you mean 'bigram_shift'?"
    """
    known = sorted(allowed)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"one of: {', '.join(known)}"
