"""Planted activations of words: which neurons carry the label is known, and word types repeat."""

from __future__ import annotations

import numpy as np
import pytest

from ftprobe.probes import ProbeData


def silent(metrics):
    pass


@pytest.fixture(scope="session")
def word_data():
    """Words whose activations are given: `word_data(h_LND, y_N, types)`; 60 % train, 20 % dev, 20 % test, shuffled."""

    def make(h_LND, y_N, type_N=None, *, split_N=None, layers=None, word=True) -> ProbeData:
        n = len(y_N)
        if split_N is None:
            split_N = np.random.default_rng(5).permutation(np.arange(n) % 5)
            split_N = np.array(["train", "train", "train", "dev", "test"])[split_N]
        return ProbeData(
            layer=lambda layer: np.asarray(h_LND[layer], np.float32),
            layers=tuple(range(len(h_LND))) if layers is None else layers,
            y_N=np.asarray(y_N, np.int32),
            labels=tuple(f"label{k}" for k in range(int(max(y_N)) + 1)),
            split_N=np.asarray(split_N),
            sentence_N=np.arange(n, dtype=np.int32),
            word_N=np.zeros(n, np.int32) if word else np.full(n, -1, np.int32),
            n_dropped=0,
            type_N=np.asarray(type_N, dtype=object) if word and type_N is not None else None,
            stored=lambda layer: h_LND[layer],
            row_N=np.arange(n),
        )

    return make


@pytest.fixture(scope="session")
def planted():
    """Five layers of 100 units, 4 classes: the label can be read off `carriers` and nothing else."""

    def make(carriers, n=3000, size=3.0, seed=0):
        rng = np.random.default_rng(seed)
        y_N = rng.integers(0, 4, n)
        h_LND = rng.normal(size=(5, n, 100)).astype(np.float32)
        code_KC = np.where(rng.permuted(np.tile([0, 0, 1, 1], (len(carriers), 1)), axis=1).T, size, -size)
        for c, (layer, unit) in enumerate(carriers):
            h_LND[layer, :, unit] += code_KC[y_N, c]
        return h_LND, y_N

    return make
