"""Proposed schemas: the user column of logs and profiles, and profile fields."""

import random
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from shop_logs import START, propose, reason_for, shop_log

from userbert.errors import SourceError
from userbert.infer.inference import propose_schema
from userbert.schema import Schema
from userbert.schema.attributes import Category, Number


def test_profile_fields_are_found_and_left_out_of_the_events(tmp_path: Path) -> None:
    draw = random.Random(3)
    people = pl.DataFrame(
        {
            "customer_id": [f"c{i}" for i in range(80)],
            "email": [f"{i}@example.org" for i in range(80)],
            "age": [draw.randrange(18, 90) for _ in range(80)],
            "store": [draw.choice(["north", "south"]) for _ in range(80)],
            "plan": ["free"] * 80,
        }
    )
    text = propose(tmp_path, shop_log(), people)
    schema = Schema.parse(text)
    assert schema.profile is not None
    assert schema.profile.fields == {
        "age": Number(column="age", bins=10, min=0),
        "store": Category(column="store", max_values=10),
    }
    assert "id" in reason_for(text, "email")
    assert "the profiles have it" in text
    assert "60 of the 60 users in the logs" in text


def test_profiles_with_several_rows_per_user_have_a_time(tmp_path: Path) -> None:
    people = pl.DataFrame(
        {
            "customer_id": [f"c{i % 40}" for i in range(80)],
            "changed": [START + timedelta(days=i) for i in range(80)],
            "plan": ["free", "paid", "paid", "free"] * 20,
        }
    )
    text = propose(tmp_path, shop_log(), people)
    profile = Schema.parse(text).profile
    assert profile is not None
    assert profile.time is not None
    assert profile.time.column == "changed"
    no_time = propose(tmp_path, shop_log(), people.drop("changed"))
    assert "no time column says which is newest" in no_time.replace("\n  # ", " ")


def test_profiles_without_a_usable_field_are_reported(tmp_path: Path) -> None:
    people = pl.DataFrame({"customer_id": [f"c{i}" for i in range(80)], "plan": ["free"] * 80})
    text = propose(tmp_path, shop_log(), people)
    assert Schema.parse(text).profile is None
    assert "there is no profile" in text


def test_profiles_with_another_user_column_are_rejected(tmp_path: Path) -> None:
    people = pl.DataFrame({"person": [f"c{i}" for i in range(60)], "age": list(range(60))})
    with pytest.raises(SourceError, match='rename the column to "customer_id"'):
        propose(tmp_path, shop_log(), people)
    with pytest.raises(SourceError, match="profiles of the same users"):
        propose(tmp_path, shop_log(), people.with_columns(person=pl.lit("stranger")))


def test_logs_with_different_user_columns_are_rejected(tmp_path: Path) -> None:
    shop_log().write_parquet(tmp_path / "a.parquet")
    shop_log().rename({"customer_id": "visitor"}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="'customer_id' in a, 'visitor' in b"):
        propose_schema([tmp_path / "a.parquet", tmp_path / "b.parquet"], None, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["user", "userId", "USER_ID", "user_pseudo_id", "fullVisitorId", "msno", "household_key"],
)
def test_user_column_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    frame = shop_log().rename({"customer_id": name}).with_columns(user_agent=pl.lit("Firefox"))
    assert Schema.parse(propose(tmp_path, frame)).user == name


def test_user_column_with_an_unclear_name_is_a_guess(tmp_path: Path) -> None:
    text = propose(tmp_path, shop_log().rename({"customer_id": "c1"}))
    assert Schema.parse(text).user == "c1"
    assert "a guess" in text


@pytest.mark.parametrize("name", ["id_student", "OwnerUserId", "c1"])
def test_columns_of_items_are_not_taken_for_users(tmp_path: Path, name: str) -> None:
    frame = shop_log().rename({"customer_id": name}).drop("order_id")
    row = pl.int_range(pl.len())
    frame = frame.with_columns(id_site=row % 500, view_count=row // 3)
    assert Schema.parse(propose(tmp_path, frame)).user == name


def test_log_without_users_or_times_is_rejected(tmp_path: Path) -> None:
    frame = shop_log()
    with pytest.raises(SourceError, match="no column looks like a user id"):
        propose(tmp_path, frame.select("created_at", "price", "currency"))
    with pytest.raises(SourceError, match="no column holds times"):
        propose(tmp_path, frame.drop("created_at"))
    odd = frame.with_columns(pl.col("created_at").dt.strftime("%d %b %Y, %H:%M"))
    with pytest.raises(SourceError, match=r'"created_at" holds .*2017-09-01T04:00:00'):
        propose(tmp_path, odd)
    with pytest.raises(SourceError, match="expected rows, found none"):
        propose(tmp_path, frame.clear())


def test_rows_without_a_user_or_a_time_are_counted(tmp_path: Path) -> None:
    row = pl.int_range(pl.len())
    frame = shop_log().with_columns(
        customer_id=pl.when(row > 2).then("customer_id"),
        created_at=pl.when(row > 4)
        .then(pl.col("created_at").dt.to_string())
        .otherwise(pl.lit("?")),
    )
    text = propose(tmp_path, frame)
    assert "3 events have no user" in text
    assert "5 of 1,440 events have no readable time" in text
