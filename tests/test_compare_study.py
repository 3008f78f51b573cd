"""The `compare` section of a study: what is refused, where it is said, and the rows that come of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from statelab import perplexity, plan, records, run, stage, study, tuning

import ftprobe
from ftprobe.cli import main
from ftprobe.errors import InputError
from ftprobe.study import parse_study


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (perplexity(measure={"kind": "entropi"}), "compare[0].measure.kind: unknown kind of measure 'entropi'"),
        (perplexity(measure={"kind": "perplexity", "blok": 9}), "compare[0].measure.blok: unknown"),
        (perplexity(measure={"kind": "perplexity", "block": 2}), "compare[0].measure.block: "),
        (perplexity(measure="perplexity"), "compare[0].measure: 'perplexity' is not a mapping with a `kind`"),
        ({"corpus": "wikitext2"}, "compare[0].measure: missing"),
        ({"measure": {"kind": "perplexity"}}, "compare[0].corpus: missing"),
        (perplexity(corpus="nosuch"), "compare[0].corpus: no text for corpus 'nosuch'"),
        (perplexity(corpus="nosuch@wikitext2"), "compare[0].corpus: unknown task 'nosuch'"),
        (perplexity(split="dev"), "compare[0].split: 'text@wikitext2' has no split 'dev'; it has: test, train"),
        (perplexity(corpus="cola", split="dev"), "compare[0].split: 'cola' has no split 'dev'; it has: test, train"),
        (perplexity(split="tset"), "compare[0].split: "),
        (perplexity(model="other"), "compare[0].model: unknown model 'other'"),
        (perplexity(on="finetuned"), "compare[0]: no `finetune` entry makes the state it reads (any model tuned on"),
        (perplexity(on="pretrained", finetune_task="cola"), "compare[0].finetune_task: a pre-trained state has none"),
        (perplexity(items=0), "compare[0].items: "),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        ftprobe.run(parse_study(study(tmp_path, compare=[entry])), store=tmp_path / "store", offline=True, inline=True)
    assert len(caught.value.problems) == 1, str(caught.value)
    assert str(caught.value).startswith(said), str(caught.value)
    assert not list((tmp_path / "store").glob("artifacts/compare/*"))


def test_a_split_that_is_not_there_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study(tmp_path, compare=[perplexity(split="dev")])))
    command = ["ftprobe", "plan", str(tmp_path / "study.yaml"), "--store", str(tmp_path / "store"), "--offline"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "has no split 'dev'; it has: test, train" in capsys.readouterr().err


def test_a_text_that_nothing_can_be_learnt_from_is_refused(tmp_path: Path) -> None:
    document = study(tmp_path, compare=[perplexity()])
    (tmp_path / "wikitext2" / "train.txt").unlink()
    document["models"] = {"own": {"pretrain": {"text": "wikitext2"}}}
    said = "models.own.pretrain.text: 'wikitext2' has neither train nor dev to learn from; it has: test"
    with pytest.raises(InputError) as caught:
        plan(document, tmp_path / "store")
    assert str(caught.value) == said


def test_options_of_a_measure_are_a_grid_and_change_the_configuration_alone(tmp_path: Path) -> None:
    grid = perplexity(measure={"kind": "perplexity", "block": [8, 16], "masking": ["random15", "mask_only"]})
    planned = plan(study(tmp_path, compare=[grid]), tmp_path / "store")
    trials = stage(planned, "compare")
    assert len(trials) == len({trial.columns["config_id"] for trial in trials}) == 4
    again = plan(study(tmp_path, compare=[perplexity()]), tmp_path / "store")
    assert {trial.id for trial in stage(again, "compare")} < {trial.id for trial in trials}


def test_weights_drawn_anew_have_no_pretrained_head(tmp_path: Path) -> None:
    document = study(tmp_path, compare=[perplexity()])
    checkpoint = document["models"]["base"]["checkpoint"]
    document["models"]["drawn"] = {"checkpoint": checkpoint, "init": "random"}
    run(document, tmp_path / "store")
    rows = records(document, tmp_path / "store").filter(pl.col("method") == "perplexity")
    status = dict(rows.select("model", "status").unique().rows())
    assert status == {"base": "ok", "drawn": "refused"}
    (detail,) = rows.filter(pl.col("model") == "drawn")["detail"].unique()
    assert "drawn anew" in detail


def test_the_domain_of_a_text_and_the_seed_of_its_masks_stand_in_the_rows(tmp_path: Path) -> None:
    document = study(tmp_path, finetune=[tuning(epochs=1)], compare=[perplexity(domain="out", seed=[0, 1])])
    run(document, tmp_path / "store")
    rows = records(document, tmp_path / "store").filter(pl.col("metric") == "mlm_ppl")
    assert rows.select("variant", "probe_seed", "domain").sort(pl.all()).rows() == [
        (variant, seed, "out") for variant in ("finetuned", "pretrained") for seed in (0, 1)
    ]
    assert rows["ft_task"].unique().sort().to_list() == [None, "cola"]
    assert len(set(rows["value"])) == 4
