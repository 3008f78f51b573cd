"""Low-rank updates: nothing changes at first, only they are trained, and merging gives the plain model back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ftprobe.errors import InputError
from ftprobe.models.load import Encoder, load_encoder, quiet_transformers
from ftprobe.models.lora import add_lora, merge_lora

Checkpoint = Callable[[str], Path]
RANK, ALPHA = 4, 8.0
# Adapted projections of two blocks; fused ones count once, ALBERT's blocks are one.
ADAPTED = {"albert": 2, "deberta": 2, "gpt2": 2}


def last_state(encoder: Encoder) -> Tensor:
    ids = torch.randint(4, 44, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state: Tensor = encoder.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return state


def trained(encoder: Encoder) -> dict[str, Tensor]:
    return {name: p for name, p in encoder.model.named_parameters() if p.requires_grad}


def train(encoder: Encoder) -> None:
    ids = torch.randint(4, 44, (3, 7), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        encoder.model(input_ids=ids).last_hidden_state[..., 0].square().mean().backward()
        optimiser.step()


def test_update_zero_is_the_base_and_only_the_update_is_trained(checkpoint: Checkpoint, family: str) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    before = last_state(encoder)
    base = {name: p.clone() for name, p in encoder.model.state_dict().items()}
    state = torch.get_rng_state()
    add_lora(encoder, rank=RANK, alpha=ALPHA, dropout=0.0, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(last_state(encoder), before)
    assert len(trained(encoder)) == 2 * ADAPTED.get(family, 4)
    assert all("lora_A" in name or "lora_B" in name for name in trained(encoder))
    train(encoder)
    assert not torch.allclose(last_state(encoder), before, atol=1e-3)
    for name, p in encoder.model.state_dict().items():
        plain = name.replace(".base_layer.", ".").replace("parametrizations.", "").replace(".original", "")
        assert "lora_" in name or torch.equal(p, base[plain])


def test_merged_equals_unmerged_and_is_the_plain_model(checkpoint: Checkpoint, family: str, tmp_path: Path) -> None:
    plain = load_encoder(str(checkpoint(family)), offline=True)
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    add_lora(encoder, rank=RANK, alpha=ALPHA, dropout=0.0, seed=0)
    train(encoder)
    unmerged, merged = last_state(encoder), merge_lora(encoder)
    assert (last_state(merged) - unmerged).abs().max() < 1e-5
    assert type(merged.model) is type(plain.model)
    assert list(merged.model.state_dict()) == list(plain.model.state_dict())
    assert torch.equal(last_state(encoder), unmerged)
    changed = {
        name for name, p in merged.model.state_dict().items() if not torch.equal(p, plain.model.state_dict()[name])
    }
    assert len(changed) == ADAPTED.get(family, 4)
    with quiet_transformers():
        merged.model.save_pretrained(tmp_path)
        merged.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(last_state(load_encoder(str(tmp_path), offline=True)), last_state(merged))


def test_the_update_is_scaled_by_alpha_over_rank(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    name = "encoder.layer.1.attention.self.value"
    before = encoder.model.get_submodule(name).weight.clone()
    add_lora(encoder, rank=RANK, alpha=ALPHA, dropout=0.0, seed=0)
    train(encoder)
    a_RD, b_ER = (encoder.model.get_parameter(f"{name}.lora_{part}.default.weight") for part in "AB")
    found = merge_lora(encoder).model.get_submodule(name).weight
    assert torch.allclose(found, before + ALPHA / RANK * b_ER @ a_RD, atol=1e-6)


def test_a_is_drawn_with_variance_one_over_rank_under_the_seed(minilm: str) -> None:
    drawn = []
    for seed in (0, 0, 1):
        encoder = load_encoder(minilm, offline=True)
        add_lora(encoder, rank=8, alpha=16, dropout=0.1, seed=seed)
        drawn.append(trained(encoder))
    assert len(drawn[0]) == 2 * 2 * 6
    for name, p in drawn[0].items():
        assert torch.equal(p, drawn[1][name])
        if "lora_B" in name:
            assert not p.any()
        else:
            assert not torch.equal(p, drawn[2][name])
            assert p.std().item() == pytest.approx(1 / math.sqrt(8), rel=0.1)


def test_dropout_acts_on_the_update_in_training_only(minilm: str) -> None:
    encoder = load_encoder(minilm, offline=True)
    for module in encoder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    add_lora(encoder, rank=8, alpha=16, dropout=0.5, seed=0)
    with torch.no_grad():
        for p in trained(encoder).values():
            p.fill_(0.1)
    steady = last_state(encoder)
    assert torch.equal(steady, last_state(encoder))
    encoder.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(last_state(encoder), steady)


def test_dropout_of_bare_tensors_and_unknown_projections_are_refused(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("xlnet")), offline=True)
    with pytest.raises(InputError, match=r"XLNet's projections are bare tensors.*set dropout to 0"):
        add_lora(encoder, rank=RANK, alpha=ALPHA, dropout=0.1, seed=0)
    other = load_encoder(str(checkpoint("bert")), offline=True)
    for block in other.model.encoder.layer:
        block.attention.self = torch.nn.Identity()
    with pytest.raises(InputError, match="no query and value projections are known for bert"):
        add_lora(other, rank=RANK, alpha=ALPHA, dropout=0.0, seed=0)
    for refused in (encoder, other):
        assert all(p.requires_grad for p in refused.model.parameters())
