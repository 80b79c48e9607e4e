"""A range of users from their logs to the tables of a shard: the words kernel on all they did.

In: coded rows of some users, vocabularies, and, where days are appended, prepared data that hold
these users. Out: `ShardTables`. Every engine of preparation builds shards of them.

All rows of some users, as vocabularies and the kernel take them.

In: coded events and profile rows of the same users. Out: the same without duplicates, if the schema
wants none, and with one profile row a user, if it has no time; and what was left out, for the row
account. Every engine of preparation passes through this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.prepare.appending import UserRows, joined, stored_range
from userbert.data.prepare.dictionary import CodedLogs
from userbert.data.prepare.words import build_words, encode_actions, number_users
from userbert.data.ragged import Int32
from userbert.data.read.reading import FILE, LeftOut
from userbert.data.shards import TIMELESS, ShardTables, user_hash
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema


@dataclass(frozen=True)
class UserLogs:
    """All rows of some users that are used, coded."""

    events: pl.DataFrame
    """`user_id`, `time`, `action_type` and one an attribute."""
    profile: pl.DataFrame
    """`user_id`, `time` and one a field; `time` is TIMELESS where the profile has none."""
    left_out: LeftOut


def user_logs(
    schema: Schema, files: Sequence[str], events: pl.DataFrame, profile: pl.DataFrame
) -> UserLogs:
    """Settle the rows of some users, which stand in the order of `row`.

    `files` are the names of all, by number. Events need their `row` where duplicates are dropped.
    """
    duplicates = [0] * len(files)
    if schema.duplicates == "drop":
        said = [name for name in events.columns if name != "row"]
        kept = events.unique(said, keep="first", maintain_order=True)
        before, after = (
            np.bincount(rows["row"].to_numpy() // FILE, minlength=len(files))
            for rows in (events, kept)
        )
        events, duplicates = kept, (before - after).tolist()
    second = profile.clear()
    if schema.profile is not None and schema.profile.time is None:
        is_first = profile["user_id"].is_first_distinct()
        second = profile.filter(~is_first)
        profile = profile.filter(is_first).with_columns(pl.col("time").fill_null(TIMELESS))
    return UserLogs(
        _without_row(events),
        _without_row(profile),
        LeftOut(duplicates, _rejected(second, files)),
    )


def _without_row(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([column for column in rows if column.name != "row"])


def _rejected(second: pl.DataFrame, files: Sequence[str]) -> pl.DataFrame:
    """Why a user's second profile row cannot be used."""
    if second.is_empty():
        return pl.DataFrame(schema={"file": pl.String, "row": pl.Int64, "reason": pl.String})
    # In the order of users, so that it is the same whatever their ranges are.
    order = pl.Series("order", user_hash(second["user_id"].to_arrow()))
    second = second.with_columns(order).sort("order", "user_id", "row")
    names = pl.Series(files, dtype=pl.String).gather(second["row"] // FILE)
    reason = (
        'a second row of the user "' + second["user_id"] + '": expected one (or a `time:` in the '
        "schema's profile, to say which counts when)"
    )
    return second.select(names.alias("file"), pl.col("row") % FILE, reason.alias("reason"))


class Builder:
    """The second pass, on the users of one range of hashes at a time."""

    def __init__(
        self,
        schema: Schema,
        vocabularies: Vocabularies,
        coded: CodedLogs,
        append: PreparedData | None,
        ranges: int,
    ) -> None:
        self._schema = schema
        self._events = coded.events
        self._append = append
        self._ranges = ranges
        self._encoders = {
            segment: coded.events.encoders(attributes)
            for segment, attributes in vocabularies.segments.items()
        }
        self._fields = coded.profile.encoders(vocabularies.profile)

    def build(self, number: int, logs: UserLogs) -> ShardTables:
        """All words of the users of one range, of which `logs` holds what is new."""
        schema, events = self._schema, logs.events
        # Polars' own strings, that come back without a copy.
        ids = [events["user_id"].to_arrow(compat_level=pl.CompatLevel.newest())]
        stored = None
        if self._append is not None:
            stored = stored_range(self._append, number, self._ranges)
            ids.append(stored.users)  # a new profile row may be of one who did nothing new
        users, numbers = number_users(
            pa.chunked_array([one.cast(pa.large_string()) for one in ids])
        )
        numbers = numbers[: len(events)]
        actions = {
            name: encode_actions(self._of_segment(events, numbers, name), self._encoders[name])
            for name in schema.segments
        }
        rows = UserRows(users, actions, self._profile_of(logs.profile, users))
        if stored is not None:
            rows = joined(stored, rows)
        words = {
            name: build_words(rows.segments[name], segment.words, schema.zone)
            for name, segment in schema.segments.items()
        }
        return ShardTables(rows.users, words, rows.profile.to_arrow())

    def _of_segment(self, events: pl.DataFrame, numbers: Int32, name: str) -> pa.Table:
        """The events of a segment, with the number of each one's user in place of the id."""
        actions, columns = self._schema.segments[name].actions, ("time", *self._encoders[name])
        # Column by column, as whole frames take longer where rows are few.
        table = pa.table({"user": numbers, **{one: events[one].to_arrow() for one in columns}})
        if set(actions) == self._schema.actions:  # all events are of some segment
            return table
        return table.filter(self._events.have(events, actions).to_arrow())

    def _profile_of(self, profile: pl.DataFrame, users: pa.Array) -> pl.DataFrame:
        """The profile rows of some users; strangers are left out."""
        found = pc.index_in(profile["user_id"].to_arrow().cast(pa.large_string()), users)
        if found.null_count:
            is_known = found.is_valid()
            profile, found = profile.filter(pl.Series(is_known)), found.filter(is_known)
        columns = {
            "user": pl.Series(found),
            "time": profile["time"],
            "word_start": np.ones(len(profile), np.uint8),
        }
        for name, encoder in self._fields.items():
            columns[name] = encoder.encode(profile[name].to_arrow())
        rows = pl.DataFrame(columns)
        return rows if rows.is_empty() else rows.sort(pl.all())
