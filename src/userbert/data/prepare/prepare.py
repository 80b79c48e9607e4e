"""Raw logs → prepared data, by whatever engine runs the passes.

In: a schema, and its logs as files or frames. Out: a folder that `PreparedData` opens. The first
pass checks every row and brings those of a user together, by the hash of the user; then values are
counted and get their ids; the second pass runs the words kernel on some users at a time. What is
read, in which order, and which engine, changes no byte of the result.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userbert.data.prepare.appending import check_same, refuse_again, summary_of
from userbert.data.prepare.engine import Engine, Preparation
from userbert.data.prepare.fitting import grown
from userbert.data.prepare.local import LocalEngine
from userbert.data.read.reading import REJECTED, OnInvalid, Reading
from userbert.data.read.sources import open_profile, open_sources
from userbert.data.shards import power_of_two
from userbert.data.store import PreparedData, write_manifest
from userbert.data.vocabulary import Vocabularies
from userbert.errors import SchemaError, SourceError
from userbert.folders import publishing_folder, write_json
from userbert.schema.attributes import Category, Number
from userbert.schema.models import Schema
from userbert.schema.yaml_text import did_you_mean

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROWS_PER_SHARD = 4_194_304


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
    """Turn logs into prepared data; return it opened.

    `events` gives frames (Polars, pandas, any Arrow table) in place of the sources' files, by the
    source's name, `profile` one in place of the profile file; `memory` is in bytes; `vocabularies`,
    of a model or of other data, are used in place of the logs' own, so that ids mean the same. With
    `append` the result holds those data, too, by their vocabularies, and the schema's files are
    those that are new. With `grow`, ids that are given stay, and new values are added behind them.

    With a `spark` session its cluster does the work, in place of this machine: files are read, and
    the folder is written, by its executors, and `memory` is not looked at.

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
    logs, profiles = open_sources(schema, events), open_profile(schema, profile)
    before: dict[str, Any] = {"rows": {}} if append is None else summary_of(append)
    refuse_again([log.name for log in logs], before["rows"])
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
            shards=power_of_two(rows / _ROWS_PER_SHARD), output=output, folder=folder,
        )  # fmt: skip
        engine = _engine(preparation, memory, spark)
        engine.read()
        reading.require_events(logs)
        if vocabularies is None or grow:
            _check_fit_before(schema, reading.first_event)
            found = engine.fit()
            vocabularies = found if vocabularies is None else grown(schema, vocabularies, found)
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
            "warnings": [*_overlaps(schema), *([] if append is not None else _unseen(reading))],
        }
        write_json(folder / "summary.json", summary)
        content = {"users": size.users, "shards": preparation.shards, **_span(reading, append)}
        write_manifest(folder, content, checksums)
    return PreparedData.open(output)


def _span(reading: Reading, append: PreparedData | None) -> dict[str, int]:
    first, last = reading.first_event, reading.last_event
    if append is not None:
        first, last = min(first, append.first_event), max(last, append.last_event)
    return {"first_event": first, "last_event": last}


def _engine(preparation: Preparation, memory: int, spark: "SparkSession | None") -> Engine:
    if spark is None:
        return LocalEngine(preparation, memory)
    from userbert.data.prepare.spark import SparkEngine

    return SparkEngine(preparation, spark)


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


def _check_segments(schema: Schema, actions: Mapping[str, int]) -> None:
    for name, count in actions.items():
        if count == 0:
            raise SourceError(
                f"segments.{name}: no event has one of its actions "
                f"({', '.join(schema.segments[name].actions)}). Correct or remove the segment."
            )


def _unseen(reading: Reading) -> list[str]:
    """Actions that a segment names and no event has: most likely they are misspelt."""
    outside = {name for account in reading.accounts.values() for name in account.outside_by_action}
    return [
        f"segments.{name}.actions: no event is a {action!r}"
        f"{did_you_mean(action, outside) or ', so nothing is learned of it'}"
        for name, segment in reading.schema.segments.items()
        for action in segment.actions
        if action in reading.unseen
    ]


def _overlaps(schema: Schema) -> list[str]:
    """Windows that the schema allows but that are seldom meant."""
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
