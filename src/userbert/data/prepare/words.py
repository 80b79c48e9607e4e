"""The words kernel: turns events into sorted, encoded actions with word starts (paper §3.2).

In: an Arrow table of a segment's checked events, in any order. Out: an Arrow table of its actions,
sorted by user, time and then all columns, with a flag where a word starts. Local preparation, Spark
and the live service call these pure functions, so equal events give equal words. Letters in shapes:
U users, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from userbert.data.ragged import Int32, Int64
from userbert.data.shards import user_hash
from userbert.schema.models import DayWords, GapWords
from userbert.schema.strict import to_instant

_EPOCH = date(1970, 1, 1)
_HOUR_US = 3_600_000_000
"""Microseconds in an hour."""
DAY_US = 24 * _HOUR_US
"""Microseconds in a day without a change of the clocks."""
_MAX_YEARS = 400
"""Number of years before and after 1970 that a grid covers; actions are between 1900 and 2200."""


@dataclass(frozen=True)
class DayGrid:
    """Local days that start at a time of day; with daylight saving they last 23 to 25 hours."""

    zone: ZoneInfo
    start: time
    """Local time at which a day starts."""

    def index(self, times: Int64) -> Int64:
        """Returns the day of each instant (N,), counted from 1 January 1970."""
        first, starts = self._starts(times)
        return first + np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)

    def floor(self, times: Int64) -> Int64:
        """Returns the start of each instant's day (N,), in µs since 1970."""
        first, starts = self._starts(times)
        return starts[self.index(times) - first]

    def _starts(self, times: Int64) -> tuple[int, Int64]:
        """Returns the index of a first day, and the starts of days from there to beyond `times`."""
        if len(times) == 0:
            return 0, np.zeros(1, dtype=np.int64)
        year_us = 366 * 24 * _HOUR_US
        # A cut-off may be far away, such as in the year 9999.
        first, last = (
            min(max(int(moment) // year_us, -_MAX_YEARS), _MAX_YEARS)
            for moment in (times.min(), times.max())
        )
        return _day_starts(self.zone, self.start, first, last)


@lru_cache(maxsize=64)
def _day_starts(zone: ZoneInfo, start: time, first: int, last: int) -> tuple[int, Int64]:
    """Returns the index of a first day, and the starts of days in the spans `first` to `last`.

    Span i has the 366 days from day 366 * i on. A margin covers all zones and starts of days.
    """
    days = range(first * 366 - 2, (last + 1) * 366 + 3)
    instants = [
        to_instant(datetime.combine(_EPOCH + timedelta(days=day), start), zone) for day in days
    ]
    return days[0], np.array(instants, dtype=np.int64)


@dataclass(frozen=True)
class HourGrid:
    """Hours since 1970: the grid for positions of gap words."""

    def index(self, times: Int64) -> Int64:
        """Returns the hour of each instant (N,), counted from the start of 1970."""
        return times // _HOUR_US

    def floor(self, times: Int64) -> Int64:
        """Returns the start of each instant's hour (N,), in µs since 1970."""
        return times // _HOUR_US * _HOUR_US


Grid = DayGrid | HourGrid


def grid_of(words: DayWords | GapWords, zone: ZoneInfo) -> Grid:
    """Returns the grid of word positions: days for day words, hours for gap words."""
    return DayGrid(zone, words.start) if isinstance(words, DayWords) else HourGrid()


def number_users(user_ids: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Int32]:
    """Returns the distinct users (U,), sorted by (hash, id), and each row's index in them (N,)."""
    encoded = pc.dictionary_encode(user_ids.cast(pa.large_string()))
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    ids = encoded.dictionary
    hashes = user_hash(ids)
    order = np.argsort(hashes)
    if (np.diff(hashes[order]) == 0).any():
        frame = pl.DataFrame({"hash": hashes, "id": ids})
        order = frame.select(pl.arg_sort_by("hash", "id")).to_series().to_numpy()
    number = np.empty(len(ids), np.int32)
    number[order] = np.arange(len(ids), dtype=np.int32)
    return ids.take(pa.array(order)), number[encoded.indices.to_numpy(zero_copy_only=False)]


class Encoder(Protocol):
    """Turns values into ids: a vocabulary, or a lookup from dictionary codes."""

    def encode(self, values: pa.Array) -> NDArray[Any]:
        """Returns the id (int32) or the number (float32, NaN for none) of each value (N,)."""


def encode_actions(events: pa.Table, encoders: Mapping[str, Encoder]) -> pl.DataFrame:
    """Encodes the events of a segment.

    `events` has the columns `user` (int32, see `number_users`), `time` (int64, µs since 1970) and a
    column per attribute, as its encoder expects; other columns are ignored. The result has `user`,
    `time`, and each attribute's ids (int32) or raw numbers (float32, NaN for none). Raw numbers are
    binned when the data are read.
    """
    encoded = {
        name: encoder.encode(events[name].combine_chunks()) for name, encoder in encoders.items()
    }
    keys = {name: events[name].to_numpy() for name in ("user", "time")}
    return pl.DataFrame([pl.Series(name, column) for name, column in (keys | encoded).items()])


def build_words(actions: pl.DataFrame, words: DayWords | GapWords, zone: ZoneInfo) -> pa.Table:
    """Sorts encoded actions by user, time and then all other columns, and marks word starts.

    The result has the columns of `actions`, with `word_start` (uint8) as the third.
    """
    columns = {name: actions[name].to_numpy() for name in actions.columns}
    order = _sorting_order(columns)
    user, time, *others = (column[order] for column in columns.values())
    starts = word_starts(user, time, words, zone).astype(np.uint8)
    names = [*actions.columns[:2], "word_start", *actions.columns[2:]]
    return pa.table(dict(zip(names, (user, time, starts, *others), strict=True)))


def _sorting_order(columns: Mapping[str, NDArray[Any]]) -> Int64:
    """Returns the order of rows by user, time, and then all other columns.

    Rows that are equal in all columns may come in any order.
    """
    user, time, *others = columns.values()
    order = _time_order(user, time)
    tied = np.zeros(len(order) + 1, np.bool_)
    tied[1:-1] = (np.diff(user[order]) == 0) & (np.diff(time[order]) == 0)
    ties = np.flatnonzero(tied[1:] | tied[:-1])  # same user and time as a neighbour
    if len(ties):
        rows = order[ties]
        order[ties] = rows[np.lexsort([column[rows] for column in (*others[::-1], time, user)])]
    return order


def _time_order(users: Int32, times: Int64) -> Int64:
    """Returns the order of rows by user and time; ties are in any order."""
    if len(users) == 0:
        return np.zeros(0, np.int64)
    first = int(times.min())
    span = int(times.max()) - first + 1
    if (int(users.max()) + 1) * span > np.iinfo(np.int64).max:
        return np.lexsort((times, users))
    # Sorting one number that holds user and time is several times as fast.
    return np.argsort(users.astype(np.int64) * span + (times - first))


def word_starts(
    users: NDArray[np.integer], times: Int64, words: DayWords | GapWords, zone: ZoneInfo
) -> NDArray[np.bool_]:
    """Returns whether a word starts at each action (N,). Actions are sorted by user and time.

    The answer depends only on the action and its predecessor, so cutting a history moves no word
    boundary.
    """
    starts = np.ones(len(times), dtype=np.bool_)
    if len(times) == 0:
        return starts
    if isinstance(words, DayWords):
        breaks = np.diff(DayGrid(zone, words.start).index(times)) != 0
    else:
        breaks = np.diff(times) > words.gap_us
    starts[1:] = (np.diff(users) != 0) | breaks
    return starts
