"""Durrani 2021: records planted from its published tables give these tables back; gaps are dashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from tablelab import cell, drawn

from ftprobe.frames import MissingData
from ftprobe.planner import make_plan
from ftprobe.published import load
from ftprobe.report import Report, find_report, render_html
from ftprobe.store import Store
from ftprobe.study import load_study
from ftprobe.tables import DASH

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
MODELS = {"google-bert/bert-base": "bert", "FacebookAI/roberta-base": "roberta", "xlnet/xlnet-base-cased": "xlnet"}
TASKS = {"pos": "ptb_pos", "chunking": "chunk", "sem": "sem"}
OFFSETS = (-0.01, 0.0, 0.01)  # of three seeds: sd 1 point, mean unchanged
N_NEURONS = 13 * 768
TUNED = ("cola", "sst2", "rte")  # of the small study
CURVED = ("sst2", "rte")  # tunings whose layers are probed
Row = dict[str, object]
Made = Callable[[Iterator[Row]], pl.DataFrame]


@pytest.fixture(scope="module")
def report() -> Report:
    return find_report("durrani2021", SWEEPS / "durrani2021.yaml")


def published(*tables: str) -> Iterator[dict[str, object]]:
    yield from load("durrani2021").filter(pl.col("table").is_in(tables)).rows(named=True)


def state(tuned: str, seed: int) -> Row:
    """One run: a probe seed of the pre-trained model, or a tuning seed."""
    if tuned == "none":
        return {"variant": "pretrained", "probe_seed": seed}
    run = {"variant": "finetuned", "ft_task": tuned, "ft_seed": seed, "head_pooling": "cls"}
    return {**run, "probe_seed": 0}


def neuron(model: str, task: str, tuned: str, seed: int, metric: str, value: float, **columns: object) -> Row:
    percent = 10.0 if task == "chunk" else 5.0
    return {
        "model": model,
        "method": "neurons",
        "task": task,
        "corpus": "pmb4_en" if task == "sem" else "conll2000",
        "pooling": "last",
        "metric": metric,
        "value": value,
        "config": json.dumps({"probe": {"kind": "neurons", "percent": percent}}),
        "config_id": f"{task}-config",
        "trial": f"{model}-{task}-{tuned}-{seed}",
        **state(tuned, seed),
        **columns,
    }


def end_rows() -> Iterator[Row]:
    """Tables 1, 4 and 5; the checks of their rankings lie 2 and 3 points lower."""
    for at in published("table1", "table4", "table5"):
        model, task, tuned = MODELS[str(at["model"])], TASKS[str(at["probe_task"])], str(at["finetune_task"])
        n = 999 if task == "chunk" else 500
        detail = json.dumps({"n": n, "percent": 100 * n / N_NEURONS})
        metric, value = f"{at['condition']}_accuracy", float(str(at["value"])) / 100
        for seed, offset in enumerate(OFFSETS):
            for suffix, drop in (("", 0.0), ("_standardised", 0.02), ("_probeless", 0.03)):
                value_here = value + offset - drop
                yield neuron(model, task, tuned, seed, metric + suffix, value_here, detail=detail)


def minimal_rows() -> Iterator[Row]:
    """Tables 7 and 8."""
    names = {"num_neurons": "minimal_n", "share_of_neurons": "minimal_fraction"}
    for at in published("table7"):
        if at["probe_task"] is None:
            continue
        model, task, metric = MODELS[str(at["model"])], TASKS[str(at["probe_task"])], str(at["metric"])
        value = float(str(at["value"])) / (1 if metric == "num_neurons" else 100)
        kept = "all" if at["condition"] == "all_neurons" else "minimal"
        own: Row = {"unit": "count", "split": "dev"} if metric == "num_neurons" else {}
        for seed, offset in enumerate(OFFSETS):
            spread = 0.0 if metric in names else offset
            yield neuron(model, task, "none", seed, names.get(metric, f"{metric}_{kept}"), value + spread, **own)
    for model in MODELS.values():
        for task in TASKS.values():
            yield neuron(model, task, "none", 0, "n_neurons", N_NEURONS, unit="count", split="train")
    for at in published("table8"):
        metric = "chosen_l" + str(at["metric"])[-1]
        model, task, value = MODELS[str(at["model"])], TASKS[str(at["probe_task"])], float(str(at["value"]))
        for seed in range(len(OFFSETS)):
            yield neuron(model, task, "none", seed, metric, value, unit="strength", split="dev")


def layer_rows() -> Iterator[Row]:
    """Elastic-net accuracies and top neurons of 13 layers; tuning on RTE costs 10 points at the last layer."""
    for model in MODELS.values():
        for task in TASKS.values():
            for tuned in ("none", *CURVED):
                for layer in range(13):
                    for seed, offset in enumerate(OFFSETS):
                        value = 0.8 + 0.005 * layer + offset - 0.1 * (tuned == "rte" and layer == 12)
                        row = neuron(model, task, tuned, seed, "accuracy", value, layer=layer, n_items=2000)
                        detail = json.dumps({"n_train": 50_000, "n_dev": 5000, "n_labels": 44})
                        yield {**row, "method": "elastic_net", "detail": detail}
                        count = 10.0 * layer + seed
                        own: Row = {"unit": "count", "split": "train", "layer": layer}
                        yield neuron(model, task, tuned, seed, "layer_count", count, **own)


def corpus_rows() -> Iterator[Row]:
    sizes = {"ptb_pos": (211_727, None, 47_377), "chunk": (211_727, None, 47_377), "sem": (50_000, 5000, 2000)}
    for task, counts in sizes.items():
        for split, n in zip(("train", "dev", "test"), counts, strict=True):
            corpus = "pmb4_en" if task == "sem" else "conll2000"
            row: Row = {"method": "corpus", "task": task, "corpus": corpus, "metric": "n_items", "unit": "count"}
            if n is not None:
                yield {**row, "split": split, "value": n}


def finetune_rows() -> Iterator[Row]:
    for model in MODELS.values():
        for tuned in CURVED:
            for seed in range(len(OFFSETS)):
                row = {"model": model, "method": "finetune", "task": tuned, "corpus": tuned, "metric": "accuracy"}
                yield {**row, **state(tuned, seed), "probe_seed": None, "update": 10, "value": 0.9, "detail": "{}"}


@pytest.fixture(scope="module")
def records(as_records: Made) -> pl.DataFrame:
    rows = [*end_rows(), *minimal_rows(), *layer_rows(), *corpus_rows(), *finetune_rows()]
    return as_records(iter(rows)).sample(fraction=1, shuffle=True, seed=0)


@pytest.mark.parametrize("name", ["table1", "table4", "table5"])
def test_tables_of_top_and_bottom_neurons_are_the_published_ones(
    name: str, report: Report, records: pl.DataFrame
) -> None:
    values = report.tables[name](records.lazy()).values
    pairs = values.pivot("source", index=["model", "task", "ft_task", "end"], values="mean")
    assert pairs.height == 3 * 7 * 2  # models, base and tunings, ends
    assert pairs["ours"].to_list() == pytest.approx(pairs["published"].to_list(), abs=1e-9)
    ours = values.filter(pl.col("source") == "ours")
    assert ours.filter(pl.col("ft_task") == "base")["n"].unique().to_list() == [1]
    assert ours.filter(pl.col("ft_task") != "base")["sd"].to_list() == pytest.approx([1.0] * 36)


def test_table1_prints_like_the_paper(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table1"](records.lazy())
    lines = [row[:3] for row in table.frame.rows() if row[0]]
    base_first = ["base", "MRPC", "QNLI", "MNLI", "RTE", "SST-2", "STS-B"]
    assert lines == [(model, "ptb_pos", tuned) for model in MODELS.values() for tuned in base_first]
    assert cell(table, ("xlnet", "ptb_pos", "QNLI"), "bottom / ours") == "10.3 ± 1.0"
    assert cell(table, ("xlnet", "ptb_pos", "QNLI"), "bottom / published") == "10.3"
    # Three probe seeds of one pre-trained model are one number.
    assert cell(table, ("bert", "ptb_pos", "base"), "top / ours") == "96.0"
    assert "N = 5 % (bert 500, roberta 500, xlnet 500)" in table.caption
    for said in ("stands beside ptb_pos", "Probe: neurons. Corpus: conll2000. Config: ptb_pos-", "n = 1 to 3"):
        assert said in table.caption
    assert "95 % bootstrap intervals" in table.caption
    assert "N = 10 % (bert 999," in report.tables["table4"](records.lazy()).caption
    assert "misprint" in report.tables["table5"](records.lazy()).caption
    others = records.filter(pl.col("model") != "xlnet")
    assert "misprint" not in report.tables["table5"](others.lazy()).caption


def test_what_the_study_leaves_out_is_dashes(report: Report, records: pl.DataFrame) -> None:
    part = records.filter(pl.col("ft_task").fill_null("rte") == "rte", pl.col("task").fill_null("") != "sem")
    part = part.filter(pl.col("model").fill_null("bert") == "bert")
    table = report.tables["table1"](part.lazy())
    assert set(table.frame["model"]) == {"", "bert"}
    assert cell(table, ("bert", "ptb_pos", "MNLI"), "top / ours") == DASH
    assert cell(table, ("bert", "ptb_pos", "MNLI"), "top / published") == "95.8"
    assert cell(table, ("bert", "ptb_pos", "RTE"), "bottom / ours") == "94.8 ± 1.0"
    with pytest.raises(MissingData, match="top and bottom neurons of semantic tags"):
        report.tables["table5"](part.lazy())
    seven = report.tables["table7"](part.lazy())
    assert cell(seven, ("bert", "sem"), "accuracy / all / published") == "92.51"
    assert cell(seven, ("bert", "sem"), "accuracy / all / ours") == DASH


def test_pos_is_another_task_where_the_study_has_no_penn_treebank(report: Report, records: pl.DataFrame) -> None:
    pos = records.filter(pl.col("task") == "ptb_pos")
    both = [pos.with_columns(task=pl.lit(task), corpus=pl.lit("ud_ewt")) for task in ("upos", "xpos")]
    table = report.tables["table1"](pl.concat(both).lazy())
    assert cell(table, ("bert", "xpos", "base"), "top / published") == "96.0"
    assert cell(table, ("bert", "upos", "base"), "top / published") == DASH
    assert cell(table, ("bert", "upos", "base"), "top / ours") == "96.0"
    assert "stands beside xpos" in table.caption


def test_another_model_and_another_pooling_have_dashes_for_published(report: Report, records: pl.DataFrame) -> None:
    bert = records.filter(pl.col("model") == "bert")
    for other in (bert.with_columns(model=pl.lit("minilm")), bert.with_columns(pooling=pl.lit("mean"))):
        for name in ("table1", "table7", "table8"):
            table = report.tables[name](other.lazy())
            shown = [column for column in table.frame.columns if column.endswith("published")]
            assert shown
            assert set(table.frame.select(shown).unpivot()["value"]) <= {DASH, ""}
    uncased = bert.with_columns(detail=pl.lit('{"checkpoint": "google-bert/bert-base-uncased", "n": 1, "percent": 5}'))
    table = report.tables["table1"](uncased.lazy())
    assert cell(table, ("bert", "ptb_pos", "base"), "top / published") == DASH


def test_a_second_configuration_is_a_row_with_published_numbers_of_its_own_task(
    report: Report, records: pl.DataFrame
) -> None:
    options = '{"probe": {"kind": "neurons", "percent": 5.0, "lambda_score": "dev_accuracy"}}'
    again = records.filter(pl.col("metric").is_in(["top_accuracy", "bottom_accuracy"]))
    other = pl.concat([again.with_columns(config=pl.lit(options)), again])
    table = report.tables["table7"](pl.concat([records, other]).lazy())
    assert table.headers == ("model", "probing task")
    table = report.tables["table1"](other.lazy())
    assert table.headers == ("model", "probing task", "fine-tuned on", "options")
    column = table.frame.filter(pl.col("model") == "bert", pl.col("fine-tuned on") == "MNLI")["top / published"]
    assert column.to_list() == ["95.8", "95.8"]


def test_a_failed_run_is_left_out_in_a_second_row(report: Report, records: pl.DataFrame) -> None:
    failed = (pl.col("method") == "finetune") & (pl.col("ft_task") == "rte") & (pl.col("ft_seed") == 2)
    failed &= pl.col("model") == "bert"
    flagged = pl.when(failed).then(pl.lit('{"collapsed": true}')).otherwise("detail")
    table = report.tables["table1"](records.with_columns(detail=flagged).lazy())
    assert table.headers[-1] == "runs"
    assert cell(table, ("bert", "ptb_pos", "RTE", "all"), "top / ours") == "95.9 ± 1.0"
    assert cell(table, ("bert", "ptb_pos", "RTE", "not collapsed"), "top / ours") == "95.4 ± 0.7"
    assert cell(table, ("bert", "ptb_pos", "RTE", "not collapsed"), "top / published") == DASH
    assert "did not beat the majority class: bert on rte (1)" in table.caption


def test_table7_is_the_published_one(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table7"](records.lazy())
    pairs = table.values.pivot("source", index=["model", "task", "measure", "set"], values="mean")
    assert pairs.height == 3 * 3 * 7
    assert pairs["ours"].to_list() == pytest.approx(pairs["published"].to_list(), abs=1e-9)
    assert table.spanners[0] == (("neurons", 6), ("accuracy", 4), ("selectivity", 4))
    assert cell(table, ("roberta", "chunk"), "neurons / all / ours") == "9,984"
    assert cell(table, ("roberta", "chunk"), "neurons / kept / ours") == "1,000"
    assert cell(table, ("roberta", "chunk"), "selectivity / kept / ours") == "28.91"


def test_table8_is_the_published_one(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table8"](records.lazy())
    assert table.frame["ours"].to_list() == table.frame["published"].to_list()
    assert cell(table, ("bert", "chunk"), "ours") == "(1e-4, 1e-5)"
    other = (pl.col("metric") == "chosen_l1") & (pl.col("probe_seed") == 0) & (pl.col("model") == "bert")
    changed = records.with_columns(value=pl.when(other).then(0.0).otherwise("value"))
    table = report.tables["table8"](changed.lazy())
    assert cell(table, ("bert", "chunk"), "ours") == "(1e-4, 1e-5) (2), (0, 1e-5) (1)"


def test_table3_counts(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["table3"](records.lazy())
    assert table.frame["probing task"].to_list() == ["ptb_pos", "chunk", "sem"]
    assert cell(table, ("ptb_pos",), "training / ours") == "211,727 (50,000 used)"
    assert cell(table, ("ptb_pos",), "training / published") == "36,557"
    assert cell(table, ("chunk",), "development / ours") == DASH
    assert cell(table, ("sem",), "development / ours") == "5,000"
    assert cell(table, ("sem",), "labels / ours") == "44"
    assert cell(table, ("sem",), "labels / published") == "73"


def test_the_checks_stand_beside_the_main_ranking(report: Report, records: pl.DataFrame) -> None:
    table = report.tables["sensitivity"](records.lazy())
    row = ("roberta", "sem", "SST-2")
    assert cell(table, row, "accuracy, bottom / main") == "60.70 ± 1.00"
    assert cell(table, row, "accuracy, bottom / standardised") == "58.70 ± 1.00"
    assert cell(table, row, "accuracy, bottom / probeless") == "57.70 ± 1.00"
    assert cell(table, row, "accuracy, all / main") == DASH
    assert cell(table, ("roberta", "sem", "base"), "accuracy, all / main") == "92.95"


def test_figures_draw_every_point_once(report: Report, records: pl.DataFrame) -> None:
    one = drawn(report, "figure1", records)
    assert len(one) == 2 * 3 * 3 * 13  # POS and chunking, models, states, layers
    assert list(dict.fromkeys(row["state"] for row in one)) == ["base", "RTE", "SST-2"]
    assert {row["task"] for row in drawn(report, "figure4", records)} == {"sem"}
    at = {(row["model"], row["task"], row["state"], row["layer"]): row["mean"] for row in one}
    assert at["bert", "ptb_pos", "base", 12] == pytest.approx(86.0)
    assert at["bert", "ptb_pos", "RTE", 12] == pytest.approx(76.0)
    two, three = (drawn(report, name, records) for name in ("figure2", "figure3"))
    assert (len(two), len(three)) == (2 * 3 * 3 * 13, 3 * 3 * 3 * 13)
    # Over probe seeds 0, 1 and 2 of the pre-trained model, over tuning seeds 0, 1 and 2 of the tuned ones.
    assert {row["mean"] for row in three if row["layer"] == 7} == {71.0}
    with pytest.raises(MissingData, match="top neurons by layer"):
        report.figures["figure2"](records.filter(pl.col("task") == "ptb_pos").lazy())


def test_without_neurons_a_table_says_what_is_missing(report: Report, records: pl.DataFrame) -> None:
    none = records.filter(pl.col("method") != "neurons").lazy()
    for name in ("table1", "table4", "table5", "table7", "table8", "sensitivity"):
        with pytest.raises(MissingData, match="kind: neurons"):
            report.tables[name](none)
    with pytest.raises(MissingData, match="kind: elastic_net"):
        report.figures["figure1"](records.filter(pl.col("method") == "neurons").lazy())


def test_page(report: Report, records: pl.DataFrame) -> None:
    page = render_html(report, records.lazy(), "Durrani 2021")
    assert page.count("Missing") == 2  # no pruned models are planted
    assert page.count("<h2>") == 14


def test_the_shipped_study_is_that_of_the_paper() -> None:
    found = load_study(SWEEPS / "durrani2021.yaml")
    tunings = {"sst2", "rte", "mnli", "qnli", "mrpc", "stsb"}
    assert {(run.task, run.seed) for run in found.finetune} == {(t, s) for t in tunings for s in range(3)}
    assert {run.variant for run in found.probe if run.on == "finetuned"} == {"finetuned"}
    assert {run.activation.pooling for run in found.probe} == {"last"}
    kinds = {(run.kind, run.task) for run in found.probe}
    assert kinds == {(kind, task) for kind in ("neurons", "elastic_net") for task in ("ptb_pos", "chunk", "sem")}
    percent = {run.task: run.options.model_dump()["percent"] for run in found.probe if run.kind == "neurons"}
    assert percent == {"ptb_pos": 5.0, "chunk": 10.0, "sem": 5.0}
    grid = {(run.options.model_dump()["l1"], run.options.model_dump()["l2"]) for run in found.probe}
    assert [(len(l1), len(l2)) for l1, l2 in grid] == [(8, 8)]  # METHODS 3.2: 64 cells


@pytest.mark.parametrize(
    ("name", "other", "tasks"),
    [
        ("durrani2021_minilm", "mosbach2020_minilm", {"cola", "sst2", "rte"}),
        ("zhou2022_minilm", "finetune_minilm", {"upos@ud_ewt", "dep@ud_ewt", "ps_fxn", "ps_role", "trec_50"}),
    ],
)
def test_the_small_studies_share_their_tuned_states(name: str, other: str, tasks: set[str]) -> None:
    runs = {
        study: {
            (run.model, run.task, run.seed, run.options)
            for run in load_study(SWEEPS / f"{study}.yaml").finetune
            if run.variant == "finetuned"
        }
        for study in (name, other)
    }
    heads = {run[3].head_pooling for run in runs[name]}
    assert runs[name] == {run for run in runs[other] if run[3].head_pooling in heads and run[1] in tasks}
    assert len(runs[name]) == 3 * len(tasks)


def pruned_rows() -> Iterator[Row]:
    """Table 2; another metric of the same runs lies elsewhere."""
    for at in published("table2"):
        variant = {"baseline": "finetuned", "prune_top6": "prune_top_6", "prune_bottom6": "prune_bottom_6"}
        for seed, offset in enumerate(OFFSETS):
            row: Row = {
                "model": MODELS[str(at["model"])],
                "method": "finetune",
                "variant": variant[str(at["condition"])],
                "ft_task": at["finetune_task"],
                "task": at["finetune_task"],
                "corpus": at["finetune_task"],
                "ft_seed": seed,
                "head_pooling": "cls",
                "update": 10,
                "detail": '{"selected": true}',
                "config": json.dumps({"epochs": 3, "condition": at["condition"]}),
            }
            yield {**row, "metric": "accuracy", "value": float(str(at["value"])) / 100 + offset}
            yield {**row, "metric": "f1", "value": 0.5}


@pytest.fixture(scope="module")
def pruned(as_records: Made) -> pl.DataFrame:
    return as_records(pruned_rows()).sample(fraction=1, shuffle=True, seed=0)


def test_tables_of_pruned_models_are_the_published_ones(report: Report, pruned: pl.DataFrame) -> None:
    table = report.tables["table2"](pruned.lazy())
    pairs = table.values.pivot("source", index=["model", "pruned", "ft_task"], values="mean")
    assert pairs.height == 3 * 3 * 3
    assert pairs["ours"].to_list() == pytest.approx(pairs["published"].to_list(), abs=1e-9)
    assert [path[0] for path in table.columns[::2]] == ["SST-2", "MNLI", "QNLI"]
    cuts = ["nothing", "top 6", "bottom 6"]
    assert list(table.frame.select("model", "pruned").rows()) == [(m, cut) for m in MODELS.values() for cut in cuts]
    assert cell(table, ("roberta", "bottom 6"), "QNLI / ours") == "63.7 ± 1.0"
    six = report.tables["table6"](pruned.lazy())
    assert six.frame.rows() == [row for row in table.frame.rows() if row[0] == "xlnet"]
    with pytest.raises(MissingData, match="XLNet"):
        report.tables["table6"](pruned.filter(pl.col("model") != "xlnet").lazy())


def test_pruned_models_that_collapsed_have_a_row_without_them(report: Report, pruned: pl.DataFrame) -> None:
    own = pruned.filter(pl.col("model") == "bert")
    lost = (pl.col("variant") == "prune_top_6") & (pl.col("ft_seed") == 0) & (pl.col("ft_task") == "sst2")
    detail = pl.when(lost).then(pl.lit('{"selected": true, "collapsed": true}')).otherwise("detail")
    table = report.tables["table2"](own.with_columns(detail=detail).lazy())
    assert table.frame.select("pruned", "runs").rows()[1:3] == [("top 6", "all"), ("top 6", "not collapsed")]
    seeds = table.values.filter(source="ours", pruned="top 6", ft_task="SST-2").select("runs", "n").rows()
    assert sorted(seeds) == [("all", 3), ("not collapsed", 2)]


def test_other_prunings_have_no_published_numbers(report: Report, pruned: pl.DataFrame) -> None:
    half = pruned.with_columns(pl.col("variant").str.replace("_6", "_3"), model=pl.lit("minilm"))
    half = half.filter(pruned["model"] == "bert", pl.col("ft_task") != "qnli")
    other = half.filter(pl.col("variant") == "finetuned", pl.col("ft_task") == "sst2").with_columns(
        ft_task=pl.lit("rte")
    )
    table = report.tables["table2"](pl.concat([half, other]).lazy())
    assert table.frame["pruned"].to_list() == ["nothing", "top 3", "bottom 3"]
    assert cell(table, ("minilm", "bottom 3"), "MNLI / ours") == "78.4 ± 1.0"
    assert {table.frame[name][0] for name in table.frame.columns if name.endswith("published")} == {DASH}
    # A task of which no pruned model was tuned is not one of this table's.
    assert not [path for path in table.columns if path[0] == "RTE"]
    with pytest.raises(MissingData, match="prune_top"):
        report.tables["table2"](half.filter(pl.col("variant") == "finetuned").lazy())


def test_pruned_models_are_tuned_and_not_probed(tmp_path: Path, shared_data: Path) -> None:
    for name, depth, tasks in (("durrani2021", 6, {"sst2", "mnli", "qnli"}), ("durrani2021_minilm", 3, set(TUNED))):
        found = load_study(SWEEPS / f"{name}.yaml")
        cut = {(run.variant, run.task, run.seed) for run in found.finetune if run.variant != "finetuned"}
        ends = (f"prune_top_{depth}", f"prune_bottom_{depth}")
        assert cut == {(end, task, seed) for end in ends for task in tasks for seed in range(3)}
        planned = make_plan(found, Store.open(tmp_path), data_dir=str(shared_data), offline=name.endswith("minilm"))
        probed = {t.columns["variant"] for t in planned.trials.values() if t.stage != "finetune"}
        assert probed == {"pretrained", "finetuned"}
