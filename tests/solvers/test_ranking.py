"""Rankings against the definition in exact arithmetic, NeuroX's sets, planted truth and published hash outputs."""

import json
from fractions import Fraction
from itertools import accumulate, combinations
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from ftprobe.solvers.logistic import fit_logistic
from ftprobe.solvers.ranking import (
    class_means,
    entry_levels,
    layer_counts,
    n_neurons,
    probeless,
    rank_neurons,
)

NEUROX_WEIGHTS = ["5x48", "17x300", "44x768"]


@st.composite
def weights(draw):
    """Small whole numbers (ties and zeros abound, and float64 holds every sum exactly), some neurons all zero."""
    K, D = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    W_KD = draw(arrays(np.int64, (K, D), elements=st.integers(-6, 6)))
    W_KD[:, list(draw(st.sets(st.integers(0, D - 1), max_size=4)))] = 0
    return W_KD


def rank(W_KD, *, seed=0, **options):
    order_CD, n_zero_C, entry_CD = rank_neurons(torch.as_tensor(W_KD)[None], seed=seed, **options)
    return order_CD[0].tolist(), n_zero_C.item(), entry_CD[0].numpy()


def prefixes(W_KD):
    """Of every class with weight, sorted as METHODS 6 says, exactly: (neuron, mass before it, its mass) and total."""
    for row in W_KD.tolist():
        size = [abs(Fraction(w)) for w in row]
        order = sorted(range(len(size)), key=lambda d: (-size[d], d))
        *before, total = accumulate((size[d] for d in order), initial=Fraction(0))
        if total:
            yield [(d, mass, size[d]) for d, mass in zip(order, before, strict=True)], total


def assert_top_sets(entry_D, W_KD):
    """{d : e(d) < p} is the union over classes of the shortest prefix with mass at least p, for p = 0.01..0.99."""
    classes = list(prefixes(W_KD))
    for percent in range(1, 100):
        top = set()
        for placed, total in classes:
            enough = Fraction(percent, 100) * total
            reached = next(i for i, (_, before, own) in enumerate(placed) if before + own >= enough)
            top.update(d for d, _, _ in placed[: reached + 1])
        assert set(np.flatnonzero(entry_D < percent / 100)) == top


def exact_order(W_KD, step=lambda level: level):
    """Nonzero neurons in the order of METHODS 6, in exact arithmetic."""
    level, share = {}, {}
    for placed, total in prefixes(W_KD):
        for d, before, own in placed:
            level[d] = min(level.get(d, inf), before / total)
            share[d] = max(share.get(d, 0), own / total)
    return sorted((d for d in level if share[d]), key=lambda d: (step(level[d]), -share[d], d))


@settings(max_examples=80, deadline=None)
@given(W_KD=weights())
def test_top_sets_are_the_unions_of_prefixes(W_KD):
    assert_top_sets(entry_levels(torch.as_tensor(W_KD)[None])[0].numpy(), W_KD)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_sets_of_uneven_and_sparse_weights(dtype):
    rng = np.random.default_rng(5)
    W_CKD = rng.standard_t(2, size=(3, 6, 40)).astype(dtype)
    W_CKD[rng.random(W_CKD.shape) < 0.3] = 0
    W_CKD[:, :, [0, 7, 39]] = 0
    entry_CD = entry_levels(torch.as_tensor(W_CKD)).numpy()
    assert np.isposinf(entry_CD[:, [0, 7, 39]]).all()
    for W_KD, entry_D in zip(W_CKD, entry_CD, strict=True):
        assert_top_sets(entry_D, W_KD)


@settings(max_examples=200, deadline=None)
@given(W_KD=weights(), seed=st.integers(0, 2**32 - 1))
def test_the_ranking_is_the_definition_s_with_zero_neurons_behind(W_KD, seed):
    expected = exact_order(W_KD)
    order, n_zero, entry_D = rank(W_KD, seed=seed)
    assert order[: len(expected)] == expected
    zero = set(np.flatnonzero(~W_KD.any(0)))
    assert set(order[len(expected) :]) == zero == set(np.flatnonzero(np.isinf(entry_D)))
    assert n_zero == len(zero)


@settings(max_examples=200, deadline=None)
@given(W_KD=weights(), stride=st.sampled_from([1, 3, 10, 100]))
def test_a_stride_orders_each_step_by_the_ties(W_KD, stride):
    def step(level):
        return (
            level if level == 0 else next(s for s in range(1, stride + 1) if s == stride or level < Fraction(s, stride))
        )

    order, n_zero, _ = rank(W_KD, rank_stride=stride)
    assert order[: len(order) - n_zero] == exact_order(W_KD, step)
    assert order[len(order) - n_zero :] == rank(W_KD)[0][len(order) - n_zero :]


@settings(max_examples=60, deadline=None)
@given(W_KD=weights(), data=st.data())
def test_the_order_of_classes_and_the_other_cells_do_not_matter(W_KD, data):
    rows = data.draw(st.permutations(range(len(W_KD))))
    W_CKD = torch.as_tensor(np.stack([W_KD / 7, W_KD[rows] / 7, np.ones_like(W_KD)]))
    ranking = rank_neurons(W_CKD, seed=3)
    alone = rank_neurons(W_CKD[:1], seed=3)
    for place in (0, 1):
        assert torch.equal(ranking.order_CD[place], alone.order_CD[0])
        assert torch.equal(ranking.entry_CD[place], alone.entry_CD[0])


@settings(max_examples=60, deadline=None)
@given(W_KD=weights(), data=st.data())
def test_a_class_that_does_not_count_is_as_if_it_were_not_there(W_KD, data):
    counted_K = np.array(data.draw(st.lists(st.booleans(), min_size=len(W_KD), max_size=len(W_KD))))
    order, n_zero, entry_D = rank(W_KD, counted_K=torch.as_tensor(counted_K))
    assert order[: len(order) - n_zero] == exact_order(W_KD[counted_K])
    assert n_zero == np.sum(~W_KD[counted_K].any(0)) == np.isinf(entry_D).sum()


@pytest.mark.parametrize("size", NEUROX_WEIGHTS)
def test_neurox_sets_at_every_mass(golden, size):
    z = np.load(golden / "neurox_ranking" / f"W_{size}.npz", allow_pickle=False)
    entry_D = entry_levels(torch.as_tensor(z["W_KD"])[None])[0].numpy()
    assert ((z["p_P"][1:] > 0) & (z["p_P"][1:] < 1)).all()
    for p, top_D in zip(z["p_P"][1:], z["top_mask_PD"][1:], strict=True):
        np.testing.assert_array_equal(entry_D < p, top_D)
    np.testing.assert_array_equal(entry_D == 0, z["top_mask_PD"][0])
    largest_K = np.abs(z["W_KD"]).argmax(1)
    assert set(np.flatnonzero(entry_D == 0)) == set(largest_K)


@pytest.mark.parametrize("stride", [None, 100])
@pytest.mark.parametrize("size", NEUROX_WEIGHTS)
def test_neurox_steps(golden, size, stride):
    z = np.load(golden / "neurox_ranking" / f"W_{size}.npz", allow_pickle=False)
    zero = json.loads((golden / "neurox_ranking" / "ranking.json").read_text())[size]["all_zero_neurons"]
    order, n_zero, _ = rank(z["W_KD"], rank_stride=stride)
    for s in range(100):
        assert set(order[: z["cutoffs_101"][s]]) == set(np.flatnonzero(z["entry_step_D"] <= s))
    assert n_zero == len(zero)
    assert set(order[len(order) - n_zero :]) == set(zero)


def test_a_stride_reorders_inside_a_step_only(golden):
    W_KD = np.load(golden / "neurox_ranking" / "W_5x48.npz", allow_pickle=False)["W_KD"]
    fine, coarse = rank(W_KD)[0], rank(W_KD, rank_stride=100)[0]
    assert fine != coarse
    assert rank(W_KD, rank_stride=10**6)[0] == fine


def test_label_planted_in_five_units_of_two_layers():
    rng = np.random.default_rng(0)
    dim, layers, planted = 8, 3, [1, 4, 6, 17, 22]
    X_ND = torch.as_tensor(rng.normal(size=(1500, dim * layers)))
    score_NK = X_ND[:, planted] * torch.tensor([1.0, 1.2, 0.9, 1.1, 1.0])
    y_N = score_NK.argmax(1)
    shuffle_N = torch.as_tensor(rng.permutation(len(y_N)))
    first, again = (
        rank_neurons(fit_logistic([X], y, 5, [1e-2], tolerance=1e-8, max_iterations=2000).W_LGKD[0], seed=0)
        for X, y in ((X_ND, y_N), (X_ND[shuffle_N], y_N[shuffle_N]))
    )
    assert set(first.order_CD[0, :5].tolist()) == set(planted)
    assert layer_counts(first.order_CD[0, :5], dim, layers).tolist() == [3, 0, 2]
    np.testing.assert_allclose(first.entry_CD, again.entry_CD, atol=1e-5)


def test_zero_neurons_follow_the_published_outputs_of_splitmix64():
    # 6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    assert rank(np.zeros((2, 5)), seed=1234567)[0] == [1, 3, 0, 2, 4]
    assert rank(np.zeros((2, 5)), seed=1234567 + 2**64)[0] == [1, 3, 0, 2, 4]
    order, n_zero, entry_D = rank(np.eye(5)[:1] * 0.0, seed=1)
    assert (sorted(order), n_zero, np.isposinf(entry_D).all()) == ([0, 1, 2, 3, 4], 5, True)


def test_zero_neurons_fill_the_bottom_set_from_all_layers():
    W_KD = np.zeros((4, 13 * 768))
    W_KD[:, ::33] = 1
    orders = [torch.tensor(rank(W_KD, seed=seed)[0]) for seed in (0, 1)]
    for order in orders:
        n_L = layer_counts(order[-1000:], 768, 13)
        assert n_L.sum() == 1000
        assert chisquare(n_L).pvalue > 0.01
    assert len(set(orders[0][-1000:].tolist()) & set(orders[1][-1000:].tolist())) < 200


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        rank(np.array([[1.0, bad, 1e308]]))


def test_a_stride_below_one_is_refused():
    with pytest.raises(ValueError, match="rank_stride"):
        rank(np.ones((2, 3)), rank_stride=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_s_weights_are_ranked_alike():
    W_CKD = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    there, here = rank_neurons(W_CKD.cuda(), seed=1), rank_neurons(W_CKD, seed=1)
    for a, b in zip(there, here, strict=True):
        assert a.is_cuda
        assert torch.equal(a.cpu(), b)
    mu_KD = W_CKD[0].cuda()
    assert torch.equal(probeless(mu_KD).cpu(), probeless(W_CKD[0]))


@pytest.mark.parametrize("classes", [5, 17])
def test_probeless_rankings_of_neurox(golden, classes):
    data = np.load(golden / "neurox_linear" / f"k{classes}.npz", allow_pickle=False)
    z = np.load(golden / "neurox_ranking" / f"probeless_k{classes}.npz", allow_pickle=False)
    mu_KD, n_K = class_means([(torch.as_tensor(data["X_ND"]), torch.as_tensor(data["y_N"]))], classes)
    assert n_K.min() > 0
    order_D = probeless(mu_KD)
    np.testing.assert_array_equal(order_D, z["ranking_D"])
    np.testing.assert_array_equal(order_D, z["ranking_all_tags_D"])


@settings(max_examples=100, deadline=None)
@given(
    mu_KD=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.int64, shape, elements=st.integers(-9, 9))
    )
)
def test_probeless_sums_the_differences_of_all_pairs(mu_KD):
    r = [sum(abs(a - b) for a, b in combinations(column, 2)) for column in mu_KD.T.tolist()]
    assert probeless(torch.as_tensor(mu_KD)).tolist() == sorted(range(len(r)), key=lambda d: (-r[d], d))


def test_equal_columns_rank_by_place():
    mu_KD = torch.as_tensor(np.random.default_rng(1).normal(size=(11, 1))).expand(11, 301)
    assert probeless(mu_KD).tolist() == list(range(301))


def test_class_means_of_pieces_are_those_of_the_whole():
    rng = np.random.default_rng(2)
    X_ND, y_N = rng.normal(size=(90, 7)).astype(np.float32), rng.choice([0, 1, 3], 90)
    X, y = torch.as_tensor(X_ND), torch.as_tensor(y_N)
    whole = class_means([(X, y)], 5)
    by_item = class_means(((X[i : i + 40], y[i : i + 40]) for i in range(0, 90, 40)), 5)
    by_dim = torch.cat([class_means([(part, y)], 5).mu_KD for part in (X[:, :3], X[:, 3:])], 1)
    assert whole.n_K.tolist() == np.bincount(y_N, minlength=5).tolist() == by_item.n_K.tolist()
    for label in (0, 1, 3):
        expected_D = X_ND[y_N == label].astype(np.float64).mean(0)
        for mu_KD in (whole.mu_KD, by_item.mu_KD, by_dim):
            np.testing.assert_allclose(mu_KD[label], expected_D, rtol=1e-12, atol=1e-14)
    assert torch.isnan(whole.mu_KD[[2, 4]]).all()


def test_classes_without_items_must_be_left_out():
    X_ND = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 3.0]])
    means = class_means([(X_ND, torch.tensor([0, 2, 0]))], 4)
    assert probeless(means.mu_KD, means.n_K > 0).tolist() == [1, 0]
    with pytest.raises(ValueError, match="without items"):
        probeless(means.mu_KD)
    with pytest.raises(ValueError, match="one class at least"):
        probeless(means.mu_KD, torch.zeros(4, dtype=torch.bool))


def test_class_means_refuse_no_items_and_features_that_are_not_finite():
    with pytest.raises(ValueError, match="at least one batch"):
        class_means([], 3)
    with pytest.raises(ValueError, match="not finite"):
        class_means([(torch.tensor([[np.nan]]), torch.tensor([0]))], 1)


@given(layers=st.integers(1, 5), dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_layer_counts_add_up(layers, dim, seed):
    order_D = np.random.default_rng(seed).permutation(layers * dim)
    n = len(order_D) // 2
    n_L = layer_counts(torch.as_tensor(order_D[:n]), dim, layers)
    assert n_L.tolist() == [sum(d // dim == layer for d in order_D[:n]) for layer in range(layers)]


def test_a_neuron_outside_the_layers_is_refused():
    with pytest.raises(ValueError, match="neuron 6 lies outside 3 layers of 2 units"):
        layer_counts(torch.tensor([0, 6]), 2, 3)


@given(D=st.integers(1, 20_000), tenths=st.integers(1, 1000))
def test_shares_round_up_exactly(D, tenths):
    assert n_neurons(D, tenths / 10) == -(-D * tenths // 1000)


@pytest.mark.parametrize(
    ("D", "percent", "n"), [(9984, 5, 500), (9984, 10, 999), (9984, 100, 9984), (1000, 0.7, 7), (3, 1e-05, 1)]
)
def test_shares_of_the_paper_and_awkward_ones(D, percent, n):
    assert n_neurons(D, percent) == n


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_shares_outside_0_to_100_are_refused(percent):
    with pytest.raises(ValueError, match="per cent"):
        n_neurons(10, percent)
