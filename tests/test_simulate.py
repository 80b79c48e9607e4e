"""Tests of the simulated ecosystem: its statistics, its seeds, and that other verbs accept it."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.errors import InputError
from userbert.experiments import simulate as module
from userbert.experiments.catalogue import Catalogue, Choices, build_catalogue
from userbert.experiments.ecosystem import DAILY, TRAITS, Ecosystem
from userbert.experiments.simulate import simulate
from userbert.folders import checksums, read_json
from userbert.schema import Schema
from userbert.tasks.labels import Labels, label_next, label_response, label_return
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure

USERS = 4_000
SEED = 1
START = datetime(2024, 4, 1, 15, tzinfo=UTC)  # midnight of 2 April in Tokyo
END = datetime(2024, 6, 30, 15, tzinfo=UTC)
WEEK_BEFORE = datetime(2024, 6, 23, 15, tzinfo=UTC)
MONTH_AFTER = datetime(2024, 7, 30, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "ecosystem"
    simulate(path, USERS, seed=SEED, users_per_part=2_000, workers=1)
    return path


@pytest.fixture(scope="module")
def read(folder: Path) -> Callable[[str], pl.DataFrame]:
    return lambda name: pl.read_parquet(folder / name / "*.parquet")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return build_catalogue(Ecosystem(), SEED)


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(Schema.load(folder / "schema.yaml"), tmp_path_factory.mktemp("data") / "data")


def test_bytes_depend_on_the_seed_and_not_on_the_number_of_processes(
    folder: Path, tmp_path: Path
) -> None:
    simulate(tmp_path / "again", USERS, seed=SEED, users_per_part=2_000, workers=2)
    assert checksums(tmp_path / "again") == checksums(folder)
    simulate(tmp_path / "other", 2_000, seed=SEED + 1, workers=1)
    other_folder, first = tmp_path / "other", checksums(folder)
    assert not set(checksums(other_folder).values()) & {
        digest for name, digest in first.items() if name != "schema.yaml"
    }


def test_full_blocks_do_not_depend_on_the_number_of_users(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "less", 2_000, seed=SEED, users_per_part=2_000, workers=1)
    all_files = checksums(folder)
    block_files = {
        name: digest for name, digest in checksums(tmp_path / "less").items() if "part" in name
    }
    assert len(block_files) == 5
    assert block_files.items() <= all_files.items()


def test_rates_equal_those_of_the_paper(
    read: Callable[[str], pl.DataFrame], data: PreparedData
) -> None:
    assert len(read("long_term")) / USERS == pytest.approx(20, rel=0.1)
    assert len(read("short_term")) / USERS == pytest.approx(2.2, rel=0.1)
    before = data.schema.instant("2024-07-01")
    days = sessions = 0
    for shard in data.shards:
        long_term, short_term = shard.segments["long_term"], shard.segments["short_term"]
        days += int(long_term.word_start[long_term.times < before].sum())
        sessions += int(short_term.word_start.sum())
    assert days / USERS == pytest.approx(12, rel=0.1)
    assert sessions / USERS == pytest.approx(1.8, rel=0.15)


def test_daily_reading_is_a_parameter(tmp_path: Path) -> None:
    simulation = simulate(tmp_path / "daily", USERS, ecosystem=DAILY, workers=1)
    assert simulation.events["short_term"] / USERS == pytest.approx(15.6, rel=0.1)
    assert simulation.events["long_term"] / USERS == pytest.approx(20, rel=0.1)


def test_some_users_have_hundreds_of_events_and_many_have_few(
    read: Callable[[str], pl.DataFrame],
) -> None:
    events = read("long_term").group_by("user_id").len()["len"]
    assert len(events) == USERS
    assert len(events.filter(events <= 3)) > USERS / 10
    assert len(events.filter(events >= 200)) >= 10


def test_no_event_is_outside_its_period(read: Callable[[str], pl.DataFrame]) -> None:
    spans = {
        "long_term": (START, END),
        "short_term": (WEEK_BEFORE, END),
        "future": (END, MONTH_AFTER),
    }
    for name, (start, end) in spans.items():
        times = read(name)["time"]
        assert times.is_between(start, end, closed="left").all()
    assert set(read("future")["action_type"]) == {"purchase"}


def test_attributes_are_those_of_table_1(
    read: Callable[[str], pl.DataFrame], catalogue: Catalogue
) -> None:
    long_term, short_term = read("long_term"), read("short_term")
    purchases = long_term.filter(pl.col("action_type") == "purchase")
    points = long_term.filter(pl.col("action_type") == "point_usage")
    assert len(purchases) + len(points) == len(long_term)
    for attribute in ("shop", "genre", "price"):
        assert purchases[attribute].null_count() == 0
        assert points[attribute].null_count() == len(points)
    for attribute, size in (("usage_type", 4), ("channel", 742)):
        assert points[attribute].null_count() == 0
        assert purchases[attribute].null_count() == len(purchases)
        assert points[attribute].n_unique() <= size
    assert purchases["price"].min() >= 1  # type: ignore[operator]
    assert set(short_term["event_type"]) == {"click", "search", "page_view"}
    assert set(short_term["device"]) == {"mobile", "desktop"}
    assert (short_term["shop"].is_null() == (short_term["event_type"] == "search")).all()
    browsed = {f"shop-{number:05d}" for number in np.flatnonzero(catalogue.is_browsed_shop)}
    assert set(short_term["shop"].drop_nulls()) <= browsed
    assert set(short_term["genre"]) <= {f"genre-{g:05d}" for g in catalogue.browsed_genre}


def test_every_value_of_the_catalogue_can_occur(catalogue: Catalogue) -> None:
    sizes = {
        "genres_of_month": 11_438,
        "genres_of_lifestyle": 11_438,
        "shops_of_genre": 85_124,
        "browsed_shops_of_genre": 40_804,
        "channels": 742,
    }
    for name, size in sizes.items():
        choices = getattr(catalogue, name)
        assert len(np.unique(choices.items)) == size
        assert (np.diff(choices.cumulative, prepend=0) > 0).all()
    assert len(np.unique(catalogue.browsed_genre)) == 10_386
    genres_with_browsed_shops = np.unique(catalogue.shop_genre[catalogue.is_browsed_shop])
    assert set(genres_with_browsed_shops) == set(catalogue.browsed_genre)


def test_choices_follow_their_weights_within_their_group() -> None:
    groups, items = np.array([2, 0, 2, 0]), np.array([5, 6, 7, 8])
    choices = Choices.grouped(groups, items, np.array([1.0, 1.0, 3.0, 0.0]), 3)
    drawn = choices.draw(np.repeat([0, 2], 10_000), np.random.default_rng(0))
    assert set(drawn[:10_000]) == {6}
    assert set(drawn[10_000:]) == {5, 7}
    assert (drawn[10_000:] == 7).mean() == pytest.approx(0.75, abs=0.02)


def test_users_with_a_trait_buy_its_genres_more_often_but_rarely(
    read: Callable[[str], pl.DataFrame], catalogue: Catalogue
) -> None:
    traits = read("truth")
    purchases = read("long_term").filter(pl.col("genre").is_not_null()).join(traits, on="user_id")
    for trait, genres in zip(TRAITS, catalogue.trait_genres, strict=True):
        shows = pl.col("genre").is_in([f"genre-{genre:05d}" for genre in genres])
        rate = {
            holds: purchases.filter(pl.col(trait.name) == holds).select(shows.mean()).item()
            for holds in (True, False)
        }
        assert rate[True] / rate[False] > 2
        assert rate[True] < 0.1
        assert 0.02 < traits[trait.name].sum() / USERS < 0.7


def test_sessions_and_later_purchases_follow_interests(
    read: Callable[[str], pl.DataFrame],
) -> None:
    truth = read("truth").select("user_id", "interest")
    follows = (pl.col("genre") == pl.col("interest")).mean()

    def share(log: pl.DataFrame) -> float:
        return float(log.join(truth, on="user_id").select(follows).item())

    future = read("future")
    is_soon = pl.col("time") < END + pl.duration(days=4)
    assert share(read("short_term")) > 0.3
    assert share(future.filter(is_soon)) > 1.5 * share(future.filter(~is_soon))


def test_responses_depend_on_traits(read: Callable[[str], pl.DataFrame], folder: Path) -> None:
    truth = read("truth")
    responders = pl.read_parquet(folder / "responses/golf_booking.parquet")["user_id"]
    assert set(responders) == set(truth.filter("responds_golf_booking")["user_id"])
    rates = truth.group_by("golfer").agg(pl.col("responds_golf_booking").mean()).sort("golfer")
    assert rates["responds_golf_booking"][1] > 5 * rates["responds_golf_booking"][0]


def test_summary_names_the_seed_the_parameters_and_the_events(folder: Path) -> None:
    summary = read_json(folder / "summary.json")
    assert (summary["kind"], summary["users"], summary["seed"]) == ("simulation", USERS, SEED)
    assert summary["ecosystem"]["shops"] == 85_124
    assert set(summary["events"]) == {"long_term", "short_term", "future"}


def test_schema_does_not_name_the_truth(folder: Path) -> None:
    text = (folder / "schema.yaml").read_text()
    assert "truth" not in text
    assert not any(trait.name in text for trait in TRAITS)


def test_pretraining_and_labels_accept_the_logs(
    data: PreparedData, folder: Path, tmp_path: Path
) -> None:
    assert len(data) == USERS
    cutoff = data.schema.instant("2024-07-01")
    pairs = pairs_at(data, [cutoff])
    assert len(pairs) == USERS
    next_genre = label_next(data, "genre", pairs)
    assert next_genre.attribute == ("long_term", "genre")
    assert len(next_genre) > USERS / 2
    assert 0.3 < label_return(data, pairs, "30d").targets.mean() < 0.9
    responders = pl.read_parquet(folder / "responses/travel_booking.parquet")["user_id"].to_list()
    assert label_response(data, pairs, responders, negatives=3).targets.mean() == 0.25
    labels = pl.read_parquet(folder / "truth/*.parquet").select(
        "user_id", label=pl.col("pet_owner").cast(pl.Int64)
    )
    assert Labels.of(labels, data).kind == "binary"
    tiny = configure("paper", ["steps=3", "model.layers=1", "model.hidden=16", "model.heads=2"])
    model = pretrain(data, tmp_path / "model", config=tiny)
    assert np.isfinite(model.record["loss"])


def test_existing_output_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        simulate(folder, 10)


def test_no_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        simulate(tmp_path / "none", 0)


def test_too_small_a_disk_is_refused_before_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(InputError, match=r"take about 11\.\d GB, and 10\.0 MB are free"):
        simulate(tmp_path / "much", 22_500_000)
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write", no_space)
    with pytest.raises(InputError, match="disk is full"):
        simulate(tmp_path / "full", 10)
    assert not list(tmp_path.iterdir())


def test_command_line_reports_the_events_and_the_next_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "userbert", "simulate", "-o", "made", "--users", "20"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "events of 20 users" in result.stdout
    assert "userbert prepare made/schema.yaml" in result.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: made exists already")
