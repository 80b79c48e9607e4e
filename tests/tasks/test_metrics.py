"""Metrics equal scikit-learn's, and intervals resample users."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from userbert.tasks.metrics import (
    Estimate,
    accuracy,
    average_precision_at_k,
    estimate,
    map_at_k,
    pr_auc,
    resample_users,
    roc_auc,
    roc_auc_or_chance,
)

binary_scores = st.lists(
    st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40
).filter(lambda pairs: 0 < sum(target for target, _ in pairs) < len(pairs))


@given(binary_scores)
def test_ranking_metrics_equal_scikit_learn_with_ties(pairs: list[tuple[bool, int]]) -> None:
    targets = np.array([target for target, _ in pairs], np.int64)
    scores = np.array([score for _, score in pairs], np.float64)
    assert roc_auc(targets, scores) == pytest.approx(roc_auc_score(targets, scores))
    assert pr_auc(targets, scores) == pytest.approx(average_precision_score(targets, scores))


def test_roc_auc_of_one_class_is_nan_or_chance() -> None:
    assert np.isnan(roc_auc(np.zeros(3), np.arange(3.0)))
    assert roc_auc_or_chance(np.zeros(3), np.arange(3.0)) == 0.5
    assert roc_auc_or_chance(np.array([0, 0, 1]), np.arange(3.0)) == 1


def test_accuracy_cuts_probabilities_at_one_half_and_takes_the_best_class() -> None:
    assert accuracy(np.array([1, 0, 1]), np.array([0.6, 0.4, 0.5])) == pytest.approx(2 / 3)
    assert accuracy(np.array([1, 0]), np.array([[0.1, 0.9], [0.2, 0.8]])) == 0.5


def test_average_precision_equals_values_computed_by_hand() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    relevant = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    # Hits at ranks 1 and 3: (1 + 2/3) / 2. A hit at rank 4, outside the best 3. Nothing relevant.
    expected = [(1 + 2 / 3) / 2, 0.0, 0.0]
    np.testing.assert_allclose(average_precision_at_k(scores, relevant, 3), expected)


def test_map_divides_by_k_if_more_than_k_classes_are_relevant() -> None:
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    assert map_at_k(scores, np.ones((1, 4), bool), k=2) == 1.0


def test_map_breaks_ties_by_the_order_of_the_classes() -> None:
    flat = np.zeros((1, 30))
    relevant = np.zeros((1, 30), bool)
    relevant[0, 2] = True
    assert map_at_k(flat, relevant, k=10) == pytest.approx(1 / 3)
    relevant[0] = np.arange(30) == 15
    assert map_at_k(flat, relevant, k=10) == 0.0


@given(st.integers(0, 10_000), st.integers(1, 15))
def test_best_k_agree_with_a_full_stable_sort(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, size=(4, 12)).astype(float)
    relevant = generator.random((4, 12)) < 0.3
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(relevant, order, axis=1)
    for user in range(4):
        precisions = [hits[user, : i + 1].mean() for i in range(hits.shape[1]) if hits[user, i]]
        possible = min(k, int(relevant[user].sum()))
        expected = sum(precisions) / possible if possible else 0.0
        assert average_precision_at_k(scores, relevant, k)[user] == pytest.approx(expected)


def test_a_resampled_metric_is_the_metric_of_the_repeated_users() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 60)
    scores = np.round(generator.random(60), 1)
    folds = np.zeros(60, np.int64)
    weights = resample_users([str(user) for user in range(60)], resamples=20, seed=1)
    auc = estimate("roc_auc", targets, [scores], folds, weights)
    precision = estimate("pr_auc", targets, [scores], folds, weights)
    for resample, counts in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(60), counts)
        assert auc.resampled[resample] == pytest.approx(
            roc_auc_score(targets[again], scores[again])
        )
        assert precision.resampled[resample] == pytest.approx(
            average_precision_score(targets[again], scores[again])
        )


def test_pairs_of_one_user_are_drawn_together() -> None:
    weights = resample_users(["a", "b", "a", "c"], resamples=50)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)


def test_scores_of_two_folds_are_never_compared() -> None:
    targets = np.array([0, 1, 0, 1])
    folds = np.array([0, 0, 1, 1])
    calibrated_apart = np.array([0.1, 0.2, 0.8, 0.9])
    weights = resample_users(list("abcd"), resamples=3)
    assert estimate("roc_auc", targets, [calibrated_apart], folds, weights).value == 1.0


def test_a_fold_that_lacks_a_class_is_left_out_of_the_mean() -> None:
    targets = np.array([0, 1, 0, 0])
    folds = np.array([0, 0, 1, 1])
    weights = resample_users(list("abcd"), resamples=5)
    assert estimate("roc_auc", targets, [np.arange(4.0)], folds, weights).value == 1.0


def test_estimates_average_over_seeds() -> None:
    targets = np.array([0, 1])
    weights = resample_users(["a", "b"], resamples=2)
    right, wrong = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert estimate("accuracy", targets, [right, wrong], np.zeros(2, int), weights).value == 0.5
    assert estimate("roc_auc", targets, [right, wrong], np.zeros(2, int), weights).value == 0.5


def test_paired_differences_are_narrower_than_their_parts() -> None:
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 2, 400)
    score = targets + generator.normal(size=400)
    other = score + 0.01 * generator.normal(size=400)
    weights = resample_users([str(user) for user in range(400)], resamples=200)
    folds = np.arange(400) % 5
    a, b = (estimate("roc_auc", targets, [scores], folds, weights) for scores in (score, other))
    difference = a.minus(b)
    assert isinstance(difference, Estimate)
    assert difference.low <= difference.value <= difference.high
    assert difference.high - difference.low < (a.high - a.low) / 5
    assert a.low < a.value < a.high


def test_the_interval_covers_the_truth_in_about_95_of_100_draws() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(100):
        hits = generator.random(200) < 0.7
        weights = resample_users(
            [str(user) for user in range(200)], 200, int(generator.integers(9))
        )
        truth = np.ones(200, int)
        accuracy = estimate("accuracy", truth, [hits.astype(float)], np.zeros(200, int), weights)
        covered += accuracy.low <= 0.7 <= accuracy.high
    assert 88 <= covered <= 99


def test_a_thousand_resamples_of_ten_models_take_about_two_seconds() -> None:
    generator = np.random.default_rng(5)
    targets = (generator.random(2400) < 0.2).astype(np.int64)
    weights = resample_users([str(user) for user in range(2400)])
    began = time.perf_counter()
    for _ in range(10):
        estimate("roc_auc", targets, [generator.random(2400)], np.arange(2400) % 5, weights)
    assert time.perf_counter() - began < 8  # generous: other tests share the cores
