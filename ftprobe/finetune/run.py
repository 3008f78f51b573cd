"""One run: an encoder and a task in; a model state, its scores per epoch and its predictions out (METHODS 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ftprobe.finetune.checkpoints import Checkpoints
from ftprobe.finetune.examples import choose
from ftprobe.finetune.isolation import own_generators
from ftprobe.finetune.objective import module_of
from ftprobe.finetune.training import Epoch, Report, Snapshots, Training, train, updates_of
from ftprobe.finetune.variant import plain, prepared, restrict
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.load import Encoder, quiet_transformers
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import TaskData

Moment = Mapping[str, Any]
"""When a snapshot is taken: {"update": u}, {"epoch": e}, or {"part": [j, c]}, j c-ths of the way."""


class Wanted(NamedTuple):
    """Snapshots to be taken, and what takes them: `keep(index, write, outcome)` with a writer of model states."""

    moments: Sequence[Moment] = ()
    keep: Callable[[int, Callable[[Path], None], Outcome], None] = lambda index, write, outcome: None


def finetune(
    options: FinetuneOptions,
    task: TaskData,
    *,
    objective: str,
    metrics: tuple[str, ...],
    positive: str | None = None,
    load: Callable[[], Encoder],
    seed: int,
    out: Path,
    report: Report,
    device: str,
    checkpoints: Checkpoints | None = None,
    snapshots: Wanted = Wanted(),  # noqa: B008 - frozen
) -> Outcome:
    """Fine-tune an encoder on a task, and write the model state into `out`.

    Parameters
    ----------
    objective
        One of `OBJECTIVES`: what the head learns.
    metrics
        The objective's; the first selects, is reported, and decides `collapsed`.
    positive
        The label whose F1 is the metric `f1`; the mean over labels without.
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
    snapshots
        States on the way, handed over as soon as they are reached.

    Returns
    -------
    Outcome
        Rows of every epoch; those of the epoch that was kept have `selected` in their detail, and `collapsed` if it
        scores no better than answers that ignore the input. Predictions of the kept epoch on the evaluated split.
        Facts: `resumed_from_epoch` counts the epochs of earlier attempts, in fractions where one ended in the middle of
        an epoch, and `earlier_attempts` says epochs, host and threads of each; `train_s` is the time of all updates,
        theirs included.

    Raises
    ------
    InputError
        The task has fewer than two classes in train, nothing to evaluate on, or does not fit the model.
    FloatingPointError
        The training loss is no longer finite.
    """
    module = module_of(objective)
    rows = choose(task, options)
    module.check(task, rows, metrics)
    own = {} if positive is None else {"positive": positive}
    with quiet_transformers(), own_generators():
        encoder = prepared(load(), options, seed=seed)
        made = module.make(task, rows, encoder, options, metrics=metrics, seed=seed, **own)
        restrict(encoder, options, seed=seed)
        updates = updates_of(options, len(made.splits["train"]))
        due = _due(snapshots, updates, options.epochs)
        training = Training(
            made,
            options,
            report,
            checkpoints,
            due,
            write_state=lambda folder: made.save(folder, plain(encoder, options)),
        )
        train(training, options, seed=seed, out=out, device=device)
        made.save(out, plain(encoder, options))
    return _outcome(training)


def _due(wanted: Wanted, updates: int, epochs: int) -> Snapshots:
    due: dict[int, list[int]] = {}
    for index, moment in enumerate(wanted.moments):
        due.setdefault(update_of(moment, updates, epochs), []).append(index)

    def keep(index: int, update: int, epoch: float, write: Callable[[Path], None]) -> None:
        wanted.keep(index, write, Outcome((), facts={"update": update, "epoch": round(epoch, 6)}))

    return Snapshots(due, keep)


def update_of(moment: Moment, updates: int, epochs: int) -> int:
    """The update at which a snapshot is taken, of a run of so many updates; never beyond the last.

    >>> [update_of({"part": [j, 4]}, 10, 2) for j in range(5)]
    [0, 2, 5, 8, 10]
    """
    ((kind, value),) = moment.items()
    if kind == "part":
        part, of = value
        return round(updates * int(part) / int(of))
    per_epoch = updates // epochs
    return min(updates, int(value) * (per_epoch if kind == "epoch" else 1))


def _outcome(training: Training) -> Outcome:
    objective = training.objective
    kept = training.epochs[training.kept].answers["test"]
    measurements = [row for epoch in training.epochs for row in _measurements(epoch, training)]
    return Outcome(tuple(measurements), objective.predictions(kept), _facts(training))


def _measurements(epoch: Epoch, training: Training) -> Iterator[Measurement]:
    objective = training.objective
    detail: dict[str, object] = {}
    if epoch.number == training.kept + 1:
        collapsed = objective.collapsed(epoch.answers["test"])
        detail = {"selected": True, "collapsed": True} if collapsed else {"selected": True}
    place: dict[str, Any] = {"update": epoch.update, "epoch": float(epoch.number), "detail": detail}
    n_items = objective.splits["train"].n_items
    yield Measurement("train_loss", epoch.train_loss, "loss", "train", n_items=n_items, **place)
    for split, answers in epoch.answers.items():
        for metric in objective.metrics:
            value, unit, status = objective.score(metric, split, answers)
            n_items = objective.splits[split].n_items
            yield Measurement(metric, value, unit, split, n_items=n_items, status=status, **place)


def _facts(training: Training) -> dict[str, object]:
    objective = training.objective
    n_tokens = sum(objective.splits["train"].lengths()) * len(training.epochs)
    return {
        "labels": list(objective.labels),
        "items": {split: examples.n_items for split, examples in objective.splits.items()},
        "truncated": {split: examples.n_truncated for split, examples in objective.splits.items()},
        **objective.facts,
        "epoch": training.epochs[training.kept].number,
        "updates": training.epochs[-1].update,
        "parameters": sum(p.numel() for p in objective.head.parameters()),
        "n_tokens": n_tokens,
        "train_s": training.wall_s,
        "tokens_per_s": n_tokens / training.wall_s,
        "resumed_from_epoch": training.resumed_from,
        "earlier_attempts": training.attempts,
    }
