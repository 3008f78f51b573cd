"""One run: a text in; a tokenizer and a masked language model trained on it from nothing, and its losses, out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from ftprobe.errors import InputError
from ftprobe.finetune.checkpoints import Checkpoints
from ftprobe.finetune.isolation import own_generators
from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.load import quiet_transformers
from ftprobe.pretrain.blocks import Masking, cut
from ftprobe.pretrain.options import PretrainOptions, config_of
from ftprobe.pretrain.training import Epoch, MaskedLM, Training
from ftprobe.pretrain.vocabulary import UNKNOWN, train_tokenizer


def pretrain(
    options: PretrainOptions,
    lines: Sequence[str],
    *,
    seed: int,
    out: Path,
    report: Callable[[dict[str, object]], None],
    device: str,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train a tokenizer and a masked language model on a text, and write both into `out`.

    On a CPU the result is a function of the options, the lines, the seed and the number of threads, bit for bit, also
    where a run that was cut short goes on from its last checkpoint. The caller's random generators are left as they
    were.

    Parameters
    ----------
    lines
        The text in order; `<unk>` in it stands for a word that is not shown. All lines train the tokenizer; the model
        is not trained on the last 5 % of the blocks they are cut into.
    seed
        Gives the seeds of the weights, the order of blocks, the masks and dropout. The tokenizer, and the masks of the
        held-out blocks, do not depend on it.
    out
        Receives config.json, model.safetensors with the MLM head, whose decoder is the embedding, and the tokenizer.
    report
        Called when all blocks were seen once more and at the end, with `epoch`, `metric` and `value`: the held-out
        loss; not for epochs that come from a checkpoint.
    checkpoints
        Where the run leaves its state now and then (see there), and goes on from what an earlier attempt left.
        Without it nothing is kept.

    Returns
    -------
    Outcome
        Rows of every epoch, the last of which may be a part of one: `train_loss` (mean over its predicted sub-words,
        dropout on), and of the held-out blocks `mlm_nll` (nat) and `mlm_ppl`, its exponential. Facts: `vocab` counts
        the sub-words that the tokenizer knows; `unigram_ppl` is the perplexity of the same predictions by frequency in
        the training blocks alone (add-one); `resumed_from_update` and `earlier_attempts` tell of earlier attempts, and
        `train_s` is the time of all updates, theirs included.

    Raises
    ------
    InputError
        The text has fewer than two blocks.
    FloatingPointError
        The training loss is no longer finite.
    """
    text = [line for line in lines if line.strip()]
    if not any(line.replace(UNKNOWN, "").strip() for line in text):
        raise InputError.one("pretrain", "the text shows no words", "name a corpus with sentences")
    with quiet_transformers(), own_generators():
        tokenizer = train_tokenizer(text, options)
        blocks = cut(tokenizer, text, options.block)
        model = _new_model(options, tokenizer, derive_seed(seed, "head_init", "encoder"))
        masking = Masking.of(options, tokenizer)
        training = Training(
            MaskedLM(model), blocks, masking, options, seed=seed, report=report, checkpoints=checkpoints
        )
        training.run(out, device)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    rows = tuple(row for epoch in training.epochs for row in _measurements(epoch))
    return Outcome(rows, facts=_facts(training, tokenizer))


def _new_model(options: PretrainOptions, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    names = ("pad", "bos", "eos")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    config = AutoConfig.for_model(**config_of(options), **ids)
    # Not torch.manual_seed: that also seeds the accelerators.
    torch.default_generator.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(config)


def _measurements(epoch: Epoch) -> list[Measurement]:
    def row(metric: str, value: float, unit: str, split: str, n_items: int) -> Measurement:
        return Measurement(metric, value, unit, split, update=epoch.update, epoch=epoch.epoch, n_items=n_items)

    return [
        row("train_loss", epoch.train_loss, "loss", "train", epoch.n_train),
        row("mlm_nll", epoch.held_out_nll, "nat", "dev", epoch.n_held_out),
        row("mlm_ppl", math.exp(epoch.held_out_nll), "perplexity", "dev", epoch.n_held_out),
    ]


def _facts(training: Training, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    train, held_out = training.blocks
    length_N = np.array([len(id_S) for id_S in train])
    n_tokens = int(sum(length_N[training.chosen(update)].sum() for update in range(training.update)))
    return {
        "vocab": len(tokenizer),
        "parameters": sum(p.numel() for p in training.lm.parameters()),
        "blocks": {"train": len(train), "dev": len(held_out)},
        "updates": training.update,
        "epochs": training.epochs[-1].epoch,
        "unigram_ppl": _unigram_perplexity(training, len(tokenizer)),
        "n_tokens": n_tokens,
        "train_s": training.wall_s,
        "tokens_per_s": n_tokens / training.wall_s,
        "resumed_from_update": training.resumed_from,
        "earlier_attempts": training.attempts,
    }


def _unigram_perplexity(training: Training, vocab: int) -> float:
    """Of the held-out predictions by add-one frequency of the `vocab` sub-words in the training blocks."""
    seen_K = np.concatenate([id_S[1:-1] for id_S in training.blocks.train])
    count_V = np.bincount(seen_K, minlength=vocab) + 1
    target_M = torch.cat([batch["labels"] for batch in training.held_out]).numpy()
    return float(np.exp(np.log(count_V.sum()) - np.log(count_V[target_M]).mean()))
