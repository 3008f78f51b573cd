"""Beside: a paper's printed numbers next to a study's own, for the models of the study that are the paper's.

A model is the paper's by its checkpoint where the records name it (`detail.checkpoint`), else by its alias. Cells are
long frames whose column `source` says whose number it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ftprobe.published import load

SOURCES = ("ours", "published")


def printed(paper: str, table: str, **columns: pl.Expr) -> pl.DataFrame:
    """One published table in the columns of records.

    Parameters
    ----------
    paper, table : str
        As `load` and its column `table` call them.
    columns : polars.Expr
        Further columns, over those of `load`; they also replace the ones below.

    Returns
    -------
    polars.DataFrame
        `condition`, `checkpoint`, `ft_task` (`none` for a pre-trained model), `task`, `metric`, `mean`.
    """
    own = {
        "checkpoint": pl.col("model"),
        "ft_task": pl.col("finetune_task"),
        "task": pl.col("probe_task"),
        "metric": pl.col("metric"),
        "mean": pl.col("number"),
    }
    return load(paper).filter(pl.col("table") == table).select("condition", **{**own, **columns})


def paper_models(records: pl.LazyFrame, checkpoints: Mapping[str, str]) -> dict[str, str | None]:
    """Each model of the records, and which checkpoint of the paper it is, if any.

    `checkpoints` are the paper's, by the alias that stands for them.
    """
    named = pl.col("detail").str.contains("checkpoint", literal=True)
    where = pl.when(named).then(pl.col("detail").str.json_path_match("$.checkpoint")).drop_nulls().first()
    found = records.filter(pl.col("model").is_not_null()).group_by("model").agg(where=where).collect()
    by_name = {name.rpartition("/")[2]: name for name in checkpoints.values()}
    return {
        alias: checkpoints.get(alias) if where is None else by_name.get(where.rpartition("/")[2])
        for alias, where in sorted(found.rows())
    }


def beside(
    own: pl.DataFrame,
    published: pl.DataFrame,
    rows: Mapping[str, str],
    columns: Sequence[str],
    *,
    models: Mapping[str, str | None],
    alike: pl.Expr,
) -> pl.DataFrame:
    """Cells of the study (`source` is `ours`) and the published cells of the rows that compare with the paper's.

    Every published column has a cell of either source, so that a column which one of them lacks is one of dashes; so is
    a published row of which the study has nothing, for a model that it has.

    Parameters
    ----------
    published : polars.DataFrame
        As `printed` gives it.
    rows, columns : mapping, sequence of str
        The header columns, as `layout` takes them.
    models : mapping of str to str
        As `paper_models` gives it.
    alike : polars.Expr
        Over `own`: whether a row was made as the paper's were.
    """
    known = pl.DataFrame(list(models.items()), schema={"model": pl.String, "checkpoint": pl.String}, orient="row")
    heads = own.filter(alike).select(rows.keys()).unique(maintain_order=True).join(known, on="model")
    theirs = _placed(published, heads, rows).with_columns(source=pl.lit("published"))
    cells = pl.concat([own.with_columns(source=pl.lit("ours")), theirs], how="diagonal_relaxed")
    blank = pl.DataFrame({"source": SOURCES})
    blank = published.select(columns).unique().join(blank, how="cross") if columns else blank
    blank = own.select(rows.keys()).head(1).join(blank, how="cross")
    blank = blank.join(cells, on=[*rows, *columns, "source"], how="anti", nulls_equal=True)
    return pl.concat([cells, blank], how="diagonal_relaxed")


def _placed(published: pl.DataFrame, heads: pl.DataFrame, rows: Mapping[str, str]) -> pl.DataFrame:
    """Published cells with the row headers of the study: `heads`, its rows and their `checkpoint`."""
    shared = ["checkpoint", *(name for name in rows if name in published.columns)]
    found = heads.join(published, on=shared)
    absent = heads.select("model", "checkpoint").unique(maintain_order=True).join(published, on="checkpoint")
    absent = absent.join(heads, on=["model", *shared], how="anti")
    # Headers that the paper has no word for are those of the model's other rows, where these agree.
    other = heads.select("model", *(name for name in rows if name not in ("model", *shared))).unique()
    absent = absent.join(other.filter(pl.len().over("model") == 1), on="model", how="left")
    return pl.concat([found, absent], how="diagonal_relaxed")


def size_text(size: float | None, used: Sequence[int]) -> str | None:
    """A number of items, and in brackets the one number that was used where it is another: `8,551 (3,000 used)`.

    >>> size_text(8551, [3000]), size_text(8551, [8551]), size_text(8551, [10, 20]), size_text(None, [])
    ('8,551 (3,000 used)', '8,551', '8,551', None)
    """
    if size is None:
        return None
    sample = "".join(f" ({n:,} used)" for n in used if len(used) == 1 and n not in (0, size))
    return f"{size:,.0f}{sample}"
