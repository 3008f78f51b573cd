"""Records: one number a row, in the columns of METHODS 0; a trial writes one Parquet part, a study scans many.

`SCHEMA` is the only schema. Item-level predictions of a trial stand beside its part in `predictions.parquet`.
Axes: N scored items.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftprobe.errors import CorruptArtifact
from ftprobe.measurement import Measurement, Predictions

if TYPE_CHECKING:
    import polars as pl

PART = "records.parquet"
PREDICTIONS = "predictions.parquet"
_TYPES = {
    **dict.fromkeys(("study", "paper", "model", "ft_task", "variant"), pa.string()),
    **dict.fromkeys(("ft_seed", "update"), pa.int64()),
    "epoch": pa.float64(),
    **dict.fromkeys(("method", "task", "corpus", "split", "domain"), pa.string()),
    "layer": pa.int64(),
    "pooling": pa.string(),
    "probe_seed": pa.int64(),
    **dict.fromkeys(("config_id", "metric"), pa.string()),
    "value": pa.float64(),
    "unit": pa.string(),
    **dict.fromkeys(("n_items", "n_dropped"), pa.int64()),
    **dict.fromkeys(("status", "detail", "trial", "head_pooling", "config"), pa.string()),
}
SCHEMA = pa.schema(list(_TYPES.items()))
PREDICTIONS_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("layer", pa.int64()),
        ("probe_seed", pa.int64()),
        ("sentence", pa.int32()),
        ("word", pa.int32()),
        ("gold", pa.dictionary(pa.int32(), pa.string())),
        ("predicted", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float32()),
    ]
)
_JSON_COLUMNS = ("detail", "config")
_READERS = 8  # threads that read footers: most of the time is the file system's

Common = Mapping[str, object]


def write_part(folder: Path, measurements: Sequence[Measurement], common: Common) -> None:
    """Write `folder/records.parquet`, one row a measurement, in the order given.

    Parameters
    ----------
    measurements : sequence of Measurement
        A field that is None takes the trial's own value.
    common : mapping
        The trial's columns; `config` and `detail` may be JSON values, and are written as JSON text with numbers that
        are not finite as null.

    Raises
    ------
    ValueError
        `common` has a column that `SCHEMA` lacks, or a value that its column cannot hold.
    """
    _check_columns(common)
    shared = {name: _cell(name, value) for name, value in common.items()}
    rows = [m._asdict() for m in measurements]
    arrays = []
    for field in SCHEMA:
        default = shared.get(field.name)
        cells = [_cell(field.name, row.get(field.name)) for row in rows]
        try:
            arrays.append(pa.array([default if cell is None else cell for cell in cells], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"column {field.name} of the records: {error}") from error
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), folder / PART, compression="zstd")


def write_predictions(folder: Path, predictions: Sequence[Predictions]) -> None:
    """Write `folder/predictions.parquet`, one row an item; labels are dictionary-encoded, an id of -1 is null."""
    tables = [_predictions_table(each) for each in predictions]
    table = pa.concat_tables([PREDICTIONS_SCHEMA.empty_table(), *tables]).unify_dictionaries()
    pq.write_table(table, folder / PREDICTIONS, compression="zstd")


def scan(parts: Sequence[tuple[str, Common]]) -> pl.LazyFrame:
    """All rows of many parts, lazily.

    Parameters
    ----------
    parts : sequence of (path, columns)
        The path of a part and the columns to overwrite in its rows; a part that is named twice, since two names of
        one study mean the same trial, gives its rows twice.

    Returns
    -------
    polars.LazyFrame
        The columns of `SCHEMA`; rows in the order of the parts, as first named, and as written. Without parts: no rows.

    Raises
    ------
    CorruptArtifact
        A part is not a Parquet file or has another schema.
    ValueError
        A column to overwrite is not in `SCHEMA`.
    """
    import polars as pl

    empty = pl.DataFrame(SCHEMA.empty_table())
    if not parts:
        return empty.lazy()
    paths = list(dict.fromkeys(path for path, _ in parts))
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda path: _check_part(path, SCHEMA, "records"), paths))
    place = {path: index for index, path in enumerate(paths)}
    overwrites = _overwrites(parts, place)
    rows = pl.scan_parquet(paths, schema=empty.schema, glob=False, include_file_paths="part")
    number = pl.col("part").replace_strict(place, return_dtype=pl.UInt32)
    joined = rows.with_columns(number).join(overwrites.lazy(), on="part", maintain_order="left_right")
    return joined.select(_chosen(name, overwrites) for name in SCHEMA.names)


def scan_predictions(files: Sequence[tuple[str, str]]) -> pl.LazyFrame:
    """The item-level predictions of many trials, lazily.

    Parameters
    ----------
    files : sequence of (trial, path)
        Each trial once, and its file.

    Returns
    -------
    polars.LazyFrame
        `trial` and the columns of `PREDICTIONS_SCHEMA`, labels as categories; rows in the order of the files.

    Raises
    ------
    CorruptArtifact
        A file is not a Parquet file or has another schema.
    """
    import polars as pl

    empty = pl.DataFrame(PREDICTIONS_SCHEMA.empty_table())
    if not files:
        return empty.insert_column(0, pl.Series("trial", [], pl.String)).lazy()
    trial_of = {path: trial for trial, path in files}
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda path: _check_part(path, PREDICTIONS_SCHEMA, "predictions"), trial_of))
    rows = pl.scan_parquet(list(trial_of), schema=empty.schema, glob=False, include_file_paths="trial")
    return rows.select(pl.col("trial").replace_strict(trial_of, return_dtype=pl.String), *empty.columns)


def _chosen(name: str, overwrites: pl.DataFrame) -> pl.Expr:
    import polars as pl

    new, given = f"{name}.new", f"{name}.given"
    if new not in overwrites.columns:
        return pl.col(name)
    if overwrites[given].all():
        return pl.col(new).alias(name)
    return pl.when(pl.col(given)).then(pl.col(new)).otherwise(pl.col(name)).alias(name)


def _overwrites(parts: Sequence[tuple[str, Common]], place: Mapping[str, int]) -> pl.DataFrame:
    """One row a part: its number, and for each column that any part overwrites `.new` and whether it is `.given`."""
    import polars as pl

    for _, columns in parts:
        _check_columns(columns)
    names = [name for name in SCHEMA.names if any(name in columns for _, columns in parts)]
    arrays: dict[str, Any] = {"part": pa.array([place[path] for path, _ in parts], pa.uint32())}
    for name in names:
        arrays[f"{name}.new"] = pa.array([_cell(name, c.get(name)) for _, c in parts], _TYPES[name])
        arrays[f"{name}.given"] = pa.array([name in c for _, c in parts], pa.bool_())
    return pl.DataFrame(pa.table(arrays))


def _check_columns(columns: Common) -> None:
    unknown = sorted(set(columns) - set(_TYPES))
    if unknown:
        raise ValueError(f"records have no column {', '.join(unknown)}")


def _check_part(path: str, expected: pa.Schema, what: str) -> None:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _corrupt(path, f"cannot be read as {what}: {error}") from error
    if not schema.equals(expected):
        types = dict(zip(expected.names, expected.types, strict=True))
        other = [f"{f.name} {f.type}" for f in schema if types.get(f.name) != f.type]
        absent = sorted(set(types) - set(schema.names))
        said = [f"unexpected: {', '.join(other)}"] * bool(other) + [f"absent: {', '.join(absent)}"] * bool(absent)
        raise _corrupt(path, f"has another schema than {what} ({'; '.join(said) or 'the order of columns differs'})")


def _corrupt(path: str, what: str) -> CorruptArtifact:
    folder = Path(path).parent  # .../STAGE/ID
    return CorruptArtifact(folder.parent.name, folder.name, f"{path} {what}")


def _cell(column: str, value: object) -> object:
    if column in _JSON_COLUMNS and not (value is None or isinstance(value, str)):
        return json.dumps(_json_value(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return value.item() if isinstance(value, np.generic) else value


def _json_value(value: Any) -> Any:
    """The same with numpy's values as Python's, and null for the numbers that JSON cannot say."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _predictions_table(predictions: Predictions) -> pa.Table:
    n = len(predictions.sentence_N)
    labels = pa.array(predictions.labels, pa.string())

    def encoded(id_N: Any) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(id_N, pa.int32(), mask=np.asarray(id_N) < 0), labels)

    columns = [
        pa.array([predictions.split] * n, pa.string()),
        pa.array([predictions.layer] * n, pa.int64()),
        pa.array([predictions.probe_seed] * n, pa.int64()),
        pa.array(predictions.sentence_N, pa.int32()),
        pa.array(predictions.word_N, pa.int32()),
        encoded(predictions.gold_N),
        encoded(predictions.predicted_N),
        pa.array(predictions.score_N, pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS_SCHEMA)
