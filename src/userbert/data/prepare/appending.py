"""Reads the rows of prepared data back, and merges new rows into them.

In: prepared data, and a new schema, new files and new rows. Out: `UserRows` of old and new users;
the kernel sorts their actions. `prepare --append` merges rows; `forget` reads rows that stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.data.prepare.words import number_users
from userbert.data.ragged import Int32, Int64, ranges
from userbert.data.shards import TIMELESS, Columns, Shard
from userbert.data.store import PreparedData
from userbert.errors import SchemaError, SourceError
from userbert.schema.models import Schema


@dataclass(frozen=True)
class UserRows:
    """Encoded rows of some users. Actions may be in any order."""

    users: pa.Array
    """(U,): user ids, sorted by (hash, id)."""
    segments: dict[str, pl.DataFrame]
    """Actions by segment, with the columns `user` (index into `users`), `time`, one per
    attribute, and `word_start` if the actions come from a shard."""
    profile: pl.DataFrame
    """Profile rows, with the columns `user`, `time`, `word_start` and one per field."""


def stored_users(shard: Shard, numbers: Int64) -> UserRows:
    """Returns the rows of the users with the ascending indices `numbers` (U,) in a shard."""
    return UserRows(
        shard.user_ids.take(pa.array(numbers)),
        {name: _rows(columns, numbers) for name, columns in shard.segments.items()},
        _rows(shard.profile, numbers),
    )


def stored_range(data: PreparedData, part: int, parts: int) -> UserRows:
    """Returns the rows of the users in hash range `part`.

    `parts`, the number of ranges, is a power of two and at least the number of shards.
    """
    # `data.shards` would keep every shard mapped, and mapped pages count as memory in use.
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
    rows = ranges(first, lengths)
    stored: dict[str, NDArray[Any]] = {
        "time": columns.times,
        "word_start": columns.word_start,
        **columns.values,
    }
    user = np.repeat(np.arange(len(numbers), dtype=np.int32), lengths)
    return pl.DataFrame({"user": user, **{name: column[rows] for name, column in stored.items()}})


def require_same_schema(schema: Schema, data: PreparedData) -> None:
    """Raises `SchemaError` if the schema and the data differ in time zone or segments.

    Raises `DataError` if the data are damaged: `prepare --append` copies their rows into new data,
    whose new checksums would hide the damage.
    """
    data.verify()
    for name in ("timezone", "segments"):
        if getattr(schema, name) != getattr(data.schema, name):
            raise SchemaError(
                f"{name}: differs from {data.path / 'schema.yaml'}, so the words of "
                "new rows would differ. Copy that file, and list the new logs in the copy."
            )


def refuse_known_files(files: Sequence[str], row_account: Mapping[str, Any]) -> None:
    """Raises `SourceError` if old data contain a file; `row_account` has their rows by file."""
    for file in files:
        if file in row_account:
            raise SourceError(
                f"{file} is already in the data that you append to. List only new files."
            )


def merge_users(old: UserRows, new: UserRows) -> UserRows:
    """Merges old and new rows. Profile rows are sorted; actions are not: the kernel sorts them.

    A new profile row of a user replaces the user's old profile row without a time. Equal profile
    rows are kept once.
    """
    users, numbers = number_users(pa.chunked_array([old.users, new.users]))
    old_numbers, new_numbers = numbers[: len(old.users)], numbers[len(old.users) :]
    segments = {
        name: pl.concat(
            [
                _renumber(old.segments[name].drop("word_start"), old_numbers),
                _renumber(actions, new_numbers),
            ]
        )
        for name, actions in new.segments.items()
    }
    profile = _renumber(new.profile, new_numbers)
    old_profile = _renumber(old.profile, old_numbers)
    is_replaced = (pl.col("time") == TIMELESS) & pl.col("user").is_in(profile["user"].implode())
    profile = pl.concat([old_profile.filter(~is_replaced), profile]).unique()
    return UserRows(users, segments, profile.sort(profile.columns))


def _renumber(rows: pl.DataFrame, numbers: Int32) -> pl.DataFrame:
    """Replaces each user number u of some rows by `numbers[u]`."""
    return rows.with_columns(pl.Series("user", numbers[rows["user"].to_numpy()], pl.Int32))
