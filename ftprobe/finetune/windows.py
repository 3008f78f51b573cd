"""Questions about passages as windows: a question and a stretch of its passage in one sequence (METHODS 1.1).

Question and passage are cut into sub-words each by itself, without special ones. The question is cut to its length, and
windows of the passage that fill the rest of the sequence start `stride` of its sub-words apart, up to the one that
holds its last sub-word; where fewer than `stride` fit, windows lie end to end. The special sub-words and segments
around the two are those that the tokenizer sets around any pair. Characters of a passage are Unicode code points.

Axes: N questions, W windows of all of them, C sub-words of the passage in a window, S sub-words of a padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.models.inputs import check_length, has_segments, pad
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions

Ints = NDArray[np.int32]
Keep = Callable[[str, int], bool]
"""Whether the window of this number of the question of this id is kept, though it does not hold the answer."""
_CHUNK = 256


class Question(NamedTuple):
    """A question; `answer` is what is learnt: characters of the passage, end exclusive, and the answer's type."""

    id: str
    text: str
    passage: str
    answer: tuple[int, int] | None
    type: int = 0


class Window(NamedTuple):
    """Which question (0..N-1), sub-words (C) and the characters that they cover (C, 2); the answer's first and last.

    `target` is None where the window does not hold the whole answer.
    """

    question: int
    ids_C: Ints
    characters_C2: Ints
    target: tuple[int, int] | None


class Frame(NamedTuple):
    """Special sub-words around a question and a passage; segments of the three, of questions and of passages."""

    before: list[int]
    between: list[int]
    after: list[int]
    segments: tuple[list[int], int, list[int], int, list[int]]

    @property
    def size(self) -> int:
        """Special sub-words of a window."""
        return len(self.before) + len(self.between) + len(self.after)


class Windows:
    """One split of questions about passages as `Examples`, whose units are windows; `question_W` says whose they are.

    Parameters
    ----------
    keep
        Which of the windows without the whole answer are kept; all without it.

    Raises
    ------
    InputError
        The model has too few positions, or no separators; a question leaves no room for its passage.
    """

    def __init__(
        self, encoder: Encoder, questions: Sequence[Question], options: FinetuneOptions, *, keep: Keep | None = None
    ) -> None:
        check_length(encoder, options.max_length)
        self.encoder, self.questions = encoder, questions
        self._frame, self._segments = frame(encoder), has_segments(encoder)
        self._left, self._last = encoder.tokenizer.padding_side == "left", encoder.classification == "last"
        self._asked: list[list[int]] = []
        self._windows: list[Window] = []
        self.n_items, self.n_truncated = len(questions), 0
        for begin in range(0, len(questions), _CHUNK):
            self._cut(questions[begin : begin + _CHUNK], options, keep)
        self.question_W = np.array([window.question for window in self._windows], dtype=np.int32)

    def _cut(self, chunk: Sequence[Question], options: FinetuneOptions, keep: Keep | None) -> None:
        asked = _sub_words(self.encoder, [question.text for question in chunk])
        unique = list(dict.fromkeys(question.passage for question in chunk))
        passages = dict(zip(unique, _sub_words(self.encoder, unique), strict=True))
        for question, (asked_ids, _) in zip(chunk, asked, strict=True):
            cut = asked_ids[: options.question_length].tolist()
            self.n_truncated += len(cut) < len(asked_ids)
            room = options.max_length - self._frame.size - len(cut)
            if room < 1:
                what = f"{options.max_length} leaves no room for the passage beside question '{question.id}'"
                raise InputError.one("max_length", what, "raise it, or lower question_length")
            ids_C, characters_C2 = passages[question.passage]
            answer = None if question.answer is None else covered(characters_C2, *question.answer)
            for number, first in enumerate(starts(len(ids_C), room, options.stride)):
                target = within(answer, first, room)
                if target is None and keep is not None and not keep(question.id, number):
                    continue
                part = ids_C[first : first + room], characters_C2[first : first + room]
                # A copy, where most of a passage is left out, lets go of the rest.
                own = part if keep is None else (part[0].copy(), part[1].copy())
                self._windows.append(Window(len(self._asked), *own, target))
            self._asked.append(cut)

    def __len__(self) -> int:
        return len(self._windows)

    def lengths(self) -> list[int]:
        """Sub-words of each window (W), special ones included."""
        return [self._frame.size + len(self._asked[w.question]) + len(w.ids_C) for w in self._windows]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The windows at `indices`, padded; labels (n, 3): columns of the answer's first and last sub-word, its type.

        Without the whole answer these are the classification token's column twice, and 0.
        """
        batch = pad(self.encoder, [self._features(self._windows[index]) for index in indices])
        first_n, _, token_n = self.columns(indices, batch["input_ids"].shape[1])
        labels = np.zeros((len(indices), 3), dtype=np.int64)
        labels[:, :2] = token_n[:, None]
        for row, index in enumerate(indices):
            window = self._windows[index]
            if window.target is not None:
                labels[row, :2] = first_n[row] + np.array(window.target)
                labels[row, 2] = self.questions[window.question].type
        return {**batch, "labels": torch.from_numpy(labels)}

    def columns(self, indices: Sequence[int], width: int) -> tuple[Ints, Ints, Ints]:
        """In a batch `width` columns wide: the first column of each passage, its sub-words, the classification token's.

        All of shape (n).
        """
        picked = [self._windows[index] for index in indices]
        asked_n = np.array([len(self._asked[window.question]) for window in picked], dtype=np.int32)
        count_n = np.array([len(window.ids_C) for window in picked], dtype=np.int32)
        length_n = asked_n + count_n + np.int32(self._frame.size)
        left_n = width - length_n if self._left else np.zeros_like(length_n)
        first_n = left_n + len(self._frame.before) + asked_n + len(self._frame.between)
        return first_n, count_n, left_n + (length_n - 1 if self._last else 0)

    def characters(self, indices: Sequence[int], first_n: Ints, last_n: Ints) -> tuple[Ints, Ints]:
        """Where in its passage the span of each window begins, and where it ends, exclusive; -1 where there is none."""
        begin_n, end_n = np.full(len(indices), -1, dtype=np.int32), np.full(len(indices), -1, dtype=np.int32)
        for row, index in enumerate(indices):
            if first_n[row] >= 0:
                characters_C2 = self._windows[index].characters_C2
                begin_n[row], end_n[row] = characters_C2[first_n[row], 0], characters_C2[last_n[row], 1]
        return begin_n, end_n

    def _features(self, window: Window) -> dict[str, list[int]]:
        asked, passage = self._asked[window.question], window.ids_C.tolist()
        ids = [*self._frame.before, *asked, *self._frame.between, *passage, *self._frame.after]
        features = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self._segments:
            before, question, between, text, after = self._frame.segments
            segments = [*before, *[question] * len(asked), *between, *[text] * len(passage), *after]
            features["token_type_ids"] = segments
        return features


def starts(count: int, room: int, stride: int) -> list[int]:
    """Where the windows of a passage of so many sub-words start, of which `room` fit.

    >>> starts(10, 4, 3), starts(11, 4, 3), starts(10, 4, 128), starts(4, 4, 3), starts(0, 4, 3)
    ([0, 3, 6], [0, 3, 6, 9], [0, 4, 8], [0], [0])
    """
    step = min(stride, room)
    return [step * number for number in range(-(-max(0, count - room) // step) + 1)]


def covered(characters_C2: Ints, begin: int, end: int) -> tuple[int, int] | None:
    """The first and last sub-word that share a character with begin:end; None where none does."""
    found = np.flatnonzero((characters_C2[:, 1] > begin) & (characters_C2[:, 0] < end))
    return (int(found[0]), int(found[-1])) if len(found) else None


def within(span: tuple[int, int] | None, first: int, room: int) -> tuple[int, int] | None:
    """A span of a passage as counted from `first`, if the `room` sub-words from there hold the whole of it."""
    if span is None or span[0] < first or span[1] >= first + room:
        return None
    return span[0] - first, span[1] - first


def frame(encoder: Encoder) -> Frame:
    """What the tokenizer sets around a pair.

    Raises
    ------
    InputError
        The tokenizer sets nothing between the two.
    """
    pair = encoder.tokenizer("a", "a", return_token_type_ids=True)
    of, ids, segments = pair.sequence_ids(0), list(pair["input_ids"]), list(pair["token_type_ids"])
    asked, read = (slice(of.index(n), len(of) - of[::-1].index(n)) if n in of else None for n in (0, 1))
    if asked is None or read is None or asked.stop == read.start:
        what = f"the tokenizer of this {encoder.model.config.model_type} has no separators for text pairs"
        raise InputError.one("model", what, "use an encoder")
    before, between, after = slice(asked.start), slice(asked.stop, read.start), slice(read.stop, None)
    kinds = segments[before], segments[asked.start], segments[between], segments[read.start], segments[after]
    return Frame(ids[before], ids[between], ids[after], kinds)


def _sub_words(encoder: Encoder, texts: Sequence[str]) -> list[tuple[Ints, Ints]]:
    """Ids (C) and characters (C, 2) of each text."""
    found: Any = encoder.tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [
        (np.array(ids, dtype=np.int32), np.array(characters, dtype=np.int32).reshape(-1, 2))
        for ids, characters in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
