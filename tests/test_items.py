"""Items: differences by sentence are those of a loop over items; what is not of the same items is not compared."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from itemlab import Items, Trial, drawn, state, written
from numpy.typing import NDArray

from ftprobe import frames
from ftprobe.claims import over_units
from ftprobe.items import Differences, Scored, minus, no_predictions

N_SENTENCES, SEEDS, PROBE_SEEDS = 12, (0, 1, 2), (0, 1)
ITEMS = drawn(N_SENTENCES)


def guesses(share: float, *seed: int, items: Items = ITEMS) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((len(PROBE_SEEDS), len(items.gold_N))) < share


def trials(items: Items = ITEMS) -> list[Trial]:
    """A pre-trained state and three tuned ones, each probed from two initialisations."""
    base = Trial(state("upos"), items, guesses(0.5, 9, items=items))
    return [base, *(Trial(state("upos", "upos", s), items, guesses(0.7, s, items=items)) for s in SEEDS)]


def found(folder: Path, made: list[Trial]) -> Differences | None:
    records, predictions = written(folder, made)
    changes = frames.delta_to_pretrained(records).collect()
    return Scored(changes, predictions).differences(changes)


def test_totals_are_those_of_a_loop_over_items(tmp_path: Path) -> None:
    base, *tuned = made = trials()
    differences = found(tmp_path, made)
    assert differences is not None
    units = sorted(set(ITEMS.sentence_N.tolist()))
    counted = Counter(ITEMS.sentence_N.tolist())
    assert differences.count_U.tolist() == [counted[u] for u in units]
    for s, trial in enumerate(tuned):
        totals = dict.fromkeys(units, 0.0)
        for p, (i, unit) in product(PROBE_SEEDS, enumerate(ITEMS.sentence_N.tolist())):
            totals[unit] += (float(trial.right_PN[p, i]) - float(base.right_PN[p, i])) / len(PROBE_SEEDS)
        assert differences.total_SU[s].tolist() == pytest.approx(list(totals.values()))


def test_a_cell_of_sentences_has_the_effect_of_the_records_and_an_exact_p(tmp_path: Path) -> None:
    records, predictions = written(tmp_path, trials())
    changes = frames.delta_to_pretrained(records).collect()
    differences = Scored(changes, predictions).differences(changes)
    assert differences is not None
    cell, p = over_units("Z1", "here", 100 * differences.total_SU, differences.count_U)
    assert cell.effects == pytest.approx(changes.group_by("ft_seed").agg(pl.mean("value")).sort("ft_seed")["value"])
    mean_U = differences.total_SU.mean(axis=0)
    patterns = np.array(list(product((-1, 1), repeat=N_SENTENCES)))
    assert p == pytest.approx((np.abs(patterns @ mean_U) >= abs(mean_U.sum()) - 1e-9).mean())
    rng, drawn_B = np.random.default_rng(1), []
    for _ in range(4000):
        units, seeds = rng.integers(0, N_SENTENCES, N_SENTENCES), rng.integers(0, 3, 3)
        drawn_B.append(100 * differences.total_SU[seeds][:, units].sum() / 3 / differences.count_U[units].sum())
    assert (cell.low, cell.high) == pytest.approx(tuple(np.quantile(drawn_B, (0.025, 0.975))), abs=1.0)


def test_a_state_less_another_of_one_baseline(tmp_path: Path) -> None:
    base, *tuned = trials()
    other = [Trial(state("upos", "dep", s), ITEMS, guesses(0.6, 5, s)) for s in (0, 1)]
    records, predictions = written(tmp_path, [base, *tuned, *other])
    changes = frames.delta_to_pretrained(records).collect()
    scored = Scored(changes, predictions)
    one, two = (scored.differences(changes.filter(pl.col("ft_task") == task)) for task in ("upos", "dep"))
    assert one is not None
    assert two is not None
    both = minus(one, two)
    assert both is not None
    for s in (0, 1):
        expected = (tuned[s].right_PN.mean(axis=0) - other[s].right_PN.mean(axis=0)).sum()
        assert both.total_SU[s].sum() == pytest.approx(expected)
    assert len(both.total_SU) == 2
    assert minus(one, two._replace(items=b"")) is None


def test_a_baseline_of_two_trials_is_their_mean(tmp_path: Path) -> None:
    base, *tuned = trials()
    again = Trial(state("upos", trial="again"), ITEMS, guesses(0.4, 8))
    records, predictions = written(tmp_path, [base, again, *tuned])
    changes = frames.delta_to_pretrained(records).collect()
    assert changes["baseline_trials"].to_list() == [["again", "upos-None-0"]] * 6
    differences = Scored(changes, predictions).differences(changes)
    assert differences is not None
    assert differences.total_SU.sum() == pytest.approx(
        sum(trial.right_PN.mean(axis=0).sum() for trial in tuned)
        - len(SEEDS) * np.mean([trial.right_PN.mean(axis=0).sum() for trial in (base, again)])
    )


def replaced(trial: Trial, **columns: NDArray[np.int32]) -> Trial:
    return trial._replace(items=trial.items._replace(**columns))


@pytest.mark.parametrize("column", ["sentence_N", "word_N", "gold_N"])
def test_other_items_are_not_compared(column: str, tmp_path: Path) -> None:
    made = trials()
    other = getattr(ITEMS, column).copy()
    other[3] = (other[3] + 1) % 3 if column == "gold_N" else 1000
    assert found(tmp_path / "same", made) is not None
    assert found(tmp_path / "other", [replaced(made[0], **{column: other}), *made[1:]]) is None


def test_fewer_items_are_not_compared(tmp_path: Path) -> None:
    made = trials()
    less = Items(*(column[:-9] for column in ITEMS))
    fewer = made[2]._replace(items=less, right_PN=made[2].right_PN[:, :-9])
    assert found(tmp_path, [*made[:2], fewer, made[3]]) is None


@pytest.mark.parametrize("lacks", [0, 2], ids=["baseline", "tuned"])
def test_one_trial_without_predictions_leaves_none(lacks: int, tmp_path: Path) -> None:
    made = [trial._replace(keeps=i != lacks) for i, trial in enumerate(trials())]
    assert found(tmp_path, made) is None
    changes = frames.delta_to_pretrained(written(tmp_path / "all", trials())[0]).collect()
    assert Scored(changes, no_predictions).differences(changes) is None


def test_predictions_of_another_number_are_not_taken(tmp_path: Path) -> None:
    records, predictions = written(tmp_path, trials())
    of_f1 = records.with_columns(metric=pl.lit("macro_f1"), value=pl.col("value") - 0.01)
    changes = frames.delta_to_pretrained(of_f1).collect()
    assert Scored(changes, predictions).differences(changes) is None


def test_seeds_without_a_value_are_left_out(tmp_path: Path) -> None:
    records, predictions = written(tmp_path, trials())
    gap = pl.when(pl.col("ft_seed") == 1).then(pl.lit("undefined")).otherwise("status")
    changes = frames.delta_to_pretrained(records.with_columns(status=gap)).collect()
    differences = Scored(changes, predictions).differences(changes)
    assert differences is not None
    assert len(differences.total_SU) == 2
    assert Scored(changes, predictions).differences(changes.clear()) is None


def test_a_seed_that_only_the_records_name(tmp_path: Path) -> None:
    """Probes whose seed is a property of the trial leave it null in their predictions."""
    records, predictions = written(tmp_path, trials())
    of_first = records.filter(pl.col("probe_seed") == 0).with_columns(probe_seed=pl.lit(7, pl.Int64))
    changes = frames.delta_to_pretrained(of_first).collect()

    def unnamed(asked: object) -> pl.LazyFrame:
        first = predictions(asked).filter(pl.col("probe_seed") == 0)  # type: ignore[arg-type]
        return first.with_columns(probe_seed=pl.lit(None, pl.Int64))

    differences = Scored(changes, unnamed).differences(changes)
    assert differences is not None
    assert differences.total_SU.sum() == pytest.approx(changes["value"].sum() / 100 * len(ITEMS.gold_N))
    assert Scored(changes, predictions).differences(changes) is None  # those of the seeds 0 and 1
