"""Actions and profile rows of prepared data as preparation has them on its way.

In: prepared data and a range of its users. Out: these users, their actions by segment and their
profile rows, with numbers in place of ids. Used where prepared data are made from others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.data.batches import Int64
from userbert.data.shards import Columns, Shard
from userbert.data.store import PreparedData


@dataclass(frozen=True)
class UserRows:
    """Some users, in the order of (hash, id)."""

    users: pa.Array
    """(U,): their ids."""
    segments: dict[str, pl.DataFrame]
    """Of each: `user`, a number among `users`, `time`, where they are known `word_start`, and
    attributes."""
    profile: pl.DataFrame
    """The same of profile rows and their fields."""


def stored_users(shard: Shard, numbers: Int64) -> UserRows:
    """Some users of a shard, by their ascending numbers (U,) in it."""
    return UserRows(
        shard.user_ids.take(pa.array(numbers)),
        {name: _rows(columns, numbers) for name, columns in shard.segments.items()},
        _rows(shard.profile, numbers),
    )


def stored_range(data: PreparedData, part: int, parts: int) -> UserRows:
    """The users whose hashes fall into one of `parts` ranges, at least as many as shards."""
    # Opened anew, as all shards together may be more than memory may hold.
    shard = data.open_shard(part * data.manifest["shards"] // parts)
    bits = np.uint64(64 - (parts.bit_length() - 1))
    ends = [shard.users]
    first = 0
    if parts > 1:
        first = int(np.searchsorted(shard.user_hashes, np.uint64(part) << bits))
        if part + 1 < parts:
            ends.append(int(np.searchsorted(shard.user_hashes, np.uint64(part + 1) << bits)))
    return stored_users(shard, np.arange(first, min(ends)))


def _rows(columns: Columns, numbers: Int64) -> pl.DataFrame:
    first, last = columns.offsets[numbers], columns.offsets[numbers + 1]
    lengths = last - first
    ends = np.cumsum(lengths)
    rows = np.repeat(first - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
    stored: dict[str, NDArray[Any]] = {
        "time": columns.times,
        "word_start": columns.word_start,
        **columns.values,
    }
    user = np.repeat(np.arange(len(numbers), dtype=np.int32), lengths)
    return pl.DataFrame({"user": user, **{name: one[rows] for name, one in stored.items()}})
