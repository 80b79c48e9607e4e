"""Prepared data on disk: reading returns what was written, and damage is reported."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from small_logs import SCHEMA, buys, instant, prepare_events, prepare_in_shards, reseal
from userbert.data.prepare.words import build_words, encode_actions, number_users
from userbert.data.shards import TIMELESS, ShardTables, shard_of, user_hash, write_shard
from userbert.data.store import PreparedData, write_manifest
from userbert.data.vocabulary import Bins, Categories, Vocabulary
from userbert.errors import DataError
from userbert.folders import read_json, write_json
from userbert.schema.models import Schema

ADVICE = "Copy the folder again, or prepare the logs again."
USERS = [f"user {number}" for number in range(60)]
PROFILE = (
    "profile: {path: p.csv, fields: {age: {column: age}, income: {column: income, bins: 2}}}\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty users in eight shards, one of them without words in the long-term segment."""
    events = pl.concat([buys(user, "2017-03-01", "2017-03-02") for user in USERS])
    events[0, "action"] = events[1, "action"] = "click"
    people = pl.DataFrame({"user": [*USERS[:9], "stranger"], "age": ["old"] * 10, "income": 1.0})
    path = tmp_path_factory.mktemp("store") / "data"
    data = prepare_in_shards(SCHEMA + PROFILE, path, 15, events={"log": events}, profile=people)
    assert len(data.shards) == 8
    return data.path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Copy for a test to damage."""
    return Path(shutil.copytree(folder, tmp_path / "data"))


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        PreparedData.open(path).verify()
    return str(caught.value)


def test_opened_data_equal_the_written_data(folder: Path) -> None:
    data = PreparedData.open(folder)
    data.verify()
    assert len(data) == data.user_ids.length() == 60
    assert sum(shard.users for shard in data.shards) == 60
    assert data.first_event == instant("2017-03-01")
    assert data.last_event == instant("2017-03-02")
    assert data.default_cutoff == data.last_event + 1
    shape = data.input_shape()
    assert [(segment.name, segment.positions) for segment in shape.segments] == [
        ("long_term", 92), ("short_term", 170),
    ]  # fmt: skip
    assert [(a.name, a.size, a.table) for a in shape.segments[0].attributes] == [
        ("genre", 3, "long_term/genre"), ("price", 3, "long_term/price"),
        ("hour", 3, "long_term/hour"),
    ]  # fmt: skip
    assert [(a.name, a.size, a.table) for a in shape.profile] == [
        ("age", 3, "profile/age"), ("income", 3, "profile/income"),
    ]  # fmt: skip
    assert data.input_shape(hidden=["age", "income"]).profile == ()


def test_shared_attributes_name_one_table(tmp_path: Path) -> None:
    schema = SCHEMA.replace("{column: genre}", "{column: genre, share: true}")
    long_term, short_term = (
        prepare_events(tmp_path, buys("a", "2017-03-01"), schema).input_shape().segments
    )
    assert long_term.attributes[0] == short_term.attributes[0]
    assert long_term.attributes[0].table == "genre"


def test_users_are_sorted_by_hash_and_id(folder: Path) -> None:
    data = PreparedData.open(folder)
    ids = data.user_ids.to_pylist()
    hashes = user_hash(pa.array(USERS)).tolist()
    assert ids == [user for _, user in sorted(zip(hashes, USERS, strict=True))]
    assert data.first_rows.tolist() == [shard.first_row for shard in data.shards]
    for number, shard in enumerate(data.shards):
        assert (shard_of(shard.user_hashes, 8) == number).all()


def test_every_user_has_its_own_actions(folder: Path) -> None:
    for shard in PreparedData.open(folder).shards:
        for user, ends in zip(
            shard.user_ids.to_pylist(), zip(*spans(shard.segments), strict=True), strict=True
        ):
            assert ends == ((0, 2) if user == USERS[0] else (2, 2))
        profile = np.diff(shard.profile.offsets).tolist()
        assert profile == [int(user in USERS[:9]) for user in shard.user_ids.to_pylist()]
        assert (shard.profile.times == TIMELESS).all()


def spans(segments: object) -> list[list[int]]:
    assert isinstance(segments, dict)
    return [np.diff(columns.offsets).tolist() for columns in segments.values()]


@pytest.mark.parametrize("kind", [list, pa.array, pl.Series, np.array])
def test_rows_of_finds_users_in_every_shard_and_not_unknown_ones(folder: Path, kind: type) -> None:
    data = PreparedData.open(folder)
    users = ["stranger", *reversed(USERS), "", USERS[3], "user", "user 1 "]
    rows = data.rows_of(kind(users)).tolist()
    ids = data.user_ids.to_pylist()
    assert rows == [ids.index(user) if user in ids else -1 for user in users]


def test_rows_of_no_users_are_empty(folder: Path) -> None:
    assert PreparedData.open(folder).rows_of([]).tolist() == []


def test_rows_of_all_users_are_in_order(folder: Path) -> None:
    data = PreparedData.open(folder)
    assert data.rows_of(data.user_ids).tolist() == list(range(60))


def test_users_with_equal_hashes_have_their_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poor_hash(ids: pa.Array) -> NDArray[np.uint64]:
        return np.full(len(ids), 7, np.uint64)

    for module in ("prepare.words", "shards", "store", "prepare.local"):
        monkeypatch.setattr(f"userbert.data.{module}.user_hash", poor_hash)
    data = prepare_events(tmp_path, pl.concat([buys(user, "2017-03-01") for user in USERS[:5]]))
    assert data.user_ids.to_pylist() == sorted(USERS[:5])
    assert data.rows_of([*USERS[:5], "stranger", "a"]).tolist() == [0, 1, 2, 3, 4, -1, -1]


@given(st.binary(min_size=8, max_size=8), st.integers(0, 12))
def test_a_shard_is_a_range_of_hashes(number: bytes, bits: int) -> None:
    hashes = np.frombuffer(number, np.uint64)
    assert shard_of(hashes, 2**bits).tolist() == [int(hashes[0]) >> (64 - bits)]


def test_a_shard_without_users_can_be_read(tmp_path: Path) -> None:
    schema = Schema.parse(SCHEMA + PROFILE)
    encode: dict[str, Vocabulary] = {
        "genre": Categories(()),
        "price": Bins(()),
        "hour": Categories(()),
    }
    text = pa.array([], pa.large_string())
    users, numbers = number_users(text)
    times = pa.array([], pa.int64())
    numeric = pa.array([], pa.float32())
    events = pa.table(
        {"user": numbers, "time": times, "genre": text, "price": numeric, "hour": text}
    )
    tables = {
        name: build_words(
            encode_actions(events, {name: encode[name] for name in segment.attributes}),
            segment.words,
            schema.zone,
        )
        for name, segment in schema.segments.items()
    }
    columns = tables["long_term"].select(["user", "time", "word_start", "genre"])
    profile = columns.rename_columns(["user", "time", "word_start", "age"])
    shard = ShardTables(users, tables, profile)
    assert write_shard(tmp_path / "shards" / "00000", [shard]).users == 0
    (tmp_path / "schema.yaml").write_text(schema.dump())
    write_json(tmp_path / "vocabularies.json", {"segments": {}, "profile": {}})
    write_manifest(tmp_path, {"users": 0, "shards": 1, "first_event": 0, "last_event": 0})
    data = PreparedData.open(tmp_path)
    assert len(data) == len(data.user_ids) == 0
    assert data.rows_of(["a"]).tolist() == [-1]
    assert data.shards[0].segments["long_term"].values["price"].dtype == np.float32


def test_every_flipped_byte_is_found(copy: Path) -> None:
    files = [file for file in copy.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert len(files) == 3 + 8 * 4
    for file in files:
        content = file.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        file.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        with pytest.raises(DataError):
            PreparedData.open(copy).verify()
        file.write_bytes(content)
    PreparedData.open(copy).verify()


def test_a_changed_file_is_named(copy: Path) -> None:
    file = copy / "shards" / "00003" / "long_term.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    assert error_of(copy) == f"{file} has changed since it was written. {ADVICE}"
    file.unlink()
    assert error_of(copy) == f"{file} is missing. {ADVICE}"


@pytest.mark.parametrize("name", ["users.arrow", "short_term.arrow", "profile.arrow"])
@pytest.mark.parametrize("content", [None, b"", b"ARROW1", b"something else entirely" * 10])
def test_a_damaged_shard_is_an_error_on_reading(
    copy: Path, name: str, content: bytes | None
) -> None:
    file = copy / "shards" / "00001" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    data = PreparedData.open(copy)
    with pytest.raises(DataError, match=r"00001/.* cannot be read: .* prepare the logs again\."):
        _ = data.shards


def test_a_folder_without_a_manifest_is_not_prepared_data(tmp_path: Path) -> None:
    descriptions = {tmp_path: "it is another kind of folder", tmp_path / "x": "nothing is there"}
    for path, description in descriptions.items():
        message = error_of(path)
        assert f"{path} is not prepared data (it has no manifest.json; {description}" in message
        assert message.endswith("Make it with `userbert prepare schema.yaml -o DATA`.")


def test_a_newer_format_is_reported_before_other_changes(copy: Path) -> None:
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {**manifest, "format": 2})
    write_json(copy / "vocabularies.json", ["of", "another", "kind"])
    (copy / "schema.yaml").write_text("unknown: key\n")
    assert error_of(copy) == (
        f"{copy} has the format 2, this version reads 1. Prepare the logs again, or use the "
        "version that wrote it."
    )


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"format": 1}', "{", "\xff"])
def test_a_damaged_manifest_is_an_error(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content, encoding="latin1")
    assert error_of(copy).startswith(f"{copy} is damaged: ")


@pytest.mark.parametrize("name", ["vocabularies.json", "schema.yaml"])
@pytest.mark.parametrize("content", [None, "", "[]", "3", '{"segments": 3, "profile": {}}'])
def test_damaged_descriptions_are_an_error(copy: Path, name: str, content: str | None) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    fault = "is missing" if content is None else "has changed since it was written"
    assert error_of(copy) == f"{copy / name} {fault}. {ADVICE}"
    if content is not None:
        with pytest.raises(DataError, match="is damaged: "):
            reseal(copy)


def test_the_checksum_names_the_data(folder: Path, copy: Path) -> None:
    assert PreparedData.open(folder).checksum == PreparedData.open(copy).checksum
    reseal(copy, users=61)
    assert PreparedData.open(folder).checksum != PreparedData.open(copy).checksum


def test_a_changed_manifest_is_an_error(copy: Path) -> None:
    file = copy / "manifest.json"
    content = file.read_bytes()
    for number in range(len(content)):
        file.write_bytes(content[:number] + bytes([content[number] ^ 1]) + content[number + 1 :])
        with pytest.raises(DataError):
            PreparedData.open(copy)


def test_data_without_a_checksum_of_the_manifest_can_be_read(folder: Path, copy: Path) -> None:
    manifest = read_json(copy / "manifest.json")
    del manifest["checksum"]
    write_json(copy / "manifest.json", manifest)
    assert PreparedData.open(copy).user_ids == PreparedData.open(folder).user_ids
