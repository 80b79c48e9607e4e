"""Preparation: bytes do not depend on row order or memory, and every row is accounted for."""

import json
import random
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepared_logs import BREAD, row_accounts
from small_logs import SCHEMA, buys, instant, log, logs, prepare_events, prepare_in_shards
from userbert.data.prepare import prepare as preparation
from userbert.data.prepare.local import LocalEngine
from userbert.data.read.reading import Reading
from userbert.data.read.sources import open_sources
from userbert.data.store import PreparedData
from userbert.data.use.sequences import actions_between, cut
from userbert.data.vocabulary import Categories
from userbert.errors import InputError, SchemaError, SourceError
from userbert.schema.models import Schema

PROFILE = "profile: {path: people.csv, fields: {age: {column: age}}}\n"


def bytes_of(data: PreparedData) -> dict[str, bytes]:
    files = [*(data.path / "shards").rglob("*.arrow"), data.path / "vocabularies.json"]
    return {str(file.relative_to(data.path)): file.read_bytes() for file in files}


@settings(max_examples=30)
@given(logs(), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_the_memory_changes_a_byte(
    events: pl.DataFrame, shuffle: random.Random
) -> None:
    order = list(range(len(events)))
    shuffle.shuffle(order)
    with TemporaryDirectory() as folder:
        first = prepare_events(Path(folder), events)
        second = prepare_events(Path(folder), events[order], memory=len(events) * 1000 // 8)
        assert bytes_of(first) == bytes_of(second)


@settings(max_examples=30)
@given(logs(), st.integers(1, 3), st.sampled_from([1 << 30, 2_000]))
def test_duplicates_are_dropped_and_counted_by_file(
    events: pl.DataFrame, times: int, memory: int
) -> None:
    schema = SCHEMA.replace("log.csv", "[1.csv, 2.csv]") + "duplicates: drop\n"
    # Events are equal if all columns of the schema are; a price of -0 equals 0.
    unique_events = events.with_columns(pl.col("price") + 0.0).unique()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, log_of_file in enumerate([events, pl.concat([events] * times)], start=1):
            log_of_file.write_csv(folder / f"{number}.csv")
        data = prepare_events(folder, {}, Schema.parse(schema, folder), memory=memory)
        rows = row_accounts(data)
        distinct = prepare_events(folder, unique_events)
        assert bytes_of(data) == bytes_of(distinct)
        used = unique_events.filter(pl.col("action").is_in(["buy", "click"]))
        both = sum(account["used"] for account in rows.values())
        assert both == len(used)
        assert rows[f"{folder}/2.csv"]["used"] == 0


@settings(max_examples=15)
@given(logs(), st.randoms(use_true_random=False))
def test_any_number_of_shards_gives_the_same_sequences(
    events: pl.DataFrame, shuffle: random.Random
) -> None:
    order = list(range(len(events)))
    shuffle.shuffle(order)
    with TemporaryDirectory() as name:
        folder = Path(name)
        single = prepare_events(folder, events)
        rows = len(events) // 8 + 1
        many = prepare_in_shards(SCHEMA, folder / "many", rows, events={"log": events})
        again = prepare_in_shards(
            SCHEMA, folder / "again", rows, events={"log": events[order]},
            engine=partial(LocalEngine, memory=100 * len(events)),
        )  # fmt: skip
        assert bytes_of(many) == bytes_of(again)
        assert len(many.shards) > 1 or len(events) < 9
        assert single.user_ids.to_pylist() == many.user_ids.to_pylist()
        pairs = np.repeat(np.arange(len(single)), 2)[::-1]
        cutoffs = np.tile([single.default_cutoff, single.first_event + 5_000_000], len(single))
        first, second = cut(single, pairs, cutoffs), cut(many, pairs, cutoffs)
        for a, b in zip(first.segments, second.segments, strict=True):
            for column in ("ids", "action_offsets", "word_offsets", "positions"):
                assert np.array_equal(getattr(a, column), getattr(b, column))


@settings(max_examples=30)
@given(logs())
def test_the_actions_are_exactly_the_events_of_the_segments(events: pl.DataFrame) -> None:
    with TemporaryDirectory() as folder:
        data = prepare_events(Path(folder), events)
        everyone = np.arange(len(data))
        for segment, types in (("long_term", ["buy"]), ("short_term", ["buy", "click"])):
            actions = actions_between(data, segment, everyone, None, None)
            names = data.vocabularies.segments[segment]["genre"].names
            users = np.repeat(np.array(data.user_ids.to_pylist()), np.diff(actions.offsets))
            rows = zip(users.tolist(), actions.times.tolist(), actions.ids[0].tolist(), strict=True)
            used = events.filter(pl.col("action").is_in(types))
            expected = zip(
                used["user"], used["time"].dt.timestamp("us"), used["genre"], strict=True
            )
            assert sorted((user, time, names[genre]) for user, time, genre in rows) == sorted(
                (user, time, genre or "(none)") for user, time, genre in expected
            )


def test_the_same_input_gives_the_same_checksum(tmp_path: Path) -> None:
    events = log(*((f"u{n}", "2017-03-01 10:00", f"other{n % 40}", None, None) for n in range(400)))
    events = pl.concat([events, BREAD])
    checksums = {prepare_events(tmp_path, events).checksum for _ in range(5)}
    assert len(checksums) == 1


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    BREAD.write_csv(tmp_path / "a.csv")
    log(
        ("c", "2017-03-01 10:00", "other", None, None),
        ("c", "2017-03-01 10:00", "more", None, None),
        ("c", "2017-03-01 10:00", "more", None, None),
        ("", "2017-03-01 10:00", "buy", None, None),
        ("c", "soon", "buy", None, None),
        ("c", "2017-03-01 10:00", "click", None, None),
    ).write_csv(tmp_path / "b.csv")
    (tmp_path / "people.csv").write_text("user,age\na,1\nb,2\nb,3\nstranger,4\n,5\n")
    schema = SCHEMA.replace("log.csv", "[a.csv, b.csv]") + PROFILE
    data = prepare_events(tmp_path, {}, Schema.parse(schema, tmp_path), on_invalid="quarantine")
    nothing = {"duplicates_dropped": 0}
    assert row_accounts(data) == {
        f"{tmp_path}/a.csv": {
            "read": 3, "used": 3, "outside_segments": 0, "quarantined": 0, **nothing,
            "outside_by_action": {},
        },
        f"{tmp_path}/b.csv": {
            "read": 6, "used": 1, "outside_segments": 3, "quarantined": 2, **nothing,
            "outside_by_action": {"more": 2, "other": 1},
        },
        f"{tmp_path}/people.csv": {
            "read": 5, "used": 3, "outside_segments": 0, "quarantined": 2, **nothing,
            "outside_by_action": {},
        },
    }  # fmt: skip
    assert pl.read_parquet(data.path / "rejected.parquet").rows() == [
        (f"{tmp_path}/b.csv", 4, 'column "user": expected a user id, found ""'),
        (
            f"{tmp_path}/b.csv", 5,
            'column "time": expected a time between 1900 and 2200 such as 2017-09-01T04:00:00, '
            'found "soon"',
        ),
        (f"{tmp_path}/people.csv", 5, 'column "user": expected a user id, found nothing'),
        (
            f"{tmp_path}/people.csv", 3,
            'a second row of the user "b": expected one row, or a `time:` in the schema\'s '
            "profile",
        ),
    ]  # fmt: skip
    assert sorted(data.user_ids.to_pylist()) == ["a", "b", "c"]
    data.verify()


def test_summary_counts_users_actions_and_words(tmp_path: Path) -> None:
    summary = json.loads((prepare_events(tmp_path, BREAD).path / "summary.json").read_text())
    assert summary["users"] == 2
    assert summary["actions"] == {"long_term": 2, "short_term": 3}
    assert summary["words"] == {"long_term": 2, "short_term": 3}
    assert summary["warnings"] == []


def test_the_first_bad_row_is_an_error_with_advice_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    pl.concat([BREAD, BREAD.with_columns(price=pl.lit("free"))], how="vertical_relaxed").write_csv(
        tmp_path / "log.csv"
    )
    with pytest.raises(SourceError) as caught:
        prepare_events(tmp_path, {}, Schema.parse(SCHEMA, tmp_path))
    assert str(caught.value) == (
        f'{tmp_path}/log.csv, row 4, column "price": expected a number, found "free". '
        "Fix the row, or run with --on-invalid quarantine."
    )
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("at_a_time", [2, 3, 1000])
def test_rejected_rows_are_written_in_chunks(tmp_path: Path, at_a_time: int) -> None:
    bad = BREAD.with_columns(price=pl.lit("free"))
    events = pl.concat([bad, BREAD, bad, bad[:1]], how="vertical_relaxed")
    schema = Schema.parse(SCHEMA)
    (log_file,) = open_sources(schema, {"log": events})
    rejected = tmp_path / "rejected.parquet"
    reading = Reading(schema, "quarantine", {log_file.name: 0}, rejected, rows_at_a_time=at_a_time)
    chunks = list(reading.events([replace(log_file, batch_rows=2)], lambda *_: None))
    reading.close()
    assert sum(map(len, chunks)) == len(BREAD)
    with pq.ParquetFile(rejected) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        rows = file.read()["row"].to_pylist()
    size = len(BREAD)
    assert rows == [*range(1, size + 1), *range(2 * size + 1, 3 * size + 2)]
    assert groups[:-1] == [at_a_time] * (len(groups) - 1)


def test_a_failure_of_any_kind_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_events(tmp_path, BREAD)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="exists already"):
        preparation.prepare(Schema.parse(SCHEMA), tmp_path / "data", events={"log": BREAD})
    assert list((tmp_path / "data").iterdir()) == []


def test_only_finished_files_are_in_the_folder(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, BREAD, memory=500)
    assert sorted(file.name for file in data.path.iterdir()) == [
        "manifest.json", "schema.yaml", "shards", "summary.json", "vocabularies.json",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == [data.path]


def test_there_may_be_more_partitions_than_open_files(tmp_path: Path) -> None:
    events = pl.concat([buys(str(user), "2017-03-01") for user in range(500)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        data = prepare_events(tmp_path, events, memory=2000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(data) == 500


def test_a_vocabulary_needs_events_before_fit_before(tmp_path: Path) -> None:
    schema = SCHEMA + "fit_before: 2017-03-01T10:00\n"
    with pytest.raises(SchemaError) as caught:
        prepare_events(tmp_path, BREAD, schema)
    assert str(caught.value) == (
        "fit_before: no event is before 2017-03-01 10:00:00, so vocabularies would be empty; the "
        "first is at 2017-03-01 10:00:00-05:00. Choose a later time."
    )
    assert list(tmp_path.iterdir()) == []
    known = prepare_events(tmp_path, BREAD).vocabularies
    assert prepare_events(tmp_path, BREAD, schema, vocabularies=known).vocabularies == known


def test_logs_without_a_known_action_are_refused(tmp_path: Path) -> None:
    events = BREAD.with_columns(action=pl.Series(["view", "buys", "view"]))
    with pytest.raises(SourceError) as caught:
        prepare_events(tmp_path, events)
    assert str(caught.value) == (
        "frame 'log': no event has an action type of a segment (buy, click); found: buys, view. "
        "Correct `actions:` in the schema."
    )


def test_empty_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="frame 'log': expected rows, found none"):
        prepare_events(tmp_path, BREAD.clear())
    without_user = log(("", "2017-03-01", "buy", None, None))
    message = (
        r"none of the 1 rows can be used; the first is frame 'log', row 1, column \"user\": exp"
    )
    with pytest.raises(SourceError, match=message):
        prepare_events(tmp_path, without_user, on_invalid="quarantine")


def test_actions_that_no_event_has_give_a_warning(tmp_path: Path) -> None:
    events = log(("a", "2017-03-01", "buy", None, 1.0), ("a", "2017-03-01", "clik", None, 1.0))
    data = prepare_events(tmp_path, events)
    warnings = json.loads((data.path / "summary.json").read_text())["warnings"]
    assert warnings == [
        "segments.short_term.actions: no event has the action type 'click'; did you mean 'clik'?"
    ]


def test_an_empty_file_among_others_is_no_error(tmp_path: Path) -> None:
    BREAD.clear().write_csv(tmp_path / "a.csv")
    BREAD.write_csv(tmp_path / "b.csv")
    data = prepare_events(
        tmp_path, {}, Schema.parse(SCHEMA.replace("log.csv", "[a.csv, b.csv]"), tmp_path)
    )
    assert [account["read"] for account in row_accounts(data).values()] == [0, 3]


def test_a_segment_without_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        prepare_events(tmp_path, BREAD.filter(pl.col("action") == "click"))
    assert str(caught.value) == (
        "segments.long_term: no event has one of its actions (buy). Correct or remove the segment."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_profile_may_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("user,age\n")
    data = prepare_events(tmp_path, BREAD, Schema.parse(SCHEMA + PROFILE, tmp_path))
    assert row_accounts(data)[f"{tmp_path}/people.csv"]["read"] == 0
    assert data.vocabularies.profile["age"] == Categories(())


def test_the_first_valid_profile_row_of_a_user_counts(tmp_path: Path) -> None:
    people = pl.DataFrame({"user": ["a", "a"], "income": ["much", "2"]})
    schema = SCHEMA + "profile: {path: p.csv, fields: {income: {column: income, bins: 2}}}\n"
    data = prepare_events(tmp_path, BREAD, schema, profile=people, on_invalid="quarantine")
    account = row_accounts(data)["frame 'profile'"]
    assert (account["used"], account["quarantined"]) == (1, 1)


def test_profiles_may_be_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "1.csv").write_text("user,age\na,old\n")
    (tmp_path / "people" / "2.csv").write_text("user,age\nb,young\na,older\n")
    schema = Schema.parse(SCHEMA + PROFILE.replace("people.csv", "people"), tmp_path)
    data = prepare_events(tmp_path, BREAD, schema, on_invalid="quarantine")
    assert data.vocabularies.profile["age"] == Categories(("old", "young"))
    rejected = pl.read_parquet(data.path / "rejected.parquet")
    assert rejected["file"].to_list() == [f"{tmp_path}/people/2.csv"]
    assert rejected["row"].to_list() == [2]


def test_attributes_may_have_any_name_that_is_not_reserved(tmp_path: Path) -> None:
    schema = SCHEMA
    for name, other in (("genre", "partition"), ("price", "file"), ("hour", "count")):
        schema = schema.replace(f"  {name}: {{", f"  {other}: {{")
        schema = schema.replace(f"[{name}", f"[{other}").replace(f" {name}]", f" {other}]")
        schema = schema.replace(f", {name}, ", f", {other}, ")
    people = pl.DataFrame({"user": ["a"], "age": ["old"]})
    schema += PROFILE.replace("{age:", "{file:")
    data = prepare_events(tmp_path, BREAD, schema, profile=people, memory=500)
    assert list(data.vocabularies.segments["long_term"]) == ["partition", "file", "count"]
    assert data.vocabularies.profile["file"] == Categories(("old",))


@pytest.mark.parametrize(
    ("window", "warned"),
    [("{from: 90d, to: 7d}", False), ("{from: 90d, to: 6d}", True), ("90d", True)],
)
def test_overlapping_windows_give_a_warning(tmp_path: Path, window: str, warned: bool) -> None:
    data = prepare_events(tmp_path, BREAD, SCHEMA.replace("{from: 90d, to: 7d}", window))
    warnings = json.loads((data.path / "summary.json").read_text())["warnings"]
    assert bool(warnings) == warned


def test_segments_of_other_actions_may_overlap(tmp_path: Path) -> None:
    schema = SCHEMA.replace("{from: 90d, to: 7d}", "90d").replace("[buy, click]", "[click]")
    data = prepare_events(tmp_path, BREAD, schema)
    assert json.loads((data.path / "summary.json").read_text())["warnings"] == []


def test_the_span_is_from_the_first_to_the_last_action(tmp_path: Path) -> None:
    events = pl.concat([BREAD, log(("z", "2018-01-01", "other", None, None))])
    data = prepare_events(tmp_path, events)
    assert data.first_event == instant("2017-03-01T10:00")
    assert data.last_event == instant("2017-03-02T10:00")
    assert data.default_cutoff == data.last_event + 1


def test_the_stored_schema_equals_the_input(tmp_path: Path) -> None:
    schema = Schema.parse(SCHEMA + PROFILE + "fit_before: 2017-03-02\n")
    people = pl.DataFrame({"user": ["a"], "age": ["old"]})
    data = prepare_events(tmp_path, BREAD, schema, profile=people)
    assert data.schema.model_dump() == schema.model_dump()
