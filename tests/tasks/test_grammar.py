"""The built-in corpus: balanced, reproducible, tagged, and beyond the reach of a bag of words."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from ftprobe.errors import InputError
from ftprobe.tasks import locate
from ftprobe.tasks.grammar import Sizes, generate
from ftprobe.tasks.phrases import CONSTRUCTIONS, spelled

SENTENCE_TASKS = ("acceptability", "word_order")


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_splits_have_their_sizes_and_half_of_each_label(task: str) -> None:
    data = generate(task)
    counts = Counter(zip((s.split for s in data.corpus.sentences), data.labels.label_N, strict=True))
    assert sorted(counts.values()) == [100, 100, 200, 200, 600, 600]
    assert locate(task, data={}).sizes == dict(Counter(s.split for s in data.corpus.sentences))


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_no_text_is_twice_whatever_its_case(task: str) -> None:
    texts = [s.text.lower() for s in generate(task).corpus.sentences]
    assert len(set(texts)) == len(texts) == 1800


def test_acceptability_and_upos_share_their_text_and_word_order_has_its_own() -> None:
    acceptability, upos, order = (locate(t, data={}) for t in ("acceptability", "upos@grammar", "word_order@grammar"))
    assert acceptability.corpus_spec == upos.corpus_spec != order.corpus_spec
    assert acceptability.read().corpus == upos.read().corpus
    assert order.read().corpus.name == order.corpus == "word_order@grammar"


def test_every_word_has_its_part_of_speech() -> None:
    data = generate("upos")
    words = [(s, w) for s, sentence in enumerate(data.corpus.sentences) for w in range(len(sentence.words or ()))]
    assert list(zip(data.labels.sentence_N, data.labels.word_N, strict=True)) == words
    tagged = Counter(
        ((data.corpus.sentences[s].words or ())[w].lower(), tag)
        for s, w, tag in zip(data.labels.sentence_N, data.labels.word_N, data.labels.label_N, strict=True)
    )
    assert {"DET", "NOUN", "VERB", "PRON", "AUX", "ADJ", "ADV", "ADP", "SCONJ", "PUNCT"} == {t for _, t in tagged}
    ambiguous = [form for form, count in Counter(form for form, _ in tagged).items() if count > 1]
    assert {"that", "guards"} < set(ambiguous)


def test_a_seed_decides_the_text() -> None:
    assert generate("acceptability", seed=4) == generate("acceptability", seed=4)
    texts = [{s.text for s in generate("acceptability", seed=seed).corpus.sentences} for seed in (4, 5)]
    assert len(texts[0] & texts[1]) < 0.1 * len(texts[0])


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_a_bag_of_words_is_near_chance(task: str) -> None:
    data = generate(task, sizes=Sizes(4000, 0, 2000))
    bag = CountVectorizer(token_pattern=r"\S+", lowercase=False).fit_transform(s.text for s in data.corpus.sentences)
    train, y = [s.split == "train" for s in data.corpus.sentences], list(data.labels.label_N)
    model = LogisticRegression(max_iter=1000).fit(bag[:4000], y[:4000])
    assert sum(train) == 4000
    assert 0.45 < model.score(bag[4000:], y[4000:]) < 0.56


@pytest.mark.parametrize("build", [build for build, _ in CONSTRUCTIONS], ids=lambda build: build.__name__)
def test_a_construction_gives_a_minimal_pair_of_equal_words_on_both_sides(build: object) -> None:
    rng = Random(0)
    good_words: Counter[str] = Counter()
    bad_words: Counter[str] = Counter()
    for _ in range(6000):
        good, bad = map(spelled, build(rng))  # type: ignore[operator]
        assert good != bad
        assert good[-1] == bad[-1]
        assert len(good) == len(bad)
        changed = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert len(changed) == 1 or sorted(good) == sorted(bad)
        good_words.update(form for form, _ in good)
        bad_words.update(form for form, _ in bad)
    for form in good_words | bad_words:
        total = good_words[form] + bad_words[form]
        assert abs(good_words[form] - bad_words[form]) <= 5 * total**0.5, form


def test_word_order_swaps_two_words_and_leaves_the_first() -> None:
    data = generate("word_order")
    for sentence, label in zip(data.corpus.sentences, data.labels.label_N, strict=True):
        words = sentence.words or ()
        assert words[0][0].isupper()
        assert words[-1] in (".", "?")
        assert label in ("intact", "swapped")
        assert not any(word[0].isupper() for word in words[1:])


def test_sentences_start_with_a_capital() -> None:
    assert spelled([("the", "DET"), ("king", "NOUN")]) == (("The", "DET"), ("king", "NOUN"))


def test_sizes_are_even_and_not_negative() -> None:
    for sizes in (Sizes(3, 2, 2), Sizes(-2, 2, 2)):
        with pytest.raises(InputError, match="are not even numbers"):
            generate("acceptability", sizes=sizes)
