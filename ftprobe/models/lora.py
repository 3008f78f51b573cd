"""Low-rank adaptation: W + (alpha / r) B A on the query and value projections of every block (METHODS 1.3, `lora_r`).

`add_lora` changes the model in place through PEFT, `merge_lora` gives a plain encoder back. Where a projection is
fused, the whole of it is adapted, the keys' part too: GPT-2's `c_attn`, DeBERTa's `in_proj`.
Axes: D inputs, E outputs of a projection, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed
from ftprobe.models.load import Encoder
from ftprobe.models.surgery import rebuilt

# Modules of one attention: query and value apart, or fused with the key. The first line found in a model counts.
_PROJECTIONS = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("q_proj", "v_proj"),
    ("c_attn",),
    ("in_proj",),
    ("query_key_value",),
)
_ADAPTER = "default"


def add_lora(encoder: Encoder, *, rank: int, alpha: float, dropout: float, seed: int) -> None:
    """Freeze every parameter of the encoder and add trainable A, B to its projections, in place.

    Parameters
    ----------
    rank, alpha
        The update is (alpha / rank) B A.
    dropout
        Probability for the inputs of A. Whatever sets every dropout of the model afterwards sets this one too.
    seed
        A_RD is drawn from a normal distribution of variance 1 / rank under it; B_ER is 0, so that nothing changes yet.

    Raises
    ------
    InputError
        No query and value projections are found, or there is a dropout for XLNet, whose projections are bare tensors
        and no modules with an input.
    """
    own = list(encoder.model.parameters())
    if encoder.model.config.model_type == "xlnet":
        pairs = _adapt_tensors(encoder, rank, alpha, dropout)
    else:
        pairs = _adapt_modules(encoder, rank, alpha, dropout)
    for parameter in own:
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(derive_seed(seed, "head_init", "lora"))
    with torch.no_grad():
        for a_RD, b_ER in pairs:
            a_RD.copy_(torch.empty(a_RD.shape).normal_(0.0, 1 / math.sqrt(rank), generator=generator))
            b_ER.zero_()


@torch.no_grad()
def merge_lora(encoder: Encoder) -> Encoder:
    """A plain encoder with W + (alpha / r) B A in the place of W, of the class and tensor names from before `add_lora`.

    The given one is left as it is and can be trained on.
    """
    from peft.tuners.lora import LoraLayer

    merged: dict[str, Tensor] = {}
    for name, module in encoder.model.named_modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            merged[f"{name}.weight"] = weight + module.get_delta_weight(_ADAPTER).to(weight.dtype)
        elif parametrize.is_parametrized(module):
            merged |= {f"{name}.{leaf}": getattr(module, leaf) for leaf in module.parametrizations}
    for name, parameter in encoder.model.named_parameters():
        if "lora_" in name or ".parametrizations." in name:
            continue
        merged.setdefault(name.replace(".base_layer.", "."), parameter)
    return rebuilt(encoder, merged)


def _adapt_modules(encoder: Encoder, rank: int, alpha: float, dropout: float) -> list[tuple[Tensor, Tensor]]:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names = _projections(encoder)
    transposed = isinstance(encoder.model.get_submodule(names[0]), Conv1D)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, fan_in_fan_out=transposed, bias="none"
    )
    # PEFT draws from the global generator; what it draws is replaced.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, encoder.model, adapter_name=_ADAPTER)
    layers = [encoder.model.get_submodule(name) for name in names]
    assert all(isinstance(layer, LoraLayer) for layer in layers)
    for layer in layers:
        # A new layer is in training mode, and its dropout would act at once.
        layer.train(encoder.model.training)
    return [(layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight) for layer in layers]


def _projections(encoder: Encoder) -> list[str]:
    """Names of the modules to adapt, in the order of the blocks."""
    maps = [name for name, module in encoder.model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    for leaves in _PROJECTIONS:
        found = [name for name in maps if name.rpartition(".")[2] in leaves]
        if {name.rpartition(".")[2] for name in found} == set(leaves):
            return found
    what = f"no query and value projections are known for {encoder.model.config.model_type}"
    raise InputError.one("lora", what, f"known names: {', '.join('+'.join(leaves) for leaves in _PROJECTIONS)}")


class _LowRank(nn.Module):
    """W_DHE + scale (B A)', for a projection that is kept as a tensor of H heads with E outputs each."""

    def __init__(self, w_DHE: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.lora_A = nn.Parameter(w_DHE.new_empty(rank, w_DHE.shape[0]))
        self.lora_B = nn.Parameter(w_DHE.new_zeros(w_DHE[0].numel(), rank))

    def forward(self, w_DHE: Tensor) -> Tensor:
        return w_DHE + self.scale * (self.lora_B @ self.lora_A).T.view_as(w_DHE)


def _adapt_tensors(encoder: Encoder, rank: int, alpha: float, dropout: float) -> list[tuple[Tensor, Tensor]]:
    # PEFT takes a tensor of three axes for a stack of experts: it would adapt each of XLNet's D slices by itself.
    if dropout:
        raise InputError.one(
            "lora", "XLNet's projections are bare tensors, so dropout has no place", "set dropout to 0"
        )
    pairs: list[tuple[Tensor, Tensor]] = []
    for module in [block.rel_attn for block in encoder.model.layer]:
        for leaf in ("q", "v"):
            update = _LowRank(getattr(module, leaf), rank, alpha / rank)
            parametrize.register_parametrization(module, leaf, update)
            pairs.append((update.lora_A, update.lora_B))
    return pairs
