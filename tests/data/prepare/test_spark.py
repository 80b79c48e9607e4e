"""Preparation on Spark: the bytes of the local engine, also if executors are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from small_logs import prepare_in_shards
from userbert.data.prepare import spark as engine
from userbert.data.prepare.cluster import spark_session
from userbert.data.prepare.prepare import prepare
from userbert.data.prepare.spark import SparkEngine
from userbert.errors import SourceError
from userbert.folders import checksums
from userbert.infer.inference import propose_schema
from userbert.schema.models import Schema

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

EVENTS = 4_000
SCHEMA = """
user: user
timezone: America/New_York
sources:
  shop:
    path: shop
    time: {column: time, zone: local}
    action: {column: action}
    lookup: [{path: genres.csv, "on": item}]
  web: {path: web.jsonl, time: time, action: click}
profile: {path: people.csv, fields: {age: {column: age}, income: {column: income, bins: 3}}}
attributes:
  item: {column: item, share: true, min_users: 2}
  Item: {column: genre}
  price: {column: price, bins: 4}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day}
    window: {from: 90d, to: 7d}
    actions: [buy]
    attributes: [Item, item, price, hour]
  short_term:
    words: {by: gap, minutes: 30}
    window: 7d
    actions: [buy, click]
    attributes: [item]
duplicates: drop
"""
"""Files of three kinds, a lookup, a profile, duplicates, and names that differ in case only."""


@pytest.fixture(scope="module")
def spark(java: None) -> Iterator["SparkSession"]:
    with spark_session("local[2]") as session:
        session.sparkContext.setLogLevel("ERROR")
        yield session


@pytest.fixture
def logs(tmp_path: Path) -> Schema:
    """Messy logs with their schema."""
    chance = np.random.default_rng(0)
    times = pl.datetime_range(
        pl.datetime(2017, 3, 1), pl.datetime(2017, 5, 1), "1h", eager=True
    ).dt.strftime("%Y-%m-%dT%H:%M")
    items = pl.Series([None, *(f"i{number}" for number in range(40)), "ü"])
    shop = pl.DataFrame(
        {
            "user": chance.integers(0, 60, EVENTS).astype(str),
            "time": times.gather(chance.integers(0, len(times), EVENTS)),
            "action": chance.choice(["buy", "look"], EVENTS),
            "item": items.gather(chance.integers(0, len(items), EVENTS)),
            "price": chance.choice(
                ["1", "2.5", "", "-0", "free"], EVENTS, p=[0.4, 0.3, 0.1, 0.19, 0.01]
            ),
        }
    )
    (tmp_path / "shop").mkdir()
    shop[:2000].vstack(shop[:100]).write_csv(tmp_path / "shop" / "a.csv")
    shop[1900:].write_parquet(tmp_path / "shop" / "b.parquet", row_group_size=500)
    web = shop.select("user", "item", time=pl.col("time") + "Z")
    web[:1500].write_ndjson(tmp_path / "web.jsonl")
    known = items[1:31]
    pl.DataFrame({"item": known, "genre": known.str.tail(1)}).write_csv(tmp_path / "genres.csv")
    users = [*map(str, range(0, 80, 2)), "4", "8"]
    people = {"user": users, "age": chance.choice(["30", "40"], len(users))}
    pl.DataFrame({**people, "income": range(len(users))}).write_csv(tmp_path / "people.csv")
    return Schema.parse(SCHEMA, tmp_path)


def rows_per_shard(shards: int) -> float:
    return (EVENTS + 200 + 1500) / shards + 1


def by_small_pieces(session: "SparkSession") -> "partial[SparkEngine]":
    return partial(SparkEngine, session=session, rows_per_piece=700)


def same(first: Path, second: Path) -> bool:
    return checksums(first) == checksums(second)


@pytest.mark.parametrize("shards", [1, 8])
def test_every_byte_equals_the_local_engines(
    logs: Schema, tmp_path: Path, spark: "SparkSession", shards: int
) -> None:
    rows = rows_per_shard(shards)
    here = prepare_in_shards(logs, tmp_path / "here", rows, on_invalid="quarantine")
    there = prepare_in_shards(
        logs, tmp_path / "there", rows, on_invalid="quarantine", engine=by_small_pieces(spark)
    )
    assert here.manifest["shards"] == shards
    assert same(here.path, there.path)
    assert len(pl.read_parquet(there.path / "rejected.parquet")) > 20
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == set()


def test_appended_and_grown_data_equal_the_local_engines(
    logs: Schema, tmp_path: Path, spark: "SparkSession"
) -> None:
    rows = rows_per_shard(4)
    first = prepare_in_shards(logs, tmp_path / "first", rows, on_invalid="quarantine")
    pl.DataFrame(
        {
            "user": ["1", "new"], "time": ["2017-06-01T10:00"] * 2, "action": ["buy"] * 2,
            "item": ["unseen"] * 2, "price": ["1", "9"],
        }
    ).write_csv(tmp_path / "day.csv")  # fmt: skip
    (tmp_path / "clicks.csv").write_text("user,time,item\n1,2017-06-01T10:01Z,i1\n")
    text = SCHEMA.replace("path: shop\n", "path: day.csv\n").replace("web.jsonl", "clicks.csv")
    day = Schema.parse(text.replace("people.csv", "people2.csv"), tmp_path)
    (tmp_path / "people2.csv").write_text("user,age,income\nnew,50,3\n")
    here = prepare_in_shards(day, tmp_path / "here", rows, append=first, grow=True)
    there = prepare_in_shards(
        day, tmp_path / "there", rows, append=first, grow=True, engine=by_small_pieces(spark)
    )
    assert same(here.path, there.path)
    assert "unseen" in str(there.vocabularies.to_json())


@pytest.mark.parametrize("broken", ["row", "file", "second profile row"])
def test_errors_equal_the_local_engines(
    logs: Schema, tmp_path: Path, spark: "SparkSession", broken: str
) -> None:
    shop = tmp_path / "shop"
    if broken == "file":
        content = bytearray((shop / "b.parquet").read_bytes())
        content[50:900] = bytes(850)
        (shop / "b.parquet").write_bytes(content)
    elif broken == "second profile row":
        kept = [pl.read_csv(shop / "a.csv"), pl.read_parquet(shop / "b.parquet")]
        for name, rows in zip(("a.csv", "b.csv"), kept, strict=True):
            rows.filter(~rows["price"].is_in(["free"])).write_csv(shop / name)
        (shop / "b.parquet").unlink()
    messages = []
    for session in (None, spark):
        with pytest.raises(SourceError) as caught:
            prepare(logs, tmp_path / "data", spark=session)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "data").exists()


def test_frames_in_memory_are_refused(logs: Schema, tmp_path: Path, spark: "SparkSession") -> None:
    frame = pl.read_parquet(tmp_path / "shop" / "b.parquet")
    with pytest.raises(SourceError, match="frame 'shop' is in the driver's memory"):
        prepare(logs, tmp_path / "data", events={"shop": frame}, spark=spark)


def test_real_logs_are_prepared_to_the_same_bytes(
    real_data: Path, tmp_path: Path, spark: "SparkSession"
) -> None:
    folder = real_data / "ta-feng"
    text = propose_schema([folder / "events.parquet"], folder / "profiles.parquet", tmp_path)
    schema = Schema.parse(text, tmp_path)
    here = prepare(schema, tmp_path / "here")
    there = prepare(schema, tmp_path / "there", spark=spark)
    assert same(here.path, there.path)


def test_one_user_may_have_most_events(tmp_path: Path, spark: "SparkSession") -> None:
    events, chance = 5_500_000, np.random.default_rng(0)
    user = np.where(np.arange(events) < 5_000_000, 0, chance.integers(1, 100_000, events))
    second = chance.integers(1_700_000_000, 1_710_000_000, events)
    item = chance.integers(0, 5_000, events)
    pl.DataFrame({"user": user, "time": second, "item": item}).write_parquet(
        tmp_path / "log.parquet"
    )
    schema = Schema.parse(
        "user: user\ntimezone: UTC\n"
        "sources:\n  log: {path: log.parquet, time: time, action: act}\n"
        "attributes: {item: {column: item}}\n"
        "segments:\n  long_term:\n"
        "    {words: {by: day}, window: 90d, actions: [act], attributes: [item]}\n",
        tmp_path,
    )
    here = prepare(schema, tmp_path / "here")
    there = prepare(schema, tmp_path / "there", spark=spark)
    assert here.manifest["shards"] == 2
    assert same(here.path, there.path)


_ON_A_CLUSTER = """
import sys
from functools import partial
from pathlib import Path
from userbert.data.prepare.cluster import spark_session
from userbert.data.prepare.prepare import prepare_logs
from userbert.data.prepare.spark import SparkEngine
from userbert.data.read.sources import open_profile, open_sources
from userbert.schema.models import Schema

folder = Path(sys.argv[1])
with spark_session("local-cluster[2,1,1024]") as session:
    schema = Schema.load(folder / "schema.yaml")
    prepare_logs(
        schema, open_sources(schema), open_profile(schema), folder / "there",
        partial(SparkEngine, session=session, rows_per_piece=700),
        on_invalid="quarantine", rows_per_shard=200,
    )
"""


@pytest.mark.usefixtures("java")
def test_executors_may_be_killed(logs: Schema, tmp_path: Path) -> None:
    """Executors are separate processes; one is killed while shards are written."""
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    here = prepare_in_shards(logs, tmp_path / "here", 200, on_invalid="quarantine")
    shards = here.manifest["shards"]
    environment = {**os.environ, "SPARK_WORKER_DIR": str(tmp_path / "workers")}
    run = subprocess.Popen(
        [sys.executable, "-c", _ON_A_CLUSTER, str(tmp_path)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(list(tmp_path.glob(".there*/shards/0*"))) < 2:
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(executors(run.pid)[0], signal.SIGKILL)
    written = len(list(tmp_path.glob(".there*/shards/0*")))
    output = run.communicate(timeout=240)[0]
    assert run.returncode == 0, output
    assert written < shards, "the executor was killed too late to matter"
    assert "Lost executor" in output or "lost" in output
    assert same(here.path, tmp_path / "there")


@pytest.mark.usefixtures("java")
def test_an_interrupt_leaves_nothing(logs: Schema, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    command = [sys.executable, "-m", "userbert", "prepare", str(tmp_path / "schema.yaml")]
    run = subprocess.Popen(
        [*command, "-o", str(tmp_path / "data"), "--engine", "spark", "--master", "local[1]"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".data*/temporary")):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=60)[1]
    assert run.returncode == 130, output
    assert "interrupted before the output was complete" in output
    assert not list(tmp_path.glob("*data*"))


def executors(process: int) -> list[int]:
    """Returns the executor processes among the descendants of a process."""
    if "ExecutorBackend" in Path(f"/proc/{process}/cmdline").read_text():
        return [process]
    threads = Path(f"/proc/{process}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return [pid for child in children for pid in executors(int(child))]


def test_an_unreachable_cluster_is_an_error(logs: Schema, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    command = [sys.executable, "-m", "userbert", "prepare", str(tmp_path / "schema.yaml")]
    run = subprocess.run(
        [*command, "-o", str(tmp_path / "data"), "--engine", "spark", "--master", "local[1]"],
        env={**os.environ, "JAVA_HOME": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "Spark does not start" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_interrupted_attempt_leaves_nothing_among_the_shards(
    logs: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(folder: Path, _parts: object) -> None:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    data = prepare(logs, tmp_path / "data", on_invalid="quarantine")
    folder = tmp_path / "output"
    for name in ("temporary", "shards"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setattr(engine, "write_shard", cut_off)
    build = engine._BuildTask(logs, [], folder, data.vocabularies, None, 1)
    with pytest.raises(KeyboardInterrupt):
        next(build(iter([pa.record_batch({"id": [0]})])))
    assert list((folder / "shards").iterdir()) == []
