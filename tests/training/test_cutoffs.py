"""Several cut-offs per user: none after the bound, futures known or left out."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from small_logs import buys, prepare_events
from userbert.data.prepare.words import DAY_US
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.training.cutoffs import training_pairs


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    busy = buys("busy", *(f"2017-03-{day:02d} 10:00" for day in range(1, 29)))
    return prepare_events(tmp_path, pl.concat([busy, buys("rare", "2017-03-05 12:00")]))


def bounds(data: PreparedData) -> Pairs:
    return pairs_at(data, [data.schema.instant("2017-03-25")])


def test_one_cutoff_is_the_bound_itself(data: PreparedData) -> None:
    drawn = training_pairs(data, bounds(data), 1, 5, seed=0)
    assert drawn.pairs.cutoffs.tolist() == bounds(data).cutoffs.tolist()
    assert drawn.until.tolist() == drawn.pairs.cutoffs.tolist()


def test_cutoffs_lie_between_the_first_event_and_the_bound(data: PreparedData) -> None:
    drawn = training_pairs(data, bounds(data), 200, 5, seed=0)
    assert drawn.pairs.rows.tolist() == np.repeat(bounds(data).rows, 200).tolist()
    last = bounds(data).cutoffs[0]
    for row, first in zip(data.rows_of(["busy", "rare"]), ("03-01T10", "03-05T12"), strict=True):
        cutoffs = drawn.pairs.cutoffs[drawn.pairs.rows == row]
        assert cutoffs.min() >= data.schema.instant(f"2017-{first}:00")
        assert cutoffs.max() == last
        assert len(np.unique(cutoffs)) > 90


def test_half_of_the_cutoffs_are_times_of_actions(data: PreparedData) -> None:
    drawn = training_pairs(data, bounds(data), 201, 5, seed=0)
    [row] = data.rows_of(["busy"])
    cutoffs = drawn.pairs.cutoffs[drawn.pairs.rows == row]
    days = [data.schema.instant(f"2017-03-{day:02d}T10:00") for day in range(1, 25)]
    assert np.isin(cutoffs, days).sum() == 100
    assert set(cutoffs.tolist()) >= set(days)


def test_future_is_known_where_the_horizon_ends_by_the_bound(data: PreparedData) -> None:
    drawn = training_pairs(data, bounds(data), 100, 5, seed=0)
    last, horizon = bounds(data).cutoffs[0], 5 * DAY_US
    is_known = drawn.pairs.cutoffs + horizon <= last
    assert is_known.any()
    expected = np.where(is_known, drawn.pairs.cutoffs + horizon, drawn.pairs.cutoffs)
    assert drawn.until.tolist() == expected.tolist()
    assert drawn.until.max() <= last


def test_draws_depend_on_the_seed_alone(data: PreparedData) -> None:
    first, again, other = (
        training_pairs(data, bounds(data), 9, 7, seed=seed) for seed in (0, 0, 1)
    )
    assert first.pairs.cutoffs.tolist() == again.pairs.cutoffs.tolist()
    assert first.pairs.cutoffs.tolist() != other.pairs.cutoffs.tolist()


def test_horizon_is_at_most_a_quarter_of_the_log(data: PreparedData) -> None:
    last = bounds(data).cutoffs[0]
    drawn = training_pairs(data, bounds(data), 100, 28, seed=0)
    horizons = np.unique(drawn.until - drawn.pairs.cutoffs)
    assert horizons.tolist() == [0, (last - data.first_event) // 4]
