"""Model inputs: texts as the sub-words of one encoder, and batches padded to their longest member.

Axes: N texts, S sub-words. Pairs use the model's own separators and segment ids; the padding side is the tokenizer's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.models.load import Encoder
from ftprobe.tasks.types import Sentence

Features = Mapping[str, list[int]]


class EncodedTexts(NamedTuple):
    """Texts in their given order, not padded; `n_truncated` of them lost sub-words to the maximal length."""

    features_N: tuple[Features, ...]
    n_truncated: int

    def lengths(self) -> list[int]:
        """Sub-words of each text (N), special tokens included."""
        return [len(features["input_ids"]) for features in self.features_N]


def encode(encoder: Encoder, sentences: Sequence[Sentence], *, max_length: int) -> EncodedTexts:
    """Sub-words of texts and text pairs; of an over-long pair the longer member is cut first (METHODS 1.3).

    Raises
    ------
    InputError
        `max_length` is beyond the model's positions; a pair meets a model without separators; a text is empty.
    """
    model, tokenizer = encoder.model, encoder.tokenizer
    name, is_pair = model.config.model_type, any(sentence.text_b is not None for sentence in sentences)
    check_length(encoder, max_length)
    if is_pair and tokenizer.num_special_tokens_to_add(pair=True) == 0:
        raise InputError.one(
            "model", f"the tokenizer of this {name} has no separators for text pairs", "use an encoder"
        )
    batch = tokenizer(
        [sentence.text for sentence in sentences],
        [sentence.text_b or "" for sentence in sentences] if is_pair else None,
        truncation="longest_first",
        max_length=max_length,
        return_token_type_ids=has_segments(encoder),
        return_attention_mask=True,
        verbose=False,
    )
    empty = [sentence.id for sentence, ids in zip(sentences, batch["input_ids"], strict=True) if not ids]
    if empty:
        raise InputError.one(
            f"sentence {empty[0]}", f"no sub-words ({len(empty)} such texts)", "remove empty texts from the corpus"
        )
    columns = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
    return EncodedTexts(
        tuple({key: column[n] for key, column in columns.items()} for n in range(len(sentences))),
        n_truncated=sum(bool(encoding.overflowing) for encoding in batch.encodings or ()),
    )


def pad(encoder: Encoder, features_N: Sequence[Features]) -> dict[str, Tensor]:
    """A batch: each of the features' keys as a tensor (N, S) of int64, S the longest text of the batch."""
    tokenizer = encoder.tokenizer
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    longest = max(len(features["input_ids"]) for features in features_N)
    left = tokenizer.padding_side == "left"
    batch = {}
    for key in features_N[0]:
        rows = []
        for features in features_N:
            padding = [fill[key]] * (longest - len(features[key]))
            rows.append(padding + features[key] if left else features[key] + padding)
        batch[key] = torch.tensor(rows)
    return batch


def check_length(encoder: Encoder, max_length: int) -> None:
    """Raise InputError where `max_length` is beyond the model's positions."""
    if encoder.max_positions is not None and max_length > encoder.max_positions:
        raise InputError.one(
            "max_length",
            f"{max_length} is more than the {encoder.max_positions} positions of the model",
            f"at most {encoder.max_positions}",
        )


def takes_segments(encoder: Encoder) -> bool:
    """Whether segment ids go in: the tokenizer says so, as it does in fine-tuning, and the model takes them."""
    name = "token_type_ids"
    return name in encoder.tokenizer.model_input_names and name in inspect.signature(encoder.model.forward).parameters


def has_segments(encoder: Encoder) -> bool:
    """Whether the model takes segment ids."""
    # GPT-2 takes segment ids too, but looks them up among its words.
    config = encoder.model.config
    return config.model_type == "xlnet" or (getattr(config, "type_vocab_size", None) or 0) > 1
