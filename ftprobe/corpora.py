"""Prepared text: a task's corpus and labels as artifacts of the store, read once by the driver and by every worker.

A corpus artifact holds `sentences.parquet`, a labels artifact `items.parquet` and the counts of its items as records.
Workers read these and never the user's files, so only the driver needs to see the data.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ftprobe.hashing import content_id
from ftprobe.manifest import describe
from ftprobe.measurement import Measurement
from ftprobe.rows import write_part
from ftprobe.store import Store
from ftprobe.tasks import TaskSource, warnings
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData


def corpus_id(source: TaskSource) -> str:
    """The id of the corpus artifact of `source`."""
    return content_id(source.corpus_spec)


def labels_id(source: TaskSource) -> str:
    """The id of the labels artifact of `source`."""
    return content_id(source.labels_spec)


def prepare(sources: Iterable[TaskSource], store: Store) -> list[str]:
    """Read every source that is not yet in the store and publish its corpus and labels.

    Returns
    -------
    list of str
        Warnings (labels that never occur in train ...), one line each.

    Raises
    ------
    InputError
        A malformed file, with file and line.
    """
    lines: list[str] = []
    for source in {labels_id(s): s for s in sources}.values():
        corpus, labels = corpus_id(source), labels_id(source)
        if not (store.exists("corpus", corpus) and store.exists("labels", labels)):
            _publish(source, source.read(), store)
        lines += [f"{source.reference}: {line}" for line in store.manifest("labels", labels)["warnings"]]
    return lines


def counts(source: TaskSource, store: Store) -> Mapping[str, Any] | None:
    """Counts of a prepared source: `sentences`, `characters`, `words` by split, and `items`, `labels`; else None."""
    corpus, labels = corpus_id(source), labels_id(source)
    if not (store.exists("corpus", corpus) and store.exists("labels", labels)):
        return None
    return {**store.manifest("corpus", corpus)["counts"], **store.manifest("labels", labels)["counts"]}


def load_corpus(store: Store, artifact: str) -> Corpus:
    """The corpus of an artifact."""
    folder = store.fetch("corpus", artifact)
    table = pq.read_table(folder / "sentences.parquet")
    columns = [table.column(name).to_pylist() for name in Sentence._fields]
    sentences = tuple(
        Sentence(key, split, text, text_b, None if words is None else tuple(words), document)
        for key, split, text, text_b, words, document in zip(*columns, strict=True)
    )
    return Corpus(str(store.manifest("corpus", artifact)["name"]), sentences)


def load_labels(store: Store, artifact: str) -> LabelSet:
    """The label set of an artifact; only word pairs and trees have the column head."""
    table = pq.read_table(store.fetch("labels", artifact) / "items.parquet")
    names = [name for name in ("sentence", "word", "label", "head") if name in table.column_names]
    columns = [tuple(table.column(name).to_pylist()) for name in names]
    return LabelSet(str(store.manifest("labels", artifact)["name"]), *columns)


def _publish(source: TaskSource, data: TaskData, store: Store) -> None:
    started, cpu_started = time.time(), time.process_time()
    for stage, spec, write, name, counted in (
        ("corpus", source.corpus_spec, _write_corpus, source.corpus, _corpus_counts(data.corpus)),
        ("labels", source.labels_spec, _write_labels, source.task.name, _label_counts(data)),
    ):
        artifact = content_id(spec)
        if store.exists(stage, artifact):
            continue
        trial = {"id": artifact, "name": name, "stage": stage, "spec": spec, "parents": []}
        facts: dict[str, object] = {"counts": counted}
        if stage == "labels":
            facts["warnings"] = warnings(data, classes=source.task.classes)
        manifest = describe(trial=trial, started=started, cpu_started=cpu_started, device="cpu", threads=1, facts=facts)
        with store.workdir() as folder:
            write(folder, source, data)
            store.publish(stage, artifact, folder, manifest)


def _write_corpus(folder: Path, source: TaskSource, data: TaskData) -> None:
    columns = zip(*data.corpus.sentences, strict=True)
    types = (pa.string(), pa.string(), pa.string(), pa.string(), pa.list_(pa.string()), pa.string())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.table(arrays, names=list(Sentence._fields)), folder / "sentences.parquet", compression="zstd")


def _write_labels(folder: Path, source: TaskSource, data: TaskData) -> None:
    labels = data.labels
    columns = {
        "sentence": pa.array(labels.sentence_N, pa.int32()),
        "word": pa.array(labels.word_N, pa.int32()),
        "label": pa.array(labels.label_N, pa.string()),
    }
    if labels.head_N:
        columns["head"] = pa.array(labels.head_N, pa.int32())
    pq.write_table(pa.table(columns), folder / "items.parquet", compression="zstd")
    measurements = [
        Measurement("n_items", float(n), "count", split=split, n_items=n)
        for split, n in sorted(_label_counts(data)["items"].items())
    ]
    measurements += data.measurements
    common = {"trial": labels_id(source), "method": "corpus", "task": source.task.name, "corpus": source.corpus}
    write_part(folder, measurements, common)


def _corpus_counts(corpus: Corpus) -> dict[str, dict[str, int]]:
    sentences: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for s in corpus.sentences:
        sentences[s.split] += 1
        characters[s.split] += len(s.text) + len(s.text_b or "")
        words[s.split] += len(s.words or ())
    return {"sentences": dict(sentences), "characters": dict(characters), "words": dict(words)}


def _label_counts(data: TaskData) -> dict[str, Any]:
    items = Counter(data.corpus.sentences[s].split for s in data.labels.sentence_N)
    return {"items": dict(items), "n_labels": len(set(data.labels.label_N))}
