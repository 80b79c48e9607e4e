"""Prepared data from a handful of events, written out in the tests."""

from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from userbert.data.store import PreparedData, ShardTables, write_manifest, write_shard
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary
from userbert.data.words import build_words, user_hash
from userbert.folders import write_json
from userbert.schema.models import Schema, to_instant

SCHEMA = """
user: user_id
timezone: America/New_York
sources:
  log: {path: log.parquet, time: time, action: {column: action}}
attributes:
  genre: {column: genre}
  expense: {column: expense, bins: 4}
segments:
  long_term:
    words: {by: day}
    window: {from: 90d, to: 7d}
    actions: [purchase]
    attributes: [genre, expense]
  short_term:
    words: {by: gap, minutes: 30}
    window: 7d
    actions: [purchase, click]
    attributes: [genre]
profile: {path: profile.parquet, fields: {age: {column: age}, kids: {column: kids}}}
"""

Event = tuple[str, str, str, str | None, float | None]
"""User, UTC time, action, genre, expense."""

GENRES = Categories(("apple", "bread", "cheese", "date"))
AGES = Categories(("old", "young"))
KIDS = Categories(("0", "1", "2"))


def instant(text: str) -> int:
    """Microseconds since 1970 of a UTC time."""
    return to_instant(text, ZoneInfo("UTC"))


def make_data(
    folder: Path,
    events: Sequence[Event],
    profiles: Sequence[tuple[str, str | None, str | None]] = (),
) -> PreparedData:
    """Write events and profiles `(user, age, kids)` as prepared data into a new folder."""
    schema = Schema.parse(SCHEMA)
    expense = Bins((2.0, 5.0))
    segments: dict[str, dict[str, Vocabulary]] = {
        "long_term": {"genre": GENRES, "expense": expense},
        "short_term": {"genre": GENRES},
    }
    columns = list(zip(*events, strict=True))
    table = pa.table(
        {
            "user_id": pa.array(columns[0], pa.large_string()),
            "time": pa.array([instant(time) for time in columns[1]], pa.int64()),
            "action_type": pa.array(columns[2], pa.large_string()),
            "genre": pa.array(columns[3], pa.large_string()),
            "expense": pa.array(columns[4], pa.float32()),
        }
    )
    people = pl.DataFrame(
        {
            "user_id": pl.Series([user for user, _, _ in profiles], dtype=pl.String),
            "time": pl.Series([-(2**63)] * len(profiles), dtype=pl.Int64),
            "word_start": pl.Series([1] * len(profiles), dtype=pl.UInt8),
            "age": AGES.encode(pa.array([age for _, age, _ in profiles], pa.large_string())),
            "kids": KIDS.encode(pa.array([kids for *_, kids in profiles], pa.large_string())),
        }
    )
    hashes = user_hash(people["user_id"].to_arrow())
    people = people.insert_column(0, pl.Series("user_hash", hashes, dtype=pl.UInt64))
    tables: dict[str, pa.Table] = {
        segment: build_words(table, schema.segments[segment], segments[segment], schema.zone)
        for segment in schema.segments
    }
    profile = people.sort("user_hash", "user_id").to_arrow()
    users = write_shard(folder / "shards" / "00000", ShardTables(tables, profile))
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    vocabularies = Vocabularies(segments, {"age": AGES, "kids": KIDS})
    write_json(folder / "vocabularies.json", vocabularies.to_json())
    times = table["time"].to_pylist()
    span = {"first_event": min(times), "last_event": max(times)}
    write_manifest(folder, {"shards": 1, "users": users, **span})
    return PreparedData.open(folder)
