"""Tiny random encoders of seven families with tokenizers made here, and corpora that exercise alignment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from ftprobe.activations import Pooling
from ftprobe.activations.extract import extract
from ftprobe.measurement import Outcome
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.shards import Items, items, open_layer
from ftprobe.tasks.types import Corpus

PIECES = [
    "the",
    "cat",
    "cats",
    "sat",
    "on",
    "mat",
    "un",
    "##able",
    "##s",
    "##t",
    "dog",
    "bark",
    "##ed",
    ".",
    "a",
    "##a",
]
SEGMENTED = ["input_ids", "token_type_ids", "attention_mask"]
SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = ("bert", "roberta", "xlnet", "gpt2", "albert", "distilbert", "deberta")


def wordpiece() -> PreTrainedTokenizerFast:
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=SEGMENTED,
    )


def byte_level(*, specials: bool) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "c"), ("c", "a"), ("ca", "t"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    symbols = ["<s>", "<pad>", "</s>", *letters, *("".join(pair) for pair in merges)]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"eos_token": "</s>"}
    if specials:
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        names |= {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def metaspace(*, classification_last: bool) -> PreTrainedTokenizerFast:
    letters = [
        ("▁", -2.0),
        *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz."),
        ("▁the", -1.0),
        ("▁cat", -1.0),
    ]
    specials = ["<unk>", "<pad>", "<cls>", "<sep>"]
    backend = Tokenizer(models.Unigram([*((name, 0.0) for name in specials), *letters], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    single, pair = "<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1"
    if classification_last:
        single, pair = "$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2"
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        model_input_names=SEGMENTED,
    )


def _configuration(family: str, n_tokens: int) -> Any:
    common = {"vocab_size": n_tokens, "max_position_embeddings": 64}
    match family:
        case "bert":
            return transformers.BertConfig(**common, **SIZE)
        case "roberta":
            return transformers.RobertaConfig(**common, **SIZE, pad_token_id=1, type_vocab_size=1)
        case "xlnet":
            return transformers.XLNetConfig(vocab_size=n_tokens, d_model=16, n_layer=2, n_head=2, d_inner=32)
        case "gpt2":
            return transformers.GPT2Config(vocab_size=n_tokens, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        case "albert":
            return transformers.AlbertConfig(**common, **SIZE, embedding_size=8)
        case "distilbert":
            return transformers.DistilBertConfig(**common, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
        case "deberta":
            relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
            return transformers.DebertaConfig(**common, **SIZE, **relative)
    raise KeyError(family)


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    if family in ("roberta", "gpt2", "deberta"):
        return byte_level(specials=family != "gpt2")
    if family in ("xlnet", "albert"):
        return metaspace(classification_last=family == "xlnet")
    return wordpiece()


@pytest.fixture(scope="session")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    """An encoder of a family, saved once and loaded as users load theirs."""
    loaded: dict[str, Encoder] = {}

    def load(family: str) -> Encoder:
        if family not in loaded:
            folder = tmp_path_factory.mktemp(family)
            tokenizer = _tokenizer(family)
            with torch.random.fork_rng():
                torch.manual_seed(FAMILIES.index(family))
                model = AutoModel.from_config(_configuration(family, len(tokenizer)))
                # The initialiser's 0.02 would leave states too small for a mistake to show.
                for weight in model.parameters():
                    weight.data += 0.2 * torch.randn_like(weight)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            loaded[family] = load_encoder(str(folder))
        return loaded[family]

    return load


@pytest.fixture(scope="session")
def bert(encoder_of: Callable[[str], Encoder]) -> Encoder:
    return encoder_of("bert")


class Extracted:
    """What extraction left in a folder."""

    def __init__(self, folder: Path, outcome: Outcome, n_layers: int) -> None:
        self.folder, self.outcome = folder, outcome
        self.h_LND = np.stack([open_layer(folder, layer) for layer in range(n_layers + 1)])
        self.items: Items = items(folder)

    def value(self, metric: str, layer: int | None = None) -> float:
        (found,) = [m for m in self.outcome.measurements if m.metric == metric and m.layer == layer]
        return found.value


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Extracted]]:
    """`run(encoder, corpus, *poolings, **options)`: extract all sentences and read the shards back."""
    calls = iter(range(100))

    def extracted(encoder: Encoder, corpus: Corpus, *poolings: Pooling, **options: Any) -> list[Extracted]:
        call = next(calls)
        out = [tmp_path / f"{call}-{i}" for i in range(len(poolings))]
        for folder in out:
            folder.mkdir()
        options = {"max_length": 64, "overflow": "truncate", "dtype": "float32", "device": "cpu"} | options
        asked = options.pop("sentences", range(len(corpus.sentences)))
        outcomes = extract(encoder, corpus, asked, poolings, out=out, **options)
        return [Extracted(f, outcome, encoder.n_layers) for f, outcome in zip(out, outcomes, strict=True)]

    return extracted
