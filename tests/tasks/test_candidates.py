"""Models of next-value tasks learn what users do, and read no test labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge

from handmade import instant, make_data
from userbert.tasks import candidates
from userbert.tasks.blending import Scored
from userbert.tasks.candidates import OwnHistory, own_history
from userbert.tasks.metrics import map_at_k
from userbert.tasks.splits import Split

PAIRS, VALUES = 300, 40
_random = np.random.default_rng(0)
_words = _random.poisson(_random.gamma(0.3, 2.0, size=(PAIRS, VALUES))).astype(np.float32)
TARGETS = _random.random((PAIRS, VALUES)) < np.minimum(_words / 10, 0.9)
TARGETS[:, :3] |= _random.random((PAIRS, 3)) < 0.3
VECTORS = (_words @ _random.normal(size=(VALUES, 16))).astype(np.float32)
SPLIT = Split((np.arange(160, 200), np.arange(160)), np.arange(200, PAIRS))
HISTORY = OwnHistory(
    {window: sparse.csr_matrix(_words) for window in ("7d", "ever")},
    {days: sparse.csr_matrix(_words / 2) for days in (30, 90)},
    sparse.csr_matrix((_words > 0).astype(np.float32)),
)
COUNTS = sparse.csr_matrix(_words)


def _frozen_trees(targets: NDArray[np.bool_]) -> Scored:
    ridge_scores = candidates.cross_fitted_ridge(VECTORS, targets, SPLIT, PAIRS)
    return candidates.candidate_gbm(None, ridge_scores, HISTORY.popularity, targets, SPLIT)


def _fused_trees(targets: NDArray[np.bool_]) -> Scored:
    ridge_scores = candidates.cross_fitted_ridge(VECTORS, targets, SPLIT, PAIRS)
    return candidates.candidate_gbm(HISTORY, ridge_scores, HISTORY.popularity, targets, SPLIT)


MODELS: dict[str, Callable[[NDArray[np.bool_]], Scored]] = {
    "popular": lambda targets: candidates.popular(targets, SPLIT),
    "own": lambda targets: candidates.own_popular(HISTORY, targets, SPLIT),
    "ridge of counts": lambda targets: candidates.ridge(COUNTS, None, targets, SPLIT),
    "ridge of vectors": lambda targets: candidates.ridge(None, VECTORS, targets, SPLIT),
    "trees of counts": lambda targets: candidates.candidate_gbm(
        HISTORY, None, HISTORY.popularity, targets, SPLIT
    ),
    "trees of vectors": _frozen_trees,
    "trees of both": _fused_trees,
}


def test_own_popularity_chooses_the_half_life_and_the_prior_by_validation() -> None:
    # All bought apples and bread long ago, and each lately the next value; then: all buy dates.
    targets = np.eye(4, dtype=bool)[np.arange(60) % 2]
    old = sparse.csr_matrix(np.tile([2.0, 2.0, 0, 0], (60, 1)))
    late = sparse.csr_matrix(np.tile([0.5, 0.5, 0, 0], (60, 1)) + targets)
    split = Split((np.arange(20, 40), np.arange(20)), np.arange(40, 60))
    recency = old
    for fading, value in (({90: old, 30: late}, 1.0), ({90: old, 30: old}, 0.75)):
        scored = candidates.own_popular(OwnHistory({"ever": old}, fading, recency), targets, split)
        assert scored.validation == value
        assert map_at_k(scored.scores, targets[split.test]) == value
    dates = np.eye(4, dtype=bool)[np.full(60, 3)]
    scored = candidates.own_popular(OwnHistory({"ever": old}, {}, recency), dates, split)
    assert scored.validation == map_at_k(scored.scores, dates[split.test]) == 1


@pytest.mark.parametrize("name", MODELS)
def test_test_labels_change_no_score(name: str) -> None:
    swapped = TARGETS.copy()
    swapped[SPLIT.test] = ~swapped[SPLIT.test]
    scored, again = MODELS[name](TARGETS), MODELS[name](swapped)
    np.testing.assert_array_equal(scored.scores, again.scores)
    assert scored.scores.shape == (len(SPLIT.test), VALUES)


@pytest.mark.parametrize("name", ["own", "trees of counts", "trees of both", "ridge of vectors"])
def test_models_of_the_user_beat_popularity(name: str) -> None:
    test = TARGETS[SPLIT.test]
    popular = map_at_k(MODELS["popular"](TARGETS).scores, test)
    assert map_at_k(MODELS[name](TARGETS).scores, test) > popular + 0.05


def test_ridge_equals_scikit_learn() -> None:
    ours = candidates._ridge(VECTORS - VECTORS.mean(axis=0), TARGETS, [10.0])[0]
    theirs = Ridge(alpha=10.0).fit(VECTORS - VECTORS.mean(axis=0), TARGETS.astype(float))
    np.testing.assert_allclose(ours.weights.T, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-4)


def test_history_dates_each_value_by_its_last_occurrence_before_the_cutoff(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [
            ("ann", "2020-01-01T12:00", "click", "apple", None),
            ("ann", "2020-01-05T12:00", "click", "apple", None),
            ("ann", "2020-01-06T12:00", "click", "bread", None),
            ("ann", "2020-01-10T12:00", "click", "cheese", None),  # at the cut-off
            ("bob", "2020-01-09T12:00", "click", "date", None),
        ],
    )
    rows = data.rows_of(["bob", "ann"])
    history = own_history(
        data, ("short_term", "genre"), rows, np.full(2, instant("2020-01-10T12:00"))
    )
    # Days since, plus one: nothing stored means never.
    np.testing.assert_allclose(history.recency.toarray(), [[0, 0, 0, 2], [6, 5, 0, 0]])
    np.testing.assert_array_equal(history.words["7d"].toarray(), [[0, 0, 0, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(history.words["ever"].toarray(), [[0, 0, 0, 1], [2, 1, 0, 0]])
    assert (history.popularity < 1).all()
