"""Options of pre-training: refused where they do not fit together, and enough to know the architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoConfig, AutoModel

from ftprobe.pretrain.options import PretrainOptions, architecture_of, config_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30, "heads": 4}, "dim 30 is no multiple of heads 4"),
        ({"mask_share": 0.8, "random_share": 0.3}, "add up to more than 1"),
        ({"family": "xlnet"}, "'bert' or 'roberta'"),
        ({"vocab": 100}, "greater than or equal to 300"),
        ({"updates": 0}, "greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"epochs": 3}, "not permitted"),
        ({"layers": "4"}, "valid integer"),
    ],
)
def test_bad_options_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        PretrainOptions(**options)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("inner", [None, 40])
def test_architecture_is_that_of_the_encoder_which_transformers_builds(family: Any, inner: int | None) -> None:
    options = PretrainOptions(family=family, layers=3, dim=24, heads=3, inner=inner, vocab=500, block=32)
    expected = architecture_of(options)
    model = AutoModel.from_config(AutoConfig.for_model(**config_of(options)))
    assert expected.parameters == sum(p.numel() for p in model.parameters())
    assert (expected.family, expected.n_layers, expected.n_heads, expected.dim) == (family, 3, 3, 24)
    assert (expected.max_positions, expected.vocab) == (32, 500)
    assert model.config.intermediate_size == (inner or 96)


def test_options_import_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "ray", "polars", "ftprobe.study"}
    code = f"import sys, json, ftprobe.pretrain.options; print(json.dumps(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
