"""Encoders of every architecture: what they say about themselves, and what is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from ftprobe.errors import InputError
from ftprobe.models.load import load_encoder, quiet_transformers

Checkpoint = Callable[[str], Path]


def test_facts_of_each_architecture(checkpoint: Checkpoint, family: str) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    assert (encoder.n_layers, encoder.dim) == (2, 16)
    assert encoder.classification == ("last" if family in ("xlnet", "gpt2") else "first")
    assert encoder.final_norm == (family == "gpt2")
    positions = {"gpt2": 64, "distilbert": 64, "roberta": 65, "xlnet": None}
    assert encoder.max_positions == positions.get(family, 512)
    assert encoder.tokenizer.pad_token_id is not None
    assert not encoder.model.training


def test_longest_input_runs_and_one_more_does_not(checkpoint: Checkpoint) -> None:
    for family in ("gpt2", "distilbert", "roberta"):
        encoder = load_encoder(str(checkpoint(family)), offline=True)
        assert encoder.max_positions is not None
        ids = torch.full((1, encoder.max_positions), 5)
        assert encoder.model(input_ids=ids).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            encoder.model(input_ids=torch.full((1, encoder.max_positions + 1), 5))


def test_pooler_is_absent_where_the_checkpoint_has_none(checkpoint: Checkpoint) -> None:
    assert load_encoder(str(checkpoint("roberta")), offline=True).model.pooler is None
    assert load_encoder(str(checkpoint("bert")), offline=True).model.pooler is not None


def test_gpt2_pads_with_its_end_token_on_the_right(checkpoint: Checkpoint) -> None:
    tokenizer = load_encoder(str(checkpoint("gpt2")), offline=True).tokenizer
    assert (tokenizer.pad_token, tokenizer.padding_side) == (tokenizer.eos_token, "right")


def test_weights_are_those_of_the_checkpoint(minilm: str) -> None:
    encoder = load_encoder(minilm, offline=True)
    with quiet_transformers():
        expected = AutoModel.from_pretrained(minilm).state_dict()
    found = encoder.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert (encoder.n_layers, encoder.dim, encoder.classification, encoder.final_norm) == (6, 384, "first", False)


def test_random_weights_follow_the_seed_and_the_initialiser(minilm: str) -> None:
    one, same, other = (load_encoder(minilm, init="random", seed=s, offline=True).model for s in (0, 0, 1))
    word = [model.embeddings.word_embeddings.weight for model in (one, same, other)]
    assert torch.equal(word[0], word[1])
    assert not torch.equal(word[0], word[2])
    assert word[0].std().item() == pytest.approx(0.02, rel=0.01)
    assert not torch.equal(word[0], load_encoder(minilm, offline=True).model.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_global_generators_are_left_alone(checkpoint: Checkpoint, init: str) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    load_encoder(str(checkpoint("roberta")), init=init, offline=True)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_logging_is_restored() -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with quiet_transformers():
        assert transformers_logging.get_verbosity() == transformers_logging.ERROR
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (("config.json",), "no config.json"),
        (("model.safetensors",), "no model.safetensors"),
        (("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
    ],
)
def test_incomplete_folder_is_named(
    checkpoint: Checkpoint, tmp_path: Path, removed: tuple[str, ...], message: str
) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(InputError, match=message) as error:
        load_encoder(str(folder), offline=True)
    assert error.value.problems[0].place == str(folder)


def test_missing_folder_is_named() -> None:
    with pytest.raises(InputError, match=r"\./no/such/model: no such folder"):
        load_encoder("./no/such/model")


def test_absent_hub_name_says_how_to_go_on_offline() -> None:
    with pytest.raises(InputError, match=r"cannot be loaded.*without --offline"):
        load_encoder("nobody/nothing-of-this-name", revision="0" * 40, offline=True)


def test_unknown_architecture_and_encoder_decoders_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_architecture"}))
    with pytest.raises(InputError, match="no_such_architecture"):
        load_encoder(str(folder), offline=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(InputError, match="encoder-decoder"):
        load_encoder(str(folder), offline=True)


def test_weights_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    shutil.copy(checkpoint("xlnet") / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(InputError, match="no weights for"):
        load_encoder(str(folder), offline=True)


def test_truncated_weights_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(str(folder), offline=True)
