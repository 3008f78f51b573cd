"""Control labels against NeuroX's recorded draws, the distribution they are drawn from, and themselves elsewhere."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ftprobe.probes.control import control_labels, draw_distribution, drawn_labels, seen_in_train, word_types

TYPES = [f"word{v}" for v in range(20_000)]


def flat(sentences):
    return [word for sentence in sentences for word in sentence]


def items():
    return st.lists(
        st.tuples(st.sampled_from(["a", "A", "b", "the", "The", "ß", "İ"]), st.integers(0, 3), st.booleans()),
        min_size=1,
    ).map(lambda rows: (*zip(*rows, strict=True),))


@pytest.mark.parametrize("case", range(4))
def test_neurox_distribution_and_targets_from_its_draws(golden, case):
    data = json.loads((golden / "neurox_control" / "control.json").read_text())
    run = data["cases"][case]
    labels = sorted(set(flat(data["train_labels"])))
    y_train_N = np.array([labels.index(label) for label in flat(data["train_labels"])])
    share_K = draw_distribution(y_train_N, {"same": "empirical", "uniform": "uniform"}[run["sample_from"]])
    in_their_order = share_K[[labels.index(label) for label in run["label_order_first_seen"]]]
    np.testing.assert_allclose(in_their_order, run["draw_probability_per_label_in_that_order"], atol=1e-12, rtol=0)

    words = [word for part in ("train", "dev", "test") for word in flat(data[f"{part}_tokens"])]
    types, of_N = word_types(words, case="sensitive" if run["case_sensitive"] else "lower")
    drawn = dict(zip(run["types_in_draw_order"], run["drawn_label_index_per_type"], strict=True))
    assert set(types) == set(drawn)
    targets = [label for part in ("train", "dev", "test") for label in flat(run["targets"][part])]
    np.testing.assert_array_equal(np.array([drawn[name] for name in types])[of_N], targets)


@pytest.mark.parametrize("draw", ["empirical", "uniform"])
def test_label_frequencies_over_types_follow_the_draw(draw):
    y_train_N = np.repeat([0, 2, 3, 5, 6], [500, 5, 300, 150, 45])
    share_K = draw_distribution(y_train_N, draw)
    n_K = np.bincount(drawn_labels(TYPES, share_K, seed=0), minlength=len(share_K))
    assert n_K[[1, 4]].sum() == 0
    possible_K = share_K > 0
    assert chisquare(n_K[possible_K], share_K[possible_K] * len(TYPES)).pvalue > 0.01


def test_seeds_draw_independently():
    share_K = np.array([0.5, 0.3, 0.2])
    first, second = (drawn_labels(TYPES, share_K, seed=seed) for seed in (0, 1))
    both_KK = np.zeros((3, 3))
    np.add.at(both_KK, (first, second), 1)
    assert chisquare(both_KK.ravel(), np.outer(share_K, share_K).ravel() * len(TYPES)).pvalue > 0.01


@settings(deadline=None)
@given(rows=items(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_type_has_one_label_wherever_it_stands(rows, seed, data):
    names, y, train = rows
    y_N, train_N = np.array(y), np.array((*train[1:], True))
    options = {
        "seed": seed,
        "draw": data.draw(st.sampled_from(["empirical", "uniform"])),
        "case": data.draw(st.sampled_from(["sensitive", "lower"])),
    }
    control_N = control_labels(names, y_N, train_N, **options)
    fold = str.lower if options["case"] == "lower" else str
    by_type = dict(zip(map(fold, names), control_N, strict=True))
    assert [by_type[fold(name)] for name in names] == control_N.tolist()
    assert set(control_N) <= set(y_N[train_N])

    at_N = np.array(data.draw(st.permutations(range(len(names)))))
    elsewhere_N = control_labels([names[i] for i in at_N], y_N[at_N], train_N[at_N], **options)
    np.testing.assert_array_equal(elsewhere_N, control_N[at_N])

    more_N = control_labels([*names, "aardvark", names[0]], np.r_[y_N, 7, 7], np.r_[train_N, False, False], **options)
    np.testing.assert_array_equal(more_N[: len(names)], control_N)
    assert more_N[-1] == control_N[0]


@settings(deadline=None)
@given(rows=items(), case=st.sampled_from(["sensitive", "lower"]))
def test_seen_types_are_those_of_train(rows, case):
    names, _, train = rows
    fold = str.lower if case == "lower" else str
    known = {fold(name) for name, of_train in zip(names, train, strict=True) if of_train}
    seen_N = seen_in_train(names, np.array(train), case=case)
    assert seen_N.tolist() == [fold(name) in known for name in names]


def test_arrays_of_strings_are_the_same_types():
    names = ["the", "The", "dog\tbarks"]
    from_array, from_list = word_types(np.array(names)), word_types(names)
    assert from_array.types == from_list.types == ("The", "dog\tbarks", "the")
    assert from_array.of_N.tolist() == from_list.of_N.tolist() == [2, 0, 1]


def test_the_process_does_not_matter():
    code = (
        "import numpy as np; from ftprobe.probes.control import control_labels;"
        "names = 'the dog saw the other dog near\tthe'.split(' ');"
        "y = np.array([0, 1, 2, 0, 3, 1, 4]);"
        "print(control_labels(names, y, np.ones(7, bool), seed=11, draw='uniform').tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert printed == {b"[4, 4, 2, 4, 2, 4, 4]\n"}


def test_no_training_item_is_an_error():
    with pytest.raises(ValueError, match="training items"):
        control_labels(["a"], np.array([0]), np.array([False]), seed=0)
