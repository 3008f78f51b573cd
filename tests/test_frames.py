"""Frames: planted deltas come back; what is missing stays missing; seeds are averaged as METHODS 16.1 says."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe import frames
from ftprobe.rows import SCHEMA

Row = dict[str, object]
POINT = 0.01


def records(rows: Iterable[Row]) -> pl.LazyFrame:
    common = {"study": "s", "model": "m", "method": "linear", "task": "t", "corpus": "t", "split": "test"}
    common |= {"metric": "accuracy", "unit": "fraction", "status": "ok", "pooling": "cls", "config": '{"probe": {}}'}
    schema = pl.DataFrame(SCHEMA.empty_table()).schema
    return pl.DataFrame([{**common, **row} for row in rows], schema=schema).lazy()


def base(layer: int, value: float, **more: object) -> Row:
    return {"variant": "pretrained", "layer": layer, "value": value, **more}


def tuned(layer: int, value: float, seed: int = 0, **more: object) -> Row:
    run = {"variant": "finetuned", "ft_task": "cola", "ft_seed": seed, "head_pooling": "cls"}
    return {**run, "layer": layer, "value": value, **more}


def test_delta_is_tuned_minus_pretrained_in_points() -> None:
    rows = [base(0, 0.5), base(1, 0.6), tuned(0, 0.52), tuned(1, 0.55)]
    deltas = frames.delta_to_pretrained(records(rows)).sort("layer").collect()
    assert deltas["value"].to_list() == pytest.approx([2.0, -5.0])
    assert deltas["unit"].to_list() == ["points", "points"]
    assert deltas.select("tuned", "baseline").rows() == [(0.52, 0.5), (0.55, 0.6)]


def test_delta_in_other_units_is_not_scaled() -> None:
    rows = [base(0, 1.0, unit="bits"), tuned(0, 3.0, unit="bits")]
    deltas = frames.delta_to_pretrained(records(rows)).collect()
    assert deltas.select("value", "unit").rows() == [(2.0, "bits")]


@pytest.mark.parametrize(
    "other",
    [
        {"task": "u"},
        {"corpus": "u"},
        {"split": "dev"},
        {"layer": 1},
        {"pooling": "mean"},
        {"metric": "macro_f1"},
        {"probe_seed": 1},
        {"config": '{"probe": {"strength": 1}}'},
        {"model": "n"},
        {"domain": "news"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_baseline_that_differs_is_none(other: Row) -> None:
    rows = [{**base(0, 0.5), **other}, tuned(0, 0.6)]
    assert frames.delta_to_pretrained(records(rows)).collect()["value"].to_list() == [None]


def test_options_are_told_apart_by_their_id_where_they_are_not_written_out() -> None:
    rows = [base(0, 0.5, config=None, config_id="a"), base(0, 0.1, config=None, config_id="b")]
    rows.append(tuned(0, 0.6, config=None, config_id="a"))
    assert frames.delta_to_pretrained(records(rows)).collect()["value"].to_list() == pytest.approx([10.0])


@pytest.mark.parametrize("status", ["undefined", "refused"])
def test_a_value_that_means_nothing_is_null(status: str) -> None:
    rows = [base(0, 0.5), tuned(0, 0.6, status=status), base(1, float("nan")), tuned(1, 0.6)]
    assert frames.delta_to_pretrained(records(rows)).collect()["value"].to_list() == [None, None]


def test_not_converged_keeps_its_value() -> None:
    rows = [base(0, 0.5), tuned(0, 0.6, status="not_converged")]
    assert frames.delta_to_pretrained(records(rows)).collect()["value"].to_list() == pytest.approx([10.0])


def test_a_row_named_twice_changes_nothing() -> None:
    once = [base(0, 0.5), *(tuned(0, 0.5 + 0.01 * seed, seed) for seed in range(3))]
    summaries = [
        frames.over_seeds(frames.delta_to_pretrained(records(rows))).select("mean", "sd", "n").collect().rows()
        for rows in (once, [*once, base(0, 0.5), tuned(0, 0.5, 0)])
    ]
    assert summaries[0][0] == pytest.approx(summaries[1][0])
    assert summaries[0][0] == pytest.approx((1.0, 1.0, 3))


def test_strong_baseline_is_tuned_cls_minus_pretrained_mean() -> None:
    def config(pooling: str, strength: float) -> str:
        return json.dumps({"activations": {"pooling": pooling, "special": "include"}, "probe": {"strength": strength}})

    rows = [base(0, 0.5, config=config("cls", 1)), base(0, 0.7, pooling="mean", config=config("mean", 1))]
    rows += [base(0, 0.1, pooling="mean", config=config("mean", 2))]
    rows += [tuned(0, 0.6, config=config("cls", 1)), tuned(0, 0.9, pooling="mean", config=config("mean", 1))]
    stars = frames.strong_baseline(records(rows)).collect()
    assert stars["value"].to_list() == pytest.approx([-10.0])


@pytest.mark.parametrize(
    ("n_layers", "labels"),
    [(1, ["0", "1"]), (2, ["0-1", "2"]), (5, ["0-2", "3-5"]), (6, ["0-3", "4-6"]), (12, ["0-6", "7-12"])],
)
def test_layer_groups(n_layers: int, labels: list[str]) -> None:
    assert [group.label for group in frames.layer_groups(n_layers)] == labels
    rows = [base(layer, 0.5) for layer in range(n_layers + 1)]
    rows += [tuned(layer, 0.5 + POINT * layer) for layer in range(n_layers + 1)]
    means = frames.group_means(frames.delta_to_pretrained(records(rows))).sort("group").collect()
    assert means["layers"].to_list() == labels
    halves = [range(group.first, group.last + 1) for group in frames.layer_groups(n_layers)]
    assert means["value"].to_list() == pytest.approx([np.mean(half) for half in halves])


def test_no_blocks_no_groups() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        frames.layer_groups(0)


def test_groups_follow_each_models_own_depth() -> None:
    rows = []
    for model, n_layers in (("small", 6), ("large", 12)):
        for layer in range(n_layers + 1):
            rows += [base(layer, 0.5, model=model), tuned(layer, 0.6, model=model)]
    means = frames.group_means(frames.delta_to_pretrained(records(rows))).sort("model", "group").collect()
    assert means.select("model", "layers").rows() == [
        ("large", "0-6"), ("large", "7-12"), ("small", "0-3"), ("small", "4-6")
    ]  # fmt: skip


@pytest.mark.parametrize("broken", ["tuned", "baseline", "undefined"])
def test_a_group_without_one_of_its_layers_is_null(broken: str) -> None:
    rows = []
    for layer in range(7):
        rows += [base(layer, 0.5)] if broken != "baseline" or layer != 2 else []
        status = "undefined" if broken == "undefined" and layer == 2 else "ok"
        rows += [tuned(layer, 0.6, status=status)] if broken != "tuned" or layer != 2 else []
    means = frames.group_means(frames.delta_to_pretrained(records(rows))).sort("group").collect()
    assert means["value"].to_list() == [None, pytest.approx(10.0)]


def test_probe_seeds_are_averaged_before_tuning_seeds() -> None:
    rows = [base(0, 0.5, probe_seed=seed) for seed in (0, 1)]
    rows += [tuned(0, 0.5 + POINT * delta, seed, probe_seed=probe) for seed, probe, delta in
             [(0, 0, 1), (0, 1, 3), (1, 0, 4), (1, 1, 8)]]  # fmt: skip
    summary = frames.over_seeds(frames.delta_to_pretrained(records(rows))).collect()
    assert summary.select("mean", "n").rows()[0] == pytest.approx((4.0, 2))
    assert summary["sd"].item() == pytest.approx(np.std([2, 6], ddof=1))


def test_one_seed_has_no_sd_and_no_interval() -> None:
    summary = frames.over_seeds(frames.delta_to_pretrained(records([base(0, 0.5), tuned(0, 0.6)]))).collect()
    assert summary.select("sd", "n", "low", "high").rows() == [(None, 1, None, None)]


def test_seeds_without_a_value_do_not_count_and_leave_no_interval() -> None:
    rows = [base(0, 0.5), *(tuned(0, 0.6, seed) for seed in range(4)), tuned(0, 0.9, 4, status="undefined")]
    summary = frames.over_seeds(frames.delta_to_pretrained(records(rows))).collect()
    assert summary["mean"].item() == pytest.approx(10.0)
    assert summary.select("n", "low").rows() == [(4, None)]


def test_nothing_but_missing_values_is_null_not_zero() -> None:
    summary = frames.over_seeds(frames.delta_to_pretrained(records([tuned(0, 0.6)]))).collect()
    assert summary.select("mean", "sd", "n").rows() == [(None, None, 0)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=6))
def test_interval_covers_the_mean_whatever_the_order_of_rows(deltas: list[float]) -> None:
    rows = [base(0, 0.0), *(tuned(0, delta / 100, seed) for seed, delta in enumerate(deltas))]
    (mean, low, high), again = (
        frames.over_seeds(frames.delta_to_pretrained(records(order))).select("mean", "low", "high").collect().row(0)
        for order in (rows, rows[::-1])
    )
    assert min(deltas) - 1e-9 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= max(deltas) + 1e-9
    assert (mean, low, high) == again


def finetuned(epoch: int, value: float, seed: int = 0, **more: object) -> Row:
    own = {"method": "finetune", "task": "cola", "metric": "mcc", "pooling": None, "layer": None}
    return {**tuned(0, value, seed), **own, "update": 10 * epoch, "epoch": float(epoch), **more}


def test_final_score_is_that_of_the_last_update() -> None:
    rows = [finetuned(1, 0.9), finetuned(3, 0.5), finetuned(2, 0.7), finetuned(9, 0.1, metric="train_loss")]
    rows += [finetuned(2, 0.2, seed=1), finetuned(3, 0.8, split="dev")]
    scores = frames.final_scores(records(rows)).sort("ft_seed").collect()
    assert scores["value"].to_list() == [0.5, 0.2]


def test_final_score_is_that_of_the_epoch_that_was_kept() -> None:
    rows = [finetuned(1, 0.9, detail='{"selected": true}'), finetuned(2, 0.5, detail="{}")]
    assert frames.final_scores(records(rows)).collect()["value"].to_list() == [0.9]


def test_collapsed_runs_are_shown_in_and_left_out() -> None:
    kept, lost = '{"selected": true}', '{"selected": true, "collapsed": true}'
    rows = [finetuned(1, 0.0, 0, detail=lost), finetuned(1, 0.5, 1, detail=kept), finetuned(1, 0.7, 2, detail=kept)]
    rows += [finetuned(1, 0.9, 0, ft_task="sst2", detail=kept)]

    def scores(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frames.over_seeds(frames.final_scores(frame))

    shown = frames.with_and_without_collapsed(records(rows), scores).sort("ft_task", "runs").collect()
    assert shown.select("ft_task", "runs", "n").rows() == [
        ("cola", "all", 3), ("cola", "not collapsed", 2), ("sst2", "all", 1)
    ]  # fmt: skip
    assert shown["mean"].to_list() == pytest.approx([0.4, 0.6, 0.9])


def test_print_units() -> None:
    summary = pl.LazyFrame({"mean": [0.5, 2.0], "sd": [0.01, None], "unit": ["fraction", "points"]})
    assert frames.in_print_units(summary).collect().rows() == [(50.0, 1.0, "percent"), (2.0, None, "points")]


def test_short_options_name_only_what_differs() -> None:
    texts = [
        json.dumps({"probe": {"strength": s, "kind": "linear"}, "activations": {"dtype": "float16"}}) for s in (1, 2)
    ]
    frame = frames.with_short_options(pl.DataFrame({"config": [*texts, None]}))
    assert frame["config"].to_list() == ["strength=1", "strength=2", None]


def test_missing_data_says_what_and_what_to_do() -> None:
    with pytest.raises(frames.MissingData, match="no probes of upos; add upos to the study"):
        frames.require(records([]).filter(pl.lit(False)), "probes of upos", "add upos to the study")


def test_states_on_the_way_are_not_final_ones() -> None:
    rows = [base(0, 0.5), tuned(0, 0.6), *(tuned(0, 0.1, update=u, epoch=float(u)) for u in (0, 10, 20))]
    rows += [finetuned(1, 0.9), {**finetuned(1, 0.9), "method": "pretrain"}]
    frame = records(rows)
    assert frames.snapshots(frame).collect()["update"].to_list() == [0, 10, 20]
    assert frames.final_states(frame).collect().height == 4
    deltas = frames.over_seeds(frames.delta_to_pretrained(frames.probe_scores(frame))).collect()
    assert deltas.select("mean", "n").rows() == [(pytest.approx(10.0), 1)]


def test_snapshots_of_one_update_are_averaged_over_seeds_and_no_further() -> None:
    rows = [base(0, 0.5)]
    rows += [tuned(0, 0.5 + 0.1 * u + 0.01 * s, s, update=u, epoch=float(u)) for u in (0, 1) for s in range(3)]
    summary = frames.over_seeds(frames.snapshots(frames.delta_to_pretrained(records(rows)))).sort("update").collect()
    assert summary.select("update", "n").rows() == [(0, 3), (1, 3)]
    assert summary["mean"].to_list() == pytest.approx([1.0, 11.0])


def test_variants_domains_and_options_are_not_averaged() -> None:
    rows: list[Row] = []
    for domain in ("in", "out"):
        rows.append({**base(0, 0.5), "domain": domain})
        states = {"finetuned": 0.6, "replace_top_1": 0.7, "replace_top_1+embeddings_pretrained": 0.8}
        rows += [{**tuned(0, value), "domain": domain, "variant": name} for name, value in states.items()]
    summary = frames.over_seeds(frames.delta_to_pretrained(frames.probe_scores(records(rows)))).collect()
    assert summary.height == 6
    assert sorted(summary["mean"].to_list()) == pytest.approx([10, 10, 20, 20, 30, 30])


def test_seeds_of_a_measure_meet_their_own_baseline_and_are_averaged_first() -> None:
    """Masks drawn anew change the pre-trained perplexity too."""
    measure = {"method": "perplexity", "metric": "mlm_nll", "unit": "nat", "layer": None}
    rows: list[Row] = [{**base(0, 2.0 + p), **measure, "probe_seed": p} for p in (0, 1)]
    rows += [{**tuned(0, 3.0 + p + s, s), **measure, "probe_seed": p} for p in (0, 1) for s in (0, 1)]
    summary = frames.over_seeds(frames.delta_to_pretrained(records(rows))).collect()
    assert summary.select("mean", "n", "unit").rows() == [(pytest.approx(1.5), 2, "nat")]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("finetuned", ("finetuned", 0, "tuned")),
        ("finetuned[epochs=3]", ("finetuned[epochs=3]", 0, "tuned")),
        ("replace_top_12", ("finetuned", 12, "tuned")),
        ("replace_top_2+embeddings_pretrained[epochs=3]", ("finetuned[epochs=3]", 2, "pretrained")),
        ("freeze_3+replace_top_2", ("freeze_3", 2, "tuned")),
        ("lora_8+freeze_0", ("lora_8+freeze_0", 0, "tuned")),
        ("replace_top_2+cut_top_1", None),
    ],
)
def test_replaced_blocks_are_read_from_the_variant(variant: str, expected: tuple[str, int, str] | None) -> None:
    rows = frames.replaced(records([base(0, 0.5), {**tuned(0, 0.6), "variant": variant}])).collect()
    assert rows.select("variant", "replaced", "embeddings").rows() == ([] if expected is None else [expected])


def test_a_collapsed_run_takes_the_states_with_it_that_were_made_of_its_own() -> None:
    collapsed = '{"selected": true, "collapsed": true}'
    rows = [finetuned(1, 0.0, 0, detail=collapsed), *(finetuned(1, 0.5, s, detail="{}") for s in (1, 2)), base(0, 0.5)]
    rows += [{**tuned(0, 0.6, s), "variant": v} for s in range(3) for v in ("finetuned", "replace_top_1", "freeze_1")]

    def deltas(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frames.over_seeds(frames.delta_to_pretrained(frames.probe_scores(frame)))

    shown = frames.with_and_without_collapsed(records(rows), deltas).sort("variant", "runs").collect()
    assert shown.select("variant", "runs", "n").rows() == [
        ("finetuned", "all", 3), ("finetuned", "not collapsed", 2), ("freeze_1", "all", 3),
        ("replace_top_1", "all", 3), ("replace_top_1", "not collapsed", 2),
    ]  # fmt: skip


def test_attention_is_that_over_heads_of_final_states() -> None:
    own = {"method": "attention", "metric": "attention_entropy", "unit": "nat", "pooling": None}
    rows = [
        {**tuned(1, float(head or 0)), **own, "update": update, "detail": json.dumps({"position": p, "head": head})}
        for p in ("cls", "other") for head in (None, 0, 1) for update in (None, 5)
    ]  # fmt: skip
    rows.append({**tuned(1, 1.0), **own, "metric": "attention_emd", "detail": '{"head": null, "position": "cls"}'})
    found = frames.attention(records(rows), "attention_entropy").collect()
    assert found.select("position", "value", "update").sort("position").rows() == [
        ("cls", 0.0, None),
        ("other", 0.0, None),
    ]
