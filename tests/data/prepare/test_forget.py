"""Forgetting users gives data as if they had never existed, except for the account."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from small_logs import SCHEMA, buys, logs, prepare_events
from userbert.data.prepare.forget import forget
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.folders import read_json
from userbert.schema.models import Schema

PROFILE = "profile: {path: people.csv, fields: {age: {column: age}}}\n"
PEOPLE = pl.DataFrame({"user": ["a", "b", "ü", "stranger"], "age": ["30", "40", None, "50"]})


def shards(data: PreparedData) -> dict[str, bytes]:
    files = sorted((data.path / "shards").rglob("*.arrow"))
    return {str(file.relative_to(data.path)): file.read_bytes() for file in files}


@settings(max_examples=30)
@given(logs(), st.sets(st.sampled_from(["a", "b", "ü", "nobody"]), min_size=1))
def test_data_equal_those_prepared_without_the_users(events: pl.DataFrame, users: set[str]) -> None:
    schema = Schema.parse(SCHEMA + PROFILE)
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = prepare(schema, folder / "data", events={"log": events}, profile=PEOPLE)
        known = set(data.user_ids.to_pylist())
        assume(0 < len(known & users) < len(known))
        others = events.filter(~pl.col("user").is_in(users))
        assume(set(others["action"]) >= {"buy"})
        assert forget(data.path, users) == len(known & users)
        remaining = PreparedData.open(data.path)
        remaining.verify()
        expected = prepare(
            schema,
            folder / "expected",
            events={"log": others},
            vocabularies=data.vocabularies,
            profile=PEOPLE,
        )
        assert shards(remaining) == shards(expected)
        assert len(remaining) == len(expected)
        assert sorted(path.name for path in folder.iterdir()) == ["data", "expected"]


def test_account_adds_up_over_several_runs(tmp_path: Path) -> None:
    log = pl.concat(
        [buys(user, *["2017-03-01"] * count) for count, user in enumerate("abcd", start=1)]
    )
    data = prepare_events(tmp_path, log)
    for user, forgotten in (("b", 2), ("d", 6)):
        forget(data.path, [user])
        summary = read_json(data.path / "summary.json")
        assert summary["forgotten"]["actions"]["long_term"] == forgotten
        assert summary["actions"]["long_term"] == 10 - forgotten
    assert summary["forgotten"]["users"] == 2
    assert summary["users"] == 2
    assert summary["words"]["long_term"] == 2


def test_rejected_rows_that_name_the_user_are_removed(tmp_path: Path) -> None:
    people = pl.concat([PEOPLE, PEOPLE[:2]])
    data = prepare(
        Schema.parse(SCHEMA + PROFILE),
        tmp_path / "data",
        events={"log": pl.concat([buys("a", "2017-03-01"), buys("b", "2017-03-01")])},
        profile=people,
        on_invalid="quarantine",
    )
    forget(data.path, ["a"])
    reasons = pl.read_parquet(data.path / "rejected.parquet")["reason"]
    assert len(reasons) == 1
    assert '"b"' in reasons[0]


def test_forgetting_none_or_all_users_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, pl.concat([buys("a", "2017-03-01"), buys("b", "2017-03-01")]))
    before = data.checksum
    with pytest.raises(InputError, match="none of the 1 users"):
        forget(data.path, ["stranger"])
    with pytest.raises(InputError, match="hold no other users"):
        forget(data.path, ["a", "b"])
    assert PreparedData.open(data.path).checksum == before


def test_command_says_that_models_keep_what_they_learned(tmp_path: Path) -> None:
    prepare_events(tmp_path, pl.concat([buys("a", "2017-03-01"), buys("17", "2017-03-01")]))
    data = next(path for path in tmp_path.iterdir() if path.is_dir())
    pl.DataFrame({"user_id": np.array([17])}).write_csv(tmp_path / "leavers.csv")
    command = [sys.executable, "-m", "userbert", "forget", str(data), "--users", "leavers.csv"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "removed 1 users" in first.stdout
    assert "pretrain again" in first.stdout
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "none of the 1 users" in second.stderr
