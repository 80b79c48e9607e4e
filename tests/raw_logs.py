"""Small raw log, its schema, and functions that read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from userbert.data.read.sources import open_sources
from userbert.errors import SourceError
from userbert.schema.models import Schema

SCHEMA = """
user: user
timezone: America/New_York
sources:
  log: {path: LOG, time: {column: time, zone: local}, action: {column: action}}
attributes:
  genre: {column: genre}
  price: {column: price, bins: 4, min: 0}
  hour: {of: hour}
  weekday: {of: weekday}
  kind: {of: action}
segments:
  long_term:
    words: {by: day}
    window: 90d
    actions: [buy]
    attributes: [genre, price, hour, weekday, kind]
"""
LOG = pl.DataFrame(
    {
        "user": [1, 2, 2],
        "time": ["2017-03-01 10:00:00", "2017-03-02 23:30:00", "2017-03-05 00:00:00"],
        "action": ["buy", "click", "buy"],
        "genre": ["bread", None, "süß, 'or' \"not\""],
        "price": [1.5, None, 0.0],
        "unused": [0, 0, 0],
    }
)


def schema(path: Path | str = "log.csv", text: str = SCHEMA) -> Schema:
    """Returns the schema of a log at a path."""
    return Schema.parse(text.replace("LOG", str(path)))


def rows_of(schema: Schema, **events: Any) -> list[tuple[Any, ...]]:
    """Returns all rows of all logs, with `row` and `invalid`."""
    logs = open_sources(schema, events)
    frames = [batch for log in logs for batch in log.batches()]
    assert sum(log.rows for log in logs) == sum(map(len, frames))
    return pl.concat(frames).rows()


def message_of(call: Callable[[], Any]) -> str:
    """Returns the message of the `SourceError` that a call raises."""
    with pytest.raises(SourceError) as caught:
        call()
    return str(caught.value)
