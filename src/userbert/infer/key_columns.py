"""Which columns say who and when: the roles that every log needs.

In: opened logs. Out: the user column, with the reason in words, and each log's times.
`infer/inference.py` writes them into the proposed schema.
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
    TIMES,
    is_amount,
    is_of_a_thing,
    rank_as_some_user,
    rank_as_user,
    words_of,
)
from userbert.schema.files import join_names, reading

_DATE = "|".join(
    rf"(?:19|20)\d\d{mark}(?:0[1-9]|1[0-2]){mark}(?:0[1-9]|[12]\d|3[01])" for mark in ("-", "/", "")
)
_DOTTED = r"(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])\.(?:19|20)\d\d"
"""The day first, as everywhere where dates have dots."""
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d+)?)?"
_OFFSET = r"\s*(?:Z|z|UTC|[+-]\d\d:?\d\d)"
_TIME = re.compile(rf"\s*(?:{_DATE}|{_DOTTED})(?:[T ]{_CLOCK}(?P<offset>{_OFFSET})?)?\s*")
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
_SINCE, _UNTIL = 631_152_000, 4_102_444_800
"""1990 and 2100 in seconds since 1970: numbers in between may be times."""


@dataclass(frozen=True)
class Log:
    """One source, opened."""

    name: str
    paths: list[str]
    """As the schema names them."""
    files: list[Path]
    frame: pl.LazyFrame
    types: dict[str, pl.DataType]
    rows: int
    sample: pl.DataFrame
    """At most some ten thousand rows, spread evenly."""

    def collect(self, *expressions: pl.Expr) -> pl.DataFrame:
        """Evaluate expressions over all rows, in bounded memory."""
        with reading(*self.files):
            return self.frame.select(*expressions).collect(engine="streaming")


@dataclass(frozen=True)
class Times:
    """When a log's events happened."""

    column: str
    first: datetime
    last: datetime
    unit: str | None
    """Of numbers since 1970."""
    zone: str | None
    """The zone that the column itself carries."""
    is_day: bool
    has_offset: bool
    missing: int
    is_given: pl.Expr
    """Whether an event has a time that can be read."""
    day: pl.Expr
    """A key of the date of each event."""
    hour: pl.Expr
    """The hour of the day of each event."""
    second: pl.Expr
    """Seconds, from some start on; where times are text, all months are of 31 days."""
    others: list[str]
    """Further columns that hold times."""


def find_user(logs: Sequence[Log], profile: Log | None) -> tuple[str, str]:
    """Find the column that says who in every log; return it and the reason.

    Raises `SourceError` if there is none.
    """
    common = [name for name in logs[0].types if all(name in log.types for log in logs[1:])]
    own = {log.name: _named_as_users(log) for log in logs}
    named = [name for name in own[logs[0].name] if all(name in each for each in own.values())]
    if profile is not None:
        in_both = [name for name in named or common if _is_key_of(name, profile, logs[0])]
        if in_both:
            return in_both[0], "found by its name, which the profiles have too, one row a user"
    if named:
        rest = f"; {', '.join(named[1:])} would do too" if named[1:] else ""
        return named[0], f"found by its name{rest}"
    lacking = next((log for log in logs if not own[log.name]), None)
    other = next((log for log in logs if own[log.name]), None)
    if lacking is not None and other is not None:
        raise SourceError(
            f"{lacking.files[0]}: expected a user column, such as {own[other.name][0]!r} in "
            f"{other.files[0]}; it has: {join_names(lacking.types)}. Name the column that says who "
            "alike in all logs, or leave this file out."
        )
    if lacking is None and len(logs) > 1:
        told = ", ".join(f"{names[0]!r} in {name}" for name, names in own.items())
        raise SourceError(
            f"the logs name their users differently: {told}. A schema has one name for the user "
            "column: rename it in the files, so that it is the same in all."
        )
    said = {name: rank_as_some_user(name) for name in common if _can_name(logs[0].types[name])}
    ranked = sorted((rank, name) for name, rank in said.items() if rank is not None)
    if ranked:
        return ranked[0][1], "a guess: its name says so, and more"
    by_structure = _by_structure(common, logs[0])
    if by_structure is None:
        records = [name for name in common if rank_as_user(name) is not None]
        if records:
            raise SourceError(
                f'{logs[0].files[0]}, column "{records[0]}": expected user ids, found '
                f"{logs[0].types[records[0]]}. Flatten it: a column that is text or a number."
            )
        raise SourceError(
            f"{logs[0].files[0]}: no column looks like a user id, such as user_id or customer_id, "
            f"in every log; it has: {join_names(logs[0].types)}. Rename the column that says who."
        )
    return by_structure, "a guess: its name does not say so, but its values repeat as users do"


def _named_as_users(log: Log) -> list[str]:
    """Columns whose names say that they are a user's, the best first."""
    scores = {name: rank_as_user(name) for name, kind in log.types.items() if _can_name(kind)}
    found = [(score, name) for name, score in scores.items() if score is not None]
    return [name for _, name in sorted(found)]


def _can_name(kind: pl.DataType) -> bool:
    # Ids that went through a table with gaps are floats.
    return kind.is_float() or isinstance(kind, pl.Categorical | pl.Enum) or _can_be_id(kind)


def _can_be_id(kind: pl.DataType) -> bool:
    return kind == pl.String or kind.is_integer()


def _is_key_of(name: str, profile: Log, log: Log) -> bool:
    """Whether each row of the profiles has its own value, which the log repeats."""
    if name not in profile.types or not _can_be_id(profile.types[name]):
        return False
    if not _can_name(log.types[name]):
        return False
    values = profile.collect(pl.col(name).n_unique()).item()
    return values > 0.9 * profile.rows and log.sample[name].n_unique() > 1


def _by_structure(columns: Iterable[str], log: Log) -> str | None:
    """The id-like column with the most values that repeat."""
    candidates = [
        name
        for name in columns
        if _can_be_id(log.types[name])
        and not is_of_a_thing(name)
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
    """Find the column that says when, and how. Raises `SourceError` if there is none."""
    scores = {name: _time_score(name, log) for name in log.types if name != user}
    found = [name for name, score in scores.items() if score is not None]
    if not found:
        hint = next((name for name in log.types if set(words_of(name)) & set(TIMES)), None)
        shown = log.sample[hint].drop_nulls().head(1).to_list() if hint else []
        told = f' Column "{hint}" holds {shown[0]!r}.' if shown else ""
        raise SourceError(
            f"{log.files[0]}: no column holds times; it has: {join_names(log.types)}.{told} Write "
            "times as 2017-09-01T04:00:00, or as seconds, milliseconds or microseconds since 1970. "
            "Days that are counted from a first one: add them to a date of your choice."
        )
    best = max(found, key=lambda name: scores[name] or (0, 0.0, 0))
    return _describe(log, best, [name for name in found if name != best])


def holds_dates(log: Log, name: str) -> bool:
    """Whether a column is text that is written as dates or times, with marks between the parts."""
    given = log.sample[name].drop_nulls()
    if given.dtype != pl.String or given.is_empty():
        return False
    return _share_times(given) > 0.9 and not given.str.contains(r"^\s*\d{8}\s*$").any()


def holds_clock(log: Log, name: str) -> bool:
    """Whether a column is a time of day without its date."""
    if log.types[name] == pl.Time:
        return True
    given = log.sample[name].drop_nulls()
    if given.dtype != pl.String or given.is_empty():
        return False
    clocks = given.str.contains(rf"^\s*{_CLOCK}\s*$").sum()
    return clocks > 0.9 * len(given)


def _time_score(name: str, log: Log) -> tuple[int, float, int] | None:
    """Judge a column as the time of events: by name and form, then gaps, then fineness."""
    kind, values = log.types[name], log.sample[name]
    given = values.drop_nulls()
    if given.is_empty():
        return None
    by_name = sum(TIMES.get(word, 0) for word in words_of(name))
    is_time = kind.is_temporal() and kind not in (pl.Time, pl.Duration)
    # Eight digits may be a code: only a name makes them a date.
    is_digits = by_name > 0 and kind == pl.String and _share_times(given) > 0.9
    if is_time or is_digits or holds_dates(log, name):
        by_form = 5
    elif _epoch_unit(values) is not None and by_name > 0:
        by_form = 0
    else:
        return None
    return by_name + by_form, len(given) / len(values), given.n_unique()


def _share_times(values: pl.Series) -> float:
    return sum(_TIME.fullmatch(value) is not None for value in values.head(1000)) / min(
        len(values), 1000
    )


def _epoch_unit(values: pl.Series) -> str | None:
    """The unit in which all the numbers are times of 1990 to 2100."""
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
        if numbers.drop_nulls().is_between(_SINCE * scale, _UNTIL * scale).all():
            return unit
    return None


def _describe(log: Log, name: str, others: list[str]) -> Times:
    """Measure a time column over all rows; rows that hold no time are only counted."""
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
        given = log.sample[name].drop_nulls()
        matches = (_TIME.fullmatch(value) for value in given)
        has_offset = any(match is not None and match["offset"] for match in matches)
        valid = column.str.contains(rf"^(?:{_DATE})(?:[T ]|$)")
        length = 8 if given.str.contains(r"^\s*\d{8}").any() else 10
        day, hour = column.str.slice(0, length), column.str.slice(length + 1, 2)
        second = _seconds_in_text(column)
        midnight = column.str.slice(length).str.contains(r"^([T ]00:00(:00(\.0+)?)?( ?UTC|Z)?)?$")
    else:
        unit = _epoch_unit(log.sample[name])
        assert unit is not None, "only columns that are times are described"
        second = column.cast(pl.Float64, strict=False) / _UNITS[unit]
        column, valid = second, second.is_between(_SINCE, _UNTIL)
        day, hour = (second / 86_400).floor(), (second % 86_400 / 3600).floor()
        midnight = second % 86_400 == 0
    # Hardly a log of times passes the sample, which spares the others a look at all rows.
    if not log.sample.select(midnight.filter(valid).all()).item():
        midnight = pl.lit(value=False)
    first, last, found, is_day = log.collect(
        column.filter(valid).min().alias("first"),
        column.filter(valid).max().alias("last"),
        valid.sum().alias("found"),
        midnight.filter(valid).all().alias("is_day"),
    ).row(0)
    if not found:
        raise SourceError(f'{log.files[0]}, column "{name}": no time between 1900 and 2200.')
    return Times(
        name, _moment(first), _moment(last), unit, zone, is_day, has_offset, log.rows - found,
        valid, day, hour, second.cast(pl.Float64), others,
    )  # fmt: skip


def _seconds_in_text(column: pl.Expr) -> pl.Expr:
    digits = column.str.replace_all(r"\D", "").str.pad_end(14, "0")
    scales = {0: (4, 12 * 31 * 86_400), 4: (2, 31 * 86_400), 6: (2, 86_400)}
    scales |= {8: (2, 3600), 10: (2, 60), 12: (2, 1)}
    parts = (
        digits.str.slice(start, length).cast(pl.Float64, strict=False) * scale
        for start, (length, scale) in scales.items()
    )
    return pl.sum_horizontal(*parts, ignore_nulls=False)


def _moment(value: Any) -> datetime:
    """A time as a log writes it, to the hour, as if it were UTC where it carries no zone."""
    if isinstance(value, float):
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=value)
    year, month, day, hour = (
        int(part) if part else 0
        for part in re.findall(r"^(\d{4})[-/]?(\d\d)[-/]?(\d\d)(?:[T ](\d\d))?", str(value))[0]
    )
    # Adding days reads 31 June as 1 July: a proposal need not stop at a broken date.
    return datetime(year, month, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)
