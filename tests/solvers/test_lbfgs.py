"""Batched searches on quadratics with a known minimum: each as if alone, and none past its limits."""

import pytest
import torch

from ftprobe.solvers.history import History
from ftprobe.solvers.lbfgs import Evaluation, minimise
from ftprobe.solvers.products import product, stacked


def quadratics(n=4, width=16, seed=0):
    """f(x) = x'Hx/2 - c'x with condition numbers from 1 to 10^(n-1), and the minima H^-1 c."""
    generator = torch.Generator().manual_seed(seed)
    Q_BPP = torch.linalg.qr(torch.randn(n, width, width, generator=generator, dtype=torch.float64))[0]
    eigenvalues_BP = torch.stack([torch.logspace(-power, 0, width, dtype=torch.float64) for power in range(n)])
    H_BPP = Q_BPP @ torch.diag_embed(eigenvalues_BP) @ Q_BPP.mT
    c_BP = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return H_BPP, c_BP, torch.linalg.solve(H_BPP, c_BP)


def search(H_BPP, c_BP, start_BP=None, history=None, **options):
    def evaluate(x_AP, problem_A):
        g_AP = (H_BPP[problem_A] @ x_AP[:, :, None])[:, :, 0] - c_BP[problem_A]
        f_A = ((g_AP - c_BP[problem_A]) * x_AP).sum(1) / 2
        return Evaluation(f_A, g_AP, g_AP.abs().amax(1), torch.ones_like(g_AP))

    start_BP = torch.zeros_like(c_BP) if start_BP is None else start_BP
    history = history or History.empty(start_BP, 12, torch.float64)
    chosen = {"tolerance": 1e-8, "max_iterations": 500, "noise": 1e-14, **options}
    return minimise(evaluate, start_BP, history=history, **chosen)


def test_every_problem_reaches_its_minimum_in_its_own_time():
    H_BPP, c_BP, minimum_BP = quadratics()
    ends = search(H_BPP, c_BP)
    assert ends.converged_B.all()
    torch.testing.assert_close((H_BPP @ ends.x_BP[:, :, None])[:, :, 0], c_BP, atol=1e-7, rtol=0)
    torch.testing.assert_close(ends.x_BP[:3], minimum_BP[:3], atol=1e-5, rtol=1e-5)
    assert ends.iterations_B[0] < ends.iterations_B[2] < ends.iterations_B[3]
    assert (ends.evaluations_B > ends.iterations_B).all()


def test_a_problem_in_a_batch_ends_where_it_does_alone():
    H_BPP, c_BP, _ = quadratics()
    ends = search(H_BPP, c_BP)
    for at in range(len(c_BP)):
        alone = search(H_BPP[at : at + 1], c_BP[at : at + 1])
        torch.testing.assert_close(alone.x_BP[0], ends.x_BP[at], atol=1e-7, rtol=1e-7)
        assert alone.iterations_B[0] == ends.iterations_B[at]


def test_the_remembered_steps_start_a_nearby_search_well():
    H_BPP, c_BP, _ = quadratics()
    first = search(H_BPP, c_BP, history=History.empty(c_BP, 40, torch.float64))
    more_BP = torch.full_like(c_BP, 1e-3)
    shifted_BPP = H_BPP + torch.diag_embed(more_BP)
    blank = History.empty(c_BP, 40, torch.float64)
    cold = search(shifted_BPP, c_BP, start_BP=first.x_BP, history=blank)
    warm = search(shifted_BPP, c_BP, start_BP=first.x_BP, history=first.history.shifted(more_BP))
    assert warm.converged_B.all()
    assert warm.iterations_B.sum() < 0.5 * cold.iterations_B.sum()


def test_shifted_steps_are_those_of_the_shifted_hessian():
    H_BPP, c_BP, _ = quadratics()
    shifted = search(H_BPP, c_BP).history.shifted(torch.full_like(c_BP, 0.5))
    expected_BHP = shifted.s_AHP @ (H_BPP + 0.5 * torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(shifted.y_AHP, expected_BHP, atol=1e-9, rtol=1e-6)


def test_a_full_history_of_independent_steps_is_the_inverse_hessian():
    H_BPP, c_BP, _ = quadratics(n=1, width=6)
    history = History.empty(c_BP, 6, torch.float64)
    conjugate_PP = torch.linalg.eigh(H_BPP[0])[1]
    for s_P in conjugate_PP.T:
        history.add(s_P[None], (H_BPP[0] @ s_P)[None], torch.tensor([True]))
    torch.testing.assert_close(history.inverse_times(c_BP, lambda v_SBP: v_SBP), torch.linalg.solve(H_BPP, c_BP))


@pytest.mark.parametrize("limit", [1, 7])
def test_no_more_steps_than_allowed(limit):
    H_BPP, c_BP, _ = quadratics()
    ends = search(H_BPP, c_BP, max_iterations=limit)
    assert ends.iterations_B.max() == limit
    assert not ends.converged_B[3]
    assert (ends.objective_B < 0).all()


def test_a_tolerance_below_rounding_ends_unconverged_and_at_the_minimum():
    H_BPP, c_BP, minimum_BP = (column[1:] for column in quadratics())
    ends = search(H_BPP, c_BP, tolerance=1e-30, max_iterations=100_000)
    assert not ends.converged_B.any()
    assert ends.iterations_B.max() < 1000
    torch.testing.assert_close(ends.x_BP, minimum_BP, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_a_product_row_does_not_depend_on_its_stack(rows, dtype):
    generator = torch.Generator().manual_seed(0)
    blocks_CMD = torch.randn(5, rows, 48, generator=generator, dtype=torch.float64)
    x_ND = torch.randn(301, 48, generator=generator, dtype=torch.float64).to(dtype)
    together = product(stacked(blocks_CMD, dtype), x_ND)[: 5 * rows].view(5, rows, -1)
    for alone, block_MD in zip(together, blocks_CMD, strict=True):
        torch.testing.assert_close(product(stacked(block_MD[None], dtype), x_ND)[:rows], alone, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(alone.double(), block_MD @ x_ND.double().T, rtol=1e-4, atol=1e-4)
