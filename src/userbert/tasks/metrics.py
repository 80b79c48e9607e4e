"""Metrics of scores, their bootstrap intervals, and calibration.

In: targets and out-of-fold scores, one array per pretraining seed. Out: `Estimate`s with bootstrap
intervals, and calibration `Bin`s. Used by `evaluate` and the experiments.

Ranking metrics are computed inside each fold and averaged over folds: models of different folds are
calibrated differently, so their scores must not be compared. The bootstrap resamples users, not
(user, cut-off) pairs, and all models share the resamples, so that differences are paired.

Letters in shapes: B (user, cut-off) pairs, C classes, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Floats

MetricName = Literal["roc_auc", "pr_auc", "accuracy", "map_at_10"]
"""Name of a metric in report.json."""

_RESAMPLES_AT_A_TIME = 50
"""Number of resamples in a chunk; with a few thousand users, it fits in the processor's cache."""


def roc_auc(targets: NDArray[Any], scores: Floats) -> float:
    """Returns the chance that a positive scores above a negative; ties count half.

    Returns nan if there is only one class.
    """
    return float(_roc_auc(targets, scores, _unweighted(targets))[0])


def roc_auc_or_chance(targets: NDArray[Any], scores: Floats) -> float:
    """Returns the ROC-AUC, for choosing models; 0.5 if there is only one class."""
    value = roc_auc(targets, scores)
    return 0.5 if np.isnan(value) else value


def pr_auc(targets: NDArray[Any], scores: Floats) -> float:
    """Returns the average precision: the mean of the precision at each positive.

    Tied scores share one precision. Returns nan if there is no positive.
    """
    return float(_pr_auc(targets, scores, _unweighted(targets))[0])


def accuracy(targets: NDArray[Any], scores: Floats) -> float:
    """Returns the share of correct pairs: scores (B,) above 0.5, or the best class of (B, C)."""
    return float(_hits(targets, scores).mean())


def map_at_k(scores: Floats, relevant: NDArray[Any], k: int = 10) -> float:
    """Returns the mean over users of the average precision at k (paper §4.5: mAP@10)."""
    return float(average_precision_at_k(scores, relevant, k).mean())


def average_precision_at_k(scores: Floats, relevant: NDArray[Any], k: int = 10) -> Floats:
    """Returns the average precision of each user's best k classes: (B, C), (B, C) → (B,).

    The average precision is the sum of the precisions at the hits among the best k, divided by
    min(k, number of relevant classes), so a perfect ranking has 1. Users without a
    relevant class have 0. Of tied classes, the class with the smaller index ranks higher.
    """
    k = min(k, scores.shape[1])
    best = _best_k(scores, k)
    hits = np.take_along_axis(np.asarray(relevant, bool), best, axis=1)  # (B, k)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    possible = np.minimum(np.count_nonzero(relevant, axis=1), k)
    averages: Floats = (precisions * hits).sum(axis=1) / np.maximum(possible, 1)
    return averages


@dataclass(frozen=True)
class Estimate:
    """Value of a metric, and its values on bootstrap resamples of the users."""

    value: float
    """The metric on all users."""
    resampled: Floats
    """The metric on each resample (R,)."""

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return float(np.nanpercentile(self.resampled, 2.5))

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return float(np.nanpercentile(self.resampled, 97.5))

    def minus(self, other: "Estimate") -> "Estimate":
        """Returns the paired difference; both estimates must come from the same resamples."""
        return Estimate(self.value - other.value, self.resampled - other.resampled)


def resample_users(
    user_ids: Sequence[str], resamples: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """Draws resamples of the users and returns how often each pair counts in each: (R, B).

    A user is drawn with all cut-offs at once, because a user's outcomes are dependent.
    """
    _, codes = np.unique(np.asarray(user_ids), return_inverse=True)
    users = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.integers(users, size=(resamples, users))
    drawn += np.arange(resamples)[:, None] * users
    counts = np.bincount(drawn.ravel(), minlength=resamples * users)
    return counts.reshape(resamples, users)[:, codes].astype(np.float32)


def estimate(
    metric: MetricName,
    targets: NDArray[Any],
    scores: Sequence[Floats],
    folds: NDArray[np.integer[Any]],
    weights: NDArray[np.float32],
) -> Estimate:
    """Estimates a metric of out-of-fold scores, averaged over pretraining seeds.

    `scores` holds one array (B,) or (B, C) per seed; `folds` (B,) is the fold whose model scored
    each pair; `weights` (R, B) come from `resample_users`.
    """
    if metric in ("accuracy", "map_at_10"):
        per_pair = np.mean([_per_pair(metric, targets, run) for run in scores], axis=0)
        return Estimate(float(per_pair.mean()), weights @ per_pair / weights.sum(axis=1))
    ranking = _roc_auc if metric == "roc_auc" else _pr_auc
    fold_pairs = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    fold_weights = [np.vstack([_unweighted(pairs), weights[:, pairs]]) for pairs in fold_pairs]
    values = [
        ranking(targets[pairs], run[pairs], pair_weights)
        for run in scores
        for pairs, pair_weights in zip(fold_pairs, fold_weights, strict=True)
    ]
    averaged = _nan_mean(np.array(values))
    return Estimate(float(averaged[0]), averaged[1:])


def _unweighted(targets: NDArray[Any]) -> NDArray[np.float32]:
    """Returns weights (1, B) of 1."""
    return np.ones((1, len(targets)), np.float32)


def _nan_mean(values: Floats) -> Floats:
    """Returns the mean over the first axis without nan; nan where all values are nan.

    In a fold without positives or without negatives, a ranking metric is nan.
    """
    defined = ~np.isnan(values)
    counts = defined.sum(axis=0)
    total: Floats = np.where(defined, values, 0).sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _per_pair(metric: MetricName, targets: NDArray[Any], scores: Floats) -> Floats:
    """Returns the accuracy or average precision of each pair (B,)."""
    if metric == "accuracy":
        return _hits(targets, scores)
    return average_precision_at_k(scores, _as_relevant(targets, scores.shape[1]))


def _hits(targets: NDArray[Any], scores: Floats) -> Floats:
    """Returns 1 for each correct pair, else 0 (B,)."""
    predicted = scores > 0.5 if scores.ndim == 1 else scores.argmax(axis=1)
    hits: NDArray[np.bool_] = predicted == targets
    return hits.astype(np.float64)


def _as_relevant(targets: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """Converts class indices (B,) to sets (B, C); leaves sets unchanged."""
    if targets.ndim == 2:
        return targets.astype(bool)
    one_hot: NDArray[np.bool_] = targets[:, None] == np.arange(classes)
    return one_hot


def _best_k(scores: Floats, k: int) -> NDArray[np.int64]:
    """Returns the k best classes of each row (B, k), best first, ties in class order."""
    # Sorting all classes gives the same result, but 8 times slower with thousands of classes.
    border = np.partition(scores, -k, axis=1)[:, -k, None]  # (B, 1): the k-th best score
    above = scores > border
    room = k - above.sum(axis=1, keepdims=True)
    tied = scores == border
    is_best = above | (tied & (np.cumsum(tied, axis=1) <= room))
    best = np.nonzero(is_best)[1].reshape(-1, k)  # in class order
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _roc_auc(targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32]) -> Floats:
    def auc(positive: Floats, negative: Floats) -> Floats:
        below = np.cumsum(negative, axis=1) - negative / 2
        return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    return _by_threshold(targets, scores, weights, auc)


def _pr_auc(targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32]) -> Floats:
    def average_precision(positive: Floats, negative: Floats) -> Floats:
        true_positives = np.cumsum(positive[:, ::-1], axis=1)
        selected = true_positives + np.cumsum(negative[:, ::-1], axis=1)
        # Where `selected` is zero, the weight of the positives is zero, too.
        precisions = true_positives / np.maximum(selected, 1)
        return _ratio((positive[:, ::-1] * precisions).sum(axis=1), positive.sum(axis=1))

    return _by_threshold(targets, scores, weights, average_precision)


def _by_threshold(
    targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32], curve: Any
) -> Floats:
    """Returns `curve(positive, negative)` of each resample (R,).

    `positive` and `negative` hold the weights of positives and negatives by distinct score,
    ascending. `weights` are (R, B).
    """
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
    is_positive = np.asarray(targets)[order] > 0
    values = []
    for first in range(0, len(weights), _RESAMPLES_AT_A_TIME):
        chunk = weights[first : first + _RESAMPLES_AT_A_TIME, order].astype(np.float64)
        positive = np.add.reduceat(chunk * is_positive, starts, axis=1)
        values.append(curve(positive, np.add.reduceat(chunk, starts, axis=1) - positive))
    return np.concatenate(values)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Returns `numerator / denominator`; nan where the denominator is zero."""
    undefined = np.full(numerator.shape, np.nan)
    ratio: Floats = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return ratio


_MAX_BINS = 10
"""Maximum number of bins of a calibration curve."""
_USERS_PER_BIN = 50
"""Minimum number of users per bin, unless two bins would have fewer: with fewer, chance moves the
observed share more than a model's miscalibration does."""


@dataclass(frozen=True)
class Bin:
    """Users with similar scores."""

    predicted: float
    """Mean score."""
    observed: float
    """Share of positives."""
    low: float
    high: float
    """Ends of the 95 % interval of the share of positives (Wilson)."""
    users: int
    """Number of users in the bin."""


def calibration(targets: NDArray[np.int64], scores: Floats) -> list[Bin]:
    """Groups users by score (B,) into two to ten bins of equal size; equal scores share a bin.

    Ties may leave fewer or unequal bins.
    """
    from scipy.stats import binomtest  # from the extra `train`, which the metrics above do not need

    count = min(_MAX_BINS, max(2, len(scores) // _USERS_PER_BIN))
    edges = np.percentile(scores, np.linspace(0, 1, count + 1) * 100)[1:-1]
    bin_of = np.searchsorted(edges, scores)
    bins = []
    for number in np.unique(bin_of):
        members = bin_of == number
        yes, users = int(targets[members].sum()), int(members.sum())
        ci = binomtest(yes, users).proportion_ci(method="wilson")
        bins.append(
            Bin(float(scores[members].mean()), yes / users, float(ci.low), float(ci.high), users)
        )
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """Returns the expected calibration error (Naeini et al. 2015).

    The error is the distance between a bin's mean score and observed share, averaged over users.
    """
    users = sum(group.users for group in bins)
    return sum(group.users * abs(group.predicted - group.observed) for group in bins) / users
