"""Read, join and check raw logs.

In: the sources of a schema (files or frames). Out: batches of checked events with the columns
`user_id`, `time` (µs since 1970), `action_type` and one an attribute; rows that cannot be used,
each with its reason; and a count of every row (design: nothing lost). Used by preparation and by
anything that reads raw events.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from userbert.errors import SourceError
from userbert.schema import files
from userbert.schema.models import Category, Derived, Number, Profile, Schema, Source, Time

_BATCH_ROWS = 262_144
_DAY_US = 86_400_000_000
# Years 1900 to 2200: a time outside is a broken row, not a long history.
_EARLIEST_US, _LATEST_US = -2_208_988_800_000_000, 7_258_118_400_000_000

INVALID = "invalid"
"""The column that says why a row cannot be used; null where it can."""


@dataclass
class RowAccount:
    """What became of the rows of one file; the parts add up to what was read."""

    read: int = 0
    used: int = 0
    outside_segments: int = 0
    quarantined: int = 0
    duplicates_dropped: int = 0
    forgotten: int = 0
    outside_by_action: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Write as plain JSON."""
        return {**vars(self), "outside_by_action": dict(self.outside_by_action.most_common(50))}


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
    """One file of a source, or a frame in memory, ready to be read in batches."""

    name: str
    rows: int
    frame: pl.LazyFrame
    """Normalised events with `row` (1 is the first) and `invalid`."""
    files: tuple[Path, ...]

    def batches(self) -> Iterator[pl.DataFrame]:
        """The file's rows, in order, in bounded memory."""
        with files.reading(*self.files):
            yield from self.frame.collect_batches(
                chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"
            )


def open_sources(schema: Schema, events: Mapping[str, Any] | None = None) -> list[LogFile]:
    """Open every file of every source. `events` gives frames in place of the sources' files.

    Raises `SourceError` when a file cannot be opened or a column that the schema names is missing.
    """
    events = events or {}
    unknown = set(events) - set(schema.sources)
    if unknown:
        raise SourceError(
            f"events: no source is named {sorted(unknown)[0]!r}; "
            f"the schema has {', '.join(schema.sources)}."
        )
    opened = [
        (name, _join_lookups(schema, source, table))
        for name, source in schema.sources.items()
        for table in _tables(schema, name, source.path, events.get(name))
    ]
    _check_columns(schema, opened)
    return [
        LogFile(
            table.name,
            _count_rows(table),
            _normalise(schema, schema.sources[name], table),
            table.files,
        )
        for name, table in opened
    ]


def read_profile(schema: Schema, profile: Profile, given: Any | None = None) -> pl.DataFrame:
    """Read all profile rows; `time` is null where the profile has none."""
    frames = []
    for table in _tables(schema, "profile", profile.path, given):
        for place, column in (("user", schema.user), *_profile_columns(profile)):
            if column not in table.columns:
                raise _missing_column(table, place, column)
        if profile.time is None:
            time, time_invalid = pl.lit(None, pl.Int64), None
        else:
            time, time_invalid = _time(profile.time, table, schema)
        values, invalid = _values(profile.fields, table)
        frame = table.frame.with_row_index("row", offset=1).select(
            "row",
            _user_id(schema, table).alias("user_id"),
            time.alias("time"),
            *values,
            _first_reason([_user_invalid(schema, table), time_invalid, *invalid]).alias(INVALID),
            pl.lit(table.name).alias("file"),
        )
        with files.reading(*table.files):
            frames.append(frame.collect(engine="streaming"))
    return pl.concat(frames)


def _tables(schema: Schema, name: str, path: str | list[str], given: Any | None) -> list[_Table]:
    if given is not None:
        frame = (given if isinstance(given, pl.DataFrame) else pl.DataFrame(given)).lazy()
        return [_Table(f"frame {name!r}", frame, frame.collect_schema(), ())]
    tables = []
    for file in files.expand(path, schema.folder):
        frame = files.scan(file)
        tables.append(_Table(str(file), frame, frame.collect_schema(), (file,)))
    return tables


def _count_rows(table: _Table) -> int:
    with files.reading(*table.files):
        return int(table.frame.select(pl.len()).collect(engine="streaming").item())


def _join_lookups(schema: Schema, source: Source, table: _Table) -> _Table:
    """Join a source's dimension tables."""
    for lookup in source.lookup:
        if lookup.on not in table.columns:
            raise _missing_column(table, "lookup.on", lookup.on)
        key = pl.col(lookup.on).cast(pl.String)
        for dimension in _tables(schema, "lookup", lookup.path, None):
            if lookup.on not in dimension.columns:
                raise _missing_column(dimension, "lookup.on", lookup.on)
            added = {
                column: dtype
                for column, dtype in dimension.columns.items()
                if column not in table.columns
            }
            with files.reading(*dimension.files):
                rows = dimension.frame.select(key, *added).collect(engine="streaming")
            twice = rows.filter(pl.col(lookup.on).is_duplicated())
            if len(twice):
                raise SourceError(
                    f'{dimension.name}, column "{lookup.on}": {twice[lookup.on][0]!r} stands in '
                    "more than one row, so it is not known which to join. Keep one row a value."
                )
            joined = table.frame.with_columns(key).join(
                rows.lazy(), on=lookup.on, how="left", maintain_order="left"
            )
            columns = {**table.columns, lookup.on: pl.String(), **added}
            table = _Table(table.name, joined, columns, table.files + dimension.files)
    return table


def _check_columns(schema: Schema, tables: list[tuple[str, _Table]]) -> None:
    """Every table must hold its user, time and action; one must hold each attribute's column."""
    for name, table in tables:
        source = schema.sources[name]
        needed = {"user": schema.user, f"sources.{name}.time.column": source.time.column}
        if not isinstance(source.action, str):
            needed[f"sources.{name}.action.column"] = source.action.column
        for place, column in needed.items():
            if column not in table.columns:
                raise _missing_column(table, place, column)
    everywhere = {column for _, table in tables for column in table.columns}
    for name, attribute in schema.attributes.items():
        if not isinstance(attribute, Derived) and attribute.column not in everywhere:
            raise _missing_column(tables[0][1], f"attributes.{name}.column", attribute.column)


def _normalise(schema: Schema, source: Source, table: _Table) -> pl.LazyFrame:
    """Columns as the kernel takes them, and why a row cannot be used."""
    time, time_invalid = _time(source.time, table, schema)
    action_invalid = None
    if isinstance(source.action, str):
        action = pl.lit(source.action)
    else:
        action = pl.col(source.action.column).cast(pl.String)
        action_invalid = pl.when(action.is_null()).then(
            _reason(source.action.column, "an action type", action)
        )
    values, invalid = _values(schema.attributes, table)
    reasons = [_user_invalid(schema, table), time_invalid, action_invalid, *invalid]
    numbered = table.frame.with_row_index("row", offset=1)
    return numbered.with_columns(time.alias("__time"), action.alias("__action_type")).select(
        "row",
        _user_id(schema, table).alias("user_id"),
        pl.col("__time").alias("time"),
        pl.col("__action_type").alias("action_type"),
        *values,
        *_derived(schema, source.time),
        _first_reason(reasons).alias(INVALID),
    )


def _user_id(schema: Schema, table: _Table) -> pl.Expr:
    column = pl.col(schema.user)
    if table.columns[schema.user].is_float():
        # An integer id that went through a table with gaps: 17.0 is user 17.
        column = pl.when(column == column.floor()).then(column.cast(pl.Int64, strict=False))
    return column.cast(pl.String)


def _user_invalid(schema: Schema, table: _Table) -> pl.Expr:
    user = _user_id(schema, table)
    found = pl.col(schema.user).cast(pl.String)
    return pl.when(user.is_null() | (user == "")).then(_reason(schema.user, "a user id", found))


def _values(
    attributes: Mapping[str, Category | Number | Derived], table: _Table
) -> tuple[list[pl.Expr], list[pl.Expr | None]]:
    """The values of categorical and numeric attributes, and what makes a row invalid."""
    values: list[pl.Expr] = []
    invalid: list[pl.Expr | None] = []
    for name, attribute in attributes.items():
        if isinstance(attribute, Derived):
            continue
        missing = attribute.column not in table.columns
        if isinstance(attribute, Category):
            value = pl.lit(None) if missing else pl.col(attribute.column)
            values.append(value.cast(pl.String).alias(name))
            continue
        if missing:
            values.append(pl.lit(None, pl.Float32).alias(name))
            continue
        raw = pl.col(attribute.column)
        number = raw.cast(pl.Float64, strict=False).fill_nan(None)
        values.append(number.cast(pl.Float32).alias(name))
        text = raw.cast(pl.String)
        given = raw.is_not_null() & ~text.str.to_lowercase().is_in(["", "nan"])
        bad = given & (number.is_null() | number.is_infinite())
        expected = "a number"
        if attribute.min is not None:
            bad = bad | (number < attribute.min)
            expected = f"a number ≥ {attribute.min:g}"
        invalid.append(pl.when(bad).then(_reason(attribute.column, expected, text)))
    return values, invalid


def _derived(schema: Schema, time: Time) -> list[pl.Expr]:
    """Local hour, weekday and action type; a date has no hour."""
    local = (
        pl.from_epoch(pl.col("__time"), time_unit="us")
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(schema.timezone)
    )
    hour = local.dt.hour() if time.resolution == "instant" else pl.lit(None)
    expressions = {"hour": hour, "weekday": local.dt.weekday(), "action": pl.col("__action_type")}
    return [
        expressions[attribute.of].cast(pl.String).alias(name)
        for name, attribute in schema.attributes.items()
        if isinstance(attribute, Derived)
    ]


def _time(time: Time, table: _Table, schema: Schema) -> tuple[pl.Expr, pl.Expr]:
    """Microseconds since 1970 of a time column, and what makes a row invalid."""
    column, dtype = pl.col(time.column), table.columns[time.column]
    zone = schema.timezone if time.zone == "local" else time.zone
    naive: pl.Expr | None
    absolute: pl.Expr | None
    if dtype == pl.String:
        naive, absolute = _parse_text(column)
    elif dtype == pl.Date:
        naive, absolute = column.cast(pl.Datetime("us")), None
    elif isinstance(dtype, pl.Datetime):
        moments = column.cast(pl.Datetime("us", dtype.time_zone))
        naive, absolute = (moments, None) if dtype.time_zone is None else (None, moments)
    elif dtype.is_numeric():
        naive, absolute = None, _from_number(column, time.unit)
    else:
        raise SourceError(
            f'{table.name}, column "{time.column}": expected times, found the type {dtype}.'
        )
    if time.resolution == "day":
        # A date is known as a whole: it counts from its last microsecond, in the local zone.
        date = naive if naive is not None else pl.lit(None, pl.Datetime("us"))
        if absolute is not None:
            local = absolute.dt.convert_time_zone(zone).dt.replace_time_zone(None)
            date = pl.coalesce(date, local)
        naive, absolute = date.dt.truncate("1d") + pl.duration(days=1), None
    instants = []
    if absolute is not None:
        instants.append(absolute.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    if naive is not None:
        # Twice an hour a year: the first of two equal local times, and none that was skipped.
        located = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        shifted = (naive + pl.duration(hours=1)).dt.replace_time_zone(
            zone, ambiguous="earliest", non_existent="null"
        )
        located = pl.coalesce(located, shifted)
        instants.append(located.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    instant = pl.coalesce(instants).dt.timestamp("us")
    if time.resolution == "day":
        instant = instant - 1
    in_range = instant.is_between(_EARLIEST_US, _LATEST_US)
    expected = "a date" if time.resolution == "day" else "a time"
    invalid = pl.when(instant.is_null() | ~in_range).then(
        _reason(time.column, f"{expected} between 1900 and 2200", column.cast(pl.String))
    )
    return pl.when(in_range).then(instant), invalid


def _parse_text(column: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """ISO 8601 dates and times: naive ones, and those that carry their offset."""
    text = column.str.strip_chars()
    naive = pl.coalesce(
        text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False),
        text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False),
        text.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False),
        text.str.to_datetime("%Y-%m-%dT%H:%M", time_unit="us", strict=False),
        text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
        text.str.to_date("%Y/%m/%d", strict=False).cast(pl.Datetime("us")),
        text.str.to_date("%Y%m%d", strict=False).cast(pl.Datetime("us")),
    )
    offset = text.str.replace(r"(?i)z$|\s+utc$", "+00:00")
    absolute = pl.coalesce(
        offset.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False),
        offset.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us", strict=False),
        _from_number(pl.when(text.str.contains(r"^-?\d{9,16}(\.\d+)?$")).then(text), "auto"),
    )
    return naive, absolute


def _from_number(column: pl.Expr, unit: str) -> pl.Expr:
    """Times since 1970 in seconds, milliseconds or microseconds."""
    number = column.cast(pl.Float64, strict=False)
    whole = column.cast(pl.Int64, strict=False)
    factors = {"s": 1_000_000, "ms": 1_000, "us": 1}

    def scaled(factor: int) -> pl.Expr:
        # Whole numbers stay exact; only fractions go through floating point.
        exact = whole.cast(pl.Float64) == number
        fraction = (number * factor).round().cast(pl.Int64, strict=False)
        return pl.when(exact).then(whole * factor).otherwise(fraction)

    if unit == "auto":
        # 10^11 s is the year 5138 and 10^11 ms is 1973: sizes do not overlap in practice.
        size = number.abs()
        value = (
            pl.when(size < 1e11).then(scaled(factors["s"]))
            .when(size < 1e14).then(scaled(factors["ms"]))
            .otherwise(scaled(factors["us"]))
        )  # fmt: skip
    else:
        value = scaled(factors[unit])
    return pl.from_epoch(value, time_unit="us").dt.replace_time_zone("UTC")


def _reason(column: str, expected: str, found: pl.Expr) -> pl.Expr:
    shown = pl.when(found.is_null()).then(pl.lit("nothing")).otherwise(
        pl.concat_str(pl.lit('"'), found.str.slice(0, 60), pl.lit('"'), ignore_nulls=True)
    )  # fmt: skip
    return pl.concat_str(pl.lit(f'column "{column}": expected {expected}, found '), shown)


def _first_reason(reasons: list[pl.Expr | None]) -> pl.Expr:
    return pl.coalesce([reason for reason in reasons if reason is not None])


def _profile_columns(profile: Profile) -> Iterator[tuple[str, str]]:
    if profile.time is not None:
        yield "profile.time", profile.time.column
    for name, profile_field in profile.fields.items():
        yield f"profile.fields.{name}", profile_field.column


def _missing_column(table: _Table, place: str, column: str) -> SourceError:
    return SourceError(
        f'{table.name}: the column "{column}" is missing (schema: {place}). '
        f"It has: {', '.join(table.columns)}. Correct the schema or the file."
    )
