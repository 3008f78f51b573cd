"""The journal of a run: what is running, retried and left, kept in the store while it runs, for `ftprobe status`.

One small document a study, `runs/NAME.json`, replaced every few seconds by a thread of the driver's process: a trial
that reports nothing for long does not look like a lost driver, and a store that does not answer holds nobody up. It is
a view for people: nothing is decided by it, and a store that cannot be written does not stop the run here.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ftprobe.errors import StoreError
from ftprobe.runner import LOST, Observer
from ftprobe.schedule import Pack, Result, Schedule
from ftprobe.store import Store
from ftprobe.store.patience import Patience
from ftprobe.store.remote import RemoteVolume

EVERY_S = 5.0  # between two writes
LAST_S = 10.0  # at most, for the last one


class Journal:
    """An observer that keeps the journal and passes everything on to another."""

    def __init__(self, store: Store, name: str, then: Observer) -> None:
        self.name, self.then = name, then
        self.volume = copy.copy(store.volume)
        if isinstance(self.volume, RemoteVolume):
            self.volume.patience = Patience(EVERY_S)  # the next document comes soon
        self.begun, self._end = time.time(), ""
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._keep, name="journal", daemon=True)
        self.schedule: Schedule | None = None
        self.slots = ""
        self.since: dict[str, float] = {}
        self.retries: dict[str, Counter[str]] = {}
        self.device_s = self.flops = self.flops_total = 0.0

    def begin(self, schedule: Schedule, slots: str) -> None:
        """The run starts."""
        self.schedule, self.slots = schedule, slots
        self.flops_total = sum(trial.cost.flops for trial in schedule.plan.missing())
        self.then.begin(schedule, slots)
        self._writer.start()

    def started(self, pack: Pack) -> None:
        """A pack has been given to a worker."""
        self.since[pack.id] = time.time()
        self.then.started(pack)

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """A running pack reported."""
        self.then.metric(pack, metrics)

    def lost(self, pack: Pack, why: str = LOST) -> None:
        """A running pack is run again."""
        self.since.pop(pack.id, None)
        self.retries.setdefault(why, Counter())[f"{pack.stage} {pack.trials[0].name}"] += 1
        self.then.lost(pack, why)

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came back."""
        self.since.pop(pack.id, None)
        self.device_s += result.wall_s
        if result.state == "done":
            self.flops += sum(trial.cost.flops for trial in pack.trials)
        self.then.ended(pack, result)

    def tick(self) -> None:
        """Time passed."""
        self.then.tick()

    def close(self, *, interrupted: bool) -> None:
        """The run is over; returns when that is written, or soon if the store does not take it."""
        if self.schedule is not None:
            self._end = "interrupted" if interrupted else "stopped" if self.schedule.stopped else "finished"
            self._over.set()
            self._writer.join(LAST_S)

    def _keep(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()
            self._write()
            self._over.wait(EVERY_S)

    def _write(self) -> None:
        with contextlib.suppress(RuntimeError, StoreError):  # the driver changes what is being read
            document = json.dumps(self._document(), indent=1).encode()
            self.volume.write(f"runs/{self.name}.json", document)

    def _document(self) -> dict[str, Any]:
        assert self.schedule is not None
        now = time.time()
        elapsed = now - self.begun
        return {
            "study": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "on": self.slots,
            "begun": _utc(self.begun),
            "updated": _utc(now),
            "ended": self._end or None,
            "counts": self.schedule.counts(),
            "running": [
                {
                    "stage": pack.stage,
                    "name": pack.trials[0].name,
                    "trials": [trial.id for trial in pack.trials],
                    "s": round(now - self.since.get(pack.id, now), 1),
                }
                for pack in self.schedule.running
            ],
            "retries": self.retries,
            "device_s": round(self.device_s, 1),
            "elapsed_s": round(elapsed, 1),
            "left_s": round(elapsed * max(0.0, self.flops_total / self.flops - 1), 1) if self.flops else None,
        }


def read_journal(store: Store, name: str) -> dict[str, Any] | None:
    """The journal of the last run of a study, or None."""
    data = store.volume.read(f"runs/{name}.json")
    with contextlib.suppress(ValueError, TypeError):
        document = json.loads(data) if data else None
        return document if isinstance(document, dict) else None
    return None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
