"""Surgery on encoders: freeze, cut off, draw anew or exchange blocks (METHODS 1.3).

An encoder has parts: 0 is what feeds the first block (embeddings, position tables, ALBERT's projection), 1..L are its
blocks, L+1 is what follows them (pooler, final norm). `freeze` marks the given model; every other function leaves it
alone and returns a new encoder in evaluation mode that shares no tensor with it, is built by the architecture's own
class from its own configuration, and is therefore the same after `save_pretrained` and `load_encoder`.
"""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftprobe.errors import InputError
from ftprobe.hashing import derive_seed
from ftprobe.models.load import Encoder, quiet_transformers

# The one group of parameters that every block of such an architecture repeats.
_SHARED_BLOCKS = {"albert": "encoder.albert_layer_groups"}
_AFTER_BLOCKS = frozenset(
    {"final_layer_norm", "final_layernorm", "final_norm", "ln_f", "norm", "pooler", "pooler_activation", "project_out"}
)
# DeBERTa-v2's convolution is added to the output of its first block.
_WITH_FIRST_BLOCK = {"deberta-v2": "encoder.conv"}
# What two blocks of the same function may differ in.
_NO_FUNCTION = frozenset({"attention_dropout", "dropout", "gradient_checkpointing", "layer_idx", "p", "training"})
_SAME_ARCHITECTURE = ("model_type", "num_hidden_layers", "num_attention_heads", "hidden_act")


def blocks(encoder: Encoder) -> nn.ModuleList:
    """The L blocks, lowest first.

    Raises
    ------
    InputError
        The blocks share their parameters (ALBERT), or are not found: in an unknown architecture they are the only
        list of modules with as many entries as the configuration has layers.
    """
    if _shares_blocks(encoder):
        what = (
            f"the blocks of {_family(encoder)} are one set of parameters that is repeated, so there is no list of them"
        )
        raise InputError.one("blocks", what)
    found = encoder.model.get_submodule(_path(encoder))
    assert isinstance(found, nn.ModuleList)
    return found


def freeze(encoder: Encoder, k: int, *, dropout: Literal["on", "off"]) -> None:
    """Take parts 0..k out of training, in place; k = L takes everything, the pooler and a final norm too.

    Parameters
    ----------
    dropout
        `off`: the frozen modules stay in evaluation mode when the model is put into training mode. XLNet has one
        dropout for its embeddings and its last output, which is then off for both.

    Raises
    ------
    InputError
        k is not in 0..L, or neither 0 nor L where blocks are shared.
    """
    _check(encoder, "freeze", k, 0, encoder.n_layers)
    _refuse_between(encoder, "freeze", k)
    path = _path(encoder)
    for name, parameter in encoder.model.named_parameters():
        if k == encoder.n_layers or _part(encoder, path, name) <= k:
            parameter.requires_grad_(False)
    if dropout == "off":
        frozen = [encoder.model] if k == encoder.n_layers else [m for m, part in _roots(encoder) if part <= k]
        for module in frozen:
            module.eval()
            module.train = MethodType(_keep_mode, module)  # type: ignore[method-assign]


def truncate(encoder: Encoder, k: int) -> Encoder:
    """Embeddings and blocks 1..k, k = 1..L; what follows the blocks (GPT-2's ln_f, a pooler) stays.

    ALBERT repeats its block k times.
    """
    _check(encoder, "truncate", k, 1, encoder.n_layers)
    return _cut(encoder, "truncate", 0, k)


def prune_top(encoder: Encoder, k: int) -> Encoder:
    """Without the upper k blocks, k = 0..L-1: `truncate` to L-k (Durrani et al. 2021, section 5)."""
    _check(encoder, "prune_top", k, 0, encoder.n_layers - 1)
    return _cut(encoder, "prune_top", 0, encoder.n_layers - k)


def prune_bottom(encoder: Encoder, k: int) -> Encoder:
    """Without blocks 1..k, k = 0..L-1: embeddings feed block k+1 (Durrani et al. 2021, section 5).

    DeBERTa-v2's convolution leaves with block 1.

    Raises
    ------
    InputError
        k is out of range, or a block computes something else at its new place
        (GPT-2 with scale_attn_by_inverse_layer_idx).
    """
    _check(encoder, "prune_bottom", k, 0, encoder.n_layers - 1)
    return _cut(encoder, "prune_bottom", k, encoder.n_layers)


def reinitialise(encoder: Encoder, blocks: int | Literal["all"], *, seed: int) -> Encoder:
    """The upper `blocks` blocks, or with `all` every parameter, drawn anew by the architecture's own initialiser.

    A number leaves embeddings, pooler and final norm as they are. `all` gives the parameters of
    `load_encoder(..., init="random", seed=seed)`.

    Raises
    ------
    InputError
        `blocks` is not in 0..L, or neither 0 nor L where blocks are shared.
    """
    n_layers = encoder.n_layers
    if blocks != "all":
        _check(encoder, "reinitialise", blocks, 0, n_layers)
        _refuse_between(encoder, "reinitialise", blocks)
    lowest, highest = (0, n_layers + 1) if blocks == "all" else (n_layers - blocks + 1, n_layers)
    drawn, path = _drawn(encoder, seed), _path(encoder)
    tensors = {
        name: drawn[name] if lowest <= _part(encoder, path, name) <= highest else tensor
        for name, tensor in _tensors(encoder.model).items()
    }
    return _built(encoder, copy.deepcopy(encoder.model.config), tensors, "reinitialise")


def randomize(
    encoder: Encoder,
    *,
    seed: int,
    scheme: Literal["init", "shuffle"] = "init",
    embeddings: Literal["random", "pretrained"] = "random",
) -> Encoder:
    """The `randomized` control (Merchant et al. 2020, Table 1).

    Parameters
    ----------
    scheme
        `init`: drawn by the architecture's initialiser, as `reinitialise` with `all`. `shuffle`: the entries of each
        parameter tensor, vectors included, are permuted inside it.
    embeddings
        `pretrained` keeps part 0.
    """
    own, path = _tensors(encoder.model), _path(encoder)
    if scheme == "init":
        drawn = _drawn(encoder, seed)
    else:
        generator = torch.Generator().manual_seed(derive_seed(seed, "head_init", "shuffle"))
        drawn = {
            name: p.detach().flatten()[torch.randperm(p.numel(), generator=generator).to(p.device)].view_as(p)
            for name, p in encoder.model.named_parameters()
        }
    kept = 0 if embeddings == "pretrained" else -1
    tensors = {
        name: drawn.get(name, tensor) if _part(encoder, path, name) > kept else tensor for name, tensor in own.items()
    }
    return _built(encoder, copy.deepcopy(encoder.model.config), tensors, "randomize")


def replace_top(tuned: Encoder, base: Encoder, m: int, *, embeddings: Literal["tuned", "pretrained"]) -> Encoder:
    """The tuned encoder with the base's blocks L-m+1..L (Mosbach et al. 2020, section 5.2).

    What follows the blocks (pooler, final norm) reads the last block and is the base's from m = 1 on. With
    `embeddings: pretrained` part 0 is the base's for every m, so that m = L gives the base.

    Raises
    ------
    InputError
        The two are not of one architecture, m is not in 0..L, or m is neither 0 nor L where blocks are shared.
    """
    n_layers = tuned.n_layers
    _check_same(tuned, base)
    _check(tuned, "replace_top", m, 0, n_layers)
    _refuse_between(tuned, "replace_top", m)
    like, path = base if m else tuned, _path(tuned)
    own, pretrained = _tensors(tuned.model), _tensors(base.model)
    tensors = {}
    for name in _tensors(like.model):
        part = _part(tuned, path, name)
        replaced = embeddings == "pretrained" if part == 0 else m > 0 and part > n_layers - m
        # All of ALBERT's blocks are part 1; m is 0 or L there.
        tensors[name] = pretrained[name] if replaced else own[name]
    return _built(like, copy.deepcopy(tuned.model.config), tensors, "replace_top")


def rebuilt(encoder: Encoder, tensors: dict[str, Tensor]) -> Encoder:
    """A plain encoder of the same class and configuration that holds copies of `tensors`: every parameter by its name.

    Buffers are the given encoder's.
    """
    buffers = dict(encoder.model.named_buffers())
    return _built(encoder, copy.deepcopy(encoder.model.config), buffers | tensors, "rebuild")


def _cut(encoder: Encoder, place: str, start: int, stop: int) -> Encoder:
    config, path = copy.deepcopy(encoder.model.config), _path(encoder)
    shared = _shares_blocks(encoder)
    if shared and config.num_hidden_groups > 1 and stop - start < encoder.n_layers:
        what = f"{_family(encoder)} has {config.num_hidden_groups} groups of shared blocks; which repeat how often"
        raise InputError.one(place, f"{what} would change with the number of blocks", "only one group can be cut")
    config.num_hidden_layers = stop - start
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[start:stop]
    beside = _WITH_FIRST_BLOCK.get(config.model_type)
    if start and beside:
        config.conv_kernel_size = 0
    tensors = {}
    for name, tensor in _tensors(encoder.model).items():
        if start and beside and name.startswith(f"{beside}."):
            continue
        if not name.startswith(f"{path}.") or shared:
            tensors[name] = tensor
            continue
        number, _, inside = name.removeprefix(f"{path}.").partition(".")
        if start <= int(number) < stop:
            tensors[f"{path}.{int(number) - start}.{inside}"] = tensor
    cut = _built(encoder, config, tensors, place)._replace(n_layers=stop - start)
    if not shared:
        for old, new in zip(blocks(encoder)[start:stop], blocks(cut), strict=True):
            _check_function(encoder, place, old, new)
    return cut


def _built(like: Encoder, config: Any, tensors: dict[str, Tensor], place: str) -> Encoder:
    """An encoder of `like`'s class with copies of `tensors`, which name every parameter and buffer."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model: PreTrainedModel = type(like.model)(config)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError.one(place, f"{_family(like)} cannot be built anew: {error}") from error
    for name, _ in list(model.named_children()):
        if getattr(like.model, name, None) is None:
            setattr(model, name, None)
    empty = _tensors(model)
    wrong = {name for name in empty.keys() | tensors.keys() if _shape(empty, name) != _shape(tensors, name)}
    if wrong:
        what = f"{_family(like)} keeps something by the number of its blocks that is not known here"
        raise InputError.one(place, f"{what}: {', '.join(sorted(wrong)[:3])}")
    for name, hollow in empty.items():
        holder, _, leaf = name.rpartition(".")
        value = tensors[name].detach().clone()
        whole = nn.Parameter(value) if isinstance(hollow, nn.Parameter) else value
        setattr(model.get_submodule(holder), leaf, whole)
    model.eval()
    return like._replace(model=model)


def _drawn(encoder: Encoder, seed: int) -> dict[str, Tensor]:
    """Every tensor as the architecture's initialiser makes it under `seed`, as `load_encoder` with init `random`."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "head_init", "encoder"))
        fresh = _tensors(type(encoder.model)(copy.deepcopy(encoder.model.config)))
    own = _tensors(encoder.model)
    return {name: fresh[name].to(tensor.device, tensor.dtype) for name, tensor in own.items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, also those that are not saved, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def _path(encoder: Encoder) -> str:
    """The name of the module that holds the blocks."""
    if _shares_blocks(encoder):
        return _SHARED_BLOCKS[_family(encoder)]
    lists = [
        name
        for name, module in encoder.model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == encoder.n_layers
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        found = f"{len(outer)} lists of {encoder.n_layers} modules ({', '.join(outer)})" if outer else "no list"
        what = f"cannot tell the blocks of {_family(encoder)}: {found} for {encoder.n_layers} layers"
        raise InputError.one("blocks", what, "probe it as it is, or use an architecture with one list of blocks")
    return str(outer[0])


def _part(encoder: Encoder, path: str, name: str) -> int:
    """The part that a module or tensor belongs to; all of a shared group is part 1."""
    if name.startswith(f"{path}."):
        return 1 if _shares_blocks(encoder) else int(name.removeprefix(f"{path}.").partition(".")[0]) + 1
    beside = _WITH_FIRST_BLOCK.get(_family(encoder))
    if beside and f"{name}.".startswith(f"{beside}."):
        return 1
    holder = path.rpartition(".")[0]
    head = name.removeprefix(f"{holder}." if holder else "").partition(".")[0]
    return encoder.n_layers + 1 if head in _AFTER_BLOCKS else 0


def _roots(encoder: Encoder) -> list[tuple[nn.Module, int]]:
    """The largest modules that belong to one part, each with it."""
    path = _path(encoder)
    roots = []
    for name, module in encoder.model.named_modules():
        holder = name.rpartition(".")[0]
        inside = holder in ("", path) or path.startswith(f"{holder}.")
        if name and inside and name != path and not path.startswith(f"{name}."):
            roots.append((module, _part(encoder, path, name)))
    return roots


def _keep_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _family(encoder: Encoder) -> str:
    return str(encoder.model.config.model_type)


def _shares_blocks(encoder: Encoder) -> bool:
    return _family(encoder) in _SHARED_BLOCKS


def _check(encoder: Encoder, place: str, k: int, lowest: int, highest: int) -> None:
    if not lowest <= k <= highest:
        what = f"{k} is out of range for the {encoder.n_layers} blocks of this {_family(encoder)}"
        raise InputError.one(place, what, f"give {lowest} to {highest}")


def _refuse_between(encoder: Encoder, place: str, k: int) -> None:
    if _shares_blocks(encoder) and k not in (0, encoder.n_layers):
        what = (
            f"all blocks of {_family(encoder)} are one set of parameters, so {k} of {encoder.n_layers} has no meaning"
        )
        raise InputError.one(place, what, f"give 0 or {encoder.n_layers}")


def _check_same(tuned: Encoder, base: Encoder) -> None:
    for field in _SAME_ARCHITECTURE:
        ours, theirs = (getattr(encoder.model.config, field, None) for encoder in (tuned, base))
        if ours != theirs:
            raise InputError.one("replace_top", f"the two models differ in {field}: {ours} and {theirs}")
    own, pretrained = (
        {name: p.shape for name, p in encoder.model.named_parameters() if not name.startswith("pooler.")}
        for encoder in (tuned, base)
    )
    if own != pretrained:
        differing = sorted(name for name in own.keys() | pretrained.keys() if own.get(name) != pretrained.get(name))
        raise InputError.one("replace_top", f"the two models differ in the shape of {', '.join(differing[:3])}")


def _check_function(encoder: Encoder, place: str, old: nn.Module, new: nn.Module) -> None:
    """Refuse a block whose plain settings (a scale, a window) are others at its new number."""
    for before, after in zip(old.modules(), new.modules(), strict=True):
        for name, value in vars(before).items():
            plain = isinstance(value, (int, float, str, tuple)) and not name.startswith("_")
            if plain and name not in _NO_FUNCTION and vars(after).get(name) != value:
                what = f"in this {_family(encoder)} a block's {name} depends on its number"
                raise InputError.one(place, f"{what}: {value} would become {vars(after).get(name)}")
