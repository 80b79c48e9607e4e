"""New events behind those of prepared data: what must agree, and how the two are put together.

In: prepared data, and the schema, files and rows that are new. Out: rows of all users, for the
kernel to sort. Used by `data/prepare.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from userbert.data.shards import TIMELESS
from userbert.data.store import PreparedData
from userbert.data.stored import UserRows
from userbert.data.vocabulary import Int32
from userbert.data.words import number_users
from userbert.errors import SchemaError, SourceError
from userbert.folders import read_json
from userbert.schema.models import Schema


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
