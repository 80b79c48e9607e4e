"""Regressions and trees of binary tasks find the signal, and read no test labels."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, logit

from userbert.tasks.blending import Scored, blend, trust
from userbert.tasks.metrics import roc_auc
from userbert.tasks.popularity import base_rate
from userbert.tasks.regression import SHARES, Regression, Scales, _blend_factors, linear
from userbert.tasks.splits import Split
from userbert.tasks.trees import FORESTS, Trees, gbm, learn_gbm, with_timing

PAIRS = 400
_random = np.random.default_rng(0)
TARGETS = (_random.random(PAIRS) < 0.4).astype(np.int64)
COUNTS = sparse.csr_matrix(
    _random.poisson(np.where(TARGETS[:, None] & (np.arange(30) < 5), 2.0, 0.5)).astype(np.float32)
)
VECTORS = (_random.normal(size=(PAIRS, 8)) + TARGETS[:, None] * 0.7).astype(np.float32)
PARTS = (np.arange(200, 280), *np.split(np.arange(200), 4))
SPLIT = Split(PARTS, np.arange(280, PAIRS))

Model = Callable[[np.ndarray], Scored]
MODELS: dict[str, Model] = {
    "counts, linear": lambda targets: linear(COUNTS, None, targets, SPLIT),
    "vectors, linear": lambda targets: linear(None, VECTORS, targets, SPLIT),
    "both, linear": lambda targets: linear(COUNTS, VECTORS, targets, SPLIT),
    "counts, trees": lambda targets: gbm(COUNTS, targets, SPLIT),
    "vectors, trees": lambda targets: gbm(sparse.csr_matrix(VECTORS), targets, SPLIT),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_find_the_signal_and_give_probabilities(name: str) -> None:
    scored = MODELS[name](TARGETS)
    assert scored.scores.shape == (len(SPLIT.test),)
    assert ((scored.scores >= 0) & (scored.scores <= 1)).all()
    assert roc_auc(TARGETS[SPLIT.test], scored.scores) > 0.8
    assert scored.validation > 0.8


@pytest.mark.parametrize("name", MODELS)
def test_test_labels_change_no_score(name: str) -> None:
    swapped = TARGETS.copy()
    swapped[SPLIT.test] = 1 - swapped[SPLIT.test]
    scored, again = MODELS[name](TARGETS), MODELS[name](swapped)
    np.testing.assert_array_equal(scored.scores, again.scores)
    assert scored.validation == again.validation


def test_the_base_rate_comes_from_the_training_pairs() -> None:
    scored = base_rate(TARGETS, SPLIT)
    assert set(scored.scores) == {TARGETS[:280].mean()}


def test_designs_join_vectors_with_all_columns_or_their_leading_directions() -> None:
    scales = Scales.of(COUNTS, VECTORS, SPLIT.train)
    full, leading = (
        scales.design(COUNTS, VECTORS, is_leading=is_leading) for is_leading in (False, True)
    )
    assert sparse.issparse(full)
    assert full.shape == (PAIRS, 30 + 8)
    assert leading.shape == (PAIRS, 30 - 1 + 8)
    np.testing.assert_allclose(full[:, 30:].toarray(), leading[:, -8:], atol=1e-6)
    alone = Scales.of(COUNTS, None, SPLIT.train).design(COUNTS, None, is_leading=False)
    np.testing.assert_allclose(full[:, :30].toarray(), alone.toarray())


def test_share_scales_all_columns_of_vectors_except_the_timing() -> None:
    scales = Scales.of(None, VECTORS, SPLIT.train)
    wide = scales.design(None, VECTORS, is_leading=False)
    for share in SHARES:
        narrow = scales.with_share(share, 3).design(None, VECTORS, is_leading=False)
        np.testing.assert_allclose(narrow[:, :-3], share * wide[:, :-3], atol=1e-6)
        np.testing.assert_array_equal(narrow[:, -3:], wide[:, -3:])


def test_the_mean_of_two_regressions_is_their_blend() -> None:
    scales, generator = Scales.of(None, VECTORS, SPLIT.train), np.random.default_rng(1)
    regressions = [
        Regression(
            scales.with_share(share, 3), False, generator.normal(size=VECTORS.shape[1]), share
        )
        for share in (1.0, 0.1)
    ]
    scores = [regression.scores(None, VECTORS) for regression in regressions]
    mean = regressions[0].plus(regressions[1], *_blend_factors([[part] for part in scores]))
    np.testing.assert_allclose(mean.scores(None, VECTORS), blend(scores), atol=1e-4)


def test_with_few_labels_the_other_columns_do_not_drown_out_the_timing() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(PAIRS, 200)).astype(np.float32)
    targets = (vectors[:, -1] + 0.3 * generator.normal(size=PAIRS) > 0).astype(int)
    few = Split((np.arange(12), *np.split(np.arange(12, 60), 4)), SPLIT.test)
    plain, timed = (
        roc_auc(targets[few.test], linear(None, vectors, targets, few, timing).scores)
        for timing in (0, 1)
    )
    assert timed > plain + 0.1


def test_a_blend_is_the_mean_of_standardised_log_odds() -> None:
    one, sure = expit(np.array([-2.0, 0.0, 2.0])), expit(np.array([6.0, 0.0, -6.0]))
    np.testing.assert_allclose(blend([one, one]), one)
    # Both are scaled to the average deviation, so that the sure one does not outweigh the other.
    np.testing.assert_allclose(blend([one, sure]), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(logit(blend([one, 1 - sure])), [-4, 0, 4], atol=1e-5)
    same = np.full(3, expit(1.0))
    np.testing.assert_allclose(logit(blend([one, same])), [-0.5, 0.5, 1.5])
    np.testing.assert_allclose(blend([same]), same)


def test_a_weak_model_gets_a_small_weight() -> None:
    sure = trust([0.8, 0.8, 0.6], judges=10_000)
    assert sure[0] == sure[1]
    assert sure[2] < 0.05
    assert sum(sure) == pytest.approx(1)
    doubtful = trust([0.8, 0.8, 0.6], judges=2)
    assert doubtful[2] > 0.2
    np.testing.assert_allclose(trust([0.7, 0.7], judges=3), 0.5)
    one, other = expit(np.array([-1.0, 0.0, 1.0])), expit(np.array([1.0, 0.0, -1.0]))
    np.testing.assert_allclose(blend([one, other], [1.0, 0.0]), one)


def test_vectors_of_noise_hardly_harm_a_regression_on_counts() -> None:
    noise = np.random.default_rng(1).normal(size=(PAIRS, 300)).astype(np.float32)
    alone = linear(COUNTS, None, TARGETS, SPLIT)
    noisy = linear(COUNTS, noise, TARGETS, SPLIT)
    alone_auc, noisy_auc = (
        roc_auc(TARGETS[SPLIT.test], scored.scores) for scored in (alone, noisy)
    )
    assert noisy_auc > alone_auc - 0.02


@pytest.mark.parametrize("timing", [0, 3])
def test_trees_read_only_the_timing_of_vectors(timing: int) -> None:
    columns = with_timing(COUNTS, VECTORS, timing).toarray()
    assert np.array_equal(columns[:, :30], COUNTS.toarray())
    assert np.array_equal(columns[:, 30:], VECTORS[:, 8 - timing :])


def test_with_few_labels_several_forests_are_averaged() -> None:
    trees, value, held = learn_gbm(COUNTS, TARGETS, SPLIT)
    assert len(trees.boosters) == FORESTS
    scores = [np.asarray(booster.predict(COUNTS)) for booster in trees.boosters]
    assert not np.allclose(scores[0], scores[1])
    assert np.allclose(trees.scores(COUNTS), np.mean(scores, axis=0))
    assert value == roc_auc(TARGETS[SPLIT.validation], held)


def test_with_many_labels_one_forest_is_fitted() -> None:
    split = replace(SPLIT, many_pairs=len(SPLIT.train))
    trees, *_ = learn_gbm(COUNTS, TARGETS, split)
    assert len(trees.boosters) == 1


def test_trees_survive_saving() -> None:
    trees, *_ = learn_gbm(COUNTS, TARGETS, SPLIT)
    again = Trees.from_text(trees.to_text())
    assert len(again.boosters) == len(trees.boosters)
    assert np.array_equal(again.scores(COUNTS), trees.scores(COUNTS))
