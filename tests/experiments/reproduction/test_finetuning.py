"""Tests of fine-tuning: metrics of the test users, and that training does not see them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_ecosystem import make_ecosystem

from userbert.data.store import PreparedData
from userbert.experiments.reproduction import finetuning
from userbert.experiments.reproduction.finetuning import (
    Epoch,
    FinetuneSettings,
    fine_tune,
    fold_of,
    user_scores,
)
from userbert.experiments.reproduction.jobs import silent_users
from userbert.experiments.reproduction.questions import HIDDEN, simulated_questions
from userbert.experiments.reproduction.recipes import RECIPES, new_encoder
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import average_precision_at_k
from userbert.tasks.task_head import TaskHead

QUICK = FinetuneSettings(learning_rate=1e-3, batch_size=32, epochs=2, resamples=5)


@pytest.fixture(scope="module")
def ecosystem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    return make_ecosystem(tmp_path_factory.mktemp("ecosystem"))


@pytest.fixture(scope="module")
def parent(ecosystem: tuple[Path, PreparedData]) -> Labels:
    logs, data = ecosystem
    return next(task for task in simulated_questions(data, logs, 17.0) if task.name == "parent")


def tuned(data: PreparedData, labels: Labels) -> list[Epoch]:
    encoder = new_encoder(RECIPES["wide-deep-mtl"], data, HIDDEN["simulated"], seed=0)
    return fine_tune(encoder, data, labels, QUICK, seed=0)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_smaller_label_share_is_a_subset_with_the_same_test_users(
    parent: Labels, first_share: float, second_share: float, seed: int
) -> None:
    (fewer, test), (more, again) = (
        fold_of(parent, seed, share)
        for share in (min(first_share, second_share), max(first_share, second_share))
    )
    assert set(fewer) <= set(more)
    assert np.array_equal(test, again)
    all_labels, _ = fold_of(parent, seed)
    assert len(more) == max(1, round(max(first_share, second_share) * len(all_labels)))


def test_test_users_labels_change_nothing_that_is_learned(
    ecosystem: tuple[Path, PreparedData], parent: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = ecosystem
    learning, test = fold_of(parent, 0)
    # Folds are stratified by label, so flipped labels would move them.
    monkeypatch.setattr(finetuning, "fold_of", lambda *_: (learning, test))
    targets = parent.targets.copy()
    targets[test] = 1 - targets[test]
    flipped = replace(parent, targets=targets)
    for before, after in zip(tuned(data, parent), tuned(data, flipped), strict=True):
        assert before.train_loss == after.train_loss
        areas = [epoch.estimates["roc_auc"].value for epoch in (before, after)]
        assert areas[0] == pytest.approx(1 - areas[1])


def test_the_same_seed_gives_the_same_epochs(
    ecosystem: tuple[Path, PreparedData], parent: Labels
) -> None:
    _, data = ecosystem
    first, again = tuned(data, parent), tuned(data, parent)
    assert len(first) == QUICK.epochs
    for before, after in zip(first, again, strict=True):
        assert before.train_loss == after.train_loss
        np.testing.assert_array_equal(
            before.estimates["roc_auc"].resampled, after.estimates["roc_auc"].resampled
        )


def test_fine_tuning_leaves_the_pretrained_encoder_as_it_was(
    ecosystem: tuple[Path, PreparedData], parent: Labels
) -> None:
    _, data = ecosystem
    encoder = new_encoder(RECIPES["lstm-mtl"], data, HIDDEN["simulated"], seed=0)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    fine_tune(encoder, data, parent, replace(QUICK, epochs=1), seed=0)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, before[name])


def test_precision_by_rank_is_the_average_precision_of_one_right_answer(parent: Labels) -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(50, 40)).astype(np.float32)
    targets = generator.integers(0, 40, 50)
    head = TaskHead(4, replace(parent, kind="multiclass", classes=tuple(map(str, range(40)))))
    relevant = targets[:, None] == np.arange(40)
    np.testing.assert_allclose(
        user_scores(torch.from_numpy(outputs), targets, head),
        average_precision_at_k(outputs, relevant, 10),
        rtol=1e-6,
    )
    # Equal scores for all classes must not count as the right answer.
    ties = user_scores(torch.zeros(50, 40), targets, head)
    np.testing.assert_allclose(ties, average_precision_at_k(np.zeros((50, 40)), relevant, 10))
    assert ties.mean() < 0.2


def test_the_test_users_of_attributes_are_silent_in_pretraining(
    ecosystem: tuple[Path, PreparedData],
) -> None:
    logs, data = ecosystem
    tasks = {task.name: task for task in simulated_questions(data, logs, 17.0)}
    expected = {
        tasks[name].user_ids[number]
        for name in ("car_owner", "parent")
        for number in fold_of(tasks[name], 1)[1]
    }
    assert set(silent_users(list(tasks.values()), 1)) == expected
