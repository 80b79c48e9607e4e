"""Local preparation: raw logs → prepared data, in two passes over hash partitions of the users.

In: a schema, and its logs as files or frames. Out: a folder that `PreparedData` opens. The first
pass checks every row and spreads the events over partitions on disk by the hash of their user; then
vocabularies are counted partition by partition; the second pass runs the words kernel on one
partition at a time. Memory holds one partition and one shard, whatever the number of users.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.appending import check_same, joined, refuse_again, rejected_of, summary_of
from userbert.data.fitting import fit_vocabularies, grown
from userbert.data.intake import Intake, OnInvalid
from userbert.data.partitions import Partitions
from userbert.data.sources import open_profile, open_sources
from userbert.data.store import (
    PreparedData,
    ShardSize,
    ShardTables,
    total,
    write_manifest,
    write_shard,
)
from userbert.data.stored import UserRows, stored_range
from userbert.data.vocabulary import Bins, Vocabularies, Vocabulary
from userbert.data.words import Encoder, build_words, encode_actions, number_users
from userbert.errors import SchemaError, SourceError
from userbert.folders import publishing_folder, require_space, write_json
from userbert.progress import progress
from userbert.schema.models import Category, Number, Schema
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
    append: PreparedData | None = None,
    grow: bool = False,
) -> PreparedData:
    """Turn logs into prepared data; return it opened.

    `events` gives frames in place of the sources' files, `profile` one in place of the profile
    file; `memory` is in bytes; `vocabularies`, of a model or of other data, are used in place of
    the logs' own, so that ids mean the same. With `append` the result holds those data, too, by
    their vocabularies, and the schema's files are those that are new. With `grow`, ids that are
    given stay, and new values are added behind them.

    Raises `SourceError` at the first row that cannot be used, unless `on_invalid` is `quarantine`:
    then such rows go into `rejected.parquet`, each with its reason. Raises `SchemaError` if the
    schema is not that of the vocabularies or of the data appended to.
    """
    output = Path(output)
    if append is not None:
        vocabularies = append.vocabularies
        check_same(schema, append)
    if vocabularies is not None:
        _check_vocabularies(schema, vocabularies)
    logs = open_sources(schema, events)
    before: dict[str, Any] = {"rows": {}} if append is None else summary_of(append)
    refuse_again([log.name for log in logs], before["rows"])
    rows = sum(log.rows for log in logs)
    all_rows = rows + sum(account["read"] for account in before["rows"].values())
    shards = _power_of_two(all_rows / _ROWS_PER_SHARD)
    partitions = max(shards, _power_of_two(all_rows * _BYTES_PER_EVENT / memory))
    with publishing_folder(output) as folder:
        needed = int(all_rows * (_BYTES_OF_ROW + _BYTES_OF_VALUE * len(schema.attributes)))
        require_space(output, folder, needed, f"{all_rows:,} rows", "fewer logs")
        temporary = folder / "temporary"
        intake = Intake(schema, on_invalid, temporary, partitions)
        intake.spread(logs)
        intake.spread_profile(open_profile(schema, profile))
        if vocabularies is None or grow:
            _check_fit_before(schema, intake.first_event)
            found = fit_vocabularies(schema, intake)
            vocabularies = found if vocabularies is None else grown(schema, vocabularies, found)
        elif append is not None:
            schema = schema.model_copy(update={"fit_before": append.schema.fit_before})
        size = _write_shards(folder / "shards", _Parts(intake, vocabularies, append), shards)
        _check_segments(schema, size.actions)
        rejected = pl.concat([*([] if append is None else rejected_of(append)), intake.settle()])
        shutil.rmtree(temporary)
        (folder / "schema.yaml").write_text(schema.dump(), encoding="utf-8")
        write_json(folder / "vocabularies.json", vocabularies.to_json())
        if len(rejected):
            rejected.write_parquet(folder / "rejected.parquet")
        rows_by_file = {name: account.to_json() for name, account in intake.accounts.items()}
        summary = {
            **before,
            **asdict(size),
            "rows": {**before["rows"], **rows_by_file},
            "warnings": _warnings(schema),
        }
        write_json(folder / "summary.json", summary)
        first, last = intake.first_event, intake.last_event
        if append is not None:
            first, last = min(first, append.first_event), max(last, append.last_event)
        span = {"first_event": first, "last_event": last}
        write_manifest(folder, {"users": size.users, "shards": shards, **span})
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


class _Parts:
    """The second pass: the kernel on each partition."""

    def __init__(
        self, intake: Intake, vocabularies: Vocabularies, append: PreparedData | None
    ) -> None:
        self.intake = intake
        self._append = append
        self._encoders = {
            segment: _encoders(intake.events, attributes)
            for segment, attributes in vocabularies.segments.items()
        }
        self._fields = _encoders(intake.profile, vocabularies.profile)

    def build(self, partition: int) -> ShardTables:
        """All words of a partition's users."""
        intake, schema = self.intake, self.intake.schema
        events = intake.events_of(partition)
        # Polars' own strings, that come back without a copy.
        ids = [events["user_id"].to_arrow(compat_level=pl.CompatLevel.newest())]
        stored = None
        if self._append is not None:
            stored = stored_range(self._append, partition, intake.partitions)
            ids.append(stored.users)  # a new profile row may be of one who did nothing new
        users, numbers = number_users(
            pa.chunked_array([one.cast(pa.large_string()) for one in ids])
        )
        numbers = numbers[: len(events)]
        events = events.drop("user_id").insert_column(0, pl.Series("user", numbers))
        actions = {
            name: encode_actions(
                events.filter(intake.are(events, segment.actions)).to_arrow(), self._encoders[name]
            )
            for name, segment in schema.segments.items()
        }
        rows = UserRows(users, actions, self._profile(partition, users))
        if stored is not None:
            rows = joined(stored, rows)
        words = {
            name: build_words(rows.segments[name], segment.words, schema.zone)
            for name, segment in schema.segments.items()
        }
        return ShardTables(rows.users, words, rows.profile.to_arrow())

    def _profile(self, partition: int, users: pa.Array) -> pl.DataFrame:
        """The profile rows of a partition's users; strangers are left out."""
        rows = self.intake.profile_of(partition)
        found = pc.index_in(rows["user_id"].to_arrow().cast(pa.large_string()), users)
        rows = rows.insert_column(0, pl.Series("user", found).cast(pl.Int32)).drop_nulls("user")
        encoded = {
            name: encoder.encode(rows[name].to_arrow()) for name, encoder in self._fields.items()
        }
        starts = np.ones(len(rows), np.uint8)
        columns = {"user": rows["user"], "time": rows["time"], "word_start": starts, **encoded}
        return pl.DataFrame(columns).sort(pl.all())


def _encoders(partitions: Partitions, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Encoder]:
    """What gives ids to codes, and bins' numbers to numbers."""
    return {
        name: one if isinstance(one, Bins) else partitions.codes[name].encoder(one)
        for name, one in vocabularies.items()
    }


def _write_shards(folder: Path, parts: _Parts, shards: int) -> ShardSize:
    """Write all shards, each of some partitions in a row."""
    sizes, intake = [], parts.intake
    each = intake.partitions // shards
    with progress("building words", sum(intake.events.sizes)) as advance:
        for shard in range(shards):
            numbers = range(shard * each, (shard + 1) * each)
            built = threaded(parts.build, numbers, cores())
            sizes.append(write_shard(folder / f"{shard:05d}", built))
            advance(sum(intake.events.sizes[number] for number in numbers), f"shard {shard + 1}")
    return total(sizes)


def _profile_of(profiles: pl.DataFrame, users: pa.Array) -> pl.DataFrame:
    """The profile rows of some users, who have numbers in place of ids; strangers are left out."""
    numbers = pc.index_in(profiles["user_id"].to_arrow(), users)
    rows = profiles.drop("user_hash", "user_id")
    rows.insert_column(0, pl.Series("user", numbers).cast(pl.Int32))
    return rows.drop_nulls("user")


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
