"""Reads the rows of prepared data back, and merges new rows into them.

In: prepared data, and a new schema, new files and new rows. Out: `UserRows` of old and new users,
for the kernel to sort. Used by `prepare --append` and, for the rows that stay, by `forget`.
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
from userbert.folders import read_json
from userbert.schema.models import Schema


@dataclass(frozen=True)
class UserRows:
    """Encoded rows of some users, sorted by (hash, id)."""

    users: pa.Array
    """(U,): user ids."""
    segments: dict[str, pl.DataFrame]
    """Actions by segment: `user` (index into `users`), `time`, a column per attribute, and
    `word_start` if the actions come from a shard."""
    profile: pl.DataFrame
    """Profile rows: `user`, `time`, `word_start` and a column per field."""


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
    # `data.shards` would keep all shards mapped, which may exceed the memory.
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
    """Raises `SchemaError` if time zone or segments of the schema differ from those of the data.

    Also raises `DataError` if the data are damaged, as the copy gets new checksums.
    """
    data.verify()
    for name in ("timezone", "segments"):
        if getattr(schema, name) != getattr(data.schema, name):
            raise SchemaError(
                f"{name}: differs from {data.path / 'schema.yaml'}, so words would differ, too. "
                "Copy that schema, and list the new files in it."
            )


def read_summary(data: PreparedData) -> dict[str, Any]:
    """Returns the summary of prepared data."""
    summary: dict[str, Any] = read_json(data.path / "summary.json")
    return summary


def refuse_known_files(files: Sequence[str], row_account: Mapping[str, Any]) -> None:
    """Raises `SourceError` if a file is in the row account (by file) of the old data."""
    for file in files:
        if file in row_account:
            raise SourceError(
                f"{file} is already in the data that you append to. List only new files."
            )


def merge_users(old: UserRows, new: UserRows) -> UserRows:
    """Merges old and new rows, sorted by user.

    A user's new profile row without a time replaces the old one.
    """
    users, numbers = number_users(pa.chunked_array([old.users, new.users]))
    of_old, of_new = numbers[: len(old.users)], numbers[len(old.users) :]
    segments = {
        name: pl.concat(
            [_renumber(old.segments[name].drop("word_start"), of_old), _renumber(actions, of_new)]
        )
        for name, actions in new.segments.items()
    }
    profile = _renumber(new.profile, of_new)
    old_profile = _renumber(old.profile, of_old)
    is_replaced = (pl.col("time") == TIMELESS) & pl.col("user").is_in(profile["user"].implode())
    profile = pl.concat([old_profile.filter(~is_replaced), profile]).unique()
    return UserRows(users, segments, profile.sort(profile.columns))


def _renumber(rows: pl.DataFrame, numbers: Int32) -> pl.DataFrame:
    """Replaces each user number u of some rows by `numbers[u]`."""
    return rows.with_columns(pl.Series("user", numbers[rows["user"].to_numpy()], pl.Int32))
