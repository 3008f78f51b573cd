"""The worker: a pack of trials in, their artifacts in the store out; with or without ray.

Errors of a trial are results, not crashes: they are recorded in the store with traceback and spec, and returned.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from ftprobe.activations import Pooling
from ftprobe.corpora import load_corpus, load_labels
from ftprobe.errors import CorruptArtifact, NodeError, StoreError
from ftprobe.hashing import derive_seed
from ftprobe.manifest import describe
from ftprobe.measurement import Measurement, Outcome
from ftprobe.probe_inputs import probe_data
from ftprobe.probes import PROBES, ProbeData
from ftprobe.rows import write_part, write_predictions
from ftprobe.searching import Explore, adopt, best_of
from ftprobe.states import load_state, moment_of, states_of
from ftprobe.store import Store
from ftprobe.surroundings import held_to, logged
from ftprobe.tasks.sampling import sample, sample_split
from ftprobe.tasks.types import TaskData

Report = Callable[[dict[str, object]], None]
Payload = Mapping[str, Any]  # Trial.payload()
Stage = Callable[[Sequence[Payload], Store, str, int, Report], dict[str, Any]]
Inputs = dict[tuple[str, str], ProbeData]


def run_pack(
    payloads: Sequence[Payload],
    store: Store,
    *,
    device: str,
    threads: int,
    report: Report,
    explore: Explore | None = None,
) -> dict[str, Any]:
    """Run the trials of one pack and publish what they made.

    Trials that share a forward pass run as one; probes run one after another, and one that fails fails alone.
    `explore` runs what a search tries.

    Returns
    -------
    dict
        `state` (done, failed, corrupt, store, node), `error`, `corrupt` (stage, artifact pairs), `failed` (trial id
        to error), `wall_s`, and the last metrics.
    """
    started = time.time()
    result: dict[str, Any] = {"state": "done", "error": "", "corrupt": [], "metrics": {}, "failed": {}}
    try:
        todo = [p for p in payloads if not store.exists(p["stage"], p["id"])]
    except StoreError as error:
        return {**result, "state": "store", "error": str(error), "wall_s": time.time() - started}
    alone = bool(todo) and todo[0]["stage"] == "probe"
    inputs: Inputs = {}
    stages: dict[str, Stage] = {
        **_STAGES,
        "search": functools.partial(_search, explore),
        "probe": functools.partial(_probe, inputs=inputs),
    }
    for batch in [[p] for p in todo] if alone else [todo] * bool(todo):
        run = stages[batch[0]["stage"]]
        ended = _attempt(run, batch, store, result["failed"], device=device, threads=threads, report=report)
        result["metrics"] = ended["metrics"] or result["metrics"]
        if ended["state"] in ("corrupt", "store", "node"):
            result.update(ended)
            break
        if ended["state"] == "failed":
            result.update(state="failed", error=result["error"] or ended["error"])
            result["failed"].update({p["id"]: ended["error"] for p in _undone(store, batch)})
    store.release()
    return {**result, "wall_s": time.time() - started}


def _attempt(
    run: Stage,
    batch: Sequence[Payload],
    store: Store,
    failed: Mapping[str, str],
    *,
    device: str,
    threads: int,
    report: Report,
) -> dict[str, Any]:
    """Run trials that stand or fall together, and keep their log."""
    result: dict[str, Any] = {"state": "done", "error": "", "corrupt": [], "metrics": {}}
    log = io.StringIO()
    with logged(log), held_to(threads):
        try:
            _refuse_orphans(batch, failed)
            result["metrics"] = run(batch, store, device, threads, report)
        except CorruptArtifact as error:
            result.update(state="corrupt", error=str(error), corrupt=[(error.stage, error.artifact)])
        except StoreError as error:
            result.update(state="node" if isinstance(error, NodeError) else "store", error=str(error))
        except (Exception, SystemExit) as error:
            result.update(state="failed", error=f"{type(error).__name__}: {error}")
            traceback.print_exc(file=log)
    if batch[0]["stage"] != "probe" or result["state"] != "done":
        # A Trainer is full of cycles, and the next trial of this process needs the memory. Probes are not, and there
        # are many: to collect takes a tenth of a second.
        gc.collect()
    with contextlib.suppress(StoreError):  # a full disk has no room for its own log either
        _keep(store, batch, result, log.getvalue())
    return result


def _refuse_orphans(batch: Sequence[Payload], failed: Mapping[str, str]) -> None:
    """A trial of the same pack that failed leaves those that need it without their input."""
    for parent in (p for payload in batch for p in payload["parents"] if p in failed):
        raise RuntimeError(f"a pack of its cells failed: {failed[parent]}")


def _keep(store: Store, payloads: Sequence[Payload], result: Mapping[str, Any], log: str) -> None:
    undone = _undone(store, payloads) if result["state"] == "failed" else []
    for payload in payloads:
        store.write_log(payload["id"], log)
        if payload in undone:
            failure = {key: payload[key] for key in ("name", "stage", "spec")}
            store.record_failure(payload["id"], {**failure, "error": result["error"], "traceback": log[-20_000:]})
        elif result["state"] == "done":
            store.clear_failure(payload["id"])


def _undone(store: Store, payloads: Sequence[Payload]) -> list[Payload]:
    """Those without an artifact: a run that fails has published the snapshots before."""
    with contextlib.suppress(StoreError):
        return [p for p in payloads if not store.exists(p["stage"], p["id"])]
    return list(payloads)


def _pretrain(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    from ftprobe.finetune import Checkpoints
    from ftprobe.pretrain.options import PretrainOptions
    from ftprobe.pretrain.run import pretrain

    (payload,) = todo
    spec = payload["spec"]
    sentences = load_corpus(store, spec["corpus"]).sentences
    split = "train" if any(sentence.split == "train" for sentence in sentences) else "dev"
    with _publishing(payload, store, device, threads) as (folder, done):
        outcome = pretrain(
            PretrainOptions.model_validate(spec["options"]),
            [sentence.text for sentence in sentences if sentence.split == split],
            seed=derive_seed(spec["study_seed"], "pretrain", spec["seed"]),
            out=folder,
            report=_in_use(folder, report),
            device=device,
            checkpoints=Checkpoints(store, payload["id"]),
        )
        done(outcome)
    _drop_checkpoints(store, payload["id"])
    return {"metric": "mlm_ppl", "value": [m.value for m in outcome.measurements if m.metric == "mlm_ppl"][-1]}


def _finetune(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    """One run, and those of its snapshots that are missing: each is published as soon as it is reached."""
    from ftprobe.finetune import Checkpoints, Wanted, finetune
    from ftprobe.study import FinetuneOptions

    whole = [payload for payload in todo if "snapshot" not in payload["spec"]]
    snapshots = [payload for payload in todo if "snapshot" in payload["spec"]]
    payload = (whole or snapshots)[0]
    spec = payload["spec"]
    task = TaskData(load_corpus(store, spec["corpus"]), load_labels(store, spec["labels"]))
    last: dict[str, object] = {}

    def reported(metrics: dict[str, object]) -> None:
        last.update(metrics)
        report(metrics)

    def keep(index: int, write: Callable[[Path], None], outcome: Outcome) -> None:
        with _publishing(snapshots[index], store, device, threads) as (folder, done):
            write(folder)
            done(outcome)

    with _publishing(payload, store, device, threads) if whole else _discarding(store) as (folder, done):
        outcome = finetune(
            FinetuneOptions.model_validate(spec["options"]),
            task,
            objective=spec.get("objective", "classify"),
            metrics=tuple(spec["metrics"]),
            positive=spec.get("positive"),
            load=lambda: load_state(store, payload),
            seed=derive_seed(spec["study_seed"], "finetune", spec["seed"]),
            out=folder,
            report=_in_use(folder, reported),
            device=device,
            checkpoints=Checkpoints(store, payload["id"]),
            snapshots=Wanted([each["spec"]["snapshot"] for each in snapshots], keep),
        )
        done(outcome)
    _drop_checkpoints(store, payload["id"])
    truncated = cast("Mapping[str, int]", outcome.facts["truncated"])
    return {**last, "n_truncated": sum(truncated.values())}


def _search(
    explore: Explore | None, todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report
) -> dict[str, Any]:
    """The best state of those that a search tries; the others stay in the store as the fine-tunings they are."""
    (payload,) = todo
    if explore is None:
        raise RuntimeError("a search needs Ray")
    tried = explore(payload, report)
    best = best_of(tried)
    with _publishing(payload, store, device, threads) as (folder, done):
        outcome = adopt(best, tried, payload, store, folder)
        done(outcome)
    for each in tried:
        _drop_checkpoints(store, each.trial)
    truncated = cast("Mapping[str, int]", outcome.facts["truncated"])
    metrics = {"metric": payload["spec"]["metrics"][0], "value": best.value}
    return {**metrics, "n_truncated": sum(truncated.values())}


def _in_use(folder: Path, report: Report) -> Report:
    """Reports that show other machines that a scratch folder is in use: nothing is written there before the end."""

    def reported(metrics: dict[str, object]) -> None:
        report(metrics)
        with contextlib.suppress(OSError):
            os.utime(folder)

    return reported


def _drop_checkpoints(store: Store, id: str) -> None:
    with contextlib.suppress(StoreError):  # the artifact is there; `ftprobe gc` finds what stays behind
        store.drop_checkpoints(id)


@contextlib.contextmanager
def _discarding(store: Store) -> Iterator[tuple[Path, Callable[[Outcome], None]]]:
    """A scratch folder for a state that the store has already."""
    with store.workdir() as folder:
        yield folder, lambda outcome: None


def _activations(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    from ftprobe.activations.extract import extract

    spec = todo[0]["spec"]
    corpus = load_corpus(store, spec["corpus"])
    encoder = load_state(store, todo[0])
    poolings = [Pooling(p["spec"]["level"], p["spec"]["pooling"], p["spec"]["special"]) for p in todo]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_publishing(p, store, device, threads)) for p in todo]
        outcomes = extract(
            encoder,
            corpus,
            sample(corpus, spec["sample"]),
            poolings,
            max_length=spec["max_length"],
            overflow=spec["overflow"],
            dtype=spec["dtype"],
            out=[folder for folder, _ in opened],
            device=device,
        )
        for (_, done), outcome in zip(opened, outcomes, strict=True):
            done(outcome)
    return dict(outcomes[0].facts)


def _compare(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    """One measure of one state, beside its pre-trained one."""
    from ftprobe.compare import COMPARISONS

    (payload,) = todo
    spec = payload["spec"]
    comparison = COMPARISONS[spec["kind"]]
    corpus = load_corpus(store, spec["corpus"])
    rows = sample_split(corpus, spec["split"], spec["items"])
    with _publishing(payload, store, device, threads) as (_, done):
        outcome = _function(comparison.runner)(
            comparison.Options.model_validate(spec["options"]),
            corpus,
            rows,
            states_of(store, payload, masked_lm=comparison.reads == "masked_lm"),
            seed=derive_seed(spec["study_seed"], "compare", spec["seed"]),
            device=device,
            threads=threads,
            report=report,
        )
        done(outcome)
    return {"metric": outcome.measurements[0].metric, "value": outcome.measurements[0].value}


def _probe(
    todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report, inputs: Inputs
) -> dict[str, Any]:
    """One probe trial, or one pack of the cells of another."""
    (payload,) = todo
    spec = payload["spec"]
    probe = PROBES[spec["kind"]]
    key = (spec["parents"][0], spec["labels"])
    if key not in inputs:
        inputs.clear()  # the labels of one task at a time
        inputs[key] = probe_data(store, *key, ())
    arguments: dict[str, Any] = {}
    if "part" in spec:
        arguments["part"] = spec["part"]
    elif probe.parts is not None:
        manifests = [store.manifest("probe", parent) for parent in spec["parents"][1:]]
        arguments["parts"] = [manifest["cells"] for manifest in manifests]
    run = _function(probe.part_runner if "part" in spec else probe.runner)
    with _publishing(payload, store, device, threads) as (_, done):
        outcome = run(
            probe.Options.model_validate(spec["options"]),
            inputs[key]._replace(layers=tuple(spec["layers"])),
            seed=derive_seed(spec["study_seed"], "probe", spec["seed"]),
            device=device,
            threads=threads,
            report=report,
            **arguments,
        )
        done(outcome)
    best = [m.value for m in outcome.measurements if m.metric.startswith("accuracy") and m.value == m.value]
    return {"metric": "accuracy", "value": max(best)} if best else {}


def _function(name: str) -> Callable[..., Outcome]:
    module, _, function = name.partition(":")
    found: Callable[..., Outcome] = getattr(import_module(module), function)
    return found


_STAGES = {"pretrain": _pretrain, "finetune": _finetune, "activations": _activations, "compare": _compare}


@contextlib.contextmanager
def _publishing(
    payload: Payload, store: Store, device: str, threads: int
) -> Iterator[tuple[Path, Callable[[Outcome], None]]]:
    """A scratch folder that becomes the trial's artifact if the block calls `done(outcome)` and ends well."""
    started, cpu_started = time.time(), time.process_time()
    outcomes: list[Outcome] = []
    with store.workdir() as folder:
        yield folder, outcomes.append
        (outcome,) = outcomes
        common = {k: v for k, v in payload["columns"].items() if v is not None}
        moment = moment_of(store, payload)
        write_part(folder, _named(outcome.measurements, payload["spec"].get("model")), {**common, **moment})
        if outcome.predictions:
            write_predictions(folder, outcome.predictions)
        if outcome.arrays:
            np.savez_compressed(folder / "arrays.npz", allow_pickle=False, **outcome.arrays)
        facts = {**outcome.facts, "planned_flops": payload["flops"], **({"moment": moment} if moment else {})}
        manifest = describe(
            trial={key: payload[key] for key in ("id", "name", "stage", "spec", "parents")},
            started=started,
            cpu_started=cpu_started,
            device=device,
            threads=threads,
            facts=facts,
        )
        store.publish(payload["stage"], payload["id"], folder, manifest)


def _named(measurements: Sequence[Measurement], model: Mapping[str, Any] | None) -> list[Measurement]:
    """The numbers of a hub checkpoint, its name in their detail: an alias does not say which model it was."""
    if not model or "hub" not in model:
        return list(measurements)
    return [m._replace(detail={**m.detail, "checkpoint": model["hub"]}) for m in measurements]
