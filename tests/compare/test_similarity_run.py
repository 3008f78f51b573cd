"""The similarity comparison on tiny encoders, against the definition written out with numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinylm
import torch

from ftprobe.compare import similarity_run
from ftprobe.compare.comparison import States
from ftprobe.compare.similarity import SimilarityOptions
from ftprobe.errors import InputError
from ftprobe.measurement import Outcome
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.models.surgery import replace_top, truncate
from ftprobe.tasks.types import Corpus, Sentence


def corpus(n: int = 12) -> Corpus:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(tinylm.WORDS, 2 + i % 7)) for i in range(n)]
    texts.append(texts[0])  # one text twice: its tokens are drawn as often
    words = tuple(Sentence(str(i), "test", text, words=tuple(text.split())) for i, text in enumerate(texts))
    return Corpus("words", words)


def encoders(folder: Path, family: str) -> tuple[Encoder, Encoder]:
    folders = [tinylm.save(folder / str(seed), family, seed=seed, head=False) for seed in (0, 1)]
    base, tuned = (load_encoder(str(each), offline=True) for each in folders)
    return base, tuned


def run(base: Encoder, tuned: Encoder, text: Corpus, *, seed: int = 0, **options: Any) -> Outcome:
    settings = SimilarityOptions.model_validate(options)
    states = States(lambda: base, lambda: tuned)
    rows = range(len(text.sentences))
    return similarity_run.run(settings, text, rows, states, seed=seed, device="cpu", threads=1, report=lambda _: None)


def states_by_hand(encoder: Encoder, text: Corpus, *, special: bool) -> list[np.ndarray]:
    """All tokens of all texts (M, D) of each layer, one text at a time."""
    found: list[list[np.ndarray]] = [[] for _ in range(encoder.n_layers + 1)]
    for sentence in text.sentences:
        ids = encoder.tokenizer(sentence.text)["input_ids"]
        with torch.inference_mode():
            hidden = encoder.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        kept = [k for k, own in enumerate(ids) if special or own not in encoder.tokenizer.all_special_ids]
        for layer, h_1SD in enumerate(hidden):
            found[layer].append(h_1SD[0, kept].double().numpy())
    return [np.concatenate(parts) for parts in found]


def rsa_by_hand(X: np.ndarray, Y: np.ndarray) -> float:
    sides = []
    for side in (X, Y):
        unit = side / np.linalg.norm(side, axis=1, keepdims=True)
        sides.append((unit @ unit.T)[np.triu_indices(len(unit), 1)])
    return float(np.corrcoef(*sides)[0, 1])


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet", "gpt2", "deberta"])
@pytest.mark.parametrize("special", ["exclude", "include"])
def test_all_tokens_give_the_rsa_of_the_definition(tmp_path: Path, family: str, special: str) -> None:
    base, tuned = encoders(tmp_path, family)
    text = corpus()
    outcome = run(base, tuned, text, measures=["rsa"], n=100_000, draws=1, special=special)
    sides = [states_by_hand(encoder, text, special=special == "include") for encoder in (base, tuned)]
    assert [m.layer for m in outcome.measurements] == [0, 1, 2]
    for m, x_MD, y_MD in zip(outcome.measurements, *sides, strict=True):
        assert m.n_items == len(x_MD)
        assert (m.metric, m.unit, m.split, m.status) == ("rsa", "r", "test", "ok")
        assert m.value == pytest.approx(rsa_by_hand(x_MD, y_MD), abs=2e-5)  # float32 states, batches of other lengths


def test_words_are_the_means_of_their_sub_words(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    as_words = run(base, tuned, corpus(), measures=["cka"], n=1000, draws=1, unit="word")
    as_pieces = run(base, tuned, corpus(), measures=["cka"], n=1000, draws=1, unit="subword")
    # every word of this vocabulary is one sub-word
    assert [m.value for m in as_words.measurements] == pytest.approx([m.value for m in as_pieces.measurements])


def test_draws_differ_repeat_and_are_shared_by_states(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    one, same, other = (run(base, tuned, corpus(), n=20, draws=3, seed=seed) for seed in (0, 0, 1))
    assert one.measurements == same.measurements != other.measurements
    last = [m.value for m in one.measurements if (m.layer, m.metric) == (2, "rsa")]
    assert len(set(last)) == 3
    assert {m.n_items for m in one.measurements} == {20}


def test_a_state_is_like_itself_and_kept_layers_are_like_the_base(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    every = ["rsa", "cka", "cka_debiased", "procrustes", "neighbour_overlap"]
    assert all(m.value == pytest.approx(1.0, abs=1e-9) for m in run(base, base, corpus(), measures=every).measurements)
    half = replace_top(base, tuned, 1, embeddings="tuned")  # the last block alone is another's
    for m in run(base, half, corpus(), measures=["rsa"], draws=1).measurements:
        assert (m.value == pytest.approx(1.0, abs=1e-12)) == (m.layer != 2)


def test_cca_of_too_few_rows_and_states_of_other_depth_are_refused(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    rows = run(base, tuned, corpus(), measures=["pwcca", "svcca"], n=20, draws=1).measurements
    assert {m.status for m in rows} == {"refused"}
    assert all(math.isnan(m.value) and "20 rows for" in str(m.detail["reason"]) for m in rows)
    (cut,) = run(base, truncate(tuned, 1), corpus(), measures=["rsa"]).measurements
    assert (cut.status, cut.layer) == ("refused", None)


def test_texts_without_tokens_are_bad_input(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    with pytest.raises(InputError, match="only 1 tokens"):
        run(base, tuned, Corpus("one", (Sentence("0", "test", "w1"),)))


def pairs(n: int = 10) -> Corpus:
    """Questions about two passages."""
    generator = np.random.default_rng(1)
    passages = [" ".join(generator.choice(tinylm.WORDS, 20)) for _ in range(2)]
    asked = [" ".join(generator.choice(tinylm.WORDS, 4)) for _ in range(n)]
    texts = [Sentence(str(i), "test", text, passages[i % 2]) for i, text in enumerate(asked)]
    return Corpus("asked", tuple(texts))


def test_pairs_are_one_stimulus_or_their_sides_once_each(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    whole = run(base, tuned, pairs(), measures=["rsa"], n=100_000, draws=1)
    assert {m.n_items for m in whole.measurements} == {10 * (4 + 20)}
    apart = run(base, tuned, pairs(), measures=["rsa"], n=100_000, draws=1, pairs="apart")
    assert {m.n_items for m in apart.measurements} == {10 * 4 + 2 * 20}
    sides = dict.fromkeys(text for one in pairs().sentences for text in (one.text, one.text_b or ""))
    single = Corpus("single", tuple(Sentence(str(i), "test", text) for i, text in enumerate(sides)))
    X, Y = (states_by_hand(encoder, single, special=False) for encoder in (base, tuned))
    expected = [rsa_by_hand(x_MD, y_MD) for x_MD, y_MD in zip(X, Y, strict=True)]
    assert [m.value for m in apart.measurements] == pytest.approx(expected, abs=2e-5)


def test_words_of_states_with_other_tokenizers_are_compared(tmp_path: Path) -> None:
    base, _ = encoders(tmp_path, "bert")
    words = [word for word in tinylm.WORDS if word != "w3"]
    other = load_encoder(str(tinylm.save(tmp_path / "other", "bert", seed=2, head=False)), offline=True)
    other = other._replace(tokenizer=tinylm.tokenizer("bert", words))
    with pytest.raises(InputError, match="different sub-words; compare like with like, or words"):
        run(base, other, corpus())
    rows = run(base, other, corpus(), measures=["rsa"], unit="word", n=100_000, draws=1).measurements
    assert {m.n_items for m in rows} == {sum(len(s.words or ()) for s in corpus().sentences)}
    assert all(m.status == "ok" for m in rows)
    with pytest.raises(InputError, match="no fixed words"):
        run(base, other, pairs(), unit="word")


def test_leaving_out_a_block_leaves_the_similarity_of_the_other_texts(tmp_path: Path) -> None:
    base, tuned = encoders(tmp_path, "bert")
    long = corpus(100)
    rows = run(base, tuned, long, measures=["rsa", "cka", "svcca"], n=100_000, draws=2).measurements
    without = [np.asarray(m.detail["without"]) for m in rows if m.metric != "svcca"]
    assert {len(values) for values in without} == {similarity_run.BLOCKS}
    assert all("without" not in m.detail for m in rows if m.metric == "svcca")
    # Blocks are of consecutive texts: without the first one is without the first few texts.
    (first,) = [m for m in rows if (m.metric, m.layer, m.detail["draw"]) == ("rsa", 2, 0)]
    rest = [
        run(base, tuned, Corpus("rest", long.sentences[start:-1]), measures=["rsa"], n=100_000, draws=1).measurements[2]
        for start in range(1, 6)
    ]
    assert min(abs(m.value - np.asarray(first.detail["without"])[0]) for m in rest) < 1e-6
    # Fewer texts than blocks: each text is one, but for the one that stands there twice.
    few = run(base, tuned, corpus(12), measures=["rsa"], draws=1).measurements
    assert len(np.asarray(few[0].detail["without"])) == 12


def test_vectors_without_direction_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = encoders(tmp_path, "bert")
    hidden = similarity_run._hidden

    def with_zeros(*arguments: Any) -> list[np.ndarray]:
        states = hidden(*arguments)
        states[1][[2, 5]] = 0
        return states

    expected = run(base, tuned, corpus(), n=1000, draws=1).measurements
    monkeypatch.setattr(similarity_run, "_hidden", with_zeros)
    rows = run(base, tuned, corpus(), n=1000, draws=1).measurements
    assert [m.n_dropped for m in rows] == [0, 0, 2, 2, 0, 0]
    assert [m.n_items + m.n_dropped for m in rows] == [m.n_items for m in expected]
