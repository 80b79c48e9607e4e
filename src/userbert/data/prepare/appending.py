"""New events behind those of prepared data: what must agree, and how the two are put together.

In: prepared data, and the schema, files and rows that are new. Out: rows of all users, for the
kernel to sort. Used by `data/prepare/prepare.py`.

Actions and profile rows of prepared data as preparation has them on its way.

In: prepared data and a range of its users. Out: these users, their actions by segment and their
profile rows, with numbers in place of ids. Used where prepared data are made from others.
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
    rows = ranges(first, lengths)
    stored: dict[str, NDArray[Any]] = {
        "time": columns.times,
        "word_start": columns.word_start,
        **columns.values,
    }
    user = np.repeat(np.arange(len(numbers), dtype=np.int32), lengths)
    return pl.DataFrame({"user": user, **{name: one[rows] for name, one in stored.items()}})


def check_same(schema: Schema, data: PreparedData) -> None:
    """Raise `SchemaError` if words of the schema are not words of the data.

    Raises `DataError` if these are damaged: what is written anew gets new checksums, which must not
    vouch for that.
    """
    data.verify()
    for name in ("timezone", "segments"):
        mine, theirs = (getattr(one, name) for one in (schema, data.schema))
        if mine != theirs:
            raise SchemaError(
                f"{name}: not as in {data.path / 'schema.yaml'}, so words would not be the same. "
                "Take that schema, and name the new files in it."
            )


def summary_of(data: PreparedData) -> dict[str, Any]:
    """The account of prepared data."""
    summary: dict[str, Any] = read_json(data.path / "summary.json")
    return summary


def refuse_again(files: Sequence[str], before: Mapping[str, Any]) -> None:
    """Raise `SourceError` if a file is in the account of before."""
    for file in files:
        if file in before:
            raise SourceError(
                f"{file} is in the data appended to already. Name the new files alone."
            )


def joined(old: UserRows, new: UserRows) -> UserRows:
    """The rows of either, of all users in order.

    Of profile rows without a time, a user's new one takes the place of the old.
    """
    users, numbers = number_users(pa.chunked_array([old.users, new.users]))
    of_old, of_new = numbers[: len(old.users)], numbers[len(old.users) :]
    segments = {
        name: pl.concat(
            [_numbered(old.segments[name].drop("word_start"), of_old), _numbered(actions, of_new)]
        )
        for name, actions in new.segments.items()
    }
    profile = _numbered(new.profile, of_new)
    before = _numbered(old.profile, of_old)
    is_replaced = (pl.col("time") == TIMELESS) & pl.col("user").is_in(profile["user"].implode())
    profile = pl.concat([before.filter(~is_replaced), profile]).unique()
    return UserRows(users, segments, profile.sort(profile.columns))


def _numbered(rows: pl.DataFrame, numbers: Int32) -> pl.DataFrame:
    """Rows whose users have other numbers."""
    return rows.with_columns(pl.Series("user", numbers[rows["user"].to_numpy()], pl.Int32))
