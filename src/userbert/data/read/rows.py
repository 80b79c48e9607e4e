"""Raw rows → rows that can be used, or the reason why they cannot.

In: rows as they stand in a file, and a schema. Out: events with the columns `row`, `user_id`,
`time` (µs since 1970), `action_type`, one an attribute, and `invalid`; or profile rows, with one a
field. Used by `data/read/sources.py`.
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
"""The column that says why a row cannot be used; null where it can."""

_SMALL_NUMBERS = pl.Series(map(str, range(24)), dtype=pl.String)
"""As text; to look them up is faster than to write them."""


def checked_events(
    schema: Schema, source: Source, raw: pl.DataFrame, first_row: int
) -> pl.DataFrame:
    """Columns as the kernel takes them, and why a row cannot be used."""
    time = instants(raw[source.time.column], source.time, schema.timezone)
    checks = [_check_users(raw, schema.user), _check_times(raw, time, source.time)]
    if isinstance(source.action, str):
        action = pl.Series([source.action], dtype=pl.String).new_from_index(0, len(raw))
    else:
        action = _text(raw, source.action.column)
        checks.append(_Check(source.action.column, "an action type", _is_null(action)))
    values, bad = _values(schema.attributes, raw)
    columns = {
        "user_id": _text(raw, schema.user),
        "time": time,
        "action_type": action,
        **values,
        **_derived(schema, source.time, time, action),
    }
    return _checked(raw, columns, [*checks, *bad], first_row)


def checked_profile(
    schema: Schema, profile: Profile, raw: pl.DataFrame, first_row: int
) -> pl.DataFrame:
    """Columns as events have them, and why a row cannot be used."""
    checks = [_check_users(raw, schema.user)]
    time: pl.Series | None = None
    if profile.time is not None:
        time = instants(raw[profile.time.column], profile.time, schema.timezone)
        checks.append(_check_times(raw, time, profile.time))
    values, bad = _values(profile.fields, raw)
    when = _nothing(raw, pl.Int64) if time is None else time
    columns = {"user_id": _text(raw, schema.user), "time": when, **values}
    return _checked(raw, columns, [*checks, *bad], first_row)


@dataclass(frozen=True)
class _Check:
    """Which rows cannot be used for what a column holds."""

    column: str
    expected: str
    bad: NDArray[np.bool_]
    """(N,)"""


def _checked(
    raw: pl.DataFrame, columns: Mapping[str, pl.Series], checks: Sequence[_Check], first_row: int
) -> pl.DataFrame:
    row = pl.Series("row", np.arange(first_row, first_row + len(raw)))
    named = (column.alias(name) for name, column in columns.items())
    return pl.DataFrame([row, *named, _reasons(raw, checks)])


def _check_users(raw: pl.DataFrame, column: str) -> _Check:
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
    """The values of categories and numbers, and which rows cannot be used for them."""
    values: dict[str, pl.Series] = {}
    checks: list[_Check] = []
    for name, attribute in attributes.items():
        if isinstance(attribute, Derived):
            continue
        if attribute.column not in raw.columns:
            dtype = pl.String if isinstance(attribute, Category) else pl.Float32
            values[name] = _nothing(raw, dtype)
        elif isinstance(attribute, Category):
            values[name] = _text(raw, attribute.column)
        else:
            values[name], check = _numbers(raw, attribute)
            checks.append(check)
    return values, checks


def _numbers(raw: pl.DataFrame, attribute: Number) -> tuple[pl.Series, _Check]:
    """A column's numbers as float32, null where there is none."""
    column = raw[attribute.column]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    none = _is_null(column)
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        none = none | _mask(column.str.to_lowercase().is_in(NULL_TEXTS))
    exact = column.cast(pl.Float64, strict=False).to_numpy()
    with np.errstate(over="ignore"):  # to infinity, which is told
        numbers = exact.astype(np.float32)
    bad = ~none & ~np.isfinite(numbers)
    expected = "a number"
    if attribute.min is not None:
        bad |= exact < attribute.min
        expected = f"a number ≥ {attribute.min:g}"
    return pl.Series(numbers, nan_to_null=True), _Check(attribute.column, expected, bad)


def _derived(
    schema: Schema, source: Time, time: pl.Series, action: pl.Series
) -> dict[str, pl.Series]:
    """Local hour, weekday and action type; a date has no hour."""
    derived = {name: one.of for name, one in schema.attributes.items() if isinstance(one, Derived)}
    parts = {"action": action, "hour": _nothing(time, pl.String)}
    wanted = set(derived.values()) - {"action"}
    if source.resolution == "day":
        wanted -= {"hour"}
    if wanted:
        told = time.to_frame("time").select(_of_clock(part, schema.timezone) for part in wanted)
        parts |= told.to_dict()
    return {name: parts[part] for name, part in derived.items()}


@lru_cache(maxsize=64)
def _of_clock(part: str, timezone: str) -> pl.Expr:
    """The local hour or weekday of instants, as text."""
    local = pl.col("time").cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(timezone)
    number = local.dt.hour() if part == "hour" else local.dt.weekday()
    return pl.lit(_SMALL_NUMBERS).gather(number).alias(part)


def _text(raw: pl.DataFrame, column: str) -> pl.Series:
    values = raw[column]
    if isinstance(values.dtype, pl.Date | pl.Datetime) or values.dtype.is_float():
        return raw.select(as_text(column, values.dtype)).to_series()
    return values.cast(pl.String)


def _nothing(like: pl.DataFrame | pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, len(like))


def _is_null(values: pl.Series) -> NDArray[np.bool_]:
    if values.null_count() == 0:
        return np.zeros(len(values), np.bool_)
    return values.is_null().to_numpy()


def _mask(are: pl.Series) -> NDArray[np.bool_]:
    """Which are true; null is not."""
    return (are if are.null_count() == 0 else are.fill_null(value=False)).to_numpy()


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column's values as text: 17.0, an integer that went through a table with gaps, is 17."""
    value = pl.col(column)
    if isinstance(dtype, pl.Date | pl.Datetime):
        # To write a time beyond all calendars is a panic; its number says as much.
        return pl.coalesce(within(value, dtype, 1, 9999).cast(pl.String), _number_of(value))
    if not dtype.is_float():
        return value.cast(pl.String)
    number = value.fill_nan(None)
    whole = pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False))
    return pl.coalesce(whole.cast(pl.String), number.cast(pl.String))


def _number_of(time: pl.Expr) -> pl.Expr:
    return time.to_physical().cast(pl.String)


def _reasons(raw: pl.DataFrame, checks: Sequence[_Check]) -> pl.Series:
    """Why each row cannot be used: the first check that it fails; null where it can."""
    reasons = _nothing(raw, pl.String).alias(INVALID)
    for check in reversed(checks):
        rows = np.flatnonzero(check.bad)
        if len(rows) == 0:
            continue
        few = raw[rows]
        found = few[check.column]
        # A float is told as it stands: as a value, not a number is nothing.
        found = found.cast(pl.String) if found.dtype.is_float() else _text(few, found.name)
        shown = ('"' + found.str.slice(0, 60) + '"').fill_null("nothing")
        told = f'column "{check.column}": expected {check.expected}, found ' + shown
        reasons = reasons.scatter(rows, told)
    return reasons
