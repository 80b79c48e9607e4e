"""Batches: every pair once an epoch, in an order that depends on seed and step alone."""

import threading
from contextlib import closing
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from small_logs import buys, instant, prepare_events
from userbert.data.batches import UserBatch
from userbert.data.store import PreparedData
from userbert.data.use.loading import (
    SequenceBatches,
    batches_by_length,
    read_ahead,
    sequence_lengths,
)
from userbert.data.use.sequences import cut
from userbert.errors import InputError

Int64 = NDArray[np.int64]
USERS = 23


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """User n bought on n days before 1 June, but not in the last seven days."""
    logs = [
        buys(f"{number:02d}", *(f"2017-05-{day + 1:02d} 10:00" for day in range(number)))
        for number in range(1, USERS)
    ]
    logs.append(buys("00", "2018-01-01"))
    return prepare_events(tmp_path_factory.mktemp("loading"), pl.concat(logs))


@pytest.fixture
def pairs(data: PreparedData) -> tuple[Int64, Int64]:
    """Every user with the cut-off 1 June, sorted by name."""
    rows = data.rows_of([f"{number:02d}" for number in range(USERS)])
    return rows, np.full(USERS, instant("2017-06-01"))


def batches(
    data: PreparedData, pairs: tuple[Int64, Int64], seed: int = 1, size: int = 4, **options: Any
) -> SequenceBatches:
    return SequenceBatches(data, *pairs, batch_size=size, seed=seed, **options)


def assert_equal(first: UserBatch, second: UserBatch) -> None:
    assert np.array_equal(first.profile_ids, second.profile_ids)
    for left, right in zip(first.segments, second.segments, strict=True):
        for name in ("ids", "action_offsets", "word_offsets", "positions"):
            assert np.array_equal(getattr(left, name), getattr(right, name))


def test_lengths_are_numbers_of_words(data: PreparedData, pairs: tuple[Int64, Int64]) -> None:
    assert sequence_lengths(data, *pairs).tolist() == list(range(USERS))
    assert sequence_lengths(data, *pairs, pairs_at_a_time=5).tolist() == list(range(USERS))
    none = np.zeros(0, np.int64)
    assert sequence_lengths(data, none, none).tolist() == []


def test_an_epoch_holds_every_pair_once_except_the_remainder(
    data: PreparedData, pairs: tuple[Int64, Int64]
) -> None:
    loader = batches(data, pairs)
    assert loader.batches_per_epoch == 5
    left_out = set()
    for epoch in range(8):
        seen = [loader[epoch * 5 + number].index.tolist() for number in range(5)]
        flat = [pair for batch in seen for pair in batch]
        assert len(flat) == len(set(flat)) == 20
        left_out |= set(range(USERS)) - set(flat)
    assert len(left_out) > 3, "the remainder is another in each epoch"


def test_index_points_to_the_pair_that_was_cut(
    data: PreparedData, pairs: tuple[Int64, Int64]
) -> None:
    rows, cutoffs = pairs
    loader = batches(data, pairs)
    for step in range(10):
        batch = loader[step]
        assert_equal(batch, cut(data, rows[batch.index], cutoffs[batch.index]))


def test_the_batch_of_a_step_does_not_depend_on_earlier_reads(
    data: PreparedData, pairs: tuple[Int64, Int64]
) -> None:
    straight = [batches(data, pairs)[step].index.tolist() for step in range(12)]
    loader = batches(data, pairs)
    order = [11, 0, 5, 4, 11, 3, 2, 10, 9, 8, 7, 6, 1]
    resumed = {step: loader[step].index.tolist() for step in order}
    assert [resumed[step] for step in range(12)] == straight


def test_seeds_and_epochs_give_other_orders(data: PreparedData, pairs: tuple[Int64, Int64]) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = batches(data, pairs, seed)
        return [loader[epoch * 5 + number].index.tolist() for number in range(5)]

    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_batches_hold_similar_lengths(data: PreparedData, pairs: tuple[Int64, Int64]) -> None:
    loader = batches(data, pairs)
    spreads = [np.ptp(loader.lengths[loader[step].index]) for step in range(20)]
    assert np.mean(spreads) < 6, "at random it is about 14"


def test_few_pairs_make_one_smaller_batch(data: PreparedData, pairs: tuple[Int64, Int64]) -> None:
    loader = batches(data, pairs, size=100)
    assert loader.batches_per_epoch == 1
    assert sorted(loader[3].index.tolist()) == list(range(USERS))


def test_a_user_may_have_many_pairs_with_other_cutoffs(data: PreparedData) -> None:
    row = int(data.rows_of(["05"])[0])
    moments = np.array([instant(f"2017-05-{day:02d}") for day in range(8, 13)])
    loader = batches(data, (np.full(5, row), moments), size=5)
    batch = loader[0]
    long_term, short_term = (segment.word_counts for segment in batch.segments)
    words = dict(zip(batch.index.tolist(), long_term + short_term, strict=True))
    assert words == {0: 5, 1: 5, 2: 5, 3: 5, 4: 5}


@pytest.mark.parametrize("chunk", [3, 10, 8_192])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_inference_reads_every_pair_once(
    data: PreparedData,
    pairs: tuple[Int64, Int64],
    chunk: int,
    size: int,
) -> None:
    rows, cutoffs = pairs
    seen = []
    for batch in batches_by_length(
        data, rows[::-1], cutoffs, batch_size=size, pairs_at_a_time=chunk
    ):
        assert 0 < len(batch) <= size
        lengths = sum(segment.word_counts for segment in batch.segments)
        assert np.all(np.diff(lengths) >= 0)
        assert_equal(batch, cut(data, rows[::-1][batch.index], cutoffs[batch.index]))
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(USERS))


def test_inference_without_pairs_yields_nothing(data: PreparedData) -> None:
    none = np.zeros(0, np.int64)
    assert list(batches_by_length(data, none, none, batch_size=4)) == []


class _Noted:
    """Batches that record the thread that cuts them; step 7 raises an error."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.threads: set[int] = set()

    def __getitem__(self, step: int) -> UserBatch:
        self.steps.append(step)
        self.threads.add(threading.get_ident())
        if step == 7:
            raise InputError("step 7")
        return UserBatch(np.array([step]), (), np.zeros((1, 0), np.int32))


def test_batches_ahead_come_in_order_from_another_thread() -> None:
    batches = _Noted()
    with closing(read_ahead(batches, 2, 6)) as coming:
        assert [int(batch.index[0]) for batch in coming] == [2, 3, 4, 5]
    assert batches.steps == [2, 3, 4, 5]
    assert len(batches.threads) == 1
    assert threading.get_ident() not in batches.threads


def test_error_ahead_is_raised_at_its_step() -> None:
    coming = read_ahead(_Noted(), 6, 20)
    assert int(next(coming).index[0]) == 6
    with pytest.raises(InputError, match="step 7"):
        next(coming)


def test_leaving_early_stops_the_thread() -> None:
    batches = _Noted()
    with closing(read_ahead(batches, 10, 1000)) as coming:
        next(coming)
    taken = len(batches.steps)
    assert taken <= 4
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_shares_with_one_seed_have_long_batches_at_the_same_steps(
    data: PreparedData,
) -> None:
    rows = data.rows_of([f"{number:02d}" for number in range(USERS)])
    cutoffs = np.full(USERS, instant("2017-06-01"))
    parts = [
        SequenceBatches(
            data,
            rows[first::2],
            cutoffs[first::2],
            batch_size=2,
            seed=3,
            numbers=np.arange(first, USERS, 2),
            batches_per_epoch=5,
        )
        for first in (0, 1)
    ]
    lengths = []
    for step in range(10):
        batches = [part[step] for part in parts]
        # User n has n words and is pair n.
        lengths.append([batch.segments[0].word_counts.mean() for batch in batches])
        for batch in batches:
            assert batch.segments[0].word_counts.tolist() == batch.index.tolist()
    assert np.corrcoef(np.array(lengths).T)[0, 1] > 0.9


def test_batches_do_not_depend_on_how_many_are_cut_at_once(
    data: PreparedData, pairs: tuple[Int64, Int64]
) -> None:
    together = batches(data, pairs)
    alone = batches(data, pairs, users_at_a_time=1)
    for step in (0, 1, 7, 3, 4, 12):
        assert_equal(together[step], alone[step])
        assert together[step].index.tolist() == alone[step].index.tolist()
