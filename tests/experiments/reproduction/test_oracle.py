"""Tests of the oracle, which knows the generating process and beats the baselines."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from small_ecosystem import make_ecosystem

from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.experiments.reproduction.oracle import oracle_scores
from userbert.experiments.reproduction.questions import simulated_questions
from userbert.folders import read_json
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import roc_auc
from userbert.tasks.popularity import words_with_each_value


@pytest.fixture(scope="module")
def ecosystem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    return make_ecosystem(tmp_path_factory.mktemp("ecosystem"))


@pytest.fixture(scope="module")
def tasks(ecosystem: tuple[Path, PreparedData]) -> dict[str, Labels]:
    logs, data = ecosystem
    return {task.name: task for task in simulated_questions(data, logs)}


def mean_precision(ranked: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
    """Returns mAP@10 for one right class per user: the mean of 1 / rank."""
    return float(((ranked == targets[:, None]) / np.arange(1, ranked.shape[1] + 1)).sum(1).mean())


def test_targeting_is_scored_by_the_log_odds_of_a_response(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    truth = pl.read_parquet(logs / "truth/*.parquet")
    travel = -4.6 + pl.col("traveller") * 1.8 + pl.col("investor") * 0.4 - pl.col("parent") * 0.3
    golf = -5.2 + pl.col("golfer") * 3.0 + (pl.col("car_owner") + pl.col("investor")) * 0.4
    for name, odds in (("travel_booking", travel), ("golf_booking", golf)):
        task = tasks[name]
        expected = dict(truth.select("user_id", odds).iter_rows())
        scores = oracle_scores(task, logs, data)
        np.testing.assert_allclose(scores, [expected[user] for user in task.user_ids])
        assert roc_auc(task.targets, scores) > 0.6


def test_attributes_are_scored_by_the_profile_alone(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    task = tasks["car_owner"]
    scores = oracle_scores(task, logs, data)
    profiles = {row["user_id"]: row for row in pl.read_parquet(logs / "profiles").to_dicts()}
    for user, score in zip(task.user_ids, scores, strict=True):
        profile = profiles[user]
        odds = -0.6 + 0.9 * np.exp(-0.5 * ((profile["age"] - 50) / 12) ** 2)
        odds -= 0.4 * (profile["gender"] == "female")
        odds += 0.8 * (int(profile["region"][-2:]) >= 8)
        assert score == pytest.approx(odds)
    assert 0.6 < roc_auc(task.targets, scores) < 0.7


def test_next_genres_are_ranked_better_than_popularity_and_own_popularity_do(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    task = tasks["next_genre"]
    ranked = oracle_scores(task, logs, data)
    assert ranked.shape == (len(task), 10)
    assert all(len(set(row)) == 10 for row in ranked.tolist())
    assert ranked.min() >= 0
    assert ranked.max() < len(task.classes)
    assert task.attribute is not None
    bought = words_with_each_value(
        data, task.attribute, data.rows_of(task.user_ids), task.cutoffs
    ).toarray()
    total = bought.sum(axis=0)
    own = np.argsort(-(bought + total / (total.sum() + 1)), axis=1, kind="stable")[:, :10]
    popular = np.tile(np.argsort(-total, kind="stable")[:10], (len(task), 1))
    of_oracle, of_own, of_all = (
        mean_precision(best, task.targets) for best in (ranked, own, popular)
    )
    assert of_oracle > of_own + 0.05 > of_all + 0.1


def test_next_genres_follow_the_truth(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels], tmp_path: Path
) -> None:
    logs, data = ecosystem
    task = tasks["next_genre"].take(np.arange(50))
    rare = len(task.classes) - 1
    assert not (oracle_scores(task, logs, data) == rare).any()
    other = tmp_path / "other"
    (other / "truth").mkdir(parents=True)
    (other / "summary.json").write_bytes((logs / "summary.json").read_bytes())
    favourites = [
        pl.lit(task.classes[rare]).alias(f"favourite_genre_{place}") for place in (1, 2, 3)
    ]
    truth = pl.read_parquet(logs / "truth/*.parquet").with_columns(favourites)
    truth.write_parquet(other / "truth/part-00000.parquet")
    # Favourite genres are a quarter of purchases, a little less than a first favourite shop.
    assert (oracle_scores(task, other, data)[:, :2] == rare).any(axis=1).all()


def test_scores_are_in_the_order_of_the_task(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    for task in tasks.values():
        forward = task.take(np.arange(40))
        backward = forward.take(np.arange(40)[::-1])
        np.testing.assert_array_equal(
            oracle_scores(backward, logs, data)[::-1], oracle_scores(forward, logs, data)
        )


def test_a_folder_of_other_users_is_refused(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels], tmp_path: Path
) -> None:
    logs, data = ecosystem
    assert read_json(logs / "summary.json")["users"] == len(data)
    (tmp_path / "truth").mkdir()
    (tmp_path / "summary.json").write_bytes((logs / "summary.json").read_bytes())
    truth = pl.read_parquet(logs / "truth/*.parquet").head(10)
    truth.write_parquet(tmp_path / "truth/part-00000.parquet")
    with pytest.raises(InputError, match="does not hold 128 of the 128 users of task golf_booking"):
        oracle_scores(tasks["golf_booking"], tmp_path, data)
