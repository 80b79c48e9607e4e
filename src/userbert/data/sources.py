"""Read, join and check raw logs.

In: the sources of a schema (files or frames). Out: batches of checked events with the columns
`user_id`, `time` (µs since 1970), `action_type` and one an attribute, or of profile rows; where a
row cannot be used, with its reason. Used by preparation and by anything that reads raw events.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from userbert.data.times import can_be_times, instants
from userbert.errors import SourceError
from userbert.schema import files
from userbert.schema.models import (
    Category,
    Derived,
    Lookup,
    Number,
    Profile,
    Schema,
    Source,
    Time,
)

_BATCH_ROWS = 262_144

_SMALL_NUMBERS = pl.Series(map(str, range(24)), dtype=pl.String)
"""As text; to look them up is faster than to write them."""

INVALID = "invalid"
"""The column that says why a row cannot be used; null where it can."""


@dataclass(frozen=True)
class _Table:
    """A file, or a frame in memory, before the schema is applied to it."""

    name: str
    """As errors and the row account call it."""
    frame: pl.LazyFrame
    columns: Mapping[str, pl.DataType]
    files: tuple[Path, ...]
    """What is read; empty for a frame."""


@dataclass(frozen=True)
class LogFile:
    """One file of events or of profile rows, or a frame in memory, ready to be read in batches."""

    name: str
    rows: int
    _table: _Table
    _checked: Callable[[pl.DataFrame, int], pl.DataFrame]
    """Checks rows as they stand in the file, of which the first has the number given."""

    def batches(self) -> Iterator[pl.DataFrame]:
        """The rows, in order and in bounded memory, with `row` (1 is the first) and `invalid`."""
        row = 1
        with files.reading(*self._table.files):
            for raw in self._table.frame.collect_batches(
                chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"
            ):
                yield self._checked(raw, row)
                row += len(raw)


def open_sources(schema: Schema, events: Mapping[str, Any] | None = None) -> list[LogFile]:
    """Open every file of every source. `events` gives frames in place of the sources' files.

    Raises `SourceError` when a file cannot be opened, or when a column that the schema names is
    missing or is of a type that cannot be used.
    """
    events = events or {}
    unknown = set(events) - set(schema.sources)
    if unknown:
        raise SourceError(
            f"events: no source is named {sorted(unknown)[0]!r}; "
            f"the schema has {', '.join(schema.sources)}."
        )
    opened = []
    for name, source in schema.sources.items():
        lookups = [(lookup, _dimension(schema, lookup)) for lookup in source.lookup]
        for table in _tables(schema, name, source.path, events.get(name)):
            rows = _count_rows(table)
            for lookup, dimension in lookups:
                table = _join(table, lookup, dimension)  # noqa: PLW2901 - the same rows, wider
            opened.append((name, rows, table))
    _check_columns(schema, [(name, table) for name, _, table in opened])
    logs = []
    for name, rows, table in opened:
        source = schema.sources[name]
        wanted = [column for column in table.columns if column in _named(schema, source)]
        narrow = replace(table, frame=table.frame.select(wanted))
        logs.append(LogFile(table.name, rows, narrow, partial(_events, schema, source)))
    return logs


def open_profile(schema: Schema, given: Any | None = None) -> list[LogFile]:
    """Open every file of the profile, if there is one; `given` is a frame in their place.

    `time` is null where the profile has none. Raises `SourceError` as `open_sources` does.
    """
    profile, opened = schema.profile, []
    if profile is None:
        return []
    for table in _tables(schema, "profile", profile.path, given):
        fields = {f"fields.{name}": field.column for name, field in profile.fields.items()}
        times = {} if profile.time is None else {"time": profile.time.column}
        for place, column in {**times, **fields}.items():
            _require(table, f"profile.{place}", column)
        _require(table, "user", schema.user)
        if profile.time is not None:
            _require_times(table, profile.time)
        wanted = dict.fromkeys([schema.user, *times.values(), *fields.values()])
        narrow = replace(table, frame=table.frame.select(list(wanted)))
        checked = partial(_profile_rows, schema, profile)
        opened.append(LogFile(table.name, _count_rows(table), narrow, checked))
    return opened


def _profile_rows(
    schema: Schema, profile: Profile, raw: pl.DataFrame, first_row: int
) -> pl.DataFrame:
    checks = [_check_users(raw, schema.user)]
    time = pl.Series(dtype=pl.Int64).clear(len(raw))
    if profile.time is not None:
        time = instants(raw[profile.time.column], profile.time, schema.timezone)
        checks.append(_check_times(time, profile.time))
    values, bad = _values(profile.fields, raw)
    return pl.DataFrame(
        {
            "row": np.arange(first_row, first_row + len(raw)),
            "user_id": _text(raw, schema.user),
            "time": time,
            **values,
            INVALID: _reasons(raw, [*checks, *bad]),
        }
    )


def _tables(schema: Schema, name: str, path: str | list[str], given: Any | None) -> list[_Table]:
    if given is not None:
        try:
            frame = given if isinstance(given, pl.DataFrame) else pl.DataFrame(given)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise SourceError(f"frame {name!r} is not a table: {error}.") from error
        scanned = files.without_patterns(frame.lazy(), frame.columns)
        return [_Table(f"frame {name!r}", scanned, scanned.collect_schema(), ())]
    tables = []
    for file in files.expand(path, schema.folder):
        scanned = files.scan(file)
        tables.append(_Table(str(file), scanned, files.columns_of(scanned, file), (file,)))
    return tables


def _count_rows(table: _Table) -> int:
    with files.reading(*table.files):
        return int(table.frame.select(pl.len()).collect(engine="streaming").item())


def _dimension(schema: Schema, lookup: Lookup) -> _Table:
    """Read the files of a lookup as one table, whose keys are text and stand once."""
    tables = _tables(schema, "lookup", lookup.path, None)
    named = {column for source in schema.sources.values() for column in _named(schema, source)}
    parts = []
    for table in tables:
        _require(table, "lookup.on", lookup.on)
        values = [column for column in table.columns if column in named - {lookup.on}]
        key = _as_text(lookup.on, table.columns[lookup.on])
        with files.reading(*table.files):
            parts.append(table.frame.select(key, *values).collect(engine="streaming"))
    rows = pl.concat(parts, how="diagonal_relaxed").drop_nulls(lookup.on)
    twice = rows.filter(pl.col(lookup.on).is_duplicated())
    if len(twice):
        raise SourceError(
            f'{", ".join(table.name for table in tables)}, column "{lookup.on}": '
            f"{twice[lookup.on][0]!r} stands in more than one row, so it is not known which to "
            "join. Keep one row a value."
        )
    # All columns, so that the message about a missing one can name them.
    columns = {name: dtype for table in tables for name, dtype in table.columns.items()}
    paths = tuple(path for table in tables for path in table.files)
    return _Table(tables[0].name, rows.lazy(), {**columns, **rows.schema}, paths)


def _join(table: _Table, lookup: Lookup, dimension: _Table) -> _Table:
    """A log with the columns of a lookup that it does not have itself."""
    _require(table, "lookup.on", lookup.on)
    key = _as_text(lookup.on, table.columns[lookup.on])
    added = {name: dtype for name, dtype in dimension.columns.items() if name not in table.columns}
    present = [name for name in dimension.frame.collect_schema().names() if name in added]
    joined = table.frame.with_columns(key).join(
        dimension.frame.select(lookup.on, *present),
        on=lookup.on,
        how="left",
        maintain_order="left",
    )
    columns = {**table.columns, lookup.on: pl.String(), **added}
    return _Table(table.name, joined, columns, table.files + dimension.files)


def _check_columns(schema: Schema, tables: list[tuple[str, _Table]]) -> None:
    """Every table must hold its user, time and action; one must hold each attribute's column."""
    for name, table in tables:
        source = schema.sources[name]
        _require(table, "user", schema.user)
        _require(table, f"sources.{name}.time.column", source.time.column)
        _require_times(table, source.time)
        if not isinstance(source.action, str):
            _require(table, f"sources.{name}.action.column", source.action.column)
    for name, attribute in schema.attributes.items():
        if not isinstance(attribute, Derived):
            holders = [table for _, table in tables if attribute.column in table.columns]
            for table in holders or [tables[0][1]]:
                _require(table, f"attributes.{name}.column", attribute.column)


def _named(schema: Schema, source: Source) -> set[str]:
    """The columns of a source that the schema makes use of."""
    action = set() if isinstance(source.action, str) else {source.action.column}
    keys = {lookup.on for lookup in source.lookup}
    attributes = {
        attribute.column
        for attribute in schema.attributes.values()
        if not isinstance(attribute, Derived)
    }
    return {schema.user, source.time.column} | action | keys | attributes


def _events(schema: Schema, source: Source, raw: pl.DataFrame, first_row: int) -> pl.DataFrame:
    """Columns as the kernel takes them, and why a row cannot be used."""
    time = instants(raw[source.time.column], source.time, schema.timezone)
    checks = [_check_users(raw, schema.user), _check_times(time, source.time)]
    if isinstance(source.action, str):
        action = pl.Series([source.action], dtype=pl.String).new_from_index(0, len(raw))
    else:
        action = _text(raw, source.action.column)
        checks.append(_Check(source.action.column, "an action type", action.is_null()))
    values, bad = _values(schema.attributes, raw)
    return pl.DataFrame(
        {
            "row": np.arange(first_row, first_row + len(raw)),
            "user_id": _text(raw, schema.user),
            "time": time,
            "action_type": action,
            **values,
            **_derived(schema, source.time, time, action),
            INVALID: _reasons(raw, [*checks, *bad]),
        }
    )


@dataclass(frozen=True)
class _Check:
    """Which rows cannot be used for what a column holds."""

    column: str
    expected: str
    bad: pl.Series


def _check_users(raw: pl.DataFrame, column: str) -> _Check:
    users = _text(raw, column)
    bad = users.is_null() | (users == "").fill_null(value=True)
    if raw[column].dtype.is_float():
        bad = bad | ~users.str.contains(r"^-?\d+$").fill_null(value=True)
    return _Check(column, "a user id", bad)


def _check_times(instant: pl.Series, time: Time) -> _Check:
    expected = "a date" if time.resolution == "day" else "a time"
    return _Check(time.column, f"{expected} between 1900 and 2200", instant.is_null())


def _values(
    attributes: Mapping[str, Category | Number | Derived], raw: pl.DataFrame
) -> tuple[dict[str, pl.Series], list[_Check]]:
    """The values of categories and numbers, and which rows cannot be used for them."""
    values: dict[str, pl.Series] = {}
    checks: list[_Check] = []
    for name, attribute in attributes.items():
        if isinstance(attribute, Derived):
            continue
        if attribute.column not in raw.columns:
            dtype = pl.String if isinstance(attribute, Category) else pl.Float32
            values[name] = pl.Series(dtype=dtype).clear(len(raw))
        elif isinstance(attribute, Category):
            values[name] = _text(raw, attribute.column)
        else:
            values[name], check = _numbers(raw, attribute)
            checks.append(check)
    return values, checks


def _numbers(raw: pl.DataFrame, attribute: Number) -> tuple[pl.Series, _Check]:
    """A column's numbers as float32, null where there is none."""
    column = raw[attribute.column]
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    exact = column.cast(pl.Float64, strict=False).fill_nan(None)
    numbers = exact.cast(pl.Float32)
    bad = column.is_not_null() & exact.is_null()
    if bad.any():
        bad = bad & ~column.cast(pl.String).str.to_lowercase().is_in(["", "nan"])
    bad = bad | numbers.is_infinite().fill_null(value=False)
    expected = "a number"
    if attribute.min is not None:
        bad = bad | (exact < attribute.min).fill_null(value=False)
        expected = f"a number ≥ {attribute.min:g}"
    return numbers, _Check(attribute.column, expected, bad)


def _derived(
    schema: Schema, source: Time, time: pl.Series, action: pl.Series
) -> dict[str, pl.Series]:
    """Local hour, weekday and action type; a date has no hour."""
    derived = {}
    local = time.cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(schema.timezone)
    for name, attribute in schema.attributes.items():
        if not isinstance(attribute, Derived):
            continue
        if attribute.of == "action":
            derived[name] = action
        elif attribute.of == "weekday":
            derived[name] = _SMALL_NUMBERS.gather(local.dt.weekday())
        elif source.resolution == "instant":
            derived[name] = _SMALL_NUMBERS.gather(local.dt.hour())
        else:
            derived[name] = pl.Series(dtype=pl.String).clear(len(time))
    return derived


def _text(raw: pl.DataFrame, column: str) -> pl.Series:
    return raw.select(_as_text(column, raw.schema[column])).to_series()


def _as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column's values as text: 17.0, an integer that went through a table with gaps, is 17."""
    value = pl.col(column)
    if not dtype.is_float():
        return value.cast(pl.String)
    number = value.fill_nan(None)
    whole = pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False))
    return pl.coalesce(whole.cast(pl.String), number.cast(pl.String))


def _reasons(raw: pl.DataFrame, checks: list[_Check]) -> pl.Series:
    """Why each row cannot be used: the first check that it fails; null where it can."""
    reasons = pl.Series(dtype=pl.String).clear(len(raw))
    for check in reversed(checks):
        rows = check.bad.arg_true()
        if len(rows):
            found = raw[check.column].gather(rows).cast(pl.String)
            shown = ('"' + found.str.slice(0, 60) + '"').fill_null("nothing")
            told = f'column "{check.column}": expected {check.expected}, found ' + shown
            reasons = reasons.scatter(rows, told)
    return reasons


def _require(table: _Table, place: str, column: str) -> None:
    """Raise `SourceError` unless a table has a column of single values."""
    if column not in table.columns:
        raise SourceError(
            f'{table.name}: the column "{column}" is missing (schema: {place}). '
            f"It has: {', '.join(table.columns)}. Correct the schema or the file."
        )
    dtype = table.columns[column]
    if dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object):
        raise SourceError(
            f'{table.name}, column "{column}": expected one text or number a row, found the type '
            f"{dtype}. Write it so, or use another column (schema: {place})."
        )


def _require_times(table: _Table, time: Time) -> None:
    dtype = table.columns[time.column]
    if not can_be_times(dtype):
        raise SourceError(
            f'{table.name}, column "{time.column}": expected times, found the type {dtype}.'
        )
