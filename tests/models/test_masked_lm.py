"""Masked-LM heads: logits are the checkpoint's, the decoder is tied to nothing, and what has no head is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tinylm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from ftprobe.errors import InputError
from ftprobe.models.load import load_encoder, quiet_transformers
from ftprobe.models.masked_lm import MaskedLM, NoMaskedLM, load_masked_lm, with_encoder

IDS = torch.arange(5, 29).reshape(2, 12)


def logits(masked_lm: MaskedLM, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return masked_lm.head(masked_lm.encoder.model(input_ids=ids).last_hidden_state)


def expected(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    with quiet_transformers(), torch.inference_mode():
        return AutoModelForMaskedLM.from_pretrained(folder).eval()(input_ids=ids).logits


@pytest.mark.parametrize("family", tinylm.MASKED)
def test_logits_are_those_of_the_checkpoint(tmp_path: Path, family: str) -> None:
    folder = tinylm.save(tmp_path, family)
    found = logits(load_masked_lm(str(folder), offline=True))
    assert torch.equal(found, expected(folder))
    assert found.std() > 0.1


def test_the_layout_of_deberta_itself_is_read(tmp_path: Path) -> None:
    for family in ("deberta", "deberta-v2"):
        folder = tinylm.save(tmp_path / family, family, legacy=False)
        wanted = expected(folder)
        config = (folder / "config.json").read_text()
        assert '"legacy": false' in config
        (folder / "config.json").write_text(config.replace('"legacy": false', '"legacy": true'))
        assert torch.allclose(logits(load_masked_lm(str(folder), offline=True)), wanted, atol=1e-5)


@pytest.mark.parametrize("family", ["albert", "bert", "distilbert"])
def test_other_embeddings_leave_the_decoder_as_it_was(tmp_path: Path, family: str) -> None:
    folder = tinylm.save(tmp_path, family)
    masked_lm = load_masked_lm(str(folder), offline=True)
    tuned = copy.deepcopy(masked_lm.encoder)
    table = tuned.model.get_input_embeddings().weight
    with torch.no_grad():
        table.mul_(0.5)
    swapped = with_encoder(masked_lm, tuned)
    with torch.inference_mode():
        h = tuned.model(input_ids=IDS).last_hidden_state
    assert torch.equal(logits(swapped), masked_lm.head(h))
    tied = with_encoder(masked_lm, tuned, decoder="tied_tuned")
    assert torch.equal(tied.head.W_VE, table)
    assert torch.equal(tied.head.b_V, masked_lm.head.b_V)
    assert torch.equal(masked_lm.head.W_VE, table * 2)
    assert not torch.allclose(logits(tied), logits(swapped))


def test_the_pretrained_encoder_gives_the_pretrained_logits_bitwise(tmp_path: Path) -> None:
    folder = tinylm.save(tmp_path, "bert")
    masked_lm = load_masked_lm(str(folder), offline=True)
    again = load_encoder(str(folder), offline=True)
    for decoder in ("pretrained", "tied_tuned"):
        assert torch.equal(logits(with_encoder(masked_lm, again, decoder=decoder)), logits(masked_lm))


def test_a_checkpoint_without_head_weights_is_refused(tmp_path: Path, minilm: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(NoMaskedLM, match="no weights of a masked-LM head"):
        load_masked_lm(minilm, offline=True)
    folder = tinylm.save(tmp_path, "roberta", head=False)
    with pytest.raises(NoMaskedLM, match="lm_head"):
        load_masked_lm(str(folder), offline=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_head_without_one_tensor_is_refused(tmp_path: Path) -> None:
    folder = tinylm.save(tmp_path, "bert")
    weights = load_file(folder / "model.safetensors")
    assert weights.pop("cls.predictions.bias") is not None
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NoMaskedLM, match=r"cls\.predictions"):
        load_masked_lm(str(folder), offline=True)


@pytest.mark.parametrize("family", ["gpt2", "xlnet"])
def test_an_architecture_without_head_is_refused(tmp_path: Path, family: str) -> None:
    folder = tinylm.save(tmp_path, family)
    with pytest.raises(NoMaskedLM, match=f"{family} has no masked-LM head; use one of: albert"):
        load_masked_lm(str(folder), offline=True)


def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    masked_lm = load_masked_lm(str(tinylm.save(tmp_path / "bert", "bert")), offline=True)
    for place, family, changes, what in (
        ("roberta", "roberta", {}, "model_type"),
        ("wide", "bert", {"hidden_size": 32}, "hidden_size"),
    ):
        other = load_encoder(str(tinylm.save(tmp_path / place, family, **changes)), offline=True)
        with pytest.raises(InputError, match=what):
            with_encoder(masked_lm, other)
