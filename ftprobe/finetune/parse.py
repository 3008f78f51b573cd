"""Dependency parsing with a biaffine head (METHODS 1.1; Merchant et al. 2020, section 3).

A word of which truncation cut a sub-word leaves the loss, as a word or as a head, and counts as an error in UAS and
LAS. Decoding is the maximum spanning arborescence with one root child over the words that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftprobe.errors import InputError
from ftprobe.finetune.examples import classes_to_tell_apart
from ftprobe.finetune.objective import Answers, Rows, Score, known_metrics
from ftprobe.finetune.texts import in_batches
from ftprobe.finetune.trees import ROOT, Trees
from ftprobe.finetune.words import LOST, check_fixed_words, refuse_nothing_left
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Predictions
from ftprobe.models.heads import Arcs, Parser, Sizes
from ftprobe.models.load import Encoder
from ftprobe.solvers.arborescence import arborescence
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

METRICS = ("las", "uas")
NO_HEAD = -2  # the predicted head of a word that was cut off
_BATCH = 64


class Parsing:
    """The objective (see `Objective`). Answers: `head_N` (-1: root, -2: cut off), `predicted_N` labels, `score_N`."""

    def __init__(
        self,
        encoder: Encoder,
        head: Parser,
        splits: Mapping[str, Trees],
        labels: tuple[str, ...],
        metrics: tuple[str, ...],
    ) -> None:
        self.encoder, self.head, self.splits = encoder, head, splits
        self.labels, self.metrics = labels, metrics
        lost = {split: int(trees.lost_N.sum()) for split, trees in splits.items()}
        self.facts: dict[str, object] = {"word_pooling": "first", "items_cut_off": lost}

    def loss(self, outputs: Arcs, labels: Tensor) -> tuple[Tensor, int]:
        """Cross-entropy over heads plus cross-entropy over labels at the gold heads, both means over words."""
        sentence_M, word_M = (labels[..., 0] >= 0).nonzero(as_tuple=True)
        head_M, label_M = labels[sentence_M, word_M].unbind(1)
        logits_MK = self.head.biaffine.labels(outputs, sentence_M, word_M, head_M)
        arcs = nn.functional.cross_entropy(outputs.arc_NTT.flatten(0, 1), labels[..., 0].flatten())
        return arcs + nn.functional.cross_entropy(logits_MK, label_M), len(label_M)

    @torch.no_grad()
    def answers(self, split: str) -> Answers:
        """The best trees, the best labels of their arcs, and the probability of both together."""
        trees = self.splits[split]
        head_N = np.full(len(trees.label_N), NO_HEAD, np.int32)
        predicted_N, score_N = np.full_like(head_N, LOST), np.zeros(len(head_N), np.float32)
        for part_n, arcs in in_batches(self.head, trees, _BATCH):
            items = [trees.items(unit) for unit in part_n.tolist()]
            item_M, device = np.concatenate(items), arcs.arc_NTT.device
            tree_M = np.concatenate(_trees(arcs, [len(own) for own in items]))
            at = np.concatenate([[[n, t] for t in range(len(own))] for n, own in enumerate(items)])
            sentence_M, word_M = torch.from_numpy(at).to(device).unbind(1)
            slot_M = torch.from_numpy(tree_M + 1).to(device)
            best = self.head.biaffine.labels(arcs, sentence_M, word_M, slot_M).softmax(-1).max(-1)
            chosen_M = arcs.arc_NTT[sentence_M, word_M].softmax(-1).gather(1, slot_M.unsqueeze(1)).squeeze(1)
            first_M = np.repeat(np.cumsum([0, *map(len, items[:-1])]), [len(own) for own in items])
            head_N[item_M] = np.where(tree_M == ROOT, ROOT, trees.word_N[item_M[first_M + tree_M]])
            predicted_N[item_M] = best.indices.cpu().numpy()
            score_N[item_M] = (best.values * chosen_M).cpu().numpy()
        return {"head_N": head_N, "predicted_N": predicted_N, "score_N": score_N}

    def score(self, metric: str, split: str, answers: Answers) -> Score:
        """Share of the counted words with the right head (`uas`), and with the right label too (`las`)."""
        trees = self.splits[split]
        right_N = answers["head_N"] == trees.head_N
        if metric == "las":
            right_N = right_N & (answers["predicted_N"] == trees.label_N)
        return Score(float(np.mean(right_N[trees.counted_N])))

    def collapsed(self, answers: Answers) -> bool:
        """UAS no better than that of hanging each word on the next, or each on the one before, if that is better.

        The word at the end that is left over hangs on the root.
        """
        trees = self.splits["test"]
        following_N = np.where(_is_last(trees), ROOT, trees.word_N + 1)
        chance = max(
            float(np.mean((place_N == trees.head_N)[trees.counted_N])) for place_N in (following_N, trees.word_N - 1)
        )
        return self.score("uas", "test", answers).value <= chance

    def predictions(self, answers: Answers) -> tuple[Predictions, ...]:
        """One for each counted word; a label is head and relation as in CoNLL-U, so that equal ones count in LAS."""
        test = self.splits["test"]
        gold = self._named(test, test.head_N, test.label_N)
        said = self._named(test, answers["head_N"], answers["predicted_N"])
        labels = tuple(sorted({label for label in (*gold, *said) if label is not None}))
        rank: dict[str | None, int] = {None: LOST, **{label: index for index, label in enumerate(labels)}}
        return (
            Predictions(
                split="test",
                layer=None,
                probe_seed=None,
                sentence_N=test.sentence_N[test.counted_N],
                word_N=test.word_N[test.counted_N],
                gold_N=np.array([rank[label] for label in gold], dtype=np.int32),
                predicted_N=np.array([rank[label] for label in said], dtype=np.int32),
                score_N=answers["score_N"][test.counted_N],
                labels=labels,
            ),
        )

    def _named(self, trees: Trees, head_N: NDArray[np.int32], label_N: NDArray[np.integer]) -> list[str | None]:
        pairs = zip(head_N[trees.counted_N].tolist(), label_N[trees.counted_N].tolist(), strict=True)
        return [None if head == NO_HEAD else f"{head + 1} {self.labels[label]}" for head, label in pairs]

    def save(self, folder: Path, encoder: Encoder) -> None:
        """See `Parser.save`."""
        self.head.save(folder, encoder, self.labels)


def _trees(arcs: Arcs, lengths: list[int]) -> list[NDArray[np.int64]]:
    """The best tree of each sentence of a batch, over so many of its words."""
    score_NTT = arcs.arc_NTT.double().cpu().numpy()
    own = [score_TH[:n_words, : n_words + 1] for score_TH, n_words in zip(score_NTT, lengths, strict=True)]
    if not all(np.isfinite(score_TH).all() for score_TH in own):
        raise FloatingPointError("scores of arcs are not finite; lower the learning rate")
    return [arborescence(score_TH) for score_TH in own]


def _is_last(trees: Trees) -> NDArray[np.bool_]:
    """Whether a word is the last of its sentence (N)."""
    last = np.zeros(int(trees.sentence_N.max()) + 1, dtype=np.int32)
    np.maximum.at(last, trees.sentence_N, trees.word_N)
    is_last: NDArray[np.bool_] = last[trees.sentence_N] == trees.word_N
    return is_last


def check(task: TaskData, rows: Rows, metrics: tuple[str, ...]) -> None:
    """Every word of every sentence with a head, two relations or more in train, and UAS and LAS."""
    known_metrics(metrics, METRICS)
    labels, sentences = task.labels, task.corpus.sentences
    if len(labels.head_N) != len(labels.word_N):
        raise InputError.one("finetune.task", f"'{labels.task}' has no heads", "a parser learns trees")
    check_fixed_words(task, rows)
    for own in rows.values():
        count = Counter(labels.sentence_N[row] for row in own)
        for index, n in count.items():
            if n != len(sentences[index].words or ()):
                what = f"'{labels.task}' has {n} heads for the words of sentence {sentences[index].id!r}"
                raise InputError.one("finetune.task", what, "a parser learns trees over all words")
    classes_to_tell_apart(task, rows["train"])


def make(
    task: TaskData,
    rows: Rows,
    encoder: Encoder,
    options: FinetuneOptions,
    *,
    metrics: tuple[str, ...],
    seed: int,
) -> Parsing:
    """The trees of each split and a fresh parser; label ids are ranks over the relations of all splits."""
    relation_N = [label.partition(":")[0] if options.subtypes == "ignore" else label for label in task.labels.label_N]
    labels = tuple(sorted(set(relation_N)))
    rank = {label: index for index, label in enumerate(labels)}
    splits = {
        split: Trees(
            encoder,
            task,
            own,
            np.array([rank[relation_N[row]] for row in own], dtype=np.int64),
            max_length=options.max_length,
            punctuation="keep" if split == "train" else options.punctuation,
        )
        for split, own in rows.items()
    }
    refuse_nothing_left(len(splits["train"]), options.max_length)
    sizes = Sizes(options.arc_size, options.label_size, len(labels), options.parser_dropout)
    head = Parser(encoder, sizes, dropout=options.dropout, seed=derive_seed(seed, "head_init"))
    return Parsing(encoder, head, splits, labels, metrics)
