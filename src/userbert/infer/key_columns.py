"""Finds the user column and the time column, which every log needs.

In: opened logs. Out: the user column, with the reason as text, and the `Times` of each log.
`infer/inference.py` puts both into the proposed schema.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from userbert.errors import SourceError
from userbert.infer.names import (
    TIME_WORDS,
    is_amount,
    loose_user_name_rank,
    names_a_thing,
    user_name_rank,
    words_of,
)
from userbert.schema.files import join_names, locating_faults

_DATE = "|".join(
    rf"(?:19|20)\d\d{mark}(?:0[1-9]|1[0-2]){mark}(?:0[1-9]|[12]\d|3[01])" for mark in ("-", "/", "")
)
"""Pattern of dates from 1900 to 2099 that start with the year; both separators are equal."""
_DOTTED = r"(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])\.(?:19|20)\d\d"
"""Pattern of dates with dots, in which the day always comes first."""
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d+)?)?"
"""Pattern of times of day, with or without seconds."""
_OFFSET = r"\s*(?:Z|z|UTC|[+-]\d\d:?\d\d)"
"""Pattern of UTC offsets."""
_TIME = re.compile(rf"\s*(?:{_DATE}|{_DOTTED})(?:[T ]{_CLOCK}(?P<offset>{_OFFSET})?)?\s*")
"""Pattern of times as text: a date, optionally with a time of day and an offset."""
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""Number of units of numeric times in a second."""
_MIN_EPOCH, _MAX_EPOCH = 631_152_000, 4_102_444_800
"""Years 1990 and 2100 in seconds since 1970; numbers between the two may be times."""


@dataclass(frozen=True)
class Log:
    """An opened source: its files as one frame, with a sample."""

    name: str
    """Name of the source in the schema."""
    paths: list[str]
    """Paths as the schema names them."""
    files: list[Path]
    """Files behind the paths."""
    frame: pl.LazyFrame
    """All rows of all files."""
    types: dict[str, pl.DataType]
    """Type of each column."""
    rows: int
    """Number of rows in `frame`."""
    sample: pl.DataFrame
    """10,000 to 20,000 evenly spaced rows; all rows of a smaller log."""

    def collect(self, *expressions: pl.Expr) -> pl.DataFrame:
        """Evaluates expressions over all rows, streaming."""
        with locating_faults(*self.files):
            return self.frame.select(*expressions).collect(engine="streaming")


@dataclass(frozen=True)
class Times:
    """The time column of a log, its range and format, and expressions that read it."""

    column: str
    first: datetime
    last: datetime
    """First and last time. Local times count as UTC. Only numeric times have minutes."""
    unit: str | None
    """Unit of numbers since 1970: s, ms or us; None: the times are not numbers."""
    zone: str | None
    """Time zone of the column's type, if it has one."""
    is_day: bool
    """Whether the times are dates without a time of day, or all at midnight."""
    has_offset: bool
    """Whether the times are text, some of it with a UTC offset."""
    missing: int
    """Number of events without a readable time."""
    is_valid: pl.Expr
    """Whether an event has a readable time."""
    day: pl.Expr
    """A value that identifies the date of each event."""
    hour: pl.Expr
    """Hour of the day of each event."""
    second: pl.Expr
    """Seconds since an arbitrary start. If times are text, every month counts 31 days, and offsets
    are ignored."""
    other_columns: list[str]
    """Names of further columns that hold times."""


def find_user(logs: Sequence[Log], profile: Log | None) -> tuple[str, str]:
    """Returns the name of the user column that all logs share, and the reason for the choice.

    Raises `SourceError` if no column fits.
    """
    common = [name for name in logs[0].types if all(name in log.types for log in logs[1:])]
    by_name = {log.name: _columns_named_as_users(log) for log in logs}
    named = [
        name for name in by_name[logs[0].name] if all(name in names for names in by_name.values())
    ]
    if profile is not None:
        in_both = [name for name in named or common if _is_key_of(name, profile, logs[0])]
        if in_both:
            return in_both[0], "found by its name; the profiles have it too, with one row per user"
    if named:
        rest = f"; other candidates: {', '.join(named[1:])}" if named[1:] else ""
        return named[0], f"found by its name{rest}"
    unnamed_log = next((log for log in logs if not by_name[log.name]), None)
    named_log = next((log for log in logs if by_name[log.name]), None)
    if unnamed_log is not None and named_log is not None:
        raise SourceError(
            f"{unnamed_log.files[0]}: expected a user column, such as "
            f"{by_name[named_log.name][0]!r} in {named_log.files[0]}; it has: "
            f"{join_names(unnamed_log.types)}. Give the user column one name "
            "in all logs, or leave this file out."
        )
    if unnamed_log is None and len(logs) > 1:
        columns = ", ".join(f"{names[0]!r} in {name}" for name, names in by_name.items())
        raise SourceError(
            f"the logs have different user columns: {columns}. A schema has one name for the user "
            "column: rename it in the files, so that all have the same name."
        )
    ranks = {
        name: loose_user_name_rank(name) for name in common if _may_hold_ids(logs[0].types[name])
    }
    ranked = sorted((rank, name) for name, rank in ranks.items() if rank is not None)
    if ranked:
        return ranked[0][1], "a guess from its name, which also has other words"
    repeating = _most_repeating_id(common, logs[0])
    if repeating is None:
        unusable = [name for name in common if user_name_rank(name) is not None]
        if unusable:
            raise SourceError(
                f'{logs[0].files[0]}, column "{unusable[0]}": expected user ids, found '
                f"{logs[0].types[unusable[0]]}. Flatten it into a column of text or numbers."
            )
        raise SourceError(
            f"{logs[0].files[0]}: no column looks like a user id, such as user_id or customer_id, "
            f"in every log; it has: {join_names(logs[0].types)}. Rename the user column."
        )
    return repeating, "a guess: its name does not say so, but its values repeat as user ids do"


def _columns_named_as_users(log: Log) -> list[str]:
    """Returns the columns whose names say only that they hold users' ids, the best name first."""
    ranks = {name: user_name_rank(name) for name, kind in log.types.items() if _may_hold_ids(kind)}
    ranked = [(rank, name) for name, rank in ranks.items() if rank is not None]
    return [name for _, name in sorted(ranked)]


def _may_hold_ids(kind: pl.DataType) -> bool:
    """Returns whether a column with a user's name may hold ids, to judge by its type."""
    # Tables with gaps turn integer ids into floats.
    return kind.is_float() or isinstance(kind, pl.Categorical | pl.Enum) or _is_id_type(kind)


def _is_id_type(kind: pl.DataType) -> bool:
    """Returns whether ids usually have this type."""
    return kind == pl.String or kind.is_integer()


def _is_key_of(name: str, profile: Log, log: Log) -> bool:
    """Returns whether a column is nearly unique in the profiles and varies in the log."""
    if name not in profile.types or not _is_id_type(profile.types[name]):
        return False
    if not _may_hold_ids(log.types[name]):
        return False
    values = profile.collect(pl.col(name).n_unique()).item()
    return values > 0.9 * profile.rows and log.sample[name].n_unique() > 1


def _most_repeating_id(columns: Iterable[str], log: Log) -> str | None:
    """Returns the id-like column with the most distinct values, if any has enough.

    Ids of users have at least 20 distinct values, which occur twice or more on average.
    """
    candidates = [
        name
        for name in columns
        if _is_id_type(log.types[name])
        and not names_a_thing(name)
        and not is_amount(name)
        and _epoch_unit(log.sample[name]) is None
        and log.sample[name].null_count() == 0
    ]
    if not candidates:
        return None
    values = log.collect(*(pl.col(name).n_unique() for name in candidates)).row(0)
    repeating = [
        (count, name)
        for count, name in zip(values, candidates, strict=True)
        if 20 <= count <= log.rows / 2
    ]
    return max(repeating)[1] if repeating else None


def find_times(log: Log, user: str) -> Times:
    """Returns the time column of a log. Raises `SourceError` if no column holds times."""
    scores = {name: _time_score(name, log) for name in log.types if name != user}
    candidates = [name for name, score in scores.items() if score is not None]
    if not candidates:
        hint = next((name for name in log.types if set(words_of(name)) & set(TIME_WORDS)), None)
        examples = log.sample[hint].drop_nulls().head(1).to_list() if hint else []
        example = f' Column "{hint}" holds {examples[0]!r}.' if examples else ""
        raise SourceError(
            f"{log.files[0]}: no column holds times; it has: {join_names(log.types)}.{example} "
            "Write times as 2017-09-01T04:00:00, or as seconds, milliseconds or microseconds since "
            "1970. If the log has day numbers, add them to a date of your choice."
        )
    best = max(candidates, key=lambda name: scores[name] or (0, 0.0, 0))
    return _measure_times(log, best, [name for name in candidates if name != best])


def holds_dates(log: Log, name: str) -> bool:
    """Returns whether a column is text with dates or times, none of it eight digits alone."""
    values = log.sample[name].drop_nulls()
    if values.dtype != pl.String or values.is_empty():
        return False
    return _share_of_times(values) > 0.9 and not values.str.contains(r"^\s*\d{8}\s*$").any()


def holds_clock(log: Log, name: str) -> bool:
    """Returns whether a column holds times of day without dates."""
    if log.types[name] == pl.Time:
        return True
    values = log.sample[name].drop_nulls()
    if values.dtype != pl.String or values.is_empty():
        return False
    clocks = values.str.contains(rf"^\s*{_CLOCK}\s*$").sum()
    return clocks > 0.9 * len(values)


def _time_score(name: str, log: Log) -> tuple[int, float, int] | None:
    """Scores a column as the time of events; None: it holds no times.

    Higher tuples are better: name and format, then the share of non-null values, then the number
    of distinct values.
    """
    kind, values = log.types[name], log.sample[name]
    non_null = values.drop_nulls()
    if non_null.is_empty():
        return None
    by_name = sum(TIME_WORDS.get(word, 0) for word in words_of(name))
    is_time = kind.is_temporal() and kind not in (pl.Time, pl.Duration)
    # Eight digits may be a code; they are a date only if the name says so.
    is_digits = by_name > 0 and kind == pl.String and _share_of_times(non_null) > 0.9
    if is_time or is_digits or holds_dates(log, name):
        by_format = 5
    elif _epoch_unit(values) is not None and by_name > 0:
        by_format = 0
    else:
        return None
    return by_name + by_format, len(non_null) / len(values), non_null.n_unique()


def _share_of_times(values: pl.Series) -> float:
    """Returns the share of times among the first 1,000 values."""
    return sum(_TIME.fullmatch(value) is not None for value in values.head(1000)) / min(
        len(values), 1000
    )


def _epoch_unit(values: pl.Series) -> str | None:
    """Returns the unit in which all numbers are times from 1990 to 2100; None if no unit fits."""
    if values.dtype == pl.String:
        values = values.filter(values.str.contains(r"^\s*$").not_())
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
    elif values.dtype.is_numeric():
        numbers = values.cast(pl.Float64)
    else:
        return None
    if numbers.is_empty() or numbers.null_count() > values.null_count():
        return None
    for unit, scale in _UNITS.items():
        if numbers.drop_nulls().is_between(_MIN_EPOCH * scale, _MAX_EPOCH * scale).all():
            return unit
    return None


def _measure_times(log: Log, name: str, other_columns: list[str]) -> Times:
    """Returns a time column's format, range and number of rows without a readable time."""
    kind, column = log.types[name], pl.col(name)
    unit, zone, has_offset = None, None, False
    if isinstance(kind, pl.Date | pl.Datetime):
        valid = column.dt.year().is_between(1900, 2200)
        day = column.dt.date()
        hour, midnight = pl.lit(0), valid
        second = column.dt.epoch("s")
        if isinstance(kind, pl.Datetime):
            zone = kind.time_zone
            hour, midnight = column.dt.hour(), column.dt.time() == pl.time(0)
    elif kind == pl.String and _epoch_unit(log.sample[name]) is None:
        column = column.str.strip_chars().str.replace(r"^(\d\d)\.(\d\d)\.(\d{4})", "$3-$2-$1")
        values = log.sample[name].drop_nulls()
        matches = (_TIME.fullmatch(value) for value in values)
        has_offset = any(match is not None and match["offset"] for match in matches)
        valid = column.str.contains(rf"^(?:{_DATE})(?:[T ]|$)")
        length = 8 if values.str.contains(r"^\s*\d{8}").any() else 10
        day, hour = column.str.slice(0, length), column.str.slice(length + 1, 2)
        second = _seconds_in_text(column)
        midnight = column.str.slice(length).str.contains(r"^([T ]00:00(:00(\.0+)?)?( ?UTC|Z)?)?$")
    else:
        unit = _epoch_unit(log.sample[name])
        assert unit is not None, "find_times selects only columns with times"
        second = column.cast(pl.Float64, strict=False) / _UNITS[unit]
        column, valid = second, second.is_between(_MIN_EPOCH, _MAX_EPOCH)
        day, hour = (second / 86_400).floor(), (second % 86_400 / 3600).floor()
        midnight = second % 86_400 == 0
    # The sample shows that most logs have times of day; only the others need a scan of all rows.
    if not log.sample.select(midnight.filter(valid).all()).item():
        midnight = pl.lit(value=False)
    first, last, valid_rows, is_day = log.collect(
        column.filter(valid).min().alias("first"),
        column.filter(valid).max().alias("last"),
        valid.sum().alias("valid"),
        midnight.filter(valid).all().alias("is_day"),
    ).row(0)
    if not valid_rows:
        raise SourceError(f'{log.files[0]}, column "{name}": no time between 1900 and 2200.')
    return Times(
        name, _to_datetime(first), _to_datetime(last), unit, zone, is_day, has_offset,
        log.rows - valid_rows, valid, day, hour, second.cast(pl.Float64), other_columns,
    )  # fmt: skip


def _seconds_in_text(column: pl.Expr) -> pl.Expr:
    """Reads times as text into seconds since year 0, as if every month had 31 days."""
    digits = column.str.replace_all(r"\D", "").str.pad_end(14, "0")
    scales = {0: (4, 12 * 31 * 86_400), 4: (2, 31 * 86_400), 6: (2, 86_400)}
    scales |= {8: (2, 3600), 10: (2, 60), 12: (2, 1)}
    parts = (
        digits.str.slice(start, length).cast(pl.Float64, strict=False) * scale
        for start, (length, scale) in scales.items()
    )
    return pl.sum_horizontal(*parts, ignore_nulls=False)


def _to_datetime(value: Any) -> datetime:
    """Converts a log's time to a `datetime`; local times count as UTC.

    `value` is seconds since 1970 as a float, or anything whose text starts with a date and perhaps
    an hour; minutes are then dropped.
    """
    if isinstance(value, float):
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=value)
    year, month, day, hour = (
        int(part) if part else 0
        for part in re.findall(r"^(\d{4})[-/]?(\d\d)[-/]?(\d\d)(?:[T ](\d\d))?", str(value))[0]
    )
    # Adding days reads 31 June as 1 July, so that an invalid date does not stop the proposal.
    return datetime(year, month, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)
