"""Profiles are read and checked like events."""

from typing import Any

import polars as pl
import pytest

from raw_logs import SCHEMA, message_of, schema
from userbert.data.read.sources import open_profile

PROFILE = """
profile:
  path: people.csv
  TIME
  fields: {age: {column: age}, income: {column: income, bins: 3, min: 0}, file: {column: file}}
"""


def profile_of(people: Any, time: str = "") -> list[tuple[Any, ...]]:
    full = schema(text=SCHEMA + PROFILE.replace("TIME", time))
    assert full.profile is not None
    (file,) = open_profile(full, people)
    assert file.name == "frame 'profile'"
    return pl.concat(file.batches()).rows()


PEOPLE = pl.DataFrame(
    {"user": [1.0, 2.0], "age": [30, None], "income": ["5", "-1"], "file": ["x", "y"]}
)


def test_profiles_are_checked_like_events() -> None:
    reason = 'column "income": expected a number ≥ 0, found "-1"'
    assert profile_of(PEOPLE) == [
        (1, "1", None, "30", 5.0, "x", None),
        (2, "2", None, None, -1.0, "y", reason),
    ]


def test_profiles_may_have_times() -> None:
    people = PEOPLE.with_columns(since=pl.Series(["2017-03-01", "soon"]), income=None)
    reason = (
        'column "since": expected a date between 1900 and 2200 such as 2017-09-01, found "soon"'
    )
    time = "time: {column: since, zone: local, resolution: day}"
    assert profile_of(people, time) == [
        (1, "1", 1488430799999999, "30", None, "x", None),
        (2, "2", None, None, None, "y", reason),
    ]


@pytest.mark.parametrize(
    ("column", "place"),
    [("user", "user"), ("age", "profile.fields.age"), ("since", "profile.time")],
)
def test_a_missing_column_of_the_profile_is_an_error(column: str, place: str) -> None:
    people = PEOPLE.with_columns(since=pl.lit("2017-03-01")).drop(column)
    message = message_of(lambda: profile_of(people, "time: {column: since}"))
    assert f'the column "{column}" is missing (schema: {place})' in message
