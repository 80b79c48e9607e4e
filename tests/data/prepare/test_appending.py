"""Appending gives the data that preparing all logs at once gives."""

import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from small_logs import SCHEMA, buys, log, logs, prepare_events, prepare_in_shards, reseal
from userbert.data.prepare.forget import forget
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.errors import SchemaError, SourceError
from userbert.folders import read_json
from userbert.schema.models import Schema

PROFILE = "profile: {path: people.csv, fields: {age: {column: age}}}\n"
PEOPLE = pl.DataFrame({"user": ["a", "b", "ü", "stranger"], "age": ["30", "40", None, "50"]})
WITH_PEOPLE = Schema.parse(SCHEMA + PROFILE)


def shards(data: PreparedData) -> dict[str, bytes]:
    files = sorted((data.path / "shards").rglob("*.arrow"))
    return {str(file.relative_to(data.path)): file.read_bytes() for file in files}


@settings(max_examples=30)
@given(logs(), st.randoms(use_true_random=False), st.sampled_from([1, 4]))
def test_appending_equals_preparing_all_at_once(
    events: pl.DataFrame, chance: random.Random, parts: int
) -> None:
    is_new = pl.Series([chance.random() < 0.4 for _ in range(len(events))], dtype=pl.Boolean)
    old, new = events.filter(~is_new), events.filter(is_new)
    assume("buy" in old["action"] and {"buy", "click"} & set(new["action"]))
    with TemporaryDirectory() as name:
        folder = Path(name)

        def prepare_part(number: str, some: pl.DataFrame, **options: Any) -> PreparedData:
            return prepare_in_shards(
                WITH_PEOPLE, folder / number, len(events) / parts + 3, events={"log": some},
                profile=PEOPLE, **options,
            )  # fmt: skip

        first = prepare_part("0", old)
        # Frames all have one name; the first one gets another, like the file of another day.
        summary = (first.path / "summary.json").read_text()
        (first.path / "summary.json").write_text(summary.replace("frame 'log'", "old"))
        first = reseal(first.path)
        both = prepare_part("1", new, append=first)
        at_once = prepare_part("at_once", events, vocabularies=first.vocabularies)
        both.verify()
        assert both.vocabularies.to_json() == first.vocabularies.to_json()
        assert both.user_ids.to_pylist() == at_once.user_ids.to_pylist()
        if both.manifest["shards"] == at_once.manifest["shards"]:
            assert shards(both) == shards(at_once)
        assert (both.first_event, both.last_event) == (at_once.first_event, at_once.last_event)
        rows = read_json(both.path / "summary.json")["rows"]
        assert rows["old"]["read"] + rows["frame 'log'"]["read"] == len(events)


def day(user: str, time: str, genre: str) -> pl.DataFrame:
    return log((user, time, "buy", genre, 1.0))


@pytest.fixture
def yesterday(tmp_path: Path) -> Path:
    """Folder of logs by day, prepared up to yesterday, with a schema for today's."""
    for name, events in {
        "1.csv": pl.concat([day("a", "2017-03-01 10:00", "bread"), day("b", "2017-03-01", "milk")]),
        "2.csv": pl.concat([day("a", "2017-03-02 10:00", "wine"), day("c", "2017-03-02", "milk")]),
    }.items():
        events.write_csv(tmp_path / name)
    for number in (1, 2):
        text = SCHEMA.replace("log.csv", f"{number}.csv")
        (tmp_path / f"schema{number}.yaml").write_text(text)
    prepare(Schema.load(tmp_path / "schema1.yaml"), tmp_path / "data1")
    return tmp_path


def userbert(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "userbert", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def genres(data: Path) -> tuple[str, ...]:
    vocabulary = PreparedData.open(data).vocabularies.segments["long_term"]["genre"]
    return vocabulary.values  # type: ignore[union-attr]


def test_new_values_are_unknown_or_follow_the_old(yesterday: Path) -> None:
    append = ("prepare", "schema2.yaml", "--append", "data1")
    done = userbert(yesterday, *append, "-o", "frozen")
    assert done.returncode == 0, done.stderr
    assert genres(yesterday / "frozen") == genres(yesterday / "data1") == ("bread", "milk")
    assert userbert(yesterday, *append, "-o", "grown", "--grow").returncode == 0
    assert genres(yesterday / "grown") == ("bread", "milk", "wine")
    shared = PreparedData.open(yesterday / "grown")
    ids = {
        user: shared.shards[0].segments["long_term"].values["genre"][first:last].tolist()
        for user, first, last in zip(
            shared.user_ids.to_pylist(),
            shared.shards[0].segments["long_term"].offsets[:-1],
            shared.shards[0].segments["long_term"].offsets[1:],
            strict=True,
        )
    }
    assert ids == {"a": [2, 4], "b": [3], "c": [3]}


def test_known_files_other_schemas_and_wrong_options_are_errors(yesterday: Path) -> None:
    schema = Schema.load(yesterday / "schema2.yaml")
    data = PreparedData.open(yesterday / "data1")
    again = Schema.load(yesterday / "schema1.yaml")
    with pytest.raises(SourceError, match=r"1\.csv is already in the data that you append to"):
        prepare(again, yesterday / "out", append=data)
    elsewhere = schema.model_copy(update={"timezone": "Asia/Tokyo"})
    with pytest.raises(SchemaError, match="timezone: differs from"):
        prepare(elsewhere, yesterday / "out", append=data)
    for arguments, message in (
        (("--append", "data1", "--vocabulary", "data1"), "leave --vocabulary out"),
        (("--grow",), "add --append or --vocabulary"),
    ):
        refused = userbert(yesterday, "prepare", "schema2.yaml", "-o", "out", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert not (yesterday / "out").exists()


def test_profiles_are_replaced_and_forgotten_users_stay_in_the_account(tmp_path: Path) -> None:
    old = prepare(
        WITH_PEOPLE,
        tmp_path / "0",
        events={"log": pl.concat([buys(user, "2017-03-01") for user in ("a", "b", "ü")])},
        profile=PEOPLE,
    )
    forget(old.path, ["ü"])
    summary = (old.path / "summary.json").read_text()
    (old.path / "summary.json").write_text(summary.replace("frame ", "old "))
    both = prepare(
        WITH_PEOPLE,
        tmp_path / "1",
        events={"log": buys("a", "2017-03-02")},
        # One user has new events, the other has none.
        profile=pl.DataFrame({"user": ["a", "b"], "age": ["40", "30"]}),
        append=reseal(old.path),
    )
    age = both.vocabularies.profile["age"]
    shard = both.shards[0]
    ages = [age.names[i] for i in shard.profile.values["age"]]
    assert dict(zip(shard.user_ids.to_pylist(), ages, strict=True)) == {"a": "40", "b": "30"}
    assert read_json(both.path / "summary.json")["forgotten"]["users"] == 1


def test_a_shared_attribute_has_one_vocabulary_after_growth(tmp_path: Path) -> None:
    schema = SCHEMA.replace("{column: genre}", "{column: genre, share: true, max_values: 3}")
    first = prepare_events(tmp_path, buys("a", "2017-03-01"), schema)
    new = pl.concat([buys("a", "2017-03-02", genre=genre) for genre in ("wine", "milk", "tea")])
    grown = prepare(
        Schema.parse(schema),
        tmp_path / "grown",
        events={"log": new},
        vocabularies=first.vocabularies,
        grow=True,
    )
    segments = grown.vocabularies.segments
    assert segments["long_term"]["genre"] == segments["short_term"]["genre"]
    assert segments["long_term"]["genre"].names[2:] == ["bread", "milk", "tea"]
