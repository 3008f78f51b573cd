"""Comparisons by name: built in, or added by a package through the entry-point group `ftprobe.comparisons`.

Importing this is light: options only; a comparison's runner is imported when a trial runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points

from ftprobe.compare import attention, perplexity, similarity
from ftprobe.compare.comparison import Comparison as Comparison
from ftprobe.compare.comparison import States as States

BUILT_IN = (
    Comparison("attention", attention.AttentionOptions, 1, "ftprobe.compare.attention_run:run", "models", items=2000),
    Comparison(
        "perplexity",
        perplexity.PerplexityOptions,
        1,
        "ftprobe.compare.perplexity_run:run",
        "masked_lm",
        text="blocks",
        seeded=True,
    ),
    Comparison(
        "similarity",
        similarity.SimilarityOptions,
        1,
        "ftprobe.compare.similarity_run:run",
        "models",
        seeded=True,
        items=5000,
        pair=True,
    ),
)

_GROUP = "ftprobe.comparisons"


class _Comparisons(Mapping[str, Comparison]):
    """Kind -> comparison. Entry points are looked up on first use: importing this reads no other package."""

    @cached_property
    def _known(self) -> dict[str, Comparison]:
        known = {comparison.kind: comparison for comparison in BUILT_IN}
        for entry in entry_points(group=_GROUP):
            found = entry.load()
            if not isinstance(found, Comparison):
                raise TypeError(
                    f"entry point {entry.name!r} of group ftprobe.comparisons is no Comparison but {found!r}"
                )
            if found.kind in known:
                raise ValueError(f"entry point {entry.name!r} of group ftprobe.comparisons redefines {found.kind!r}")
            known[found.kind] = found
        return known

    def __getitem__(self, kind: str) -> Comparison:
        return self._known[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


COMPARISONS: Mapping[str, Comparison] = _Comparisons()
