"""Entropy and earth mover's distance of attention: closed forms, scipy, and padding that changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from scipy.stats import wasserstein_distance
from torch import Tensor

from ftprobe.solvers.attention import distributions, earth_movers_distance, entropy

seeds = st.integers(0, 2**32 - 1)


def rows(seed: int, n: int, *, sharp: float = 1.0, heads: int = 2) -> Tensor:
    """Random attention (1, heads, n, n): flat, or nearly one-hot, with a few exact zeros."""
    generator = np.random.default_rng(seed)
    weight = np.exp(sharp * generator.normal(size=(1, heads, n, n))) * (generator.random((1, heads, n, n)) > 0.2)
    weight += np.eye(n) * 1e-3
    return torch.from_numpy(weight / weight.sum(-1, keepdims=True))


def real(n: int) -> Tensor:
    return torch.ones(1, n, dtype=torch.int64)


def test_a_uniform_row_has_entropy_log_n_and_a_one_hot_row_none() -> None:
    uniform = distributions(torch.full((1, 1, 7, 7), 1 / 7), real(7))
    assert entropy(uniform, real(7)).numpy() == pytest.approx(math.log(7), abs=1e-12)
    assert entropy(uniform, real(7), log_base="2").numpy() == pytest.approx(math.log2(7), abs=1e-12)
    assert entropy(uniform, real(7), normalise=True).numpy() == pytest.approx(1, abs=1e-12)
    assert not entropy(distributions(torch.eye(7)[None, None], real(7)), real(7)).any()


def test_one_hots_are_as_far_apart_as_their_positions() -> None:
    n = 6
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    at_i, at_j = (torch.nn.functional.one_hot(place, n)[None] for place in (i, j))
    mask = real(n)
    P, Q = distributions(at_i, mask), distributions(at_j, mask)
    assert torch.equal(earth_movers_distance(P, Q, mask)[0], (i - j).abs().double())
    scaled = earth_movers_distance(P, Q, mask, ground_distance="position_normalised")[0]
    assert torch.allclose(scaled, (i - j).abs().double() / (n - 1), atol=1e-15)
    assert not earth_movers_distance(P, Q, mask, ground_distance="values").any()


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 9), st.sampled_from([0.1, 1.0, 5.0]))
def test_agrees_with_scipy(seed: int, n: int, sharp: float) -> None:
    a, b, mask = rows(seed, n, sharp=sharp), rows(seed + 1, n, sharp=sharp), real(n)
    for direction, turn in (("from", lambda x: x), ("to", lambda x: x.T)):
        P, Q = (distributions(one, mask, direction=direction) for one in (a, b))
        found = entropy(P, mask)[0], earth_movers_distance(P, Q, mask)[0]
        values = earth_movers_distance(P, Q, mask, ground_distance="values")[0]
        for head in range(2):
            for j in range(n):
                p, q = turn(a[0, head].numpy())[j], turn(b[0, head].numpy())[j]
                assert found[0][head, j].item() == pytest.approx(scipy_entropy(p), abs=1e-10)
                expected = wasserstein_distance(np.arange(n), np.arange(n), p, q)
                assert found[1][head, j].item() == pytest.approx(expected, abs=1e-10)
                expected = wasserstein_distance(p / p.sum(), q / q.sum())
                assert values[head, j].item() == pytest.approx(expected, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 12), st.sampled_from(["position", "position_normalised", "values"]))
def test_a_distance_is_symmetric_bounded_and_zero_to_itself(seed: int, n: int, ground: str) -> None:
    mask = real(n)
    P, Q, R = (distributions(rows(seed + k, n, sharp=5.0), mask) for k in range(3))
    pq, qp, pr, rq = (
        earth_movers_distance(x, y, mask, ground_distance=ground) for x, y in ((P, Q), (Q, P), (P, R), (R, Q))
    )
    assert torch.equal(pq, qp)
    assert (pq <= {"position": n - 1, "position_normalised": 1, "values": 1}[ground] + 1e-12).all()
    assert (pq <= pr + rq + 1e-12).all()
    assert not earth_movers_distance(P, P, mask, ground_distance=ground).any()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 9), st.integers(0, 4), st.integers(0, 4), st.sampled_from(["from", "to"]))
def test_padding_changes_nothing(seed: int, n: int, before: int, after: int, direction: str) -> None:
    a, b = rows(seed, n), rows(seed + 1, n)
    generator = torch.Generator().manual_seed(seed % 2**31)
    size = before + n + after
    mask = torch.zeros(1, size, dtype=torch.int64)
    inside = slice(before, before + n)
    mask[:, inside] = 1
    padded = []
    for one in (a, b):
        # Queries of padding attend to anything; nobody attends to padding.
        wide = torch.rand(1, 2, size, size, generator=generator, dtype=torch.float64)
        wide[:, :, inside] = 0
        wide[:, :, inside, inside] = one
        padded.append(distributions(wide, mask, direction=direction))
    P, Q = (distributions(one, real(n), direction=direction) for one in (a, b))
    pairs = [(entropy(padded[0], mask, normalise=True), entropy(P, real(n), normalise=True))]
    pairs += [
        tuple(earth_movers_distance(*one, ground_distance=g) for one in ((*padded, mask), (P, Q, real(n))))
        for g in ("position", "position_normalised", "values")
    ]
    for wide, narrow in pairs:
        assert torch.allclose(wide[:, :, inside], narrow, atol=1e-13)
        assert wide[mask.bool()[:, None, :].expand_as(wide) == 0].isnan().all()


def test_a_key_that_nothing_attends_to_has_no_distribution() -> None:
    A = torch.zeros(1, 1, 3, 3)
    A[..., 0] = 1
    P = distributions(A, real(3), direction="to")
    assert entropy(P, real(3))[0, 0].isnan().tolist() == [False, True, True]
    assert P[0, 0, 0].tolist() == pytest.approx([1 / 3] * 3)
