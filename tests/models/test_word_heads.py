"""Heads of words and trees on every architecture: padding, groups and the root, against single sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ftprobe.finetune import parse, tag, token_pair
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

Checkpoint = Callable[[str], Path]
MODULES = {"tag": tag, "token_pair": token_pair, "biaffine": parse}
OPTIONS = {"max_length": 64, "arc_size": 12, "label_size": 6, "dropout": 0.0, "parser_dropout": 0.0}


def ragged(n: int) -> TaskData:
    """Every second word is of three sub-words; each hangs on the one before."""
    texts = [[f"w{i}-w{j}" if j % 2 else f"w{(i * 7 + j) % 40}" for j in range(2 + i * 5 % 7)] for i in range(n)]
    sentences = (Sentence(f"s{i}", "train", " ".join(words), None, tuple(words)) for i, words in enumerate(texts))
    items = [(i, j, "ab"[j % 2], j - 1) for i, words in enumerate(texts) for j in range(len(words))]
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", *zip(*items, strict=True)))


def made(objective: str, task: TaskData, encoder: Encoder, **options: object) -> Any:
    rows = [row for row, head in enumerate(task.labels.head_N) if head >= 0 or objective != "token_pair"]
    chosen = FinetuneOptions.model_validate({**OPTIONS, **options})
    given = MODULES[objective].make(task, {"train": rows}, encoder, chosen, metrics=("las",), seed=0)
    with torch.no_grad():
        for name, parameter in given.head.named_parameters():
            if not name.startswith("encoder."):
                # New weights are so small that outputs of different words would pass for equal.
                parameter.mul_(20)
    return given


def outputs(objective: Any, *units: int) -> list[Tensor]:
    """What the head says of each sentence, without the padding of words."""
    examples = objective.splits["train"]
    batch = examples.batch(units)
    batch.pop("labels")
    with torch.no_grad():
        said = objective.head(**batch)
    if isinstance(said, Tensor):
        return list(said.split([len(examples.items([unit])) for unit in units]))
    found = []
    for n, count in enumerate(len(examples.items(unit)) for unit in units):
        assert torch.isneginf(said.arc_NTT[n, :count, count + 1 :]).all()
        arcs_TX = torch.cat([said.arc_NTT[n, :count, : count + 1], said.dependant_NTL[n, :count]], 1)
        found.append(torch.cat([arcs_TX.flatten(), said.head_NTL[n, : count + 1].flatten()]))
    return found


@pytest.mark.parametrize("objective", sorted(MODULES))
def test_padding_and_groups_change_nothing(checkpoint: Checkpoint, family: str, objective: str) -> None:
    given = made(objective, ragged(13), load_encoder(str(checkpoint(family)), offline=True))
    order = [*range(12, -1, -1)]
    alone = [outputs(given, unit)[0] for unit in order]
    for grouped in (False, True):
        given.head.train(grouped)
        for together, single in zip(outputs(given, *order), alone, strict=True):
            torch.testing.assert_close(together, single, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(alone[0][:1], alone[1][:1], atol=1e-2)


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_word_vectors_are_pooled_sub_words(checkpoint: Checkpoint, family: str, pooling: str) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    given = made("tag", ragged(3), encoder, head_pooling=pooling)
    logits_MK = outputs(given, 1, 0)[0]
    words = given_words(1)
    front = 1 if encoder.classification == "first" else 0
    ids = given.splits["train"].batch([1])["input_ids"]
    h_SD = encoder.model.eval()(input_ids=ids, **segments(given, 1)).last_hidden_state[0]
    at = front
    for word, logits_K in zip(words, logits_MK, strict=True):
        own = h_SD[at : at + (3 if "-" in word else 1)]
        at += len(own)
        h_D = {"first": own[0], "last": own[-1], "mean": own.mean(0)}[pooling]
        torch.testing.assert_close(logits_K, given.head.output(h_D), atol=1e-3, rtol=1e-4)


def given_words(sentence: int) -> tuple[str, ...]:
    return ragged(3).corpus.sentences[sentence].words or ()


def segments(given: Any, unit: int) -> dict[str, Tensor]:
    batch = given.splits["train"].batch([unit])
    return {name: batch[name] for name in ("token_type_ids",) if name in batch}


def test_the_root_is_the_classification_token(checkpoint: Checkpoint, family: str) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    given = made("biaffine", ragged(3), encoder)
    batch = given.splits["train"].batch([0, 1])
    batch.pop("labels")
    ids, roots = batch["input_ids"].flatten(), batch["place_NT"][:, 0]
    if encoder.tokenizer.cls_token_id is not None:
        assert set(ids[roots].tolist()) == {encoder.tokenizer.cls_token_id}
    else:
        last_N = batch["attention_mask"].cumsum(1).argmax(1) + torch.arange(2) * batch["input_ids"].shape[1]
        assert roots.tolist() == last_N.tolist()


@pytest.mark.parametrize("objective", sorted(MODULES))
def test_head_is_saved_with_its_labels(checkpoint: Checkpoint, objective: str, tmp_path: Path) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    given = made(objective, ragged(3), encoder)
    given.save(tmp_path, encoder)
    with safe_open(tmp_path / "head.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["labels"]) == ["a", "b"]
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    own = {name: p for name, p in given.head.state_dict().items() if not name.startswith("encoder.")}
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[name], own[name]) for name in own)
    again = load_encoder(str(tmp_path), offline=True).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.model.state_dict().items())


@pytest.mark.parametrize("objective", ["tag", "token_pair"])
def test_dropout_comes_before_the_last_map(checkpoint: Checkpoint, objective: str) -> None:
    given = made(objective, ragged(3), load_encoder(str(checkpoint("bert")), offline=True), dropout=0.37)
    assert {m.p for m in given.head.modules() if isinstance(m, nn.Dropout)} == {0.37}
    for module in given.head.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    given.head.train()
    assert not torch.equal(outputs(given, 0)[0], outputs(given, 0)[0])
