"""Prepared data from a few events in memory, made by `prepare`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from userbert.data.batches import UserBatch
from userbert.data.prepare.engine import Engine, Preparation
from userbert.data.prepare.local import LocalEngine
from userbert.data.prepare.prepare import prepare, prepare_logs
from userbert.data.read.sources import open_profile, open_sources
from userbert.data.store import PreparedData, write_manifest
from userbert.folders import read_json
from userbert.schema.models import Schema

SCHEMA = """
user: user
timezone: America/New_York
sources:
  log: {path: log.csv, time: {column: time, zone: local}, action: {column: action}}
attributes:
  genre: {column: genre}
  price: {column: price, bins: 4}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day}
    window: {from: 90d, to: 7d}
    actions: [buy]
    attributes: [genre, price, hour]
  short_term:
    words: {by: gap, minutes: 30}
    window: 7d
    actions: [buy, click]
    attributes: [genre]
"""
"""Purchases are in both segments, clicks in the short-term one only; times are New York's."""
GENRES = SCHEMA.replace("[genre, price, hour]", "[genre]")
"""Schema with one attribute per action."""
WIDE = GENRES.replace("{from: 90d, to: 7d}", "800d").replace("window: 7d", "window: 800d")
"""Schema whose windows hold all events."""

Event = tuple[str, str, str, str | None, float | None]
"""User, time, action, genre, price."""

_COLUMNS = {
    "user": pl.String, "time": pl.String, "action": pl.String, "genre": pl.String,
    "price": pl.Float64,
}  # fmt: skip


def log(*events: Event) -> pl.DataFrame:
    """Returns a log in the format of `SCHEMA`."""
    return pl.DataFrame(events, schema=_COLUMNS, orient="row")


def buys(user: str, *times: str, genre: str | None = "bread") -> pl.DataFrame:
    """Returns a user's purchases at some times."""
    return log(*((user, time, "buy", genre, 1.0) for time in times))


_MINUTE = 60_000_000
_GAPS = (
    0, 1, 30 * _MINUTE - 1, 30 * _MINUTE, 30 * _MINUTE + 1, 7 * 60 * _MINUTE, 24 * 60 * _MINUTE,
    5 * 24 * 60 * _MINUTE,
)  # fmt: skip
_STARTS = ("2017-03-10T20:00", "2017-11-03T20:00", "2017-06-01T03:59:59.999999")


@st.composite
def logs(draw: st.DrawFn, max_size: int = 40) -> pl.DataFrame:
    """Draws logs of few users, with gaps around every limit and days of 23 to 25 hours."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "ü"]),
                st.sampled_from(_GAPS),
                st.sampled_from(["buy", "click", "buy", "other"]),
                st.sampled_from([None, "bread", "milk", "wine"]),
                st.sampled_from([None, 0.0, -0.0, 1.0, 2.5, -1.5]),
            ),
            max_size=max_size,
        )
    )
    now = dict.fromkeys("abü", instant(draw(st.sampled_from(_STARTS))))
    rows = []
    for user, gap, action, genre, price in steps:
        now[user] += gap
        rows.append((user, now[user], action, genre, price))
    # A segment must not be empty.
    rows.append(("a", now["a"], "buy", "bread", 1.0))
    times = pl.Datetime("us", "UTC")
    return pl.DataFrame(rows, {**_COLUMNS, "time": times}, orient="row")


def prepare_events(
    folder: Path,
    events: pl.DataFrame | Mapping[str, Any],
    schema: str | Schema = SCHEMA,
    **options: Any,
) -> PreparedData:
    """Prepares events, of the source `log` or by source, into a new folder in `folder`."""
    if isinstance(schema, str):
        schema = Schema.parse(schema)
    if isinstance(events, pl.DataFrame):
        events = {"log": events}
    number = sum(1 for _ in folder.iterdir())
    return prepare(schema, folder / f"data{number}", events=events, **options)


_IN_MEMORY = partial(LocalEngine, memory=2 << 30)


def prepare_in_shards(
    schema: str | Schema,
    output: Path,
    rows_per_shard: float,
    *,
    events: Mapping[str, Any] | None = None,
    profile: Any | None = None,
    engine: Callable[[Preparation], Engine] = _IN_MEMORY,
    append: PreparedData | None = None,
    **options: Any,
) -> PreparedData:
    """Prepares logs as `prepare` does, into small shards."""
    if isinstance(schema, str):
        schema = Schema.parse(schema)
    if append is not None:
        options["vocabularies"] = append.vocabularies
    return prepare_logs(
        schema, open_sources(schema, events), open_profile(schema, profile), output, engine,
        append=append, rows_per_shard=rows_per_shard, **options,
    )  # fmt: skip


def reseal(path: Path, **changed: object) -> PreparedData:
    """Writes a new manifest for data whose files were changed, and opens the data.

    `changed` values replace those of the old manifest.
    """
    manifest = {**read_json(path / "manifest.json"), **changed}
    (path / "manifest.json").unlink()
    write_manifest(
        path, {key: manifest[key] for key in ("users", "shards", "first_event", "last_event")}
    )
    return PreparedData.open(path)


def instant(text: str) -> int:
    """Returns a time in microseconds since 1970; without an offset it is local to New York."""
    return Schema.parse(SCHEMA).instant(datetime.fromisoformat(text))


def cutoffs(*texts: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns times as an array of instants."""
    return np.array([instant(text) for text in texts], np.int64)


Word = tuple[int, list[tuple[str, ...]]]
"""Position, and the values of each action's attributes."""


def words_of(data: PreparedData, batch: UserBatch, segment: str) -> list[list[Word]]:
    """Returns each user's words of a segment, with values in place of ids."""
    number = list(data.schema.segments).index(segment)
    part = batch.segments[number]
    names = [vocabulary.names for vocabulary in data.vocabularies.segments[segment].values()]
    actions = [
        tuple(name[value] for name, value in zip(names, ids, strict=True))
        for ids in part.ids.T.tolist()
    ]
    ends: Sequence[int] = part.action_offsets.tolist()
    words = [
        (int(position), actions[ends[word] : ends[word + 1]])
        for word, position in enumerate(part.positions)
    ]
    users: Sequence[int] = part.word_offsets.tolist()
    return [words[users[user] : users[user + 1]] for user in range(len(batch))]
