"""Messy logs: each gets a proposal that `prepare` accepts unchanged."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from userbert.data.prepare.prepare import prepare
from userbert.errors import SourceError
from userbert.folders import read_json
from userbert.infer.inference import propose
from userbert.infer.proposal import Proposal, render
from userbert.schema import Schema
from userbert.schema.attributes import Category, Number

ROWS = 600
START = datetime(2024, 1, 1)
LOG = pl.DataFrame(
    {
        "user": [f"u{row * 7 % 40}" for row in range(ROWS)],
        "time": [START + timedelta(hours=row * 5, minutes=row % 60) for row in range(ROWS)],
        "action": [("view", "view", "buy")[row % 3] for row in range(ROWS)],
        "genre": [f"g{row * row % 9}" for row in range(ROWS)],
        "price": [row * 13 % 50 + 0.5 for row in range(ROWS)],
    }
)


def proposed(folder: Path, **files: pl.DataFrame) -> tuple[Proposal, Schema]:
    """Writes logs into a folder, proposes a schema and prepares them with it."""
    logs = folder / "logs"
    logs.mkdir()
    for name, frame in files.items():
        frame.write_parquet(logs / f"{name}.parquet")
    return propose_and_prepare(folder)


def propose_and_prepare(folder: Path) -> tuple[Proposal, Schema]:
    proposal = propose([folder / "logs"], None, folder)
    (folder / "schema.yaml").write_text(render(proposal))
    schema = Schema.load(folder / "schema.yaml")
    prepare(schema, folder / "data", on_invalid="quarantine")
    accounts = read_json(folder / "data/summary.json")["rows"].values()
    assert sum(account["read"] for account in accounts) == sum(log.rows for log in proposal.logs)
    return proposal, schema


def left_out(proposal: Proposal) -> dict[str, str]:
    choices = proposal.attributes
    return {choice.column: choice.reason for choice in choices if choice.kind == "left out"}


@pytest.mark.parametrize("genre", [["x"], {"name": "x"}], ids=["list", "record"])
def test_column_that_is_a_list_in_some_files_is_left_out(tmp_path: Path, genre: Any) -> None:
    other = LOG.with_columns(genre=pl.Series([genre] * ROWS))
    proposal, schema = proposed(tmp_path, a=LOG, b=other)
    assert left_out(proposal)["genre"].startswith("a list, struct or bytes")
    assert "genre" not in schema.attributes


def test_a_nested_column_is_not_chosen_as_the_user(tmp_path: Path) -> None:
    record = pl.struct(id="user").alias("user")
    _, schema = proposed(tmp_path, a=LOG.with_columns(record, user_id="user"))
    assert schema.user == "user_id"


def test_user_in_a_nested_column_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'a\.parquet, column "user": expected user ids, found'):
        proposed(tmp_path, a=LOG.with_columns(pl.struct(id="user").alias("user")))


def test_users_in_bytes_are_rejected_even_if_profiles_have_text(tmp_path: Path) -> None:
    log, people = tmp_path / "log.parquet", tmp_path / "people.parquet"
    LOG.with_columns(pl.lit(b"\xf7").alias("user")).write_parquet(log)
    LOG.select("user").unique().with_columns(age=pl.lit(30)).write_parquet(people)
    with pytest.raises(SourceError, match=r'log\.parquet, column "user": expected user ids, found'):
        propose([log], people, tmp_path)


def test_the_log_that_lacks_the_user_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"b\.parquet: expected a user column, such as 'user'"):
        proposed(tmp_path, a=LOG, b=LOG.rename({"user": "x"}))


def test_files_with_other_types_of_times_become_separate_sources(tmp_path: Path) -> None:
    seconds = LOG.with_columns(time=pl.col("time").dt.epoch("s"))
    proposal, schema = proposed(tmp_path, a=LOG, b=seconds)
    assert sorted(source.time.unit for source in schema.sources.values()) == ["auto", "s"]
    assert len(proposal.logs) == 2


@pytest.mark.parametrize(
    ("form", "is_day"),
    [("%d.%m.%Y", True), ("%d.%m.%Y %H:%M", False), ("%d.%m.%Y %H:%M:%S", False)],
)
def test_dates_with_dots_have_the_day_first(tmp_path: Path, form: str, *, is_day: bool) -> None:
    text = LOG.with_columns(pl.col("time").dt.strftime(form))
    proposal, _ = proposed(tmp_path, a=text)
    (times,) = proposal.times
    assert times.is_day == is_day
    assert (times.first.date(), times.last.date()) == (START.date(), LOG["time"].dt.date().max())


@pytest.mark.parametrize("is_text", [True, False])
def test_time_of_day_in_a_separate_column_gives_a_warning(tmp_path: Path, *, is_text: bool) -> None:
    clock = pl.col("time").dt.time()
    split = LOG.with_columns(
        date=pl.col("time").dt.date(), time=clock.cast(pl.String) if is_text else clock
    )
    proposal, _ = proposed(tmp_path, a=split)
    assert left_out(proposal)["time"] == "a time of day, separate from its date"
    (warning,) = proposal.warnings()
    assert 'a separate column, "time"' in warning
    assert 'join it to "date"' in warning


@pytest.mark.parametrize("odd", ["free", "inf", "1e400"])
def test_column_with_a_few_invalid_numbers_stays_a_number(tmp_path: Path, odd: str) -> None:
    text = LOG["price"].cast(pl.String).to_list()
    proposal, schema = proposed(tmp_path, a=LOG.with_columns(price=pl.Series([*text[:-1], odd])))
    assert isinstance(schema.attributes["price"], Number)
    assert "1 rows hold something else" in render(proposal)
    assert proposal.is_flawed()


def test_column_with_many_invalid_numbers_is_a_category(tmp_path: Path) -> None:
    text = pl.col("price").cast(pl.String)
    mixed = pl.when(pl.int_range(pl.len()) % 20 > 0).then(text).otherwise(pl.lit("free"))
    _, schema = proposed(tmp_path, a=LOG.with_columns(price=mixed))
    assert isinstance(schema.attributes["price"], Category)


@pytest.mark.parametrize("gap", ["NA", "n/a", "NULL", "None", "-", "?", ""])
def test_null_texts_among_numbers_are_not_invalid(tmp_path: Path, gap: str) -> None:
    text = pl.col("price").cast(pl.String)
    gappy = pl.when(pl.int_range(pl.len()) % 5 > 0).then(text).otherwise(pl.lit(gap))
    proposal, schema = proposed(tmp_path, a=LOG.with_columns(price=gappy))
    assert isinstance(schema.attributes["price"], Number)
    assert not proposal.is_flawed()


def test_a_few_events_without_an_action_type_are_counted_as_missing(tmp_path: Path) -> None:
    gap = pl.when(pl.int_range(pl.len()) > 4).then("action")
    proposal, _ = proposed(tmp_path, a=LOG.with_columns(action=gap))
    (action,) = proposal.actions
    assert (action.column, sorted(action.types), action.missing) == ("action", ["buy", "view"], 5)
    assert proposal.is_flawed()


def test_garbage_among_action_types_is_left_out(tmp_path: Path) -> None:
    rows = pl.int_range(pl.len())
    junk = pl.when(rows % 10 == 0).then(pl.format("junk {}", rows)).otherwise("action")
    logs = pl.concat([LOG] * 3)
    proposal, _ = proposed(tmp_path, a=logs.with_columns(action=junk))
    (action,) = proposal.actions
    assert sorted(action.types) == ["buy", "view"]
    assert "180 rare ones, of 180 events, are left out" in action.reason
