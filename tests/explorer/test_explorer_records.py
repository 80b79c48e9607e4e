"""Figures of the explorer, computed without the service: counts, maps, traits, curves."""

import json
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chi2_contingency

from small_logs import SCHEMA, buys, log, logs, prepare_events, prepare_in_shards
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut, profile_ids, profile_numbers
from userbert.data.use.timeline import timeline
from userbert.explorer.overview import overview
from userbert.explorer.runs import Point, read_lines, read_runs
from userbert.explorer.traits import (
    UserValues,
    ValueIndex,
    find_shared_values,
    find_traits,
    values_of_users,
)
from userbert.explorer.user_map import LayoutProcess, cluster, pca_map, tsne_points
from userbert.inspection.data_statistics import sample_shards, shorten_paths
from userbert.service.population import find_users

MANY = pl.concat([buys(f"u{number:03}", "2017-05-01T10:00") for number in range(300)])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Prepared data with users in several shards."""
    path = tmp_path_factory.mktemp("sharded") / "data"
    return prepare_in_shards(SCHEMA, path, len(MANY) / 8 + 1, events={"log": MANY})


@given(logs())
@settings(max_examples=25)
def test_values_of_users_equal_those_of_the_timeline(
    tmp_path_factory: pytest.TempPathFactory, events: pl.DataFrame
) -> None:
    data = prepare_events(tmp_path_factory.mktemp("values"), events)
    index, cutoff = ValueIndex.of(data), data.default_cutoff
    user_values = values_of_users(data, index, np.arange(len(data)), cutoff)
    for row in range(len(data)):
        expected: dict[tuple[str, str, str], int] = {}
        for word in timeline(data, row, cutoff):
            for attribute, values in word.values.items():
                for value, count in values:
                    if value != "(unknown)":
                        key = (word.segment, attribute, value)
                        expected[key] = expected.get(key, 0) + count
        entries = slice(user_values.offsets[row], user_values.offsets[row + 1])
        names = [index.name(int(number)) for number in user_values.values[entries]]
        assert dict(zip(names, user_values.actions[entries].tolist(), strict=True)) == expected


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_trait_strength_orders_like_the_likelihood_ratio(
    users: int, rest: int, draw: st.DataObject
) -> None:
    """Traits are in the order of SciPy's G² of the 2 x 2 table."""
    index = _value_index(40)
    own = np.zeros(len(index), np.int64)
    others = np.zeros(len(index), np.int64)
    chosen = slice(2, 2 + 40)
    own[chosen] = draw.draw(arrays.arrays(np.int64, 40, elements=st.integers(0, users)))
    others[chosen] = draw.draw(arrays.arrays(np.int64, 40, elements=st.integers(0, rest)))
    strengths = []
    for trait in find_traits(index, own, users, others, rest):
        number = 2 + int(trait.value)
        table = np.array(
            [[own[number], users - own[number]], [others[number], rest - others[number]]]
        )
        test = chi2_contingency(table, correction=False, lambda_="log-likelihood")
        strengths.append(test.statistic)
        assert trait.share == own[number] / users > trait.share_of_others == others[number] / rest
        assert trait.users == own[number]
    assert strengths == sorted(strengths, reverse=True) or np.allclose(
        strengths, sorted(strengths, reverse=True)
    )
    least = 2 * np.log(max(int(np.count_nonzero(own + others)), 1))
    assert all(strength > least - 1e-9 for strength in strengths)


def _value_index(count: int) -> ValueIndex:
    from userbert.data.vocabulary import Categories

    vocabulary = Categories(tuple(str(number) for number in range(count)))
    return ValueIndex([("long_term", "genre", vocabulary)], np.array([0, vocabulary.size]))


def test_shared_values_are_rarest_first() -> None:
    two = UserValues(
        np.array([0, 3, 6]), np.array([2, 3, 4, 3, 4, 5]), np.array([1, 2, 3, 4, 5, 6])
    )
    all_counts = np.array([0, 0, 9, 8, 1, 7, 0])
    shared = find_shared_values(_value_index(5), two, all_counts, 10)
    assert [(value.value, value.own, value.other, value.share_of_all) for value in shared] == [
        ("2", 3, 5, 0.1), ("1", 2, 4, 0.8),
    ]  # fmt: skip


def test_a_sample_holds_at_most_the_given_number_of_actions(sharded: PreparedData) -> None:
    assert len(sharded.shards) == 8
    assert len(sample_shards(sharded, "long_term", 10_000)) == 8
    assert len(sample_shards(sharded, "long_term", 1)) == 1
    chosen = sample_shards(sharded, "long_term", 100)
    assert sum(len(shard.segments["long_term"].times) for shard in chosen) <= 100


def test_counts_of_a_sample_are_scaled_up(sharded: PreparedData) -> None:
    summary = overview(sharded, max_actions=200)
    assert summary.days.is_sampled
    assert sum(summary.days.actions["buy"]) == pytest.approx(300, abs=1)
    assert sum(summary.segments[0].words_per_user.counts) == pytest.approx(300, abs=1)
    assert summary.values[0].rows <= 200


@pytest.mark.parametrize(
    ("days", "unit", "first", "bars"),
    [
        (("2017-05-01", "2017-05-03"), "day", "2017-05-01", 3),
        # A Wednesday: its week begins on Monday.
        (("2017-05-03", "2018-12-31"), "week", "2017-05-01", 88),
        (("2008-02-29", "2017-05-01"), "month", "2008-02-01", 112),
    ],
)
def test_many_days_are_summed_by_week_or_month(
    tmp_path: Path, days: tuple[str, str], unit: str, first: str, bars: int
) -> None:
    chart = overview(prepare_events(tmp_path, buys("a", *(f"{day}T10:00" for day in days)))).days
    assert (chart.unit, chart.days[0], len(chart.days)) == (unit, first, bars)
    counts = chart.actions["buy"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 2)


def test_an_event_of_two_segments_is_counted_once(tmp_path: Path) -> None:
    events = pl.concat(
        [buys("a", "2017-05-01T10:00"), log(("a", "2017-05-02T10:00", "click", "x", None))]
    )
    chart = overview(prepare_events(tmp_path, events)).days
    # The segment with clicks and purchases does not tell action types apart.
    assert chart.actions == {"buy": [1, 0]}


def test_users_are_found_in_all_shards(sharded: PreparedData) -> None:
    matches = find_users(sharded, "u00", 20)
    assert matches.users == [f"u00{number}" for number in range(10)]
    assert not matches.more
    limited = find_users(sharded, "u00", 4)
    assert (len(limited.users), limited.more) == (4, True)
    assert limited.users == sorted(limited.users)
    assert set(limited.users) < set(matches.users)
    assert find_users(sharded, "u123", 4).users == ["u123"]


def test_profile_numbers_are_missing_exactly_where_ids_are(tmp_path: Path) -> None:
    schema = SCHEMA + "profile: {path: p.csv, fields: {age: {column: age, bins: 3}}}\n"
    people = pl.DataFrame({"user": ["a", "b", "c"], "age": [20.0, 40.0, None]})
    events = pl.concat([buys(user, "2017-05-01T10:00") for user in "abcd"])
    data = prepare_events(tmp_path, events, schema, profile=people)
    rows = data.rows_of(["a", "b", "c", "d"])
    cutoffs = np.full(4, data.default_cutoff)
    numbers = profile_numbers(data, rows, cutoffs, "age")
    assert np.array_equal(numbers, [20.0, 40.0, np.nan, np.nan], equal_nan=True)
    ids = profile_ids(data, rows, cutoffs)[:, 0]
    assert np.array_equal(ids == 0, np.isnan(numbers))
    assert len(cut(data, rows, cutoffs)) == 4


POINTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 6)),
    elements=st.floats(-9, 9, width=32),
)


@given(POINTS)
def test_maps_are_finite_and_deterministic(vectors: Any) -> None:
    user_map, again = pca_map(vectors), pca_map(vectors)
    assert user_map.points.shape == (len(vectors), 2)
    assert np.isfinite(user_map.points).all()
    assert np.array_equal(user_map.points, again.points)
    assert np.array_equal(user_map.clusters, again.clusters)
    sizes = np.bincount(user_map.clusters)
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum() == len(vectors)


def test_tsne_keeps_neighbours_together() -> None:
    generator = np.random.default_rng(0)
    group = generator.integers(0, 4, 120)
    leading = (np.eye(4)[group] * 10 + generator.normal(size=(120, 4)) * 0.1).astype(np.float32)
    points = LayoutProcess(leading).points()
    assert points is not None
    assert points.shape == (120, 2)
    assert np.array_equal(points, tsne_points(leading))
    # Users beyond the landmarks are placed within their group.
    with_landmarks = tsne_points(leading, 60)
    for layout in (points, with_landmarks):
        distances = ((layout[:, None] - layout[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distances, np.inf)
        assert np.mean(group[distances.argmin(axis=1)] == group) > 0.95


def test_a_running_layout_can_be_stopped() -> None:
    process = LayoutProcess(np.zeros((3_000, 4), np.float32))
    Timer(0.3, process.end).start()
    assert process.points() is None


def test_separate_clusters_are_found() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    points = np.eye(3)[truth] * 10 + generator.normal(size=(100, 3)) * 0.1
    assert np.array_equal(cluster(points, 3), truth)


@given(st.lists(st.sampled_from(["a/b/x.csv", "a/c/x.csv", "/r/x.csv", "y", "frame 'log'"])))
def test_short_file_names_are_relative(names: list[str]) -> None:
    short = shorten_paths(names)
    assert len(short) == len(names)
    assert not any(name.startswith("/") for name in short)


def test_short_file_names_omit_the_common_folder() -> None:
    assert shorten_paths(["/r/a/x.csv", "/r/b/x.csv"]) == ["a/x.csv", "b/x.csv"]
    assert shorten_paths(["/home/me/x.csv"]) == ["x.csv"]


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_lines(file) == []
    file.write_bytes('{"step": 1}\n{"ä": 2'.encode()[:-3])
    assert read_lines(file) == [{"step": 1}]


def test_long_curves_are_averaged_down(tmp_path: Path) -> None:
    work = tmp_path / "runs/.model.training"
    work.mkdir(parents=True)
    lines = [{"step": step, "loss": 1.0, "losses": {"a": 1.0}} for step in range(1, 2001)]
    (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = read_runs({}, tmp_path / "runs").runs
    assert (run.name, run.kind) == ("runs/model", "running")
    assert len(run.learned) == 300
    assert asdict(run.learned[-1]) == asdict(Point(2000, 1.0, {"a": 1.0}))


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside/.other.training"
    outside.mkdir(parents=True)
    (outside / "metrics.jsonl").write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/link").symlink_to(tmp_path / "outside")
    assert read_runs({}, tmp_path / "runs").runs == []
