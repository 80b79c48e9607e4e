"""What networks are held against, on a small ecosystem."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_ecosystem import make_ecosystem

from userbert.data.store import PreparedData
from userbert.experiments.reproduction.questions import simulated_questions
from userbert.experiments.reproduction.references import Question, refer
from userbert.tasks.aggregates import aggregates
from userbert.tasks.labels import Labels

RESAMPLES = 10


@pytest.fixture(scope="module")
def ecosystem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    return make_ecosystem(tmp_path_factory.mktemp("ecosystem"))


@pytest.fixture(scope="module")
def tasks(ecosystem: tuple[Path, PreparedData]) -> dict[str, Labels]:
    logs, data = ecosystem
    return {task.name: task for task in simulated_questions(data, logs, 33.0)}


def test_the_next_value_is_guessed_better_the_more_is_known(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    question = Question(data, tasks["next_genre"], logs, 0)
    values = {}
    for name in ("popularity", "own-popularity", "aggregates-gbm", "oracle"):
        found = refer(name, question, RESAMPLES)
        assert found is not None
        values[name] = found.estimates["map_at_10"].value
        assert found.estimates["map_at_10"].resampled.shape == (RESAMPLES,)
    assert values["popularity"] < values["own-popularity"] < values["oracle"]
    assert values["popularity"] < values["aggregates-gbm"]


def test_no_reference_knows_the_test_users_answers(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    """Scores must not move with the test labels: flipped labels give one minus the area."""
    logs, data = ecosystem
    labels = tasks["parent"]
    question = Question(data, labels, logs, 0)
    targets = labels.targets.copy()
    targets[question.test] = 1 - targets[question.test]
    flipped = Question(data, labels, logs, 0)
    flipped.labels = replace(labels, targets=targets)
    for name in ("aggregates-gbm", "one-aggregate", "oracle"):
        areas = []
        for asked in (question, flipped):
            found = refer(name, asked, RESAMPLES)
            assert found is not None
            areas.append(found.estimates["roc_auc"].value)
        assert areas[0] == pytest.approx(1 - areas[1], abs=1e-6), name


def test_the_one_aggregate_may_tell_by_being_small(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    """An answer that is the opposite of a count is told as well as one that is the count."""
    logs, data = ecosystem
    labels = tasks["parent"]
    question = Question(data, labels, logs, 0)
    counts, names = aggregates(data, question.pairs.rows, question.pairs.cutoffs)
    actions = counts[:, [names.index("long_term actions, ever")]].toarray()[:, 0]
    for targets in (actions > np.median(actions), actions <= np.median(actions)):
        many = replace(labels, targets=targets.astype(np.int64))
        found = refer("one-aggregate", Question(data, many, logs, 0), RESAMPLES)
        assert found is not None
        assert list(found.estimates) == ["roc_auc"]  # no probability, so no accuracy
        assert found.estimates["roc_auc"].value > 0.95
        assert "long_term" in str(found.by)


def test_what_has_nothing_to_say_is_left_out(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    targeting = Question(data, tasks["travel_booking"], logs, 0)
    assert refer("popularity", targeting, RESAMPLES) is None
    assert refer("one-aggregate", Question(data, tasks["next_genre"], logs, 0), RESAMPLES) is None
    assert refer("oracle", Question(data, tasks["parent"], None, 0), RESAMPLES) is None
    oracle = refer("oracle", targeting, RESAMPLES)
    assert oracle is not None
    assert list(oracle.estimates) == ["roc_auc"]  # its odds are a rank, not a probability


def test_learning_and_test_users_are_apart_and_seeds_test_each_user_once(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    labels = tasks["parent"]
    tested = []
    for seed in range(5):
        split = Question(data, labels, logs, seed).split
        assert not set(split.learning) & set(split.test)
        assert len(split.learning) + len(split.test) == len(labels)
        tested.append(split.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(labels)))
