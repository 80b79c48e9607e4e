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

import polars as pl

from userbert.data.read.rows import as_text, checked_events, checked_profile
from userbert.data.read.times import can_be_times
from userbert.errors import SourceError
from userbert.schema import files
from userbert.schema.attributes import Derived
from userbert.schema.models import Lookup, Profile, Schema, Source, Time
from userbert.schema.yaml_text import did_you_mean

_BATCH_ROWS = 262_144


@dataclass(frozen=True)
class _Table:
    """A file, or a frame in memory, before the schema is applied to it."""

    name: str
    """As errors and the row account call it."""
    frame: pl.LazyFrame
    columns: Mapping[str, pl.DataType]
    file: Path | None
    """None: it is a frame."""
    files: tuple[Path, ...]
    """What is read; with lookups, more than one."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, by names alone, so that they can be read elsewhere."""

    name: str
    """The file as errors and the row account call it."""
    file: Path
    source: str | None
    """That the file belongs to; None: it holds profile rows."""
    first_row: int
    """Counted from 1."""
    rows: int | None
    """None: the whole file."""


@dataclass(frozen=True)
class LogFile:
    """Rows of one file of events or of profile rows, or of a frame in memory, to read in batches.

    They are all of its rows, unless it was opened by a `Piece`.
    """

    name: str
    rows: int
    source: str | None
    """That the file belongs to; None: it holds profile rows."""
    _table: _Table
    _checked: Callable[[pl.DataFrame, int], pl.DataFrame]
    """Checks rows as they stand in the file, of which the first has the number given."""
    _first_row: int = 1

    def batches(self) -> Iterator[pl.DataFrame]:
        """The rows, in order and in bounded memory, with `row` (1 is the first) and `invalid`."""
        row = self._first_row
        with files.reading(*self._table.files):
            for raw in self._table.frame.collect_batches(
                chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"
            ):
                yield self._checked(raw, row)
                row += len(raw)

    def pieces(self, rows: int) -> list[Piece]:
        """Pieces of at most so many rows, if the file can be entered anywhere: Parquet alone can.

        Raises `SourceError` for a frame in memory.
        """
        if self._table.file is None:
            raise SourceError(f"{self.name} is in memory here; write it to a file first.")
        file = self._table.file.absolute()
        if file.suffix.lower() != ".parquet":
            return [Piece(self.name, file, self.source, 1, None)]
        return [
            Piece(self.name, file, self.source, first, min(rows, self.rows + 1 - first))
            for first in range(1, self.rows + 1, rows)
        ]


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
    opened: list[tuple[str, int, _Table]] = []
    for name, source in schema.sources.items():
        lookups = _lookups(schema, source)
        tables = _tables(schema, name, source.path, events.get(name))
        opened += [(name, _count_rows(table), _joined(table, lookups)) for table in tables]
    _check_columns(schema, [(name, table) for name, _, table in opened])
    return [_events_in(schema, name, table, rows) for name, rows, table in opened]


def open_profile(schema: Schema, given: Any | None = None) -> list[LogFile]:
    """Open every file of the profile, if there is one; `given` is a frame in their place.

    `time` is null where the profile has none. Raises `SourceError` as `open_sources` does.
    """
    profile = schema.profile
    if profile is None:
        return []
    return [
        _profile_in(schema, profile, table, _count_rows(table))
        for table in _tables(schema, "profile", profile.path, given)
    ]


def open_piece(schema: Schema, piece: Piece) -> LogFile:
    """Open some rows of a file that `open_sources` or `open_profile` opened before."""
    table = _table(piece.file, piece.name)
    rows = _count_rows(table) if piece.rows is None else piece.rows
    if piece.rows is not None:
        table = replace(table, frame=table.frame.slice(piece.first_row - 1, rows))
    if piece.source is not None:
        table = _joined(table, _lookups(schema, schema.sources[piece.source]))
        opened = _events_in(schema, piece.source, table, rows)
    else:
        assert schema.profile is not None
        opened = _profile_in(schema, schema.profile, table, rows)
    return replace(opened, _first_row=piece.first_row)


def _events_in(schema: Schema, name: str, table: _Table, rows: int) -> LogFile:
    source = schema.sources[name]
    wanted = [column for column in table.columns if column in columns_of_source(schema, source)]
    narrow = replace(table, frame=table.frame.select(wanted))
    return LogFile(table.name, rows, name, narrow, partial(checked_events, schema, source))


def _profile_in(schema: Schema, profile: Profile, table: _Table, rows: int) -> LogFile:
    fields = {f"fields.{name}": field.column for name, field in profile.fields.items()}
    times = {} if profile.time is None else {"time": profile.time.column}
    for place, column in {**times, **fields}.items():
        _require(table, f"profile.{place}", column)
    _require(table, "user", schema.user)
    if profile.time is not None:
        _require_times(table, "profile.time.column", profile.time)
    narrow = replace(table, frame=table.frame.select(columns_of_profile(schema, profile)))
    return LogFile(table.name, rows, None, narrow, partial(checked_profile, schema, profile))


def _tables(schema: Schema, name: str, path: str | list[str], given: Any | None) -> list[_Table]:
    if given is not None:
        try:
            frame = given if isinstance(given, pl.DataFrame) else pl.DataFrame(given)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise SourceError(f"frame {name!r} is not a table: {error}.") from error
        scanned = files.rename_patterns(frame.lazy(), frame.columns)
        return [_Table(f"frame {name!r}", scanned, scanned.collect_schema(), None, ())]
    return [_table(file, str(file)) for file in files.expand(path, schema.folder)]


def _table(file: Path, name: str) -> _Table:
    scanned = files.scan(file)
    return _Table(name, scanned, files.columns_of(scanned, file), file, (file,))


def _count_rows(table: _Table) -> int:
    with files.reading(*table.files):
        return int(table.frame.select(pl.len()).collect(engine="streaming").item())


def _dimension(schema: Schema, lookup: Lookup) -> _Table:
    """Read the files of a lookup as one table, whose keys are text and stand once."""
    tables = _tables(schema, "lookup", lookup.path, None)
    named = {
        column for source in schema.sources.values() for column in columns_of_source(schema, source)
    }
    parts = []
    for table in tables:
        _require(table, "lookup.on", lookup.on)
        values = [column for column in table.columns if column in named - {lookup.on}]
        key = as_text(lookup.on, table.columns[lookup.on])
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
    return _Table(tables[0].name, rows.lazy(), {**columns, **rows.schema}, None, paths)


def _lookups(schema: Schema, source: Source) -> list[tuple[Lookup, _Table]]:
    return [(lookup, _dimension(schema, lookup)) for lookup in source.lookup]


def _joined(table: _Table, lookups: list[tuple[Lookup, _Table]]) -> _Table:
    """A log with the columns of lookups that it does not have itself."""
    for lookup, dimension in lookups:
        table = _join(table, lookup, dimension)
    return table


def _join(table: _Table, lookup: Lookup, dimension: _Table) -> _Table:
    _require(table, "lookup.on", lookup.on)
    key = as_text(lookup.on, table.columns[lookup.on])
    added = {name: dtype for name, dtype in dimension.columns.items() if name not in table.columns}
    present = [name for name in dimension.frame.collect_schema().names() if name in added]
    joined = table.frame.with_columns(key).join(
        dimension.frame.select(lookup.on, *present),
        on=lookup.on,
        how="left",
        maintain_order="left",
    )
    columns = {**table.columns, lookup.on: pl.String(), **added}
    return replace(table, frame=joined, columns=columns, files=table.files + dimension.files)


def _check_columns(schema: Schema, tables: list[tuple[str, _Table]]) -> None:
    """Every table must hold its user, time and action; one must hold each attribute's column."""
    for name, table in tables:
        source = schema.sources[name]
        _require(table, "user", schema.user)
        _require(table, f"sources.{name}.time.column", source.time.column)
        _require_times(table, f"sources.{name}.time.column", source.time)
        if not isinstance(source.action, str):
            _require(table, f"sources.{name}.action.column", source.action.column)
    for name, attribute in schema.attributes.items():
        if not isinstance(attribute, Derived):
            holders = [table for _, table in tables if attribute.column in table.columns]
            for table in holders or [tables[0][1]]:
                _require(table, f"attributes.{name}.column", attribute.column)


def columns_of_source(schema: Schema, source: Source) -> list[str]:
    """The columns of a source that the schema makes use of, those of lookups among them."""
    action = [] if isinstance(source.action, str) else [source.action.column]
    keys = [lookup.on for lookup in source.lookup]
    attributes = [
        attribute.column
        for attribute in schema.attributes.values()
        if not isinstance(attribute, Derived)
    ]
    return list(dict.fromkeys([schema.user, source.time.column, *action, *keys, *attributes]))


def columns_of_profile(schema: Schema, profile: Profile) -> list[str]:
    """The columns of profile rows that the schema makes use of."""
    times = [] if profile.time is None else [profile.time.column]
    fields = [field.column for field in profile.fields.values()]
    return list(dict.fromkeys([schema.user, *times, *fields]))


def _require(table: _Table, place: str, column: str) -> None:
    """Raise `SourceError` unless a table has a column of single values."""
    if column not in table.columns:
        raise SourceError(
            f'{table.name}: the column "{column}" is missing (schema: {place})'
            f"{did_you_mean(column, table.columns) or '.'} It has: "
            f"{files.join_names(table.columns)}. Correct the schema or the file."
        )
    dtype = table.columns[column]
    if dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration):
        raise SourceError(
            f'{table.name}, column "{column}": expected one text or number a row, found the type '
            f"{dtype}. Write it so, or use another column (schema: {place})."
        )


def _require_times(table: _Table, place: str, time: Time) -> None:
    dtype = table.columns[time.column]
    if not can_be_times(dtype):
        found = "no value at all" if dtype == pl.Null else f"the type {dtype}"
        raise SourceError(
            f'{table.name}, column "{time.column}": expected times, found {found}. Use another '
            f"column (schema: {place}), or correct the file."
        )
