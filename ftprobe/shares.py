"""Shares: what a trial of each stage asks of a node, and how many trials of a stage may be with the sweep at once.

Knows nothing of ray: nodes are mappings of resource to amount.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ftprobe.errors import InputError, Problem
from ftprobe.planner import Plan, Stage
from ftprobe.schedule import Loads
from ftprobe.study import Resources, Study

GPUS: Mapping[Stage, float] = {
    "pretrain": 1.0,
    "finetune": 1.0,
    "search": 0.0,  # its runs are fine-tunings, each with the share of one
    "activations": 1.0,
    "probe": 0.25,
    "compare": 1.0,
}
AHEAD = 16  # packs of a stage that wait for a worker: enough to keep workers busy, few enough to keep the order
AHEAD_OF_NODES = 64  # where an autoscaler starts nodes for what waits

Node = Mapping[str, float]


class Share(NamedTuple):
    """What one trial of a stage asks for: cores, GPUs, bytes of memory."""

    cpu: float
    gpu: float
    memory: float

    def request(self) -> dict[str, float]:
        """As Tune takes it, which refuses a request for nothing."""
        nothing = not (self.cpu or self.gpu or self.memory)
        memory = 1.0 if nothing else self.memory
        return {"cpu": self.cpu, **{k: v for k, v in (("gpu", self.gpu), ("memory", memory)) if v}}


def shares_of(study: Study, nodes: Sequence[Node], to_come: Sequence[Node] = ()) -> dict[Stage, Share]:
    """Each stage's share, checked against the nodes: a request that no node can meet would wait for ever.

    Defaults: where any node has a GPU, fine-tuning and extraction take one and probes a quarter; CPUs are a quarter
    of the largest node, between 1 and 4. A search asks for nothing: it waits for its runs.

    Parameters
    ----------
    study : Study
    nodes : sequence of mapping
        Resources of the nodes that are there (`CPU`, `GPU`, `memory` in bytes).
    to_come : sequence of mapping
        Those of every node that an autoscaler may start.

    Raises
    ------
    InputError
        A stage asks for more than any node has.
    """
    every = [*nodes, *to_come]
    cpu = float(max(1, min(4, int(max((node.get("CPU", 0.0) for node in every), default=0.0)) // 4)))
    gpus = GPUS if any(node.get("GPU") for node in every) else dict.fromkeys(GPUS, 0.0)
    shares: dict[Stage, Share] = {}
    problems = []
    for stage, gpu in gpus.items():
        asked = study.resources.get(stage, Resources())
        share = Share(
            cpu * (stage != "search") if asked.cpu is None else asked.cpu,
            gpu if asked.gpu is None else asked.gpu,
            (asked.memory_gb or 0.0) * 1e9,
        )
        shares[stage] = share
        if not any(_fits(share, node) for node in every):
            kinds = dict.fromkeys(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in every)
            have = "; ".join(kinds) or "no node"
            want = f"{share.cpu:g} CPU, {share.gpu:g} GPU, {share.memory / 1e9:g} GB"
            problems.append(
                Problem(
                    f"resources.{stage}", f"a trial asks for {want} and no node has that", f"the cluster has: {have}"
                )
            )
    if problems:
        raise InputError(problems)
    return shares


def _fits(share: Share, node: Node) -> bool:
    have = (node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", 0.0))
    return all(asked <= there for asked, there in zip(share, have, strict=True))


def memory_problems(plan: Plan, shares: Mapping[Stage, Share], device_bytes: float) -> list[Problem]:
    """Trials that cannot share a GPU: their weights alone, in training with gradients and Adam's moments, are too many.

    Parameters
    ----------
    device_bytes : float
        Memory of the smallest GPU.

    Returns
    -------
    list of Problem
        At most one for each stage, for its largest trial. What batches take comes on top and is not counted; a trial is
        held to its share while it runs.
    """
    problems = []
    copies_of: Mapping[Stage, int] = {"pretrain": 4, "finetune": 4, "search": 4, "activations": 1, "compare": 1}
    for stage, copies in copies_of.items():
        share = shares.get("finetune" if stage == "search" else stage)
        if share is None or not 0 < share.gpu < 1:
            continue
        weights = max((t.cost.weights for t in plan.missing() if t.stage == stage), default=0)
        if copies * weights > share.gpu * device_bytes:
            what = f"a trial needs {copies * weights / 1e9:.1f} GB of a GPU for its weights alone"
            has = f"{share.gpu:g} of the smallest one is {share.gpu * device_bytes / 1e9:.1f} GB"
            place = f"resources.{'finetune' if stage == 'search' else stage}.gpu"
            problems.append(Problem(place, f"{what}, and {has}", "ask for a larger share"))
    return problems


@dataclasses.dataclass
class Admission:
    """Whether one more pack of a stage may go to Tune.

    Each stage has a window of its own, so that none waits behind the packs of another, and late choice keeps the
    longest path first. While packs that need a GPU are to come, those that need none leave a GPU node the cores that
    go with its GPUs: otherwise they would take each core as it comes free, and no GPU trial would ever find enough.
    Where an autoscaler may start nodes without GPUs, no more of them go out than those nodes can hold: for one more it
    would start a GPU node. Searches ask for nothing: they go out while there is place for one run of each.

    Attributes
    ----------
    shares : mapping of stage to Share
    limits : mapping of stage to int
        `max_concurrent` of the study; absent: no limit.
    nodes : sequence of mapping
        The cluster's nodes now; the sweep keeps it up to date.
    to_come : sequence of mapping
        Every node that an autoscaler may start, those that it has started included. With any, more packs may wait: it
        is they that make the cluster grow.
    """

    shares: Mapping[Stage, Share]
    limits: Mapping[Stage, int]
    nodes: Sequence[Node]
    to_come: Sequence[Node] = ()

    def admits(self, stage: Stage, loads: Loads) -> bool:
        """Whether to hand out another pack of a stage."""
        out, queued = loads.out, loads.queued
        if out[stage] >= self.limits.get(stage, out[stage] + 1):
            return False
        if queued[stage] >= (AHEAD_OF_NODES if self.to_come else AHEAD):
            return False
        if stage == "search":
            return out[stage] < max(1, self._runs())
        on_gpu = [s for s in self.shares if self.shares[s].gpu]
        if stage in on_gpu:
            return True
        working = [*on_gpu, "search"] if "finetune" in on_gpu else on_gpu
        beside, gpu_work = (
            sum(out[s] for s in self.shares if s not in on_gpu and s != "search"),
            any(out[s] + loads.left[s] for s in working),
        )
        if beside >= self._most_beside(stage, gpu_work):
            return False
        if not gpu_work:
            return True
        idle = self._gpu_places() - sum(out[s] - queued[s] for s in on_gpu)
        starved = idle > 0 and any(queued[s] for s in on_gpu)
        return beside < max(1, self._places(stage, self.nodes, gpu_work)) or (bool(self.to_come) and not starved)

    def _runs(self) -> int:
        """Fine-tunings that fit at once."""
        share = self.shares["finetune"]
        wants = [("CPU", share.cpu), ("GPU", share.gpu)]
        return sum(int(min(node.get(key, 0.0) // most for key, most in wants if most)) for node in self.nodes)

    def _gpu_places(self) -> int:
        """GPU trials that fit at once, counted by the largest share: fewer than may really run."""
        gpu = max(share.gpu for share in self.shares.values())
        return int(sum(node.get("GPU", 0.0) // gpu for node in self.nodes))

    def _most_beside(self, stage: Stage, gpu_work: bool) -> float:
        """Trials of a stage without GPUs for which no GPU node is started; any number where one kind of node comes."""
        plain = [node for node in self.to_come if not node.get("GPU")]
        coming = self._places(stage, plain, gpu_work)
        if not coming or len(plain) == len(self.to_come):
            return math.inf
        there = self._places(stage, [node for node in self.nodes if not node.get("GPU")], gpu_work)
        on_gpu_nodes = self._places(stage, [node for node in self.nodes if node.get("GPU")], gpu_work)
        return max(coming, there) + on_gpu_nodes

    def _places(self, stage: Stage, nodes: Sequence[Node], gpu_work: bool) -> int:
        """Trials of a stage without GPUs that fit on nodes, beside the GPU trials of each while there are any."""
        share = self.shares[stage]
        users = [each for each in self.shares.values() if each.gpu] if gpu_work else []
        cores_of_gpu = max((each.cpu / each.gpu for each in users), default=0.0)
        free = (node.get("CPU", 0.0) - node.get("GPU", 0.0) * cores_of_gpu for node in nodes)
        return int(sum(max(0.0, cores) // share.cpu for cores in free))
