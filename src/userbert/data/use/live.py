"""Histories of a few users from the raw events in a request, in memory.

In: events as plain records, by source of the schema. Out: `LiveHistories` for `cut`, and the row of
each user. The code of preparation checks and encodes the events, so equal events give equal words.
An invalid event is an error that names its user. Letter in shapes: B users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.prepare.building import Builder, user_logs
from userbert.data.prepare.dictionary import LogDictionaries
from userbert.data.ragged import Int64
from userbert.data.read.rows import INVALID, checked_events, checked_profile
from userbert.data.read.sources import columns_of_profile, columns_of_source
from userbert.data.shards import Shard, shard_in_memory
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.schema.files import join_names
from userbert.schema.models import Schema
from userbert.schema.yaml_text import did_you_mean

Record = Mapping[str, Any]
"""Row of a log: values by column."""


@dataclass(frozen=True)
class UserEvents:
    """Events and profile of one user."""

    user_id: str
    events: Mapping[str, Sequence[Record]]
    """Records by source, in any order. Records may omit the user column."""
    profile: Sequence[Record] = ()
    """At most one record, or any number if the schema's profile has a time."""


@dataclass(frozen=True)
class LiveHistories:
    """Histories of a few users in memory, as one shard."""

    schema: Schema
    vocabularies: Vocabularies
    shards: Sequence[Shard]

    @property
    def first_rows(self) -> Int64:
        """(1,): row of the only shard's first user, 0."""
        return np.zeros(1, np.int64)


def live_histories(
    schema: Schema,
    vocabularies: Vocabularies,
    users: Sequence[UserEvents],
    cutoffs: Int64 | None = None,
) -> tuple[LiveHistories, Int64]:
    """Returns histories of users, and each user's row (B,), -1 for a user without a usable event.

    A user who is listed twice has two histories. With `cutoffs` (B,), an event at or after the
    user's cut-off is an error. Raises `InputError` that names the user and the event, and says what
    was expected and found.
    """
    for user in users:
        _check_sources(schema, user)
    dictionaries = LogDictionaries.without_encoding(schema)
    parts = []
    for name, source in schema.sources.items():
        raw = _raw_rows(schema, users, name, columns_of_source(schema, source))
        if raw is not None:
            checked = checked_events(schema, source, raw.rows, 0)
            _refuse_invalid(users, raw, checked, name)
            _refuse_late(users, raw, checked, name, cutoffs)
            is_used = dictionaries.events.has_action(checked, schema.actions)
            used = checked if is_used.all() else checked.filter(is_used)
            parts.append(dictionaries.events.encode(used))
    profiles = dictionaries.profile.no_rows
    if schema.profile is not None:
        raw = _raw_rows(schema, users, None, columns_of_profile(schema, schema.profile))
        if raw is not None:
            checked = checked_profile(schema, schema.profile, raw.rows, 0)
            _refuse_invalid(users, raw, checked, "profile")
            if schema.profile.time is not None:
                _refuse_late(users, raw, checked, "profile", cutoffs)
            profiles = dictionaries.profile.encode(checked)
    events = pl.concat(parts or [dictionaries.events.no_rows])
    logs = user_logs(schema, ["the request"], events, profiles)
    tables = Builder(schema, vocabularies, dictionaries, None, 1).build(0, logs)
    ids = pa.array(map(str, range(len(users))), pa.large_string())
    rows = pc.fill_null(pc.index_in(ids, tables.users), -1).to_numpy().astype(np.int64)
    return LiveHistories(schema, vocabularies, [shard_in_memory(tables)]), rows


def _check_sources(schema: Schema, user: UserEvents) -> None:
    """Raises `InputError` for an unknown source, or a profile that the schema does not allow."""
    place = f"user {user.user_id!r}"
    for name in user.events:
        if name not in schema.sources:
            raise InputError(
                f"{place}: the schema has no source {name!r}"
                f"{did_you_mean(name, schema.sources) or '.'} It has: {join_names(schema.sources)}."
            )
    if user.profile and schema.profile is None:
        raise InputError(f"{place}: the schema has no profile. Leave the user's profile out.")
    if len(user.profile) > 1 and schema.profile is not None and schema.profile.time is None:
        raise InputError(
            f"{place}, profile: expected one record, found {len(user.profile)}. Keep one record, "
            "as the schema's profile has no time that orders records."
        )


@dataclass(frozen=True)
class _RawRows:
    """Rows of several users, one after the other."""

    rows: pl.DataFrame
    """Rows with the user's index, as text, in place of the id."""
    owners: list[tuple[int, int]]
    """For each row: index of its user, and of the row among the user's rows."""


def _raw_rows(
    schema: Schema, users: Sequence[UserEvents], source: str | None, columns: Sequence[str]
) -> _RawRows | None:
    """Returns the rows of a source with these `columns`, or None if there are no rows.

    `source` is None for profiles. Raises `InputError` for a column that the schema does not use,
    another user's id or a nested value.
    """
    owners: list[tuple[int, int]] = []
    records: list[Record] = []
    for number, user in enumerate(users):
        user_records = user.profile if source is None else user.events.get(source, ())
        owners += ((number, row) for row in range(len(user_records)))
        records += user_records
    if not records:
        return None
    place = "profile" if source is None else source
    known = set(columns)
    for (number, row), record in zip(owners, records, strict=True):
        if str(record.get(schema.user, users[number].user_id)) != users[number].user_id:
            raise InputError(
                f"{_describe_event(users, number, place, row)}, column {schema.user!r}: expected "
                f"the same user or none, found {record[schema.user]!r}. List the event with its "
                "own user."
            )
        if not record.keys() <= known:
            name = next(name for name in record if name not in known)
            raise InputError(
                f"{_describe_event(users, number, place, row)}: the schema has no column {name!r}"
                f"{did_you_mean(name, columns) or '.'} It has: {join_names(columns)}. "
                "Leave the column out."
            )
    values = {name: [record.get(name) for record in records] for name in columns}
    # Indices in place of ids: two requests in one call may list a user with different events.
    values[schema.user] = [str(number) for number, _ in owners]
    series = []
    for name, column in values.items():
        kinds = set(map(type, column)) - {type(None)}
        if any(issubclass(kind, list | dict) for kind in kinds):
            first = next(i for i, value in enumerate(column) if isinstance(value, list | dict))
            number, row = owners[first]
            raise InputError(
                f"{_describe_event(users, number, place, row)}, column {name!r}: expected a text "
                "or a number, found a list or an object. Flatten it."
            )
        series.append(_series(name, column, kinds))
    return _RawRows(pl.DataFrame(series), owners)


def _series(name: str, values: list[Any], kinds: set[type]) -> pl.Series:
    """Returns a column with the type that JSON Lines give it; `kinds` are its Python types."""
    if kinds <= {int, float} or len(kinds) == 1:
        return pl.Series(name, values, strict=False)
    return pl.Series(name, [None if value is None else _text(value) for value in values])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_invalid(
    users: Sequence[UserEvents], raw: _RawRows, checked: pl.DataFrame, place: str
) -> None:
    """Raises `InputError` for the first invalid row."""
    reasons = checked[INVALID]
    if reasons.null_count() < len(reasons):
        first = reasons.is_not_null().arg_true()[0]
        number, row = raw.owners[first]
        raise InputError(f"{_describe_event(users, number, place, row)}, {reasons[first]}.")


def _refuse_late(
    users: Sequence[UserEvents],
    raw: _RawRows,
    checked: pl.DataFrame,
    place: str,
    cutoffs: Int64 | None,
) -> None:
    """Raises `InputError` for the first row at or after the cut-off of its user."""
    if cutoffs is None:
        return
    times = checked["time"].to_numpy()
    late = np.flatnonzero(times >= cutoffs[[number for number, _ in raw.owners]])
    if len(late):
        number, row = raw.owners[late[0]]
        when, until = (
            np.datetime_as_string(np.datetime64(int(instant), "us"), timezone="UTC")
            for instant in (times[late[0]], cutoffs[number])
        )
        raise InputError(
            f"{_describe_event(users, number, place, row)}: expected a time before the cut-off "
            f"{until}, found {when}. Remove the event, or choose a later cut-off. A date counts "
            "from its last microsecond."
        )


def _describe_event(users: Sequence[UserEvents], number: int, place: str, row: int) -> str:
    return f"user {users[number].user_id!r}, {place}, event {row + 1}"
