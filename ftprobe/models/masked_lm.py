"""Masked language models: an encoder and the head that its checkpoint was pre-trained with (METHODS 13).

The head is a module of its own, untied from the encoder's embeddings: on another encoder of the same architecture it
predicts with the weights of the pre-trained checkpoint.

Axes: M states, D width of the encoder, E width of its embeddings, V sub-words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.activations import ACT2FN

from ftprobe.errors import InputError
from ftprobe.models.load import Encoder, load_encoder, quiet_transformers

Decoder = Literal["pretrained", "tied_tuned"]


class NoMaskedLM(InputError):
    """The checkpoint holds no masked-LM head: its perplexity is no question to ask."""


class MaskedLMHead(nn.Module):
    """Logits of the vocabulary: norm(activation(dense(h))) W_VE' + b_V.

    Attributes
    ----------
    W_VE, b_V : Parameter
        The decoder's matrix and bias, shared with no other module.
    """

    def __init__(
        self, dense: nn.Linear, activation: Callable[[Tensor], Tensor], norm: nn.LayerNorm, W_VE: Tensor, b_V: Tensor
    ) -> None:
        super().__init__()
        self.dense, self.norm = dense, norm
        self._activation = activation
        self.W_VE = nn.Parameter(W_VE.detach().clone(), requires_grad=False)
        self.b_V = nn.Parameter(b_V.detach().clone(), requires_grad=False)

    def forward(self, h_MD: Tensor) -> Tensor:
        """Logits (M, V) of states of the last layer."""
        return nn.functional.linear(self.norm(self._activation(self.dense(h_MD))), self.W_VE, self.b_V)


class MaskedLM(NamedTuple):
    """An encoder and a masked-LM head, in evaluation mode, on the CPU."""

    encoder: Encoder
    head: MaskedLMHead


class _Parts(NamedTuple):
    """Where a family keeps the parts of its head; `decoder` None: the input embeddings and the head's own bias."""

    dense: str
    activation: str | None
    norm: str
    decoder: str | None
    bias: str


_BERT = _Parts(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.transform_act_fn",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions.bias",
)
_DEBERTA = _Parts(
    "lm_predictions.lm_head.dense",
    "lm_predictions.lm_head.transform_act_fn",
    "lm_predictions.lm_head.LayerNorm",
    None,
    "lm_predictions.lm_head.bias",
)
_FAMILIES = {
    "albert": _Parts(
        "predictions.dense",
        "predictions.activation",
        "predictions.LayerNorm",
        "predictions.decoder",
        "predictions.bias",
    ),
    "bert": _BERT,
    "deberta": _BERT,
    "deberta-v2": _BERT,
    "distilbert": _Parts(
        "vocab_transform", "activation", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
    ),
    "roberta": _Parts("lm_head.dense", None, "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
}


def load_masked_lm(
    location: str, *, revision: str | None = None, offline: bool = False, dtype: torch.dtype = torch.float32
) -> MaskedLM:
    """Load a checkpoint's encoder, as `load_encoder` does, and its masked-LM head.

    Raises
    ------
    NoMaskedLM
        The architecture has no masked-LM head (XLNet, GPT-2), or the checkpoint no weights for it (MiniLM).
    InputError
        As `load_encoder`.
    """
    encoder = load_encoder(location, revision=revision, offline=offline, dtype=dtype)
    family = encoder.model.config.model_type
    if family not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise NoMaskedLM.one(location, f"{family} has no masked-LM head", f"use one of: {known}")
    folder = Path(location).expanduser()
    options = {"revision": None if folder.is_dir() else revision, "local_files_only": offline}
    with quiet_transformers():
        try:
            model = _model(str(folder) if folder.is_dir() else location, dtype, options)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError.one(location, f"its masked-LM head cannot be loaded: {error}") from error
    return MaskedLM(encoder, _head(model, _DEBERTA if hasattr(model, "lm_predictions") else _FAMILIES[family]))


def with_encoder(masked_lm: MaskedLM, encoder: Encoder, *, decoder: Decoder = "pretrained") -> MaskedLM:
    """The head on another encoder of the same architecture and vocabulary.

    Parameters
    ----------
    decoder
        `pretrained`: the checkpoint's matrix; `tied_tuned`: the input embeddings of `encoder`. The bias and the
        transform are the checkpoint's either way.

    Raises
    ------
    InputError
        Architecture, width or vocabulary differ.
    """
    for what in ("model_type", "hidden_size", "vocab_size"):
        ours, theirs = (getattr(one.model.config, what) for one in (masked_lm.encoder, encoder))
        if ours != theirs:
            raise InputError.one("masked-LM head", f"made for {what} {ours}, the encoder has {theirs}")
    head = masked_lm.head
    if decoder == "tied_tuned":
        head = MaskedLMHead(head.dense, head._activation, head.norm, _embeddings(encoder.model), head.b_V).eval()
    return MaskedLM(encoder, head)


def _model(location: str, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(location, **options)
    model, found = _read(location, config, dtype, options)
    if any(name.startswith("lm_predictions.lm_head.") for name in found["unexpected_keys"]):
        # DeBERTa's own layout; transformers takes the other one, BERT's, where the configuration is silent.
        config.legacy = False
        model, found = _read(location, config, dtype, options)
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(model.base_model_prefix))
    if missing or found["mismatched_keys"]:
        what = f"no weights of a masked-LM head ({', '.join(missing[:3]) or 'of other shapes'})"
        raise NoMaskedLM.one(location, what, "use a checkpoint that was saved with its masked-LM head")
    return model


def _read(location: str, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    # Weights that are missing are drawn; no generator of the caller's may move.
    with torch.random.fork_rng(devices=[]):
        model, found = AutoModelForMaskedLM.from_pretrained(
            location,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
            **options,
        )
    return model, found


def _head(model: nn.Module, parts: _Parts) -> MaskedLMHead:
    dense, norm = model.get_submodule(parts.dense), model.get_submodule(parts.norm)
    assert isinstance(dense, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    activation = ACT2FN["gelu"] if parts.activation is None else _attribute(model, parts.activation)
    W_VE = _embeddings(model) if parts.decoder is None else _attribute(model, f"{parts.decoder}.weight")
    head = MaskedLMHead(dense, activation, norm, W_VE, _attribute(model, parts.bias))
    return head.eval().requires_grad_(False)


def _embeddings(model: Any) -> Tensor:
    weight_VE: Tensor = model.get_input_embeddings().weight
    return weight_VE


def _attribute(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)
