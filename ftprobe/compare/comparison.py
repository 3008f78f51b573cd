"""A comparison: something measured between two model states on the same text, its options and where its runner is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel

if TYPE_CHECKING:
    from ftprobe.models.load import Encoder
    from ftprobe.models.masked_lm import MaskedLM

Reads = Literal["models", "masked_lm", "activations"]
Text = Literal["sentences", "blocks"]


class States(NamedTuple):
    """Loaders of the model states of one trial; each loads when called, and is called at most once.

    Attributes
    ----------
    base
        The pre-trained state, or the one that the study compares with.
    state
        The state compared with it; None where the pre-trained one itself is measured.
    masked_lm
        The pre-trained state with its masked-LM head; None unless the comparison reads `masked_lm`.
    against
        What `base` is, for records: `pretrained`, or in what it differs from `state` (`seed=1`).
    """

    base: Callable[[], Encoder]
    state: Callable[[], Encoder] | None = None
    masked_lm: Callable[[], MaskedLM] | None = None
    against: str = "pretrained"


@dataclass(frozen=True)
class Comparison:
    """A family of comparisons.

    Attributes
    ----------
    kind : str
        Its name in a study.
    Options : type of pydantic.BaseModel
        What a study may set; frozen, unknown keys refused.
    version : int
        Part of every trial's id: raise it when the same options give other numbers.
    runner : str
        "module:function", imported when a trial runs. Of a comparison that reads `models` or `masked_lm` it is called
        as `run(options, corpus, rows, states, *, seed, device, threads, report) -> Outcome`: `rows` are the positions
        of the sampled texts in the corpus, `states` a `States`; compute on `device`, where the caller holds torch to
        `threads`, and tell `report` how far it has come.
    reads : {"models", "masked_lm", "activations"}
        The encoders of both states; those and the base's masked-LM head; or the activations of both states.
    text : {"sentences", "blocks"}
        Each text by itself, sampled; or all texts of the split joined in their order and cut into blocks.
    seeded : bool
        Whether the trial's seed changes its numbers: then its rows name it.
    items : int, optional
        How many texts of the split are sampled where the study does not say; without, all.
    pair : bool
        Whether it is of two states alike, and says nothing of one by itself: then the study may name the other one.
    """

    kind: str
    Options: type[BaseModel]
    version: int
    runner: str
    reads: Reads
    text: Text = "sentences"
    seeded: bool = False
    items: int | None = None
    pair: bool = False


Report = Callable[[dict[str, object]], None]
