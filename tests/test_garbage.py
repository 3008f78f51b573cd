"""Garbage: what studies need stays, whoever asks; what nobody needs goes, once it is old and `--yes` is said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import ftprobe
from ftprobe import api, compact
from ftprobe.cli import main
from ftprobe.errors import InputError, StoreError
from ftprobe.garbage import DAY_S, Garbage, find_garbage, remove_garbage
from ftprobe.planner import Plan
from ftprobe.store import Store
from ftprobe.study import Study, parse_study
from tests.conftest import Fill


def study(minilm: str, n_seeds: int = 2, name: str = "mine") -> Study:
    return parse_study(
        {
            "name": name,
            "models": {"minilm": {"checkpoint": minilm}},
            "finetune": [{"task": "word_order@grammar", "seed": list(range(n_seeds))}],
            "probe": [{"task": "acceptability@grammar", "probe": {"kind": "linear"}}],
        }
    )


def ran(asked: Study, store: Store, fill: Fill) -> Plan:
    """A study whose run is over."""
    planned = ftprobe.plan(asked, store=store, offline=True)
    store.save_study(asked.name, api._document(planned))
    fill(planned, store)
    return planned


def names(garbage: Garbage) -> set[tuple[str, str]]:
    return {(item.place, item.name) for item in garbage.items}


def test_nothing_that_a_study_needs_is_garbage(minilm: str, store: Store, fill: Fill) -> None:
    planned = ran(study(minilm), store, fill)
    trial = next(iter(planned.trials))
    store.record_failure(trial, {"error": "once"})
    store.write_log(trial, "a log")
    found = find_garbage(store, keep_s=0.0)
    assert found.items == ()
    assert found.young == ()


def test_what_an_edit_leaves_behind_goes_and_the_rest_is_reused(minilm: str, store: Store, fill: Fill) -> None:
    before = ran(study(minilm, 2), store, fill)
    after = ran(study(minilm, 1), store, fill)
    gone = before.trials.keys() - after.trials.keys()
    store.write_log(min(gone), "a log")
    found = find_garbage(store, keep_s=0.0)
    artifacts = {(f"artifacts/{before.trials[t].stage}", t) for t in gone}
    assert names(found) == artifacts | {("logs", f"{min(gone)}.log")}
    assert all(item.bytes > 0 for item in found.items)
    assert len(remove_garbage(store, found)) == len(found.items)
    assert set(after.looked_up(store).existing) == set(after.trials)
    assert not set(before.looked_up(store).existing) & gone
    assert store.volume.read(f"logs/{min(gone)}.log") is None


def test_what_is_young_stays_by_its_last_change(minilm: str, tmp_path: Path, fill: Fill) -> None:
    store = Store.open(tmp_path)
    before, after = ran(study(minilm, 2), store, fill), ran(study(minilm, 1), store, fill)
    gone = sorted(before.trials.keys() - after.trials.keys())
    assert names(find_garbage(store, keep_s=DAY_S)) == set()
    assert {item.name for item in find_garbage(store, keep_s=DAY_S).young} == set(gone)
    folder = tmp_path / "artifacts" / before.trials[gone[0]].stage / gone[0]
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - 3 * DAY_S,) * 2)
    (item,) = find_garbage(store, keep_s=2 * DAY_S).items
    assert item.name == gone[0]
    assert item.age_s == pytest.approx(3 * DAY_S, abs=60)


def test_a_forgotten_study_leaves_what_others_share(minilm: str, store: Store, fill: Fill) -> None:
    mine, other = ran(study(minilm, 2), store, fill), ran(study(minilm, 1, "other"), store, fill)
    found = find_garbage(store, keep_s=0.0, forget=["mine"])
    assert {name for _, name in names(found)} == mine.trials.keys() - other.trials.keys()
    remove_garbage(store, found)
    assert set(store.studies()) == {"other"}
    assert set(other.looked_up(store).existing) == set(other.trials)
    with pytest.raises(InputError, match=r"--study othr.*did you mean 'other'"):
        find_garbage(store, keep_s=0.0, forget=["othr"])


@pytest.mark.parametrize("document", [b"{cut sho", b"[]", b'{"name": "mine"}', b'{"name": "mine", "trials": [1]}'])
def test_a_document_that_cannot_be_read_stops_everything(
    minilm: str, store: Store, fill: Fill, document: bytes
) -> None:
    ran(study(minilm, 1, "other"), store, fill)
    planned = ran(study(minilm), store, fill)
    store.volume.write("studies/mine.json", document)
    with pytest.raises(StoreError, match="studies/mine"):
        find_garbage(store, keep_s=0.0)
    remove_garbage(store, find_garbage(store, keep_s=0.0, forget=["mine"]))
    assert 0 < len(planned.looked_up(store).existing) < len(planned.trials)
    assert set(store.studies()) == {"other"}


def test_what_a_run_needs_by_now_is_not_removed(minilm: str, store: Store, fill: Fill) -> None:
    before, after = ran(study(minilm, 2), store, fill), ran(study(minilm, 1), store, fill)
    found = find_garbage(store, keep_s=0.0)
    assert len(found.items) == len(before.trials) - len(after.trials)
    store.save_study("mine", api._document(before))  # a run begins
    assert remove_garbage(store, found) == ()
    assert set(before.looked_up(store).existing) == set(before.trials)


def test_a_run_looks_up_what_it_reuses_after_its_document_is_saved(
    minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[set[str]] = []
    look_up = Plan.looked_up

    def watched(plan: Plan, store: Store) -> Plan:
        saved.append(set(store.studies()))
        return look_up(plan, store)

    monkeypatch.setattr(Plan, "looked_up", watched)
    monkeypatch.setattr(api, "_execute", lambda *argv: True)
    api.run(study(minilm), store=tmp_path, offline=True)
    assert saved == [{"mine"}]


def test_compact_files_that_others_replace_go(
    minilm: str, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "LEAST_PARTS", 10)
    asked = study(minilm, 4)
    planned = ftprobe.plan(asked, store=store, offline=True)
    store.save_study("mine", api._document(planned))
    trials = list(planned.trials)
    fill(planned, store, *trials[:-1])
    ftprobe.records(asked, store=store)
    partial = set(store.volume.names("artifacts/compact"))
    fill(planned, store, trials[-1])
    good = ftprobe.records(asked, store=store).collect()
    whole = set(store.volume.names("artifacts/compact")) - partial
    assert len(partial) == len(whole) == 1
    found = find_garbage(store, keep_s=0.0)
    assert names(found) == {("artifacts/compact", name) for name in partial}
    remove_garbage(store, found)
    assert ftprobe.records(asked, store=store).collect().equals(good)
    forgotten = find_garbage(store, keep_s=0.0, forget=["mine"])
    assert ("artifacts/compact", whole.pop()) in names(forgotten)


def test_the_command_lists_and_removes_only_when_told(
    minilm: str, tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path)
    before, after = ran(study(minilm, 2), store, fill), ran(study(minilm, 1), store, fill)
    gone = len(before.trials) - len(after.trials)

    def ftprobe_gc(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["ftprobe", "gc", "--store", str(tmp_path), *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out + shown.err

    code, shown = ftprobe_gc()
    assert code == 0
    assert f"{gone} more are younger than 1 days" in shown
    code, shown = ftprobe_gc("--keep-days", "0")
    assert code == 0
    assert "nothing has been removed" in shown
    assert len(before.looked_up(store).existing) == len(before.trials)
    code, shown = ftprobe_gc("--keep-days", "0", "--yes")
    assert code == 0
    assert f"removed {gone} items" in shown
    assert set(before.looked_up(store).existing) == set(after.trials)
    (tmp_path / "studies" / "mine.json").write_text(json.dumps({"name": "mine"}))
    code, shown = ftprobe_gc("--keep-days", "0", "--yes")
    assert code == 2
    assert "mine.json" in shown
    assert set(before.looked_up(store).existing) == set(after.trials)
    code, shown = ftprobe_gc("--study", "mein")
    assert code == 2
    assert "did you mean 'mine'?" in shown
    code, shown = ftprobe_gc("--study", "mine", "--keep-days", "0", "--yes")
    assert code == 0
    assert store.studies() == {}
    assert store.artifacts() == []
    code, shown = ftprobe_gc("--study", "mine")
    assert code == 2
    assert "no study has been run with it" in shown


def test_checkpoints_go_when_their_training_is_done_or_nobody_plans_it(minilm: str, store: Store, fill: Fill) -> None:
    asked = study(minilm)
    planned = ftprobe.plan(asked, store=store, offline=True)
    store.save_study(asked.name, api._document(planned))
    tuned = [t.id for t in planned.trials.values() if t.stage == "finetune"]
    done, unfinished = tuned
    fill(planned, store, done)
    for trial in (done, unfinished, "of-no-study"):
        with store.workdir() as folder:
            (folder / "model.safetensors").write_bytes(b"weights")
            store.save_checkpoint(trial, 1, folder)
    found = find_garbage(store, keep_s=0.0)
    assert names(found) == {("checkpoints", done), ("checkpoints", "of-no-study")}
    assert len(remove_garbage(store, found)) == 2
    assert store.volume.names("checkpoints") == [unfinished]
