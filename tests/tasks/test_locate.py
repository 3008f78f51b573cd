"""Finding a task: what is found before reading, and what is said when it cannot be."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import ftprobe.tasks as tasks_module
from ftprobe.errors import InputError
from ftprobe.hashing import content_id
from ftprobe.tasks import TASKS, Task, locate, warnings
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

REAL = {
    "cola": ({"train": 8551, "test": 1043}, 9594, 2),
    "sst2": ({"train": 67349, "test": 872}, 68221, 2),
    "rte": ({"train": 2490, "test": 277}, 2767, 2),
    "upos": ({"train": 12544, "dev": 2001, "test": 2077}, 204577 + 25147 + 25094, 17),
}


@pytest.mark.parametrize("name", REAL)
def test_real_corpora_have_their_official_counts(name: str, shared_data: Path) -> None:
    data = locate(name, data={}, data_dir=str(shared_data)).read()
    splits, items, labels = REAL[name]
    assert Counter(s.split for s in data.corpus.sentences) == splits
    assert len(data.labels.label_N) == len(data.labels.sentence_N) == len(data.labels.word_N) == items
    assert len(set(data.labels.label_N)) == labels
    assert len({s.id for s in data.corpus.sentences}) == len(data.corpus.sentences)


def test_tasks_on_one_text_share_a_corpus_and_not_labels(shared_data: Path) -> None:
    upos, xpos = (locate(name, data={}, data_dir=str(shared_data)) for name in ("upos", "xpos"))
    assert upos.corpus_spec == xpos.corpus_spec
    assert upos.labels_spec != xpos.labels_spec
    assert upos.labels_spec["parents"] == [content_id(upos.corpus_spec)]


def test_a_corpus_is_its_bytes_not_its_place(tmp_path: Path) -> None:
    specs = []
    for place, text in (("a", "x\t1\t\tgood\n"), ("b", "x\t1\t\tgood\n"), ("c", "x\t0\t*\tbad\n")):
        (tmp_path / place).mkdir()
        for name in ("train.tsv", "dev.tsv"):
            (tmp_path / place / name).write_text(text, "utf-8")
        specs.append(locate("cola", data={"cola": str(tmp_path / place)}).corpus_spec)
    assert specs[0] == specs[1] != specs[2]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("acceptabilty", "unknown task 'acceptabilty'; did you mean 'acceptability'?"),
        ("cola@", "names no corpus after @"),
        ("upos@nowhere", "no text for corpus 'nowhere' of task 'upos' (looked for data.nowhere"),
        ("acceptability@cola", "task 'acceptability' has no corpus 'cola'"),
        ("cola", "declare 'data: {cola: FOLDER}'"),
    ],
)
def test_what_cannot_be_found_is_named_with_its_repair(reference: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        locate(reference, data={}, data_dir=str(tmp_path), offline=True, place="probe[0].task")
    assert said in str(error.value)
    assert str(error.value).startswith("probe[0].task: ")


def test_a_declared_path_that_is_missing_is_an_error_even_online() -> None:
    with pytest.raises(InputError, match=r"data\.cola: '/no/such/place' does not exist"):
        locate("cola", data={"cola": "/no/such/place"})


def test_the_hub_is_asked_for_a_pinned_revision_and_its_size_is_known() -> None:
    source = locate("sst2", data={})
    assert source.sizes == {"train": 67349, "test": 872}
    assert source.corpus_spec["fingerprint"] == "hub:nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c:sst2"


def test_labels_that_never_occur_in_train_are_named_with_their_counts() -> None:
    sentences = tuple(Sentence(str(i), split, "x") for i, split in enumerate(("train", "dev", "test", "test")))
    data = TaskData(Corpus("toy", sentences), LabelSet("toy", (0, 1, 2, 3), (-1,) * 4, ("a", "b", "b", "a")))
    assert warnings(data) == ["label 'b' never occurs in train: 1 dev items, 1 test items count as errors"]


def test_an_installed_package_adds_a_task_and_cannot_replace_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", "plugin_for_test:MINE", "ftprobe.tasks")]
    grammar = TASKS["acceptability"]
    plugin = type(sys)("plugin_for_test")
    plugin.MINE = Task("mine", "sentence", "grammar", ("accuracy",), grammar.find)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugin_for_test", plugin)
    monkeypatch.setattr(tasks_module, "entry_points", lambda group: points)
    tasks_module._tasks.cache_clear()
    try:
        assert tasks_module.TASKS["mine"].name == "mine"
        assert tasks_module.TASKS["acceptability"] is grammar
    finally:
        monkeypatch.undo()
        tasks_module._tasks.cache_clear()


@pytest.mark.parametrize("reference", ["acceptability", "upos@grammar", "word_order"])
def test_a_source_travels_to_another_process(reference: str) -> None:
    source = locate(reference, data={}, seed=3)
    assert pickle.loads(pickle.dumps(source)).read() == source.read()


@pytest.mark.parametrize("reference", ["ps_fxn", "sem"])
def test_a_local_source_travels_to_another_process(reference: str, shared_data: Path) -> None:
    source = locate(reference, data={}, data_dir=str(shared_data))
    assert pickle.loads(pickle.dumps(source)).read() == source.read()


def test_importing_tasks_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'datasets', 'ray', 'polars', 'pydantic'}"
    code = f"import sys, ftprobe.tasks as t; t.TASKS; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
