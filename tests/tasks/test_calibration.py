"""Calibration, beside scikit-learn's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from userbert.tasks.metrics import calibration, calibration_error


@given(seed=st.integers(0, 2**32 - 1), users=st.integers(20, 800))
def test_bins_are_those_of_scikit_learn(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(users)
    targets = (rng.random(users) < scores).astype(np.int64)
    found = calibration(targets, scores)
    bins = min(10, max(2, users // 50))
    observed, predicted = calibration_curve(targets, scores, n_bins=bins, strategy="quantile")
    np.testing.assert_allclose([one.observed for one in found], observed)
    np.testing.assert_allclose([one.predicted for one in found], predicted)
    assert sum(one.users for one in found) == users
    assert all(one.low <= one.observed <= one.high for one in found)


def test_scores_that_are_right_have_no_error_and_others_their_distance() -> None:
    scores = np.repeat([0.2, 0.6], 50)
    targets = np.tile([1, 0, 0, 0, 0, 1, 1, 1, 0, 0], 10)[
        np.argsort(np.tile([0] * 5 + [1] * 5, 10), kind="stable")
    ]
    assert np.isclose(calibration_error(calibration(targets, scores)), 0)
    assert np.isclose(calibration_error(calibration(targets, scores + 0.1)), 0.1)


def test_one_score_for_all_is_one_bin() -> None:
    (only,) = calibration(np.array([0, 1, 1, 0]), np.full(4, 0.7))
    assert (only.users, only.observed) == (4, 0.5)
    assert np.isclose(only.predicted, 0.7)
