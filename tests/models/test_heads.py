"""Classification heads on every architecture, against formulas written out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ftprobe.models.heads import Classifier, Pooled, Pooler, set_dropout
from ftprobe.models.inputs import encode, pad
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.tasks.types import Sentence

Checkpoint = Callable[[str], Path]


def classifier(
    encoder: Encoder, pooled: Pooled = "cls", pooler: Pooler = "pretrained", dropout: float = 0.0, seed: int = 0
) -> Classifier:
    head = Classifier(encoder, 3, pooled=pooled, pooler=pooler, dropout=dropout, seed=seed)
    with torch.no_grad():
        # New weights are so small that logits of different texts would pass for equal.
        head.output.weight.mul_(50)
        if head.dense is not None and head.pooler == "fresh":
            head.dense.weight.mul_(25)
    return head


def batch_of(encoder: Encoder, *texts: str, text_b: str | None = None) -> dict[str, Tensor]:
    sentences = [Sentence(str(n), "train", text, text_b) for n, text in enumerate(texts)]
    return pad(encoder, encode(encoder, sentences, max_length=32).features_N)


def ragged(n: int) -> list[str]:
    return [" ".join(f"w{(i * 7 + j) % 40}" for j in range(1 + i * 5 % 11)) for i in range(n)]


@pytest.mark.parametrize("pooled", ["cls", "mean"])
def test_padding_does_not_change_the_logits(checkpoint: Checkpoint, family: str, pooled: Pooled) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    head = classifier(encoder, pooled).eval()
    alone = head(**batch_of(encoder, "w1 w2"))
    padded = head(**batch_of(encoder, "w1 w2", "w3 w4 w5 w6 w7 w8"))
    assert not torch.allclose(padded[0], padded[1], atol=1e-2)
    torch.testing.assert_close(padded[0], alone[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("pooled", ["cls", "mean"])
def test_groups_of_like_length_equal_the_whole_batch(checkpoint: Checkpoint, family: str, pooled: Pooled) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    head = classifier(encoder, pooled)
    batch = batch_of(encoder, *ragged(21))
    whole, grouped = head.eval()(**batch), head.train()(**batch)
    torch.testing.assert_close(grouped, whole, atol=2e-5, rtol=1e-5)


def test_head_is_the_formula(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    batch = batch_of(encoder, "w1 w2", "w3 w4 w5")
    h_NSD = encoder.model(**batch).last_hidden_state
    mask = batch["attention_mask"].bool()
    mean_ND = torch.stack([h[m].mean(0) for h, m in zip(h_NSD, mask, strict=True)])
    for pooled, h_ND in (("cls", h_NSD[:, 0]), ("mean", mean_ND)):
        for pooler in ("pretrained", "fresh", "none"):
            head = classifier(encoder, pooled, pooler).eval()  # type: ignore[arg-type]
            dense = encoder.model.pooler.dense if pooler == "pretrained" else head.dense
            z_ND = h_ND if dense is None else torch.tanh(h_ND @ dense.weight.T + dense.bias)
            expected = z_ND @ head.output.weight.T + head.output.bias
            torch.testing.assert_close(head(**batch), expected, atol=2e-5, rtol=1e-5)


def test_classification_token_of_xlnet_and_gpt2_is_the_last_real_one(checkpoint: Checkpoint) -> None:
    for family in ("xlnet", "gpt2"):
        encoder = load_encoder(str(checkpoint(family)), offline=True)
        head = classifier(encoder, pooler="none").eval()
        states = encoder.model(**batch_of(encoder, "w1 w2 w3")).last_hidden_state
        logits = head(**batch_of(encoder, "w1 w2 w3", "w1 w2 w3 w4 w5"))
        torch.testing.assert_close(logits[0], head.output(states[0, -1]), atol=2e-5, rtol=1e-5)


def test_pooler_falls_back_to_fresh_and_says_so(checkpoint: Checkpoint, family: str) -> None:
    head = classifier(load_encoder(str(checkpoint(family)), offline=True))
    assert head.pooler == ("pretrained" if family in ("bert", "albert") else "fresh")


def test_new_weights_follow_the_seed_and_the_initializer_range(minilm: str) -> None:
    encoder = load_encoder(minilm, offline=True)
    state = torch.get_rng_state()
    one, same, other = (classifier(encoder, pooler="fresh", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.dense is not None
    assert same.dense is not None
    assert other.dense is not None
    assert torch.equal(one.dense.weight, same.dense.weight)
    assert not torch.equal(one.dense.weight, other.dense.weight)
    assert one.dense.weight.std().item() == pytest.approx(25 * 0.02, rel=0.02)
    assert one.dense.bias.abs().max() == 0
    assert one.output.bias.abs().max() == 0


def test_segments_of_a_pair_reach_the_model(checkpoint: Checkpoint) -> None:
    encoder = load_encoder(str(checkpoint("bert")), offline=True)
    head = classifier(encoder).eval()
    batch = batch_of(encoder, "w1 w2", text_b="w3")
    without = head(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert not torch.allclose(head(**batch), without, atol=1e-3)


def test_dropout_reaches_hidden_states_attention_and_head(checkpoint: Checkpoint, family: str) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    head = classifier(encoder, dropout=0.37)
    found = {module.p for module in head.modules() if isinstance(module, nn.Dropout)}
    assert found == {0.37}
    # Every source of randomness in training mode is then one of these.
    batch = batch_of(encoder, "w1 w2 w3")
    assert not torch.equal(head.train()(**batch), head(**batch))
    set_dropout(head, 0.0)
    assert torch.equal(head(**batch), head(**batch))


def test_saved_state_reloads_with_equal_outputs(checkpoint: Checkpoint, family: str, tmp_path: Path) -> None:
    encoder = load_encoder(str(checkpoint(family)), offline=True)
    head = classifier(encoder).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1)
    batch = batch_of(encoder, "w1 w2", "w3 w4 w5")
    head.save(tmp_path, encoder, ["a", "b", "c"])
    again = load_encoder(str(tmp_path), offline=True)
    assert again[2:] == encoder[2:]
    assert batch_of(again, "w1 w2", "w3 w4 w5")["input_ids"].tolist() == batch["input_ids"].tolist()
    assert torch.equal(
        again.model(**batch).last_hidden_state,
        encoder.model(**batch).last_hidden_state,
    )
    with safe_open(tmp_path / "head.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["labels"]) == ["a", "b", "c"]
        assert torch.equal(file.get_tensor("output.weight"), head.output.weight)
    reloaded = classifier(again).eval()
    if head.pooler == "pretrained":
        assert head.dense is not None
        assert reloaded.dense is not None
        assert torch.equal(reloaded.dense.weight, head.dense.weight)
