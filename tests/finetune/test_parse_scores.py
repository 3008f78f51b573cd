"""Attachment scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftprobe.finetune.parse_scores import attachment_scores

GOLD_HEADS = np.array([1, -1, 1, 2, 1])
GOLD = ["nsubj:pass", "root", "obl", "case", "punct"]


def test_all_right() -> None:
    assert attachment_scores(GOLD_HEADS, GOLD, GOLD_HEADS, GOLD, subtypes="keep") == (1.0, 1.0, 5)


@pytest.mark.parametrize(
    ("options", "uas", "las"),
    [
        # heads: words 0, 1, 2 right; relations: words 0 (but for its subtype), 1 and 4 right
        ({}, 3 / 5, 2 / 5),
        ({"subtypes": "keep"}, 3 / 5, 1 / 5),
        ({"punctuation": "ignore"}, 3 / 4, 2 / 4),
        ({"punctuation": "ignore", "subtypes": "keep"}, 3 / 4, 1 / 4),
    ],
)
def test_scores_by_hand(options: dict[str, str], uas: float, las: float) -> None:
    head_N = np.array([1, -1, 1, 1, 2])
    label_N = ["nsubj", "root", "obj", "mark", "punct"]
    found = attachment_scores(GOLD_HEADS, GOLD, head_N, label_N, **options)  # type: ignore[arg-type]
    assert found == pytest.approx((uas, las, 4 if "punctuation" in options else 5))


def test_nothing_counts() -> None:
    found = attachment_scores(np.array([0]), ["punct"], np.array([0]), ["punct"], punctuation="ignore")
    assert math.isnan(found.uas)
    assert math.isnan(found.las)
    assert found.n_words == 0


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="heads for"):
        attachment_scores(np.array([0, 1]), ["dep"], np.array([0, 1]), ["dep"])
