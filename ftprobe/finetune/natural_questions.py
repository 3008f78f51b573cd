"""Natural Questions: a span in a page and what kind of answer it is (METHODS 1.1; Alberti et al. 2019).

Trained as their baseline is: of the annotations with an answer the first in the page that has a short one counts, else
the first; its span is that of all its short answers, else the long answer, which is also the span of yes and no. A
window without the whole span has the type null and the classification token for a span. HTML tags are read as text.
The best window of a page is that of the highest span score minus that of the classification token. Its span makes the
long answer, the smallest top-level candidate around it; its most probable type other than null makes the short answer:
yes, no, the span (`short`), or none (`long`). Whether either counts is left to its score and a threshold.

Axes: N questions, W windows, S sub-words, T tokens of a page, K types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.finetune.nq_scores import (
    NONE,
    Annotation,
    Judged,
    Span,
    at_threshold,
    best_threshold,
    judge_long,
    judge_short,
    read_annotations,
)
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.span import label_of
from ftprobe.finetune.span_decoding import best_windows, decode
from ftprobe.finetune.windows import Question, Windows
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.heads import SpanHead, SpanLogits
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

TYPES = ("null", "yes", "no", "short", "long")
METRICS = ("long_f1", "long_p", "long_r", "short_f1", "short_p", "short_r")
_FIELDS = {"f1": "f1", "p": "precision", "r": "recall"}
_JUDGES = {"long": judge_long, "short": judge_short}


class Gold(NamedTuple):
    """The label of a question: its annotations, and the top-level candidates for a long answer."""

    annotations: tuple[Annotation, ...]
    candidates: tuple[Span, ...]


class NaturalQuestions:
    """The objective (see `Objective`).

    The thresholds of test are those that are best on dev in the same epoch; in a run without dev, where nothing is
    selected either, those that are best on test itself, as the official script has it (`thresholds_from` in the facts).
    """

    labels: tuple[str, ...] = ()

    def __init__(
        self,
        head: SpanHead,
        splits: Mapping[str, Windows],
        gold: Mapping[str, Sequence[Gold]],
        metrics: tuple[str, ...],
        *,
        length: int,
    ) -> None:
        self.head, self.splits, self.gold, self.metrics, self.length = head, splits, gold, metrics, length
        self.facts: dict[str, object] = {
            "windows": {split: len(windows) for split, windows in splits.items()},
            "thresholds_from": "dev" if "dev" in splits else "test",
        }
        self._dev: Answers | None = None

    def loss(self, outputs: SpanLogits, labels: Tensor) -> tuple[Tensor, int]:
        """Mean over windows of the sum of three cross-entropies: first and last sub-word, and type."""
        assert outputs.type_NK is not None
        first, last = (nn.functional.cross_entropy(outputs.span_NS2[..., k], labels[:, k]) for k in (0, 1))
        return first + last + nn.functional.cross_entropy(outputs.type_NK, labels[:, 2]), len(labels)

    def answers(self, split: str) -> Answers:
        """Tokens of the best span, end exclusive (-1 where there is none), its score and type.

        With dev, test's also hold the thresholds of long and short answers.
        """
        if split == "dev":
            self._dev = self._read(split)
            return self._dev
        if "dev" not in self.splits:
            return self._read(split)
        # Dev's answers of this epoch, if they were asked for just before; they serve once, as weights move on.
        dev, self._dev = self._dev or self._read("dev"), None
        thresholds = [best_threshold(self._judged(kind, "dev", dev)).threshold for kind in _JUDGES]
        return {**self._read(split), "thresholds_2": np.array(thresholds)}

    def _read(self, split: str) -> Answers:
        windows = self.splits[split]
        found = decode(self.head, windows, length=self.length)
        score_W = found.score_W - found.null_W
        best_N = best_windows(windows.question_W, score_W)
        begin_N, end_N = windows.characters(best_N.tolist(), found.first_W[best_N], found.last_W[best_N])
        tokens_N2 = np.array(
            [tokens_of(q.passage, b, e) for q, b, e in zip(windows.questions, begin_N, end_N, strict=True)],
            dtype=np.int32,
        ).reshape(-1, 2)
        return {
            "begin_N": tokens_N2[:, 0].copy(),
            "end_N": tokens_N2[:, 1].copy(),
            "score_N": score_W[best_N],
            "type_N": found.type_W[best_N],
        }

    def annotations(self, split: str, answers: Answers) -> list[Annotation]:
        """What is answered (N), before any threshold."""
        columns = (answers[name].tolist() for name in ("begin_N", "end_N", "type_N"))
        return [said(gold, (b, e), TYPES[k]) for gold, b, e, k in zip(self.gold[split], *columns, strict=True)]

    def _judged(self, kind: str, split: str, answers: Answers) -> Judged:
        given = [gold.annotations for gold in self.gold[split]]
        return _JUDGES[kind](given, self.annotations(split, answers), answers["score_N"].tolist())

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Precision, recall or F1 of long or short answers, as the official script computes them."""
        kind, name = metric.split("_")
        judged = self._judged(kind, split, answers)
        if "thresholds_2" in answers:
            found = at_threshold(judged, float(answers["thresholds_2"][list(_JUDGES).index(kind)]))
        else:
            found = best_threshold(judged)
        return Score(float(getattr(found, _FIELDS[name])))

    def collapsed(self, answers: Answers) -> bool:
        """No better than always naming a page's first top-level candidate, and no short answer."""
        count = len(self.gold["test"])
        constant = [Annotation(min(gold.candidates, default=None)) for gold in self.gold["test"]]
        kind, name = self.metrics[0].split("_")
        judged = _JUDGES[kind]([gold.annotations for gold in self.gold["test"]], constant, [0.0] * count)
        chance = float(getattr(best_threshold(judged), _FIELDS[name]))
        return self.score(self.metrics[0], "test", answers).value <= chance

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """None: `Predictions` are of labels."""
        return ()

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `SpanHead.save`."""
        self.head.save(folder, encoder, TYPES)


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Every item has a page and annotations, and train an answer."""
    known_metrics(metrics, METRICS)
    gold = {split: [_gold(task, row) for row in own] for split, own in rows.items()}
    if not any(to_learn(one.annotations) for one in gold["train"]):
        raise InputError.one("finetune.task", f"'{task.labels.task}' has no answer in train", "use annotated files")


def make(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    metrics: tuple[str, ...],
    seed: int,
) -> NaturalQuestions:
    """The windows of each split and a fresh head.

    Which of the windows of train without an answer are kept depends on their question's id and number alone.
    """

    def keep(id: str, number: int) -> bool:
        return derive_seed(0, "data", "null_windows", id, number) < options.null_windows * 2**32

    gold = {split: [_gold(task, row) for row in rows[split]] for split in ("train", "dev", "test") if split in rows}
    splits = {
        split: Windows(
            encoder,
            [_question(task, row, one) for row, one in zip(rows[split], own, strict=True)],
            options,
            keep=keep if split == "train" else None,
        )
        for split, own in gold.items()
    }
    if not len(splits["train"]):
        what = "no window of train holds a whole answer, and none of the others is kept"
        raise InputError.one("finetune.null_windows", what, "raise it, or max_length")
    head = SpanHead(encoder, len(TYPES), dropout=options.dropout, seed=derive_seed(seed, "head_init"))
    return NaturalQuestions(head, splits, gold, metrics, length=options.answer_length)


def to_learn(annotations: Sequence[Annotation]) -> tuple[Span, str] | None:
    """The span (tokens, end exclusive) and its type that a page is trained on; None where nobody gives an answer.

    >>> to_learn([Annotation(None), Annotation((3, 9), ((7, 8), (4, 5)))])
    ((4, 8), 'short')
    >>> to_learn([Annotation((3, 9), yes_no="no")])
    ((3, 9), 'no')
    """
    answered = [(one.long or min(one.short), one) for one in annotations if one.long or one.short]
    if not answered:
        return None
    span, one = min(answered, key=lambda pair: (not pair[1].short, pair[0]))
    if one.yes_no != NONE:
        return span, one.yes_no
    if one.short:
        return (min(start for start, _ in one.short), max(end for _, end in one.short)), "short"
    return span, "long"


def said(gold: Gold, span: Span, type_: str) -> Annotation:
    """What a span (tokens, end exclusive; -1 for none) and its type answer."""
    begin, end = span
    if begin < 0:
        return Annotation()
    around = [(last - first, (first, last)) for first, last in gold.candidates if first <= begin and end <= last]
    long = min(around)[1] if around else None
    return Annotation(long, (span,) if type_ == "short" else (), type_ if type_ in ("yes", "no") else NONE)


def tokens_of(passage: str, begin: int, end: int) -> Span:
    """The tokens (end exclusive) that characters begin:end of a page touch; (-1, -1) for blanks and where begin is -1.

    >>> tokens_of("the cat sat", 5, 8), tokens_of("the cat sat", 3, 4), tokens_of("the cat sat", -1, -1)
    ((1, 2), (-1, -1), (-1, -1))
    """
    text = passage[begin:end] if begin >= 0 else ""
    if not text.strip(" "):
        return -1, -1
    first = begin + len(text) - len(text.lstrip(" "))
    before = passage.count(" ", 0, first)
    return before, before + text.strip(" ").count(" ") + 1


def characters_of(passage: str, span: Span) -> tuple[int, int]:
    """The characters of a span of tokens, both with exclusive ends.

    >>> characters_of("the cat sat", (1, 3))
    (4, 11)
    """
    lengths_T = [len(token) for token in passage.split(" ")[: span[1]]]
    begin = sum(lengths_T[: span[0]]) + span[0]
    return begin, sum(lengths_T) + span[1] - 1


def _question(task: TaskData, row: int, gold: Gold) -> Question:
    sentence = task.corpus.sentences[task.labels.sentence_N[row]]
    passage, wanted = sentence.text_b or "", to_learn(gold.annotations)
    if wanted is None:
        return Question(sentence.id, sentence.text, passage, None)
    span, type_ = wanted
    return Question(sentence.id, sentence.text, passage, characters_of(passage, span), TYPES.index(type_))


def _gold(task: TaskData, row: int) -> Gold:
    sentence, label = label_of(task, row)
    missing = [name for name in ("candidates", "long", "short", "yes_no") if name not in label]
    if missing:
        what = f"the label has no '{missing[0]}'"
        raise InputError.one(f"question {sentence.id}", what, "this objective needs the task natural_questions")
    candidates = tuple((int(start), int(end)) for start, end, top_level in label["candidates"] if top_level)
    return Gold(read_annotations(task.labels.label_N[row]), candidates)
