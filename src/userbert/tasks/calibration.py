"""Calibration: whether a score of .3 means that three in ten say yes.

In: answers of yes and no, and scores that claim to be probabilities. Out: `Bin`s of users of
similar scores, and how far score and share lie apart on average. `evaluate` puts them into its
report.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from userbert.tasks.metrics import Floats

_MOST_BINS = 10
_USERS_OF_A_BIN = 50
"""Of fewer, the share of yes is off by more than models are."""


@dataclass(frozen=True)
class Bin:
    """Users of similar scores."""

    predicted: float
    """Their mean score."""
    observed: float
    """The share of them whose answer is yes."""
    low: float
    high: float
    """The 95 % interval of that share (Wilson's)."""
    users: int


def calibration(targets: NDArray[np.int64], scores: Floats) -> list[Bin]:
    """Sort users by score (B,) into at most ten equal bins; equal scores stay together."""
    bins = min(_MOST_BINS, max(2, len(scores) // _USERS_OF_A_BIN))
    inner = np.percentile(scores, np.linspace(0, 1, bins + 1) * 100)[1:-1]
    place = np.searchsorted(inner, scores)
    found = []
    for number in np.unique(place):
        mine = place == number
        yes, users = int(targets[mine].sum()), int(mine.sum())
        ends = binomtest(yes, users).proportion_ci(method="wilson")
        found.append(
            Bin(float(scores[mine].mean()), yes / users, float(ends.low), float(ends.high), users)
        )
    return found


def calibration_error(bins: list[Bin]) -> float:
    """The mean distance of score and share over users (Naeini et al. 2015)."""
    users = sum(one.users for one in bins)
    return sum(one.users * abs(one.predicted - one.observed) for one in bins) / users
