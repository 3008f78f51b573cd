"""What heads share: new linear maps under a seed, dropout, the states of a batch, and the files of a model state.

Axes: N texts, S sub-words, D width of the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftprobe.models.load import Encoder, quiet_transformers

# Architectures whose encoder gives the same states for word embeddings as for word ids (a test says so for each).
_TAKES_EMBEDDINGS = frozenset({"albert", "bert", "deberta", "deberta-v2", "distilbert", "gpt2", "roberta", "xlnet"})
_GROUP = 8


class Group(NamedTuple):
    """Texts of like length of one batch: their places in it (n), last-layer states (n, s, D) and real tokens (n, s).

    `cut` says which of the batch's S columns the s columns are.
    """

    place_n: Tensor
    h_nsD: Tensor
    mask_ns: Tensor
    cut: slice


def groups(model: PreTrainedModel, inputs: Mapping[str, Tensor], *, grouped: bool, left: bool) -> Iterator[Group]:
    """The last layer's states of a padded batch, in groups of like length where `grouped`, else in one.

    A random batch is half padding. On a CPU it pays to run it as groups of like length; the words are looked up once,
    because each look-up costs a gradient as large as the vocabulary. Padding is on the `left` or on the right.
    """
    ids, mask_NS = inputs["input_ids"], inputs["attention_mask"]
    segments = {name: inputs[name] for name in ("token_type_ids",) if inputs.get(name) is not None}
    small = len(ids) <= _GROUP or ids.device.type != "cpu"
    own_code = not type(model).__module__.startswith("transformers.")
    if not grouped or small or own_code or model.config.model_type not in _TAKES_EMBEDDINGS:
        states = model(input_ids=ids, attention_mask=mask_NS, **segments).last_hidden_state
        yield Group(torch.arange(len(ids), device=ids.device), states, mask_NS, slice(None))
        return
    e_NSE = model.get_input_embeddings()(ids)
    length_N = mask_NS.sum(1)
    for place_n in torch.split(length_N.argsort(stable=True), _GROUP):
        kept = int(length_N[place_n].max())
        cut = slice(-kept, None) if left else slice(kept)
        mask_ns = mask_NS[place_n, cut]
        own = {name: columns[place_n, cut] for name, columns in segments.items()}
        states = model(inputs_embeds=e_NSE[place_n, cut], attention_mask=mask_ns, **own).last_hidden_state
        yield Group(place_n, states, mask_ns, cut)


def states(model: PreTrainedModel, inputs: Mapping[str, Tensor], *, grouped: bool, left: bool) -> Tensor:
    """The last layer's states of a padded batch (N, S, D); 0 at padding where it was run in groups."""
    parts = list(groups(model, inputs, grouped=grouped, left=left))
    if len(parts) == 1:
        return parts[0].h_nsD
    h_NSD = parts[0].h_nsD.new_zeros(*inputs["input_ids"].shape, parts[0].h_nsD.shape[-1])
    for part in parts:
        h_NSD[part.place_n, part.cut] = part.h_nsD
    return h_NSD


def classification_place(mask_NS: Tensor, *, last: bool) -> Tensor:
    """Where in a padded batch the token stands that stands for the sequence (N): the `last` real one, or the first."""
    ordinal_NS = mask_NS * torch.arange(1, mask_NS.shape[1] + 1, device=mask_NS.device)
    return ordinal_NS.argmax(1) if last else mask_NS.argmax(1)


def linear(inputs: int, outputs: int, spread: float, generator: torch.Generator) -> nn.Linear:
    """A map whose weights are drawn from N(0, spread) and whose biases are 0."""
    new: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        new.weight.normal_(0.0, spread, generator=generator)
        new.bias.zero_()
    return new


def spread_of(encoder: Encoder) -> float:
    """The standard deviation that the checkpoint's own new weights would have."""
    return float(getattr(encoder.model.config, "initializer_range", 0.02))


def set_dropout(model: nn.Module, p: float) -> None:
    """Set every dropout of a transformer to `p`: modules, and the plain numbers that some attentions keep."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Write the encoder and its tokenizer as `load_encoder` reads them."""
    with quiet_transformers():
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)


def save_head(folder: Path, parts: Mapping[str, nn.Module | None], labels: Sequence[str], **facts: Any) -> None:
    """Write the parts of a head as head.safetensors, with its labels (K) and facts as JSON in the metadata."""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, module in parts.items()
        if module is not None
        for key, value in module.state_dict().items()
    }
    notes = {key: json.dumps(value) for key, value in {"labels": list(labels), **facts}.items()}
    save_file(tensors, folder / "head.safetensors", metadata=notes)
