"""Speed and agreement of the probe engine beside what users would pick instead: same data, same process, same threads.

    python benchmarks/probes.py [SECTION ...] [--threads 2] [--device cpu] [--words 6000] [--data ../shared/data]
                                [--neurox DIR] [--repeats 3]

Sections: `adam` (elastic-net lambda grid against NeuroX), `l2` (strength path against scikit-learn's lbfgs),
`converged` (elastic net to convergence against saga), `mlp` (grid of perceptrons against MLPClassifier), `memory`
(peak of a neuron study of 9,984 dimensions), `grid` (cells a second of the 64-pair grid at 768 dimensions and 13
layers, which is what a GPU is for). MiniLM activations of UD English EWT; random features where these are absent.
Ratios above 1 favour ftprobe; of several repeats the median ratio is shown. GEMM is the rate of the same products
alone, measured in the same run. NeuroX is imported from DIR (`make .neurox` installs it there).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import minilm
import numpy as np
import torch
from minilm import Data, Timed, gemm_gflops, timed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from ftprobe.probes.elastic_net import GRID
from ftprobe.solvers.elastic_net import Cell, Recipe, Weights, fit_adam, predict
from ftprobe.solvers.elastic_net_converged import fit_elastic_net
from ftprobe.solvers.logistic import fit_logistic
from ftprobe.solvers.mlp import MlpCell, best_cells, fit_mlps, predict_mlps
from ftprobe.solvers.rows import Matrix

LAYER = 3
PAIRS = [(l1, l2) for l1 in GRID for l2 in GRID]
STRENGTHS, TOLERANCE, MAX_ITERATIONS = (1e-5, 1e-4, 1e-3, 1e-2), 1e-5, 1000
SAGA_PAIRS = [(1e-3, 1e-2), (1e-3, 1e-3), (1e-4, 1e-4)]
SIZES = [(h, j) for h in (32, 64, 128, 256) for j in (32, 64, 128, 256)]
ALPHAS = [10.0**-i for i in range(8)]
SEEDS = 5


def paired(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[Timed, Timed]:
    """Both in turn, after a warm-up of ours; prints times and the median ratios of the pairs; the last values."""
    runs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    for name, index in (("ftprobe", 0), ("peer", 1)):
        cpu, wall = (statistics.median(getattr(run[index], key) for run in runs) for key in ("cpu_s", "wall_s"))
        print(f"  {name:8} cpu {cpu:8.2f} s   wall {wall:8.2f} s")
    cpu, wall = (statistics.median(getattr(t, k) / getattr(o, k) for o, t in runs) for k in ("cpu_s", "wall_s"))
    print(f"  ratio    cpu {cpu:8.2f}     wall {wall:8.2f}     (median of {repeats})")
    return runs[-1]


def share(flops: float, wall_s: float, shapes: list[tuple[int, int, int]], device: str) -> None:
    rate = gemm_gflops(shapes, device)
    print(f"  GEMM {rate:.0f} GFLOP/s, reached {flops / wall_s / 1e9:.0f}: {flops / wall_s / 1e9 / rate:.0%}")


def adam(options: argparse.Namespace, data: Data) -> None:
    """64 cells, 10 epochs of batches of 512, first weights and order as NeuroX has them; dev accuracy of every cell."""
    n, K = data.n_train, data.n_classes
    X_ND, y_N = data.X_LND[LAYER], data.y_N
    print(f"\nelastic-net Adam grid, {data.name}: {len(PAIRS)} cells, N = {n}, D = {X_ND.shape[1]}, K = {K}")
    train, test = (
        Matrix(torch.from_numpy(X_ND[:n]).to(options.device)),
        Matrix(torch.from_numpy(X_ND[n:]).to(options.device)),
    )
    y_1N = torch.from_numpy(y_N[:n])[None].to(options.device)
    y_test_N = torch.from_numpy(y_N[n:]).to(options.device)
    torch.manual_seed(0)
    linear = torch.nn.Linear(X_ND.shape[1], K)
    start = Weights(linear.weight.data.expand(len(PAIRS), -1, -1), linear.bias.data.expand(len(PAIRS), -1))
    recipe = Recipe(penalty="l2_norm", shuffle=False)

    def ours() -> list[float]:
        fits = fit_adam(train, y_1N, K, [Cell(*pair, 0) for pair in PAIRS], recipe, order_seed=0, start=start)
        accuracy_C: list[float] = (predict(fits, test).class_CN == y_test_N).double().mean(1).tolist()
        return accuracy_C

    ours()
    if options.neurox is None:
        run = timed(ours)
        print(f"  ftprobe  cpu {run.cpu_s:8.2f} s   wall {run.wall_s:8.2f} s   (NeuroX is not here: --neurox DIR)")
    else:
        run, theirs = paired(ours, lambda: neurox(X_ND, y_N, n), options.repeats)
        off = np.abs(np.subtract(run.value, theirs.value))
        print(f"  accuracy: largest difference of a cell {off.max():.5f}, of the best cell "
              f"{abs(max(run.value) - max(theirs.value)):.5f}")  # fmt: skip
    flops = 4.0 * n * X_ND.shape[1] * K * len(PAIRS) * recipe.epochs
    rows = min(1024, K * len(PAIRS))
    share(flops, run.wall_s, [(rows, X_ND.shape[1], 512), (rows, 512, X_ND.shape[1])], options.device)


def neurox(X_ND: NDArray[np.float32], y_N: NDArray[np.int64], n: int) -> list[float]:
    import neurox.interpretation.linear_probe as probe

    accuracies = []
    for l1, l2 in PAIRS:
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made = probe.train_logistic_regression_probe(
                X_ND[:n], y_N[:n], lambda_l1=l1, lambda_l2=l2, num_epochs=10, batch_size=512
            )
            scores = probe.evaluate_probe(made, X_ND[n:], y_N[n:], idx_to_class={i: str(i) for i in set(y_N.tolist())})
        accuracies.append(float(scores["__OVERALL__"]))
    return accuracies


def l2(options: argparse.Namespace, data: Data) -> None:
    """Every layer, four strengths, to a largest gradient entry of 1e-5."""
    data = data.standardised()
    n, K = data.n_train, data.n_classes
    print(f"\nL2 path, {data.name}: {len(data.X_LND)} layers x {len(STRENGTHS)} strengths, N = {n}, K = {K}")
    y_N, c = torch.from_numpy(data.y_N[:n]).to(options.device), 1 if K > 2 else 2

    def ours():
        X_LND = [torch.from_numpy(X_ND[:n]).to(options.device) for X_ND in data.X_LND]
        return fit_logistic(X_LND, y_N, K, STRENGTHS, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)

    def theirs():
        return [
            [
                LogisticRegression(C=c / (n * a), tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(X_ND[:n], data.y_N[:n])
                for a in STRENGTHS
            ]
            for X_ND in data.X_LND
        ]

    mine, peers = paired(ours, theirs, options.repeats)
    gaps, accuracies = [], []
    for layer, models in enumerate(peers.value):
        for g, (a, model) in enumerate(zip(STRENGTHS, models, strict=True)):
            W_KD, b_K = (each[layer, g].cpu().numpy() for each in (mine.value.W_LGKD, mine.value.b_LGK))
            own, peer = judged(data, layer, 0, a / 2, W_KD, b_K), judged(data, layer, 0, a / 2, *weights(model))
            gaps.append(own[0] / peer[0] - 1)
            accuracies.append(own[1] - peer[1])
    agreement(gaps, accuracies)


def converged(options: argparse.Namespace, data: Data) -> None:
    """Three pairs of lambdas; saga stops at its own tol or, as it does by default, at 100 passes over the data."""
    data = data.standardised()
    n, K = data.n_train, data.n_classes
    print(f"\nelastic net to convergence, {data.name}: {len(SAGA_PAIRS)} cells, N = {n}, K = {K}")
    X_ND, y_N = torch.from_numpy(data.X_LND[LAYER][:n]).to(options.device), torch.from_numpy(data.y_N[:n])

    def ours():
        return fit_elastic_net(X_ND, y_N.to(options.device), K, SAGA_PAIRS)

    def theirs():
        made = []
        for l1, l2 in SAGA_PAIRS:
            both = l1 + 2 * l2  # the penalty is l1 sum|W| + (2 l2) ||W||^2 / 2
            model = LogisticRegression(solver="saga", l1_ratio=l1 / both, C=1 / (n * both), tol=1e-4, max_iter=100)
            made.append(model.fit(data.X_LND[LAYER][:n], data.y_N[:n]))
        return made

    ours()
    mine, peers = paired(ours, theirs, options.repeats if options.long else 1)
    gaps, accuracies, peer_G, peer_cpu_s = [], [], [], peers.cpu_s
    for g, ((l1, l2), model) in enumerate(zip(SAGA_PAIRS, peers.value, strict=True)):
        W_KD, b_K = mine.value.W_GKD[g].double().cpu().numpy(), mine.value.b_GK[g].double().cpu().numpy()
        own, peer = judged(data, LAYER, l1, l2, W_KD, b_K), judged(data, LAYER, l1, l2, *weights(model))
        peer_G.append(peer[0])
        gaps.append(own[0] / peer[0] - 1)
        accuracies.append(own[1] - peer[1])
    agreement(gaps, accuracies)
    early = timed(lambda: fit_elastic_net(X_ND, y_N.to(options.device), K, SAGA_PAIRS, tolerance=1e-4))
    print(f"  stopped at 1e-4, objective relative to the peer's: "
          f"{max(early.value.objective_G.tolist()[g] / peer_G[g] - 1 for g in range(len(peer_G))):+.1e} at most; cpu "
          f"{early.cpu_s:.2f} s, {peer_cpu_s / early.cpu_s:.1f} times less than the peer's")  # fmt: skip
    print(f"  passes of saga: {[int(model.n_iter_[0]) for model in peers.value]}; iterations of ours: "
          f"{mine.value.iterations_G.tolist()}")  # fmt: skip
    whole = timed(lambda: fit_elastic_net(X_ND, y_N.to(options.device), K, [p for p in PAIRS if p != (0.0, 0.0)]))
    print(f"  the grid of 63 pairs: cpu {whole.cpu_s:.2f} s, {whole.cpu_s / 63:.3f} s a cell, "
          f"{peer_cpu_s / len(SAGA_PAIRS) / (whole.cpu_s / 63):.1f} times less than the peer's mean of "
          f"{len(SAGA_PAIRS)}; converged {int(whole.value.converged_G.sum())}")  # fmt: skip


def weights(model: LogisticRegression) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    W_KD, b_K = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    return (W_KD, b_K) if len(b_K) > 1 else (np.concatenate([-W_KD, W_KD]) / 2, np.concatenate([-b_K, b_K]) / 2)


def judged(
    data: Data, layer: int, l1: float, l2: float, W_KD: NDArray[np.float64], b_K: NDArray[np.float64]
) -> tuple[float, float]:
    """Objective on train, in float64, and accuracy on the other rows."""
    z_NK = data.X_LND[layer].astype(np.float64) @ W_KD.T + b_K
    train, test = slice(data.n_train), slice(data.n_train, None)
    gold_n = z_NK[train][np.arange(data.n_train), data.y_N[train]]
    loss = float((np.logaddexp.reduce(z_NK[train], axis=1) - gold_n).mean())
    loss += l1 * float(np.abs(W_KD).sum()) + l2 * float((W_KD**2).sum())
    return loss, float((z_NK[test].argmax(1) == data.y_N[test]).mean())


def agreement(gaps: list[float], accuracies: list[float]) -> None:
    print(f"  objective relative to the peer's: lowest {min(gaps):+.1e}, highest {max(gaps):+.1e}")
    print(f"  accuracy minus the peer's: lowest {min(accuracies):+.4f}, highest {max(accuracies):+.4f}")


def mlp(options: argparse.Namespace, data: Data) -> None:
    """16 architectures x 8 alphas x 5 seeds for a fixed number of epochs; the peer fits a few cells of each."""
    n, K, epochs = data.n_train, data.n_classes, options.epochs
    print(f"\nMLP grid, {data.name}: {len(SIZES)} x {len(ALPHAS)} x {SEEDS}, {epochs} epochs each, N = {n}, K = {K}")
    X_ND, y_N = data.X_LND[LAYER], data.y_N
    train, y_1N = torch.from_numpy(X_ND[:n]).to(options.device), torch.from_numpy(y_N[:n])[None].to(options.device)
    cells = [MlpCell(alpha, seed) for alpha in ALPHAS for seed in range(SEEDS)]
    total = np.zeros(3)
    head = ("hidden", "CPU s a cell", "x float32", "float64", "of GEMM", "accuracy")
    print("  {:>10} {:>12} {:>10} {:>8} {:>8} {:>9} (peer)".format(*head))
    for hidden in SIZES:
        never = {"max_epochs": epochs, "tolerance": -np.inf, "patience": epochs}
        mine = timed(lambda h=hidden, never=never: fit_mlps(train, y_1N, K, h, cells, order_seed=0, **never))
        said_GN = predict_mlps(mine.value, torch.from_numpy(X_ND[n:]).to(options.device)).class_GN.cpu().numpy()
        peers = [
            timed(lambda h=hidden, X=X: [sklearn_mlp(X, y_N[:n], h, alpha, epochs) for alpha in (1e-5, 1e-2)])
            for X in (X_ND[:n], X_ND[:n].astype(np.float64))
        ]
        times = np.array([mine.cpu_s / len(cells), *(peer.cpu_s / 2 for peer in peers)])
        total += times
        flops = 2.0 * n * epochs * (2 * X_ND.shape[1] * hidden[0] + 3 * hidden[0] * hidden[1] + 3 * hidden[1] * K)
        rows = hidden[0] * best_cells(hidden, X_ND.shape[1], K)
        rate = gemm_gflops([(rows, X_ND.shape[1], 200), (rows, 200, X_ND.shape[1])], options.device, 0.3)
        reached = flops / (mine.wall_s / len(cells)) / 1e9 / rate
        accuracy = float((said_GN == y_N[n:]).mean())
        theirs = float(np.mean([model.score(X_ND[n:], y_N[n:]) for model in peers[0].value]))
        ratios = times[1:] / times[0]
        print(f"  {hidden!s:>10} {times[0]:12.3f} {ratios[0]:10.2f} {ratios[1]:8.2f} {reached:8.0%} "
              f"{accuracy:9.3f} ({theirs:.3f})", flush=True)  # fmt: skip
    print(f"  all: {total[1] / total[0]:.2f} x per core against float32, {total[2] / total[0]:.2f} x against float64")


def sklearn_mlp(X_ND, y_N, hidden, alpha: float, epochs: int) -> MLPClassifier:
    return MLPClassifier(
        hidden, alpha=alpha, max_iter=epochs, tol=0.0, n_iter_no_change=epochs + 1, random_state=0
    ).fit(X_ND, y_N)


def memory(options: argparse.Namespace, data: Data) -> None:
    """A process of its own, so that nothing else counts: `neurons.py`."""
    print(f"\nneuron study, 9,984 dimensions, {options.items:,} words", flush=True)
    script = Path(__file__).with_name("neurons.py")
    subprocess.run([sys.executable, script, str(options.items), str(options.threads)], check=True)


def grid(options: argparse.Namespace, data: Data) -> None:
    """Random features of the size of BERT-base: 13 layers, 768 dimensions, 17 classes, the whole lambda grid."""
    n, D, K, L = options.items, 768, 17, 13 if options.device != "cpu" else 1
    print(f"\n64-pair grid on {options.device}: {L} of 13 layers, N = {n}, D = {D}, K = {K}")
    X_ND = torch.randn(n, D, device=options.device)
    y_1N = torch.randint(0, K, (1, n), device=options.device)
    cells = [Cell(*pair, 0) for pair in PAIRS]

    def ours():
        for _ in range(L):
            fit_adam(Matrix(X_ND), y_1N, K, cells, order_seed=0)

    fit_adam(Matrix(X_ND[:2048]), y_1N[:, :2048], K, cells, Recipe(1), order_seed=0)
    run = timed(ours)
    print(f"  {L * len(cells) / run.wall_s:.1f} cells a second, wall {run.wall_s:.2f} s")
    rows = min(1024, K * len(cells))
    share(4.0 * n * D * K * len(cells) * 10 * L, run.wall_s, [(rows, D, 512), (rows, 512, D)], options.device)


SECTIONS = {"adam": adam, "l2": l2, "converged": converged, "mlp": mlp, "memory": memory, "grid": grid}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all but memory and grid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--words", type=int, default=6000, help="train words")
    parser.add_argument("--sentences", type=int, default=4000, help="train sentences of the 2-class task")
    parser.add_argument("--items", type=int, default=20_000, help="words of `memory` and `grid`")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of every cell of `mlp`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="repeat saga too")
    parser.add_argument("--neurox", type=Path, help="folder that NeuroX is installed in")
    parser.add_argument("--data", type=Path, default=minilm.DATA)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.neurox is not None:
        sys.path.append(str(options.neurox.resolve()))
    chosen = options.sections or ["adam", "l2", "converged", "mlp"]
    print(f"{options.threads} threads; peers on the CPU, ftprobe on {options.device}")
    with threadpool_limits(options.threads):
        tasks = minilm.words(options.data, options.words) if set(chosen) - {"memory", "grid"} else {}
        for section in chosen:
            SECTIONS[section](options, tasks.get("upos"))
            if section == "adam":
                adam(options, tasks["xpos"])
            if section == "l2":
                l2(options, minilm.sentences(options.data, options.sentences))


if __name__ == "__main__":
    main()
