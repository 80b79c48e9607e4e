"""Tests of the reproduction's tasks: their sizes, and that labels match the logs."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_ecosystem import USERS, make_ecosystem

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.experiments import complete_journey
from userbert.experiments.reproduction.questions import (
    HIDDEN,
    PAPER_SIZES,
    complete_journey_questions,
    scaled,
    simulated_questions,
)
from userbert.schema import Schema
from userbert.tasks.labels import Labels

Ecosystem = tuple[Path, PreparedData]

MIDNIGHT = datetime(2024, 6, 30, 15, tzinfo=UTC)
"""The simulated cut-off, in Tokyo."""
NAMES = ["travel_booking", "golf_booking", "next_genre", "car_owner", "parent"]


@pytest.fixture(scope="module")
def ecosystem(tmp_path_factory: pytest.TempPathFactory) -> Ecosystem:
    return make_ecosystem(tmp_path_factory.mktemp("ecosystem"))


def named(labels: list[Labels]) -> dict[str, Labels]:
    return {task.name: task for task in labels}


def test_task_sizes_are_scaled_from_the_papers() -> None:
    assert {name: scaled(size) for name, size in PAPER_SIZES.items()} == {
        "travel_booking": 7_255,
        "golf_booking": 7_290,
        "next_genre": 15_551,
        "car_owner": 11_374,
        "parent": 11_160,
    }
    assert scaled(64, scale=2.5) == 5


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_larger_tasks_stay_larger(first: int, second: int) -> None:
    assert scaled(min(first, second)) <= scaled(max(first, second))


def test_every_task_hides_the_fields_of_the_multi_task_labels(ecosystem: Ecosystem) -> None:
    logs, data = ecosystem
    tasks = simulated_questions(data, logs, 5.0)
    assert [task.name for task in tasks] == NAMES
    assert {task.hide for task in tasks} == {HIDDEN["simulated"]} == {("occupation",)}


def test_tasks_are_sampled_to_the_scale(ecosystem: Ecosystem) -> None:
    logs, data = ecosystem
    for task in simulated_questions(data, logs, 5.0):
        assert len(task) == scaled(PAPER_SIZES[task.name], 5.0)
        assert len(set(task.user_ids)) == len(task)


def test_a_scale_beyond_the_users_takes_all_of_them(ecosystem: Ecosystem) -> None:
    logs, data = ecosystem
    tasks = named(simulated_questions(data, logs, 1e6))
    assert len(tasks["car_owner"]) == len(tasks["parent"]) == USERS
    responders = pl.read_parquet(logs / "responses/travel_booking.parquet")["user_id"]
    assert len(tasks["travel_booking"]) == 4 * len(responders)


@pytest.mark.parametrize("scale", [5.0, 1e6])
def test_targeting_has_three_negatives_a_responder(ecosystem: Ecosystem, scale: float) -> None:
    logs, data = ecosystem
    for task in simulated_questions(data, logs, scale)[:2]:
        responders = set(pl.read_parquet(logs / f"responses/{task.name}.parquet")["user_id"])
        assert [user in responders for user in task.user_ids] == task.targets.astype(bool).tolist()
        assert task.targets.sum() == round(len(task) / 4)


def test_the_next_genre_is_that_of_the_first_later_purchase_with_a_known_genre(
    ecosystem: Ecosystem,
) -> None:
    logs, data = ecosystem
    task = named(simulated_questions(data, logs, 1e6))["next_genre"]
    genres = data.vocabularies.segments["long_term"]["genre"].names[2:]
    assert task.classes == tuple(genres)
    known = pl.read_parquet(logs / "future/*.parquet").filter(
        (pl.col("time") >= MIDNIGHT) & pl.col("genre").is_in(genres)
    )
    first = known.filter(pl.col("time") == pl.col("time").min().over("user_id"))
    expected = dict(first.group_by("user_id").agg("genre").iter_rows())
    assert set(task.user_ids) == set(expected)
    assert len(expected) > USERS / 3
    for user, target in zip(task.user_ids, task.targets, strict=True):
        assert task.classes[target] in expected[user]


def test_attributes_match_the_truth(ecosystem: Ecosystem) -> None:
    logs, data = ecosystem
    truth = pl.read_parquet(logs / "truth/*.parquet")
    for task in simulated_questions(data, logs, 40.0)[3:]:
        holds = dict(truth.select("user_id", task.name).iter_rows())
        assert [holds[user] for user in task.user_ids] == task.targets.astype(bool).tolist()
        assert task.targets.mean() == pytest.approx(truth[task.name].mean(), abs=0.12)


def test_the_seed_decides_which_users_are_sampled(ecosystem: Ecosystem) -> None:
    logs, data = ecosystem
    first, again, other = (
        [task.user_ids for task in simulated_questions(data, logs, 5.0, seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert all(users != other_users for users, other_users in zip(first, other, strict=True))


def test_logs_of_other_users_are_refused(ecosystem: Ecosystem, tmp_path: Path) -> None:
    logs, data = ecosystem
    for folder in ("truth", "responses"):
        (tmp_path / folder).mkdir()
    for service in ("travel_booking", "golf_booking"):
        path = f"responses/{service}.parquet"
        (tmp_path / path).write_bytes((logs / path).read_bytes())
    truth = pl.read_parquet(logs / "truth/*.parquet")
    truth.head(USERS - 1).write_parquet(tmp_path / "truth/part-00000.parquet")
    with pytest.raises(InputError, match="have different users"):
        simulated_questions(data, tmp_path)


def test_complete_journey_hides_the_same_fields_in_all_five(tmp_path: Path) -> None:
    data = prepare(Schema.parse(complete_journey.schema_text()), tmp_path / "data")
    tasks = complete_journey_questions(data)
    assert [task.name for task in tasks] == [
        "targeting_audience",
        "targeting_all",
        "next_category",
        "has_kids",
        "income_75k",
    ]
    assert {task.hide for task in tasks} == {HIDDEN["complete-journey"]}
    assert set(data.vocabularies.profile) - set(HIDDEN["complete-journey"]) == {"age"}
    assert np.mean([len(task) for task in tasks]) > 1_000
