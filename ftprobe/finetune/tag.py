"""Tagging: a label for each labelled word of a sentence (METHODS 1.1, "tag words")."""

from __future__ import annotations

from functools import partial

from ftprobe.finetune.words import check_words, make_words

check = check_words
make = partial(make_words, pairs=False)
