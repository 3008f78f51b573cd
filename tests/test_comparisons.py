"""The generic table of comparisons: each measure by layer, of attention, perplexity and whatever else a study asks."""

from __future__ import annotations

import json

import polars as pl
import pytest

from ftprobe.comparisons import comparisons
from ftprobe.frames import MissingData
from ftprobe.rows import SCHEMA

SHARED = {"study": "s", "model": "m", "corpus": "t", "split": "test", "status": "ok", "config": "{}"}
TUNED = {"variant": "finetuned", "ft_task": "cola", "head_pooling": "cls"}


def row(method: str, metric: str, unit: str, value: float, **own: object) -> dict[str, object]:
    detail = json.dumps(own.pop("detail", {}))
    return {**SHARED, "method": method, "metric": metric, "unit": unit, "value": value, "detail": detail, **own}


def planted() -> pl.DataFrame:
    rows = []
    for seed in range(3):
        run = {**TUNED, "ft_seed": seed}
        for draw in range(2):
            said = {"draw": draw}
            rows.append(row("similarity", "rsa", "r", 0.8 + 0.1 * draw + 0.01 * seed, layer=3, detail=said, **run))
            rows.append(row("similarity", "cka", "fraction", 0.5, layer=0, detail=said, **run))
        for head, value in ((None, 1.5), (0, 1.0), (1, 2.0)):
            said = {"head": head, "position": "cls"}
            rows.append(row("attention", "attention_entropy", "nat", value, layer=3, detail=said, **run))
        elsewhere = {"head": None, "position": "other"}
        rows.append(row("attention", "attention_entropy", "nat", 2.5, layer=3, detail=elsewhere, **run))
        rows.append(row("perplexity", "mlm_ppl", "perplexity", 30.0, **run))
        rows.append(row("perplexity", "mlm_ppl", "perplexity", 99.0, update=4, **run))
        rows.append(row("linear", "accuracy", "fraction", 0.7, pooling="cls", layer=3, **run))
        rows.append(row("finetune", "mcc", "fraction", 0.7, **run))
    rows.append(row("perplexity", "mlm_ppl", "perplexity", 20.0, variant="pretrained"))
    return pl.DataFrame(rows, schema=pl.DataFrame(SCHEMA.empty_table()).schema)


def test_every_measure_has_a_row_and_every_layer_a_column() -> None:
    table = comparisons(planted().lazy())
    shown = table.values.select("ft_task", "measure", "position", "layer", "mean", "n").rows()
    assert {line[:4]: (round(line[4], 12), line[5]) for line in shown} == {
        ("cola", "rsa (r)", "–", "3"): (0.86, 3),
        ("cola", "cka (percent)", "–", "0"): (50.0, 3),
        ("cola", "attention_entropy (nat)", "cls", "3"): (1.5, 3),
        ("cola", "attention_entropy (nat)", "other", "3"): (2.5, 3),
        ("cola", "mlm_ppl (perplexity)", "–", "all"): (30.0, 3),
        ("none", "mlm_ppl (perplexity)", "–", "all"): (20.0, 1),
    }
    assert table.headers == ("model", "fine-tuned on", "measure (unit)", "position")
    assert table.columns == (("0",), ("3",), ("all",))


def test_rows_of_probes_and_training_are_no_comparison() -> None:
    others = planted().filter(pl.col("method").is_in(["linear", "finetune"]))
    with pytest.raises(MissingData, match="add `compare`"):
        comparisons(others.lazy())
