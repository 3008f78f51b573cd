"""Locality: which of the waiting packs a worker should have, by what its node holds already.

Knows nothing of ray: a node is a name. What a node holds is what its cache had when a first worker of it was met, and
what its workers have read or made since; a cache that has evicted some of it costs a transfer, nothing else.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

from ftprobe.planner import Plan, Stage, Trial
from ftprobe.schedule import Pack

LOOK = 1024  # packs of a stage that are looked through, the first in order
SHORTEST = 0.5  # of the first pack's path, that another must have to be preferred
ROUNDS = 4  # of the workers, in which a pack is passed over before whoever asks gets it
_HELD, _NOBODYS, _ELSEWHERE = range(3)


class Locality:
    """Prefers packs whose large inputs a node holds, and those that no other node holds to those that one does.

    Large inputs are fine-tuned models, activations, and checkpoints of the hub. The order, longest remaining path
    first, gives way within limits: a pack is passed over only for one whose path is at least `SHORTEST` of its own,
    and in a row not more often than `ROUNDS` for each worker: by then every node that is not stuck has asked.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._met: set[str] = set()
        self._holders: dict[str, set[str]] = {}
        self._busy_with: dict[Stage, set[str]] = {}
        self._passed: dict[Stage, tuple[str, int]] = {}

    def has_met(self, node: str) -> bool:
        """Whether it is known what a node holds."""
        return node in self._met

    def meet(self, node: str, held: Iterable[str]) -> None:
        """A node has artifacts in its cache."""
        self._met.add(node)
        self.hold(node, held)

    def choose(self, node: str, waiting: Iterable[tuple[float, Pack]], workers: int) -> Pack:
        """The pack for a worker of a node, which holds its inputs from now on.

        Parameters
        ----------
        waiting : iterable of (length of the remaining path, Pack)
            At least one, of one stage, in order.
        workers : int
            How many run packs of that stage.
        """
        in_order = itertools.islice(waiting, LOOK)
        length, first = next(in_order)
        passed, times = self._passed.pop(first.stage, ("", 0))
        times = times if passed == first.id else 0
        best, rank = first, self._rank(first, node)
        for other_length, other in in_order:
            if rank == _HELD or times >= ROUNDS * workers or other_length < SHORTEST * length:
                break
            if (other_rank := self._rank(other, node)) < rank:
                best, rank = other, other_rank
        if best is not first:
            self._passed[first.stage] = first.id, times + 1
        self._busy_with.setdefault(best.stage, set()).add(node)
        self.hold(node, self._inputs(best))
        return best

    def hold(self, node: str, artifacts: Iterable[str]) -> None:
        """A node has artifacts: its workers read or made them."""
        for artifact in artifacts:
            self._holders.setdefault(artifact, set()).add(node)

    def forget(self, node: str) -> None:
        """A node may be gone: nothing is left for it until it is met again."""
        self._met.discard(node)
        for nodes in (*self._holders.values(), *self._busy_with.values()):
            nodes.discard(node)

    def _rank(self, pack: Pack, node: str) -> int:
        holders = [self._holders.get(each, set()) for each in self._inputs(pack)]
        lacking = [nodes for nodes in holders if node not in nodes]
        if not lacking:
            return _HELD
        # nodes that take no packs of the stage, as GPU nodes may take no probes, are nobody to leave one for
        asking = self._busy_with.get(pack.stage, set())
        return _ELSEWHERE if any(nodes & asking for nodes in lacking) else _NOBODYS

    def _inputs(self, pack: Pack) -> list[str]:
        large = [parent for parent in pack.parents if self.plan.trials[parent].stage != "probe"]
        checkpoint = _checkpoint(pack.trials[0])
        return [*large, checkpoint] if checkpoint and _on_hub(checkpoint) else large


def _checkpoint(trial: Trial) -> str | None:
    return trial.where.get("location") if trial.spec.get("model") else None


@functools.cache
def _on_hub(checkpoint: str) -> bool:
    return not Path(checkpoint).expanduser().is_dir()
