"""`cut`: what is visible before a cut-off, by hand-made examples."""

from datetime import datetime, timedelta
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from small_logs import GENRES, SCHEMA, WIDE, buys, cutoffs, instant, log, prepare_events, words_of
from userbert.data.prepare.words import DAY_US
from userbert.data.store import PreparedData
from userbert.data.use.sequences import actions_between, cut, profile_ids


def sequences(
    data: PreparedData, user: str, *texts: str, segment: str = "long_term"
) -> list[list[tuple[int, str]]]:
    """Returns a user's words at each cut-off, as (position, genres)."""
    rows = np.repeat(data.rows_of([user]), len(texts))
    words = words_of(data, cut(data, rows, cutoffs(*texts)), segment)
    return [
        [(position, " ".join(genre for (genre,) in actions)) for position, actions in user_words]
        for user_words in words
    ]


def test_an_event_at_the_cutoff_is_not_visible(tmp_path: Path) -> None:
    events = log(
        ("a", "2017-03-01 10:00:00", "buy", "bread", 1.0),
        ("a", "2017-03-01 10:00:00.000001", "buy", "milk", 1.0),
    )
    data = prepare_events(tmp_path, events, WIDE)
    for segment in ("long_term", "short_term"):
        visible = sequences(
            data, "a", "2017-03-01T10:00", "2017-03-01T10:00:00.000001",
            "2017-03-01T10:00:00.000002", segment=segment,
        )  # fmt: skip
        assert [[text for _, text in words] for words in visible] == [
            [], ["bread"], ["bread milk"],
        ]  # fmt: skip


def test_a_cutoff_inside_a_word_shows_its_beginning(tmp_path: Path) -> None:
    events = log(
        ("a", "2017-03-01 10:00", "buy", "bread", 1.0),
        ("a", "2017-03-01 23:00", "buy", "milk", 1.0),
        ("a", "2017-03-02 03:59", "buy", "wine", 1.0),
        ("a", "2017-03-02 04:00", "buy", "salt", 1.0),
    )
    data = prepare_events(tmp_path, events, WIDE)
    texts = [
        [text for _, text in words]
        for words in sequences(
            data, "a", "2017-03-01T12:00", "2017-03-02T00:00", "2017-03-02T12:00"
        )
    ]
    assert texts == [["bread"], ["bread milk"], ["bread milk wine", "salt"]]


def test_a_date_is_visible_from_the_next_midnight_on(tmp_path: Path) -> None:
    schema = WIDE.replace("zone: local", "zone: local, resolution: day")
    data = prepare_events(tmp_path, buys("a", "2017-03-12"), schema)
    assert sequences(
        data, "a", "2017-03-12T00:00", "2017-03-12T23:59:59.999999", "2017-03-13T00:00"
    ) == [[], [], [(800, "bread")]]


def test_the_oldest_day_is_whole_and_at_position_zero(tmp_path: Path) -> None:
    # Ninety days before 12:00 on 1 June is 12:00 on 3 March; that day began at 04:00.
    events = log(
        ("a", "2017-03-03 03:59:59.999999", "buy", "early", 1.0),
        ("a", "2017-03-03 04:00", "buy", "bread", 1.0),
        ("a", "2017-03-04 03:59", "buy", "milk", 1.0),
        ("a", "2017-03-04 04:00", "buy", "wine", 1.0),
        ("a", "2017-05-25 11:00", "buy", "salt", 1.0),
        ("a", "2017-05-25 12:00", "buy", "late", 1.0),
    )
    data = prepare_events(tmp_path, events, GENRES)
    assert sequences(data, "a", "2017-06-01T12:00") == [
        [(0, "bread milk"), (1, "wine"), (83, "salt")]
    ]
    assert sequences(data, "a", "2017-06-01T12:00", segment="short_term") == [[(0, "late")]]


def test_the_oldest_session_is_whole_and_at_position_zero(tmp_path: Path) -> None:
    # Seven days before 12:10 on 8 March is 12:10 on 1 March, in the hour of 12:00.
    events = log(
        ("a", "2017-03-01 11:00", "click", "too early", None),
        ("a", "2017-03-01 11:40", "click", "bread", None),
        ("a", "2017-03-01 12:10", "click", "milk", None),
        ("a", "2017-03-01 12:41", "click", "wine", None),
        ("a", "2017-03-01 14:00", "click", "salt", None),
        ("a", "2017-03-08 12:09", "click", "late", None),
        ("a", "2017-03-08 12:10", "buy", "too late", None),
    )
    data = prepare_events(tmp_path, events, GENRES)
    assert sequences(data, "a", "2017-03-08T12:10", segment="short_term") == [
        [(0, "bread milk"), (0, "wine"), (2, "salt"), (168, "late")]
    ]
    # A microsecond later the session ends before the window begins.
    (words,) = sequences(data, "a", "2017-03-08T12:10:00.000001", segment="short_term")
    assert words[0] == (0, "wine")


def test_positions_stay_below_the_size_of_their_table(tmp_path: Path) -> None:
    times = [datetime(2017, 1, 1) + timedelta(hours=1) * hour for hour in range(24 * 200)]
    schema = SCHEMA.replace("{from: 90d, to: 7d}", "90d")
    data = prepare_events(tmp_path, buys("a", *(str(moment) for moment in times)), schema)
    sizes = [segment.positions for segment in data.input_shape().segments]
    for days in (0, 9, 12, 23, 47):
        ends = data.first_event + (100 + days) * DAY_US + np.arange(48) * 3_599_999_999
        batch = cut(data, np.zeros(len(ends), np.int64), ends)
        for segment, size in zip(batch.segments, sizes, strict=True):
            assert segment.positions.min() >= 0
            assert size - 3 <= segment.positions.max() < size


@pytest.mark.parametrize(("cutoff", "last"), [("2017-03-12T04:30", 2), ("2017-11-05T04:30", 1)])
def test_days_are_counted_by_the_calendar_when_clocks_change(
    tmp_path: Path, cutoff: str, last: int
) -> None:
    # A window of 24 hours that ends on a day of 23 hours begins before 04:00 of the day before.
    schema = GENRES.replace("{from: 90d, to: 7d}", "24h").replace("window: 7d", "window: 1h")
    start = datetime.fromisoformat(cutoff)
    events = buys("a", str(start.replace(minute=0)), str(start - timedelta(days=1)))
    (words,) = sequences(prepare_events(tmp_path, events, schema), "a", cutoff)
    assert [position for position, _ in words] == [last - 1, last]


def test_no_action_is_in_both_segments(tmp_path: Path) -> None:
    # The session of 1 March straddles 12:00, seven days before the cut-off: it is short-term.
    events = log(
        ("a", "2017-02-28 10:00", "buy", "old", 1.0),
        ("a", "2017-03-01 11:00", "buy", "before", 1.0),
        ("a", "2017-03-01 11:45", "click", "session", None),
        ("a", "2017-03-01 11:50", "buy", "session", 1.0),
        ("a", "2017-03-01 12:10", "buy", "session", 1.0),
        ("a", "2017-03-07 10:00", "buy", "new", 1.0),
    )
    data = prepare_events(tmp_path, events, GENRES)
    assert sequences(data, "a", "2017-03-08T12:00") == [[(82, "old"), (83, "before")]]
    assert sequences(data, "a", "2017-03-08T12:00", segment="short_term") == [
        [(0, "session session session"), (142, "new")]
    ]


def test_segments_of_other_actions_do_not_bound_each_other(tmp_path: Path) -> None:
    events = log(
        ("a", "2017-03-01 11:50", "buy", "bread", 1.0),
        ("a", "2017-03-01 11:45", "click", "milk", None),
        ("a", "2017-03-01 12:10", "click", "wine", None),
    )
    data = prepare_events(tmp_path, events, GENRES.replace("[buy, click]", "[click]"))
    assert sequences(data, "a", "2017-03-08T12:00") == [[(83, "bread")]]
    assert sequences(data, "a", "2017-03-08T12:00", segment="short_term") == [[(0, "milk wine")]]


def test_windows_that_both_end_before_the_cutoff_abut_too(tmp_path: Path) -> None:
    schema = GENRES.replace("{from: 90d, to: 7d}", "{from: 90d, to: 14d}").replace(
        "window: 7d", "window: {from: 14d, to: 7d}"
    )
    events = buys("a", "2017-03-01 11:50", "2017-03-01 12:10")
    data = prepare_events(tmp_path, events, schema)
    # Fourteen days before 13:00 on 15 March, in summer time, it was 12:00.
    assert sequences(data, "a", "2017-03-15T13:00") == [[]]
    assert sequences(data, "a", "2017-03-15T13:00", segment="short_term") == [[(0, "bread bread")]]


def test_the_newest_words_and_actions_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    schema = WIDE.replace("attributes: [genre]", "attributes: [genre]\n    max_words: 2")
    schema = schema.replace("max_words: 2", "max_words: 2\n    max_actions: 3")
    events = log(
        *(
            ("a", f"2017-03-0{day} 10:{minute}0", "buy", f"{day}.{minute}", 1.0)
            for day in (1, 2, 3)
            for minute in range(5)
        ),
        ("b", "2017-03-01 10:00", "buy", "b", 1.0),
    )
    data = prepare_events(tmp_path, events, schema)
    batch = cut(data, data.rows_of(["a", "b"]), cutoffs("2017-03-04", "2017-03-04"))
    for segment in batch.segments:
        of_a, of_b = words_of(data, batch, segment.name)
        assert [[genre for (genre,) in actions] for _, actions in of_a] == [
            ["2.2", "2.3", "2.4"], ["3.2", "3.3", "3.4"],
        ]  # fmt: skip
        assert [actions for _, actions in of_b] == [[("b",)]]
        assert segment.words_cut == 1
        assert segment.actions_cut == 4


def test_words_keep_their_positions_when_others_are_cut(tmp_path: Path) -> None:
    schema = GENRES.replace("attributes: [genre]", "attributes: [genre]\n    max_words: 1")
    data = prepare_events(tmp_path, buys("a", "2017-03-01 10:00", "2017-03-03 10:00"), schema)
    # Ninety days before 20 March are 90 times 24 hours: 23:00 on 19 December.
    assert sequences(data, "a", "2017-03-20") == [[(74, "bread")]]


def test_users_without_words_are_empty_sequences(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, pl.concat([buys("a", "2017-03-01"), buys("b", "2016-03-01")]))
    rows = data.rows_of(["b", "a", "b"])
    for moment in ("2017-03-01", "2010-01-01", "2150-01-01"):
        batch = cut(data, rows, np.full(3, instant(moment)))
        assert len(batch) == 3
        for segment in batch.segments:
            assert segment.ids.shape[1] == segment.action_offsets[-1] == 0
            assert segment.word_offsets.tolist() == [0, 0, 0, 0]
            assert len(segment.positions) == 0
            assert segment.action_offsets.tolist() == [0]


def test_no_pairs_are_an_empty_batch(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, buys("a", "2017-03-01"))
    none = np.zeros(0, np.int64)
    batch = cut(data, none, none)
    assert len(batch) == 0
    assert batch.profile_ids.shape == (0, 0)
    assert [segment.word_offsets.tolist() for segment in batch.segments] == [[0], [0]]
    assert actions_between(data, "long_term", none, None, None).offsets.tolist() == [0]


def test_cutoffs_may_be_any_time_of_the_calendar(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, buys("a", "2017-03-01"), WIDE.replace("800d", "90d"))
    moments = ["0001-01-02", "1900-01-01", "2017-03-02", "2199-01-01", "9999-12-31"]
    together = sequences(data, "a", *moments)
    assert together == [[], [], [(89, "bread")], [], []]
    assert [sequences(data, "a", moment)[0] for moment in moments] == together


def test_sequences_are_in_the_order_of_pairs(tmp_path: Path) -> None:
    data = prepare_events(
        tmp_path, pl.concat([buys(user, "2017-03-01", genre=user) for user in "abcdef"]), WIDE
    )
    users = ["f", "a", "c", "a", "f"]
    moments = ["2017-03-02", "2017-03-02", "2017-02-01", "2017-03-03", "2017-03-02"]
    batch = cut(data, data.rows_of(users), cutoffs(*moments))
    assert batch.index.tolist() == [0, 1, 2, 3, 4]
    assert [words and words[0][1] for words in words_of(data, batch, "long_term")] == [
        [("f",)], [("a",)], [], [("a",)], [("f",)],
    ]  # fmt: skip


def test_actions_between_include_the_start_and_exclude_the_end(tmp_path: Path) -> None:
    times = ["2017-03-01 10:00", "2017-03-01 11:00", "2017-03-02 10:00"]
    events = pl.concat(
        [buys("a", *times), buys("b", *times), log(*[("a", "2017-03-02 12:00", "buy", None, None)])]
    )
    data = prepare_events(tmp_path, events)
    rows = data.rows_of(["b", "a"])
    at = [instant(text) for text in times]

    def times_of(start: Any, end: Any) -> list[list[int]]:
        actions = actions_between(data, "long_term", rows, start, end)
        return [actions.times[i:j].tolist() for i, j in pairwise(actions.offsets)]

    everything = [at, [*at, instant("2017-03-02T12:00")]]
    assert times_of(None, None) == everything
    assert times_of(at[0], at[2]) == [at[:2], at[:2]]
    assert times_of(at[0] + 1, None) == [part[1:] for part in everything]
    assert times_of(np.array([at[2], at[0]]), np.array(at[2])) == [[], at[:2]]
    assert times_of(at[2], at[0]) == [[], []]
    actions = actions_between(data, "long_term", rows, None, None)
    assert actions.word_starts.tolist() == [True, False, True, True, False, True, False]
    assert actions.ids.shape == (3, 7)
    assert list(actions.numbers) == ["price"]
    assert actions.numbers["price"][:6].tolist() == [1.0] * 6
    assert isnan(actions.numbers["price"][6])
    assert actions.ids[1].tolist() == [2] * 6 + [0]


PROFILE = """
profile:
  path: people.csv
  TIME
  fields: {age: {column: age}, income: {column: income, bins: 2}, city: {column: city}}
"""


def test_profiles_without_times_are_always_known(tmp_path: Path) -> None:
    people = pl.DataFrame(
        {"user": ["b", "x"], "age": ["old", None], "income": [2.0, 1.0], "city": [None, "York"]}
    )
    events = pl.concat([buys("a", "2017-03-01"), buys("b", "2017-03-01")])
    data = prepare_events(tmp_path, events, SCHEMA + PROFILE.replace("TIME", ""), profile=people)
    rows, moments = data.rows_of(["a", "b"]), cutoffs("1950-01-01", "1950-01-01")
    assert profile_ids(data, rows, moments).tolist() == [[0, 0, 0], [2, 3, 0]]
    assert profile_ids(data, rows, moments, ["age"]).tolist() == [[0, 0], [3, 0]]
    batch = cut(data, rows, moments, hidden=("age", "income", "city"))
    assert batch.profile_ids.shape == (2, 0)
    assert [field.name for field in data.input_shape(("age",)).profile] == ["income", "city"]


def test_the_newest_profile_before_the_cutoff_counts(tmp_path: Path) -> None:
    people = pl.DataFrame(
        {
            "user": ["a", "a", "b"],
            "since": ["2017-03-05 12:00:00", "2017-03-01 12:00:00", "2017-03-03 00:00:00"],
            "age": ["old", "young", "old"],
            "income": [1.0, None, 1.0],
            "city": ["York", "Rome", "Rome"],
        }
    )
    schema = SCHEMA + PROFILE.replace("TIME", "time: {column: since, zone: local}")
    events = pl.concat([buys(user, "2017-02-01") for user in "abc"])
    data = prepare_events(tmp_path, events, schema, profile=people)

    def known(user: str, moment: str) -> list[str]:
        (ids,) = profile_ids(data, data.rows_of([user]), cutoffs(moment)).tolist()
        fields = data.vocabularies.profile.values()
        return [field.names[number] for field, number in zip(fields, ids, strict=True)]

    nothing = ["(none)", "(none)", "(none)"]
    assert known("a", "2017-03-01T12:00") == nothing
    assert known("a", "2017-03-01T12:00:00.000001") == ["young", "(none)", "Rome"]
    assert known("a", "2017-03-05T12:00") == ["young", "(none)", "Rome"]
    assert known("a", "2017-03-05T12:00:00.000001") == ["old", "any", "York"]
    assert known("b", "2017-03-02") == nothing
    assert known("b", "2018-01-01") == ["old", "any", "Rome"]
    assert known("c", "2018-01-01") == nothing


def test_the_future_is_from_the_cutoff_until_its_end(tmp_path: Path) -> None:
    events = log(
        ("a", "2017-03-01 10:00", "buy", "bread", 1.0),
        ("a", "2017-03-02 10:00", "buy", "milk", 1.0),
        ("a", "2017-03-03 10:00", "click", "wine", None),
        ("a", "2017-03-04 10:00", "buy", "salt", 1.0),
        ("b", "2017-03-01 10:00", "buy", "bread", 1.0),
    )
    data = prepare_events(tmp_path, events, GENRES)
    rows = data.rows_of(["a", "b", "a"])
    starts = cutoffs("2017-03-02T10:00", "2017-03-02T10:00", "2017-03-02T10:00")
    until = cutoffs("2017-03-04T10:00", "2017-03-04T10:00", "2017-03-02T10:00")
    future = cut(data, rows, starts, until=until).future
    assert future is not None
    assert future.known.tolist() == [True, True, False]
    names = [data.vocabularies.segments[name]["genre"].names for name in data.schema.segments]
    values = [[name[i] for i in ids[0]] for name, ids in zip(names, future.ids, strict=True)]
    assert values == [["milk"], ["milk", "wine"]]
    assert [offsets.tolist() for offsets in future.offsets] == [[0, 1, 1, 1], [0, 2, 2, 2]]
    assert cut(data, rows, starts).future is None
