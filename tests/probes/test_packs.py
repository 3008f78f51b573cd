"""Packs: sized to the memory, split where that was too much, and each cell in its order."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import ftprobe.probes.packs as packs
from ftprobe.probes.packs import budget, in_packs


def test_packs_fill_the_budget_and_keep_the_order(monkeypatch):
    monkeypatch.setattr(packs, "budget", lambda device: 10)
    made = in_packs(list(range(7)), list, bytes_of=lambda n: 4 * n, device="cpu")
    assert made == [[0, 1], [2, 3], [4, 5], [6]]


def refusing(limit, error):
    def fit(cells):
        if len(cells) > limit:
            raise error
        return list(cells)

    return fit


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_pack_that_memory_refuses_is_split(error):
    made = in_packs(list(range(9)), refusing(2, error), bytes_of=lambda n: n, device="cpu")
    assert [cell for pack in made for cell in pack] == list(range(9))
    assert max(map(len, made)) == 2


def test_a_cell_that_does_not_fit_alone_says_what_it_takes():
    with pytest.raises(MemoryError, match=r"one cell takes 3\.0 GB"):
        in_packs([0, 1], refusing(0, MemoryError()), bytes_of=lambda n: n * 3_000_000_000, device="cpu")


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        in_packs([0, 1], refusing(0, RuntimeError("shapes do not match")), bytes_of=lambda n: n, device="cpu")


def test_the_budget_is_a_part_of_what_is_free():
    assert 0 < budget("cpu") <= packs.LARGEST


LIMITED = """
import resource, sys, torch, numpy as np
torch.set_num_threads(1)
import ftprobe.probes.packs as packs
from ftprobe.solvers.elastic_net import Cell, Recipe, bytes_per_cell, fit_adam
from ftprobe.solvers.rows import Matrix
rows = Matrix(torch.randn(512, 4096, generator=torch.Generator().manual_seed(0)))
y_1N = torch.arange(512)[None] % 40
cells = [Cell(1e-4, 1e-4, seed) for seed in range(24)]
sizes = []
def fit(pack):
    made = fit_adam(rows, y_1N, 40, pack, Recipe(1, 256), order_seed=0)
    sizes.append(len(pack))
    return made.W_CKD.double().sum((1, 2)).tolist()
fit(cells[:1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
whole = bytes_per_cell(4096, 40, 256) * 24
free = in_order = [s for each in packs.in_packs(cells, fit, bytes_of=lambda n: 0, device="cpu") for s in each]
resource.setrlimit(resource.RLIMIT_AS, (used + whole // 2, used + whole // 2))
sizes.clear()
tight = [s for each in packs.in_packs(cells, fit, bytes_of=lambda n: 0, device="cpu") for s in each]
print(max(sizes), tight == free)
"""


def test_a_real_limit_splits_a_real_pack():
    """The process may map half of what the pack takes: torch's allocator refuses, and the cells come out the same."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest, equal = done.stdout.split()
    assert int(largest) < 24
    assert equal == "True"
