"""Tests of the reference scores, on a small ecosystem."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_ecosystem import make_ecosystem

from userbert.data.store import PreparedData
from userbert.experiments.reproduction.questions import simulated_questions
from userbert.experiments.reproduction.references import ReferenceTask, evaluate_reference
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


def test_the_next_value_is_predicted_better_with_more_knowledge(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    task = ReferenceTask(data, tasks["next_genre"], logs, 0)
    values = {}
    for name in ("popularity", "own-popularity", "aggregates-gbm", "oracle"):
        result = evaluate_reference(name, task, RESAMPLES)
        assert result is not None
        values[name] = result.estimates["map_at_10"].value
        assert result.estimates["map_at_10"].resampled.shape == (RESAMPLES,)
    assert values["popularity"] < values["own-popularity"] < values["oracle"]
    assert values["popularity"] < values["aggregates-gbm"]


def test_no_reference_knows_the_test_users_answers(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    """Scores must not depend on the test labels: flipped labels give 1 - ROC-AUC."""
    logs, data = ecosystem
    labels = tasks["parent"]
    task = ReferenceTask(data, labels, logs, 0)
    targets = labels.targets.copy()
    targets[task.test] = 1 - targets[task.test]
    flipped = ReferenceTask(data, labels, logs, 0)
    flipped.labels = replace(labels, targets=targets)
    for name in ("aggregates-gbm", "one-aggregate", "oracle"):
        areas = []
        for variant in (task, flipped):
            result = evaluate_reference(name, variant, RESAMPLES)
            assert result is not None
            areas.append(result.estimates["roc_auc"].value)
        assert areas[0] == pytest.approx(1 - areas[1], abs=1e-6), name


def test_the_best_aggregate_may_predict_by_low_values(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    """A label that falls with a count is predicted as well as one that rises with it."""
    logs, data = ecosystem
    labels = tasks["parent"]
    task = ReferenceTask(data, labels, logs, 0)
    counts, names = aggregates(data, task.pairs.rows, task.pairs.cutoffs)
    actions = counts[:, [names.index("long_term actions, ever")]].toarray()[:, 0]
    for targets in (actions > np.median(actions), actions <= np.median(actions)):
        replaced = replace(labels, targets=targets.astype(np.int64))
        result = evaluate_reference(
            "one-aggregate", ReferenceTask(data, replaced, logs, 0), RESAMPLES
        )
        assert result is not None
        assert list(result.estimates) == ["roc_auc"]  # no probability, so no accuracy
        assert result.estimates["roc_auc"].value > 0.95
        assert "long_term" in str(result.column)


def test_references_skip_tasks_that_they_do_not_apply_to(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    targeting = ReferenceTask(data, tasks["travel_booking"], logs, 0)
    assert evaluate_reference("popularity", targeting, RESAMPLES) is None
    assert (
        evaluate_reference(
            "one-aggregate", ReferenceTask(data, tasks["next_genre"], logs, 0), RESAMPLES
        )
        is None
    )
    assert (
        evaluate_reference("oracle", ReferenceTask(data, tasks["parent"], None, 0), RESAMPLES)
        is None
    )
    oracle = evaluate_reference("oracle", targeting, RESAMPLES)
    assert oracle is not None
    assert list(oracle.estimates) == ["roc_auc"]  # its odds are a rank, not a probability


def test_learning_and_test_users_are_apart_and_seeds_test_each_user_once(
    ecosystem: tuple[Path, PreparedData], tasks: dict[str, Labels]
) -> None:
    logs, data = ecosystem
    labels = tasks["parent"]
    tested = []
    for seed in range(5):
        split = ReferenceTask(data, labels, logs, seed).split
        assert not set(split.learning) & set(split.test)
        assert len(split.learning) + len(split.test) == len(labels)
        tested.append(split.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(labels)))
