"""The live view of a sweep: a compact table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ftprobe.planner import STAGES
from ftprobe.runner import LOST
from ftprobe.schedule import Pack, Result, Schedule

COLUMNS = ("done", "running", "failed", "skipped", "reused", "waiting")
LINE_EVERY_S = 5.0


class View:
    """Shows stages, what runs with its latest metrics, failures and the time left; a context manager.

    On anything but a terminal it prints one line per finished pack, at most one every few seconds, and every failure.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.metrics: dict[str, str] = {}
        self.begun = time.time()
        self.last_line = 0.0
        self.flops_done = 0.0
        self.schedule: Schedule | None = None
        self.live = (
            Live(console=console, get_renderable=self._screen, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> View:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def begin(self, schedule: Schedule, slots: str) -> None:
        """The sweep starts."""
        self.schedule, self.begun = schedule, time.time()
        self.flops_total = sum(t.cost.flops for t in schedule.plan.missing())
        if not self.quiet:
            self.console.print(f"{schedule.total} trials to run on {slots}", highlight=False)

    def started(self, pack: Pack) -> None:
        """A pack began."""
        self.metrics[pack.id] = ""

    def metric(self, pack: Pack, metrics: Mapping[str, object]) -> None:
        """A running pack reported its latest numbers."""
        self.metrics[pack.id] = _brief(metrics)

    def lost(self, pack: Pack, why: str = LOST) -> None:
        """A running pack lost its worker or node."""
        self.metrics.pop(pack.id, None)
        if not self.quiet:
            self.console.print(f"{why}, to be run again: {pack.stage} {pack.trials[0].name}", highlight=False)

    def tick(self) -> None:
        """Nothing: the screen refreshes itself."""

    def ended(self, pack: Pack, result: Result) -> None:
        """A pack came to an end."""
        self.metrics.pop(pack.id, None)
        if result.state == "done":
            self.flops_done += sum(t.cost.flops for t in pack.trials)
        elif not self.quiet:
            first = result.error.splitlines()[0] if result.error else ""
            again = " (rebuilding)" if result.state == "corrupt" else ""
            self.console.print(f"{result.state}{again}: {pack.stage} {pack.trials[0].name}: {first}", highlight=False)
        now = time.time()
        if not self.live and not self.quiet and (now - self.last_line > LINE_EVERY_S or self._over()):
            self.last_line = now
            note = _brief(result.metrics)
            self.console.print(
                f"{self._summary()} | {pack.trials[0].name} {note}".rstrip(), highlight=False, soft_wrap=True
            )

    def _over(self) -> bool:
        return self.schedule is not None and self.schedule.finished

    def _ended(self) -> int:
        assert self.schedule is not None
        counts = self.schedule.counts()
        return sum(counts[s].get(k, 0) for s in STAGES for k in ("done", "failed", "skipped"))

    def _summary(self) -> str:
        assert self.schedule is not None
        elapsed = time.time() - self.begun
        return f"{self._ended()}/{self.schedule.total} trials, {clock(elapsed)} elapsed, {self._eta(elapsed)}"

    def _eta(self, elapsed: float) -> str:
        if self.flops_done <= 0 or self.flops_total <= 0:
            return "time left unknown"
        left = elapsed * max(0.0, self.flops_total / self.flops_done - 1)
        return f"about {clock(left)} left"

    def _screen(self) -> Group:
        if self.schedule is None:
            return Group()
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        counts = self.schedule.counts()
        for stage in STAGES:
            if counts[stage]:
                table.add_row(stage, *(str(counts[stage].get(name, 0) or "·") for name in COLUMNS))
        running = [
            Text(f"  {pack.stage} {pack.trials[0].name}  {self.metrics.get(pack.id, '')}", no_wrap=True)
            for pack in sorted(self.schedule.running)[:8]
        ]
        return Group(table, *running, Text(self._summary(), style="dim"))


def _brief(metrics: Mapping[str, object]) -> str:
    """`epoch 2, mcc 0.41` from a report."""
    parts = []
    if "epoch" in metrics:
        parts.append(f"epoch {metrics['epoch']:g}")
    if "metric" in metrics and isinstance(metrics.get("value"), (int, float)):
        parts.append(f"{metrics['metric']} {metrics['value']:.3f}")
    elif isinstance(metrics.get("tokens_per_s"), (int, float)):
        parts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `4.1 s`.

    >>> clock(200), clock(3720), clock(4.14)
    ('3 min 20 s', '1 h 02 min', '4.1 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"
