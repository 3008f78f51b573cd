"""Checkpoints: a run that is cut short goes on from its last epoch and ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from safetensors.torch import load_file

from ftprobe.errors import StoreError
from ftprobe.finetune import Checkpoints, checkpoints, finetune
from ftprobe.leaving import LEAVING
from ftprobe.measurement import Outcome
from ftprobe.models.load import load_encoder
from ftprobe.store import Store
from ftprobe.store.remote import RemoteVolume
from ftprobe.study import FinetuneOptions
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, TaskData

ID = "f" * 32
EPOCHS, UPDATES = 4, 3  # and updates an epoch
Run = Callable[..., Outcome]


class Cut(BaseException):
    """What ends a run as a signal would: nothing catches it."""


def noisy(n_train: int = 48, n_test: int = 20) -> TaskData:
    """The label is mostly which of two words a text holds: scores move from epoch to epoch."""
    rng = random.Random(0)
    sentences, labels = [], []
    for n in range(n_train + n_test):
        label = rng.choice(["bad", "good"])
        words = [f"w{rng.randrange(30)}" for _ in range(rng.randrange(1, 9))] + [label]
        sentences.append(Sentence(f"s{n}", "train" if n < n_train else "test", " ".join(words), None))
        labels.append(rng.choice(["bad", "good"]) if rng.random() < 0.4 else label)
    count = len(labels)
    return TaskData(Corpus("toy", tuple(sentences)), LabelSet("toy", tuple(range(count)), (-1,) * count, tuple(labels)))


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tiny: str, tmp_path: Path) -> Run:
    def go(
        out: str,
        store: Store | None = None,
        *,
        cut: int = 0,
        seen: list[int] | None = None,
        meanwhile: Callable[[int], None] = lambda epoch: None,
        **options: Any,
    ) -> Outcome:
        def report(metrics: dict[str, object]) -> None:
            epoch = metrics["epoch"]
            assert isinstance(epoch, int)
            if seen is not None:
                seen.append(epoch)
            meanwhile(epoch)
            if epoch == cut:
                raise Cut

        (tmp_path / out).mkdir(exist_ok=True)
        return finetune(
            FinetuneOptions.model_validate(
                {"max_length": 32, "epochs": EPOCHS, "learning_rate": 3e-3, "batch_size": 16, **options}
            ),
            noisy(),
            objective="classify",
            metrics=("accuracy", "mcc"),
            load=lambda: load_encoder(tiny, offline=True),
            seed=0,
            out=tmp_path / out,
            report=report,
            device="cpu",
            checkpoints=Checkpoints(store, ID) if store else None,
        )

    return go


def opened(kind: str, root: Path) -> Store:
    """A local store, or the same folder behind a filesystem that takes the object-store path."""
    if kind == "local":
        return Store.open(root)
    root.mkdir(exist_ok=True)
    store = Store(RemoteVolume(SubTreeFileSystem(str(root), LocalFileSystem()), "", "subtree://here"))
    store.volume.prepare()
    return store


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "head.safetensors")}


def same(one: Outcome, other: Outcome, *folders: Path) -> None:
    """Equal numbers, predictions and weights, to the last bit."""
    assert one.measurements == other.measurements
    for mine, theirs in zip(one.predictions[0], other.predictions[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    left, right = map(weights, folders)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def named(epoch: int) -> str:
    return f"{epoch * UPDATES:08d}"


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints" / ID).glob("*"))


@pytest.mark.parametrize("kind", ["local", "remote"])
@pytest.mark.parametrize("options", [{}, {"select": "best_dev", "schedule": "constant"}], ids=["last", "best_dev"])
@pytest.mark.parametrize("cut", [1, EPOCHS - 1])
def test_a_run_that_was_cut_ends_as_an_undisturbed_one(
    run: Run, tmp_path: Path, kind: str, options: dict[str, Any], cut: int
) -> None:
    whole = run("whole", **options)
    with pytest.raises(Cut):
        run("lost", opened(kind, tmp_path / "store"), cut=cut, **options)
    assert kept(tmp_path / "store") == [named(cut)]
    seen: list[int] = []
    resumed = run("resumed", opened(kind, tmp_path / "store"), seen=seen, **options)
    assert seen == list(range(cut + 1, EPOCHS + 1))
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")
    assert (whole.facts["resumed_from_epoch"], resumed.facts["resumed_from_epoch"]) == (0, cut)
    assert resumed.facts["n_tokens"] == whole.facts["n_tokens"]
    assert {p.name for p in (tmp_path / "resumed").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_a_run_cut_again_and_again_moves_on_by_an_epoch_each_time(run: Run, tmp_path: Path) -> None:
    whole = run("whole", select="best_dev")
    place = tmp_path / "mount-0"
    for cut in range(1, EPOCHS):
        with pytest.raises(Cut):
            run("lost", Store.open(place), cut=cut, select="best_dev")
        place = place.rename(tmp_path / f"mount-{cut}")  # the next machine sees the store elsewhere
    seen: list[int] = []
    resumed = run("resumed", Store.open(place), seen=seen, select="best_dev")
    assert seen == [EPOCHS]
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")
    attempts = resumed.facts["earlier_attempts"]
    assert isinstance(attempts, list)
    assert [attempt["epochs"] for attempt in attempts] == [1] * (EPOCHS - 1)
    assert {attempt["threads"] for attempt in attempts} == {torch.get_num_threads()}


@pytest.fixture
def notice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cloud has said that it takes this machine away."""
    monkeypatch.setattr(checkpoints, "LEAVING_EVERY_S", 0.0)
    LEAVING.set()
    yield
    LEAVING.clear()


@pytest.mark.parametrize("options", [{}, {"select": "best_dev", "schedule": "constant"}], ids=["last", "best_dev"])
@pytest.mark.parametrize("update", [1, 5, 10])
def test_a_machine_about_to_go_leaves_a_checkpoint_in_the_middle_of_an_epoch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: None, options: dict[str, Any], update: int
) -> None:
    whole, save = run("whole", **options), Checkpoints.save

    def then_lost(self: Checkpoints, at: int, write: Callable[[Path], None]) -> None:
        save(self, at, write)
        self._took_s = 0.0  # a store so fast that every update has its checkpoint
        if at == update:
            raise Cut

    with monkeypatch.context() as doomed:
        doomed.setattr(Checkpoints, "save", then_lost)
        with pytest.raises(Cut):
            run("lost", Store.open(tmp_path / "store"), **options)
    assert kept(tmp_path / "store") == [f"{update:08d}"]
    seen: list[int] = []
    resumed = run("resumed", Store.open(tmp_path / "store"), seen=seen, **options)
    assert seen == list(range(update // UPDATES + 1, EPOCHS + 1))
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")
    assert resumed.facts["resumed_from_epoch"] == pytest.approx(update / UPDATES)
    train_s = resumed.facts["train_s"]
    assert isinstance(train_s, float)
    assert 0 < train_s < 60


def test_without_a_notice_no_checkpoint_is_written_in_the_middle_of_an_epoch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], Checkpoints.save

    def noted(self: Checkpoints, at: int, write: Callable[[Path], None]) -> None:
        saved.append(at)
        save(self, at, write)

    monkeypatch.setattr(Checkpoints, "save", noted)
    run("whole", Store.open(tmp_path / "store"))
    assert saved == [UPDATES * epoch for epoch in range(1, EPOCHS)]


def test_another_machine_goes_on_from_a_remote_store(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole")
    with pytest.raises(Cut):
        run("lost", opened("remote", tmp_path / "store"), cut=2)
    monkeypatch.setenv("FTPROBE_CACHE", str(tmp_path / "cache of another machine"))
    resumed = run("resumed", opened("remote", tmp_path / "store"))
    assert resumed.facts["resumed_from_epoch"] == 2
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", flip),
        ("rest.safetensors", flip),
        ("trainer_state.json", flip),
        ("model.safetensors", cut_short),
        ("manifest.json", cut_short),
        ("rest.safetensors", Path.unlink),
        ("manifest.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    run: Run, tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    store, place = Store.open(tmp_path / "store"), tmp_path / "store" / "checkpoints" / ID
    with pytest.raises(Cut):
        run("lost", store, cut=1)
    (place / named(1)).rename(tmp_path / "first")
    with pytest.raises(Cut):
        run("lost", store, cut=2)
    (tmp_path / "first").rename(place / named(1))
    damage(place / named(2) / file)
    seen: list[int] = []
    with pytest.raises(Cut):
        run("lost", store, cut=3, seen=seen)
    assert seen == [2, 3]
    assert kept(tmp_path / "store") == [named(3)]


def test_without_an_intact_checkpoint_a_run_starts_anew(run: Run, tmp_path: Path) -> None:
    whole, store = run("whole"), Store.open(tmp_path / "store")
    with pytest.raises(Cut):
        run("lost", store, cut=3)
    flip(tmp_path / "store" / "checkpoints" / ID / named(3) / "model.safetensors")
    seen: list[int] = []
    resumed = run("resumed", store, seen=seen)
    assert seen == list(range(1, EPOCHS + 1))
    same(whole, resumed, tmp_path / "whole", tmp_path / "resumed")


def test_a_checkpoint_of_another_torch_is_dropped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store")
    with monkeypatch.context() as older:
        older.setattr(torch, "__version__", "2.4.0")
        with pytest.raises(Cut):
            run("lost", store, cut=3)
    seen: list[int] = []
    run("resumed", store, seen=seen)
    assert seen == list(range(1, EPOCHS + 1))
    assert kept(tmp_path / "store") == [named(EPOCHS - 1)]


def test_a_checkpoint_holds_no_pickle(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run("lost", Store.open(tmp_path / "store"), cut=2, select="best_dev")
    folder = tmp_path / "store" / "checkpoints" / ID / named(2)
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "model.safetensors", "rest.safetensors", "trainer_state.json"}
    for name in names:
        if name.endswith(".json"):
            json.loads((folder / name).read_text())
        else:
            load_file(folder / name)


def test_a_store_that_takes_no_checkpoint_costs_the_run_nothing(run: Run, tmp_path: Path) -> None:
    whole, store = run("whole"), Store.open(tmp_path / "store")
    (tmp_path / "store" / "checkpoints").write_text("in the way")
    with pytest.raises(StoreError):
        store.save_checkpoint(ID, 1, tmp_path / "whole")
    same(whole, run("second", store), tmp_path / "whole", tmp_path / "second")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_two_runs_of_one_trial_do_each_other_no_harm(run: Run, tmp_path: Path, kind: str) -> None:
    whole, root = run("whole"), tmp_path / "store"
    outcomes: list[Outcome] = []

    def overtaken(epoch: int) -> None:
        if epoch == 1:
            outcomes.append(run("fast", opened(kind, root)))

    seen: list[int] = []
    with pytest.raises(Cut):
        run("slow", opened(kind, root), cut=2, seen=seen, meanwhile=overtaken)
    assert seen == [1, 2]
    assert kept(root) == [named(2), named(3)]
    outcomes.append(run("third", opened(kind, root)))
    assert [outcome.facts["resumed_from_epoch"] for outcome in outcomes] == [1, 3]
    for outcome, folder in zip(outcomes, ("fast", "third"), strict=True):
        same(whole, outcome, tmp_path / "whole", tmp_path / folder)


def test_epochs_of_a_moment_leave_no_checkpoints(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 60.0)
    run("whole", Store.open(tmp_path / "store"))
    assert not (tmp_path / "store" / "checkpoints").exists()


def test_a_slow_store_is_written_to_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHARE", 0.1)
    made = Checkpoints(Store.open(tmp_path), ID)
    assert made.due()
    made.save(1, lambda folder: time.sleep(0.05))
    assert not made.due()
    begun = time.monotonic()
    while not made.due():
        assert time.monotonic() < begun + 60
        time.sleep(0.01)
    assert time.monotonic() - begun > 0.4
