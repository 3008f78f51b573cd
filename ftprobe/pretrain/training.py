"""Training: transformers' Trainer around a masked language model, which can go on at the update where it was cut.

What an update sees is a function of its number: the order of blocks of its epoch, their masks, and dropout. Axes: N
blocks, S sub-words, D width, M predicted sub-words, V vocabulary.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftprobe.finetune.checkpoints import (
    MODEL,
    Checkpoints,
    Rest,
    on_cpu,
    optimizer_state,
    read_rest,
    restore_optimizer,
    write_rest,
)
from ftprobe.finetune.isolation import alone
from ftprobe.finetune.optimizer import parameter_groups, schedule_factor
from ftprobe.hashing import derive_seed
from ftprobe.pretrain.blocks import Blocks, Masking, collate, mask
from ftprobe.pretrain.options import PretrainOptions

Report = Callable[[dict[str, object]], None]
_CLIP = 1.0


class MaskedLM(nn.Module):
    """A masked language model that scores only the sub-words it is asked for: logits (M, V)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """Logits (M, V) at `positions` (M) of the flattened batch (N, S)."""
        encoder = getattr(self.model, self.model.base_model_prefix)
        h_NSD = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        head = self.model.cls if hasattr(self.model, "cls") else self.model.lm_head
        logits_MV: Tensor = head(h_NSD.flatten(0, 1)[positions])
        return logits_MV


class Epoch(NamedTuple):
    """What is known when all blocks were seen once more, or training ended: losses are means over sub-words in nat."""

    epoch: float
    update: int
    train_loss: float
    n_train: int
    held_out_nll: float
    n_held_out: int


class Training(TrainerCallback):  # type: ignore[misc]
    """One run, watched update by update.

    Attributes
    ----------
    update : int
        Updates done, those of earlier attempts included.
    wall_s : float
        Seconds spent on updates.
    attempts : list
        Of those who trained the first updates and were cut short: updates, host, threads.
    held_out : list of dict
        The held-out blocks as batches, masked the same in every run.
    """

    def __init__(
        self,
        lm: MaskedLM,
        blocks: Blocks,
        masking: Masking,
        options: PretrainOptions,
        *,
        seed: int,
        report: Report,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.lm, self.blocks, self.masking, self.options = lm, blocks, masking, options
        self.seed, self.report, self.checkpoints = seed, report, checkpoints
        self.per_epoch = -(-len(blocks.train) // options.batch_size)
        self.update, self.wall_s = 0, 0.0
        self.epochs: list[Epoch] = []
        self.attempts: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._counts: list[int] = []
        self._started = 0.0
        pad_id = lm.model.config.pad_token_id
        self._collate = functools.partial(collate, pad_id=pad_id)
        own = [mask(id_S, masking, derive_seed(0, "mask", "held out", n)) for n, id_S in enumerate(blocks.held_out)]
        size = options.batch_size
        self.held_out = [self._collate(own[start : start + size]) for start in range(0, len(own), size)]

    @property
    def resumed_from(self) -> int:
        """Updates that earlier attempts did."""
        return sum(attempt["updates"] for attempt in self.attempts)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """The batches of all updates that are still to be done."""
        for update in range(self.update, self.options.updates):
            epoch = update // self.per_epoch
            masks = [
                mask(self.blocks.train[n], self.masking, derive_seed(self.seed, "mask", epoch, int(n)))
                for n in self.chosen(update)
            ]
            yield self._collate(masks)

    def chosen(self, update: int) -> NDArray[np.int64]:
        """Which blocks an update sees."""
        epoch, place = divmod(update, self.per_epoch)
        size = self.options.batch_size
        return _order(len(self.blocks.train), derive_seed(self.seed, "ft_order", epoch))[place * size :][:size]

    def loss(self, logits_MV: Tensor, labels_M: Tensor, num_items_in_batch: object = None) -> Tensor:
        """Mean cross-entropy of a batch, which also enters the epoch's training loss."""
        loss = nn.functional.cross_entropy(logits_MV.float(), labels_M)
        self._losses.append(loss.detach() * len(labels_M))
        self._counts.append(len(labels_M))
        return loss

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed dropout for the update; start the clock of an epoch."""
        torch.manual_seed(derive_seed(self.seed, "dropout", self.update))
        if not self._started:
            self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End an epoch where it ends; leave a checkpoint where one is due."""
        self.update += 1
        if self.update % self.per_epoch == 0 or self.update == self.options.updates:
            self._end_epoch(args.device)
        if self.checkpoints is not None and self.update < self.options.updates and self.checkpoints.due():
            self._stop_clock()
            self.checkpoints.save(self.update, lambda folder: self._write(folder, args.device))

    def _stop_clock(self) -> float:
        """The sum of the epoch's losses so far, which waits for the device; the time until then counts."""
        total = float(torch.stack(self._losses).sum()) if self._losses else 0.0
        if self._started:
            self.wall_s += time.perf_counter() - self._started
            self._started = 0.0
        return total

    def _end_epoch(self, device: torch.device) -> None:
        n_train = sum(self._counts)
        train_loss = self._stop_clock() / n_train
        if not np.isfinite(train_loss):
            raise FloatingPointError(f"training loss is {train_loss} at update {self.update}; lower the learning rate")
        nll, n_held_out = self._held_out_nll(device)
        self._losses.clear()
        self._counts.clear()
        self.epochs.append(Epoch(self.update / self.per_epoch, self.update, train_loss, n_train, nll, n_held_out))
        self.report({"epoch": self.epochs[-1].epoch, "metric": "mlm_nll", "value": nll})

    def _held_out_nll(self, device: torch.device) -> tuple[float, int]:
        total, count = 0.0, 0
        self.lm.eval()
        with torch.inference_mode():
            for batch in self.held_out:
                inputs = {name: tensor.to(device) for name, tensor in batch.items()}
                labels_M = inputs.pop("labels")
                logits_MV = self.lm(**inputs).float()
                total += float(nn.functional.cross_entropy(logits_MV, labels_M, reduction="sum"))
                count += len(labels_M)
        self.lm.train()
        return total / count, count

    def run(self, out: Path, device: str) -> None:
        """Train what is still to be trained and leave the model on the CPU, in evaluation mode."""
        with alone():
            arguments = _arguments(self.options, out, device)
            self.lm.to(arguments.device)
            self.optimizer, self.factors = _optimizer(self.lm, self.options)
            self._resume(arguments.device)
            batches = self.batches()
            trainer = Trainer(
                model=self.lm,
                args=arguments,
                # A batch a step, made where the Trainer collates: its own order of these numbers has no effect.
                train_dataset=range(self.update, self.options.updates),
                data_collator=lambda _: next(batches),
                compute_loss_func=self.loss,
                optimizers=(self.optimizer, self.factors),
                callbacks=[self],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        self.lm.eval().cpu()

    def _resume(self, device: torch.device) -> None:
        if self.checkpoints is None:
            return
        with self.checkpoints.store.workdir() as folder:
            if not self.checkpoints.fetch(folder, device):
                return
            weights, rest = load_file(folder / MODEL), read_rest(folder)
        with torch.no_grad():
            for name, parameter in self.lm.named_parameters():
                parameter.copy_(weights[name])
        restore_optimizer(self.optimizer, self.factors, rest)
        facts = rest.facts
        self.update, self.wall_s, self.attempts = facts["update"], facts["wall_s"], facts["attempts"]
        self.epochs = [Epoch(*values) for values in facts["epochs"]]
        self._counts = facts["counts"]
        self._losses = list(rest.tensors["losses"].to(device))

    def _write(self, folder: Path, device: torch.device) -> None:
        # Parameters by name, not the state: tied weights stand there twice.
        save_file(on_cpu(dict(self.lm.named_parameters())), folder / MODEL)
        moments = optimizer_state(self.optimizer, self.factors)
        own = {
            "updates": self.update - self.resumed_from,
            "host": socket.gethostname(),
            "threads": torch.get_num_threads(),
        }
        facts = {
            "update": self.update,
            "wall_s": self.wall_s,
            "epochs": self.epochs,
            "counts": self._counts,
            "attempts": [*self.attempts, own],
        }
        losses = torch.stack(self._losses) if self._losses else torch.empty(0)
        write_rest(folder, Rest({**moments.tensors, "losses": losses}, {**moments.facts, **facts}), device)


@functools.lru_cache(maxsize=2)
def _order(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(n)


def _arguments(options: PretrainOptions, out: Path, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        max_grad_norm=_CLIP,
        bf16=options.dtype == "bfloat16",
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


def _optimizer(lm: MaskedLM, options: PretrainOptions) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(parameter_groups(lm, options.weight_decay), lr=options.learning_rate, fused=True)
    factors = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: schedule_factor(step, updates=options.updates, warmup=options.warmup, then="linear"),
    )
    return optimizer, factors
