"""Strict models, and the durations, zones and moments in them, as people write them.

In: text. Out: what it means, or `ValueError` or `SchemaError` with what was expected and what was
found. Schemas, settings and labels are made of these.
"""

import re
from datetime import date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from userbert.errors import SchemaError

MANY = 1 << 31
"""No count in a schema is above."""
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LONGEST = timedelta(days=36_500)
"""No log is longer, and sums of instants and durations stay far from the ends of int64."""


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse_duration(text: object) -> timedelta:
    """Read `90d`, `12h`, `2w` or `30m`; raise `ValueError` for anything else."""
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
    """Write a duration as `parse_duration` reads it, in the largest unit that fits."""
    seconds = int(duration.total_seconds())
    for letter, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def known_zone(name: str) -> str:
    """Give the name of a zone back; raise `ValueError` if there is none of that name."""
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
    """Microseconds since 1970 of a moment; a naive one is in `zone`. Raise `SchemaError`."""
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
    # Not by `astimezone`, which overflows at either end of the calendar.
    since = moment.replace(tzinfo=None) - datetime(1970, 1, 1) - (moment.utcoffset() or timedelta())
    return since // timedelta(microseconds=1)
