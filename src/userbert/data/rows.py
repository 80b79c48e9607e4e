"""Raw rows → rows that can be used, or the reason why they cannot.

In: rows as they stand in a file, and a schema. Out: events with the columns `row`, `user_id`,
`time` (µs since 1970), `action_type`, one an attribute, and `invalid`; or profile rows, with one a
field. Used by `data/sources.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from userbert.data.times import instants, within
from userbert.schema.files import NO_NUMBER
from userbert.schema.models import Category, Derived, Number, Profile, Schema, Source, Time

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
        action = pl.lit(source.action)
    else:
        action = _text(raw, source.action.column)
        checks.append(_Check(source.action.column, "an action type", action.is_null()))
    values, bad = _values(schema.attributes, raw)
    columns = {
        "user_id": _text(raw, schema.user),
        "time": pl.lit(time),
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
    when = pl.lit(None, pl.Int64) if time is None else pl.lit(time)
    columns = {"user_id": _text(raw, schema.user), "time": when, **values}
    return _checked(raw, columns, [*checks, *bad], first_row)


@dataclass(frozen=True)
class _Check:
    """Which rows cannot be used for what a column holds."""

    column: str
    expected: str
    bad: pl.Expr


def _checked(
    raw: pl.DataFrame, columns: Mapping[str, pl.Expr], checks: Sequence[_Check], first_row: int
) -> pl.DataFrame:
    """All columns and checks at once: of few rows, a call of Polars costs more than its work."""
    rows = raw.select(
        pl.int_range(first_row, first_row + len(raw), dtype=pl.Int64).alias("row"),
        # What is one value for all has as many rows as the others.
        *(expression.alias(name) for name, expression in columns.items()),
        *(check.bad.alias(_bad(number)) for number, check in enumerate(checks)),
    )
    bad = [rows[_bad(number)] for number in range(len(checks))]
    return pl.DataFrame([rows["row"], *map(rows.get_column, columns), _reasons(raw, checks, bad)])


def _bad(check: int) -> str:
    return f"{INVALID} {check}"


def _check_users(raw: pl.DataFrame, column: str) -> _Check:
    users = _text(raw, column)
    bad = users.is_null() | (users == "").fill_null(value=True)
    if raw.schema[column].is_float():
        bad = bad | ~users.str.contains(r"^-?\d+$").fill_null(value=True)
    return _Check(column, "a user id", bad)


def _check_times(raw: pl.DataFrame, instant: pl.Series, time: Time) -> _Check:
    is_day, is_text = time.resolution == "day", raw.schema[time.column] == pl.String
    example = f" such as 2017-09-01{'' if is_day else 'T04:00:00'}" if is_text else ""
    expected = f"a {'date' if is_day else 'time'} between 1900 and 2200{example}"
    return _Check(time.column, expected, pl.lit(instant).is_null())


def _values(
    attributes: Mapping[str, Category | Number | Derived], raw: pl.DataFrame
) -> tuple[dict[str, pl.Expr], list[_Check]]:
    """The values of categories and numbers, and which rows cannot be used for them."""
    values: dict[str, pl.Expr] = {}
    checks: list[_Check] = []
    for name, attribute in attributes.items():
        if isinstance(attribute, Derived):
            continue
        if attribute.column not in raw.columns:
            dtype = pl.String if isinstance(attribute, Category) else pl.Float32
            values[name] = pl.lit(None, dtype)
        elif isinstance(attribute, Category):
            values[name] = _text(raw, attribute.column)
        else:
            values[name], check = _numbers(raw, attribute)
            checks.append(check)
    return values, checks


def _numbers(raw: pl.DataFrame, attribute: Number) -> tuple[pl.Expr, _Check]:
    """A column's numbers as float32, null where there is none."""
    column, dtype = pl.col(attribute.column), raw.schema[attribute.column]
    if isinstance(dtype, pl.Categorical | pl.Enum):
        column, dtype = column.cast(pl.String), pl.String()
    if dtype == pl.String:
        column = column.str.strip_chars()
    exact = column.cast(pl.Float64, strict=False).fill_nan(None)
    numbers = exact.cast(pl.Float32)
    bad = column.is_not_null() & exact.is_null()
    if dtype == pl.String:
        bad = bad & ~column.str.to_lowercase().is_in(NO_NUMBER)
    bad = bad | numbers.is_infinite().fill_null(value=False)
    expected = "a number"
    if attribute.min is not None:
        bad = bad | (exact < attribute.min).fill_null(value=False)
        expected = f"a number ≥ {attribute.min:g}"
    return numbers, _Check(attribute.column, expected, bad)


def _derived(schema: Schema, source: Time, time: pl.Series, action: pl.Expr) -> dict[str, pl.Expr]:
    """Local hour, weekday and action type; a date has no hour."""
    derived = {}
    local = pl.lit(time).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(schema.timezone)
    numbers = pl.lit(_SMALL_NUMBERS)
    for name, attribute in schema.attributes.items():
        if not isinstance(attribute, Derived):
            continue
        if attribute.of == "action":
            derived[name] = action
        elif attribute.of == "weekday":
            derived[name] = numbers.gather(local.dt.weekday())
        elif source.resolution == "instant":
            derived[name] = numbers.gather(local.dt.hour())
        else:
            derived[name] = pl.lit(None, pl.String)
    return derived


def _text(raw: pl.DataFrame, column: str) -> pl.Expr:
    return as_text(column, raw.schema[column])


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


def _reasons(raw: pl.DataFrame, checks: Sequence[_Check], bad: Sequence[pl.Series]) -> pl.Series:
    """Why each row cannot be used: the first check that it fails; null where it can."""
    reasons = pl.Series(INVALID, dtype=pl.String).clear(len(raw))
    for check, is_bad in reversed(list(zip(checks, bad, strict=True))):
        if not is_bad.any():
            continue
        rows = is_bad.arg_true()
        few = raw[rows]
        found = few[check.column]
        # A float is told as it stands: as a value, not a number is nothing.
        found = (
            found.cast(pl.String)
            if found.dtype.is_float()
            else few.select(_text(few, found.name)).to_series()
        )
        shown = ('"' + found.str.slice(0, 60) + '"').fill_null("nothing")
        told = f'column "{check.column}": expected {check.expected}, found ' + shown
        reasons = reasons.scatter(rows, told)
    return reasons
