"""The attention comparison on tiny encoders of every family, against the definition written out with numpy."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinylm
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import wasserstein_distance

from ftprobe.compare import attention_run
from ftprobe.compare.attention import AttentionOptions
from ftprobe.compare.comparison import States
from ftprobe.errors import InputError
from ftprobe.measurement import Measurement, Outcome
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.solvers.attention import distributions, earth_movers_distance, entropy
from ftprobe.tasks.types import Corpus, Sentence

LENGTHS = (3, 9, 1, 6, 3, 12)
Key = tuple[str, int | None, str, int | None]


def corpus(*, empty: bool = False) -> Corpus:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(tinylm.WORDS, n)) for n in LENGTHS]
    texts.append(texts[1])
    if empty:
        texts = ["", *texts]
    return Corpus("words", tuple(Sentence(str(n), "test", text) for n, text in enumerate(texts)))


def encoders(folder: Path, family: str) -> tuple[Encoder, Encoder]:
    folders = [tinylm.save(folder / str(seed), family, seed=seed, head=False) for seed in (0, 1)]
    base, tuned = (load_encoder(str(each), offline=True) for each in folders)
    return base, tuned


def run(base: Encoder, tuned: Encoder | None, text: Corpus, **options: Any) -> Outcome:
    states = States(lambda: base, None if tuned is None else lambda: tuned)
    rows = range(len(text.sentences))
    settings = AttentionOptions(**options)
    return attention_run.run(settings, text, rows, states, seed=0, device="cpu", threads=1, report=lambda _: None)


def keyed(outcome: Outcome) -> dict[Key, Measurement]:
    return {(m.metric, m.layer, str(m.detail["position"]), m.detail["head"]): m for m in outcome.measurements}


def by_hand(base: Encoder, tuned: Encoder, text: Corpus, direction: str) -> dict[Key, float]:
    """Means over sentences, one at a time and without padding, of every block, head and position."""
    found: dict[Key, list[float]] = {}
    for encoder in (base, tuned):
        encoder.model.set_attn_implementation("eager")
    for sentence in text.sentences:
        ids = torch.tensor([base.tokenizer(sentence.text)["input_ids"]])
        if ids.shape[1] < 2:
            continue
        with torch.inference_mode():
            pair = [encoder.model(input_ids=ids, output_attentions=True).attentions for encoder in (base, tuned)]
        cls = 0 if base.classification == "first" else ids.shape[1] - 1
        for layer in range(base.n_layers):
            for head in range(2):
                P, Q = (one[layer][0, head].double().numpy() for one in pair)
                P, Q = (P.T, Q.T) if direction == "to" else (P, Q)
                k = np.arange(len(P))
                values = {
                    "attention_entropy": [float(scipy_entropy(row)) for row in Q],
                    "attention_emd": [wasserstein_distance(k, k, p, q) for p, q in zip(P, Q, strict=True)],
                }
                for metric, value in values.items():
                    others = [v for j, v in enumerate(value) if j != cls]
                    found.setdefault((metric, layer + 1, "cls", head), []).append(value[cls])
                    found.setdefault((metric, layer + 1, "other", head), []).append(sum(others) / len(others))
    means = {key: float(np.mean(values)) for key, values in found.items()}
    for metric, layer, position, _ in list(means):
        both = [means[metric, layer, position, head] for head in range(2)]
        means[metric, layer, position, None] = sum(both) / 2
    return means


@pytest.mark.parametrize("family", sorted(tinylm.CONFIGS))
def test_rows_are_the_definition_of_every_family(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = encoders(tmp_path, family)
    text = corpus()
    monkeypatch.setattr(attention_run, "_CPU_BYTES", 4000)  # several batches, with padding
    found = keyed(run(base, tuned, text))
    expected = by_hand(base, tuned, text, "from")
    assert found.keys() == expected.keys()
    for key, measurement in found.items():
        assert measurement.value == pytest.approx(expected[key], abs=2e-5), key
        assert (measurement.status, measurement.split) == ("ok", "test")
        # A single word makes one sub-word only where the family adds no special ones.
        skipped = 1 if family == "gpt2" else 0
        assert (measurement.n_items, measurement.n_dropped) == (len(text.sentences) - skipped, skipped)


def test_columns_and_units(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    text = corpus()
    found, expected = keyed(run(base, tuned, text, direction="to")), by_hand(base, tuned, text, "to")
    assert all(found[key].value == pytest.approx(expected[key], abs=2e-5) for key in expected)
    plain, bits = keyed(run(base, tuned, text)), keyed(run(base, tuned, text, log_base="2"))
    key = ("attention_entropy", 1, "cls", None)
    assert (plain[key].unit, bits[key].unit) == ("nat", "bit")
    assert bits[key].value == pytest.approx(plain[key].value / math.log(2))
    scaled = keyed(run(base, tuned, text, normalise=True, ground_distance="position_normalised"))
    assert {m.unit for m in scaled.values()} == {"fraction"}
    assert all(0 < m.value <= 1 for m in scaled.values())
    values = keyed(run(base, tuned, text, ground_distance="values"))
    assert values["attention_emd", 1, "cls", None].unit == "probability"


def test_a_state_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    base, _ = encoders(tmp_path, "roberta")
    found = keyed(run(base, copy.deepcopy(base), corpus()))
    assert {m.value for key, m in found.items() if key[0] == "attention_emd"} == {0.0}


def test_the_pretrained_state_alone_has_entropies_only(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    text = corpus()
    alone, pair = keyed(run(tuned, None, text)), keyed(run(base, tuned, text))
    assert {key[0] for key in alone} == {"attention_entropy"}
    assert all(alone[key].value == pytest.approx(pair[key].value, abs=1e-6) for key in alone)


def test_attention_of_a_real_model_agrees_with_scipy(minilm: str) -> None:
    base, tuned = load_encoder(minilm, offline=True), load_encoder(minilm, init="random", offline=True)
    texts = ["The cat sat on the mat.", "Untransformable words, and many more of them than in the other sentence!"]
    inputs = base.tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"]
    weights = []
    for encoder in (base, tuned):
        encoder.model.set_attn_implementation("eager")
        with torch.inference_mode():
            weights.append(encoder.model(**inputs, output_attentions=True).attentions[3])
    P, Q = (distributions(one, mask) for one in weights)
    found, spread = earth_movers_distance(P, Q, mask), entropy(P, mask)
    k = np.arange(mask.shape[1])
    for n, head, j in ((0, 0, 0), (0, 5, 3), (1, 11, 0), (1, 2, 7)):
        p, q = (one[n, head, j].double().numpy() for one in weights)
        assert found[n, head, j].item() == pytest.approx(wasserstein_distance(k, k, p, q), abs=1e-10)
        assert spread[n, head, j].item() == pytest.approx(scipy_entropy(p), abs=1e-10)


def test_progress_ends_at_the_number_of_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = encoders(tmp_path, "bert")
    text, said = corpus(), []
    monkeypatch.setattr(attention_run, "_CPU_BYTES", 1)
    states = States(lambda: base, lambda: tuned)
    settings = AttentionOptions()
    attention_run.run(settings, text, range(7), states, seed=0, device="cpu", threads=1, report=said.append)
    assert [one["sentences_done"] for one in said] == [1, 3, 4, 5, 6, 7]
    assert {one["sentences"] for one in said} == {7}


def test_truncation_and_empty_texts_are_counted(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "gpt2")
    text = corpus(empty=True)
    outcome = run(base, tuned, text, max_length=6)
    assert outcome.facts == {"n_sentences": 6, "n_skipped": 2, "n_truncated": 3}
    assert {m.n_dropped for m in outcome.measurements} == {2}
    nothing = Corpus("words", (Sentence("0", "test", "w1"),))
    with pytest.raises(InputError, match="none of 1 sentences has more than one sub-word"):
        run(base, tuned, nothing)


def test_states_of_unequal_depth_have_no_distance(tmp_path: Path) -> None:
    base, _ = encoders(tmp_path, "bert")
    cut = tinylm.save(tmp_path / "cut", "bert", seed=1, head=False, num_hidden_layers=1)
    outcome = run(base, load_encoder(str(cut), offline=True), corpus())
    refused = [m for m in outcome.measurements if m.metric == "attention_emd"]
    assert [m.status for m in refused] == ["refused"]
    assert "another number of blocks" in str(refused[0].detail["reason"])
    assert {m.layer for m in outcome.measurements if m.metric == "attention_entropy"} == {1}


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    other = tuned._replace(tokenizer=tinylm.tokenizer("bert", tinylm.WORDS[::-1]))
    with pytest.raises(InputError, match="different sub-words"):
        run(base, other, corpus())
    used = copy.deepcopy(base.tokenizer)
    used(["w1 w2 w3"], truncation=True, max_length=3, padding=True)
    assert run(base, tuned._replace(tokenizer=used), corpus()).measurements


def test_diverged_weights_are_named(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    with torch.no_grad():
        tuned.model.encoder.layer[1].attention.self.query.weight.fill_(math.nan)
    with pytest.raises(InputError, match="attention of block 2 is not finite"):
        run(base, tuned, corpus())
