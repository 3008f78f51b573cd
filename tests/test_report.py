"""Reports: found where they should be, and rendered as one page that says what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from ftprobe.errors import InputError
from ftprobe.frames import MissingData
from ftprobe.generic import search
from ftprobe.items import ReadPredictions
from ftprobe.report import GENERIC, Report, find_report, made, render_html, with_search
from ftprobe.rows import SCHEMA, scan_predictions
from ftprobe.tables import Table, layout

ANALYSIS = """
from ftprobe.report import Report
REPORT = Report("{name}", "{where}", tables={{}}, figures={{}})
"""


def planted() -> pl.DataFrame:
    """A model of 6 layers, tuned twice, with a change of 2 points at layer 6 and none below; one run collapsed."""
    rows: list[dict[str, object]] = []
    shared = {"study": "s", "model": "m", "corpus": "t", "split": "test", "unit": "fraction", "status": "ok"}
    for layer in range(7):
        probe = {**shared, "method": "linear", "task": "t", "metric": "accuracy", "layer": layer, "pooling": "cls"}
        rows.append({**probe, "variant": "pretrained", "value": 0.5})
        for seed in range(3):
            run = {"variant": "finetuned", "ft_task": "cola", "ft_seed": seed, "head_pooling": "cls"}
            rows.append({**probe, **run, "value": 0.52 if layer == 6 else 0.5})
            if layer == 0:
                detail = json.dumps({"selected": True, "collapsed": seed == 0})
                own = {"method": "finetune", "task": "cola", "metric": "mcc", "update": 3, "detail": detail}
                rows.append({**shared, **run, **own, "value": 0.1 * seed})
    return pl.DataFrame(rows, schema=pl.DataFrame(SCHEMA.empty_table()).schema)


def write(folder: Path, name: str, text: str = ANALYSIS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text.format(name=name, where=folder.name), encoding="utf-8")
    return path


def test_found_beside_the_study_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "sweeps" / "x.yaml"
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "analysis", "mine")
    assert find_report("mine", study).title == "analysis"
    write(tmp_path / "sweeps", "mine")
    assert find_report("mine", study).title == "sweeps"


def test_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here" / "analysis", "mine")
    monkeypatch.chdir(tmp_path / "here")
    assert find_report("mine", tmp_path / "elsewhere" / "x.yaml").name == "mine"


def test_shipped_analyses_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_report("mosbach2020", tmp_path / "x.yaml").name == "mosbach2020"


def test_an_analysis_of_two_files_is_read_anew_each_time(tmp_path: Path) -> None:
    write(tmp_path / "a", "mine", "from .other import REPORT")
    write(tmp_path / "b", "mine", "from .other import REPORT")
    for folder, title in (("a", "first"), ("b", "second"), ("a", "changed and longer")):
        text = f"from ftprobe.report import Report\nREPORT = Report('other', '{title}', dict(), dict())\n"
        write(tmp_path / folder, "other", text)
        assert find_report("mine", tmp_path / folder / "x.yaml").title == title
    (tmp_path / "a" / "other.py").unlink()
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        find_report("mine", tmp_path / "a" / "x.yaml")


def test_generic_needs_no_file(tmp_path: Path) -> None:
    assert find_report("generic", tmp_path / "x.yaml") is GENERIC


def test_unknown_report_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "analysis", "mosbach2021")
    with pytest.raises(InputError, match=r"no analysis 'mosbach201' .* did you mean 'mosbach202[01]'"):
        find_report("mosbach201", tmp_path / "sweeps" / "x.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = (", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError"), ("x = 1", "has no REPORT")],
    ids=["syntax", "import", "nothing"],
)
def test_a_broken_analysis_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "mine", text)
    with pytest.raises(InputError, match=said) as caught:
        find_report("mine", tmp_path / "x.yaml")
    assert caught.value.problems[0].place == str(path)


def test_generic_shows_final_states_and_says_what_it_leaves_out() -> None:
    plain = planted()
    passed = plain.filter(pl.col("ft_task").is_not_null(), pl.col("method") == "linear")
    passed = passed.with_columns(update=pl.lit(0, pl.Int64), epoch=pl.lit(0.0), value=pl.lit(0.1))
    replaced = plain.filter(pl.col("method") == "linear", pl.col("ft_task").is_not_null())
    replaced = replaced.with_columns(variant=pl.lit("replace_top_1"), value=pl.lit(0.5))
    records = pl.concat([plain, passed, replaced]).lazy()
    table = GENERIC.tables["delta"](records)
    assert "States on the way (1 different updates) are left out." in table.caption
    assert "left out" not in GENERIC.tables["delta"](plain.lazy()).caption
    top = table.values.filter(pl.col("layer") == "6").select("variant", "runs", "mean", "n").sort("variant", "runs")
    assert top.rows() == [
        ("finetuned", "all", pytest.approx(2.0), 3),
        ("finetuned", "not collapsed", pytest.approx(2.0), 2),
        ("replace_top_1", "all", pytest.approx(0.0), 3),
        ("replace_top_1", "not collapsed", pytest.approx(0.0), 2),
    ]
    groups = GENERIC.tables["groups"](records)
    assert groups.values.height == 2 * 4
    for figure, n_points in (("accuracy", 7 * 3), ("delta", 7 * 2)):
        (rows,) = GENERIC.figures[figure](records).to_dict()["datasets"].values()
        assert len(rows) == n_points


def test_generic_tables_hold_the_planted_numbers() -> None:
    records = planted().lazy()
    scores = GENERIC.tables["finetune"](records)
    assert scores.frame.rows() == [("m", "cola", "all", "10.0 ± 10.0"), ("m", "cola", "not collapsed", "15.0 ± 7.1")]
    assert "m on cola (1)" in scores.caption
    delta = GENERIC.tables["delta"](records)
    assert delta.columns == tuple((str(layer),) for layer in range(7))
    assert delta.frame.row(0)[-2:] == ("0.00 ± 0.00", "2.00 ± 0.00")
    groups = GENERIC.tables["groups"](records)
    assert groups.columns == (("0-3",), ("4-6",))
    assert groups.frame.row(0)[-2:] == ("0.00 ± 0.00", "0.67 ± 0.00")


def searched(variant: str = "finetuned", seed: int = 0) -> pl.DataFrame:
    """A search of five runs of 4 epochs, of which one asked for 2: the second is the best, the fifth has no score."""
    runs = [
        ({"learning_rate": 1.0e-4, "batch_size": 8}, "done", 0.75, 4.0),
        ({"learning_rate": 0.001234567, "batch_size": 16}, "done", 0.875, 4.0),
        ({"learning_rate": 1.0e-6}, "stopped", 0.25, 1.0),
        ({"learning_rate": 1.0e-3, "epochs": 2}, "stopped", 0.75, 1.0),
        ({"learning_rate": 1.0e30, "batch_size": 8}, "failed", float("nan"), 0.0),
    ]
    shared = {"study": "s", "model": "m", "ft_task": "t", "ft_seed": seed, "variant": variant, "task": "t"}
    shared |= {"metric": "accuracy", "unit": "fraction", "split": "dev", "config": json.dumps({"epochs": 4})}
    rows = []
    for i, (point, state, value, epoch) in enumerate(runs):
        detail = json.dumps({"search": point, "status": state, "trial": str(i), "chosen": i == 1})
        own = {"value": value, "epoch": epoch, "status": "undefined" if state == "failed" else "ok"}
        rows.append({**shared, **own, "method": "search", "detail": detail})
    return pl.DataFrame(rows, schema=planted().schema)


def test_the_table_of_a_search_has_a_row_a_run_and_what_was_saved() -> None:
    table = search(pl.concat([planted(), searched()]).lazy())
    assert table.headers == ("model", "fine-tuned on", "run", "batch_size", "epochs", "learning_rate")
    assert table.columns == (("accuracy",), ("epochs run",), ("state",))
    assert [row[2:] for row in table.frame.rows()] == [
        ("2", "16", "–", "0.001235", "87.5", "4 of 4", "done, chosen"),
        ("1", "8", "–", "0.0001", "75.0", "4 of 4", "done"),
        ("4", "–", "2", "0.001", "75.0", "1 of 2", "stopped"),
        ("3", "–", "–", "1e-06", "25.0", "1 of 4", "stopped"),
        ("5", "8", "–", "1e+30", "–", "0 of 4", "failed"),
    ]
    assert table.caption.endswith("Epochs run of those planned: 10 of 18 (56 %).")


def test_searches_that_differ_are_told_apart() -> None:
    several = [searched(), searched(seed=1), searched("finetuned[search=optuna-1]")]
    table = search(pl.concat(several).lazy())
    assert table.headers[:5] == ("model", "fine-tuned on", "variant", "seed", "run")
    assert table.frame.height == 15
    assert "variant finetuned, seed 1: 10 of 18 (56 %); variant finetuned[search=optuna-1], seed 0:" in table.caption


def test_a_report_gets_the_table_of_searches_and_keeps_its_own() -> None:
    own = Report("own", "own", tables={"finetune": GENERIC.tables["finetune"]}, figures={})
    assert list(with_search(own).tables) == ["search", "finetune"]
    mine = Report("own", "own", tables={"search": GENERIC.tables["finetune"]}, figures={})
    assert with_search(mine).tables == mine.tables
    with pytest.raises(MissingData, match="no runs of a search"):
        search(planted().lazy())


def test_only_headers_that_tell_rows_apart_are_shown() -> None:
    records = planted()
    assert GENERIC.tables["delta"](records.lazy()).headers == ("model", "fine-tuned on", "probing task", "runs")
    both = [records, records.with_columns(pooling=pl.lit("mean"))]
    assert "pooling" in GENERIC.tables["delta"](pl.concat(both).lazy()).headers


def test_layers_stand_in_order_though_the_first_row_lacks_one() -> None:
    records = planted()
    other = records.with_columns(model=pl.lit("n"))
    tuned = pl.col("ft_task").is_not_null()
    first = records.filter(~(tuned & (pl.col("layer") == 2)))
    table = GENERIC.tables["delta"](pl.concat([first, other]).lazy())
    assert table.columns == tuple((str(layer),) for layer in range(7))
    assert table.frame.row(0)[-5] == "–"


def test_page_has_every_section_and_fetches_nothing() -> None:
    page = render_html(GENERIC, planted().lazy(), "a <b>")
    assert "<title>a &lt;b&gt;</title>" in page
    for name in (*GENERIC.tables, *GENERIC.figures):
        assert f'id="{name}"' in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "<script" not in page
    fetched = re.findall(r"\b(?:src|href)=\"([^\"]*)\"", page)
    assert all(link.startswith(("data:", "#")) for link in fetched)
    assert not re.search(r"@import|url\(|https?://", page)


def test_page_says_what_is_missing_and_shows_the_rest() -> None:
    probes = planted().filter(pl.col("method") == "linear").lazy()
    page = render_html(GENERIC, probes, "t")
    assert "Missing: no development scores of fine-tuned models (add `finetune` to the study and run it)." in page
    assert "2.00 ± 0.00" in page


def test_a_function_that_asks_for_predictions_gets_them() -> None:
    asked: list[str] = []

    def predictions(trials: Iterable[str]) -> pl.LazyFrame:
        asked.extend(trials)
        return scan_predictions([])

    def scored(records: pl.LazyFrame, predictions: ReadPredictions, digits: int = 2) -> Table:
        n = predictions(["of the report"]).collect().height
        return layout(
            pl.DataFrame({"a": ["x"], "b": ["y"], "mean": [n]}),
            title="t",
            rows={"a": "a"},
            columns=["b"],
            digits=digits,
        )

    report = Report("r", "r", tables={"scored": scored, "delta": GENERIC.tables["delta"]}, figures={})
    page = render_html(report, planted().lazy(), "t", predictions)
    assert asked == ["of the report"]
    assert "2.00 ± 0.00" in page
    render_html(report, planted().lazy(), "t")
    assert asked == ["of the report"]
    with_digits = partial(scored, digits=3)
    assert made(with_digits, planted().lazy(), predictions).frame.row(0) == ("x", "0.000")
    assert asked == ["of the report"] * 2


def test_page_of_no_records_at_all() -> None:
    page = render_html(GENERIC, planted().clear().lazy(), "t")
    assert page.count("Missing: no ") == len(GENERIC.tables) + len(GENERIC.figures)
    assert "0 records." in page


def test_page_counts_records_that_are_not_ok() -> None:
    records = planted().with_columns(
        status=pl.when(pl.col("layer") == 1).then(pl.lit("not_converged")).otherwise("status")
    )
    assert "4 of method linear are not_converged" in render_html(GENERIC, records.lazy(), "t")


def test_an_error_that_is_not_missing_data_is_raised() -> None:
    def broken(records: pl.LazyFrame) -> None:
        raise KeyError("mine")

    report = Report("r", "r", tables={"t": broken}, figures={})  # type: ignore[dict-item]
    with pytest.raises(KeyError, match="mine"):
        render_html(report, planted().lazy(), "t")


def test_missing_tables_are_input_errors() -> None:
    with pytest.raises(MissingData) as caught:
        GENERIC.tables["delta"](planted().clear().lazy())
    assert isinstance(caught.value, InputError)
