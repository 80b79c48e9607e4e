"""The strict base model, and parsers of durations, time zones and times written as text.

In: text. Out: the parsed value, or a `ValueError` or `SchemaError` that says what was expected and
what was found. Schemas, settings and labels use these parsers.
"""

import re
from datetime import date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from userbert.errors import SchemaError

MAX_COUNT = 1 << 31
"""Upper limit of `max_values`, `max_words` and `max_actions`, so that their sums fit into int64."""
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
"""Parameters of `timedelta`, by the letter of a duration's unit."""
_LONGEST = timedelta(days=36_500)
"""Longest duration in a schema: 100 years, so that sums in microseconds fit into int64."""


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse_duration(text: object) -> timedelta:
    """Parses `2w`, `90d`, `12h`, `30m` or `45s`. Returns a `timedelta` unchanged.

    Raises `ValueError` for other text, for zero and for more than 36,500 days.
    """
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"(\d{1,6})([wdhms])", str(text))
    if match is None or int(match[1]) == 0:
        raise ValueError(f"expected a duration such as 90d, 12h or 30m, found {text!r}")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > _LONGEST:
        raise ValueError(f"expected a duration of at most {_LONGEST.days}d, found {text!r}")
    return duration


def format_duration(duration: timedelta) -> str:
    """Formats a duration for `parse_duration`, in the largest of d, h, m and s that fits."""
    seconds = int(duration.total_seconds())
    for letter, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def check_zone(name: str) -> str:
    """Returns `name` unchanged. Raises `ValueError` if it names no time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"unknown time zone {name!r}; use an IANA name such as Europe/Berlin"
        ) from None
    return name


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
]


def to_instant(moment: str | date | datetime, zone: ZoneInfo) -> int:
    """Returns microseconds since 1970; a naive `moment` is local to `zone`.

    Raises `SchemaError` if `moment` is text that is no date or time.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise SchemaError(
                f"expected a date or time such as 2017-09-01 or 2017-09-01T04:00, found {moment!r}."
            ) from None
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    # `astimezone` overflows at both ends of the calendar.
    since = moment.replace(tzinfo=None) - datetime(1970, 1, 1) - (moment.utcoffset() or timedelta())
    return since // timedelta(microseconds=1)
