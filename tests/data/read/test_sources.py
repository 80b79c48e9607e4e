"""Raw logs of every format give the same events; each invalid row has a reason."""

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from raw_logs import LOG, SCHEMA, message_of, rows_of, schema
from userbert.data.read.rows import INVALID
from userbert.data.read.sources import open_sources
from userbert.schema.models import Schema

EVENTS = [
    (1, "1", 1488380400000000, "buy", "bread", 1.5, "10", "3", "buy", None),
    (2, "2", 1488515400000000, "click", None, None, "23", "4", "click", None),
    (3, "2", 1488690000000000, "buy", "süß, 'or' \"not\"", 0.0, "0", "7", "buy", None),
]


def invalid_of(log: pl.DataFrame, text: str = SCHEMA) -> list[str | None]:
    """Returns why each row of a log is invalid."""
    return [row[-1] for row in rows_of(schema(text=text), log=log)]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_text_logs_of_every_form_give_the_same_events(
    tmp_path: Path, form: str, ending: str
) -> None:
    if form == "jsonl":
        content = LOG.write_ndjson().encode()
    else:
        content = LOG.write_csv(separator="\t" if form == "tsv" else ",").encode()
    if ending:
        content = gzip.compress(content) if ending == ".gz" else zstd(content)
    (tmp_path / f"log.{form}{ending}").write_bytes(content)
    assert rows_of(schema(tmp_path)) == EVENTS


def test_a_parquet_log_gives_the_same_events(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "log.parquet")
    assert rows_of(schema(tmp_path)) == EVENTS


@pytest.mark.parametrize(
    "frame", [LOG, LOG.to_pandas(), LOG.to_arrow(), LOG.to_dict(as_series=False)]
)
def test_frames_in_memory_give_the_same_events(frame: Any) -> None:
    assert rows_of(schema(), log=frame) == EVENTS
    assert open_sources(schema(), {"log": frame})[0].name == "frame 'log'"


@pytest.mark.parametrize("frame", [3, object(), pd.DataFrame({"user": [1, "a", b"x"]})])
def test_an_object_that_is_no_frame_is_an_error(frame: Any) -> None:
    message = message_of(lambda: open_sources(schema(), {"log": frame}))
    assert message.startswith("frame 'log' is not a table: ")


def test_a_frame_must_belong_to_a_source() -> None:
    assert message_of(lambda: open_sources(schema(), {"logs": LOG})) == (
        "events: no source is named 'logs'; the schema has log."
    )


@pytest.mark.parametrize(
    "users",
    [
        [17, 18],
        [17.0, 18.0],
        ["17", "18"],
        pl.Series([17, 18], dtype=pl.UInt8),
        pl.Series(["17", "18"], dtype=pl.Categorical),
    ],
)
def test_user_ids_are_text_however_they_are_stored(users: Any) -> None:
    log = LOG.head(2).with_columns(user=pl.Series(users))
    assert [row[1] for row in rows_of(schema(), log=log)] == ["17", "18"]


def test_a_user_id_keeps_its_zeros_and_its_letters(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,time,action,genre,price\n"
        "007,2017-03-01,buy,,\nÄ 🛒,2017-03-01,buy,,\n1.0,2017-03-01,buy,,\n"
    )
    assert [row[1] for row in rows_of(schema(tmp_path))] == ["007", "Ä 🛒", "1.0"]


def test_integers_stored_as_floats_keep_their_values() -> None:
    log = LOG.with_columns(genre=pl.Series([17.0, float("nan"), 2.5]))
    assert [row[4] for row in rows_of(schema(), log=log)] == ["17", None, "2.5"]


def test_rows_are_numbered_over_batches(tmp_path: Path) -> None:
    count = 10_000
    log = pl.DataFrame(
        {
            "user": range(count),
            "time": ["2017-03-01"] * count,
            "action": ["buy"] * count,
            "genre": [str(number) for number in range(count)],
            "price": [1.0] * count,
        }
    )
    log.write_csv(tmp_path / "log.csv")
    pl.DataFrame({"genre": log["genre"].reverse(), "group": log["genre"].reverse()}).write_csv(
        tmp_path / "groups.csv"
    )
    text = SCHEMA.replace("action: {column: action}}", "action: {column: action}, lookup: LOOKUP}")
    text = text.replace("LOOKUP", f"[{{path: {tmp_path}/groups.csv, on: genre}}]")
    text = text.replace("genre: {column: genre}", "genre: {column: group}")
    (opened,) = open_sources(schema(tmp_path / "log.csv", text))
    batches = list(replace(opened, batch_rows=1000).batches())
    assert len(batches) == 10
    assert [(row[0], row[1], row[4]) for row in pl.concat(batches).rows()] == [
        (number + 1, str(number), str(number)) for number in range(count)
    ]


def test_column_names_are_not_patterns() -> None:
    log = LOG.rename({"genre": "*"}).with_columns(pl.lit("x").alias("^u.*$"))
    schema = Schema.parse(SCHEMA.replace("column: genre", 'column: " *"'))
    expected, events = (
        pl.concat(open_sources(parsed, {"log": frame})[0].batches())
        for parsed, frame in ((Schema.parse(SCHEMA), LOG), (schema, log))
    )
    assert events.equals(expected)


def test_columns_may_have_the_names_of_internal_columns() -> None:
    log = LOG.rename({"user": "row", "genre": "file", "price": "partition"}).with_columns(
        invalid=pl.lit("x"), user_id=pl.lit("x"), action_type=pl.lit("x"), user_hash=pl.lit("x")
    )
    text = SCHEMA.replace("user: user", "user: row").replace("column: genre", "column: file")
    text = text.replace("column: price", "column: partition")
    assert rows_of(schema(text=text), log=log) == EVENTS


def test_the_types_of_a_column_may_change_between_files(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    days = [datetime(2020, 1, 1, hour, tzinfo=UTC) for hour in range(4)]
    seconds = [int(day.timestamp()) for day in days]
    kinds = [
        ([7], [days[0]], [1], [2]),
        (["7"], ["2020-01-01T01:00:00Z"], ["1"], ["2.0"]),
        ([7.0], [seconds[2]], [True], [2.0]),
        (pl.Series(["7"], dtype=pl.Categorical), [seconds[3] * 1000], [1.0], ["2"]),
    ]
    for number, (user, time, kind, price) in enumerate(kinds):
        columns = {"user": user, "time": time, "kind": kind, "price": price}
        pl.DataFrame(columns).write_parquet(tmp_path / "log" / f"{number}.parquet")
    text = """
user: user
timezone: UTC
sources: {log: {path: log, time: time, action: see}}
attributes: {kind: {column: kind}, price: {column: price, bins: 2}}
segments: {long_term: {words: {by: day}, window: 90d, actions: [see], attributes: [kind, price]}}
"""
    logs = open_sources(Schema.parse(text, tmp_path))
    events = pl.concat(batch for log in logs for batch in log.batches())
    assert events["invalid"].null_count() == 4
    assert events["user_id"].to_list() == ["7"] * 4
    assert events["time"].to_list() == [second * 1_000_000 for second in seconds]
    assert events["price"].to_list() == [2.0] * 4
    assert events["kind"].to_list() == ["1", "1", "true", "1"]


def test_sources_are_read_one_after_the_other(tmp_path: Path) -> None:
    LOG.head(1).write_csv(tmp_path / "a.csv")
    LOG.tail(2).write_parquet(tmp_path / "b.parquet")
    second = pl.DataFrame({"user": ["1"], "date": ["2017-03-01"], "genre": ["wine"]})
    second.write_csv(tmp_path / "second.csv")
    text = SCHEMA.replace("LOG", "[a.csv, b.parquet]").replace(
        "attributes:\n",
        "  more: {path: second.csv, action: buy,\n"
        "    time: {column: date, zone: local, resolution: day}}\nattributes:\n",
        1,
    )
    logs = open_sources(Schema.parse(text, tmp_path))
    assert [(Path(log.name).name, log.rows) for log in logs] == [
        ("a.csv", 1), ("b.parquet", 2), ("second.csv", 1),
    ]  # fmt: skip
    batch = pl.concat(list(logs[2].batches()))
    end = 1488430799999999  # 2017-03-01T23:59:59.999999-05:00
    assert batch.rows() == [(1, "1", end, "buy", "wine", None, None, "3", "buy", None)]


@pytest.mark.parametrize(
    ("column", "place"),
    [
        ("user", "user"),
        ("time", "sources.log.time.column"),
        ("action", "sources.log.action.column"),
        ("genre", "attributes.genre.column"),
        ("price", "attributes.price.column"),
    ],
)
def test_a_missing_column_is_an_error_that_lists_the_columns(column: str, place: str) -> None:
    log = LOG.drop(column, "unused")
    message = message_of(lambda: open_sources(schema(), {"log": log}))
    assert message == (
        f"frame 'log': the column \"{column}\" is missing (schema: {place}). "
        f"It has: {', '.join(log.columns)}. Correct the schema or the file."
    )


@pytest.mark.parametrize("column", ["user", "time", "action", "genre", "price"])
@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, b"\xff", timedelta(days=1)])
def test_columns_of_lists_and_bytes_cannot_be_used(column: str, value: Any) -> None:
    log = LOG.head(1).with_columns(pl.Series(column, [value]))
    message = message_of(lambda: open_sources(schema(), {"log": log}))
    assert message.startswith(f"frame 'log', column \"{column}\": expected one text or number")


def test_a_column_of_other_types_holds_no_times() -> None:
    log = LOG.with_columns(time=pl.lit(value=True))
    assert message_of(lambda: open_sources(schema(), {"log": log})) == (
        "frame 'log', column \"time\": expected times, found the type Boolean. Use another "
        "column (schema: sources.log.time.column), or correct the file."
    )


A_TIME = "expected a time between 1900 and 2200 such as 2017-09-01T04:00:00"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("user", None, "expected a user id, found nothing"),
        ("user", "", 'expected a user id, found ""'),
        ("user", 1.5, 'expected a user id, found "1.5"'),
        ("user", float("nan"), 'expected a user id, found "NaN"'),
        ("user", float("inf"), 'expected a user id, found "inf"'),
        ("time", None, f"{A_TIME}, found nothing"),
        ("time", "soon", f'{A_TIME}, found "soon"'),
        ("time", "x" * 99, f'{A_TIME}, found "{"x" * 60}"'),
        ("time", datetime(9999, 1, 1), 'expected a time between 1900 and 2200, found "9999-01-01 '
         '00:00:00.000000"'),
        ("action", None, "expected an action type, found nothing"),
        ("price", "free", 'expected a number ≥ 0, found "free"'),
        ("price", "1,5", 'expected a number ≥ 0, found "1,5"'),
        ("price", -0.01, 'expected a number ≥ 0, found "-0.01"'),
        ("price", float("inf"), 'expected a number ≥ 0, found "inf"'),
        ("price", 1e300, 'expected a number ≥ 0, found "1e+300"'),
    ],
)  # fmt: skip
def test_an_invalid_row_has_a_reason(column: str, value: Any, reason: str) -> None:
    values = pl.Series(column, [value], LOG.schema[column] if value is None else None)
    log = LOG.head(1).with_columns(values)
    assert invalid_of(log) == [f'column "{column}": {reason}']


@pytest.mark.parametrize("value", [None, "", " ", " nan", "NaN", "0", "-0", " 2.5", "1e3", True])
def test_numbers_may_have_many_formats_or_be_missing(value: Any) -> None:
    assert invalid_of(LOG.head(1).with_columns(pl.Series("price", [value]))) == [None]


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_times_outside_the_calendar_are_reported_as_numbers(unit: Any, number: int) -> None:
    times = pl.Series("time", [number]).cast(pl.Datetime(unit))
    reason = f'column "time": expected a time between 1900 and 2200, found "{number}"'
    assert invalid_of(LOG.head(1).with_columns(times)) == [reason]
    (opened,) = open_sources(schema(), {"log": LOG.head(1).with_columns(times.alias("user"))})
    assert next(opened.batches())["user_id"].to_list() == [str(number)]


def test_numbers_may_be_stored_as_categories() -> None:
    log = LOG.with_columns(price=pl.Series(["1", "2.5", "free"], dtype=pl.Categorical))
    assert invalid_of(log) == [None, None, 'column "price": expected a number ≥ 0, found "free"']


def test_only_invalid_rows_have_a_reason_and_it_is_the_first() -> None:
    log = pl.concat([LOG, LOG]).with_columns(
        user=pl.Series([1, 2, None, 4, 5, 6]), price=pl.Series([1, -1, -1, 1, None, -2])
    )
    price = 'column "price": expected a number ≥ 0, found '
    user = 'column "user": expected a user id, found nothing'
    assert invalid_of(log) == [None, f'{price}"-1"', user, None, None, f'{price}"-2"']


def test_a_number_without_a_least_value_may_be_negative() -> None:
    log = LOG.with_columns(price=pl.Series(["-5", "free", "-0.5"]))
    reason = 'column "price": expected a number, found "free"'
    assert invalid_of(log, SCHEMA.replace(", min: 0", "")) == [None, reason, None]


def test_a_log_with_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,time,action,genre,price\n")
    logs = open_sources(schema(tmp_path))
    assert [log.rows for log in logs] == [0]
    assert sum(len(batch) for log in logs for batch in log.batches()) == 0


def test_damage_found_while_reading_is_an_error(tmp_path: Path) -> None:
    log = pl.concat([LOG] * 2000).with_columns(genre=pl.int_range(6000).cast(pl.String))
    content = gzip.compress(log.write_csv().encode())
    (tmp_path / "log.csv.gz").write_bytes(content[: len(content) // 2])
    message = message_of(lambda: rows_of(schema(tmp_path)))
    assert "expected complete gzip data" in message


def test_the_reason_has_its_own_column() -> None:
    (log,) = open_sources(schema(), {"log": LOG})
    assert next(log.batches()).columns[-1] == INVALID
