"""Learning-rate factors by hand, and which parameters decay."""

from __future__ import annotations

import pytest
from torch import nn

from ftprobe.finetune.optimizer import parameter_groups, schedule_factor
from ftprobe.models.load import load_encoder


@pytest.mark.parametrize(
    ("then", "step", "factor"),
    [
        ("linear", 0, 1 / 10),
        ("linear", 9, 1.0),
        ("linear", 10, 1.0),
        ("linear", 55, 0.5),
        ("linear", 99, 1 / 90),
        ("constant", 0, 1 / 10),
        ("constant", 9, 1.0),
        ("constant", 10, 1.0),
        ("constant", 99, 1.0),
    ],
)
def test_factor_by_hand(then: str, step: int, factor: float) -> None:
    found = schedule_factor(step, updates=100, warmup=0.1, then=then)  # type: ignore[arg-type]
    assert found == pytest.approx(factor, abs=1e-12)


def test_warm_up_is_rounded_down_and_may_be_absent() -> None:
    assert [schedule_factor(s, updates=19, warmup=0.1, then="linear") for s in (0, 1, 18)] == [1.0, 1.0, 1 / 18]
    assert [schedule_factor(s, updates=4, warmup=0.1, then="linear") for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert schedule_factor(28, updates=100, warmup=0.29, then="constant") == 1.0
    assert schedule_factor(27, updates=100, warmup=0.29, then="constant") == pytest.approx(28 / 29)
    assert schedule_factor(3, updates=4, warmup=1.0, then="linear") == 1.0


def test_biases_and_norms_do_not_decay(minilm: str) -> None:
    model = load_encoder(minilm, offline=True).model
    named = dict(model.named_parameters())
    decayed, spared = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    found = {id(p) for p in spared["params"]}
    assert found == {id(p) for name, p in named.items() if name.endswith("bias") or "LayerNorm" in name}
    assert len(decayed["params"]) + len(spared["params"]) == len(named)


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    model[0].requires_grad_(False)
    decayed, spared = parameter_groups(model, 0.01)
    assert decayed["params"] == []
    assert len(spared["params"]) == 2
