"""Prepared data from a handful of events that tests write out by hand, and a tiny model."""

from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch

from userbert.data.prepare.words import build_words, encode_actions, number_users
from userbert.data.shards import ShardTables, write_shard
from userbert.data.store import PreparedData, write_manifest
from userbert.data.use.pairs import pairs_at
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary
from userbert.folders import write_json
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema.models import Schema
from userbert.schema.strict import to_instant
from userbert.tasks.labels import Labels, label_attribute, label_next

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
    """Converts a UTC time to microseconds since 1970."""
    return to_instant(text, ZoneInfo("UTC"))


def make_data(
    folder: Path,
    events: Sequence[Event],
    profiles: Sequence[tuple[str, str | None, str | None]] = (),
) -> PreparedData:
    """Writes events and profiles `(user, age, kids)` as prepared data into a new folder."""
    schema = Schema.parse(SCHEMA)
    expense = Bins((2.0, 5.0))
    segments: dict[str, dict[str, Vocabulary]] = {
        "long_term": {"genre": GENRES, "expense": expense},
        "short_term": {"genre": GENRES},
    }
    who, times, actions, genres, expenses = zip(*events, strict=True)
    users, numbers = number_users(pa.array(who, pa.large_string()))
    table = pa.table(
        {
            "user": numbers,
            "time": pa.array([instant(time) for time in times], pa.int64()),
            "action_type": pa.array(actions, pa.large_string()),
            "genre": pa.array(genres, pa.large_string()),
            "expense": pa.array(expenses, pa.float32()),
        }
    )
    people = pl.DataFrame(
        {
            "user": pl.Series([users.index(user).as_py() for user, *_ in profiles], dtype=pl.Int32),
            "time": pl.Series([-(2**63)] * len(profiles), dtype=pl.Int64),
            "word_start": pl.Series([1] * len(profiles), dtype=pl.UInt8),
            "age": AGES.encode(pa.array([age for _, age, _ in profiles], pa.large_string())),
            "kids": KIDS.encode(pa.array([kids for *_, kids in profiles], pa.large_string())),
        }
    )
    tables: dict[str, pa.Table] = {
        name: build_words(
            encode_actions(
                table.filter(pc.is_in(table["action_type"], pa.array(segment.actions))),
                segments[name],
            ),
            segment.words,
            schema.zone,
        )
        for name, segment in schema.segments.items()
    }
    # Profiles of people without events have the number -1 and are dropped.
    profile = people.filter(pl.col("user") >= 0).sort("user").to_arrow()
    write_shard(folder / "shards" / "00000", [ShardTables(users, tables, profile)])
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    vocabularies = Vocabularies(segments, {"age": AGES, "kids": KIDS})
    write_json(folder / "vocabularies.json", vocabularies.to_json())
    instants = table["time"].to_pylist()
    span = {"first_event": min(instants), "last_event": max(instants)}
    write_manifest(folder, {"shards": 1, "users": len(users), **span})
    return PreparedData.open(folder)


CUTOFF = "2020-02-01T12:00"
"""Cut-off for the data of `make_taste_data`."""


def make_taste_data(folder: Path, users: int = 60) -> PreparedData:
    """Makes data: odd users like apples, even users bread; all act again after `CUTOFF`."""
    random = np.random.default_rng(0)
    events: list[Event] = []
    for number in range(users):
        liked = "apple" if number % 2 else "bread"
        for day in random.choice(28, 4, replace=False):
            other = "cheese" if random.random() < 0.3 else liked
            time = f"2020-01-{day + 1:02}T12:{number % 60:02}"
            events.append((f"user{number:03}", time, "purchase", other, float(random.random() * 9)))
        events.append((f"user{number:03}", "2020-02-05T12:00", "click", liked, None))
    kids = [(f"user{number:03}", "old", str(number % 2)) for number in range(users)]
    return make_data(folder, events, kids)


def tiny_model(
    data: PreparedData, seed: int = 0, hide: Sequence[str] = ("kids",), *, timing: bool = False
) -> UserBert:
    """Returns an untrained network whose record claims pretraining on events before `CUTOFF`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UserBert(
            UserBertConfig(
                layers=1,
                hidden=16,
                heads=2,
                feed_forward=16,
                attribute_width=8,
                timing=timing,
                pool="all" if timing else "mean",
            ),
            data.input_shape(hide),
            schema=data.schema,
            vocabularies=data.vocabularies,
            hidden=hide,
            record={"before": instant(CUTOFF), "seed": seed},
        ).eval()


def taste_labels(data: PreparedData, kind: str = "binary") -> Labels:
    """Returns labels of what each user of `make_taste_data` likes, as a task of some kind."""
    pairs = pairs_at(data, [instant(CUTOFF)])
    if kind == "binary":
        return label_attribute(data, pairs, "kids", ["1"])
    if kind == "multilabel":
        return label_next(data, "genre", pairs)
    users = data.user_ids.take(pa.array(pairs.rows)).to_pylist()
    odd = [int(user[4:]) % 2 for user in users]
    values = ["apple" if is_odd else "bread" for is_odd in odd]
    frame = pl.DataFrame({"user_id": users, "label": values})
    if kind == "regression":
        frame = pl.DataFrame({"user_id": users, "label": [3.5 * is_odd + 0.25 for is_odd in odd]})
    return Labels.of(frame.with_columns(cutoff=pl.lit(CUTOFF + "Z")), data, kind)
