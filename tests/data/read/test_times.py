"""Every format of time gives the right instant, or null."""

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userbert.data.read.times import can_be_times, instants
from userbert.schema.models import Time


def read(values: Any, **time: Any) -> list[datetime | None]:
    """Parses a column of users in New York."""
    column = values if isinstance(values, pl.Series) else pl.Series(values)
    assert can_be_times(column.dtype)
    parsed = instants(column, Time(column="time", **time), "America/New_York")
    assert parsed.dtype == pl.Int64
    assert len(parsed) == len(column)
    return parsed.cast(pl.Datetime("us", "UTC")).to_list()


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


TEN = utc(2017, 3, 1, 10)


@pytest.mark.parametrize(
    "text",
    [
        "2017-03-01 10:00:00",
        "2017-03-01T10:00:00",
        "2017-03-01 10:00:00.000",
        "2017-03-01T10:00:00.000000",
        " 2017-03-01 10:00",
        "2017-03-01T10:00\t",
        "2017-03-01T10:00:00Z",
        "2017-03-01T10:00Z",
        "2017-03-01T10:00:00.000Z",
        "2017-03-01T05:00:00-05:00",
        "2017-03-01T05:00:00.0-0500",
        "2017-03-01 05:00:00-05",
        "2017-03-01 15:45:00+05:45",
        "2017-03-01 10:00:00 UTC",
        "2017-03-01 10:00:00.000000 UTC",
        "01.03.2017 10:00:00",
        "1.3.2017 10:00",
        "1488362400",
        "1488362400.0",
        "1488362400000",
        "1488362400000000",
    ],
)
def test_every_common_format_is_read(text: str) -> None:
    assert read([text]) == [TEN]
    assert read(["2017-03-01 10:00:00", text, None]) == [TEN, TEN, None]


@pytest.mark.parametrize("text", ["2017-03-01", "2017/03/01", "20170301", "01.03.2017"])
def test_a_date_is_read_as_its_midnight(text: str) -> None:
    assert read([text]) == [utc(2017, 3, 1)]
    assert read([text], zone="local") == [utc(2017, 3, 1, 5)]


@pytest.mark.parametrize(
    "text",
    ["soon", "", " ", "2017", "2017-02-30", "2017-03-01 25:00:00", "12:00", "2300-01-01",
     "1488362400000000000", "9" * 30, "nan", "inf", "2017-03-01 10:00:00 CET", "1512-01-01",
     "03/01/2017", "01.03.17", "30.02.2017"],
)  # fmt: skip
def test_text_that_is_not_a_time_is_null(text: str) -> None:
    assert read([text]) == [None]
    assert read([text], resolution="day") == [None]


def test_microseconds_are_exact() -> None:
    expected = utc(2017, 3, 1, 10, 0, 0, 123457)
    assert read(["2017-03-01T10:00:00.123457Z"]) == [expected]
    assert read(["2017-03-01T10:00:00.123457999"]) == [expected]
    assert read([1488362400123457]) == [expected]
    assert read(["1488362400123457"]) == [expected]
    assert read([1488362400.123457], unit="s") == [expected]


@given(st.integers(-2_208_988_800_000_000, 7_258_118_400_000_000))
def test_every_instant_survives_every_unit(us: int) -> None:
    expected = pl.Series([us]).cast(pl.Datetime("us", "UTC")).to_list()
    assert read([us], unit="us") == expected
    assert read([str(us)], unit="us") == expected
    assert read([datetime.fromtimestamp(0, UTC) + (expected[0] - utc(1970, 1, 1))]) == expected


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        (1488362400, "auto", TEN),
        (1488362400.5, "auto", utc(2017, 3, 1, 10, 0, 0, 500_000)),
        (1488362400000, "auto", TEN),
        (1488362400000000, "auto", TEN),
        (-5, "auto", utc(1969, 12, 31, 23, 59, 55)),
        (5, "s", utc(1970, 1, 1, 0, 0, 5)),
        (10_000_000_000, "ms", utc(1970, 4, 26, 17, 46, 40)),
        (1488362400, "us", utc(1970, 1, 1, 0, 24, 48, 362_400)),
        (1488362400000, "s", None),
        (2**62, "s", None),
        (-(2**62), "auto", None),
        (float("nan"), "auto", None),
        (float("inf"), "s", None),
        (1e300, "auto", None),
    ],
)
def test_numbers_count_from_1970_in_their_unit(
    number: float, unit: str, expected: datetime | None
) -> None:
    assert read([number], unit=unit) == [expected]
    if unit != "auto":
        assert read([str(number)], unit=unit) == [expected]


@pytest.mark.parametrize("dtype", [pl.Int32, pl.UInt32, pl.Int64, pl.UInt64, pl.Int128, pl.Float64])
def test_the_width_of_a_number_does_not_matter(dtype: Any) -> None:
    assert read(pl.Series([1488362400, None], dtype=dtype)) == [TEN, None]


def test_a_date_written_as_a_number_is_a_date() -> None:
    expected = [utc(2017, 3, 1), None]
    assert read([20170301, 20171345]) == expected
    assert read([20170301.0, None]) == expected
    assert read(["20170301", "20171345"]) == expected
    assert read([20170301], unit="s") == [utc(1970, 8, 22, 10, 51, 41)]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_of_every_unit_and_zone_are_read(unit: Any) -> None:
    naive = pl.Series([datetime(2017, 3, 1, 10)]).cast(pl.Datetime(unit))
    assert read(naive) == [TEN]
    assert read(naive, zone="local") == [utc(2017, 3, 1, 15)]
    assert read(naive, zone="Asia/Kathmandu") == [utc(2017, 3, 1, 4, 15)]
    aware = naive.dt.replace_time_zone("Asia/Tokyo")
    assert read(aware) == read(aware, zone="local") == [utc(2017, 3, 1, 1)]


def test_an_offset_wins_over_the_zone_of_the_source() -> None:
    assert read(["2017-03-01T10:00:00Z", "2017-03-01T10:00:00"], zone="local") == [
        TEN,
        utc(2017, 3, 1, 15),
    ]


def test_a_skipped_local_time_is_an_hour_later_and_a_repeated_one_is_the_first() -> None:
    assert read(["2017-03-12 02:30:00", "2017-11-05 01:30:00"], zone="local") == [
        utc(2017, 3, 12, 7, 30),
        utc(2017, 11, 5, 5, 30),
    ]
    assert read(["2017-11-05T01:30:00-05:00"], zone="local") == [utc(2017, 11, 5, 6, 30)]


@pytest.mark.parametrize(
    "values",
    [
        ["2017-03-12"],
        ["20170312"],
        ["2017-03-12 23:59:59"],
        ["2017-03-12T05:00:00Z"],
        [date(2017, 3, 12)],
        [datetime(2017, 3, 12, 23)],
        [datetime(2017, 3, 13, 3, 59, tzinfo=UTC)],
        [20170312],
        [1489305600],
    ],
)
def test_a_date_counts_from_its_last_microsecond_in_local_time(values: list[Any]) -> None:
    last = utc(2017, 3, 13, 3, 59, 59, 999_999)
    assert read(values, zone="local", resolution="day") == [last]


def test_days_of_a_change_of_clocks_end_at_midnight() -> None:
    dates = ["2017-03-11", "2017-03-12", "2017-11-04", "2017-11-05"]
    ends = read(dates, zone="local", resolution="day")
    assert [(end.day, end.hour) for end in ends if end] == [(12, 4), (13, 3), (5, 3), (6, 4)]
    # In São Paulo the clock skips midnight: the day before ends as the next begins at 01:00.
    assert read(["2017-10-14"], zone="America/Sao_Paulo", resolution="day") == [
        utc(2017, 10, 15, 2, 59, 59, 999_999)
    ]


@pytest.mark.parametrize("dtype", [pl.String, pl.Int64, pl.Float64, pl.Date, pl.Datetime("us")])
@pytest.mark.parametrize("resolution", ["instant", "day"])
def test_no_rows_and_empty_rows_have_no_times(dtype: Any, resolution: str) -> None:
    assert read(pl.Series([], dtype=dtype), resolution=resolution) == []
    assert read(pl.Series([None], dtype=dtype), resolution=resolution) == [None]


def test_extreme_times_are_null() -> None:
    for column in (
        pl.Series([datetime(9999, 12, 31, 23, 59), datetime(1, 1, 1)]),
        pl.Series([date(9999, 12, 31), date(1, 1, 1)]),
        pl.Series(["9999-12-31", "0001-01-01 00:00:00"]),
        pl.Series([2**63 - 1, -(2**63)]),
        pl.Series([datetime(9999, 12, 31, 23, 59, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]),
    ):
        for resolution in ("instant", "day"):
            assert read(column, zone="local", resolution=resolution) == [None, None]


@pytest.mark.parametrize("column", [[True], [[1]], [None], [{"a": 1}], [b"2017-03-01"]])
def test_other_types_hold_no_times(column: list[Any]) -> None:
    assert not can_be_times(pl.Series(column).dtype)


_PARTS = st.sampled_from(
    ["2017", "03", "1", "13", "-", ".", "/", "T", " ", ":", "05", "Z", "+01:00"]
)


@given(st.lists(_PARTS, max_size=12).map("".join), st.lists(_PARTS, max_size=12).map("".join))
def test_a_text_is_parsed_alike_after_any_other_text(before: str, text: str) -> None:
    time = Time(column="time")
    alone = instants(pl.Series([text]), time, "UTC")
    assert instants(pl.Series([before, text]), time, "UTC")[1] == alone[0]


@pytest.mark.parametrize("before", ["2017-03-01 10:00:00", "2017-03-01T10:00:00Z", "01.03.2017"])
@pytest.mark.parametrize(
    "text", ["2017-03-01", "2017-03-01T10:00", "20170301", "1.3.2017 10:00", "1488362400", "no"]
)
def test_columns_may_mix_formats_in_any_order(before: str, text: str) -> None:
    time = Time(column="time")
    alone = instants(pl.Series([text]), time, "UTC")
    assert instants(pl.Series([before, text, before]), time, "UTC")[1] == alone[0]
