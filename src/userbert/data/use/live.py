"""Raw events of a few users, as they come in a request → histories that `cut` reads.

In: events as plain records, by the source that the schema names. Out: `LiveHistories`, and which
row each user is. Every step is one of preparation (checks of rows, codes, the kernel), so the same
events are the same words here and there. Nothing is quarantined: a row that cannot be used is an
error that says whose it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.prepare.building import Builder, user_logs
from userbert.data.prepare.dictionary import CodedLogs
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
"""A row, by the names of its columns."""


@dataclass(frozen=True)
class UserEvents:
    """What is known of one user."""

    user_id: str
    events: Mapping[str, Sequence[Record]]
    """By source, in any order; the user column may be left out."""
    profile: Sequence[Record] = ()
    """One record, or several where the schema's profile has a time."""


@dataclass(frozen=True)
class LiveHistories:
    """Histories in memory."""

    schema: Schema
    vocabularies: Vocabularies
    shards: Sequence[Shard]

    @property
    def first_rows(self) -> Int64:
        """(S,): the row of each shard's first user."""
        return np.zeros(1, np.int64)


def live_histories(
    schema: Schema,
    vocabularies: Vocabularies,
    users: Sequence[UserEvents],
    cutoffs: Int64 | None = None,
) -> tuple[LiveHistories, Int64]:
    """Histories of users, and (B,) the row of each of them, -1 of one without a usable event.

    Who stands there twice has two histories. With `cutoffs` (B,), all events lie before them.
    Raises `InputError` that names the user, the event, what was expected and found.
    """
    for user in users:
        _check_places(schema, user)
    coded = CodedLogs.uncoded(schema)
    parts = []
    for name, source in schema.sources.items():
        raw = _frame(schema, users, name, columns_of_source(schema, source))
        if raw is not None:
            checked = checked_events(schema, source, raw.rows, 0)
            _refuse_invalid(users, raw, checked, name)
            _refuse_late(users, raw, checked, name, cutoffs)
            is_used = coded.events.have(checked, schema.actions)
            parts.append(coded.events.encode(checked if is_used.all() else checked.filter(is_used)))
    profiles = coded.profile.no_rows
    if schema.profile is not None:
        raw = _frame(schema, users, None, columns_of_profile(schema, schema.profile))
        if raw is not None:
            checked = checked_profile(schema, schema.profile, raw.rows, 0)
            _refuse_invalid(users, raw, checked, "profile")
            if schema.profile.time is not None:
                _refuse_late(users, raw, checked, "profile", cutoffs)
            profiles = coded.profile.encode(checked)
    events = pl.concat(parts or [coded.events.no_rows])
    logs = user_logs(schema, ["the events given"], events, profiles)
    tables = Builder(schema, vocabularies, coded, None, 1).build(0, logs)
    ids = pa.array(map(str, range(len(users))), pa.large_string())
    rows = pc.fill_null(pc.index_in(ids, tables.users), -1).to_numpy().astype(np.int64)
    return LiveHistories(schema, vocabularies, [shard_in_memory(tables)]), rows


def _check_places(schema: Schema, user: UserEvents) -> None:
    told = f"user {user.user_id!r}"
    for name in user.events:
        if name not in schema.sources:
            raise InputError(
                f"{told}: the schema has no source {name!r}"
                f"{did_you_mean(name, schema.sources) or '.'} It has: {join_names(schema.sources)}."
            )
    if user.profile and schema.profile is None:
        raise InputError(f"{told}, profile: the schema has none. Leave it out.")
    if len(user.profile) > 1 and schema.profile is not None and schema.profile.time is None:
        raise InputError(
            f"{told}, profile: expected one record, found {len(user.profile)}. Give one: the "
            "schema's profile has no time that would say which counts when."
        )


@dataclass(frozen=True)
class _Raw:
    """Rows of several users, one after the other."""

    rows: pl.DataFrame
    owners: list[tuple[int, int]]
    """Of each row: the number of its user, and its own number among the user's."""


def _frame(
    schema: Schema, users: Sequence[UserEvents], source: str | None, columns: Sequence[str]
) -> _Raw | None:
    """The rows of a source, or of profiles, that have no other `columns`. None: no row."""
    owners: list[tuple[int, int]] = []
    records: list[Record] = []
    for number, user in enumerate(users):
        own = user.profile if source is None else user.events.get(source, ())
        owners += ((number, place) for place in range(len(own)))
        records += own
    if not records:
        return None
    place = "profile" if source is None else source
    known = set(columns)
    for (number, row), record in zip(owners, records, strict=True):
        if str(record.get(schema.user, users[number].user_id)) != users[number].user_id:
            raise InputError(
                f"{_told(users, number, place, row)}, column {schema.user!r}: expected the same "
                f"user or none, found {record[schema.user]!r}. Give it to the user whose it is."
            )
        if not record.keys() <= known:
            name = next(name for name in record if name not in known)
            raise InputError(
                f"{_told(users, number, place, row)}: the schema has no column {name!r}"
                f"{did_you_mean(name, columns) or '.'} It has: {join_names(columns)}. Leave it out."
            )
    values = {name: [record.get(name) for record in records] for name in columns}
    # By number: a user may stand there twice, in calls of two who know different events.
    values[schema.user] = [str(number) for number, _ in owners]
    made = []
    for name, column in values.items():
        kinds = set(map(type, column)) - {type(None)}
        if any(issubclass(kind, list | dict) for kind in kinds):
            first = next(i for i, value in enumerate(column) if isinstance(value, list | dict))
            number, row = owners[first]
            raise InputError(
                f"{_told(users, number, place, row)}, column {name!r}: expected a text or a "
                "number, found a list or an object. Flatten it."
            )
        made.append(_series(name, column, kinds))
    return _Raw(pl.DataFrame(made), owners)


def _series(name: str, values: list[Any], kinds: set[type]) -> pl.Series:
    """A column of the type that JSON Lines of the same values have."""
    if kinds <= {int, float} or len(kinds) == 1:
        return pl.Series(name, values, strict=False)
    return pl.Series(name, [None if value is None else _text(value) for value in values])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_invalid(
    users: Sequence[UserEvents], raw: _Raw, checked: pl.DataFrame, place: str
) -> None:
    reasons = checked[INVALID]
    if reasons.null_count() < len(reasons):
        first = reasons.is_not_null().arg_true()[0]
        number, row = raw.owners[first]
        raise InputError(f"{_told(users, number, place, row)}, {reasons[first]}.")


def _refuse_late(
    users: Sequence[UserEvents],
    raw: _Raw,
    checked: pl.DataFrame,
    place: str,
    cutoffs: Int64 | None,
) -> None:
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
            f"{_told(users, number, place, row)}: it is of {when}, and the cut-off is {until}. "
            "Leave out what is not before the cut-off, or give a later one; a date counts from its "
            "last microsecond."
        )


def _told(users: Sequence[UserEvents], number: int, place: str, row: int) -> str:
    return f"user {users[number].user_id!r}, {place}, event {row + 1}"
