"""Tiny random checkpoints of each architecture, with word-level tokenizers laid out as the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from ftprobe.models.load import quiet_transformers

SPECIAL = ["<pad>", "<cls>", "<sep>", "<unk>"]
WORDS = [f"w{n}" for n in range(40)]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": SIZE,
    "roberta": {**SIZE, "type_vocab_size": 1, "max_position_embeddings": 66, "pad_token_id": 0},
    "albert": {**SIZE, "embedding_size": 8},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "deberta": {**SIZE, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {**SIZE, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}
WITH_POOLER = ("bert", "albert")


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    if family == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<sep>", unk_token="<unk>")
    left = family == "xlnet"
    backend.post_processor = TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2" if left else "<cls> $A <sep>",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2" if left else "<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<cls>", 1), ("<sep>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        unk_token="<unk>",
        padding_side="left" if left else "right",
    )


def model(family: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModel.from_config(AutoConfig.for_model(family, vocab_size=len(SPECIAL + WORDS), **CONFIGS[family]))
        for parameter in made.parameters():
            # Larger than the initialiser's values, so that a wrong position or mask shows in the states.
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    if family not in WITH_POOLER:
        made.pooler = None
    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random checkpoint of an architecture; only BERT and ALBERT hold pooler weights."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            with quiet_transformers():
                model(family).save_pretrained(made[family])
                tokenizer(family).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(params=sorted(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
