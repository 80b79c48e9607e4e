"""Calibration, compared with scikit-learn's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from userbert.tasks.metrics import calibration, calibration_error


@given(seed=st.integers(0, 2**32 - 1), users=st.integers(20, 800))
def test_bins_equal_scikit_learn(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(users)
    targets = (rng.random(users) < scores).astype(np.int64)
    bins = calibration(targets, scores)
    count = min(10, max(2, users // 50))
    observed, predicted = calibration_curve(targets, scores, n_bins=count, strategy="quantile")
    np.testing.assert_allclose([group.observed for group in bins], observed)
    np.testing.assert_allclose([group.predicted for group in bins], predicted)
    assert sum(group.users for group in bins) == users
    assert all(group.low <= group.observed <= group.high for group in bins)


def test_calibration_error_is_zero_for_exact_scores_and_the_distance_for_others() -> None:
    scores = np.repeat([0.2, 0.6], 50)
    targets = np.tile([1, 0, 0, 0, 0, 1, 1, 1, 0, 0], 10)[
        np.argsort(np.tile([0] * 5 + [1] * 5, 10), kind="stable")
    ]
    assert np.isclose(calibration_error(calibration(targets, scores)), 0)
    assert np.isclose(calibration_error(calibration(targets, scores + 0.1)), 0.1)


def test_one_score_for_all_is_one_bin() -> None:
    (group,) = calibration(np.array([0, 1, 1, 0]), np.full(4, 0.7))
    assert (group.users, group.observed) == (4, 0.5)
    assert np.isclose(group.predicted, 0.7)
