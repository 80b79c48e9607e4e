"""A range of users from their logs to the tables of a shard: the words kernel on all they did.

In: coded rows of some users, vocabularies, and, where days are appended, prepared data that hold
these users. Out: `ShardTables`. Every engine of preparation builds shards of them.
"""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.appending import joined
from userbert.data.codes import CodedLogs
from userbert.data.intake import UserLogs
from userbert.data.shards import ShardTables
from userbert.data.store import PreparedData
from userbert.data.stored import UserRows, stored_range
from userbert.data.vocabulary import Int32, Vocabularies
from userbert.data.words import build_words, encode_actions, number_users
from userbert.schema.models import Schema


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
