"""Generated sentence sets: every rule and every test of METHODS 15, on UD English EWT."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from ftprobe.tasks import locate, warnings
from ftprobe.tasks.coordination_inversion import Clauses, clauses
from ftprobe.tasks.generated import SentenceSets, _made, sentence_sets
from ftprobe.tasks.odd_man_out import casing, level
from ftprobe.tasks.treebank import Tree, conllu_files
from ftprobe.tasks.types import TaskData

SETS = ("bigram_shift", "coordination_inversion", "odd_man_out", "odd_man_out_drop")


@pytest.fixture(scope="module")
def made(shared_data: Path) -> SentenceSets:
    source = locate("bigram_shift@ud_ewt", data={}, data_dir=str(shared_data))
    return _made(tuple(conllu_files(shared_data / "ud_ewt")), str(source.corpus_spec["fingerprint"]), 0)


@pytest.fixture(scope="module")
def trees(made: SentenceSets) -> Sequence[Tree]:
    return made.trees


@pytest.fixture(scope="module")
def data(shared_data: Path, made: SentenceSets) -> dict[str, TaskData]:
    return {name: locate(f"{name}@ud_ewt", data={}, data_dir=str(shared_data)).read() for name in SETS}


def accuracy(data: TaskData, features: Callable[[tuple[str, ...]], list[float]]) -> tuple[float, int]:
    """Accuracy on dev + test of a logistic regression on train, and the number of items."""
    rows = [(s.split == "train", features(s.words or ()), label) for s, label in items(data)]
    X = np.array([row for _, row, _ in rows])
    return fitted(X, data)


def fitted(X: NDArray[np.float64], data: TaskData) -> tuple[float, int]:
    train = np.array([s.split == "train" for s in data.corpus.sentences])
    y = np.array(data.labels.label_N)
    model = LogisticRegression(max_iter=500).fit(X[train], y[train])
    return float((model.predict(X[~train]) == y[~train]).mean()), int((~train).sum())


def items(data: TaskData) -> list[tuple[object, str]]:
    return list(zip(data.corpus.sentences, data.labels.label_N, strict=True))


def assert_chance(score: float, n: int) -> None:
    assert abs(score - 0.5) < 3 * 0.5 / math.sqrt(n), f"{score} on {n} items"


def test_a_bag_of_words_cannot_tell_shifted_bigrams(data: dict[str, TaskData]) -> None:
    one = data["bigram_shift"]
    bag = CountVectorizer(token_pattern=r"\S+", lowercase=False).fit_transform(s.text for s in one.corpus.sentences)
    assert_chance(*fitted(bag, one))


@pytest.mark.parametrize("name", SETS)
def test_length_cannot_tell_the_class(name: str, data: dict[str, TaskData]) -> None:
    assert_chance(*accuracy(data[name], lambda words: [len(words), float(len("".join(words)))]))


def test_frequency_cannot_tell_replaced_words_without_backoff(trees: Sequence[Tree], data: dict[str, TaskData]) -> None:
    one = data["odd_man_out_drop"]
    own = Counter(w.lower() for s in one.corpus.sentences if s.split == "train" for w in s.words or ())
    whole = Counter(word.form.lower() for tree in trees for word in tree.words)
    for counts in (own, whole):
        assert_chance(*accuracy(one, lambda words, f=counts: [np.mean([math.log(1 + f[w.lower()]) for w in words])]))


def test_the_place_of_the_separator_cannot_tell_inverted_clauses(made: SentenceSets, trees: Sequence[Tree]) -> None:
    shown: dict[tuple[str, bool], Counter[int]] = {}
    for candidate, corrupt in made.sets["coordination_inversion"]:
        parts = parts_of(trees[candidate.at])
        first, second = parts.separator, parts.end - parts.second
        difference = second - first if corrupt else first - second
        shown.setdefault((made.split[candidate.at], corrupt), Counter())[difference] += 1
    for split in ("train", "dev", "test"):
        assert shown[split, True] == shown[split, False]
    data = [(c, flag, parts_of(trees[c.at])) for c, flag in made.sets["coordination_inversion"]]
    X = np.array([[p.end - p.second if flag else p.separator] for _, flag, p in data], dtype=float)
    y = np.array([flag for _, flag, _ in data])
    train = np.array([made.split[c.at] == "train" for c, _, _ in data])
    model = LogisticRegression().fit(X[train], y[train])
    assert_chance(float((model.predict(X[~train]) == y[~train]).mean()), int((~train).sum()))


def parts_of(tree: Tree) -> Clauses:
    found = clauses(tree, {word.form.lower() for word in tree.words})
    assert found is not None
    return found


@pytest.mark.parametrize("name", SETS)
def test_every_split_is_half_and_half_and_no_text_is_twice(name: str, data: dict[str, TaskData]) -> None:
    counts = Counter((s.split, label) for s, label in items(data[name]))
    for split in ("train", "dev", "test"):
        assert len({counts[split, label] for label in set(data[name].labels.label_N)}) == 1
        assert counts[split, "O"] > 0
    texts = [s.text.lower() for s in data[name].corpus.sentences]
    assert len(set(texts)) == len(texts)


def test_a_sentence_serves_one_set_either_intact_or_corrupted(made: SentenceSets) -> None:
    used = [one.candidate.at for name in SETS[:3] for one in made.sets[name]]
    assert len(set(used)) == len(used)
    texts = [" ".join(word.form for word in made.trees[at].words).lower() for at in used]
    assert len(set(texts)) == len(texts)


def test_documents_are_not_divided_and_shares_are_80_10_10(made: SentenceSets, trees: Sequence[Tree]) -> None:
    splits: dict[str, set[str]] = {}
    for at, split in made.split.items():
        splits.setdefault(trees[at].document, set()).add(split)
    assert {len(found) for found in splits.values()} == {1}
    counts = Counter(made.split.values())
    shares = [counts[name] / len(made.split) for name in ("train", "dev", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.005)


def test_common_conditions_hold(made: SentenceSets, trees: Sequence[Tree]) -> None:
    for name in SETS:
        for candidate, _ in made.sets[name]:
            tree = trees[candidate.at]
            assert 5 <= len(tree.words) <= 28
            assert tree.plain
            assert sum(word.head == 0 for word in tree.words) == 1
            assert len(" ".join(candidate.corrupted).split()) == len(tree.words)


def test_undoing_a_bigram_shift_restores_the_sentence(made: SentenceSets, trees: Sequence[Tree]) -> None:
    places = []
    for candidate, _ in made.sets["bigram_shift"]:
        tree = trees[candidate.at]
        forms = [word.form for word in tree.words]
        i = next(i for i, (a, b) in enumerate(zip(forms, candidate.corrupted, strict=True)) if a != b)
        undone = list(candidate.corrupted)
        undone[i], undone[i + 1] = undone[i + 1], undone[i]
        assert undone == forms
        assert any(word.upos != "PUNCT" for word in tree.words[:i])
        assert "PUNCT" not in (tree.words[i].upos, tree.words[i + 1].upos)
        assert forms[i].lower() != forms[i + 1].lower()
        places.append(i / len(forms))
    assert 0.4 < float(np.mean(places)) < 0.55


def test_undoing_an_inversion_restores_the_sentence(made: SentenceSets, trees: Sequence[Tree]) -> None:
    for candidate, _ in made.sets["coordination_inversion"]:
        tree, words = trees[candidate.at], list(candidate.corrupted)
        parts = parts_of(tree)
        length, middle = parts.end - parts.second, parts.second - parts.separator
        second, separator = words[:length], words[length : length + middle]
        first, final = words[length + middle : parts.end], words[parts.end :]
        undone = [*first, *separator, *second, *final]
        source = [word.form for word in tree.words]
        assert [w.lower() for w in undone] == [w.lower() for w in source]
        assert second[0][0].isupper() or not second[0][0].isalpha()
        assert first[0] == "I" or tree.words[0].upos == "PROPN" or first[0].islower() or not first[0].isalpha()
        assert {i for i, (a, b) in enumerate(zip(undone, source, strict=True)) if a != b} <= {0, parts.second}
        assert separator[0] == "," or len(separator) == 1
        assert all(word.upos == "PUNCT" for word in tree.words[parts.end :])


def test_replacements_obey_every_condition(made: SentenceSets, trees: Sequence[Tree]) -> None:
    """Counts are taken anew, on the training part without the sentence, for each of a sample of sentences."""
    elsewhere = {trees[at].document for at, split in made.split.items() if split != "train"}
    train = {at for at, tree in enumerate(trees) if tree.document not in elsewhere}
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for at in train:
        small = [*(word.form.lower() for word in trees[at].words), "</s>"]
        words.update(small)
        pairs.update(pairwise(small))
    readings: dict[str, set[tuple[str, str, str]]] = {}
    for word in (word for tree in trees for word in tree.words):
        readings.setdefault(word.form, set()).add((word.xpos, word.feats, word.lemma.lower()))
    exact = 0
    for candidate, _ in made.sets["odd_man_out"]:
        tree = trees[candidate.at]
        small = [*(word.form.lower() for word in tree.words), "</s>"]
        changed = [i for i, word in enumerate(tree.words) if word.form != candidate.corrupted[i]]
        assert len(changed) == 1
        i = changed[0]
        old, new = tree.words[i], candidate.corrupted[i]
        assert i > 0
        assert old.upos in ("NOUN", "VERB")
        assert new.lower() not in small
        assert casing(new) == casing(old.form)
        assert any((xpos, feats) == (old.xpos, old.feats) for xpos, feats, _ in readings[new])
        assert old.lemma.lower() not in {lemma for _, _, lemma in readings[new]}
        if small[i - 1] in ("a", "an"):
            assert (new[0].lower() in "aeiou") == (old.form[0].lower() in "aeiou")
        inside = candidate.at in train
        own, own_pairs = (Counter(small), Counter(pairwise(small))) if inside else (Counter(), Counter())
        here = (small[i], (small[i - 1], small[i]), (small[i], small[i + 1]))
        there = (new.lower(), (small[i - 1], new.lower()), (new.lower(), small[i + 1]))
        target = [words[here[0]] - own[here[0]], *(pairs[p] - own_pairs[p] for p in here[1:])]
        other = [words[there[0]], *(pairs[p] for p in there[1:])]
        if candidate.backoff:
            assert other[1] > 0
            assert other[2] > 0
        else:
            exact += 1
            assert [math.floor(math.log2(1 + n)) for n in target] == [math.floor(math.log2(1 + n)) for n in other]
            assert [level(n) for n in target] == [level(n) for n in other]
    assert exact > 3000


def test_the_drop_set_has_no_backoff_and_the_rank_set_has(made: SentenceSets, data: dict[str, TaskData]) -> None:
    assert not any(one.candidate.backoff for one in made.sets["odd_man_out_drop"])
    share = np.mean(
        [one.candidate.backoff for one in made.sets["odd_man_out"] if made.split[one.candidate.at] == "test"]
    )
    rows = {(m.metric, m.split): m for m in data["odd_man_out"].measurements}
    assert rows["backoff_share", "test"].value == pytest.approx(share)
    assert rows["n_sentences", "train"].value == sum(s.split == "train" for s in data["odd_man_out"].corpus.sentences)
    assert rows["n_dropped", "train"].value >= 0
    assert rows["n_dropped", "train"].detail == {"source": "ud_ewt"}


def test_small_splits_are_warned_about(data: dict[str, TaskData]) -> None:
    lines = warnings(data["bigram_shift"])
    assert len(lines) == 2
    assert "generated sentences in test: report intervals" in lines[1]


def test_a_seed_decides_everything_and_another_decides_otherwise(trees: Sequence[Tree]) -> None:
    part = trees[:2000]
    assert sentence_sets(part, seed=1) == sentence_sets(part, seed=1)
    assert sentence_sets(part, seed=1).sets["bigram_shift"] != sentence_sets(part, seed=2).sets["bigram_shift"]


def test_the_order_of_python_sets_decides_nothing(shared_data: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from ftprobe.tasks.generated import sentence_sets;"
        "from ftprobe.tasks.treebank import read_trees;"
        "made = sentence_sets(read_trees(Path(sys.argv[1])), seed=5);"
        "print(hashlib.blake2b(repr((sorted(made.sets.items()), sorted(made.split.items()))).encode()).hexdigest())"
    )
    path = str(shared_data / "ud_ewt" / "en_ewt-ud-dev.conllu")
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, path],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(digests) == 1
    assert len(digests.pop()) > 100


def test_a_corpus_without_documents_is_split_by_sentence(trees: Sequence[Tree]) -> None:
    bare = [tree._replace(document="") for tree in trees[:1500]]
    counts = Counter(sentence_sets(bare, seed=0).split.values())
    assert counts["train"] / sum(counts.values()) == pytest.approx(0.8, abs=0.01)


def test_a_treebank_of_one_file_serves(tmp_path: Path, shared_data: Path) -> None:
    text = (shared_data / "ud_ewt" / "en_ewt-ud-dev.conllu").read_text("utf-8")
    (tmp_path / "en_pud-ud-test.conllu").write_text(text, "utf-8")
    data = locate("bigram_shift@pud", data={"pud": str(tmp_path)}).read()
    assert data.corpus.name == "bigram_shift@pud"
    assert {s.split for s in data.corpus.sentences} == {"train", "dev", "test"}
