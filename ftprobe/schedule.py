"""The schedule: which packs of trials may run now, and what a finished, failed or corrupt one changes.

A pack is the trials that run together: those of one group whose artifacts are missing. The schedule knows nothing of
processes; the sweep and the in-process runner drive the same one.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from ftprobe.cost import DEFAULT_SPEED
from ftprobe.planner import STAGES, Plan, Stage, Trial

PACK_S = 60.0  # seconds of probing that go to a worker at once
REBUILDS = 2  # how often one corrupt artifact is rebuilt before its dependents fail

State = Literal["done", "failed", "skipped", "reused"]


class Pack(NamedTuple):
    """Trials that run as one: `id` is that of the first, with the attempt behind it after a rebuild."""

    id: str
    stage: Stage
    trials: tuple[Trial, ...]
    parents: frozenset[str]


_Place = tuple[float, int, str]  # in line: minus the length of the remaining path, when it became ready, the pack


class Loads(NamedTuple):
    """Packs by stage: `out` with a runner, `queued` those of them that no worker has taken, `left` not handed out."""

    out: Mapping[Stage, int]
    queued: Mapping[Stage, int]
    left: Mapping[Stage, int]


class Result(NamedTuple):
    """What became of a pack.

    `store`: the store could not be read or written; `node`: the disk of the worker's own machine could not. `corrupt`
    names the (stage, artifact) pairs that a trial found damaged when it read its inputs. `failed` holds the errors of
    those of its trials that failed; empty, a pack that failed did so as a whole.
    """

    state: Literal["done", "failed", "corrupt", "store", "node"]
    error: str = ""
    corrupt: tuple[tuple[str, str], ...] = ()
    wall_s: float = 0.0
    metrics: Mapping[str, object] = {}
    failed: Mapping[str, str] = {}


def packs(trials: Sequence[Trial], speed: Mapping[str, float] = DEFAULT_SPEED) -> list[Pack]:
    """Group missing trials into packs, in plan order.

    Activations of one group share a forward pass. Probes of one group read the same activations and go together until
    they fill about a minute: a trial of Ray Tune costs tens of milliseconds, and tasks and layers of one artifact share
    its pages in memory. How they are grouped changes no number.

    Parameters
    ----------
    trials : sequence of Trial
    speed : mapping of stage to float
        Operations per second, by which a pack's time is guessed.
    """
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.stage, trial.group), []).append(trial)
    made: list[Pack] = []
    for group in groups.values():
        made += map(_pack, _minutes(group, speed["probe"]) if group[0].stage == "probe" else [group])
    return made


def _pack(trials: Sequence[Trial]) -> Pack:
    own = {trial.id for trial in trials}
    parents = frozenset(p for trial in trials for p in trial.parents) - own
    return Pack(trials[0].id, trials[0].stage, tuple(trials), parents)


def _minutes(trials: Sequence[Trial], speed: float) -> list[list[Trial]]:
    """Probe trials of one artifact in groups of about a minute; a trial's packs of cells stand before it.

    A trial that takes longer than that with its packs has them in groups of their own, which can run side by side.
    """
    cells = {trial.id: trial for trial in trials if not trial.scored}
    short: list[list[Trial]] = []
    long: list[list[Trial]] = []
    for trial in (trial for trial in trials if trial.scored):
        parts = [cells.pop(p) for p in trial.parents if p in cells]
        if parts and sum(t.cost.flops for t in (*parts, trial)) > PACK_S * speed:
            long += [*_filled([[part] for part in parts], speed), [trial]]
        else:
            short.append([*parts, trial])
    return [*_filled([*short, *([cell] for cell in cells.values())], speed), *long]


def _filled(units: Sequence[list[Trial]], speed: float) -> list[list[Trial]]:
    """Units of trials joined until they take a minute."""
    groups: list[list[Trial]] = []
    seconds = 0.0
    for unit in units:
        own = sum(trial.cost.flops for trial in unit) / speed
        if groups and seconds + own <= PACK_S:
            groups[-1].extend(unit)
            seconds += own
        else:
            groups.append(list(unit))
            seconds = own
    return groups


@dataclasses.dataclass
class Schedule:
    """Progress through a plan's missing trials.

    Attributes
    ----------
    speed : mapping of stage to float
        Operations per second that past trials reached.
    states : dict of str to State
        The trials that have come to an end.
    errors : dict of str to str
        Why a trial failed or was skipped.
    notes : list of str
        What its user should know of a run that went well, such as truncated texts.
    """

    plan: Plan
    speed: Mapping[str, float] = dataclasses.field(default_factory=lambda: DEFAULT_SPEED)
    states: dict[str, State] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        missing = self.plan.missing()
        self.total = len(missing)
        self._needed = {t.id for t in missing}
        self._depth = _critical(self.plan)
        self._waiting: dict[str, Pack] = {}
        self._places: dict[str, _Place] = {}
        self._ready: dict[Stage, list[_Place]] = {stage: [] for stage in STAGES}  # in order
        self._packs: dict[str, Pack] = {}
        self._left: Counter[Stage] = Counter()
        self._running: set[str] = set()
        self._started: set[str] = set()
        self._rebuilt: dict[str, int] = {}
        self._returned: Counter[tuple[str, str]] = Counter()
        self._children: dict[str, list[str]] = {}
        self._order = 0
        self.stopped = ""
        for trial in self.plan.trials.values():
            if trial.id not in self._needed and trial.id in self.plan.existing:
                self.states[trial.id] = "reused"
        for pack in packs(missing, self.speed):
            self._add(pack)

    def _add(self, pack: Pack) -> None:
        self._packs[pack.id] = pack
        self._left[pack.stage] += 1
        open_parents = [p for p in pack.parents if self._open(p)]
        if not open_parents:
            self._order += 1
            depth = max(self._depth[t.id] for t in pack.trials)
            self._places[pack.id] = (-depth, self._order, pack.id)
            bisect.insort(self._ready[pack.stage], self._places[pack.id])
            return
        self._waiting[pack.id] = pack
        for parent in open_parents:
            self._children.setdefault(parent, []).append(pack.id)

    def _open(self, trial: str) -> bool:
        return trial in self._needed and self.states.get(trial) not in ("done", "reused")

    def next(self, admits: Callable[[Stage], bool] = lambda stage: True) -> Pack | None:
        """The next pack to start (longest remaining path first) of the stages admitted, or None if none is ready."""
        heads = [queue[0] for stage, queue in self._ready.items() if queue and admits(stage)]
        if not heads:
            return None
        pack = self._packs[min(heads)[2]]
        self._ready[pack.stage].pop(0)
        self._left[pack.stage] -= 1
        self._running.add(pack.id)
        return pack

    def waiting(self, stage: Stage) -> Iterator[tuple[float, Pack]]:
        """Packs of a stage that no worker has taken, handed out or not, in order; before each, its path's length."""
        out = sorted(self._places[key] for key in self._running - self._started if self._packs[key].stage == stage)
        for length, _, key in heapq.merge(out, self._ready[stage]):
            yield -length, self._packs[key]

    def exchange(self, pack: str, other: str) -> bool:
        """Hand out another pack of the stage instead of one that no worker has taken; False if it is out already."""
        if other in self._running:
            return False
        queue = self._ready[self._packs[pack].stage]
        queue.pop(bisect.bisect_left(queue, self._places[other]))
        bisect.insort(queue, self._places[pack])
        self._running ^= {pack, other}
        return True

    def start(self, pack: str) -> None:
        """A worker took a pack that had been handed out."""
        self._started.add(pack)

    def again(self, pack: str, why: str, times: int) -> bool:
        """Put a pack that came back undone in line once more; False, and nothing changes, after so many times."""
        self._returned[pack, why] += 1
        if self.stopped or self._returned[pack, why] > times:
            return False
        self._running.discard(pack)
        self._started.discard(pack)
        self._add(self._packs[pack])
        return True

    def has_started(self, pack: str) -> bool:
        """Whether a worker took the pack."""
        return pack in self._started

    @property
    def finished(self) -> bool:
        """Nothing is ready, running or waiting."""
        return not (any(self._ready.values()) or self._running or self._waiting)

    def loads(self) -> Loads:
        """Packs by stage: handed out, handed out and taken by no worker yet, and still here."""
        out = Counter(self._packs[key].stage for key in self._running)
        taken = Counter(self._packs[key].stage for key in self._started)
        return Loads(out, out - taken, self._left)

    @property
    def running(self) -> tuple[Pack, ...]:
        """Packs that a worker has now."""
        return tuple(self._packs[key] for key in self._started)

    def complete(self, pack: str, result: Result) -> None:
        """Take a pack's result: unlock, skip or rebuild."""
        self._running.discard(pack)
        self._started.discard(pack)
        trials = self._packs[pack].trials
        if result.state == "corrupt" and not self.stopped and self._rebuild(pack, result.corrupt):
            return
        whole = {} if result.state == "done" else {trial.id: result.error for trial in trials}
        # a pack that broke off left trials undone beside those that failed
        failed = dict(result.failed) if result.state == "failed" and result.failed else {**whole, **result.failed}
        for trial in trials:
            own = result.state != "store" or trial.id in result.failed  # else the store is at fault, not the trial
            self.states[trial.id] = "done" if trial.id not in failed else "failed" if own else "skipped"
        self.errors.update(failed)
        self._release(trial.id for trial in trials if trial.id not in failed)
        for trial in trials:
            if trial.id in failed:
                self._skip(trial.id, trial.name)

    def _release(self, trials: Iterable[str]) -> None:
        for trial in trials:
            for child in self._children.pop(trial, ()):
                pack = self._waiting.pop(child, None)
                if pack is not None:
                    self._left[pack.stage] -= 1
                    self._add(pack)

    def _skip(self, trial: str, cause: str) -> None:
        for child in self._children.pop(trial, ()):
            pack = self._waiting.pop(child, None)
            if pack is not None:
                self._left[pack.stage] -= 1
            for skipped in pack.trials if pack else ():
                self.states[skipped.id] = "skipped"
                self.errors[skipped.id] = f"skipped: {cause} failed"
                self._skip(skipped.id, cause)

    def _rebuild(self, pack: str, corrupt: Iterable[tuple[str, str]]) -> bool:
        """Run again what made a damaged artifact, then the pack that found it; False after too many attempts."""
        broken = [key for _, key in corrupt]
        if any(self._rebuilt.get(key, 0) >= REBUILDS for key in broken):
            return False
        for key in broken:
            self._rebuilt[key] = self._rebuilt.get(key, 0) + 1
        for trial in (self.plan.trials[key] for key in broken if key in self.plan.trials):
            out = [self._packs[key] for key in self._running]
            again = any(trial in p.trials for p in (*out, *self._waiting.values()))
            self.states.pop(trial.id, None)
            self._needed.add(trial.id)
            queued = (self._packs[key] for _, _, key in self._ready[trial.stage])
            if not again and not any(trial in pack.trials for pack in queued):
                name = f"{trial.id}-{self._rebuilt[trial.id]}"
                self._add(Pack(name, trial.stage, (trial,), frozenset(trial.parents)))
        self._add(self._packs[pack])
        return True

    def stop(self, reason: str) -> None:
        """Start nothing more: everything not yet running is skipped."""
        self.stopped = reason
        queued = [self._packs[key] for queue in self._ready.values() for _, _, key in queue]
        for pack in (*queued, *self._waiting.values()):
            for trial in pack.trials:
                self.states[trial.id], self.errors[trial.id] = "skipped", f"skipped: {reason}"
        self._ready, self._waiting, self._children = {stage: [] for stage in STAGES}, {}, {}
        self._left.clear()

    def counts(self) -> dict[Stage, dict[str, int]]:
        """Trials by stage and state (`done`, `running`, `failed`, `skipped`, `reused`, `waiting`)."""
        running = {t.id for pack in self.running for t in pack.trials}
        table: dict[Stage, dict[str, int]] = {stage: {} for stage in STAGES}
        for trial in self.plan.trials.values():
            if trial.id not in self._needed and trial.id not in self.states:
                continue
            state = "running" if trial.id in running else self.states.get(trial.id, "waiting")
            table[trial.stage][state] = table[trial.stage].get(state, 0) + 1
        return table


def _critical(plan: Plan) -> dict[str, float]:
    """Operations on the longest path from each trial to the end of the plan.

    A grid whose packs of cells are done is scored before other grids begin: a run that is stopped has whole results.
    """
    depth: dict[str, float] = dict.fromkeys(plan.trials, 0.0)
    for trial in reversed(plan.trials.values()):
        depth[trial.id] += trial.cost.flops
        for parent in trial.parents:
            depth[parent] = max(depth[parent], depth[trial.id])
    for trial in plan.trials.values():
        cells = [depth[p] for p in trial.parents if not plan.trials[p].scored and plan.trials[p].stage == "probe"]
        depth[trial.id] = max([depth[trial.id], *(each + 1 for each in cells)])
    return depth
