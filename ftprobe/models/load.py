"""Encoders: a pre-trained or fine-tuned transformer with its fast tokenizer, loaded from safetensors only.

No code of a checkpoint is run unless the caller trusts it, no global generator is advanced, and whatever is wrong with
a checkpoint is an `InputError` that names it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging as transformers_logging

from ftprobe.checkpoint import own_classes
from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed

FAULTS = (OSError, ValueError, KeyError, ImportError, SafetensorError)


class Encoder(NamedTuple):
    """A transformer without a task head, in evaluation mode, on the CPU.

    `n_layers` blocks of width `dim`. `classification` is where the token that stands for the sequence is: the first
    position, or the last real one (XLNet, causal decoders). `final_norm`: the last hidden state has passed a norm
    that belongs to no block (GPT-2's ln_f). `max_positions` is the longest input in sub-words, None where positions
    are relative.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    n_layers: int
    dim: int
    classification: Literal["first", "last"]
    final_norm: bool
    max_positions: int | None = None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and everything it logs below an error, then restore both."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_encoder(
    location: str,
    *,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    offline: bool = False,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """Load the encoder of a checkpoint.

    Parameters
    ----------
    location
        A folder with config.json, safetensors weights and a tokenizer, or a name on the Hugging Face hub.
    revision
        Commit of the hub repository; ignored for a folder.
    init
        `random` draws every parameter anew by the architecture's own initialiser under `seed` (METHODS 1.3,
        `randomized`); the weights are then not read.
    offline
        Use only what is on this machine.
    trust_remote_code
        Run the code that comes with the checkpoint, if its config.json names any.

    Returns
    -------
    Encoder
        `model.pooler` is None where the checkpoint holds no weights for it.

    Raises
    ------
    InputError
        The checkpoint is missing, incomplete, of an unknown architecture, needs code that is not trusted, or has no
        fast tokenizer.
    """
    folder = Path(location).expanduser()
    is_folder = folder.is_dir()
    if is_folder:
        _check_folder(folder, weights=init == "pretrained")
        location = str(folder)
    elif os.sep in location and (folder.is_absolute() or location.startswith(".") or location.count("/") > 1):
        raise InputError.one(location, "no such folder", "give a folder that holds config.json, or a name on the hub")
    options = {"revision": None if is_folder else revision, "local_files_only": offline, "trust_remote_code": False}
    # Code that is not ours may raise anything.
    faults = (Exception,) if trust_remote_code else FAULTS
    with quiet_transformers():
        try:
            own = _own_classes(location, options, trusted=trust_remote_code)
            config = own.get("AutoConfig", AutoConfig).from_pretrained(location, **options)
            tokenizer = AutoTokenizer.from_pretrained(location, use_fast=True, config=config, **options)
            model = _model(location, config, own.get("AutoModel", AutoModel), init, seed, dtype, options)
        except InputError:
            raise
        except faults as error:
            raise _unusable(location, error, offline) from error
    return _encoder(location, model, tokenizer)


def _check_folder(folder: Path, *, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise InputError.one(str(folder), "no config.json", "is this the folder of a checkpoint?")
    if weights and not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        repair = "save it again with model.save_pretrained(folder)"
        raise InputError.one(str(folder), "no model.safetensors; other weight formats are not read", repair)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError.one(str(folder), "no tokenizer", "save it there with tokenizer.save_pretrained(folder)")


def _own_classes(location: str, options: dict[str, Any], *, trusted: bool) -> dict[str, Any]:
    """The classes that the checkpoint's code defines, by what of transformers they stand for.

    transformers would do this by `trust_remote_code`, but then remembers a model's class by its configuration's, so
    that of two checkpoints that differ in the model's code alone one would get the other's.
    """
    config, _ = PreTrainedConfig.get_config_dict(location, **options)
    tokenizer = get_tokenizer_config(location, **options)
    found = {}
    for kind, reference in own_classes(config, tokenizer, trusted=trusted, name=location, place=location).items():
        with _code_cache():
            found[kind] = dynamic_module_utils.get_class_from_dynamic_module(reference, location, **options)
        # `save_pretrained` then puts the code beside the weights; a class it merely imports stays as it is.
        if found[kind].__module__.startswith("transformers_modules."):
            found[kind].register_for_auto_class(kind)
    return found


@contextmanager
def _code_cache() -> Iterator[None]:
    """Hold transformers' cache of code: workers that copy the same files there at once would read half of one."""
    cache = Path(dynamic_module_utils.HF_MODULES_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "ftprobe.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _model(
    location: str, config: Any, kind: Any, init: str, seed: int, dtype: torch.dtype, options: dict[str, Any]
) -> PreTrainedModel:
    if config.is_encoder_decoder:
        raise ValueError(f"{config.model_type} is an encoder-decoder; only encoders and decoders are supported")
    if init == "random":
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that also seeds the accelerators, which fork_rng leaves alone here.
            torch.default_generator.manual_seed(derive_seed(seed, "head_init", "encoder"))
            return AutoModel.from_config(config, dtype=dtype) if kind is AutoModel else kind(config).to(dtype)
    with torch.random.fork_rng(devices=[]):
        model, found = kind.from_pretrained(
            location, config=config, use_safetensors=True, dtype=dtype, output_loading_info=True, **options
        )
    missing = {name for name in found["missing_keys"] if not name.startswith("pooler.")}
    if missing or found["mismatched_keys"]:
        raise ValueError(f"no weights for {', '.join(sorted(missing)[:5]) or 'some parameters'}")
    if found["missing_keys"]:
        model.pooler = None
    return model


def _unusable(location: str, error: Exception, offline: bool) -> InputError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    repair = "run once without --offline, or give a folder" if offline else "give a folder, or a name on the hub"
    return InputError.one(location, f"cannot be loaded: {first_line}", repair)


def _encoder(location: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Encoder:
    if not tokenizer.is_fast:
        raise InputError.one(location, "no fast tokenizer", "words cannot be aligned with sub-words; convert it first")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError.one(location, "the tokenizer has neither a padding nor an end token", "set pad_token")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
    # Nothing is generated here, so keys and values of decoders need not be kept.
    model.config.use_cache = False
    model.eval()
    ids = tokenizer("a")["input_ids"]
    first = tokenizer.cls_token_id is not None and ids[0] == tokenizer.cls_token_id
    return Encoder(
        model,
        tokenizer,
        n_layers=model.config.num_hidden_layers,
        dim=model.config.hidden_size,
        classification="first" if first else "last",
        final_norm=any("norm" in type(child).__name__.lower() for child in _top_modules(model)),
        max_positions=_max_positions(model),
    )


def _top_modules(model: PreTrainedModel) -> list[nn.Module]:
    decoder = getattr(model, "decoder", None)
    return [*model.children(), *(decoder.children() if isinstance(decoder, nn.Module) else ())]


def _max_positions(model: PreTrainedModel) -> int | None:
    # XLNet's positions are relative and DeBERTa's table, where it has one, follows the same field.
    if model.config.model_type == "xlnet":
        return None
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa numbers positions from padding_idx + 1.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else None
