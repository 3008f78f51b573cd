"""Masked-LM perplexity on tiny models: closed forms, the pre-trained model given back, and one by one by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinylm
import torch
from transformers import AutoModelForMaskedLM

from ftprobe.compare import perplexity_run
from ftprobe.compare.blocks import cut, masked
from ftprobe.compare.comparison import States
from ftprobe.compare.inputs import tokenizer_hash
from ftprobe.compare.perplexity import PerplexityOptions
from ftprobe.compare.recovery import recovery
from ftprobe.errors import InputError
from ftprobe.measurement import Outcome
from ftprobe.models.load import Encoder, load_encoder, quiet_transformers
from ftprobe.models.masked_lm import MaskedLM, load_masked_lm
from ftprobe.tasks.types import Corpus, Sentence


def corpus(n_lines: int = 30, *, seed: int = 0) -> Corpus:
    generator = np.random.default_rng(seed)
    lines = (" ".join(generator.choice([*tinylm.WORDS, "<unk>"], generator.integers(0, 12))) for _ in range(n_lines))
    return Corpus("words", tuple(Sentence(str(n), "test", line) for n, line in enumerate(lines)))


def loaded(folder: Path, family: str = "bert") -> MaskedLM:
    return load_masked_lm(str(tinylm.save(folder, family)), offline=True)


def tuned_from(base: Encoder, seed: int = 7) -> Encoder:
    """The same architecture with every parameter moved."""
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return tuned


def run(
    masked_lm: MaskedLM, state: Encoder | None, *, seed: int = 0, text: Corpus | None = None, **opts: Any
) -> Outcome:
    text = corpus() if text is None else text
    states = States(lambda: masked_lm.encoder, None if state is None else lambda: state, lambda: masked_lm)
    settings = PerplexityOptions(**{"block": 16, **opts})
    rows, said = range(len(text.sentences)), []
    outcome = perplexity_run.run(settings, text, rows, states, seed=seed, device="cpu", threads=1, report=said.append)
    assert said[-1]["blocks_done"] == said[-1]["blocks"] == outcome.facts["n_blocks"]
    return outcome


def values(outcome: Outcome) -> dict[str, float]:
    return {m.metric: m.value for m in outcome.measurements}


@pytest.mark.parametrize("masking", ["random15", "mask_only", "pseudo"])
def test_uniform_logits_give_the_size_of_the_vocabulary(tmp_path: Path, masking: str) -> None:
    masked_lm = loaded(tmp_path)
    with torch.no_grad():
        masked_lm.head.W_VE.zero_()
        masked_lm.head.b_V.zero_()
    assert values(run(masked_lm, None, masking=masking))["mlm_ppl"] == pytest.approx(len(tinylm.VOCABULARY), rel=1e-12)


@pytest.mark.parametrize("family", tinylm.MASKED)
def test_every_masked_position_once_by_hand(tmp_path: Path, family: str) -> None:
    masked_lm = loaded(tmp_path, family)
    outcome = run(masked_lm, None, seed=3)
    with quiet_transformers():
        model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    nll = []
    for index, block in enumerate(cut(masked_lm.encoder, [s.text for s in corpus().sentences], block=16)):
        (one,) = masked(block, index, masked_lm.encoder, masking="random15", seed=3)
        with torch.inference_mode():
            logits_SV = model(input_ids=torch.from_numpy(one.id_S)[None]).logits[0].double()
        nll += (-logits_SV.log_softmax(1))[one.place_M, one.target_M].tolist()
    assert values(outcome)["mlm_nll"] == pytest.approx(np.mean(nll), abs=1e-6)
    assert values(outcome)["mlm_ppl"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-6)
    assert {m.n_items for m in outcome.measurements} == {len(nll)}


def test_pseudo_masks_every_sub_word_of_the_text(tmp_path: Path) -> None:
    outcome = run(loaded(tmp_path), None, masking="pseudo")
    assert {m.n_items for m in outcome.measurements} == {outcome.facts["n_subwords"]}


@pytest.mark.parametrize("decoder", ["pretrained", "tied_tuned"])
def test_the_pretrained_encoder_gives_the_pretrained_perplexity_bitwise(tmp_path: Path, decoder: str) -> None:
    masked_lm = loaded(tmp_path)
    again = load_encoder(str(tmp_path), offline=True)
    assert values(run(masked_lm, again, decoder=decoder)) == values(run(masked_lm, None))


def test_replacing_every_block_gives_the_pretrained_perplexity_back(tmp_path: Path) -> None:
    masked_lm = loaded(tmp_path)
    base, tuned = masked_lm.encoder, tuned_from(masked_lm.encoder)
    nll = []
    for m in range(base.n_layers + 1):
        replaced = copy.deepcopy(tuned)
        for layer in range(base.n_layers - m, base.n_layers):
            replaced.model.encoder.layer[layer].load_state_dict(base.model.encoder.layer[layer].state_dict())
        if m == base.n_layers:
            replaced.model.embeddings.load_state_dict(base.model.embeddings.state_dict())
        nll.append(values(run(masked_lm, replaced))["mlm_nll"])
    pretrained = values(run(masked_lm, None))["mlm_nll"]
    assert nll[0] == values(run(masked_lm, tuned))["mlm_nll"]
    assert nll[-1] == pretrained != nll[0]
    found = recovery(nll, nll_tuned=nll[0], nll_pretrained=pretrained)
    assert (found[0], found[-1]) == (0.0, 1.0)
    assert found[1] == pytest.approx((nll[0] - nll[1]) / (nll[0] - pretrained))


def test_nothing_lost_is_nothing_to_recover() -> None:
    assert np.isnan(recovery([1.0, 2.0], nll_tuned=2.0, nll_pretrained=2.0)).all()


def test_the_decoder_is_the_checkpoints_or_the_states_own(tmp_path: Path) -> None:
    masked_lm = loaded(tmp_path)
    tuned = tuned_from(masked_lm.encoder)
    own, tied = (run(masked_lm, tuned, decoder=decoder) for decoder in ("pretrained", "tied_tuned"))
    assert values(own)["mlm_nll"] != values(tied)["mlm_nll"]
    assert [m.detail["decoder"] for m in (own.measurements[0], tied.measurements[0])] == ["pretrained", "tied_tuned"]


def test_batches_do_not_change_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked_lm = loaded(tmp_path)
    whole = values(run(masked_lm, None))["mlm_nll"]
    for tokens, size in ((1, 1 << 27), (64, 1 << 27), (1024, 3000)):
        monkeypatch.setattr(perplexity_run, "_CPU_TOKENS", tokens)
        monkeypatch.setattr(perplexity_run, "_LOGIT_BYTES", size)
        assert values(run(masked_lm, None))["mlm_nll"] == pytest.approx(whole, abs=1e-6)


def test_the_record_says_seed_masking_and_tokenizer(tmp_path: Path) -> None:
    masked_lm = loaded(tmp_path)
    outcome = run(masked_lm, None, seed=5, masking="mask_only")
    assert (outcome.facts["seed"], outcome.facts["masking"]) == (5, "mask_only")
    assert {m.detail["tokenizer"] for m in outcome.measurements} == {tokenizer_hash(masked_lm.encoder)}
    assert [(m.metric, m.unit, m.layer) for m in outcome.measurements] == [
        ("mlm_nll", "nat", None),
        ("mlm_ppl", "perplexity", None),
    ]
    assert values(run(masked_lm, None, seed=5)) == values(run(masked_lm, None, seed=5))
    assert values(run(masked_lm, None, seed=5)) != values(run(masked_lm, None, seed=6))


@pytest.mark.parametrize("family", ["xlnet", "roberta"])
def test_a_checkpoint_without_head_is_refused_in_its_rows(tmp_path: Path, family: str) -> None:
    folder = str(tinylm.save(tmp_path, family, head=False))
    encoder = load_encoder(folder, offline=True)
    states = States(lambda: encoder, None, lambda: load_masked_lm(folder, offline=True))
    settings, text = PerplexityOptions(), corpus()
    outcome = perplexity_run.run(
        settings, text, range(5), states, seed=0, device="cpu", threads=1, report=lambda _: None
    )
    assert [(m.metric, m.status) for m in outcome.measurements] == [("mlm_nll", "refused"), ("mlm_ppl", "refused")]
    assert all(math.isnan(m.value) and "masked-LM head" in str(m.detail["reason"]) for m in outcome.measurements)


def test_diverged_weights_are_named(tmp_path: Path) -> None:
    masked_lm = loaded(tmp_path)
    tuned = tuned_from(masked_lm.encoder)
    with torch.no_grad():
        tuned.model.encoder.layer[1].output.dense.weight.fill_(math.nan)
    with pytest.raises(InputError, match="words: masked-LM logits are not finite"):
        run(masked_lm, tuned)
