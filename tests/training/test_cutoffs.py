"""Many cut-offs a user: none after the bound, futures known or left out."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from small_logs import buys, prepared
from userbert.data.prepare.words import DAY_US
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.training.cutoffs import moments


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    many = buys("busy", *(f"2017-03-{day:02d} 10:00" for day in range(1, 29)))
    return prepared(tmp_path, pl.concat([many, buys("rare", "2017-03-05 12:00")]))


def bounds(data: PreparedData) -> Pairs:
    return pairs_at(data, [data.schema.instant("2017-03-25")])


def test_one_cutoff_is_the_bound_itself(data: PreparedData) -> None:
    found = moments(data, bounds(data), 1, 5, seed=0)
    assert found.pairs.cutoffs.tolist() == bounds(data).cutoffs.tolist()
    assert found.until.tolist() == found.pairs.cutoffs.tolist()


def test_cutoffs_lie_between_the_first_event_and_the_bound(data: PreparedData) -> None:
    found = moments(data, bounds(data), 200, 5, seed=0)
    assert found.pairs.rows.tolist() == np.repeat(bounds(data).rows, 200).tolist()
    last = bounds(data).cutoffs[0]
    for row, first in zip(data.rows_of(["busy", "rare"]), ("03-01T10", "03-05T12"), strict=True):
        mine = found.pairs.cutoffs[found.pairs.rows == row]
        assert mine.min() >= data.schema.instant(f"2017-{first}:00")
        assert mine.max() == last
        assert len(np.unique(mine)) > 90


def test_half_of_them_are_moments_of_actions(data: PreparedData) -> None:
    found = moments(data, bounds(data), 201, 5, seed=0)
    [row] = data.rows_of(["busy"])
    mine = found.pairs.cutoffs[found.pairs.rows == row]
    days = [data.schema.instant(f"2017-03-{day:02d}T10:00") for day in range(1, 25)]
    assert np.isin(mine, days).sum() == 100
    assert set(mine.tolist()) >= set(days)


def test_future_is_known_where_the_horizon_ends_by_the_bound(data: PreparedData) -> None:
    found = moments(data, bounds(data), 100, 5, seed=0)
    last, horizon = bounds(data).cutoffs[0], 5 * DAY_US
    is_known = found.pairs.cutoffs + horizon <= last
    assert is_known.any()
    expected = np.where(is_known, found.pairs.cutoffs + horizon, found.pairs.cutoffs)
    assert found.until.tolist() == expected.tolist()
    assert found.until.max() <= last


def test_seeds_draw_others_and_the_same_again(data: PreparedData) -> None:
    first, again, other = (moments(data, bounds(data), 9, 7, seed=seed) for seed in (0, 0, 1))
    assert first.pairs.cutoffs.tolist() == again.pairs.cutoffs.tolist()
    assert first.pairs.cutoffs.tolist() != other.pairs.cutoffs.tolist()


def test_a_short_log_has_a_horizon_of_a_quarter_of_it(data: PreparedData) -> None:
    last = bounds(data).cutoffs[0]
    found = moments(data, bounds(data), 100, 28, seed=0)
    horizons = np.unique(found.until - found.pairs.cutoffs)
    assert horizons.tolist() == [0, (last - data.first_event) // 4]
