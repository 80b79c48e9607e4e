"""Turns the rows of a range of users into the tables of a shard.

In: encoded events and profile rows of some users, vocabularies, and with `append` the prepared data
that hold earlier rows. Out: `ShardTables`. `user_logs` drops duplicate events and repeated profile
rows, and accounts for the dropped rows; `Builder` runs the words kernel. The engines of preparation
and live histories use both. Letter in shapes: U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.prepare.appending import UserRows, merge_users, stored_range
from userbert.data.prepare.dictionary import LogDictionaries
from userbert.data.prepare.words import build_words, encode_actions, number_users
from userbert.data.ragged import Int32
from userbert.data.read.reading import FILE_STRIDE, UnusedRows
from userbert.data.shards import TIMELESS, ShardTables, user_hash
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema


@dataclass(frozen=True)
class UserLogs:
    """Encoded rows of some users that preparation uses, and an account of their other rows."""

    events: pl.DataFrame
    """Columns `user_id`, `time`, `action_type` and a column per attribute."""
    profile: pl.DataFrame
    """Columns `user_id`, `time` (TIMELESS if profiles have no time) and a column per field."""
    unused: UnusedRows
    """Duplicate events and repeated profile rows, which the two frames do not hold."""


def user_logs(
    schema: Schema, files: Sequence[str], events: pl.DataFrame, profile: pl.DataFrame
) -> UserLogs:
    """Drops duplicate events and repeated profile rows of some users; the first row stays.

    Duplicates are dropped only if the schema says so, profile rows only if they have no time.
    Profile rows must be sorted by `row`; if the schema drops duplicates, events must be sorted by
    `row`, too. `files` holds the names of all files, in the order of their numbers.
    """
    duplicates = [0] * len(files)
    if schema.duplicates == "drop":
        columns = [name for name in events.columns if name != "row"]
        kept = events.unique(columns, keep="first", maintain_order=True)
        before, after = (
            np.bincount(rows["row"].to_numpy() // FILE_STRIDE, minlength=len(files))
            for rows in (events, kept)
        )
        events, duplicates = kept, (before - after).tolist()
    repeated = profile.clear()
    if schema.profile is not None and schema.profile.time is None:
        is_first = profile["user_id"].is_first_distinct()
        repeated = profile.filter(~is_first)
        profile = profile.filter(is_first).with_columns(pl.col("time").fill_null(TIMELESS))
    return UserLogs(
        _without_row(events),
        _without_row(profile),
        UnusedRows(duplicates, _rejected(repeated, files)),
    )


def _without_row(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([column for column in rows if column.name != "row"])


def _rejected(repeated: pl.DataFrame, files: Sequence[str]) -> pl.DataFrame:
    """Returns `file`, `row` and `reason` of repeated profile rows."""
    if repeated.is_empty():
        return pl.DataFrame(schema={"file": pl.String, "row": pl.Int64, "reason": pl.String})
    # Sorted by user, so the order does not depend on the ranges of users.
    order = pl.Series("order", user_hash(repeated["user_id"].to_arrow()))
    repeated = repeated.with_columns(order).sort("order", "user_id", "row")
    names = pl.Series(files, dtype=pl.String).gather(repeated["row"] // FILE_STRIDE)
    reason = (
        'a second row of the user "'
        + repeated["user_id"]
        + '": expected one row, or a `time:` in the '
        "schema's profile"
    )
    return repeated.select(names.alias("file"), pl.col("row") % FILE_STRIDE, reason.alias("reason"))


class Builder:
    """Builds the tables of one of `ranges` ranges of user hashes at a time.

    `dictionaries` are the dictionaries that encoded the rows. `append` is prepared data whose rows
    also go into the tables, or None. `ranges` is a power of two.
    """

    def __init__(
        self,
        schema: Schema,
        vocabularies: Vocabularies,
        dictionaries: LogDictionaries,
        append: PreparedData | None,
        ranges: int,
    ) -> None:
        self._schema = schema
        self._events = dictionaries.events
        self._append = append
        self._ranges = ranges
        self._encoders = {
            segment: dictionaries.events.encoders(attributes)
            for segment, attributes in vocabularies.segments.items()
        }
        self._fields = dictionaries.profile.encoders(vocabularies.profile)

    def build(self, number: int, logs: UserLogs) -> ShardTables:
        """Returns the tables of range `number`: its new rows in `logs`, and those of `append`."""
        schema, events = self._schema, logs.events
        # Polars' own string type converts back without a copy.
        ids = [events["user_id"].to_arrow(compat_level=pl.CompatLevel.newest())]
        stored = None
        if self._append is not None:
            stored = stored_range(self._append, number, self._ranges)
            ids.append(stored.users)  # a new profile row may belong to a user without new events
        users, numbers = number_users(
            pa.chunked_array([column.cast(pa.large_string()) for column in ids])
        )
        numbers = numbers[: len(events)]
        actions = {
            name: encode_actions(self._segment_events(events, numbers, name), self._encoders[name])
            for name in schema.segments
        }
        rows = UserRows(users, actions, self._profile_rows(logs.profile, users))
        if stored is not None:
            rows = merge_users(stored, rows)
        words = {
            name: build_words(rows.segments[name], segment.words, schema.zone)
            for name, segment in schema.segments.items()
        }
        return ShardTables(rows.users, words, rows.profile.to_arrow())

    def _segment_events(self, events: pl.DataFrame, numbers: Int32, name: str) -> pa.Table:
        """Returns the events of a segment, with `user` (a number) in place of the id."""
        actions, columns = self._schema.segments[name].actions, ("time", *self._encoders[name])
        # By column: faster than converting the frame if there are few rows.
        table = pa.table({"user": numbers, **{key: events[key].to_arrow() for key in columns}})
        if set(actions) == self._schema.actions:  # every event belongs to some segment
            return table
        return table.filter(self._events.has_action(events, actions).to_arrow())

    def _profile_rows(self, profile: pl.DataFrame, users: pa.Array) -> pl.DataFrame:
        """Returns the encoded profile rows of `users`; drops those of other users."""
        numbers = pc.index_in(profile["user_id"].to_arrow().cast(pa.large_string()), users)
        if numbers.null_count:
            is_known = numbers.is_valid()
            profile, numbers = profile.filter(pl.Series(is_known)), numbers.filter(is_known)
        columns = {
            "user": pl.Series(numbers),
            "time": profile["time"],
            "word_start": np.ones(len(profile), np.uint8),
        }
        for name, encoder in self._fields.items():
            columns[name] = encoder.encode(profile[name].to_arrow())
        rows = pl.DataFrame(columns)
        return rows if rows.is_empty() else rows.sort(pl.all())
