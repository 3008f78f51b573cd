"""The architecture of an encoder: its layers, heads and parameters, read off its `config.json`.

Letters in formulas: L blocks, D hidden size, I inner size, V vocabulary, P position rows, T segment types,
E embedding size.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

Config = Mapping[str, object]
UNLIMITED = 10**6


class Architecture(NamedTuple):
    """The size of an encoder, enough to check layers and to estimate cost."""

    family: str
    n_layers: int
    n_heads: int
    dim: int
    parameters: int
    """What `AutoModel` builds, pooler included: exact for `FAMILIES`, for others counted as for BERT."""
    max_positions: int
    """The longest input in sub-words; `UNLIMITED` where there is no limit (XLNet)."""
    vocab: int


class _Sizes(NamedTuple):
    L: int
    D: int
    I: int  # noqa: E741
    V: int
    P: int
    T: int
    E: int


class _Family(NamedTuple):
    """Where a family's `config.json` keeps its sizes, how many positions are padding, and its parameter count."""

    parameters: Callable[[_Sizes], int]
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    dim: str = "hidden_size"
    inner: str = "intermediate_size"
    positions: str = "max_position_embeddings"
    padding_positions: int = 0


def _block(s: _Sizes) -> int:
    """Query, key, value, output, two inner maps (with biases), two LayerNorms."""
    return 4 * (s.D * s.D + s.D) + 2 * s.D * s.I + s.I + s.D + 4 * s.D


def _bert(s: _Sizes) -> int:
    return (s.V + s.P + s.T + 2) * s.D + s.L * _block(s) + s.D * s.D + s.D


def _albert(s: _Sizes) -> int:
    return (s.V + s.P + s.T + 2) * s.E + s.E * s.D + s.D + _block(s) + s.D * s.D + s.D


def _distilbert(s: _Sizes) -> int:
    return (s.V + s.P + 2) * s.D + s.L * _block(s)


def _gpt2(s: _Sizes) -> int:
    return (s.V + s.P) * s.D + s.L * _block(s) + 2 * s.D


def _xlnet(s: _Sizes) -> int:
    # Five maps without bias, three relative biases, two segment rows; the inner maps as in BERT. No positions.
    attention = 5 * s.D * s.D + 3 * s.D + 2 * s.D
    return s.V * s.D + s.L * (attention + 2 * s.D * s.I + s.I + s.D + 4 * s.D) + s.D


def _deberta(s: _Sizes) -> int:
    # Query and value biases only, and two maps for relative positions, whose table has 2 P rows; no pooler.
    attention = 3 * s.D * s.D + 2 * s.D + 2 * s.D * s.D + s.D + s.D * s.D + s.D
    return (s.V + 2) * s.D + 2 * s.P * s.D + s.L * (attention + 2 * s.D * s.I + s.I + s.D + 4 * s.D)


FAMILIES: dict[str, _Family] = {
    "bert": _Family(_bert),
    "roberta": _Family(_bert, padding_positions=2),
    "albert": _Family(_albert),
    "distilbert": _Family(_distilbert, "n_layers", "n_heads", "dim", "hidden_dim"),
    "gpt2": _Family(_gpt2, "n_layer", "n_head", "n_embd", "n_inner", "n_positions"),
    "xlnet": _Family(_xlnet, "n_layer", "n_head", "d_model", "d_inner", ""),
    "deberta": _Family(_deberta),
}


def architecture(config: Config) -> Architecture:
    """The architecture that a `config.json` describes.

    Raises
    ------
    ValueError
        Naming the key that is missing or no number.
    """
    name = str(config.get("model_type", ""))
    family = FAMILIES.get(name, _Family(_bert))
    dim = _size(config, family.dim)
    positions = _size(config, family.positions) if family.positions else 0
    sizes = _Sizes(
        L=_size(config, family.layers),
        D=dim,
        I=_size(config, family.inner, 4 * dim),
        V=_size(config, "vocab_size"),
        P=positions,
        T=_size(config, "type_vocab_size", 0),
        E=_size(config, "embedding_size", dim),
    )
    return Architecture(
        family=name,
        n_layers=sizes.L,
        n_heads=_size(config, family.heads),
        dim=dim,
        parameters=family.parameters(sizes),
        max_positions=positions - family.padding_positions if family.positions else UNLIMITED,
        vocab=sizes.V,
    )


@functools.cache
def shipped_configs() -> dict[str, dict[str, object]]:
    """What the configurations of well-known hub checkpoints say of their size, so that planning needs no network."""
    text = importlib.resources.files("ftprobe").joinpath("architectures.json").read_text(encoding="utf-8")
    configs: dict[str, dict[str, object]] = json.loads(text)
    return configs


def _size(config: Config, key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"key '{key}' is {'missing' if value is None else 'no whole number'}")
    return value
