"""Checks raw rows: converts their values, and says why a row is invalid.

In: rows of a file, and a schema. Out: events with the columns `row`, `user_id`, `time` (µs since
1970), `action_type`, a column per attribute, and `invalid`; or profile rows with `row`, `user_id`,
`time`, a column per field, and `invalid`. Used by `data/read/sources.py` and `data/use/live.py`.
Letter in shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.read.times import instants, within
from userbert.schema.attributes import Category, Derived, Number
from userbert.schema.files import NULL_TEXTS
from userbert.schema.models import Profile, Schema, Source, Time

INVALID = "invalid"
"""Column with the reason why a row is invalid; null if it is valid."""

_SMALL_NUMBERS = pl.Series(map(str, range(24)), dtype=pl.String)
"""Hours and weekdays as text: a lookup is faster than formatting."""


def checked_events(
    schema: Schema, source: Source, raw: pl.DataFrame, first_row: int
) -> pl.DataFrame:
    """Returns the rows of a source as events with the columns above.

    `raw` has the source's columns, with those of lookups. `first_row` is the number of its first
    row in the file.
    """
    time = instants(raw[source.time.column], source.time, schema.timezone)
    checks = [_check_users(raw, schema.user), _check_times(raw, time, source.time)]
    if isinstance(source.action, str):
        action = pl.Series([source.action], dtype=pl.String).new_from_index(0, len(raw))
    else:
        action = _text(raw, source.action.column)
        checks.append(_Check(source.action.column, "an action type", _is_null(action)))
    values, value_checks = _values(schema.attributes, raw)
    columns = {
        "user_id": _text(raw, schema.user),
        "time": time,
        "action_type": action,
        **values,
        **_derived(schema, source.time, time, action),
    }
    return _with_reasons(raw, columns, [*checks, *value_checks], first_row)


def checked_profile(
    schema: Schema, profile: Profile, raw: pl.DataFrame, first_row: int
) -> pl.DataFrame:
    """Returns profile rows with the columns above; `time` is null if the profile has no times.

    `first_row` is the number of the first row of `raw` in the file.
    """
    checks = [_check_users(raw, schema.user)]
    time: pl.Series | None = None
    if profile.time is not None:
        time = instants(raw[profile.time.column], profile.time, schema.timezone)
        checks.append(_check_times(raw, time, profile.time))
    values, value_checks = _values(profile.fields, raw)
    when = _nulls(raw, pl.Int64) if time is None else time
    columns = {"user_id": _text(raw, schema.user), "time": when, **values}
    return _with_reasons(raw, columns, [*checks, *value_checks], first_row)


@dataclass(frozen=True)
class _Check:
    """Result of checking one column: the rows that are invalid."""

    column: str
    """Name of the column in the raw rows."""
    expected: str
    """Description of a valid value, for the message, such as "a user id"."""
    bad: NDArray[np.bool_]
    """(N,): whether the row fails the check."""


def _with_reasons(
    raw: pl.DataFrame, columns: Mapping[str, pl.Series], checks: Sequence[_Check], first_row: int
) -> pl.DataFrame:
    """Returns `columns` as a frame, with `row` first and `invalid` last."""
    row = pl.Series("row", np.arange(first_row, first_row + len(raw)))
    named = (column.alias(name) for name, column in columns.items())
    return pl.DataFrame([row, *named, _reasons(raw, checks)])


def _check_users(raw: pl.DataFrame, column: str) -> _Check:
    """Checks that user ids are not null or empty, and whole if they are floats."""
    users = _text(raw, column)
    bad = _is_null(users) | _mask(users == "")
    if raw.schema[column].is_float():
        bad = bad | ~_mask(users.str.contains(r"^-?\d+$"))
    return _Check(column, "a user id", bad)


def _check_times(raw: pl.DataFrame, instant: pl.Series, time: Time) -> _Check:
    is_day, is_text = time.resolution == "day", raw.schema[time.column] == pl.String
    example = f" such as 2017-09-01{'' if is_day else 'T04:00:00'}" if is_text else ""
    expected = f"a {'date' if is_day else 'time'} between 1900 and 2200{example}"
    return _Check(time.column, expected, _is_null(instant))


def _values(
    attributes: Mapping[str, Category | Number | Derived], raw: pl.DataFrame
) -> tuple[dict[str, pl.Series], list[_Check]]:
    """Returns the values of categories and numbers, by name, and the checks of the numbers.

    Values are null if the rows do not have the attribute's column.
    """
    values: dict[str, pl.Series] = {}
    checks: list[_Check] = []
    for name, attribute in attributes.items():
        if isinstance(attribute, Derived):
            continue
        if attribute.column not in raw.columns:
            dtype = pl.String if isinstance(attribute, Category) else pl.Float32
            values[name] = _nulls(raw, dtype)
        elif isinstance(attribute, Category):
            values[name] = _text(raw, attribute.column)
        else:
            values[name], check = _numbers(raw, attribute)
            checks.append(check)
    return values, checks


def _numbers(raw: pl.DataFrame, attribute: Number) -> tuple[pl.Series, _Check]:
    """Returns the numbers of a column as float32 (null if missing), and their check."""
    column = raw[attribute.column]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    is_missing = _is_null(column)
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        is_missing = is_missing | _mask(column.str.to_lowercase().is_in(NULL_TEXTS))
    exact = column.cast(pl.Float64, strict=False).to_numpy()
    with np.errstate(over="ignore"):  # infinity is reported as invalid
        numbers = exact.astype(np.float32)
    bad = ~is_missing & ~np.isfinite(numbers)
    expected = "a number"
    if attribute.min is not None:
        bad |= exact < attribute.min
        expected = f"a number ≥ {attribute.min:g}"
    return pl.Series(numbers, nan_to_null=True), _Check(attribute.column, expected, bad)


def _derived(
    schema: Schema, source: Time, time: pl.Series, action: pl.Series
) -> dict[str, pl.Series]:
    """Returns the derived attributes: local hour, local weekday or action type, as text.

    The hour is null if the source's times are dates.
    """
    derived = {
        name: attribute.of
        for name, attribute in schema.attributes.items()
        if isinstance(attribute, Derived)
    }
    parts = {"action": action, "hour": _nulls(time, pl.String)}
    clock_parts = set(derived.values()) - {"action"}
    if source.resolution == "day":
        clock_parts -= {"hour"}
    if clock_parts:
        expressions = (_clock_part(part, schema.timezone) for part in clock_parts)
        parts |= time.to_frame("time").select(expressions).to_dict()
    return {name: parts[part] for name, part in derived.items()}


@lru_cache(maxsize=64)
def _clock_part(part: str, timezone: str) -> pl.Expr:
    """Returns an expression for the local hour or weekday (1 = Monday) of `time`, as text."""
    local = pl.col("time").cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(timezone)
    number = local.dt.hour() if part == "hour" else local.dt.weekday()
    return pl.lit(_SMALL_NUMBERS).gather(number).alias(part)


def _text(raw: pl.DataFrame, column: str) -> pl.Series:
    values = raw[column]
    if isinstance(values.dtype, pl.Date | pl.Datetime) or values.dtype.is_float():
        return raw.select(as_text(column, values.dtype)).to_series()
    return values.cast(pl.String)


def _nulls(like: pl.DataFrame | pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, len(like))


def _is_null(values: pl.Series) -> NDArray[np.bool_]:
    if values.null_count() == 0:
        return np.zeros(len(values), np.bool_)
    return values.is_null().to_numpy()


def _mask(values: pl.Series) -> NDArray[np.bool_]:
    """Returns a boolean column as a mask; null is false."""
    return (values if values.null_count() == 0 else values.fill_null(value=False)).to_numpy()


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Returns an expression for a column's values as text. Whole floats become 17, not 17.0."""
    value = pl.col(column)
    if isinstance(dtype, pl.Date | pl.Datetime):
        # Polars panics on formatting a time outside the calendar; its number replaces it.
        return pl.coalesce(within(value, dtype, 1, 9999).cast(pl.String), _number_of(value))
    if not dtype.is_float():
        return value.cast(pl.String)
    number = value.fill_nan(None)
    integer = pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False))
    return pl.coalesce(integer.cast(pl.String), number.cast(pl.String))


def _number_of(time: pl.Expr) -> pl.Expr:
    return time.to_physical().cast(pl.String)


def _reasons(raw: pl.DataFrame, checks: Sequence[_Check]) -> pl.Series:
    """Returns why each row is invalid, by its first failed check; null for a valid row."""
    reasons = _nulls(raw, pl.String).alias(INVALID)
    for check in reversed(checks):
        rows = np.flatnonzero(check.bad)
        if len(rows) == 0:
            continue
        bad = raw[rows]
        values = bad[check.column]
        # Floats are shown unconverted, as `_text` turns NaN into null.
        values = values.cast(pl.String) if values.dtype.is_float() else _text(bad, values.name)
        shown = ('"' + values.str.slice(0, 60) + '"').fill_null("nothing")
        reason = f'column "{check.column}": expected {check.expected}, found ' + shown
        reasons = reasons.scatter(rows, reason)
    return reasons
