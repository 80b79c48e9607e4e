"""How good scores are, and how sure one may be of it.

In: targets and out-of-fold scores, one array a pretraining seed. Out: `Estimate`s with their
bootstrap intervals. Used by `evaluate` and by the experiments.

Rankings are judged inside each fold and averaged over folds: the models of two folds are
calibrated apart, so their scores must not be compared. Users are resampled, not (user, cut-off)
pairs, and all models share the resamples, so that differences are paired.

Letters in shapes: B (user, cut-off) pairs, C classes, R resamples.

Calibration: whether a score of .3 means that three in ten say yes.

In: answers of yes and no, and scores that claim to be probabilities. Out: `Bin`s of users of
similar scores, and how far score and share lie apart on average. `evaluate` puts them into its
report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Floats

MetricName = Literal["roc_auc", "pr_auc", "accuracy", "map_at_10"]


_RESAMPLES_AT_A_TIME = 50
"""So many resamples of a few thousand users stay in the processor's cache."""


def roc_auc(targets: NDArray[Any], scores: Floats) -> float:
    """Chance that a positive (B,) scores above a negative, ties half; nan for one class."""
    return float(_roc_auc(targets, scores, _once(targets))[0])


def roc_auc_or_chance(targets: NDArray[Any], scores: Floats) -> float:
    """ROC-AUC, by which models are chosen; of one class, among which nothing is ranked, .5."""
    value = roc_auc(targets, scores)
    return 0.5 if np.isnan(value) else value


def pr_auc(targets: NDArray[Any], scores: Floats) -> float:
    """Average precision: the precision at each positive (B,), ties sharing theirs."""
    return float(_pr_auc(targets, scores, _once(targets))[0])


def accuracy(targets: NDArray[Any], scores: Floats) -> float:
    """Share of pairs told right: probabilities (B,) cut at one half, or the best of (B, C)."""
    return float(_hits(targets, scores).mean())


def map_at_k(scores: Floats, relevant: NDArray[Any], k: int = 10) -> float:
    """Mean over users of the average precision of the best k classes (paper §4.5: mAP@10)."""
    return float(average_precision_at_k(scores, relevant, k).mean())


def average_precision_at_k(scores: Floats, relevant: NDArray[Any], k: int = 10) -> Floats:
    """Average precision of each user's best k classes: (B, C), (B, C) → (B,).

    The sum of the precisions at the hits among the best k, over min(k, number relevant): a perfect
    ranking has 1. Users without a relevant class have 0; ties go to the class that comes first.
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
    """A metric's value and what it would have been on other users."""

    value: float
    resampled: Floats
    """(R,): the metric on each bootstrap resample of the users."""

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return float(np.nanpercentile(self.resampled, 2.5))

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return float(np.nanpercentile(self.resampled, 97.5))

    def minus(self, other: "Estimate") -> "Estimate":
        """Subtract, paired: both must come from the same resamples."""
        return Estimate(self.value - other.value, self.resampled - other.resampled)


def resample_users(
    user_ids: Sequence[str], resamples: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """How often each pair counts in each resample of the users: (R, B).

    A user with several cut-offs is drawn with all of them: their outcomes go together.
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
    """Estimate a metric of out-of-fold scores, averaged over pretraining seeds.

    `scores` has one array (B,) or (B, C) a seed; `folds` (B,) says which fold's model made each
    score; `weights` (R, B) come from `resample_users`.
    """
    if metric in ("accuracy", "map_at_10"):
        each = np.mean([_each_user(metric, targets, one) for one in scores], axis=0)
        return Estimate(float(each.mean()), weights @ each / weights.sum(axis=1))
    ranking = _roc_auc if metric == "roc_auc" else _pr_auc
    members = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    weights_of = [np.vstack([_once(mine), weights[:, mine]]) for mine in members]
    values = [
        ranking(targets[mine], one[mine], counted)
        for one in scores
        for mine, counted in zip(members, weights_of, strict=True)
    ]
    averaged = _mean_of_defined(np.array(values))
    return Estimate(float(averaged[0]), averaged[1:])


def _once(targets: NDArray[Any]) -> NDArray[np.float32]:
    return np.ones((1, len(targets)), np.float32)


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is not nan (a fold may lack a class); nan if nothing is."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis=0)
    total: Floats = np.where(defined, values, 0).sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _each_user(metric: MetricName, targets: NDArray[Any], scores: Floats) -> Floats:
    if metric == "accuracy":
        return _hits(targets, scores)
    return average_precision_at_k(scores, _as_relevant(targets, scores.shape[1]))


def _hits(targets: NDArray[Any], scores: Floats) -> Floats:
    told = scores > 0.5 if scores.ndim == 1 else scores.argmax(axis=1)
    hits: NDArray[np.bool_] = told == targets
    return hits.astype(np.float64)


def _as_relevant(targets: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """Class indices (B,) as sets (B, C); sets stay as they are."""
    if targets.ndim == 2:
        return targets.astype(bool)
    one_hot: NDArray[np.bool_] = targets[:, None] == np.arange(classes)
    return one_hot


def _best_k(scores: Floats, k: int) -> NDArray[np.int64]:
    """Pick the k best classes of each row, best first, equals in the order of the classes."""
    # A sort of all classes would do the same, eight times slower for thousands of classes.
    border = np.partition(scores, -k, axis=1)[:, -k, None]  # (B, 1): the k-th best score
    above = scores > border
    room = k - above.sum(axis=1, keepdims=True)
    tied = scores == border
    chosen = above | (tied & (np.cumsum(tied, axis=1) <= room))
    best = np.nonzero(chosen)[1].reshape(-1, k)  # in the order of the classes
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _roc_auc(targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32]) -> Floats:
    def auc(positive: Floats, negative: Floats) -> Floats:
        below = np.cumsum(negative, axis=1) - negative / 2
        return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    return _by_threshold(targets, scores, weights, auc)


def _pr_auc(targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32]) -> Floats:
    def average_precision(positive: Floats, negative: Floats) -> Floats:
        found = np.cumsum(positive[:, ::-1], axis=1)
        told = found + np.cumsum(negative[:, ::-1], axis=1)
        # A threshold that a resample drew nobody at has no positives, so its weight is zero.
        precisions = found / np.maximum(told, 1)
        return _ratio((positive[:, ::-1] * precisions).sum(axis=1), positive.sum(axis=1))

    return _by_threshold(targets, scores, weights, average_precision)


def _by_threshold(
    targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32], curve: Any
) -> Floats:
    """Apply `curve` to the weight of positives and negatives at each distinct score, rising."""
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
    is_positive = np.asarray(targets)[order] > 0
    values = []
    for first in range(0, len(weights), _RESAMPLES_AT_A_TIME):
        counted = weights[first : first + _RESAMPLES_AT_A_TIME, order].astype(np.float64)
        positive = np.add.reduceat(counted * is_positive, starts, axis=1)
        values.append(curve(positive, np.add.reduceat(counted, starts, axis=1) - positive))
    return np.concatenate(values)


def _ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, nan where it has no meaning."""
    ratio: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return ratio


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
    from scipy.stats import binomtest  # of the extra `train`; metrics do without it

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
