"""What a trial costs before it runs: floating-point operations, tokens and bytes.

Operations are counted as 2 per parameter and token of a forward pass over the transformer blocks (Kaplan et al. 2020,
section 2.1), three times that in training. Seconds follow from the speed that past manifests of the same stage show.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ftprobe.architecture import Architecture
from ftprobe.probes import Probe, Size, Work
from ftprobe.shards import expected_bytes
from ftprobe.study import ActivationOptions, FinetuneOptions

# Before any trial has run: a few CPU cores. GFLOP/s reached, not peak.
DEFAULT_SPEED = {
    **dict.fromkeys(("pretrain", "finetune", "search", "activations", "compare"), 4.0e10),
    "probe": 2.0e10,
}
MANIFESTS_READ = 200  # the latest of each stage are enough for a median
CHARACTERS_PER_TOKEN = 4.0
TOKENS_PER_SENTENCE = 24.0


class Cost(NamedTuple):
    """Floating-point operations, tokens through the model, bytes of the artifact, cells that are fitted.

    `bytes` is exact for activations; `weights` are the bytes of the model in float32.
    """

    flops: float
    tokens: float
    bytes: int
    cells: int = 0
    weights: int = 0


class Workload(NamedTuple):
    """Counts of a task's text by split; `exact` once the data has been read."""

    sentences: Mapping[str, int]
    words: Mapping[str, int]
    tokens_per_sentence: float
    items: Mapping[str, int]
    n_labels: int
    exact: bool

    @classmethod
    def of(cls, sizes: Mapping[Any, int] | None, counts: Mapping[str, Any] | None) -> Workload:
        """From the counts of a prepared corpus, else from its official sizes."""
        if counts is None:
            sentences = dict(sizes or {})
            return cls(sentences, {}, TOKENS_PER_SENTENCE, sentences, 2, False)
        n = max(1, sum(counts["sentences"].values()))
        tokens = sum(counts["characters"].values()) / n / CHARACTERS_PER_TOKEN + 2
        return cls(counts["sentences"], counts["words"], tokens, counts["items"], counts["n_labels"], True)

    def capped(self, caps: Mapping[str, int | None]) -> dict[str, int]:
        """Sentences by split after sampling."""
        return {split: n if (cap := caps.get(split)) is None else min(n, cap) for split, n in self.sentences.items()}


def finetune_cost(architecture: Architecture, work: Workload, options: FinetuneOptions) -> Cost:
    """Training over all epochs plus one evaluation per epoch; bytes = float32 weights."""
    caps = {"train": options.train_items, "dev": options.dev_items, "test": options.dev_items}
    n = work.capped(caps)
    length = min(work.tokens_per_sentence, options.max_length)
    trained = n.get("train", 0) * options.epochs * length
    scored = (n.get("test", 0) or n.get("dev", 0)) * options.epochs * length
    flops = _forward(architecture) * (3 * trained + scored)
    weights = 4 * architecture.parameters
    return Cost(flops, trained + scored, weights, weights=weights)


def search_cost(tuning: Cost, size: int) -> Cost:
    """So many fine-tunings, each of the largest cost; bytes = the weights of each and of the one that is kept."""
    return tuning._replace(flops=size * tuning.flops, tokens=size * tuning.tokens, bytes=(size + 1) * tuning.bytes)


def snapshot_cost(architecture: Architecture) -> Cost:
    """A state that a run passes anyway; bytes = float32 weights."""
    return Cost(0.0, 0.0, 4 * architecture.parameters, weights=4 * architecture.parameters)


def pretrain_cost(architecture: Architecture, options: Mapping[str, Any]) -> Cost:
    """Training of a masked language model; bytes = float32 weights."""
    tokens = float(options["updates"] * options["batch_size"] * options["block"])
    weights = 4 * architecture.parameters
    decoder = 2.0 * architecture.dim * architecture.vocab
    return Cost(3 * tokens * (_forward(architecture) + decoder), tokens, weights, weights=weights)


def compare_cost(architecture: Architecture, work: Workload, split: str, items: int | None) -> Cost:
    """A forward pass of two states; its artifact is a table."""
    n = sum(work.sentences.values()) if split == "all" else work.sentences.get(split, 0)
    tokens = min(n, items or n) * work.tokens_per_sentence
    return Cost(2 * _forward(architecture) * tokens, 2 * tokens, 40_000, weights=8 * architecture.parameters)


def activation_cost(architecture: Architecture, work: Workload, options: ActivationOptions, level: str) -> Cost:
    """One forward pass; bytes of every layer's Arrow files."""
    n = work.capped(_caps(options))
    tokens = sum(n.values()) * min(work.tokens_per_sentence, options.max_length)
    items = sum(n.values())
    if level in ("word", "word_pair", "tree"):
        items = round(sum(n[s] / max(1, work.sentences[s]) * work.words.get(s, 0) for s in n))
    size = expected_bytes(items, architecture.n_layers + 1, architecture.dim, options.dtype)
    return Cost(_forward(architecture) * tokens, tokens, size, weights=4 * architecture.parameters)


def probe_size(
    architecture: Architecture, work: Workload, options: ActivationOptions, level: str, n_layers: int
) -> Size:
    """How large a probe trial is, for what its family says of the work in it."""
    n = work.capped(_caps(options))
    share = n.get("train", 0) / max(1, work.sentences.get("train", 1))
    dim = architecture.dim * (2 if level == "word_pair" else 1)
    return Size(work.items.get("train", 0) * share, dim, work.n_labels, n_layers)


def work_of(probe: Probe, options: Any, size: Size, part: Mapping[str, Any] | None = None) -> Work:
    """What a family says of a trial, or of one pack of it; for one that says nothing 60 evaluations a layer."""
    if probe.work is None:
        return Work(size.n_layers, 4.0 * size.n_train * size.dim * max(2, size.n_labels) * size.n_layers * 60)
    return probe.work(options, size, part=part)


def probe_cost(work: Work) -> Cost:
    """Of a probe trial; its artifact is a few tables."""
    return Cost(work.flops, 0.0, 40_000, work.cells)


def speeds(manifests: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Operations per second of each stage: the median over past manifests, the default where there are none.

    A search is as fast as the fine-tunings that it runs.
    """
    seen: dict[str, list[float]] = {}
    for manifest in manifests:
        flops, wall = manifest.get("planned_flops", 0), manifest.get("wall_s", 0)
        # A resumed trial's time is that of its last part; a clock that was set back gives a time below 0.
        resumed = manifest.get("resumed_from_epoch") or manifest.get("resumed_from_update")
        if flops > 0 and wall > 0 and not resumed:
            seen.setdefault(str(manifest["stage"]), []).append(flops / wall)
    known = {stage: statistics.median(own) for stage, own in seen.items()}
    found = {stage: known.get(stage, speed) for stage, speed in DEFAULT_SPEED.items()}
    return {**found, "search": found["finetune"]}


def _caps(options: ActivationOptions) -> dict[str, int | None]:
    return {"train": options.train_items, "dev": options.dev_items, "test": options.test_items}


def _forward(architecture: Architecture) -> float:
    return 2.0 * 12.0 * architecture.n_layers * architecture.dim**2
