"""Extraction against the loops users write: one text at a time, and batches of 32 in corpus order.

    python benchmarks/extraction.py MODEL --conllu en_ewt-ud-dev.conllu --sentences 500

All run in this process on the same threads and give the mean of each word's sub-words in every layer as float16. The
loops keep their vectors in memory; extraction writes its shards. The vectors are checked to be the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ftprobe.activations import Pooling
from ftprobe.activations.extract import extract
from ftprobe.models.load import Encoder, load_encoder
from ftprobe.shards import open_layer
from ftprobe.tasks.types import Corpus, Sentence


def read_conllu(path: Path, n_sentences: int) -> Corpus:
    sentences: list[Sentence] = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n")[:n_sentences]:
        rows = [line.split("\t") for line in block.splitlines() if line[0] != "#"]
        words = tuple(row[1] for row in rows if row[0].isdigit())
        sentences.append(Sentence(str(len(sentences)), "dev", " ".join(words), words=words))
    return Corpus(path.stem, tuple(sentences))


def batches_in_corpus_order(encoder: Encoder, corpus: Corpus, batch_size: int, device: str) -> NDArray[np.float16]:
    """(L + 1, N, D): pad a batch, run it, average each word's sub-words."""
    vectors = []
    for start in range(0, len(corpus.sentences), batch_size):
        words = [list(sentence.words or ()) for sentence in corpus.sentences[start : start + batch_size]]
        inputs = encoder.tokenizer(
            words, is_split_into_words=True, padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = encoder.model(**inputs.to(device), output_hidden_states=True).hidden_states
        h_LBTD = torch.stack(hidden).cpu().numpy()
        for b, row in enumerate(words):
            word_T = inputs.word_ids(b)
            for w in range(len(row)):
                pieces = [t for t, word in enumerate(word_T) if word == w]
                if pieces:
                    vectors.append(h_LBTD[:, b, pieces].mean(axis=1).astype(np.float16))
    return np.stack(vectors, axis=1)


def timed(work: Callable[[], object], repeats: int) -> float:
    """The fastest of some runs, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--conllu", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--token-budget", type=int, help="tokens of a batch; by default what suits the device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", type=Path, help="folder for the shards; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus = read_conllu(options.conllu, options.sentences)
    encoder = load_encoder(options.model)
    torch.nn.Module.to(encoder.model, options.device)
    with tempfile.TemporaryDirectory(dir=options.store) as folder:
        compare(encoder, corpus, Path(folder), options)


def compare(encoder: Encoder, corpus: Corpus, folder: Path, options: argparse.Namespace) -> None:
    def ours() -> None:
        extract(
            encoder,
            corpus,
            range(len(corpus.sentences)),
            [Pooling("word", "mean")],
            max_length=128,
            overflow="truncate",
            dtype="float16",
            out=[folder],
            device=options.device,
            token_budget=options.token_budget,
        )

    seconds = {"ftprobe": timed(ours, options.repeats)}
    for name, batch_size in (("one by one", 1), ("batches of 32", 32)):
        kept: list[NDArray[np.float16]] = []
        run = lambda size=batch_size, kept=kept: kept.append(  # noqa: E731
            batches_in_corpus_order(encoder, corpus, size, options.device)
        )
        seconds[name] = timed(run, options.repeats)
    h_LND = np.stack([open_layer(folder, layer) for layer in range(encoder.n_layers + 1)])
    difference = np.abs(h_LND.astype(np.float32) - kept[-1].astype(np.float32)).max()
    print(f"{len(corpus.sentences)} sentences, {h_LND.shape[1]} words, {h_LND.nbytes / 1e6:.0f} MB of float16")
    for name, s in seconds.items():
        print(f"{name:14s} {s:8.2f} s   {s / seconds['ftprobe']:5.2f} x ftprobe's time")
    print(f"largest difference {difference:.1e} (float16 rounds to {np.spacing(np.abs(h_LND).max()):.1e})")
    read = timed(lambda: [open_layer(folder, layer).copy() for layer in range(encoder.n_layers + 1)], 5)
    mapped = timed(lambda: open_layer(folder, 0), 5)
    print(
        f"read a layer: {h_LND.nbytes / read / 1e9:.1f} GB/s copied to memory; mapping one takes {mapped * 1e3:.2f} ms"
    )


if __name__ == "__main__":
    main()
