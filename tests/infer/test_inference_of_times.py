"""Proposed schemas: time columns, and the windows of segments."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from shop_logs import START, propose, shop_log

from userbert.schema import Schema


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_since_1970_are_times_with_a_unit(
    tmp_path: Path, unit: str, scale: int, as_text: bool
) -> None:
    seconds = pl.col("created_at").dt.epoch("s") * scale
    frame = shop_log().with_columns(seconds.cast(pl.String) if as_text else seconds)
    schema = Schema.parse(propose(tmp_path, frame))
    assert schema.sources["log"].time.unit == unit
    assert schema.sources["log"].time.resolution == "instant"


@pytest.mark.parametrize(
    ("form", "zone", "resolution"),
    [
        ("%Y-%m-%dT%H:%M:%S+02:00", "UTC", "instant"),
        ("%Y-%m-%dT%H:%M:%SZ", "UTC", "instant"),
        ("%Y-%m-%d %H:%M", "UTC", "instant"),
        ("%Y-%m-%d", "local", "day"),
        ("%Y/%m/%d", "local", "day"),
        ("%Y%m%d", "local", "day"),
        ("%Y-%m-%d 00:00:00", "local", "day"),
    ],
)
def test_format_of_text_decides_between_times_and_dates(
    tmp_path: Path, form: str, zone: str, resolution: str
) -> None:
    frame = shop_log().with_columns(pl.col("created_at").dt.strftime(form))
    text = propose(tmp_path, frame)
    schema = Schema.parse(text)
    assert (schema.sources["log"].time.zone, schema.sources["log"].time.resolution) == (
        zone,
        resolution,
    )
    assert ("Times with a time zone" in text) == (form.endswith(("Z", "00")) and "T" in form)


def test_a_log_of_dates_has_one_segment_without_hours(tmp_path: Path) -> None:
    frame = shop_log().with_columns(pl.col("created_at").dt.truncate("1d"))
    schema = Schema.parse(propose(tmp_path, frame))
    assert schema.sources["log"].time.resolution == "day"
    assert list(schema.segments) == ["long_term"]
    assert schema.segments["long_term"].window.to is None
    assert "hour" not in schema.attributes


def test_time_zone_of_the_times_becomes_the_users_zone(tmp_path: Path) -> None:
    zoned = pl.col("created_at").dt.replace_time_zone("Asia/Tokyo")
    schema = Schema.parse(propose(tmp_path, shop_log().with_columns(zoned)))
    assert schema.timezone == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("days", "long", "short"),
    [
        (500, "365d", "7d"),
        (200, "200d", "7d"),
        (60, "60d", "7d"),
        (20, "20d", "1d"),
        (6, "6d", "11h"),
    ],
)
def test_windows_follow_the_span_and_do_not_overlap(
    tmp_path: Path, days: int, long: str, short: str
) -> None:
    ends = pl.DataFrame(
        {"created_at": [START, START + timedelta(days=days)], "customer_id": ["a"] * 2}
    )
    frame = pl.concat([shop_log(days=days - 1), ends], how="diagonal")
    text = propose(tmp_path, frame.with_columns(pl.col("event_type").fill_null("view")))
    assert f"window: {{from: {long}, to: {short}}}" in text
    assert f"    window: {short}\n" in text
    assert "no action is seen twice" in text


def test_log_of_an_afternoon_has_only_sessions(tmp_path: Path) -> None:
    minutes = [START + timedelta(minutes=5 * i) for i in range(50)]
    frame = pl.DataFrame({"user": [i % 7 for i in range(50)], "time": minutes})
    schema = Schema.parse(propose(tmp_path, frame))
    assert list(schema.segments) == ["short_term"]
    assert schema.segments["short_term"].window.from_ == timedelta(hours=5)


def test_users_with_one_day_have_only_sessions(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": [i // 4 for i in range(400)],
            "time": [START + timedelta(days=i // 4 % 50, minutes=i % 4) for i in range(400)],
        }
    )
    assert list(Schema.parse(propose(tmp_path, frame)).segments) == ["short_term"]


def test_users_with_one_event_per_day_have_only_days(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": [i % 10 for i in range(400)],
            "time": [START + timedelta(days=i // 10, hours=5) for i in range(400)],
        }
    )
    assert list(Schema.parse(propose(tmp_path, frame)).segments) == ["long_term"]
