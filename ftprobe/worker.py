"""The worker: a pack of trials in, their artifacts in the store out; with or without ray.

Errors of a trial are results, not crashes: they are recorded in the store with traceback and spec, and returned.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

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
from ftprobe.store import Store
from ftprobe.tasks.sampling import sample
from ftprobe.tasks.types import TaskData

Report = Callable[[dict[str, object]], None]
Payload = Mapping[str, Any]  # Trial.payload()
Inputs = dict[tuple[str, str], ProbeData]


def run_pack(payloads: Sequence[Payload], store: Store, *, device: str, threads: int, report: Report) -> dict[str, Any]:
    """Run the trials of one pack and publish what they made.

    Trials that share a forward pass run as one; probes run one after another, and one that fails fails alone.

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
    for batch in [[p] for p in todo] if alone else [todo] * bool(todo):
        ended = _attempt(batch, store, inputs, result["failed"], device=device, threads=threads, report=report)
        result["metrics"] = ended["metrics"] or result["metrics"]
        if ended["state"] in ("corrupt", "store", "node"):
            result.update(ended)
            break
        if ended["state"] == "failed":
            result.update(state="failed", error=result["error"] or ended["error"])
            result["failed"].update({p["id"]: ended["error"] for p in batch})
    store.release()
    return {**result, "wall_s": time.time() - started}


def _attempt(
    batch: Sequence[Payload],
    store: Store,
    inputs: Inputs,
    failed: Mapping[str, str],
    *,
    device: str,
    threads: int,
    report: Report,
) -> dict[str, Any]:
    """Run trials that stand or fall together, and keep their log."""
    result: dict[str, Any] = {"state": "done", "error": "", "corrupt": [], "metrics": {}}
    log = io.StringIO()
    with _logged(log), _threads(threads):
        try:
            _refuse_orphans(batch, failed)
            if batch[0]["stage"] == "probe":
                result["metrics"] = _probe(batch[0], store, inputs, device, threads, report)
            else:
                result["metrics"] = _STAGES[batch[0]["stage"]](batch, store, device, threads, report)
        except CorruptArtifact as error:
            result.update(state="corrupt", error=str(error), corrupt=[(error.stage, error.artifact)])
        except StoreError as error:
            result.update(state="node" if isinstance(error, NodeError) else "store", error=str(error))
        except (Exception, SystemExit) as error:
            result.update(state="failed", error=f"{type(error).__name__}: {error}")
            traceback.print_exc(file=log)
    gc.collect()  # a Trainer is full of cycles, and the next trial of this process needs the memory
    with contextlib.suppress(StoreError):  # a full disk has no room for its own log either
        _keep(store, batch, result, log.getvalue())
    return result


def _refuse_orphans(batch: Sequence[Payload], failed: Mapping[str, str]) -> None:
    """A trial of the same pack that failed leaves those that need it without their input."""
    for parent in (p for payload in batch for p in payload["parents"] if p in failed):
        raise RuntimeError(f"a pack of its cells failed: {failed[parent]}")


def _keep(store: Store, payloads: Sequence[Payload], result: Mapping[str, Any], log: str) -> None:
    for payload in payloads:
        store.write_log(payload["id"], log)
        if result["state"] == "failed":
            failure = {key: payload[key] for key in ("name", "stage", "spec")}
            store.record_failure(payload["id"], {**failure, "error": result["error"], "traceback": log[-20_000:]})
        elif result["state"] == "done":
            store.clear_failure(payload["id"])


def _finetune(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    from ftprobe.finetune import Checkpoints, finetune
    from ftprobe.models.load import load_encoder
    from ftprobe.study import FinetuneOptions

    (payload,) = todo
    spec, where = payload["spec"], payload["where"]
    task = TaskData(load_corpus(store, spec["corpus"]), load_labels(store, spec["labels"]))
    last: dict[str, object] = {}

    def reported(metrics: dict[str, object]) -> None:
        last.update(metrics)
        report(metrics)
        with contextlib.suppress(OSError):
            os.utime(folder)  # nothing is written there before the end: other machines see that it is in use

    with _publishing(payload, store, device, threads) as (folder, done):
        outcome = finetune(
            FinetuneOptions.model_validate(spec["options"]),
            task,
            objective="classify",
            metrics=tuple(spec["metrics"]),
            load=lambda: load_encoder(**_load_arguments(spec["model"], where)),
            seed=derive_seed(spec["study_seed"], "finetune", spec["seed"]),
            out=folder,
            report=reported,
            device=device,
            checkpoints=Checkpoints(store, payload["id"]),
        )
        done(outcome)
    with contextlib.suppress(StoreError):  # the artifact is there; `ftprobe gc` finds what stays behind
        store.drop_checkpoints(payload["id"])
    truncated = cast("Mapping[str, int]", outcome.facts["truncated"])
    return {**last, "n_truncated": sum(truncated.values())}


def _load_arguments(model: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "location": where["location"],
        "revision": model.get("revision"),
        "init": model["init"],
        "seed": model.get("init_seed", 0),
        "offline": where["offline"],
        "trust_remote_code": where["trust_remote_code"],
    }


def _activations(todo: Sequence[Payload], store: Store, device: str, threads: int, report: Report) -> dict[str, Any]:
    from ftprobe.activations.extract import extract
    from ftprobe.models.load import load_encoder

    spec, where = todo[0]["spec"], todo[0]["where"]
    corpus = load_corpus(store, spec["corpus"])
    if spec["model"] is None:
        tuned = str(store.fetch("finetune", spec["parents"][0]))
        encoder = load_encoder(tuned, offline=True, trust_remote_code=where["trust_remote_code"])
    else:
        encoder = load_encoder(**_load_arguments(spec["model"], where))
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


def _probe(payload: Payload, store: Store, inputs: Inputs, device: str, threads: int, report: Report) -> dict[str, Any]:
    """One probe trial, or one pack of the cells of another."""
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


_STAGES = {"finetune": _finetune, "activations": _activations}


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
        write_part(folder, _named(outcome.measurements, payload["spec"].get("model")), common)
        if outcome.predictions:
            write_predictions(folder, outcome.predictions)
        if outcome.arrays:
            np.savez_compressed(folder / "arrays.npz", allow_pickle=False, **outcome.arrays)
        facts = {**outcome.facts, "planned_flops": payload["flops"]}
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


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Hold torch and BLAS to the trial's own cores."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        yield
    torch.set_num_threads(before)


@contextlib.contextmanager
def _logged(log: TextIO) -> Iterator[None]:
    """Everything a trial prints or logs goes to its log."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        root.removeHandler(handler)
