"""Training: transformers' Trainer around an objective's head, watched epoch by epoch, its snapshots handed out."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftprobe.finetune.checkpoints import (
    MODEL,
    TRAINER,
    Checkpoints,
    Rest,
    generator_states,
    on_cpu,
    optimizer_state,
    read_rest,
    restore_generators,
    restore_optimizer,
    write_rest,
)
from ftprobe.finetune.isolation import alone
from ftprobe.finetune.objective import Answers, Objective
from ftprobe.finetune.optimizer import parameter_groups, schedule_factor
from ftprobe.hashing import derive_seed
from ftprobe.study import FinetuneOptions

Report = Callable[[dict[str, object]], None]


class Epoch(NamedTuple):
    """What is known at the end of an epoch: its number from 1, the updates so far, and answers per split."""

    number: int
    update: int
    train_loss: float
    answers: Mapping[str, Answers]


class Snapshots(NamedTuple):
    """States to be kept on the way: `keep(index, update, epoch, write)` is called for each index at its update.

    `write` puts encoder and head as they are now into a folder.
    """

    due: Mapping[int, Sequence[int]]
    keep: Callable[[int, int, float, Callable[[Path], None]], None]


NO_SNAPSHOTS = Snapshots({}, lambda index, update, epoch, write: None)


class Training(TrainerCallback):  # type: ignore[misc]
    """What is watched while a model trains: loss and answers per epoch, the best weights, the time spent training.

    Attributes
    ----------
    wall_s : float
        Seconds spent on updates, over all epochs.
    attempts : list
        Of those who trained before and were cut short: epochs (in the middle of one, a fraction), host, threads.
    """

    def __init__(
        self,
        objective: Objective,
        options: FinetuneOptions,
        report: Report,
        checkpoints: Checkpoints | None = None,
        snapshots: Snapshots = NO_SNAPSHOTS,
        write_state: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        self.objective, self.options, self.report = objective, options, report
        self.checkpoints, self.snapshots = checkpoints, snapshots
        self.write_state = write_state
        self.epochs: list[Epoch] = []
        self.kept = 0
        self.wall_s = 0.0
        self.attempts: list[dict[str, Any]] = []
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._losses: list[tuple[Tensor, int]] = []
        self._started = 0.0
        self._checkpoint: Path | None = None
        self._midway: Rest | None = None

    @property
    def resumed_from(self) -> float:
        """Epochs that earlier attempts trained."""
        return float(sum(attempt["epochs"] for attempt in self.attempts))

    @contextlib.contextmanager
    def checkpoint(self, device: torch.device) -> Iterator[str | None]:
        """The folder of the checkpoint to go on from, emptied once training has begun; None without one."""
        if self.checkpoints is not None:
            with self.checkpoints.store.workdir() as folder:
                if self.checkpoints.fetch(folder, device) and self._before_snapshots(folder):
                    self._checkpoint = folder
                    yield str(folder)
                    return
        yield None

    def _before_snapshots(self, folder: Path) -> bool:
        """Whether no snapshot that is still wanted lies before the checkpoint; else it is dropped."""
        reached = read_rest(folder).facts["update"]
        if all(update > reached for update in self.snapshots.due):
            return True
        assert self.checkpoints is not None
        self.checkpoints.drop()
        return False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over what a checkpoint says; the model and the number of updates the Trainer has read from it."""
        if self._checkpoint is not None:
            rest = read_rest(self._checkpoint)
            restore_optimizer(kwargs["optimizer"], kwargs["lr_scheduler"], rest)
            self._take(rest, args.device)
            if self._losses:
                self._midway = rest
            else:
                restore_generators(rest, args.device)
            shutil.rmtree(self._checkpoint, ignore_errors=True)
        else:
            self._snap(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """In the middle of an epoch the generators go on where they were after its order has been drawn."""
        if self._midway is not None:
            restore_generators(self._midway, args.device)
            self._midway = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand out the snapshots of this update; leave a checkpoint if this machine is about to be taken away."""
        self._snap(state)
        if self.checkpoints is not None and len(self._losses) < self._updates_of_epoch and self.checkpoints.pressing():
            self._save(args.device, state, kwargs)

    def _snap(self, state: Any) -> None:
        for index in self.snapshots.due.get(state.global_step, ()):
            self.snapshots.keep(index, state.global_step, float(state.epoch or 0.0), self.write_state)

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: object = None) -> Tensor:
        """Mean loss of a batch, which also enters the epoch's training loss."""
        loss, n = self.objective.loss(outputs, labels)
        self._losses.append((loss.detach(), n))
        return loss

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of an epoch."""
        self._started = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the epoch, report it, and keep its weights if they are the best."""
        n_M = torch.tensor([n for _, n in self._losses])
        train_loss = float((torch.stack([loss for loss, _ in self._losses]).cpu() * n_M).sum()) / int(n_M.sum())
        self._losses.clear()
        self.wall_s += time.perf_counter() - self._started
        number = len(self.epochs) + 1
        if not np.isfinite(train_loss):
            raise FloatingPointError(f"training loss is {train_loss} in epoch {number}; lower the learning rate")
        answers = {split: self.objective.answers(split) for split in self.objective.splits if split != "train"}
        self.epochs.append(Epoch(number, state.global_step, train_loss, answers))
        split, metric = "dev" if self.options.select == "best_dev" else "test", self.objective.metrics[0]
        value = self.objective.score(metric, split, answers[split]).value
        if self.options.select == "last":
            self.kept = number - 1
        elif self._best is None or value > self._best[0] or np.isnan(self._best[0]):
            self.kept = number - 1
            self._best = value, self._weights()
        due = self.checkpoints is not None and (self.checkpoints.due() or self.checkpoints.pressing())
        if due and number < self.options.epochs:
            self._save(args.device, state, kwargs)
        self.report({"epoch": number, "metric": metric, "value": value})

    @property
    def _updates_of_epoch(self) -> int:
        return -(-len(self.objective.splits["train"]) // self.options.batch_size)

    def _save(self, device: torch.device, state: Any, trainer: Mapping[str, Any]) -> None:
        assert self.checkpoints is not None
        self.checkpoints.save(state.global_step, lambda folder: self._write(folder, device, state, trainer))

    def _write(self, folder: Path, device: torch.device, state: Any, trainer: Mapping[str, Any]) -> None:
        save_file(on_cpu(self.objective.head.state_dict()), folder / MODEL)
        state.save_to_json(str(folder / TRAINER))
        parts = [
            optimizer_state(trainer["optimizer"], trainer["lr_scheduler"]),
            generator_states(device),
            self._progress(state.global_step),
        ]
        tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        write_rest(folder, Rest(tensors, {key: fact for part in parts for key, fact in part.facts.items()}), device)

    def _progress(self, update: int) -> Rest:
        """Epochs, answers, losses of the one that runs, and the best weights where they are not the present ones."""
        tensors = {
            f"answers.{epoch.number}.{split}.{name}": torch.from_numpy(array_N)
            for epoch in self.epochs
            for split, answers in epoch.answers.items()
            for name, array_N in answers.items()
        }
        running = bool(self._losses)
        if running:
            tensors["losses"] = torch.stack([loss for loss, _ in self._losses])
        if self._best is not None and (running or self.kept + 1 < len(self.epochs)):
            tensors |= {f"best.{name}": tensor for name, tensor in self._best[1].items()}
        own = {
            "epochs": update / self._updates_of_epoch - self.resumed_from,
            "host": socket.gethostname(),
            "threads": torch.get_num_threads(),
        }
        facts = {
            "epochs": [
                [epoch.number, epoch.update, epoch.train_loss, [*_named(epoch.answers)]] for epoch in self.epochs
            ],
            "kept": self.kept,
            "best": None if self._best is None else self._best[0],
            "update": update,
            "counts": [n for _, n in self._losses],
            "wall_s": self.wall_s + (time.perf_counter() - self._started if running else 0.0),
            "attempts": [*self.attempts, own],
        }
        return Rest(tensors, facts)

    def _take(self, rest: Rest, device: torch.device) -> None:
        """Put back what `_progress` gave."""
        facts = rest.facts
        if "losses" in rest.tensors:
            self._losses = list(zip(rest.tensors["losses"].to(device), facts["counts"], strict=True))
        for number, update, loss, names in facts["epochs"]:
            answers: dict[str, dict[str, Any]] = {}
            for split, name in names:
                answers.setdefault(split, {})[name] = rest.tensors[f"answers.{number}.{split}.{name}"].numpy()
            self.epochs.append(Epoch(number, update, loss, answers))
        self.kept, self.wall_s, self.attempts = facts["kept"], facts["wall_s"], facts["attempts"]
        if facts["best"] is not None:
            best = {n.removeprefix("best."): tensor for n, tensor in rest.tensors.items() if n.startswith("best.")}
            self._best = facts["best"], best or self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.objective.head.state_dict().items()}

    def restore_best(self) -> None:
        """Put back the weights of the epoch that is kept."""
        if self._best is not None and self.kept + 1 < len(self.epochs):
            self.objective.head.load_state_dict(self._best[1])


def _named(answers: Mapping[str, Answers]) -> list[tuple[str, str]]:
    return [(split, name) for split, own in answers.items() for name in own]


def train(training: Training, options: FinetuneOptions, *, seed: int, out: Path, device: str) -> None:
    """Train the head of the objective and leave it with the weights of the epoch that is kept, on the CPU."""
    head, examples = training.objective.head, training.objective.splits["train"]
    with alone():
        arguments = _arguments(options, seed, out, device)
        head.to(arguments.device)
        trainer = Trainer(
            model=head,
            args=arguments,
            train_dataset=list(range(len(examples))),
            data_collator=examples.batch,
            compute_loss_func=training.loss,
            optimizers=_optimizer(head, options, len(examples)),
            callbacks=[training],
        )
        trainer.remove_callback(PrinterCallback)
        with training.checkpoint(arguments.device) as folder:
            trainer.train(resume_from_checkpoint=folder)
    training.restore_best()
    head.eval().cpu()


def _arguments(options: FinetuneOptions, seed: int, out: Path, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        max_grad_norm=options.clip,
        seed=derive_seed(seed, "dropout"),
        data_seed=derive_seed(seed, "ft_order"),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    # One model on one device: with several visible the Trainer would wrap it in DataParallel and grow the batch.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def updates_of(options: FinetuneOptions, n_units: int) -> int:
    """Updates of a whole run: a last batch that is not full is used (METHODS 1.2)."""
    return options.epochs * -(-n_units // options.batch_size)


def _optimizer(
    head: nn.Module, options: FinetuneOptions, n_units: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    updates = updates_of(options, n_units)
    optimizer = torch.optim.AdamW(
        parameter_groups(head, options.weight_decay),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=True,
    )
    factors = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: schedule_factor(step, updates=updates, warmup=options.warmup, then=options.schedule),
    )
    return optimizer, factors
