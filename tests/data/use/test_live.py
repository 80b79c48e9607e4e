"""Events of a request give the words of prepared data; invalid events are errors."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given

from small_logs import SCHEMA, buys, cutoffs, log, logs, prepare_events, words_of
from userbert.data.store import PreparedData
from userbert.data.use.live import UserEvents, live_histories
from userbert.data.use.sequences import cut
from userbert.errors import InputError

PROFILE = """
profile:
  path: people.csv
  fields:
    age: {column: age, bins: 3}
    city: {column: city}
"""


def as_request(events: pl.DataFrame) -> list[UserEvents]:
    """Returns each user's events as records, with times as text."""
    if events.schema["time"] != pl.String:
        events = events.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%z"))
    return [
        UserEvents(user, {"log": rows.drop("user").to_dicts()})
        for (user,), rows in events.group_by("user", maintain_order=True)
    ]


@given(logs())
def test_words_of_a_request_equal_those_of_prepared_data(
    tmp_path_factory: pytest.TempPathFactory, events: pl.DataFrame
) -> None:
    data = prepare_events(tmp_path_factory.mktemp("live"), events)
    users = as_request(events)
    histories, rows = live_histories(data.schema, data.vocabularies, users)
    there = data.rows_of([user.user_id for user in users])
    assert ((rows < 0) == (there < 0)).all()
    known = rows >= 0
    for moment in ("2017-03-13T04:00", "2017-06-02T03:00", "2017-11-06T00:00", "2017-12-30"):
        until = np.repeat(cutoffs(moment), known.sum())
        ours = cut(histories, rows[known], until)
        theirs = cut(data, there[known], until)
        for segment in data.schema.segments:
            assert words_of(data, ours, segment) == words_of(data, theirs, segment)


def shop(folder: Any, schema: str = "") -> PreparedData:
    profile = pl.DataFrame({"user": ["a", "b"], "age": [20, 60], "city": ["Rome", "Oslo"]})
    events = buys("a", "2017-05-01T10:00").vstack(buys("b", "2017-05-02T10:00", genre="milk"))
    if not schema:
        return prepare_events(folder, events)
    return prepare_events(folder, events, SCHEMA + schema, profile=profile)


def test_profile_fields_of_a_request_equal_those_of_prepared_data(tmp_path: Any) -> None:
    data = shop(tmp_path, PROFILE)
    events = {"log": [{"time": "2017-05-01T10:00", "action": "buy", "genre": "bread", "price": 1}]}
    users = [
        UserEvents("b", events, [{"age": 60, "city": "Oslo"}]),
        UserEvents("new", events, [{"city": "Rome"}]),
        UserEvents("a", events),
    ]
    histories, rows = live_histories(data.schema, data.vocabularies, users)
    ids = cut(histories, rows, np.repeat(cutoffs("2017-06-01"), 3)).profile_ids
    there = cut(data, data.rows_of(["b", "a"]), np.repeat(cutoffs("2017-06-01"), 2)).profile_ids
    assert ids[0].tolist() == there[0].tolist()
    assert ids[1].tolist() == [0, there[1][1]]
    assert ids[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"time": "yesterday"}, 'event 2, column "time": expected a time between 1900 and 2200'),
        ({"time": None}, 'column "time": expected a time'),
        ({"action": None}, 'column "action": expected an action type'),
        ({"price": "free"}, 'column "price": expected a number, found "free"'),
        ({"price": float("inf")}, 'column "price": expected a number'),
        ({"genre": ["a"]}, "column 'genre': expected a text or a number, found a list"),
        ({"genre": {"a": 1}}, "column 'genre': expected a text or a number, found a list"),
        ({"gener": "bread"}, "the schema has no column 'gener'; did you mean 'genre'?"),
    ],
)
def test_an_invalid_event_is_an_error(tmp_path: Any, event: dict[str, Any], message: str) -> None:
    data = shop(tmp_path)
    good = {"time": "2017-05-01T10:00", "action": "buy", "genre": "bread", "price": 1.5}
    users = [UserEvents("x", {"log": [good]}), UserEvents("y", {"log": [good, {**good, **event}]})]
    with pytest.raises(InputError, match="user 'y', log, event 2") as caught:
        live_histories(data.schema, data.vocabularies, users)
    assert message in str(caught.value)


def test_unknown_sources_and_second_profile_records_are_errors(tmp_path: Any) -> None:
    data = shop(tmp_path, PROFILE)
    with pytest.raises(InputError, match="no source 'logs'; did you mean 'log'"):
        live_histories(data.schema, data.vocabularies, [UserEvents("a", {"logs": []})])
    events = {"log": [{"time": "2017-05-01T10:00", "action": "buy"}]}
    twice = [UserEvents("a", events, [{"age": 1}, {"age": 2}])]
    with pytest.raises(InputError, match=r"user 'a', profile: expected one record, found 2"):
        live_histories(data.schema, data.vocabularies, twice)


def test_users_without_a_usable_event_have_no_row(tmp_path: Any) -> None:
    data = shop(tmp_path)
    other = {"time": "2017-05-01T10:00", "action": "other"}
    users = [UserEvents("a", {"log": [other]}), UserEvents("b", {"log": []}), UserEvents("c", {})]
    _, rows = live_histories(data.schema, data.vocabularies, users)
    assert rows.tolist() == [-1, -1, -1]


def test_a_log_of_mixed_types_is_read_as_text(tmp_path: Any) -> None:
    data = prepare_events(tmp_path, log(("a", "2017-05-01T10:00", "buy", "7", 1.0)))
    event = {"time": "2017-05-01T10:00", "action": "buy"}
    users = [
        UserEvents("a", {"log": [{**event, "genre": 7, "price": 1}]}),
        UserEvents("b", {"log": [{**event, "genre": "bread", "price": "1.0"}]}),
    ]
    histories, rows = live_histories(data.schema, data.vocabularies, users)
    batch = cut(histories, rows, np.repeat(cutoffs("2017-05-20"), 2))
    (word,), _ = words_of(data, batch, "long_term")
    assert word[1][0][0] == "7"


def test_a_user_who_is_listed_twice_has_two_histories(tmp_path: Any) -> None:
    data = shop(tmp_path)
    event = {"time": "2017-05-01T10:00", "action": "buy"}
    users = [
        UserEvents("a", {"log": [{**event, "genre": genre, "price": 1}]})
        for genre in ("bread", "milk")
    ]
    histories, rows = live_histories(data.schema, data.vocabularies, users)
    batch = cut(histories, rows, np.repeat(cutoffs("2017-05-20"), 2))
    genres = [word[1][0][0] for (word,) in words_of(data, batch, "long_term")]
    assert genres == ["bread", "milk"]


@pytest.mark.parametrize(
    ("events", "profile", "message"),
    [
        (
            [{"time": "2017-05-20", "action": "buy"}],
            (),
            "event 1: expected a time before the cut-off 2017-05-20T04:00:00.000000Z, found "
            "2017-05-20T04:00",
        ),
        ([{"user": "b", "time": "2017-05-01", "action": "buy"}], (), "the same user or none"),
        ([], ({"age": 3},), "the schema has no profile"),
    ],
)
def test_late_events_other_users_and_unknown_profiles_are_errors(
    tmp_path: Any, events: list[dict[str, Any]], profile: Any, message: str
) -> None:
    data = shop(tmp_path)
    users = [UserEvents("a", {"log": events}, profile)]
    with pytest.raises(InputError, match=r"^user 'a'") as caught:
        live_histories(data.schema, data.vocabularies, users, cutoffs("2017-05-20"))
    assert message in str(caught.value)
