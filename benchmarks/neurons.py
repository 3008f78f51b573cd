"""Time and peak memory of a neuron study of 13 layers of 768 float16 dimensions, 17 classes and the whole lambda grid.

    python benchmarks/neurons.py [ITEMS] [THREADS]

Activations are made on disk, in a folder that is removed at the end; units 0 to 16 of layer 5 carry the label.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ftprobe.probes import PROBES, ProbeData
from ftprobe.probes.neurons import NeuronOptions
from ftprobe.probes.neurons_run import run, run_part

DIM, LAYERS, CLASSES = 768, 13, 17


def written(folder: Path, y_N: np.ndarray) -> list[np.ndarray]:
    """The layers, mapped from disk."""
    rng = np.random.default_rng(0)
    for layer in range(LAYERS):
        h_ND = np.lib.format.open_memmap(folder / f"{layer}.npy", "w+", np.float16, (len(y_N), DIM))
        for start in range(0, len(y_N), 1024):
            y_n = y_N[start : start + 1024]
            block_nD = rng.normal(size=(len(y_n), DIM))
            block_nD[:, :CLASSES] += 2.0 * np.eye(CLASSES)[y_n] * (layer == 5)
            h_ND[start : start + 1024] = block_nD
        del h_ND
    return [np.load(folder / f"{layer}.npy", mmap_mode="r") for layer in range(LAYERS)]


def study(folder: Path, n_items: int, threads: int) -> None:
    y_N = np.random.default_rng(1).integers(0, CLASSES, n_items).astype(np.int32)
    layers = written(folder, y_N)
    part_N = np.searchsorted([0.7, 0.85], np.arange(n_items) / n_items, side="right")
    data = ProbeData(
        layer=lambda layer: np.asarray(layers[layer], np.float32),
        layers=tuple(range(LAYERS)),
        y_N=y_N,
        labels=tuple(f"label{k:02}" for k in range(CLASSES)),
        split_N=np.array(["train", "dev", "test"])[part_N],
        sentence_N=np.arange(n_items, dtype=np.int32),
        word_N=np.zeros(n_items, np.int32),
        n_dropped=0,
        type_N=np.array([f"w{i % 3000}" for i in range(n_items)], dtype=object),
        stored=lambda layer: layers[layer],
        row_N=np.arange(n_items),
    )
    options, started = NeuronOptions(), time.time()
    shared = {"seed": 0, "device": "cpu", "threads": threads, "report": lambda metrics: None}
    packs = PROBES["neurons"].parts(options, data.layers, data.layers)
    parts = [run_part(options, data, part=part, **shared).facts["cells"] for part in packs]
    gridded = time.time()
    rows = {row.metric: row.value for row in run(options, data, parts=parts, **shared).measurements}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"  peak memory {peak:.2f} GiB; the grid of {sum(map(len, parts))} cells {gridded - started:.0f} s, the rest "
          f"{time.time() - gridded:.0f} s")  # fmt: skip
    print(f"  top 5 % {rows['top_accuracy']:.3f}, bottom 5 % {rows['bottom_accuracy']:.3f}, minimal set "
          f"{rows['minimal_n']:.0f} of {LAYERS * DIM}")  # fmt: skip


def main() -> None:
    n_items, threads = (int(each) for each in (*sys.argv[1:], *("20000", "2")[len(sys.argv) - 1 :]))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        study(Path(folder), n_items, threads)


if __name__ == "__main__":
    main()
