"""`prepare`: turns raw logs into prepared data.

In: a schema, and its logs as files or frames. Out: a folder that `PreparedData` opens. The first
pass checks every row and groups rows by user hash; then values are counted and get ids; the second
pass runs the words kernel on some users at a time. Shards and vocabularies are equal, byte for
byte, for any order of events and any engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userbert.data.prepare.appending import refuse_known_files, require_same_schema
from userbert.data.prepare.engine import Engine, Preparation
from userbert.data.prepare.fitting import grow_vocabularies
from userbert.data.prepare.local import LocalEngine
from userbert.data.read.reading import REJECTED, OnInvalid, Reading
from userbert.data.read.sources import LogFile, open_profile, open_sources
from userbert.data.shards import power_of_two
from userbert.data.store import PreparedData, read_summary, write_manifest
from userbert.data.vocabulary import Vocabularies
from userbert.errors import SchemaError, SourceError
from userbert.folders import publishing_folder, write_json
from userbert.schema.attributes import Category, Number
from userbert.schema.models import Schema
from userbert.schema.yaml_text import did_you_mean

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROWS_PER_SHARD = 4_194_304
"""Maximum mean number of rows of logs per shard; a Spark task holds a shard in memory."""


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
    spark: "SparkSession | None" = None,
) -> PreparedData:
    """Turns logs into prepared data in the folder `output`; returns the data opened.

    `events` holds frames (Polars, pandas, any Arrow table) by source name, in place of the sources'
    files; `profile` is a frame in place of the profile file. `memory` limits the memory of the
    local engine, in bytes. With `vocabularies` of a model or of other data, ids keep the meaning
    that they have there. With `append`, the schema lists only new files, and the result also holds
    the data in `append`, with their vocabularies. With `grow`, values that these vocabularies do
    not hold get new ids, and old ids keep their meaning.

    With a `spark` session, its executors read the files and write the folder, and `memory` has no
    effect.

    Raises `SourceError` at the first invalid row, unless `on_invalid` is `quarantine`: then invalid
    rows go into `rejected.parquet`, each with its reason. Raises `SchemaError` if the schema does
    not match the vocabularies or the data in `append`.
    """
    if append is not None:
        vocabularies = append.vocabularies
        require_same_schema(schema, append)
    if vocabularies is not None:
        _check_vocabularies(schema, vocabularies)
    return prepare_logs(
        schema,
        open_sources(schema, events),
        open_profile(schema, profile),
        Path(output),
        partial(LocalEngine, memory=memory) if spark is None else _spark_engine(spark),
        on_invalid=on_invalid,
        vocabularies=vocabularies,
        append=append,
        grow=grow,
    )


def prepare_logs(
    schema: Schema,
    logs: list[LogFile],
    profiles: list[LogFile],
    output: Path,
    open_engine: Callable[[Preparation], Engine],
    *,
    on_invalid: OnInvalid = "fail",
    vocabularies: Vocabularies | None = None,
    append: PreparedData | None = None,
    grow: bool = False,
    rows_per_shard: float = _ROWS_PER_SHARD,
) -> PreparedData:
    """Runs an engine on opened logs; returns the prepared data. See `prepare` for the options.

    With `append`, `vocabularies` must be those of `append`. The number of shards is the smallest
    power of two with a mean of at most `rows_per_shard` rows of logs per shard.
    """
    before: dict[str, Any] = {"rows": {}} if append is None else read_summary(append)
    refuse_known_files([log.name for log in logs], before["rows"])
    rows = sum(log.rows for log in logs)
    rows += sum(account["read"] for account in before["rows"].values())
    names = dict.fromkeys(log.name for log in [*logs, *profiles])
    numbers = {name: number for number, name in enumerate(names)}
    with publishing_folder(output) as folder:
        reading = Reading(schema, on_invalid, numbers, folder / REJECTED)
        if append is not None and (append.path / REJECTED).exists():
            reading.add_rejected(append.path / REJECTED)
        preparation = Preparation(
            schema, logs, profiles, reading, append, rows,
            shards=power_of_two(rows / rows_per_shard), output=output, folder=folder,
        )  # fmt: skip
        engine = open_engine(preparation)
        engine.read()
        reading.require_events(logs)
        if vocabularies is None or grow:
            _check_fit_before(schema, reading.first_event)
            fitted = engine.fit()
            vocabularies = (
                fitted if vocabularies is None else grow_vocabularies(schema, vocabularies, fitted)
            )
        elif append is not None:
            schema = schema.model_copy(update={"fit_before": append.schema.fit_before})
        size, checksums = engine.build(vocabularies)
        _check_segments(schema, size.actions)
        reading.close()
        (folder / "schema.yaml").write_text(schema.dump(), encoding="utf-8")
        write_json(folder / "vocabularies.json", vocabularies.to_json())
        rows_by_file = {name: account.to_json() for name, account in reading.accounts.items()}
        summary = {
            **before,
            **asdict(size),
            "rows": {**before["rows"], **rows_by_file},
            "warnings": [
                *_overlap_warnings(schema),
                *([] if append is not None else _unseen_action_warnings(reading)),
            ],
        }
        write_json(folder / "summary.json", summary)
        content = {"users": size.users, "shards": preparation.shards, **_span(reading, append)}
        write_manifest(folder, content, checksums)
    return PreparedData.open(output)


def _span(reading: Reading, append: PreparedData | None) -> dict[str, int]:
    """Returns the times of the first and last event of the manifest."""
    first, last = reading.first_event, reading.last_event
    if append is not None:
        first, last = min(first, append.first_event), max(last, append.last_event)
    return {"first_event": first, "last_event": last}


def _spark_engine(session: "SparkSession") -> Callable[[Preparation], Engine]:
    from userbert.data.prepare.spark import SparkEngine

    return partial(SparkEngine, session=session)


def _check_vocabularies(schema: Schema, vocabularies: Vocabularies) -> None:
    """Raises `SchemaError` unless schema and vocabularies have equal attributes and profile fields.

    Names and kinds (categorical or numeric) must be equal; bins and sizes may differ.
    """
    fields = schema.profile.fields if schema.profile is not None else {}
    in_schema = {
        **{
            f"segments.{name}": {
                attribute: not isinstance(schema.attributes[attribute], Number)
                for attribute in segment.attributes
            }
            for name, segment in schema.segments.items()
        },
        "profile": {name: isinstance(field, Category) for name, field in fields.items()},
    }
    in_vocabularies = {
        **{f"segments.{name}": known for name, known in vocabularies.segments.items()},
        "profile": vocabularies.profile,
    }
    for place in {**in_schema, **in_vocabularies}:
        schema_names = in_schema.get(place, {})
        vocabulary_names = {
            name: vocabulary.is_categorical
            for name, vocabulary in in_vocabularies.get(place, {}).items()
        }
        if schema_names != vocabulary_names:
            raise SchemaError(
                f"{place}: the schema has {', '.join(schema_names) or 'nothing'}, the vocabulary "
                f"{', '.join(vocabulary_names) or 'nothing'}. Use the schema.yaml in the "
                "vocabulary's folder."
            )


def _check_fit_before(schema: Schema, first_event: int) -> None:
    """Raises `SchemaError` if no event is before the schema's `fit_before`."""
    if schema.fit_before_us is not None and first_event >= schema.fit_before_us:
        first = datetime.fromtimestamp(first_event // 1_000_000, schema.zone)
        raise SchemaError(
            f"fit_before: no event is before {schema.fit_before}, so vocabularies would be empty; "
            f"the first is at {first}. Choose a later time."
        )


def _check_segments(schema: Schema, actions: Mapping[str, int]) -> None:
    """Raises `SourceError` if a segment has no actions; `actions` are numbers by segment."""
    for name, count in actions.items():
        if count == 0:
            raise SourceError(
                f"segments.{name}: no event has one of its actions "
                f"({', '.join(schema.segments[name].actions)}). Correct or remove the segment."
            )


def _unseen_action_warnings(reading: Reading) -> list[str]:
    """Returns a warning for each action type of a segment that no event has; it may be misspelt."""
    outside = {name for account in reading.accounts.values() for name in account.outside_by_action}
    return [
        f"segments.{name}.actions: no event has the action type {action!r}"
        f"{did_you_mean(action, outside)}"
        for name, segment in reading.schema.segments.items()
        for action in segment.actions
        if action in reading.unseen
    ]


def _overlap_warnings(schema: Schema) -> list[str]:
    """Returns a warning if the windows of segments that share actions overlap."""
    segments = schema.segments
    if len(segments) < 2 or not set(segments["long_term"].actions) & set(
        segments["short_term"].actions
    ):
        return []
    long_term, short_term = segments["long_term"].window, segments["short_term"].window
    if long_term.to is not None and long_term.to >= short_term.from_:
        return []
    return [
        "the segments share actions and their windows overlap, so a masked word can be copied from "
        "the other segment; end the long-term window where the short-term window begins, for "
        "example `window: {from: 90d, to: 7d}`"
    ]
