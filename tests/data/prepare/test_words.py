"""The words kernel: word starts, the order of actions, and hashes of users."""

import random
from collections import Counter
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userbert.data.prepare.words import (
    DayGrid,
    HourGrid,
    _sorting_order,
    build_words,
    encode_actions,
    number_users,
    word_starts,
)
from userbert.data.shards import user_hash
from userbert.data.vocabulary import Bins, Categories, Vocabulary
from userbert.schema.models import DayWords, GapWords

NEW_YORK = ZoneInfo("America/New_York")
DAY = DayWords(by="day")
GAP = GapWords(by="gap", minutes=30)
VOCABULARIES: dict[str, Vocabulary] = {
    "genre": Categories(("bread", "milk")),
    "price": Bins((2.0,)),
}


def instant(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=NEW_YORK)
    seconds = int(moment.astimezone(UTC).replace(microsecond=0).timestamp())
    return seconds * 1_000_000 + moment.microsecond


def starts(words: DayWords | GapWords, *times: str, zone: ZoneInfo = NEW_YORK) -> list[bool]:
    """Returns where words start among one user's actions."""
    instants = np.array([instant(time) for time in times], np.int64)
    flags: list[bool] = word_starts(np.zeros(len(times), np.int64), instants, words, zone).tolist()
    return flags


Event = tuple[str, int, str | None, float | None]


def events(*rows: Event) -> tuple[list[str], pa.Table]:
    """Returns the sorted users, and the events with user numbers."""
    ids, *columns = list(zip(*rows, strict=True)) or [()] * 4
    users, numbers = number_users(pa.array(ids, pa.large_string()))
    types = {"time": pa.int64(), "genre": pa.large_string(), "price": pa.float32()}
    table = {
        name: pa.array(column, dtype)
        for column, (name, dtype) in zip(columns, types.items(), strict=True)
    }
    return users.to_pylist(), pa.table({"user": numbers, **table})


def built(log: pa.Table, words: DayWords | GapWords) -> pa.Table:
    return build_words(encode_actions(log, VOCABULARIES), words, NEW_YORK)


def test_a_day_starts_at_four_in_the_morning_of_local_time() -> None:
    assert starts(
        DAY,
        "2017-03-01T04:00:00",
        "2017-03-02T03:59:59.999",
        "2017-03-02T03:59:59.999999",
        "2017-03-02T04:00:00",
        "2017-03-03T03:59:59.999999",
    ) == [True, False, False, True, False]


def test_a_day_may_begin_at_midnight() -> None:
    midnight = DayWords(by="day", starts_at="00:00")
    assert starts(midnight, "2017-03-01T23:59:59.999999", "2017-03-02T00:00") == [True, True]
    assert starts(DAY, "2017-03-01T23:59:59.999999", "2017-03-02T00:00") == [True, False]


@pytest.mark.parametrize(
    ("before", "hours"), [("2017-03-11", 23), ("2017-11-04", 25), ("2017-06-01", 24)]
)
def test_days_last_23_to_25_hours_when_clocks_change(before: str, hours: int) -> None:
    first = instant(f"{before}T04:00")
    grid = DayGrid(NEW_YORK, time(4))
    last = first + hours * 3_600_000_000 - 1
    times = np.array([first - 1, first, last, last + 1])
    index = grid.index(times)
    assert (index - index[1]).tolist() == [-1, 0, 0, 1]
    assert grid.floor(times)[1:].tolist() == [first, first, last + 1]


def test_a_day_of_23_hours_ends_at_four_by_the_new_clock() -> None:
    # Four o'clock is 09:00 UTC on 11 March 2017 and 08:00 UTC from 12 March on.
    assert starts(
        DAY, "2017-03-11T09:00+00:00", "2017-03-12T07:59:59.999+00:00", "2017-03-12T08:00+00:00"
    ) == [True, False, True]


def test_a_day_of_25_hours_holds_the_repeated_hour_twice() -> None:
    assert starts(
        DAY,
        "2017-11-04T08:00+00:00",  # 04:00 EDT
        "2017-11-05T05:30+00:00",  # 01:30 EDT
        "2017-11-05T06:30+00:00",  # 01:30 EST
        "2017-11-05T08:59:59.999+00:00",  # 03:59:59.999 EST
        "2017-11-05T09:00+00:00",  # 04:00 EST
    ) == [True, False, False, False, True]


def test_the_number_of_a_day_counts_dates_from_1970() -> None:
    days = DayGrid(NEW_YORK, time(4)).index(
        np.array(
            [instant("1970-01-01T04:00"), instant("1969-12-31T03:59"), instant("2000-02-29T12:00")]
        )
    )
    assert days.tolist() == [0, -2, 11_016]


@given(
    st.sampled_from(["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.integers(-2_208_988_800, 7_258_118_400),
    st.sampled_from(["00:00", "02:30", "04:00", "23:59"]),
)
def test_an_instant_is_between_the_starts_of_its_day_and_the_next(
    zone: str, seconds: int, start: str
) -> None:
    grid = DayGrid(ZoneInfo(zone), time.fromisoformat(start))
    times = np.array([seconds * 1_000_000])
    first = grid.floor(times)
    assert first[0] <= times[0] < first[0] + 50 * 3_600_000_000
    assert grid.index(first) == grid.index(times)
    assert grid.index(first - 1) < grid.index(times)


def test_days_do_not_depend_on_the_other_times_in_the_call() -> None:
    grid = DayGrid(NEW_YORK, time(4))
    times = np.array([instant(f"{year}-12-31T23:00") for year in range(1960, 2060)])
    alone = [int(grid.index(times[i : i + 1])[0]) for i in range(len(times))]
    assert grid.index(times).tolist() == alone


def test_a_session_ends_after_a_gap_of_more_than_thirty_minutes() -> None:
    assert starts(GAP, "2017-03-01T10:00", "2017-03-01T10:30:00", "2017-03-01T11:00:00.001") == [
        True,
        False,
        True,
    ]


def test_a_session_ignores_days_and_clock_changes() -> None:
    assert starts(GAP, "2017-03-02T03:50", "2017-03-02T04:10") == [True, False]
    assert starts(GAP, "2017-03-12T01:45-05:00", "2017-03-12T03:15-04:00") == [True, False]
    assert starts(GAP, "2017-11-05T01:45-04:00", "2017-11-05T01:30-05:00") == [True, True]


def test_a_word_never_spans_users() -> None:
    same = np.array([instant("2017-03-01T10:00")] * 4)
    for words in (DAY, GAP):
        flags = word_starts(np.array([1, 1, 2, 3]), same, words, NEW_YORK)
        assert flags.tolist() == [True, False, True, True]


def test_hours_are_counted_from_the_epoch() -> None:
    grid = HourGrid()
    assert grid.index(np.array([-1, 0, 3_599_999_999, 3_600_000_000])).tolist() == [-1, 0, 0, 1]
    assert grid.floor(np.array([3_600_000_001])).tolist() == [3_600_000_000]
    assert grid.index(np.zeros(0, np.int64)).tolist() == []


def test_actions_are_encoded_and_sorted_by_user_and_time() -> None:
    late, early = instant("2017-03-01T10:31"), instant("2017-03-01T10:00")
    users, log = events(
        ("b", early, None, None), ("a", late, "milk", -1.5), ("a", early, "cheese", 2.0)
    )
    table = built(log, GAP)
    assert table.column_names == ["user", "time", "word_start", "genre", "price"]
    rows = pl.DataFrame(table)
    assert rows["user"].is_sorted()
    of_a = rows.filter(pl.col("user") == users.index("a")).drop("user").rows()
    assert of_a == [(early, 1, 1, 2.0), (late, 1, 3, -1.5)]
    of_b = rows.filter(pl.col("user") == users.index("b")).drop("user")
    assert of_b.drop("price").rows() == [(early, 1, 0)]
    assert of_b["price"].is_nan().all()


@pytest.mark.parametrize("words", [DAY, GAP])
def test_no_events_make_no_words_in_the_same_columns(words: DayWords | GapWords) -> None:
    some, none = (built(events(*rows)[1], words) for rows in ([("a", 0, "milk", 1.0)], []))
    assert none.num_rows == 0
    assert none.schema == some.schema


def test_a_user_with_one_event_has_one_word() -> None:
    _, log = events(("a", 5, "milk", 1.0))
    assert built(log, DAY)["word_start"].to_pylist() == [1]


def test_equal_times_have_one_order_for_any_order_of_the_input() -> None:
    noon = instant("2017-03-01T12:00")
    rows: list[Event] = [
        (user, noon, genre, price)
        for user in ("a", "b")
        for genre in ("bread", "milk", "cheese", None)
        for price in (0.0, -0.0, 1.0, None, float("nan"))
    ]
    rows += [("a", noon + 1, "milk", 1.0), ("b", noon - 1, None, None)]
    tables = set()
    for seed in range(10):
        random.Random(seed).shuffle(rows)
        _, log = events(*rows)
        table = built(log, DAY).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        tables.add(sink.getvalue().to_pybytes())
    assert len(tables) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 3),
            st.sampled_from(["bread", "milk", None]),
            st.sampled_from([1.0, 2.0, None]),
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_words_hold_exactly_the_actions_of_the_input_in_any_order(
    rows: list[Event], random: random.Random
) -> None:
    users, log = events(*rows)
    table = built(log, DAY)
    genres = [None, "unknown", "bread", "milk"]
    actions = [
        (users[user], time, genres[genre], None if np.isnan(price) else price)
        for user, time, _, genre, price in zip(
            *(table[name].to_pylist() for name in table.column_names), strict=True
        )
    ]
    assert Counter(actions) == Counter(rows)
    keys = [(users.index(user), time) for user, time, *_ in actions]
    assert keys == sorted(keys)
    random.shuffle(rows)
    again = built(events(*rows)[1], DAY)
    assert pl.DataFrame(again).equals(pl.DataFrame(table))


@pytest.mark.parametrize("far", [1, 2**60])
def test_users_and_times_are_sorted_for_any_time_span(far: int) -> None:
    generator = np.random.default_rng(0)
    users = generator.integers(0, 5, 50).astype(np.int32)
    times = generator.integers(-3, 3, 50) * far
    order = _sorting_order({"user": users, "time": times})
    assert sorted(order.tolist()) == list(range(50))
    assert (users[order] == np.sort(users)).all()
    keys = list(zip(users[order].tolist(), times[order].tolist(), strict=True))
    assert keys == sorted(keys)


def test_kernel_does_not_change_its_input() -> None:
    _, log = events(("b", 2, "milk", 1.0), ("a", 1, None, None))
    before = log.to_pylist()
    built(log, DAY)
    assert log.to_pylist() == before


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=20))
def test_users_are_numbered_by_hash_and_id(ids: list[str]) -> None:
    users, numbers = number_users(pa.array(ids, pa.large_string()))
    assert [users[number].as_py() for number in numbers.tolist()] == ids
    hashes = user_hash(pa.array(sorted(set(ids)), pa.large_string())).tolist()
    assert users.to_pylist() == [
        user for _, user in sorted(zip(hashes, sorted(set(ids)), strict=True))
    ]


def test_the_hash_of_a_user_never_changes() -> None:
    ids = ["", "a", "1", "17", "user-0001", "Ärger", "用户", "🛒", "x" * 300]
    assert user_hash(pa.array(ids)).tolist() == EXPECTED_HASHES


EXPECTED_HASHES = [
    0xEFD01F60BA992926,
    0x82A2A958A9BECE5B,
    0x7C3832DDE020D3D6,
    0xD8273C40AC76F52C,
    0xE705650AE861FF2C,
    0x81D540F4C2D92D4B,
    0x39C3B6C93ED61209,
    0xE69D1150B47A3041,
    0x08231E9AD7B58D59,
]


def plain_hash(text: str) -> int:
    """FNV-1a of 64 bits, then the finalizer of MurmurHash3."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD % 2**64
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return value ^ value >> 33


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=30))
def test_the_hash_equals_a_plain_loops(ids: list[str]) -> None:
    expected = [plain_hash(text) for text in ids]
    for array in (
        pa.array(ids, pa.string()),
        pa.array(["before", *ids, "after"], pa.large_string()).slice(1, len(ids)),
        pa.chunked_array([pa.array(ids[:3], pa.string()), pa.array(ids[3:], pa.string())]),
    ):
        assert user_hash(array).tolist() == expected


def test_the_hash_of_many_ids_spreads_over_its_highest_bits() -> None:
    hashes = user_hash(pa.array([str(number) for number in range(8192)]))
    counts = np.bincount((hashes >> np.uint64(60)).astype(np.int64), minlength=16)
    assert counts.min() > 400
    assert counts.max() < 624
