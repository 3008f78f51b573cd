"""Model states, loaded: what the spec of a trial says of the state it reads, as an encoder (see `planner.states`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ftprobe.compare import States
from ftprobe.store import Store

if TYPE_CHECKING:
    from ftprobe.models.load import Encoder
    from ftprobe.models.masked_lm import MaskedLM

Payload = Mapping[str, Any]  # Trial.payload()


def load_state(store: Store, payload: Payload) -> Encoder:
    """The encoder of the state that a trial reads."""
    spec = payload["spec"]
    stage = _tuned(spec)
    if stage is None:
        return _base(store, payload)
    tuned = _artifact(store, payload, stage)
    edit = spec.get("edit", {})
    return _edited(tuned, edit, store, payload) if edit else tuned


def states_of(store: Store, payload: Payload, *, masked_lm: bool) -> States:
    """Loaders of the state that a comparison measures and of the one it is compared with."""
    spec = payload["spec"]
    if "against" in spec:
        other = {**_part(payload, "against"), "where": payload["where"]["against"]}
        return States(
            base=lambda: load_state(store, other),
            state=lambda: load_state(store, _part(payload, "state")),
            against=",".join(f"{name}={value}" for name, value in spec["against"]["differs"].items()),
        )
    tuned = _tuned(spec)
    return States(
        base=lambda: _base(store, payload),
        state=(lambda: load_state(store, payload)) if tuned else None,
        masked_lm=(lambda: _masked_lm(store, payload)) if masked_lm else None,
    )


def moment_of(store: Store, payload: Payload) -> dict[str, Any]:
    """`update` and `epoch` of the snapshot that a trial reads, as the run that took it found them; else nothing."""
    spec = payload["spec"]
    if not payload["where"].get("moment"):
        return {}
    spec = _part(payload, "state")["spec"] if "state" in spec else spec
    for stage, parent in zip(_stages(spec), spec["parents"], strict=False):
        if stage != "pretrain":
            manifest = store.manifest(stage, parent)
            if "snapshot" in manifest["spec"]:
                return {key: manifest[key] for key in ("update", "epoch")}
            return dict(manifest.get("moment", {}))
    return {}


def _part(payload: Payload, name: str) -> dict[str, Any]:
    """One of the two states of a comparison, as the payload of a trial that reads it alone."""
    return {**payload, "spec": {"stage": payload["spec"]["stage"], **payload["spec"][name]}}


def _stages(spec: Mapping[str, Any]) -> list[str]:
    """The stages of the trials that a state is read from, in the order of the parents."""
    if spec["stage"] == "probe":
        return ["activations"]
    if spec["stage"] in ("finetune", "search"):
        return ["pretrain"] * len(spec["parents"])
    return list(spec.get("reads", ["finetune"] * len(spec["parents"])))


def _tuned(spec: Mapping[str, Any]) -> str | None:
    """The stage of the trial that made the fine-tuned state, if it is one."""
    return next((stage for stage in _stages(spec) if stage in ("finetune", "search")), None)


def _parent(spec: Mapping[str, Any], stage: str) -> str:
    parents = dict(zip(_stages(spec), spec["parents"], strict=False))
    return str(parents[stage])


def _artifact(store: Store, payload: Payload, stage: str) -> Encoder:
    from ftprobe.models.load import load_encoder

    folder = str(store.fetch(stage, _parent(payload["spec"], stage)))
    return load_encoder(folder, offline=True, trust_remote_code=payload["where"].get("trust_remote_code", False))


def _base(store: Store, payload: Payload) -> Encoder:
    from ftprobe.models.load import load_encoder

    model = payload["spec"]["model"]
    if model is None:
        return _artifact(store, payload, "pretrain")
    arguments = _load_arguments(model, payload["where"])
    kept = model.get("init_embeddings", "random")
    if model["init"] in ("pretrained", "random") and kept == "random":
        return load_encoder(**arguments)
    from ftprobe.models.surgery import randomize

    scheme: Literal["shuffle", "init"] = "shuffle" if model["init"] == "shuffled" else "init"
    whole = load_encoder(**{**arguments, "init": "pretrained"})
    return randomize(whole, seed=arguments["seed"], scheme=scheme, embeddings=kept)


def _masked_lm(store: Store, payload: Payload) -> MaskedLM:
    from ftprobe.models.masked_lm import NoMaskedLM, load_masked_lm

    spec, where = payload["spec"], payload["where"]
    if spec["model"] is not None and spec["model"]["init"] != "pretrained":
        raise NoMaskedLM.one(where["location"], "its parameters are drawn anew: no masked-LM head belongs to them")
    if spec["model"] is None:
        return load_masked_lm(str(store.fetch("pretrain", _parent(spec, "pretrain"))), offline=True)
    return load_masked_lm(where["location"], revision=spec["model"].get("revision"), offline=where["offline"])


def _edited(tuned: Encoder, edit: Mapping[str, Any], store: Store, payload: Payload) -> Encoder:
    from ftprobe.models.surgery import prune_bottom, prune_top, replace_top

    if "replace_top" in edit:
        embeddings = edit.get("replace_embeddings", "tuned")
        tuned = replace_top(tuned, _base(store, payload), edit["replace_top"], embeddings=embeddings)
    if "cut_top" in edit:
        tuned = prune_top(tuned, edit["cut_top"])
    return prune_bottom(tuned, edit["cut_bottom"]) if "cut_bottom" in edit else tuned


def _load_arguments(model: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "location": where["location"],
        "revision": model.get("revision"),
        "init": model["init"],
        "seed": model.get("init_seed", 0),
        "offline": where["offline"],
        "trust_remote_code": where["trust_remote_code"],
    }
