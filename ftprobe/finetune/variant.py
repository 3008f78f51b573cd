"""Variants: what is done to an encoder before it is trained, while it is, and when its state is kept (METHODS 1.3)."""

from __future__ import annotations

from ftprobe.hashing import derive_seed
from ftprobe.models.load import Encoder
from ftprobe.models.lora import add_lora, merge_lora
from ftprobe.models.surgery import freeze, prune_bottom, prune_top, reinitialise, truncate
from ftprobe.study import FinetuneOptions


def prepared(encoder: Encoder, options: FinetuneOptions, *, seed: int) -> Encoder:
    """The encoder as training begins: cut, then drawn anew where that is asked for."""
    if options.truncate is not None:
        encoder = truncate(encoder, options.truncate)
    if options.prune_top is not None:
        encoder = prune_top(encoder, options.prune_top)
    if options.prune_bottom is not None:
        encoder = prune_bottom(encoder, options.prune_bottom)
    if options.reinitialise is not None:
        encoder = reinitialise(encoder, options.reinitialise, seed=derive_seed(seed, "head_init", "encoder"))
    return encoder


def restrict(encoder: Encoder, options: FinetuneOptions, *, seed: int) -> None:
    """Settle what is trained, after the head has set its dropout: all, the upper blocks, or low-rank updates."""
    if options.freeze is not None:
        freeze(encoder, options.freeze, dropout=options.frozen_dropout)
    if options.lora_rank is not None:
        add_lora(encoder, rank=options.lora_rank, alpha=options.lora_alpha, dropout=options.lora_dropout, seed=seed)


def plain(encoder: Encoder, options: FinetuneOptions) -> Encoder:
    """The encoder as it is kept: low-rank updates merged into the weights; the one that trains stays as it is."""
    return encoder if options.lora_rank is None else merge_lora(encoder)
