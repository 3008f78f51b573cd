"""One run: an encoder and a task in; a model state, its scores per epoch and its predictions out (METHODS 1)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ftprobe.errors import InputError
from ftprobe.finetune.checkpoints import Checkpoints
from ftprobe.finetune.examples import choose, encode_examples
from ftprobe.finetune.scores import METRICS
from ftprobe.finetune.training import Epoch, Report, Training, train
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement, Outcome, Predictions
from ftprobe.models.heads import Classifier
from ftprobe.models.load import Encoder, quiet_transformers
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Level, TaskData


def finetune(
    options: FinetuneOptions,
    task: TaskData,
    *,
    level: Level,
    metrics: tuple[str, ...],
    load: Callable[[], Encoder],
    seed: int,
    out: Path,
    report: Report,
    device: str,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Fine-tune an encoder to classify the texts or text pairs of a task, and write the model state into `out`.

    Parameters
    ----------
    metrics
        Of accuracy, mcc and f1 (macro); the first selects, is reported, and decides `collapsed`.
    seed
        Gives the seeds of the head, the order of examples and dropout. Which texts are sampled or held out does not
        depend on it.
    out
        Receives the encoder, its tokenizer and head.safetensors.
    report
        Called after each epoch with `epoch`, `metric`, `value`: of the held-out data with `select: best_dev`, else of
        the evaluated split; not for epochs that come from a checkpoint.
    checkpoints
        Where the run leaves its state after an epoch (not after each, see there), or after any update on a machine
        that is about to be taken away (`ftprobe.leaving`), and goes on from what an earlier attempt left: on a CPU with
        as many threads the outcome is the same, bit for bit. Without it nothing is kept.

    Returns
    -------
    Outcome
        Rows of every epoch; those of the epoch that was kept have `selected` in their detail, and `collapsed` if it
        scores no better than the most frequent label. Predictions of the kept epoch on the evaluated split. Facts:
        `resumed_from_epoch` counts the epochs of earlier attempts, in fractions where one ended in the middle of an
        epoch, and `earlier_attempts` says epochs, host and threads of each; `train_s` is the time of all updates,
        theirs included.

    Raises
    ------
    InputError
        The task has fewer than two classes in train, nothing to evaluate on, or does not fit the model.
    FloatingPointError
        The training loss is no longer finite.
    """
    if level == "word":
        raise InputError.one("finetune.task", f"'{task.labels.task}' labels words", "fine-tune on sentences or pairs")
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise InputError.one("finetune.task", f"unknown metric '{min(unknown)}'", f"one of: {', '.join(METRICS)}")
    labels = tuple(sorted(set(task.labels.label_N)))
    rows = choose(task, options)
    with quiet_transformers(), _own_generators():
        encoder = load()
        splits = {
            split: encode_examples(split, task, labels, rows[split], encoder, options.max_length) for split in rows
        }
        classifier = Classifier(
            encoder,
            len(labels),
            pooled=options.head_pooling,
            pooler=options.pooler,
            dropout=options.dropout,
            seed=derive_seed(seed, "head_init"),
        )
        training = Training(encoder, classifier, splits, metrics[0], options, report, checkpoints)
        train(training, options, seed=seed, out=out, device=device)
        classifier.save(out, encoder, labels)
    return _outcome(training, metrics, labels)


def _outcome(training: Training, metrics: tuple[str, ...], labels: tuple[str, ...]) -> Outcome:
    test = training.splits["test"]
    kept = training.epochs[training.kept].guesses["test"]
    measurements = [row for epoch in training.epochs for row in _measurements(epoch, training, metrics)]
    predictions = Predictions(
        split="test",
        layer=None,
        probe_seed=None,
        sentence_N=test.sentence_N,
        word_N=np.full_like(test.sentence_N, -1),
        gold_N=test.label_N,
        predicted_N=kept.predicted_N,
        score_N=kept.score_N,
        labels=labels,
    )
    return Outcome(tuple(measurements), (predictions,), _facts(training, labels))


def _measurements(epoch: Epoch, training: Training, metrics: tuple[str, ...]) -> Iterator[Measurement]:
    detail: dict[str, object] = {}
    if epoch.number == training.kept + 1:
        detail = {"selected": True, "collapsed": True} if training.collapsed() else {"selected": True}

    def row(metric: str, value: float, unit: str, split: str) -> Measurement:
        return Measurement(
            metric,
            value,
            unit,
            split,
            update=epoch.update,
            epoch=float(epoch.number),
            n_items=len(training.splits[split].label_N),
            detail=detail,
        )

    yield row("train_loss", epoch.train_loss, "loss", "train")
    for split, guesses in epoch.guesses.items():
        for metric in metrics:
            yield row(metric, training.score(metric, split, guesses), "fraction", split)


def _facts(training: Training, labels: tuple[str, ...]) -> dict[str, object]:
    classifier = training.classifier
    n_tokens = sum(training.splits["train"].texts.lengths()) * len(training.epochs)
    return {
        "labels": list(labels),
        "items": {split: len(examples.label_N) for split, examples in training.splits.items()},
        "truncated": {split: examples.texts.n_truncated for split, examples in training.splits.items()},
        "pooler": classifier.pooler,
        "epoch": training.epochs[training.kept].number,
        "updates": training.epochs[-1].update,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "n_tokens": n_tokens,
        "train_s": training.wall_s,
        "tokens_per_s": n_tokens / training.wall_s,
        "resumed_from_epoch": training.resumed_from,
        "earlier_attempts": training.attempts,
    }


@contextlib.contextmanager
def _own_generators() -> Iterator[None]:
    # The Trainer seeds every global generator; the caller gets its own back.
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
