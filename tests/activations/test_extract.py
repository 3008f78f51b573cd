"""Extraction against plain forward passes: every family, every pooling, any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ftprobe.activations import Pooling
from ftprobe.activations.extract import extract
from ftprobe.errors import InputError
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.tasks.types import Corpus, Sentence

FAMILIES = ("bert", "roberta", "xlnet", "gpt2", "albert", "distilbert", "deberta")
TEXTS = ("the cats sat on the mat .", "cat", "a dog barked at the unable cats on a mat", "the mat", "dog dog dog")
EncoderOf = Callable[[str], Encoder]
Run = Callable[..., list[Any]]

WORD_MEAN, CLS = Pooling("word", "mean"), Pooling("sentence", "cls")
MEAN_ALL, MEAN_REAL = Pooling("sentence", "mean", "include"), Pooling("sentence", "mean", "exclude")


def words(*texts: str) -> Corpus:
    return Corpus("tiny", tuple(Sentence(f"s{i}", "train", t, words=tuple(t.split(" "))) for i, t in enumerate(texts)))


def raw(*texts: str | tuple[str, str]) -> Corpus:
    pairs = [(text, None) if isinstance(text, str) else text for text in texts]
    return Corpus("tiny", tuple(Sentence(f"s{i}", ("train", "test")[i % 2], *pair) for i, pair in enumerate(pairs)))


def inputs_of(encoder: Encoder, *text: Any, **options: Any) -> Any:
    inputs = encoder.tokenizer(*text, return_tensors="pt", **options)
    if encoder.model.config.model_type == "distilbert":  # shares BERT's tokenizer but has no segments
        inputs.pop("token_type_ids")
    return inputs


def states(encoder: Encoder, *text: Any, **options: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Hidden states (L + 1, T, D) of one text by the plainest call, and which tokens are special (T)."""
    inputs = inputs_of(encoder, *text, return_special_tokens_mask=True, **options)
    special = inputs.pop("special_tokens_mask")[0].numpy().astype(bool)
    with torch.no_grad():
        hidden = encoder.model(**inputs, output_hidden_states=True).hidden_states
    return torch.cat(hidden).numpy(), special


@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_poolings_are_those_of_each_text_alone(encoder_of: EncoderOf, run: Run, family: str) -> None:
    encoder = encoder_of(family)
    cls, mean_all, mean_real = run(encoder, raw(*TEXTS), CLS, MEAN_ALL, MEAN_REAL)
    position = -1 if family in ("xlnet", "gpt2") else 0
    for s, text in enumerate(TEXTS):
        h_LTD, special_T = states(encoder, text)
        np.testing.assert_allclose(cls.h_LND[:, s], h_LTD[:, position], atol=1e-5)
        np.testing.assert_allclose(mean_all.h_LND[:, s], h_LTD.mean(1), atol=1e-5)
        np.testing.assert_allclose(mean_real.h_LND[:, s], h_LTD[:, ~special_T].mean(1), atol=1e-5)
    assert np.abs(cls.h_LND).max() > 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_word_poolings_do_not_depend_on_the_batch(encoder_of: EncoderOf, run: Run, family: str, pooling: str) -> None:
    encoder, corpus = encoder_of(family), words(*TEXTS)
    (together,) = run(encoder, corpus, Pooling("word", pooling))
    (alone,) = run(encoder, corpus, Pooling("word", pooling), token_budget=1)
    np.testing.assert_allclose(together.h_LND, alone.h_LND, atol=1e-5)
    assert together.items.sentence_N.tolist() == [s for s, t in enumerate(TEXTS) for _ in t.split()]
    assert together.items.word_N.tolist() == [w for t in TEXTS for w in range(len(t.split()))]
    assert together.items.form_N.tolist() == " ".join(TEXTS).split()


@pytest.mark.parametrize(
    ("pooling", "pick"), [("first", lambda h: h[:, 0]), ("last", lambda h: h[:, -1]), ("mean", lambda h: h.mean(1))]
)
def test_word_poolings_against_the_tokenizers_own_word_ids(bert: Encoder, run: Run, pooling: str, pick: Any) -> None:
    (found,) = run(bert, words(*TEXTS), Pooling("word", pooling))
    row = 0
    for text in TEXTS:
        word_T = bert.tokenizer(text.split(), is_split_into_words=True).word_ids()
        h_LTD, _ = states(bert, text.split(), is_split_into_words=True)
        for word in range(len(text.split())):
            pieces = [t for t, w in enumerate(word_T) if w == word]
            np.testing.assert_allclose(found.h_LND[:, row], pick(h_LTD[:, pieces]), atol=1e-5)
            row += 1
    assert row == found.h_LND.shape[1]


def test_one_piece_word_has_one_vector(bert: Encoder, run: Run) -> None:
    first, last, mean = run(bert, words("the barked cats"), *(Pooling("word", p) for p in ("first", "last", "mean")))
    for one_piece in (0, 2):
        np.testing.assert_array_equal(first.h_LND[:, one_piece], last.h_LND[:, one_piece])
        np.testing.assert_array_equal(first.h_LND[:, one_piece], mean.h_LND[:, one_piece])
    assert np.abs(first.h_LND[:, 1] - last.h_LND[:, 1]).max() > 0.1
    np.testing.assert_allclose((first.h_LND + last.h_LND)[:, 1] / 2, mean.h_LND[:, 1], atol=1e-6)


def embedding_output(encoder: Encoder, id_1T: torch.Tensor) -> torch.Tensor:
    model: Any = encoder.model
    match model.config.model_type:
        case "albert":
            return model.encoder.embedding_hidden_mapping_in(model.embeddings(id_1T))
        case "gpt2":
            return model.wte(id_1T) + model.wpe(torch.arange(id_1T.shape[1]))
        case "xlnet":
            return model.word_embedding(id_1T)
        case _:
            return model.embeddings(id_1T)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_0_is_the_embedding_output_and_the_last_what_the_model_returns(
    encoder_of: EncoderOf, run: Run, family: str
) -> None:
    encoder = encoder_of(family)
    (found,) = run(encoder, raw(TEXTS[0]), MEAN_ALL)
    inputs = inputs_of(encoder, TEXTS[0])
    with torch.no_grad():
        expected = embedding_output(encoder, inputs["input_ids"])[0].mean(0).numpy()
        last = encoder.model(**inputs).last_hidden_state[0].mean(0).numpy()
    assert found.h_LND.shape == (3, 1, 16)
    np.testing.assert_allclose(found.h_LND[2, 0], last, atol=1e-5)
    np.testing.assert_allclose(found.h_LND[0, 0], expected, atol=1e-5)


def test_the_final_norm_of_gpt2_is_in_the_last_layer_and_said_so(encoder_of: EncoderOf, run: Run) -> None:
    encoder = encoder_of("gpt2")
    (found,) = run(encoder, raw("the cat"), CLS)
    norm: Any = encoder.model.ln_f
    normed = (found.h_LND[2, 0] - norm.bias.detach().numpy()) / norm.weight.detach().numpy()
    np.testing.assert_allclose([normed.mean(), normed.std()], [0, 1], atol=1e-3)
    assert found.outcome.facts["final_norm"] is True
    flagged = [m.layer for m in found.outcome.measurements if m.detail.get("final_norm")]
    assert flagged == [2]


def test_pairs_are_encoded_together_with_their_segments(bert: Encoder, run: Run) -> None:
    (found,) = run(bert, raw("cat", ("the cat sat", "a dog barked")), CLS)
    h_LTD, _ = states(bert, "the cat sat", "a dog barked")
    np.testing.assert_allclose(found.h_LND[:, 1], h_LTD[:, 0], atol=1e-5)
    assert found.items.word_N.tolist() == [-1, -1]
    assert found.items.split_N.tolist() == ["train", "test"]


def test_rows_are_in_the_order_asked_whatever_the_buckets(bert: Encoder, run: Run) -> None:
    corpus = words(*TEXTS)
    (whole,) = run(bert, corpus, WORD_MEAN)
    for options in ({"token_budget": 12}, {"shard_items": 4}, {"shard_items": 1, "token_budget": 30}):
        (found,) = run(bert, corpus, WORD_MEAN, **options)
        np.testing.assert_allclose(found.h_LND, whole.h_LND, atol=1e-5)
    asked = [3, 0, 4]
    (some,) = run(bert, corpus, WORD_MEAN, sentences=asked)
    rows = np.concatenate([np.flatnonzero(whole.items.sentence_N == s) for s in asked])
    np.testing.assert_allclose(some.h_LND, whole.h_LND[:, rows], atol=1e-5)
    assert some.items.sentence_N.tolist() == whole.items.sentence_N[rows].tolist()


def test_windows_of_texts_change_nothing(bert: Encoder, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = run(bert, words(*TEXTS), WORD_MEAN)
    monkeypatch.setattr("ftprobe.activations.extract._WINDOW", 2)
    (found,) = run(bert, words(*TEXTS), WORD_MEAN)
    np.testing.assert_allclose(found.h_LND, whole.h_LND, atol=1e-5)


def test_poolings_share_forward_passes_and_repeated_texts_are_encoded_once(bert: Encoder, run: Run) -> None:
    encoded: list[int] = []
    module: Any = bert.model
    hook = module.register_forward_pre_hook(
        lambda _, __, inputs: encoded.append(int(inputs["attention_mask"].sum())), with_kwargs=True
    )
    word, cls = run(bert, words("the cat", "a dog", "the cat", "the cat"), WORD_MEAN, CLS)
    hook.remove()
    assert sum(encoded) == word.outcome.facts["n_tokens"] == 8  # two texts of two words, [CLS] and [SEP]
    assert word.items.sentence_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(word.h_LND[:, :2], word.h_LND[:, 4:6])
    np.testing.assert_array_equal(cls.h_LND[:, 0], cls.h_LND[:, 3])
    assert np.abs(cls.h_LND[:, 0] - cls.h_LND[:, 1]).max() > 0.1
    assert word.value("n_words") == word.value("n_subwords") == 8
    assert word.value("mean_norm", 1) == pytest.approx(np.linalg.norm(word.h_LND[1], axis=1).mean(), rel=1e-5)


def test_lost_words_and_cut_texts_are_counted(bert: Encoder, run: Run) -> None:
    word, cls = run(bert, words("cat \u200d dog", "barked barked barked", "mat"), WORD_MEAN, CLS, max_length=5)
    assert word.items.sentence_N.tolist() == [0, 0, 1, 2]
    assert word.items.word_N.tolist() == [0, 2, 0, 0]
    assert [word.value(m) for m in ("n_words", "n_subwords", "n_dropped")] == [7, 6, 3]
    assert word.outcome.facts["n_truncated"] == cls.outcome.facts["n_truncated"] == 1
    assert cls.value("n_dropped") == 0
    assert cls.outcome.facts["n_items"] == 3
    with pytest.raises(InputError, match="sentence 's1': has 8 tokens, the limit is 5"):
        run(bert, words("mat", "barked barked barked"), WORD_MEAN, max_length=5, overflow="error")


def test_a_text_without_tokens_has_no_item(encoder_of: EncoderOf, bert: Encoder, run: Run) -> None:
    (decoder,) = run(encoder_of("gpt2"), raw("cat", "", "dog"), CLS)
    assert decoder.items.sentence_N.tolist() == [0, 2]
    assert decoder.value("n_dropped") == 1
    cls, mean = run(bert, raw("cat", "", "dog"), CLS, MEAN_REAL)
    assert cls.items.sentence_N.tolist() == [0, 1, 2]
    assert mean.items.sentence_N.tolist() == [0, 2]


def test_nothing_asked_for_is_refused(bert: Encoder, run: Run) -> None:
    with pytest.raises(InputError, match="none of its 0 sentences has a word left"):
        run(bert, words("cat"), WORD_MEAN, sentences=[])


def test_float16_holds_the_rounded_states(bert: Encoder, run: Run) -> None:
    (single,) = run(bert, words(*TEXTS), WORD_MEAN)
    (half,) = run(bert, words(*TEXTS), WORD_MEAN, dtype="float16")
    assert half.h_LND.dtype == np.float16
    np.testing.assert_array_equal(half.h_LND, single.h_LND.astype(np.float16))


@pytest.mark.parametrize(
    ("factor", "dtype", "message"),
    [
        (1e6, "float16", r"sentence 's1': layer 1 is not finite in float16: 'a dog'; store float32"),
        (float("nan"), "float32", r"sentence 's1': layer 1 is not finite in float32: 'a dog'; .*diverged"),
    ],
)
def test_states_that_are_not_finite_are_refused(
    encoder_of: EncoderOf, run: Run, factor: float, dtype: str, message: str
) -> None:
    encoder = encoder_of("bert")
    model: Any = encoder.model

    def spoil(module: Any, inputs: Any, output: Any) -> Any:
        dog = encoder.tokenizer.convert_tokens_to_ids("dog")
        touched = (ids[-1] == dog).any(dim=1)[:, None, None]
        return torch.where(touched, output * factor, output)

    ids: list[torch.Tensor] = []
    hooks = [
        model.register_forward_pre_hook(lambda _, __, inputs: ids.append(inputs["input_ids"]), with_kwargs=True),
        model.encoder.layer[0].output.register_forward_hook(spoil),
    ]
    try:
        with pytest.raises(InputError, match=message):
            run(encoder, words("the cat", "a dog"), WORD_MEAN, dtype=dtype)
        if dtype == "float16":
            run(encoder, words("the cat", "a dog"), WORD_MEAN, dtype="float32")
    finally:
        for hook in hooks:
            hook.remove()


def test_dropout_is_off(encoder_of: EncoderOf, run: Run) -> None:
    encoder = encoder_of("bert")
    encoder.model.train()
    first, second = (run(encoder, words(*TEXTS), WORD_MEAN)[0] for _ in range(2))
    np.testing.assert_array_equal(first.h_LND, second.h_LND)


def test_minilm_on_real_sentences(minilm: str, shared_data: Path, run: Run) -> None:
    encoder = load_encoder(minilm)
    with open(shared_data / "cola" / "raw" / "in_domain_dev.tsv", encoding="utf-8") as file:
        texts = [line.rstrip("\n").split("\t")[-1] for line in file][:24]
    cls, mean = run(encoder, raw(*texts), CLS, MEAN_REAL, max_length=128)
    for s, text in enumerate(texts):
        h_LTD, special_T = states(encoder, text)
        np.testing.assert_allclose(cls.h_LND[:, s], h_LTD[:, 0], atol=1e-5)
        np.testing.assert_allclose(mean.h_LND[:, s], h_LTD[:, ~special_T].mean(1), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_gives_the_same_states_and_the_same_bytes_again(bert: Encoder, run: Run) -> None:
    poolings = (WORD_MEAN, MEAN_ALL, CLS)
    on_cpu = run(bert, words(*TEXTS), *poolings)
    first, second = (run(bert, words(*TEXTS), *poolings, device="cuda") for _ in range(2))
    bert.model.to("cpu")
    for cpu, a, b in zip(on_cpu, first, second, strict=True):
        np.testing.assert_allclose(cpu.h_LND, a.h_LND, atol=1e-4)
        np.testing.assert_array_equal(a.h_LND, b.h_LND)


def test_one_folder_per_pooling(bert: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        extract(
            bert, words("cat"), [0], [WORD_MEAN, CLS], max_length=8, overflow="truncate", dtype="float32",
            out=[tmp_path], device="cpu",
        )  # fmt: skip
