"""Opens raw logs, joins lookups, and checks rows.

In: the sources and profile of a schema (files or frames). Out: `LogFile`s, which yield batches of
checked events or profile rows with the columns of `data/read/rows.py`; invalid rows have a reason.
Used by preparation.
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
"""Number of rows per batch: smaller batches are slow, larger batches need more memory."""


@dataclass(frozen=True)
class _Table:
    """File, or frame in memory, before the schema is applied."""

    name: str
    """Name in errors and in the row account."""
    frame: pl.LazyFrame
    columns: Mapping[str, pl.DataType]
    """Type of each column."""
    file: Path | None
    """The file; None for a frame in memory."""
    files: tuple[Path, ...]
    """All files that are read: the file, and those of lookups."""


@dataclass(frozen=True)
class Piece:
    """Range of rows of a file. Picklable, so that another process can read it."""

    name: str
    """Name of the file in errors and in the row account."""
    file: Path
    source: str | None
    """Source that the file belongs to; None for profile rows."""
    first_row: int
    """Number of the first row in the file; rows are numbered from 1."""
    rows: int | None
    """Number of rows; None: all rows of the file."""


@dataclass(frozen=True)
class LogFile:
    """Opened file (or frame in memory) of events or profile rows, to read in batches.

    Holds all rows of the file, or the rows of a `Piece`.
    """

    name: str
    """Name in errors and in the row account."""
    rows: int
    """Number of rows."""
    source: str | None
    """Source that the file belongs to; None for profile rows."""
    _table: _Table
    _check: Callable[[pl.DataFrame, int], pl.DataFrame]
    """Checks raw rows, given the number of the first row in the file."""
    _first_row: int = 1
    """Number of the first row in the file."""
    batch_rows: int = _BATCH_ROWS
    """Approximate number of rows per batch."""

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yields the rows in order, in bounded memory, with `row` (from 1) and `invalid`."""
        row = self._first_row
        with files.locating_faults(*self._table.files):
            for raw in self._table.frame.collect_batches(
                chunk_size=self.batch_rows, maintain_order=True, engine="streaming"
            ):
                yield self._check(raw, row)
                row += len(raw)

    def pieces(self, rows: int) -> list[Piece]:
        """Splits a Parquet file into pieces of at most `rows` rows; other files are one piece.

        Raises `SourceError` for a frame in memory.
        """
        if self._table.file is None:
            raise SourceError(f"{self.name} is in the driver's memory. Write it to a file first.")
        file = self._table.file.absolute()
        if file.suffix.lower() != ".parquet":
            return [Piece(self.name, file, self.source, 1, None)]
        return [
            Piece(self.name, file, self.source, first, min(rows, self.rows + 1 - first))
            for first in range(1, self.rows + 1, rows)
        ]


def open_sources(schema: Schema, events: Mapping[str, Any] | None = None) -> list[LogFile]:
    """Opens every file of every source. `events` holds frames in place of files, by source.

    Raises `SourceError` if a file cannot be opened, or if a column of the schema is missing or has
    an unsuitable type.
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
        tables = _open_tables(schema, name, source.path, events.get(name))
        opened += [(name, _count_rows(table), _join_lookups(table, lookups)) for table in tables]
    _check_columns(schema, [(name, table) for name, _, table in opened])
    return [_event_log(schema, name, table, rows) for name, rows, table in opened]


def open_profile(schema: Schema, frame: Any | None = None) -> list[LogFile]:
    """Opens every file of the profile, if there is one. `frame` replaces the files.

    In batches, `time` is null if the profile has no times. Raises `SourceError` as `open_sources`
    does.
    """
    profile = schema.profile
    if profile is None:
        return []
    return [
        _profile_log(schema, profile, table, _count_rows(table))
        for table in _open_tables(schema, "profile", profile.path, frame)
    ]


def open_piece(schema: Schema, piece: Piece) -> LogFile:
    """Opens a piece of a file that `open_sources` or `open_profile` has opened before."""
    table = _open_table(piece.file, piece.name)
    rows = _count_rows(table) if piece.rows is None else piece.rows
    if piece.rows is not None:
        table = replace(table, frame=table.frame.slice(piece.first_row - 1, rows))
    if piece.source is not None:
        table = _join_lookups(table, _lookups(schema, schema.sources[piece.source]))
        opened = _event_log(schema, piece.source, table, rows)
    else:
        assert schema.profile is not None
        opened = _profile_log(schema, schema.profile, table, rows)
    return replace(opened, _first_row=piece.first_row)


def _event_log(schema: Schema, name: str, table: _Table, rows: int) -> LogFile:
    source = schema.sources[name]
    columns = [column for column in table.columns if column in columns_of_source(schema, source)]
    narrow = replace(table, frame=table.frame.select(columns))
    return LogFile(table.name, rows, name, narrow, partial(checked_events, schema, source))


def _profile_log(schema: Schema, profile: Profile, table: _Table, rows: int) -> LogFile:
    fields = {f"fields.{name}": field.column for name, field in profile.fields.items()}
    times = {} if profile.time is None else {"time": profile.time.column}
    for place, column in {**times, **fields}.items():
        _require(table, f"profile.{place}", column)
    _require(table, "user", schema.user)
    if profile.time is not None:
        _require_times(table, "profile.time.column", profile.time)
    narrow = replace(table, frame=table.frame.select(columns_of_profile(schema, profile)))
    return LogFile(table.name, rows, None, narrow, partial(checked_profile, schema, profile))


def _open_tables(
    schema: Schema, name: str, path: str | list[str], frame: Any | None
) -> list[_Table]:
    """Opens the files at `path`, or `frame` in their place. Errors call the frame `name`."""
    if frame is not None:
        try:
            frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise SourceError(f"frame {name!r} is not a table: {error}.") from error
        scanned = files.rename_patterns(frame.lazy(), frame.columns)
        return [_Table(f"frame {name!r}", scanned, scanned.collect_schema(), None, ())]
    return [_open_table(file, str(file)) for file in files.expand(path, schema.folder)]


def _open_table(file: Path, name: str) -> _Table:
    scanned = files.scan(file)
    return _Table(name, scanned, files.columns_of(scanned, file), file, (file,))


def _count_rows(table: _Table) -> int:
    with files.locating_faults(*table.files):
        return int(table.frame.select(pl.len()).collect(engine="streaming").item())


def _dimension(schema: Schema, lookup: Lookup) -> _Table:
    """Reads the files of a lookup as one table with unique text keys."""
    tables = _open_tables(schema, "lookup", lookup.path, None)
    used = {
        column for source in schema.sources.values() for column in columns_of_source(schema, source)
    }
    parts = []
    for table in tables:
        _require(table, "lookup.on", lookup.on)
        values = [column for column in table.columns if column in used - {lookup.on}]
        key = as_text(lookup.on, table.columns[lookup.on])
        with files.locating_faults(*table.files):
            parts.append(table.frame.select(key, *values).collect(engine="streaming"))
    rows = pl.concat(parts, how="diagonal_relaxed").drop_nulls(lookup.on)
    repeated = rows.filter(pl.col(lookup.on).is_duplicated())
    if len(repeated):
        raise SourceError(
            f'{", ".join(table.name for table in tables)}, column "{lookup.on}": '
            f"expected unique values, found {repeated[lookup.on][0]!r} in more than one row. Keep "
            "one row per value."
        )
    # All columns of the files, so that the message about a missing column lists them.
    columns = {name: dtype for table in tables for name, dtype in table.columns.items()}
    paths = tuple(path for table in tables for path in table.files)
    return _Table(tables[0].name, rows.lazy(), {**columns, **rows.schema}, None, paths)


def _lookups(schema: Schema, source: Source) -> list[tuple[Lookup, _Table]]:
    return [(lookup, _dimension(schema, lookup)) for lookup in source.lookup]


def _join_lookups(table: _Table, lookups: list[tuple[Lookup, _Table]]) -> _Table:
    """Adds the columns of lookups that a log does not have."""
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
    """Raises `SourceError` if a required column is missing, or has an unsuitable type.

    Every table needs the columns of users, times and action types; at least one table needs the
    column of an attribute.
    """
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
    """Returns the columns of a source that the schema uses, including those of lookups."""
    action = [] if isinstance(source.action, str) else [source.action.column]
    keys = [lookup.on for lookup in source.lookup]
    attributes = [
        attribute.column
        for attribute in schema.attributes.values()
        if not isinstance(attribute, Derived)
    ]
    return list(dict.fromkeys([schema.user, source.time.column, *action, *keys, *attributes]))


def columns_of_profile(schema: Schema, profile: Profile) -> list[str]:
    """Returns the columns of profile rows that the schema uses."""
    times = [] if profile.time is None else [profile.time.column]
    fields = [field.column for field in profile.fields.values()]
    return list(dict.fromkeys([schema.user, *times, *fields]))


def _require(table: _Table, place: str, column: str) -> None:
    """Raises `SourceError` unless a table has the column, with one text or number per row."""
    if column not in table.columns:
        raise SourceError(
            f'{table.name}: the column "{column}" is missing (schema: {place})'
            f"{did_you_mean(column, table.columns) or '.'} It has: "
            f"{files.join_names(table.columns)}. Correct the schema or the file."
        )
    dtype = table.columns[column]
    if dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration):
        raise SourceError(
            f'{table.name}, column "{column}": expected one text or number per row, found the type '
            f"{dtype}. Convert it, or use another column (schema: {place})."
        )


def _require_times(table: _Table, place: str, time: Time) -> None:
    dtype = table.columns[time.column]
    if not can_be_times(dtype):
        content = "no values" if dtype == pl.Null else f"the type {dtype}"
        raise SourceError(
            f'{table.name}, column "{time.column}": expected times, found {content}. Use another '
            f"column (schema: {place}), or correct the file."
        )
