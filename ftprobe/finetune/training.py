"""Training: transformers' Trainer around a classifier, watched epoch by epoch. Axes: N texts, K labels."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
from ftprobe.finetune.examples import Examples, batch
from ftprobe.finetune.optimizer import parameter_groups, schedule_factor
from ftprobe.finetune.scores import METRICS
from ftprobe.hashing import derive_seed
from ftprobe.models.heads import Classifier
from ftprobe.models.inputs import EncodedTexts, pad
from ftprobe.models.load import Encoder
from ftprobe.study import FinetuneOptions

Report = Callable[[dict[str, object]], None]
_RANK_NAMES = ("RANK", "WORLD_SIZE", "COMM_WORLD_SIZE", "PMI_SIZE", "LOCAL_SIZE", "LOCALNRANKS", "LOCALRANKID")


class Guesses(NamedTuple):
    """A head's answers on one split: label ids and their probabilities, both (N)."""

    predicted_N: NDArray[np.int32]
    score_N: NDArray[np.float32]


class Epoch(NamedTuple):
    """What is known at the end of an epoch: its number from 1, the updates so far, and answers per split."""

    number: int
    update: int
    train_loss: float
    guesses: Mapping[str, Guesses]


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
        encoder: Encoder,
        classifier: Classifier,
        splits: Mapping[str, Examples],
        metric: str,
        options: FinetuneOptions,
        report: Report,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.encoder, self.classifier, self.splits, self.report = encoder, classifier, splits, report
        self.metric, self.options, self.checkpoints = metric, options, checkpoints
        self.epochs: list[Epoch] = []
        self.kept = 0
        self.wall_s = 0.0
        self.attempts: list[dict[str, Any]] = []
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._losses: list[Tensor] = []
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
                if self.checkpoints.fetch(folder, device):
                    self._checkpoint = folder
                    yield str(folder)
                    return
        yield None

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

    def loss(self, logits_NK: Tensor, labels_N: Tensor, num_items_in_batch: object = None) -> Tensor:
        """Mean cross-entropy of a batch, which also enters the epoch's training loss."""
        loss = nn.functional.cross_entropy(logits_NK, labels_N)
        self._losses.append(loss.detach() * len(labels_N))
        return loss

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of an epoch."""
        self._started = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """In the middle of an epoch the generators go on where they were after its order has been drawn."""
        if self._midway is not None:
            restore_generators(self._midway, args.device)
            self._midway = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave a checkpoint between two updates if this machine is about to be taken away."""
        if self.checkpoints is not None and len(self._losses) < self._updates_of_epoch and self.checkpoints.pressing():
            self._save(args.device, state, kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the epoch, report it, and keep its weights if they are the best."""
        train_loss = float(torch.stack(self._losses).sum()) / len(self.splits["train"].label_N)
        self._losses.clear()
        self.wall_s += time.perf_counter() - self._started
        number = len(self.epochs) + 1
        if not np.isfinite(train_loss):
            raise FloatingPointError(f"training loss is {train_loss} in epoch {number}; lower the learning rate")
        scored = [split for split in self.splits if split != "train"]
        answers = {split: predict(self.classifier, self.encoder, self.splits[split].texts) for split in scored}
        self.epochs.append(Epoch(number, state.global_step, train_loss, answers))
        split = "dev" if self.options.select == "best_dev" else "test"
        value = self.score(self.metric, split, answers[split])
        if self.options.select == "last":
            self.kept = number - 1
        elif self._best is None or value > self._best[0]:
            self.kept = number - 1
            self._best = value, self._weights()
        due = self.checkpoints is not None and (self.checkpoints.due() or self.checkpoints.pressing())
        if due and number < self.options.epochs:
            self._save(args.device, state, kwargs)
        self.report({"epoch": number, "metric": self.metric, "value": value})

    @property
    def _updates_of_epoch(self) -> int:
        return -(-len(self.splits["train"].label_N) // self.options.batch_size)

    def _save(self, device: torch.device, state: Any, trainer: Mapping[str, Any]) -> None:
        assert self.checkpoints is not None
        self.checkpoints.save(state.global_step, lambda folder: self._write(folder, device, state, trainer))

    def _write(self, folder: Path, device: torch.device, state: Any, trainer: Mapping[str, Any]) -> None:
        save_file(on_cpu(self.classifier.state_dict()), folder / MODEL)
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
            for split, guesses in epoch.guesses.items()
            for name, array_N in guesses._asdict().items()
        }
        running = bool(self._losses)
        if running:
            tensors["losses"] = torch.stack(self._losses)
        if self._best is not None and (running or self.kept + 1 < len(self.epochs)):
            tensors |= {f"best.{name}": tensor for name, tensor in self._best[1].items()}
        own = {
            "epochs": update / self._updates_of_epoch - self.resumed_from,
            "host": socket.gethostname(),
            "threads": torch.get_num_threads(),
        }
        facts = {
            "epochs": [[epoch.number, epoch.update, epoch.train_loss, list(epoch.guesses)] for epoch in self.epochs],
            "kept": self.kept,
            "best": None if self._best is None else self._best[0],
            "wall_s": self.wall_s + (time.perf_counter() - self._started if running else 0.0),
            "attempts": [*self.attempts, own],
        }
        return Rest(tensors, facts)

    def _take(self, rest: Rest, device: torch.device) -> None:
        """Put back what `_progress` gave."""
        facts = rest.facts
        if "losses" in rest.tensors:
            self._losses = list(rest.tensors["losses"].to(device))
        for number, update, loss, splits in facts["epochs"]:
            answers = {
                split: Guesses(*(rest.tensors[f"answers.{number}.{split}.{name}"].numpy() for name in Guesses._fields))
                for split in splits
            }
            self.epochs.append(Epoch(number, update, loss, answers))
        self.kept, self.wall_s, self.attempts = facts["kept"], facts["wall_s"], facts["attempts"]
        if facts["best"] is not None:
            best = {n.removeprefix("best."): tensor for n, tensor in rest.tensors.items() if n.startswith("best.")}
            self._best = facts["best"], best or self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.classifier.state_dict().items()}

    def restore_best(self) -> None:
        """Put back the weights of the epoch that is kept."""
        if self._best is not None and self.kept + 1 < len(self.epochs):
            self.classifier.load_state_dict(self._best[1])

    def score(self, metric: str, split: str, guesses: Guesses) -> float:
        """A metric of answers on a split."""
        return METRICS[metric](self.splits[split].label_N, guesses.predicted_N)

    def collapsed(self) -> bool:
        """Whether the kept epoch scores no better than always saying the most frequent label (METHODS 1.2)."""
        gold_N = self.splits["test"].label_N
        constant_N = np.full_like(gold_N, np.bincount(gold_N).argmax())
        chance = METRICS[self.metric](gold_N, constant_N)
        return self.score(self.metric, "test", self.epochs[self.kept].guesses["test"]) <= chance


def train(training: Training, options: FinetuneOptions, *, seed: int, out: Path, device: str) -> None:
    """Train the classifier of `training` and leave it with the weights of the epoch that is kept, on the CPU."""
    classifier, examples = training.classifier, training.splits["train"]
    with _alone():
        arguments = _arguments(options, seed, out, device)
        classifier.to(arguments.device)
        trainer = Trainer(
            model=classifier,
            args=arguments,
            train_dataset=list(range(len(examples.label_N))),
            data_collator=lambda indices: batch(training.encoder, examples, indices),
            compute_loss_func=training.loss,
            optimizers=_optimizer(classifier, options, len(examples.label_N)),
            callbacks=[training],
        )
        trainer.remove_callback(PrinterCallback)
        with training.checkpoint(arguments.device) as folder:
            trainer.train(resume_from_checkpoint=folder)
    training.restore_best()
    classifier.eval().cpu()


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


def _optimizer(
    classifier: Classifier, options: FinetuneOptions, n_items: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    updates = options.epochs * -(-n_items // options.batch_size)
    optimizer = torch.optim.AdamW(
        parameter_groups(classifier, options.weight_decay),
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


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    # A run is one process. Inside an MPI or Slurm job the Trainer would wait for the job's other ranks, and
    # ACCELERATE_MIXED_PRECISION would change the arithmetic of a study without a trace in its options.
    names = [name for name in os.environ if name.startswith("ACCELERATE_") or name.endswith(_RANK_NAMES)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def predict(classifier: Classifier, encoder: Encoder, texts: EncodedTexts, batch_size: int = 64) -> Guesses:
    """Most probable label of each text, in evaluation mode; texts of like length share a batch."""
    device = classifier.output.weight.device
    length_N = np.array(texts.lengths())
    order_N = np.argsort(length_N, kind="stable")
    predicted_N, score_N = np.empty(len(order_N), dtype=np.int32), np.empty(len(order_N), dtype=np.float32)
    was_training = classifier.training
    classifier.eval()
    with torch.inference_mode():
        for start in range(0, len(order_N), batch_size):
            part = order_N[start : start + batch_size]
            batch = pad(encoder, [texts.features_N[index] for index in part])
            logits_NK = classifier(**{name: tensor.to(device) for name, tensor in batch.items()})
            best = logits_NK.softmax(-1).max(-1)
            predicted_N[part], score_N[part] = best.indices.cpu().numpy(), best.values.cpu().numpy()
    classifier.train(was_training)
    return Guesses(predicted_N, score_N)
