"""Records: what was measured comes back as it was, under every name a study gives its trial."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftprobe.errors import CorruptArtifact
from ftprobe.measurement import Measurement, Predictions
from ftprobe.rows import PREDICTIONS_SCHEMA, SCHEMA, scan, scan_predictions, write_part, write_predictions

COMMON = {"trial": "t0", "study": "mine", "model": "bert", "ft_seed": 3, "method": "linear", "config": {"epochs": 3}}
int64s = st.integers(-(2**63), 2**63 - 1)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
measurements = st.builds(
    Measurement,
    metric=words,
    value=st.floats(),
    unit=words,
    split=st.sampled_from(["train", "dev", "test"]),
    layer=st.none() | st.integers(0, 99),
    probe_seed=st.none() | int64s,
    update=st.none() | int64s,
    epoch=st.none() | st.floats(allow_nan=False),
    n_items=int64s,
    n_dropped=int64s,
    status=st.sampled_from(["ok", "undefined", "not_converged", "refused"]),
    detail=st.dictionaries(words, st.none() | st.booleans() | words | st.lists(st.integers(-9, 9)), max_size=3),
    method=st.none() | st.just("search"),
)

Part = Callable[..., str]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Writes measurements as one trial's part and returns its path."""
    written = iter(range(1000))

    def write(*measured: Measurement, **common: object) -> str:
        folder = tmp_path / "probe" / f"id{next(written)}"
        folder.mkdir(parents=True)
        write_part(folder, measured, common or COMMON)
        return str(folder / "records.parquet")

    return write


@settings(max_examples=60, deadline=None)
@given(st.lists(measurements, max_size=5))
def test_measurements_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, measured: list[Measurement]
) -> None:
    folder = tmp_path_factory.mktemp("part")
    write_part(folder, measured, COMMON)
    rows = scan([(str(folder / "records.parquet"), {})]).collect().to_dicts()
    assert len(rows) == len(measured)
    for row, each in zip(rows, measured, strict=True):
        fields = {name: row[name] for name in Measurement._fields}
        back = Measurement(**fields | {"detail": json.loads(row["detail"])})
        assert back[2:] == each._replace(method=each.method or "linear")[2:]
        assert back.metric == each.metric
        assert back.value == each.value or (math.isnan(back.value) and math.isnan(each.value))
        common = {**COMMON, "method": back.method}
        assert {name: row[name] for name in COMMON} | {"config": json.loads(row["config"])} == common
        assert row["domain"] is None


def test_the_columns_are_those_of_methods_section_0(part: Part) -> None:
    methods = (
        *("study", "paper", "model", "ft_task", "variant", "ft_seed", "update", "epoch", "method", "task", "corpus"),
        *("split", "domain", "layer", "pooling", "probe_seed", "config_id", "metric", "value", "unit", "n_items"),
        *("n_dropped", "status", "detail"),
    )
    assert scan([(part(), {})]).collect_schema().names() == [*methods, "trial", "head_pooling", "config"]


def test_a_missing_field_takes_the_trials_own_value(part: Part) -> None:
    path = part(Measurement("acc", 0.5), Measurement("acc", 0.6, update=20), update=10, trial="t")
    assert scan([(path, {})]).collect()["update"].to_list() == [10, 20]


def test_numpy_values_and_numbers_json_cannot_say(part: Part) -> None:
    detail = {"norm": np.float32(0.5), "path": np.array([1.0, np.inf]), "n": np.int64(3), "worst": math.nan}
    path = part(Measurement("acc", np.float32(0.25), layer=np.int64(3), detail=detail))
    (row,) = scan([(path, {})]).collect().to_dicts()
    assert (row["value"], row["layer"]) == (0.25, 3)
    assert json.loads(row["detail"]) == {"norm": 0.5, "path": [1.0, None], "n": 3, "worst": None}


def test_unknown_columns_and_wrong_types_are_named(part: Part) -> None:
    with pytest.raises(ValueError, match="no column ft_sed"):
        part(Measurement("acc", 0.5), ft_sed=3)
    with pytest.raises(ValueError, match="column ft_seed of the records"):
        part(Measurement("acc", 0.5), ft_seed="three")
    with pytest.raises(ValueError, match="no column modle"):
        scan([(part(), {"modle": "x"})])


def test_no_parts_are_an_empty_frame_with_every_column(part: Part) -> None:
    assert scan([]).collect().schema == scan([(part(Measurement("acc", 1.0)), {})]).collect().schema
    assert scan([]).collect().height == 0
    assert scan([(part(), {})]).collect().height == 0


def test_a_trial_under_two_names_gives_its_rows_under_both(part: Part) -> None:
    shared, other = part(Measurement("acc", 0.5), Measurement("f1", 0.25)), part(Measurement("acc", 0.75), model="x")
    frame = scan(
        [(shared, {"model": "a"}), (other, {"study": "new"}), (shared, {"model": "b", "study": None})]
    ).collect()
    assert frame.select("study", "model", "metric", "value").rows() == [
        ("mine", "a", "acc", 0.5),
        (None, "b", "acc", 0.5),
        ("mine", "a", "f1", 0.25),
        (None, "b", "f1", 0.25),
        ("new", "x", "acc", 0.75),
    ]


def test_filters_see_the_overwritten_columns(part: Part) -> None:
    parts = [(part(Measurement("acc", i / 10, layer=i)), {"model": f"m{i % 3}", "trial": f"t{i}"}) for i in range(10)]
    found = scan(parts).filter(pl.col("model") == "m1", pl.col("layer") > 1).collect()
    assert sorted(found["trial"]) == ["t4", "t7"]


def test_paths_may_hold_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a [b]*%20 é?#"
    folder.mkdir()
    write_part(folder, [Measurement("acc", 0.5)], COMMON)
    assert scan([(str(folder / "records.parquet"), {"model": "x"})]).collect()["model"].to_list() == ["x"]


def test_another_schema_is_said_with_its_place(part: Part, tmp_path: Path) -> None:
    good, folder = part(), tmp_path / "probe" / "other"
    folder.mkdir()
    table = pa.Table.from_arrays([pa.array([1])] * 2, names=["layer", "extra"])
    pq.write_table(table, folder / "records.parquet")
    with pytest.raises(CorruptArtifact, match=r"another schema.*unexpected: extra int64; absent: .*value") as caught:
        scan([(good, {}), (str(folder / "records.parquet"), {})])
    assert (caught.value.stage, caught.value.artifact) == ("probe", "other")


def test_a_part_cut_short_is_said(part: Part) -> None:
    path = part(Measurement("acc", 0.5))
    os.truncate(path, 100)
    with pytest.raises(CorruptArtifact, match=r"probe/id0: .*cannot be read as records"):
        scan([(path, {})])


def predictions(split: str, labels: tuple[str, ...], gold: list[int], predicted: list[int]) -> Predictions:
    n = len(gold)
    ints = [np.array(column, np.int32) for column in (range(n), [-1] * n, gold, predicted)]
    return Predictions(split, 4, None, *ints, np.linspace(0, 1, n, dtype=np.float32), labels)


def test_predictions_come_back_with_their_labels(tmp_path: Path) -> None:
    write_predictions(
        tmp_path,
        [predictions("dev", ("NOUN", "VERB"), [0, 1, -1], [1, 1, 0]), predictions("test", ("ADJ", "NOUN"), [1], [0])],
    )
    frame = pl.read_parquet(tmp_path / "predictions.parquet")
    assert frame["gold"].cast(pl.String).to_list() == ["NOUN", "VERB", None, "NOUN"]
    assert frame["predicted"].cast(pl.String).to_list() == ["VERB", "VERB", "NOUN", "ADJ"]
    assert frame["split"].to_list() == ["dev", "dev", "dev", "test"]
    assert frame["sentence"].to_list() == [0, 1, 2, 0]
    assert frame["score"].to_list() == [0.0, 0.5, 1.0, 0.0]
    assert frame["probe_seed"].to_list() == [None] * 4
    assert pq.read_schema(tmp_path / "predictions.parquet").field("gold").type == pa.dictionary(pa.int32(), pa.string())


def test_predictions_of_many_trials_say_whose_they_are(tmp_path: Path) -> None:
    files = []
    for trial, labels in (("b", ("NOUN", "VERB")), ("a", ("VERB", "ADJ", "NOUN"))):
        folder = tmp_path / f"{trial} [x]*%20"
        folder.mkdir()
        write_predictions(folder, [predictions("test", labels, [0, 1], [1, 1])])
        files.append((trial, str(folder / "predictions.parquet")))
    rows = scan_predictions(files).collect()
    assert rows.columns == ["trial", *PREDICTIONS_SCHEMA.names]
    assert rows.select("trial", pl.col("gold", "predicted").cast(pl.String)).rows() == [
        ("b", "NOUN", "VERB"),
        ("b", "VERB", "VERB"),
        ("a", "VERB", "ADJ"),
        ("a", "ADJ", "ADJ"),
    ]
    assert (rows["gold"] == rows["predicted"]).to_list() == [False, True, False, True]
    none = scan_predictions([]).collect()
    assert none.schema == rows.schema
    assert none.is_empty()


def test_predictions_that_are_none_are_said_with_their_place(part: Part) -> None:
    with pytest.raises(CorruptArtifact, match=r"id0.*another schema than predictions.*absent: gold"):
        scan_predictions([("a", part())])


def test_the_schema_is_written_once(part: Part) -> None:
    assert pq.read_schema(part(Measurement("acc", 0.5))).equals(SCHEMA)
