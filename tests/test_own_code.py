"""Checkpoints that bring code of their own: run where the study says so and part of what they are, else refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, dynamic_module_utils

import ftprobe
from ftprobe.checkpoint import resolve
from ftprobe.errors import InputError, Problem
from ftprobe.models.heads import Classifier
from ftprobe.models.load import _code_cache, load_encoder
from ftprobe.planner import Plan, make_plan
from ftprobe.store import Store
from ftprobe.study import ModelOptions, parse_study

CODE = Path(__file__).resolve().parent / "own_code"
WORDS = ["<pad>", "<cls>", "<sep>", "<unk>", "the", "a", "cat", "dog", "sees", "sleeps", "old", "."]
MAP = {"AutoConfig": "configuration_relay.RelayConfig", "AutoModel": "modeling_relay.RelayModel"}


@pytest.fixture(scope="module", autouse=True)
def _code_cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies the code that it runs to a folder that is not the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    special = [("<cls>", 1), ("<sep>", 2)]
    backend.post_processor = TemplateProcessing("<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1", special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<cls>", sep_token="<sep>", unk_token="<unk>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with random weights of an architecture that only the code beside them knows."""
    path = tmp_path / "relay"
    shutil.copytree(CODE, path)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    rest = {"intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.2}
    (path / "config.json").write_text(json.dumps({"model_type": "relay", **sizes, **rest, "auto_map": MAP}))
    tokenizer().save_pretrained(path)
    load_encoder(str(path), init="random", trust_remote_code=True, offline=True).model.save_pretrained(path)
    return path


def document(checkpoint: str | Path, **model: Any) -> dict[str, Any]:
    tuned = {"task": "acceptability@grammar", "epochs": 1, "batch_size": 16, "max_length": 32}
    read = {"task": "word_order@grammar", "pooling": "mean", "max_length": 32}
    return {
        "name": "relay",
        "models": {"relay": {"checkpoint": str(checkpoint), **model}},
        "finetune": [{**tuned, "train_items": 48, "dev_items": 32}],
        "probe": [{**read, "train_items": 60, "dev_items": 20, "test_items": 20, "probe": {"kind": "linear"}}],
    }


def planned(checkpoint: str | Path, store: Path, **model: Any) -> Plan:
    return make_plan(parse_study(document(checkpoint, **model)), Store.open(store), offline=True)


def problem(checkpoint: str | Path, **model: Any) -> Problem:
    options = ModelOptions(alias="relay", checkpoint=str(checkpoint), **model)
    with pytest.raises(InputError) as caught:
        resolve(options, offline=True, place="models.relay")
    (only,) = caught.value.problems
    return only


def states(model: str | Path, **options: Any) -> torch.Tensor:
    encoder = load_encoder(str(model), trust_remote_code=True, offline=True, **options)
    inputs = encoder.tokenizer("the old cat sleeps", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        found: torch.Tensor = encoder.model(**inputs).last_hidden_state
    return found


def rescaled(folder: Path, scale: str) -> None:
    code = folder / "blocks_relay.py"
    code.write_text(code.read_text().replace("SCALE = 2.0", f"SCALE = {scale}"))


def mapped(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_study_that_names_it_runs_it_from_end_to_end(folder: Path, tmp_path: Path, one_thread: None) -> None:
    store, study = tmp_path / "store", parse_study(document(folder, trust_remote_code=True))
    summary = ftprobe.run(study, store=store, offline=True, inline=True, threads=1, device="cpu")
    assert summary.failed == {}
    frame = ftprobe.records(study, store=store).collect()
    assert set(frame.filter(method="linear")["variant"]) == {"pretrained", "finetuned"}
    assert set(frame.filter(method="linear")["layer"].drop_nulls()) == {0, 1, 2}
    (tuned,) = (store / "artifacts" / "finetune").iterdir()
    assert {path.name for path in tuned.glob("*.py")} == {path.name for path in CODE.glob("*.py")}
    # The state is read by the code that was saved with it, wherever the checkpoint is by then.
    before = states(folder)
    shutil.rmtree(folder)
    assert not torch.equal(states(tuned), before)
    with pytest.raises(InputError, match="trust_remote_code: true"):
        load_encoder(str(tuned), offline=True)


def test_without_the_key_it_is_refused_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        planned(folder, tmp_path / "store")
    what = f"{folder} is loaded by Python code of its own ({', '.join(MAP.values())}), which is not run unasked"
    repair = "read that code, then write `trust_remote_code: true` there"
    assert caught.value.problems == (Problem("models.relay.checkpoint", what, repair),)
    with pytest.raises(InputError, match="which is not run unasked"):
        load_encoder(str(folder), offline=True)


def test_code_runs_neither_in_planning_nor_untrusted(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(ran)!r}, 'w').close()\n" + path.read_text())
    planned(folder, tmp_path / "store", trust_remote_code=True)
    with pytest.raises(InputError):
        load_encoder(str(folder), offline=True)
    assert not ran.exists()
    states(folder)
    assert ran.exists()


def test_other_code_is_another_model_and_the_same_elsewhere_is_not(folder: Path, tmp_path: Path) -> None:
    before = planned(folder, tmp_path / "store", trust_remote_code=True)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert set(planned(moved, tmp_path / "store", trust_remote_code=True).trials) == set(before.trials)
    rescaled(moved, "3.0")  # in a file that config.json does not name
    assert not set(planned(moved, tmp_path / "store", trust_remote_code=True).trials) & set(before.trials)


def test_the_key_says_nothing_about_a_model_without_code(minilm: str, tmp_path: Path) -> None:
    asked, plain = planned(minilm, tmp_path / "store", trust_remote_code=True), planned(minilm, tmp_path / "store")
    assert list(asked.trials) == list(plain.trials)
    assert not any(trial.where.get("trust_remote_code") for trial in asked.trials.values())


def test_two_checkpoints_of_one_name_run_each_its_own_code(folder: Path, tmp_path: Path) -> None:
    # The configuration's code is the same, and its class is what transformers knows a model's class by.
    other = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    rescaled(other, "3.0")
    first = states(folder)
    assert not torch.equal(states(other), first)
    assert torch.equal(states(folder), first)


def test_where_transformers_has_the_architecture_its_code_is_the_default(
    folder: Path, minilm: str, tmp_path: Path
) -> None:
    both = shutil.copytree(minilm, tmp_path / "both")
    (both / "modeling_louder.py").write_text(
        "from transformers import BertConfig, BertModel\n\n\n"
        "class LouderModel(BertModel):\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        found = super().forward(input_ids, attention_mask)\n"
        "        found.last_hidden_state = 2 * found.last_hidden_state\n"
        "        return found\n"
    )
    own_map = {"AutoConfig": "modeling_louder.BertConfig", "AutoModel": "modeling_louder.LouderModel"}
    mapped(both, auto_map={**own_map, "AutoModelForMaskedLM": "absent.Absent"})
    options = {"alias": "m", "checkpoint": str(both)}
    plain = resolve(ModelOptions(**options), offline=True, place="models.m")
    own = resolve(ModelOptions(**options, trust_remote_code=True), offline=True, place="models.m")
    assert (plain.own_code, own.own_code) == (False, True)
    assert plain.identity != own.identity
    assert type(load_encoder(str(both), offline=True).model).__module__.startswith("transformers.models.bert")
    assert torch.equal(states(both), 2 * states(minilm))
    # Nor are its words looked up for it in fine-tuning, as can be done for BERT's own: it takes ids alone.
    head = Classifier(
        load_encoder(str(both), trust_remote_code=True), 2, pooled="mean", pooler="none", dropout=0.0, seed=0
    )
    ids = torch.arange(36).reshape(9, 4)
    assert head.train()(ids, torch.ones_like(ids)).shape == (9, 2)
    # And it is not what plain BERT is from now on.
    bert = load_encoder(minilm, offline=True).model
    bert.save_pretrained(tmp_path / "plain")
    assert type(bert).__name__ == "BertModel"
    assert not list((tmp_path / "plain").glob("*.py"))


@pytest.mark.parametrize(
    "reference",
    ["org/other--modeling_relay.RelayModel", "/tmp/relay.RelayModel", "../relay.RelayModel", "Relay"],
)
def test_code_outside_of_the_checkpoint_is_refused(folder: Path, reference: str) -> None:
    mapped(folder, auto_map={**MAP, "AutoModel": reference})
    found = problem(folder, trust_remote_code=True)
    assert found.place == "models.relay.checkpoint"
    assert found.what == f"config.json of {folder} names code outside of it, '{reference}', which nothing pins"
    with pytest.raises(InputError, match="which nothing pins"):
        load_encoder(str(folder), trust_remote_code=True, offline=True)


def test_a_tokenizer_of_its_own_code_is_refused(folder: Path) -> None:
    described = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": [None, "tokenization_relay.RelayTokenizer"]}}
    described.write_text(json.dumps({**json.loads(described.read_text()), **own}))
    assert problem(folder, trust_remote_code=True).what.startswith(f"the tokenizer of {folder} is Python code")
    with pytest.raises(InputError, match="only the model's is run"):
        load_encoder(str(folder), trust_remote_code=True, offline=True)


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "has no attribute 'RelayModel'"), ("def", "invalid syntax"), ("raise RuntimeError('broken')", "broken")],
)
def test_code_that_does_not_work_is_named(folder: Path, text: str, what: str) -> None:
    (folder / "modeling_relay.py").write_text(text)
    with pytest.raises(InputError, match=rf"{folder}: cannot be loaded: .*{what}"):
        load_encoder(str(folder), trust_remote_code=True, offline=True)


def test_one_process_at_a_time_copies_code(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with _code_cache():
            waiting = pool.submit(states, folder)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1.0)
        assert waiting.result(timeout=60).isfinite().all()


def test_a_commit_pins_the_code_of_a_hub_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    mapped(folder, auto_map={kind: f"org/relay--{reference}" for kind, reference in MAP.items()})
    shutil.copytree(folder, tmp_path / "hub" / "models--org--relay" / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "of its own" in problem("org/relay", revision=commit).what
    options = ModelOptions(alias="relay", checkpoint="org/relay", revision=commit, trust_remote_code=True)
    found = resolve(options, offline=True, place="models.relay")
    assert found.identity == {"hub": "org/relay", "revision": commit, "code": "own"}
    assert found.own_code
    mapped(folder, auto_map=MAP)
    assert torch.equal(states("org/relay", revision=commit), states(folder))
    random = load_encoder(
        "org/relay", revision=commit, init="random", seed=1, trust_remote_code=True, offline=True
    ).model
    assert type(random).__name__ == "RelayModel"
    assert not torch.equal(random.words.weight, load_encoder(str(folder), trust_remote_code=True).model.words.weight)
