"""Local preparation: raw logs → prepared data, in two passes over hash partitions of the users.

In: a schema, and its logs as files or frames. Out: a folder that `PreparedData` opens. The first
pass checks every row and spreads the events over partitions on disk by the hash of their user; then
vocabularies are counted partition by partition; the second pass runs the words kernel on one
partition at a time. Memory holds one partition and one shard, whatever the number of users.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.codes import Codes
from userbert.data.intake import Intake, OnInvalid
from userbert.data.sources import open_sources
from userbert.data.store import (
    PreparedData,
    ShardTables,
    shard_of,
    write_manifest,
    write_shard,
)
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary, countable
from userbert.data.words import Encoder, build_words, number_users, user_hash
from userbert.errors import SchemaError, SourceError
from userbert.folders import publishing_folder, require_space, write_json
from userbert.progress import Advance, progress
from userbert.schema.models import Attribute, Category, Derived, Number, Schema
from userbert.workers import cores, threaded

_ROWS_PER_SHARD = 4_194_304
_BYTES_PER_EVENT = 1_000
"""Of one event at the kernel's peak: its strings, their copy sorted and encoded, and the result."""
_BYTES_OF_ROW, _BYTES_OF_VALUE = 45, 8
"""On disk, in partitions and in shards together; an id of more than 24 letters takes more."""


def prepare(
    schema: Schema,
    output: str | Path,
    *,
    events: Mapping[str, Any] | None = None,
    profile: Any | None = None,
    memory: int = 2 << 30,
    on_invalid: OnInvalid = "fail",
    vocabularies: Vocabularies | None = None,
) -> PreparedData:
    """Turn logs into prepared data; return it opened.

    `events` gives frames in place of the sources' files, `profile` one in place of the profile
    file; `memory` is in bytes; `vocabularies`, of a model or of other data, are used in place of
    the logs' own, so that ids mean the same. Raises `SourceError` at the first row that cannot be
    used, unless `on_invalid` is `quarantine`: then such rows go into `rejected.parquet`, each with
    its reason.
    """
    output = Path(output)
    if vocabularies is not None:
        _check_vocabularies(schema, vocabularies)
    logs = open_sources(schema, events)
    rows = sum(log.rows for log in logs)
    shards = _power_of_two(rows / _ROWS_PER_SHARD)
    partitions = max(shards, _power_of_two(rows * _BYTES_PER_EVENT / memory))
    with publishing_folder(output) as folder:
        size = int(rows * (_BYTES_OF_ROW + _BYTES_OF_VALUE * len(schema.attributes)))
        require_space(output, folder, size, f"{rows:,} rows", "fewer logs")
        intake = Intake(schema, on_invalid, folder / "temporary", partitions)
        intake.spread(logs)
        profiles = intake.profiles(profile)
        if vocabularies is None:
            _check_fit_before(schema, intake.first_event)
            vocabularies = _fit(schema, intake, profiles)
        encoded = _encode_profiles(profiles, vocabularies)
        sizes = []
        with progress("building words", partitions) as advance:
            for shard in range(shards):
                numbers = range(shard * partitions // shards, (shard + 1) * partitions // shards)
                parts = _build(intake, vocabularies, encoded, numbers, advance)
                sizes.append(write_shard(folder / "shards" / f"{shard:05d}", parts))
        users = sum(size.users for size in sizes)
        actions = {name: sum(size.actions[name] for size in sizes) for name in schema.segments}
        words = {name: sum(size.words[name] for size in sizes) for name in schema.segments}
        _check_segments(schema, actions)
        intake.clear()
        (folder / "schema.yaml").write_text(schema.dump(), encoding="utf-8")
        write_json(folder / "vocabularies.json", vocabularies.to_json())
        if intake.rejected:
            pl.concat(intake.rejected).write_parquet(folder / "rejected.parquet")
        write_json(
            folder / "summary.json",
            {
                "users": users,
                "actions": actions,
                "words": words,
                "rows": {name: account.to_json() for name, account in intake.accounts.items()},
                "warnings": _warnings(schema),
            },
        )
        write_manifest(
            folder,
            {
                "users": users,
                "shards": shards,
                "first_event": intake.first_event,
                "last_event": intake.last_event,
            },
        )
    return PreparedData.open(output)


def _check_vocabularies(schema: Schema, vocabularies: Vocabularies) -> None:
    """Raise `SchemaError` unless the schema has the attributes and fields of the vocabularies."""
    fields = schema.profile.fields if schema.profile is not None else {}
    wanted = {
        **{
            f"segments.{name}": {
                attribute: not isinstance(schema.attributes[attribute], Number)
                for attribute in segment.attributes
            }
            for name, segment in schema.segments.items()
        },
        "profile": {name: isinstance(field, Category) for name, field in fields.items()},
    }
    given = {
        **{f"segments.{name}": found for name, found in vocabularies.segments.items()},
        "profile": vocabularies.profile,
    }
    for place in {**wanted, **given}:
        here = wanted.get(place, {})
        there = {name: one.is_categorical for name, one in given.get(place, {}).items()}
        if here != there:
            raise SchemaError(
                f"{place}: the schema has {', '.join(here) or 'nothing'}, the vocabulary "
                f"{', '.join(there) or 'nothing'}. Use the schema.yaml that lies beside it."
            )


def _check_fit_before(schema: Schema, first_event: int) -> None:
    if schema.fit_before_us is not None and first_event >= schema.fit_before_us:
        first = datetime.fromtimestamp(first_event // 1_000_000, schema.zone)
        raise SchemaError(
            f"fit_before: no event is before {schema.fit_before}, so no value could be known; the "
            f"first is at {first}. Choose a later time."
        )


def _fit(schema: Schema, intake: Intake, profiles: pl.DataFrame) -> Vocabularies:
    """Count values partition by partition, then give them ids (design, decision 4)."""
    before = schema.fit_before_us
    owners = {
        (segment, name): "shared" if schema.attributes[name].share else segment
        for segment in schema.segments
        for name in schema.segments[segment].attributes
    }
    # Which action types a vocabulary counts. Segments that share one count together, so that an
    # event or a user that both hold counts once.
    counted: dict[tuple[str, str], set[str]] = {}
    for (segment, name), owner in owners.items():
        counted.setdefault((owner, name), set()).update(schema.segments[segment].actions)

    def count(partition: int) -> dict[tuple[str, str], pl.DataFrame]:
        events = intake.partition(partition)
        if before is not None:
            events = events.filter(pl.col("time") < before)
        found = {}
        for (owner, name), actions in counted.items():
            attribute = schema.attributes[name]
            columns = [name, "user_id"] if _matter_users(attribute) else [name]
            chosen = events.select(columns).filter(intake.are(events, actions))
            found[owner, name] = _count(chosen, name, attribute)
        return found

    counts: list[dict[tuple[str, str], pl.DataFrame]] = []
    with progress("counting values", intake.partitions) as advance:
        for found in threaded(count, range(intake.partitions), cores()):
            counts.append(found)
            advance(1, "")
    fitted = {
        (owner, name): _vocabulary(
            schema.attributes[name],
            [found[owner, name] for found in counts],
            intake.codes.get(name),
        )
        for owner, name in counted
    }
    segments: dict[str, dict[str, Vocabulary]] = {segment: {} for segment in schema.segments}
    for (segment, name), owner in owners.items():
        segments[segment][name] = fitted[owner, name]
    fields = schema.profile.fields if schema.profile is not None else {}
    visible = profiles if before is None else profiles.filter(pl.col("time") < before)
    return Vocabularies(
        segments,
        {
            name: _vocabulary(field, [_count(visible, name, field)])
            for name, field in fields.items()
        },
    )


def _count(events: pl.DataFrame, name: str, attribute: Attribute) -> pl.DataFrame:
    """Rows by value, and users where their number matters, for it is slow to find."""
    value = events[name]
    if isinstance(attribute, Number):
        value = countable(value.cast(pl.Float32).fill_null(float("nan")))
    table, users = pl.DataFrame({"value": value}), pl.lit(1, pl.UInt32)
    if _matter_users(attribute):
        table, users = table.with_columns(events["user_id"]), pl.col("user_id").n_unique()
    return table.group_by("value").agg(pl.len().alias("count"), users.alias("users"))


def _matter_users(attribute: Attribute) -> bool:
    return isinstance(attribute, Category) and attribute.min_users > 1


def _vocabulary(
    attribute: Attribute, counts: list[pl.DataFrame], codes: Codes | None = None
) -> Vocabulary:
    """Give ids to values that were counted, as such or by their codes."""
    # A user's events are in one partition, so the numbers of users add up too.
    merged = pl.concat(counts).group_by("value").agg(pl.col("count").sum(), pl.col("users").sum())
    if codes is not None:
        merged = merged.with_columns(codes.values.gather(merged["value"]).alias("value"))
    if isinstance(attribute, Number):
        return Bins.fit(merged, attribute.bins)
    if isinstance(attribute, Derived):
        return Categories.fit(merged, max_values=1_000_000, min_users=1)
    assert isinstance(attribute, Category)
    return Categories.fit(merged, attribute.max_values, attribute.min_users)


def _encode_profiles(profiles: pl.DataFrame, vocabularies: Vocabularies) -> pl.DataFrame:
    """Profile rows as shards hold them, in the order of their users and times."""
    encoded = {
        name: vocabulary.encode(profiles[name].to_arrow())
        for name, vocabulary in vocabularies.profile.items()
    }
    rows = pl.DataFrame(
        {
            "user_hash": user_hash(profiles["user_id"].to_arrow()),
            "user_id": profiles["user_id"],
            "time": profiles["time"],
            "word_start": np.ones(len(profiles), np.uint8),
            **encoded,
        }
    )
    return rows.sort(["user_hash", "user_id", "time", *encoded])


def _build(
    intake: Intake,
    vocabularies: Vocabularies,
    profiles: pl.DataFrame,
    partitions: range,
    advance: Advance,
) -> Iterator[ShardTables]:
    """The second pass: the kernel on each partition; some in a row make a shard."""
    partition_of = shard_of(profiles["user_hash"].to_numpy(), intake.partitions)
    schema = intake.schema
    encoders: dict[str, dict[str, Encoder]] = {
        segment: {
            name: one if isinstance(one, Bins) else intake.codes[name].encoder(one)
            for name, one in attributes.items()
        }
        for segment, attributes in vocabularies.segments.items()
    }

    def build(partition: int) -> ShardTables:
        events = intake.partition(partition)
        # Polars' own strings, that come back without a copy.
        newest = pl.CompatLevel.newest()
        users, numbers = number_users(events["user_id"].to_arrow(compat_level=newest))
        events = events.drop("user_id").insert_column(0, pl.Series("user", numbers))
        tables = {}
        for name, segment in schema.segments.items():
            chosen = events.filter(intake.are(events, segment.actions)).to_arrow()
            tables[name] = build_words(chosen, encoders[name], segment.words, schema.zone)
        first, last = np.searchsorted(partition_of, [partition, partition + 1])
        return ShardTables(users, tables, _profile_of(profiles.slice(first, last - first), users))

    for tables in threaded(build, partitions, cores()):
        yield tables
        advance(1, "")


def _profile_of(profiles: pl.DataFrame, users: pa.Array) -> pa.Table:
    """The profile rows of some users, who have numbers in place of ids; strangers are left out."""
    numbers = pc.index_in(profiles["user_id"].to_arrow(), users)
    rows = profiles.drop("user_hash", "user_id")
    rows.insert_column(0, pl.Series("user", numbers).cast(pl.Int32))
    return rows.drop_nulls("user").to_arrow()


def _check_segments(schema: Schema, actions: Mapping[str, int]) -> None:
    for name, count in actions.items():
        if count == 0:
            raise SourceError(
                f"segments.{name}: no event has one of its actions "
                f"({', '.join(schema.segments[name].actions)}). Correct or remove the segment."
            )


def _warnings(schema: Schema) -> list[str]:
    """What the schema allows but is seldom meant."""
    segments = schema.segments
    if len(segments) < 2 or not set(segments["long_term"].actions) & set(
        segments["short_term"].actions
    ):
        return []
    long_term, short_term = segments["long_term"].window, segments["short_term"].window
    if long_term.to is not None and long_term.to >= short_term.from_:
        return []
    return [
        "the segments share actions and their windows overlap, so a masked word can be read off "
        "its twin; let the long-term window end where the short-term one begins, for example "
        "`window: {from: 90d, to: 7d}`"
    ]


def _power_of_two(at_least: float) -> int:
    return 1 << max(0, int(np.ceil(np.log2(max(at_least, 1)))))
