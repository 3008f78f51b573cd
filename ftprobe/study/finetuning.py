"""Options of fine-tuning: the head, the optimiser, and what is done to the model before and on the way (METHODS 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ftprobe.study.values import Below1, Count, Fraction, Index, Options, Positive, Share


class Snapshots(Options):
    """When states of a run are kept as model states of their own; update 0 and the last are always among them.

    Exactly one of the three is given.
    """

    count: Count | None = None
    """So many at equal distances, beside update 0."""
    every: Count | None = None
    """Every so many updates."""
    epochs: Count | None = None
    """At the end of every so many epochs."""

    @model_validator(mode="after")
    def _one(self) -> Snapshots:
        if sum(value is not None for value in (self.count, self.every, self.epochs)) != 1:
            raise ValueError("say one of `count`, `every` (updates) and `epochs`")
        return self


class Edit(Options):
    """What is done to the states of a run once they are trained, whenever they are loaded (METHODS 1.3)."""

    replace_top: Index | None = None
    """So many of the highest blocks are the pre-trained ones again (Mosbach et al. 2020, section 5.2)."""
    replace_embeddings: Literal["tuned", "pretrained"] = "tuned"
    """Which embeddings go with `replace_top`."""
    cut_top: Count | None = None
    """So many of the highest blocks are removed."""
    cut_bottom: Count | None = None
    """So many of the lowest blocks are removed: the embeddings feed the next."""

    def spec(self) -> dict[str, Any]:
        """As JSON, what is at its default left out: empty where nothing is done."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def named(self) -> list[str]:
        """What the name of a variant says of it."""
        return [f"{key.removeprefix('replace_') if key not in EDITS else key}_{v}" for key, v in self.spec().items()]


class FinetuneOptions(Options):
    """How one model is fine-tuned on one task (METHODS 1.1 and 1.2)."""

    head_pooling: Literal["cls", "mean", "first", "last"] = "cls"
    """What the head reads of the last layer. Texts: `cls`, or `mean` over all tokens, special ones included (Mosbach et
    al. 2020, section 5.1). Words: `first`, `last` or `mean` (which is then the default) of their sub-words."""
    pooler: Literal["pretrained", "fresh", "none"] = "pretrained"
    """The tanh layer below the classifier: the checkpoint's own where it has one, new, or none."""
    epochs: Count = 3
    learning_rate: Positive = 2e-5
    batch_size: Count = 32
    schedule: Literal["constant", "linear"] = "linear"
    """The learning rate after warm-up: held, or linear to 0."""
    warmup: Fraction = 0.1
    """Share of all updates over which the learning rate rises from 0."""
    weight_decay: Share = 0.01
    beta1: Below1 = 0.9
    beta2: Below1 = 0.999
    epsilon: Positive = 1e-8
    clip: Positive = 1.0
    """Largest global L2 norm of the gradient."""
    dropout: Below1 = 0.1
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longest input in sub-words, special tokens included."""
    select: Literal["last", "best_dev"] = "last"
    """Which epoch's weights are kept."""
    train_items: Count | None = None
    """At most this many training items; all when null."""
    dev_items: Count | None = None
    """At most this many items of the evaluated split; all when null."""
    freeze: Index | None = None
    """Embeddings and this many of the lowest blocks are not trained; 0: the embeddings (Merchant et al. 2020, 5.2)."""
    frozen_dropout: Literal["on", "off"] = "on"
    """Whether dropout stays active in frozen blocks."""
    truncate: Count | None = None
    """Keep embeddings and this many of the lowest blocks before training (Merchant et al. 2020, section 5.2)."""
    prune_top: Count | None = None
    """Remove this many of the highest blocks before training (Durrani et al. 2021, section 5)."""
    prune_bottom: Count | None = None
    """Remove this many of the lowest blocks before training: the embeddings feed the next (Durrani et al. 2021)."""
    reinitialise: Count | Literal["all"] | None = None
    """Draw so many of the highest blocks, or everything, anew before training."""
    lora_rank: Count | None = None
    """Train W + (alpha / rank) B A on query and value in place of W, and the head; merged when training is over."""
    lora_alpha: Positive = 16.0
    lora_dropout: Below1 = 0.0
    stride: Count = 128
    """Questions: windows over a passage start this many sub-words apart."""
    question_length: Count = 64
    """Questions are cut to this many sub-words."""
    answer_length: Count = 30
    """Longest answer in sub-words."""
    null_windows: Fraction = 0.02
    """Natural Questions: the share of training windows without an answer that is kept."""
    arc_size: Count = 500
    """Parser: width of the maps of heads and dependants for arcs (Dozat and Manning 2017)."""
    label_size: Count = 100
    """Parser: the same for labels."""
    parser_dropout: Below1 = 0.33
    """Parser: dropout of those maps."""
    subtypes: Literal["ignore", "keep"] = "ignore"
    """Parser: whether `nsubj:pass` is another label than `nsubj`."""
    punctuation: Literal["keep", "ignore"] = "keep"
    """Parser: whether UAS and LAS count punctuation."""

    def spec(self) -> dict[str, Any]:
        """As JSON, for trial ids and records: options that only some runs use are left out at their defaults."""
        values: Mapping[str, Any] = self.model_dump(mode="json")
        fields = type(self).model_fields
        return {name: v for name, v in values.items() if name not in LATER or v != fields[name].default}

    def named(self) -> list[str]:
        """What the name of a variant says of them."""
        values = self.model_dump(include=set(VARIANTS))
        return [f"{key.removesuffix('_rank')}_{values[key]}" for key in VARIANTS if values[key] is not None]


VARIANTS = ("freeze", "truncate", "prune_top", "prune_bottom", "reinitialise", "lora_rank")
EDITS = ("replace_top", "cut_top", "cut_bottom")
"""Options that make a state another variant: its name in records says them."""

ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "pooler": ("classify", "regress"),
    "head_pooling": ("classify", "regress", "tag", "token_pair"),
    "stride": ("span", "span_type"),
    "question_length": ("span", "span_type"),
    "answer_length": ("span", "span_type"),
    "null_windows": ("span_type",),
    "arc_size": ("biaffine",),
    "label_size": ("biaffine",),
    "parser_dropout": ("biaffine",),
    "subtypes": ("biaffine",),
    "punctuation": ("biaffine",),
}
"""Options that mean something for some objectives only."""

LATER = frozenset({*VARIANTS, "frozen_dropout", "lora_alpha", "lora_dropout", *ONLY_FOR} - {"pooler", "head_pooling"})
