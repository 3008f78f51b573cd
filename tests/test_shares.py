"""What stages ask of nodes, and how many packs of each may be with the sweep."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from ftprobe.cost import Cost
from ftprobe.planner import Plan, Trial
from ftprobe.schedule import Loads
from ftprobe.shares import AHEAD, AHEAD_OF_NODES, Admission, Share, memory_problems

ON_GPU, BESIDE = Share(4.0, 1.0, 0.0), Share(1.0, 0.0, 0.0)
SHARES = {"finetune": ON_GPU, "activations": ON_GPU, "probe": BESIDE}
GPU_NODE, CPU_NODE = {"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}


def loads(
    out: Mapping[str, int] | None = None, queued: Mapping[str, int] | None = None, left: Mapping[str, int] | None = None
) -> Loads:
    return Loads(Counter(out or {}), Counter(queued or {}), Counter(left or {}))


def test_each_stage_has_a_window_of_its_own() -> None:
    admission = Admission(dict.fromkeys(SHARES, BESIDE), {}, [CPU_NODE])
    full = loads({"probe": 40}, {"probe": AHEAD}, {"probe": 900, "finetune": 3})
    assert not admission.admits("probe", full)
    assert admission.admits("finetune", full)
    assert admission.admits("probe", loads({"probe": 40}, {"probe": AHEAD - 1}, {"probe": 900}))


def test_an_autoscaler_sees_more_that_waits() -> None:
    waiting = loads({"probe": AHEAD}, {"probe": AHEAD}, {"probe": 900})
    shares, to_come = dict.fromkeys(SHARES, BESIDE), [CPU_NODE] * 20
    assert not Admission(shares, {}, [CPU_NODE]).admits("probe", waiting)
    assert Admission(shares, {}, [CPU_NODE], to_come).admits("probe", waiting)
    demand = loads({"probe": AHEAD_OF_NODES}, {"probe": AHEAD_OF_NODES}, {"probe": 900})
    assert not Admission(shares, {}, [CPU_NODE], to_come).admits("probe", demand)


def test_no_gpu_node_is_started_for_cpu_trials_while_nodes_without_gpus_may_come() -> None:
    to_come = [CPU_NODE] * 3 + [GPU_NODE] * 8
    empty, grown = Admission(SHARES, {}, [], to_come), Admission(SHARES, {}, [CPU_NODE] * 3, to_come)
    for admission in (empty, grown):
        assert admission.admits("probe", loads({"probe": 23}, {"probe": 20}, {"probe": 900}))
        assert not admission.admits("probe", loads({"probe": 24}, {"probe": 20}, {"probe": 900})), "3 x 8 cores"
        assert not admission.admits("probe", loads({"probe": 24}, {}, {"probe": 900, "finetune": 1}))
    with_gpu = Admission(SHARES, {}, [CPU_NODE, GPU_NODE], to_come)
    assert with_gpu.admits("probe", loads({"probe": 39}, {}, {"probe": 900})), "and the 16 of a GPU node that is there"
    assert not with_gpu.admits("probe", loads({"probe": 40}, {}, {"probe": 900}))
    assert not with_gpu.admits("probe", loads({"probe": 32, "finetune": 2}, {}, {"probe": 900})), "8 go with its GPUs"
    assert with_gpu.admits("probe", loads({"probe": 31, "finetune": 2}, {}, {"probe": 900}))
    assert with_gpu.admits("finetune", loads({"probe": 40, "finetune": 2}, {}, {"finetune": 9})), "GPU trials are free"
    only_gpus = Admission(SHARES, {}, [], [GPU_NODE] * 8)
    assert only_gpus.admits("probe", loads({"probe": 60}, {"probe": 60}, {"probe": 900})), "nothing else could run them"
    no_gpus = Admission(SHARES, {}, [], [CPU_NODE] * 3)
    assert no_gpus.admits("probe", loads({"probe": 60}, {"probe": 60}, {"probe": 900})), "no GPU node may come"


def test_the_limit_of_a_stage_counts_what_waits_too() -> None:
    admission = Admission(dict.fromkeys(SHARES, BESIDE), {"probe": 3}, [CPU_NODE])
    assert admission.admits("probe", loads({"probe": 2}, {}, {"probe": 5}))
    assert not admission.admits("probe", loads({"probe": 3}, {"probe": 1}, {"probe": 5}))
    assert admission.admits("activations", loads({"probe": 3}, {}, {"activations": 1}))


def test_cpu_trials_leave_a_gpu_node_the_cores_of_its_gpus() -> None:
    admission = Admission(SHARES, {}, [GPU_NODE, CPU_NODE])
    # 16 cores less 2 GPUs x 4 cores, and the 8 of the other node
    assert admission.admits("probe", loads({"probe": 15}, {}, {"finetune": 1}))
    assert not admission.admits("probe", loads({"probe": 16}, {}, {"finetune": 1}))
    assert not admission.admits("probe", loads({"probe": 16, "activations": 1}, {}, {}))
    assert admission.admits("probe", loads({"probe": 16}, {}, {"probe": 100})), "no GPU work left: all cores are free"


def test_cpu_trials_ask_an_autoscaler_for_nodes_unless_a_gpu_trial_starves() -> None:
    admission = Admission(SHARES, {}, [GPU_NODE], [GPU_NODE] * 8)
    busy = loads({"probe": 30, "finetune": 5}, {"finetune": 3}, {"probe": 9})
    assert admission.admits("probe", busy), "both GPUs are at work: the cores are not what the others wait for"
    starving = loads({"probe": 30, "finetune": 4}, {"finetune": 3}, {"probe": 9})
    assert not admission.admits("probe", starving)


def test_one_cpu_trial_always_goes() -> None:
    admission = Admission(SHARES, {}, [{"CPU": 4.0, "GPU": 1.0}])
    assert admission.admits("probe", loads({}, {}, {"finetune": 1}))
    assert not admission.admits("probe", loads({"probe": 1}, {}, {"finetune": 1}))


def test_trials_whose_weights_outgrow_their_share_of_a_gpu_are_refused() -> None:
    base = 440_000_000  # bytes of BERT-base in float32

    def trial(stage: str) -> Trial:
        return Trial(stage, cast(Any, stage), stage, {}, (), stage, {}, {}, Cost(1.0, 0.0, 0, weights=base))

    tuned, read = trial("finetune"), trial("activations")
    probe = Trial("p", "probe", "p", {}, ("finetune", "activations"), "p", {}, {}, Cost(1.0, 0.0, 0))
    plan = Plan(cast(Any, None), {t.id: t for t in (tuned, read, probe)}, (), (), 3, frozenset())
    half = {**SHARES, "finetune": Share(1.0, 0.5, 0.0), "activations": Share(1.0, 0.5, 0.0)}
    (problem,) = memory_problems(plan, half, 3e9)  # 1.76 GB of weights, gradients and moments; 0.44 GB to read out
    assert problem.place == "resources.finetune.gpu"
    assert "1.8 GB" in problem.what
    assert "1.5 GB" in problem.what
    assert [p.place for p in memory_problems(plan, half, 0.8e9)] == [
        "resources.finetune.gpu",
        "resources.activations.gpu",
    ]
    assert memory_problems(plan, half, 4e9) == []
    assert memory_problems(plan, half, math.inf) == []
    assert memory_problems(plan, SHARES, 1e9) == [], "whole GPUs are nobody else's"
    done = dataclasses.replace(plan, existing=frozenset({"finetune"}))
    assert memory_problems(done, half, 3e9) == []
