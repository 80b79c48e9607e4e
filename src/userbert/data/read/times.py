"""Parses the times of logs (design, decision 1).

In: a column of text, dates, timestamps or numbers, and its description in the schema. Out:
microseconds since 1970, null for a value that is not a time from the start of 1900 to the start of
2200. Used by `data/read/rows.py` and `data/read/sources.py`.
"""

import re
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache

import polars as pl

from userbert.schema.models import Time

_NAIVE, _ABSOLUTE = pl.Datetime("us"), pl.Datetime("us", "UTC")
"""Types of times without and with a time zone."""
_EARLIEST_US, _LATEST_US = -2_208_988_800_000_000, 7_258_118_400_000_000
"""Starts of the years 1900 and 2200. A time outside these bounds is an error in the log."""
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Length in microseconds of the units of numeric times."""
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Number of units in a second, by Polars' name of a timestamp's unit."""
_MAX_INT64 = (1 << 63) - 1
_FORMATS = (
    ("%Y-%m-%d %H:%M:%S", _NAIVE),
    ("%Y-%m-%dT%H:%M:%S", _NAIVE),
    ("%Y-%m-%d", _NAIVE),
    ("%Y-%m-%dT%H:%M:%S%.f%#z", _ABSOLUTE),
    ("%Y-%m-%d %H:%M:%S%.f", _NAIVE),
    ("%Y-%m-%dT%H:%M:%S%.f", _NAIVE),
    ("%Y-%m-%d %H:%M:%S%.f%#z", _ABSOLUTE),
    ("%Y-%m-%d %H:%M:%S%.f UTC", _ABSOLUTE),
    ("%Y-%m-%d %H:%M", _NAIVE),
    ("%Y-%m-%dT%H:%M", _NAIVE),
    ("%Y-%m-%d %H:%M%#z", _ABSOLUTE),
    ("%Y-%m-%dT%H:%M%#z", _ABSOLUTE),
    ("%d.%m.%Y %H:%M:%S", _NAIVE),
    ("%d.%m.%Y %H:%M", _NAIVE),
    ("%d.%m.%Y", _NAIVE),
    ("%Y/%m/%d", _NAIVE),
    ("%Y%m%d", _NAIVE),
)
"""Formats of times as text. If several formats match a text, they give the same time. Parsing stops
once all rows are parsed, so common formats come first. Formats without %.f are faster."""
_SHAPE_LENGTH = 40
"""Maximum number of characters of the shape that decides which format is tried first; every time
as text is shorter."""


def can_be_times(dtype: pl.DataType) -> bool:
    """Returns whether `instants` can parse a column of this type."""
    return isinstance(dtype, pl.String | pl.Date | pl.Datetime) or dtype.is_numeric()


def instants(column: pl.Series, time: Time, timezone: str) -> pl.Series:
    """Returns each value in microseconds since 1970 (int64); null if it is not a time.

    `timezone` is the users' local zone, which `time.zone` may refer to.
    """
    zone = timezone if time.zone == "local" else time.zone
    naive, absolute = _read(column, time.unit)
    if time.resolution == "day":
        # A date stands for its whole day: it counts from its last microsecond, in its zone.
        if absolute is not None:
            local = absolute.dt.convert_time_zone(zone).dt.replace_time_zone(None)
            naive, absolute = _coalesce(naive, local), None
        assert naive is not None
        naive = naive.dt.truncate("1d") + timedelta(days=1)
    localized = None if naive is None else _localize(naive, zone).cast(pl.Int64)
    instant = _coalesce(localized, None if absolute is None else absolute.cast(pl.Int64))
    if time.resolution == "day":
        instant = instant - 1
    is_time = (instant >= _EARLIEST_US) & (instant <= _LATEST_US)
    return instant if is_time.all() else instant.set(~is_time, None)


def _read(column: pl.Series, unit: str) -> tuple[pl.Series | None, pl.Series | None]:
    """Returns the naive times and the absolute times of a column, null where a value is neither.

    A series without values may be None.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.String):
        return _read_text(column, unit)
    if isinstance(dtype, pl.Date | pl.Datetime):
        # Arithmetic on times outside the calendar overflows or panics. The margin of a year or more
        # keeps all valid times in any zone.
        column = pl.DataFrame([column]).select(within(pl.all(), dtype, 1899, 2202)).to_series()
    if isinstance(dtype, pl.Date):
        return column.cast(_NAIVE), None
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return column.cast(_NAIVE), None
        return None, column.dt.convert_time_zone("UTC").cast(_ABSOLUTE)
    numbers = column.cast(pl.Float64, strict=False)
    naive = None
    if unit == "auto":
        is_date = numbers.is_between(19_000_101, 22_001_231)
        if is_date.any():
            # 20170301 is a date, as in text. As seconds, such numbers would be in August 1970.
            dates = numbers.set(~is_date, None).cast(pl.Int64, strict=False).cast(pl.String)
            naive = dates.str.to_datetime("%Y%m%d", time_unit="us", strict=False)
            numbers = numbers.set(is_date, None)
    return naive, _from_numbers(numbers, unit)


def _read_text(text: pl.Series, unit: str) -> tuple[pl.Series | None, pl.Series | None]:
    """Returns the times of a text column: ISO 8601, similar formats, and numbers since 1970."""
    if unit == "auto" and len(text):
        # Most columns have one format, and no surrounding spaces.
        pattern, kind = _formats_for(text[0])[0]
        times = _parse(text, pattern, kind)
        if times.null_count() == text.null_count():
            return (times, None) if kind == _NAIVE else (None, times)
    text = text.str.strip_chars()
    parsed: dict[pl.Datetime, pl.Series | None] = {_NAIVE: None, _ABSOLUTE: None}
    if unit != "auto":
        numbers = _from_numbers(text.cast(pl.Float64, strict=False), unit)
        parsed[_ABSOLUTE], text = numbers, text.set(numbers.is_not_null(), None)
    for pattern, kind in _formats_for(text[0] if len(text) else None):
        if text.null_count() == len(text):
            break
        times = _parse(text, pattern, kind)
        if times.null_count() == len(times):
            continue
        parsed[kind] = _coalesce(parsed[kind], times)
        if times.null_count() == text.null_count():
            return parsed[_NAIVE], parsed[_ABSOLUTE]
        text = text.set(times.is_not_null(), None)
    if unit == "auto" and text.null_count() < len(text):
        # Numbers with fewer digits are years, or not times.
        long = text.str.contains(r"^-?\d{9,16}(\.\d+)?$")
        numbers = text.set(~long, None).cast(pl.Float64, strict=False)
        parsed[_ABSOLUTE] = _coalesce(parsed[_ABSOLUTE], _from_numbers(numbers, unit))
    if parsed[_NAIVE] is None and parsed[_ABSOLUTE] is None:
        parsed[_NAIVE] = pl.Series(dtype=_NAIVE).clear(len(text))
    return parsed[_NAIVE], parsed[_ABSOLUTE]


def _parse(text: pl.Series, pattern: str, kind: pl.Datetime) -> pl.Series:
    """Parses text by one format; null where the format does not match."""
    times = text.str.to_datetime(pattern, time_unit="us", strict=False, cache=False)
    if kind == _ABSOLUTE and times.dtype == _NAIVE:
        times = times.dt.replace_time_zone("UTC")
    return times


def _formats_for(value: str | None) -> Sequence[tuple[str, pl.Datetime]]:
    """Returns all formats, those that match `value` first, as most columns have one format."""
    # The order is cached by shape: the text with a 1 for each digit, which is a valid time.
    return (
        _FORMATS if value is None else _formats_by_shape(re.sub(r"\d", "1", value)[:_SHAPE_LENGTH])
    )


@lru_cache(maxsize=256)
def _formats_by_shape(shape: str) -> Sequence[tuple[str, pl.Datetime]]:
    example = pl.Series([shape])
    return sorted(
        _FORMATS,
        key=lambda form: example.str.to_datetime(form[0], strict=False, cache=False).null_count(),
    )


def within(time: pl.Expr, dtype: pl.Date | pl.Datetime, first: int, last: int) -> pl.Expr:
    """Returns `time` where it is between the starts of the years `first` and `last`, else null."""
    days = [date(year, 1, 1).toordinal() - date(1970, 1, 1).toordinal() for year in (first, last)]
    unit = 1 if isinstance(dtype, pl.Date) else 86_400 * _PER_SECOND[dtype.time_unit]
    low, high = (max(-_MAX_INT64, min(_MAX_INT64, day * unit)) for day in days)
    return pl.when(time.to_physical().is_between(low, high)).then(time)


def _from_numbers(numbers: pl.Series, unit: str) -> pl.Series:
    """Converts numbers since 1970, in seconds, milliseconds or microseconds, to times.

    Whole microseconds between 1900 and 2200 are exact in float64.
    """
    number = pl.col("number")
    # 10^11 s is the year 5138 and 10^11 ms is 1973, so units do not overlap in practice.
    factor = (
        pl.when(number.abs() < 1e11).then(_UNITS["s"])
        .when(number.abs() < 1e14).then(_UNITS["ms"])
        .otherwise(_UNITS["us"])
    )  # fmt: skip
    value = number * (factor if unit == "auto" else _UNITS[unit])
    in_range = value.is_between(_EARLIEST_US, _LATEST_US)
    times = pl.when(in_range).then(value).round().cast(pl.Int64).cast(_ABSOLUTE)
    return pl.DataFrame({"number": numbers}).select(times).to_series()


def _localize(naive: pl.Series, zone: str) -> pl.Series:
    """Converts naive times of a zone to absolute times.

    When the clocks change, a local time that occurs twice means the first occurrence, and a local
    time that is skipped moves an hour later.
    """
    localized = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    if localized.null_count() > naive.null_count():
        later = naive + timedelta(hours=1)
        later = later.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        localized = _coalesce(localized, later)
    return localized


def _coalesce(first: pl.Series | None, second: pl.Series | None) -> pl.Series:
    """Returns `first`, with its nulls filled from `second`. Either may be None, but not both."""
    if first is None or second is None:
        present = second if first is None else first
        assert present is not None
        return present
    return first.zip_with(first.is_not_null(), second)
