"""Surgery on encoders of every architecture: what stays bit for bit, what changes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ftprobe.errors import InputError
from ftprobe.models import surgery
from ftprobe.models.load import Encoder, load_encoder, quiet_transformers

Make = Callable[..., Encoder]
L = 4
SEPARATE = ("bert", "deberta", "deberta-v2", "distilbert", "gpt2", "roberta", "xlnet")
# Names of what feeds the blocks and of the blocks, written out for each architecture.
EMBEDDINGS = {
    "albert": ("embeddings.", "encoder.embedding_hidden_mapping_in."),
    "bert": ("embeddings.",),
    "deberta": ("embeddings.", "encoder.rel_embeddings."),
    "deberta-v2": ("embeddings.", "encoder.rel_embeddings."),
    "distilbert": ("embeddings.",),
    "gpt2": ("wte.", "wpe."),
    "roberta": ("embeddings.",),
    "xlnet": ("word_embedding.", "mask_emb"),
}
MORE = {"albert": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}}
BLOCK = {"distilbert": "transformer.layer.{}.", "gpt2": "h.{}.", "xlnet": "layer.{}."}


def inputs(encoder: Encoder) -> dict[str, Tensor]:
    ids = torch.randint(4, 44, (3, 7), generator=torch.Generator().manual_seed(0))
    # XLNet reads some of its parameters only where there are segments.
    segments = {"token_type_ids": ids % 2} if encoder.model.config.model_type == "xlnet" else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **segments}


def states(encoder: Encoder) -> list[Tensor]:
    with torch.no_grad():
        return list(encoder.model(**inputs(encoder), output_hidden_states=True).hidden_states)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in encoder.model.named_parameters()}


def block_name(family: str, number: int) -> str:
    if family == "albert":
        return "encoder.albert_layer_groups.0."
    return BLOCK.get(family, "encoder.layer.{}.").format(number - 1)


def reloaded(encoder: Encoder, folder: Path) -> Encoder:
    with quiet_transformers():
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
    return load_encoder(str(folder), offline=True)


@pytest.fixture
def make(checkpoint: Callable[[str], Path]) -> Make:
    """An encoder of four blocks with large random weights, by architecture and seed."""

    def made(family: str, seed: int = 0, **settings: Any) -> Encoder:
        folder = checkpoint(family if family in EMBEDDINGS else "roberta")
        with torch.random.fork_rng(), quiet_transformers():
            torch.manual_seed(seed)
            like = load_encoder(str(folder), offline=True)
            if family in EMBEDDINGS:
                config = like.model.config
                for name, value in {"num_hidden_layers": L, **MORE.get(family, {}), **settings}.items():
                    setattr(config, name, value)
            else:
                config = AutoConfig.for_model(family, vocab_size=44, num_hidden_layers=L, **settings)
            model = AutoModel.from_config(config)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.3)
        if getattr(like.model, "pooler", None) is None:
            model.pooler = None
        return like._replace(model=model.eval(), n_layers=config.num_hidden_layers)

    return made


def test_keeping_every_block_changes_nothing(make: Make, family: str) -> None:
    encoder = make(family)
    before = states(encoder)
    assert len(before) == L + 1
    for kept in (surgery.truncate(encoder, L), surgery.prune_top(encoder, 0), surgery.prune_bottom(encoder, 0)):
        assert kept.n_layers == L
        assert same(states(kept), before)


def test_truncation_gives_the_lower_layers_and_keeps_the_final_norm(make: Make, family: str) -> None:
    encoder = make(family)
    before = states(encoder)
    for k in range(1, L + 1):
        cut = surgery.truncate(encoder, k)
        found = states(cut)
        assert cut.n_layers == len(found) - 1 == k
        assert same(found[:-1], before[:k])
        last = encoder.model.ln_f(before[k]) if family == "gpt2" and k < L else before[k]
        assert torch.equal(found[-1], last)
        assert same(states(surgery.prune_top(encoder, L - k)), found)


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("k", [1, 3])
def test_pruning_the_bottom_composes_the_kept_blocks(make: Make, family: str, k: int) -> None:
    encoder = make(family)
    seen: list[tuple[Any, Any]] = []
    kept = surgery.blocks(encoder)
    hook = kept[0].register_forward_pre_hook(lambda _, args, named: seen.append((args, named)), with_kwargs=True)
    states(encoder)
    hook.remove()
    (args, named), final = seen[0], []
    by_name = not args
    h = named["hidden_states"] if by_name else args[0]
    with torch.no_grad():
        for block in kept[k:]:
            out = block(**{**named, "hidden_states": h}) if by_name else block(h, *args[1:], **named)
            h = out[0] if isinstance(out, tuple) else out
        final = encoder.model.ln_f(h) if family == "gpt2" else h
    pruned = surgery.prune_bottom(encoder, k)
    expected = final.permute(1, 0, 2) if family == "xlnet" else final
    assert torch.equal(states(pruned)[-1], expected)
    assert len(states(pruned)) == L - k + 1 == pruned.n_layers + 1


def test_surgery_survives_saving_and_loading(make: Make, family: str, tmp_path: Path) -> None:
    encoder, other = make(family), make(family, seed=1)
    m = L if family == "albert" else 2
    for number, cut in enumerate(
        [
            surgery.truncate(encoder, 3),
            surgery.prune_bottom(encoder, 1),
            surgery.reinitialise(encoder, m, seed=0),
            surgery.replace_top(encoder, other, m, embeddings="tuned"),
        ]
    ):
        again = reloaded(cut, tmp_path / str(number))
        assert again.n_layers == cut.n_layers
        assert same(states(again), states(cut))


def test_the_original_is_left_alone_and_shares_nothing(make: Make, family: str) -> None:
    encoder = make(family)
    before, weights = states(encoder), tensors(encoder)
    for cut in (surgery.truncate(encoder, 2), surgery.randomize(encoder, seed=0, scheme="shuffle")):
        with torch.no_grad():
            for parameter in cut.model.parameters():
                parameter.zero_()
    assert encoder.model.config.num_hidden_layers == L
    assert all(torch.equal(p, weights[name]) for name, p in encoder.model.named_parameters())
    assert same(states(encoder), before)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_blocks_are_numbered_anew(make: Make, family: str) -> None:
    numbers = [
        {m.layer_idx for m in block.modules() if hasattr(m, "layer_idx")}
        for block in surgery.blocks(surgery.prune_bottom(make(family), 2))
    ]
    assert numbers == [{0}, {1}]


@pytest.mark.parametrize(
    ("family", "k"), [(family, k) for family in sorted(EMBEDDINGS) for k in (0, 2, L) if (family, k) != ("albert", 2)]
)
def test_frozen_tensors_stay_bit_for_bit_under_weight_decay(make: Make, family: str, k: int) -> None:
    encoder = make(family)
    before, lower = tensors(encoder), states(encoder)
    surgery.freeze(encoder, k, dropout="on")
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        loss = encoder.model.train()(**inputs(encoder)).last_hidden_state.square().mean()
        if loss.requires_grad:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    frozen = EMBEDDINGS[family] + tuple(block_name(family, n) for n in range(1, k + 1))
    after = tensors(encoder)
    for name in before:
        if k == L or name.startswith(frozen):
            assert torch.equal(after[name], before[name]), name
        elif not name.startswith("pooler"):
            assert not torch.equal(after[name], before[name]), name
    encoder.model.eval()
    assert same(states(encoder)[: k + 1], lower[: k + 1])


def test_frozen_dropout_off_outlives_training_mode(make: Make, family: str) -> None:
    k = 0 if family == "albert" else 2
    encoder = make(family)
    lower = states(encoder)
    surgery.freeze(encoder, k, dropout="off")
    for mode in (True, False, True):
        encoder.model.train(mode)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = states(encoder)
    assert same(found[: k + 1], lower[: k + 1])
    assert not torch.equal(found[k + 1], lower[k + 1])


def test_dropout_of_frozen_blocks_is_on_where_asked_for(make: Make, family: str) -> None:
    encoder = make(family)
    lower = states(encoder)
    surgery.freeze(encoder, L, dropout="on")
    encoder.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(states(encoder)[0], lower[0])
    surgery.freeze(encoder, L, dropout="off")
    encoder.model.train()
    assert same(states(encoder), lower)


def test_upper_blocks_are_drawn_anew_by_the_initialiser(make: Make, family: str) -> None:
    k = L if family == "albert" else 2
    encoder = make(family)
    state = torch.get_rng_state()
    drawn, again, other = (surgery.reinitialise(encoder, k, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    upper = tuple(block_name(family, n) for n in range(L - k + 1, L + 1))
    weights, repeated, others = tensors(drawn), tensors(again), tensors(other)
    for name, before in tensors(encoder).items():
        assert torch.equal(weights[name], repeated[name])
        assert torch.equal(weights[name], before) != name.startswith(upper), name
        if name.startswith(upper) and before.dim() > 1:
            assert not torch.equal(weights[name], others[name])
            assert weights[name].std() < 0.03


def test_all_drawn_anew_is_the_random_checkpoint(minilm: str) -> None:
    encoder = load_encoder(minilm, offline=True)
    expected = load_encoder(minilm, init="random", seed=3, offline=True).model.state_dict()
    for drawn in (surgery.reinitialise(encoder, "all", seed=3), surgery.randomize(encoder, seed=3)):
        found = drawn.model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("scheme", ["init", "shuffle"])
def test_randomized_embeddings_can_be_the_pretrained_ones(make: Make, family: str, scheme: Any) -> None:
    encoder = make(family)
    whole, kept = (
        tensors(surgery.randomize(encoder, seed=0, scheme=scheme, embeddings=embeddings))
        for embeddings in ("random", "pretrained")
    )
    for name, before in tensors(encoder).items():
        assert not torch.equal(whole[name], before), name
        assert torch.equal(kept[name], before if name.startswith(EMBEDDINGS[family]) else whole[name]), name


def test_shuffling_keeps_the_entries_of_each_tensor(make: Make, family: str) -> None:
    encoder = make(family)
    state = torch.get_rng_state()
    one, other = (tensors(surgery.randomize(encoder, seed=seed, scheme="shuffle")) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, before in tensors(encoder).items():
        assert torch.equal(one[name].flatten().sort().values, before.flatten().sort().values)
        assert not torch.equal(one[name], other[name])


def test_replacing_nothing_and_everything(make: Make, family: str) -> None:
    tuned, base = make(family), make(family, seed=1)
    assert same(states(surgery.replace_top(tuned, base, 0, embeddings="tuned")), states(tuned))
    whole = surgery.replace_top(tuned, base, L, embeddings="pretrained")
    expected = tensors(base)
    assert all(torch.equal(p, expected[name]) for name, p in whole.model.named_parameters())
    assert same(states(whole), states(base))
    with torch.no_grad():
        for parameter in whole.model.parameters():
            parameter.zero_()
    assert all(torch.equal(p, expected[name]) for name, p in base.model.named_parameters())


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("embeddings", ["tuned", "pretrained"])
def test_replacing_the_top_takes_blocks_and_what_follows_from_the_base(
    make: Make, family: str, embeddings: Any
) -> None:
    tuned, base = make(family), make(family, seed=1)
    own, pretrained = tensors(tuned), tensors(base)
    found = tensors(surgery.replace_top(tuned, base, 1, embeddings=embeddings))
    lower = tuple(block_name(family, n) for n in range(1, L))
    kept = lower + (EMBEDDINGS[family] if embeddings == "tuned" else ())
    assert all(torch.equal(p, (own if name.startswith(kept) else pretrained)[name]) for name, p in found.items())


def frozen_at_zero(encoder: Encoder) -> list[str]:
    """The first names of the parameters that `freeze: 0` takes out of training, in place."""
    surgery.freeze(encoder, 0, dropout="on")
    parameters = encoder.model.named_parameters()
    return list(dict.fromkeys(name.partition(".")[0] for name, p in parameters if not p.requires_grad))


def test_parts_of_a_real_checkpoint(minilm: str) -> None:
    encoder = load_encoder(minilm, offline=True)
    before = states(encoder)
    assert len(surgery.blocks(encoder)) == encoder.n_layers == 6
    assert same(states(surgery.truncate(encoder, 6)), before)
    assert same(states(surgery.truncate(encoder, 4)), before[:5])
    assert frozen_at_zero(load_encoder(minilm, offline=True)) == ["embeddings"]
    other = surgery.reinitialise(encoder, "all", seed=0)
    assert same(states(surgery.replace_top(other, encoder, 6, embeddings="pretrained")), before)


def test_shared_blocks_refuse_what_has_no_meaning(make: Make) -> None:
    encoder, base = make("albert"), make("albert", seed=1)
    for refused in (
        lambda: surgery.freeze(encoder, 2, dropout="on"),
        lambda: surgery.reinitialise(encoder, 1, seed=0),
        lambda: surgery.replace_top(encoder, base, 3, embeddings="tuned"),
    ):
        with pytest.raises(InputError, match=r"albert are one set of parameters.*give 0 or 4"):
            refused()
    with pytest.raises(InputError, match="one set of parameters"):
        surgery.blocks(encoder)
    assert all(p.requires_grad for p in encoder.model.parameters())
    assert same(states(surgery.prune_bottom(encoder, 1)), states(surgery.prune_top(encoder, 1)))
    grouped = make("albert", num_hidden_groups=2)
    assert same(states(surgery.truncate(grouped, L)), states(grouped))
    with pytest.raises(InputError, match="2 groups of shared blocks"):
        surgery.truncate(grouped, 3)


def test_deberta_convolution_belongs_to_the_first_block(make: Make, tmp_path: Path) -> None:
    encoder, base = (make("deberta-v2", seed, conv_kernel_size=3) for seed in (0, 1))
    conv = encoder.model.encoder.conv.conv.weight
    pruned = surgery.prune_bottom(encoder, 1)
    assert pruned.model.encoder.conv is None
    assert same(states(reloaded(pruned, tmp_path)), states(pruned))
    found = [surgery.replace_top(encoder, base, m, embeddings="tuned").model.encoder.conv.conv.weight for m in (3, 4)]
    assert [torch.equal(weight, conv) for weight in found] == [True, False]
    surgery.freeze(encoder, 0, dropout="on")
    assert conv.requires_grad
    surgery.freeze(encoder, 1, dropout="on")
    assert not conv.requires_grad


def test_blocks_that_depend_on_their_number_stay_where_they_are(make: Make) -> None:
    encoder = make("gpt2", scale_attn_by_inverse_layer_idx=True)
    assert same(states(surgery.truncate(encoder, 2))[:2], states(encoder)[:2])
    with pytest.raises(InputError, match="gpt2 a block's scaling depends on its number"):
        surgery.prune_bottom(encoder, 1)


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def test_other_architectures_are_cut_by_their_one_list_of_blocks(make: Make, tmp_path: Path) -> None:
    for family in ("electra", "gemma2"):
        more = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 3} if family == "gemma2" else {}
        encoder = make(family, **SMALL, **more, pad_token_id=0, use_cache=False)
        pruned = surgery.prune_bottom(encoder, 1)
        assert same(states(surgery.truncate(encoder, L)), states(encoder))
        assert same(states(reloaded(pruned, tmp_path / family)), states(pruned))
        assert frozen_at_zero(encoder)[0] == ("embed_tokens" if family == "gemma2" else "embeddings")
        if family == "gemma2":
            assert pruned.model.config.layer_types == encoder.model.config.layer_types[1:]


def test_what_is_no_stack_of_blocks_is_refused(make: Make) -> None:
    encoder = make("xlm", emb_dim=16, n_heads=2)
    with pytest.raises(InputError, match="cannot tell the blocks of xlm: 4 lists of 4 modules"):
        surgery.truncate(encoder, 2)


@pytest.mark.parametrize(
    ("operation", "wrong", "allowed"),
    [
        (surgery.truncate, (0, 5), "give 1 to 4"),
        (surgery.prune_top, (-1, 4), "give 0 to 3"),
        (surgery.prune_bottom, (-1, 4), "give 0 to 3"),
        (lambda e, k: surgery.freeze(e, k, dropout="on"), (-1, 5), "give 0 to 4"),
        (lambda e, k: surgery.reinitialise(e, k, seed=0), (-1, 5), "give 0 to 4"),
        (lambda e, k: surgery.replace_top(e, e, k, embeddings="tuned"), (-1, 5), "give 0 to 4"),
    ],
)
def test_numbers_out_of_range_are_named(
    make: Make, operation: Callable[[Encoder, int], object], wrong: tuple[int, ...], allowed: str
) -> None:
    encoder = make("bert")
    for k in wrong:
        with pytest.raises(InputError, match=f"{k} is out of range for the 4 blocks of this bert; {allowed}"):
            operation(encoder, k)


def test_layers_of_another_architecture_are_refused(make: Make) -> None:
    bert = make("bert")
    with pytest.raises(InputError, match="differ in model_type: bert and roberta"):
        surgery.replace_top(bert, make("roberta"), 1, embeddings="tuned")
    with pytest.raises(InputError, match="differ in num_hidden_layers: 4 and 3"):
        surgery.replace_top(bert, make("bert", num_hidden_layers=3), 1, embeddings="tuned")
    with pytest.raises(InputError, match=r"differ in the shape of embeddings\.word_embeddings\.weight"):
        surgery.replace_top(bert, make("bert", vocab_size=50), 1, embeddings="tuned")
