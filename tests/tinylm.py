"""Tiny random checkpoints of every architecture, with a masked-LM head where it has one, and their tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from ftprobe.models.load import quiet_transformers

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
WORDS = [f"w{n}" for n in range(40)]
VOCABULARY = SPECIAL + WORDS
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
RELATIVE = {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
CONFIGS = {
    "bert": {**SIZE, "max_position_embeddings": 64},
    "roberta": {**SIZE, "type_vocab_size": 1, "max_position_embeddings": 66, "pad_token_id": 0},
    "albert": {**SIZE, "embedding_size": 8, "max_position_embeddings": 64},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "deberta": {**SIZE, **RELATIVE},
    "deberta-v2": {**SIZE, **RELATIVE},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}
MASKED = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "roberta")


def tokenizer(family: str, words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """Word-level, laid out as the family's own: XLNet ends with its classification token, GPT-2 has none."""
    backend = Tokenizer(WordLevel({word: n for n, word in enumerate(SPECIAL + words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if family == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]")
    layout = "$A [SEP] [CLS]" if family == "xlnet" else "[CLS] $A [SEP]"
    backend.post_processor = TemplateProcessing(single=layout, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def model(family: str, *, seed: int, head: bool, **changes: object) -> PreTrainedModel:
    """Weights larger than the initialiser's, biases included, so that a wrong one shows."""
    config = AutoConfig.for_model(family, vocab_size=len(VOCABULARY), **{**CONFIGS[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = (AutoModelForMaskedLM if head else AutoModel).from_config(config)
        for name, parameter in made.named_parameters():
            if "norm" not in name.lower():
                torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def save(folder: Path, family: str, *, seed: int = 0, head: bool | None = None, **changes: object) -> Path:
    """A checkpoint with its masked-LM head where the architecture has one, or as `head` says."""
    with quiet_transformers():
        made = model(family, seed=seed, head=family in MASKED if head is None else head, **changes)
        made.save_pretrained(folder)
        tokenizer(family).save_pretrained(folder)
    return folder
