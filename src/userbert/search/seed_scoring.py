"""Scores users by their likeness to seeds, and measures the recall of held-out seeds.

In: vectors of seeds and of sampled other users, all of length 1. Out: a function from vectors to
scores, by all seeds and by the seeds without each fold; and `HeldOutCounts`, the number of held-out
seeds among the first k users. Scores of other users are counted and then dropped, so `lookalike.py`
can score any number of users.

`linear` is the default. The scorings were compared in three logs, where the seeds (20 or 100) and
the users to find next did the same thing. The first 200 of 3,000 users by `linear` held 1.6 to 3.5
times as many users to find as by chance, by `nearest` 0.8 to 2.4 and by `centroid` 1.3 to 2.1. The
mean of all vectors is far from zero, so plain cosines distinguish users less well.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Float32, Float64, Int64

ScoringName = Literal["linear", "centroid", "nearest"]
SCORING_NAMES: tuple[ScoringName, ...] = get_args(ScoringName)

_MAX_COSINES = 1 << 23
"""Maximum number of cosines with seeds in memory at once: 64 MiB."""
_PENALTY = 1.0
"""L2 penalty of the logistic regression, for the summed loss and vectors whose total variance is 1.
No other value from 0.1 to 30 was better on all logs."""
_MAX_STEPS, _TOLERANCE = 50, 1e-8
"""Maximum number of Newton steps, and the relative gain below which they stop."""


@dataclass(frozen=True, eq=False)
class SeedSample:
    """Vectors, of length 1, from which scores are learned.

    Letters in shapes: S seeds, F folds, R sampled other users, H width of a vector, B users to
    score.
    """

    seeds: Float64
    """Seeds (S, H)."""
    folds: Int64
    """Fold of each seed (S,), 0 to F - 1; all -1 if there are no folds."""
    others: Float64
    """Sampled other users (R, H)."""
    sampled_share: float
    """Share of all other users that was sampled; `linear` samples held-out seeds at this rate."""

    @property
    def fold_count(self) -> int:
        """Number of folds F."""
        return int(self.folds.max(initial=-1)) + 1


class SeedScorer(Protocol):
    """Scores users by their likeness to seeds."""

    def __call__(self, vectors: Float64) -> Float64:
        """Returns scores (B, 1 + F) of vectors (B, H) of length 1.

        Score 0 is by all seeds; score 1 + f by the seeds without fold f.
        """


def fit_seed_scorer(name: ScoringName, sample: SeedSample) -> SeedScorer:
    """Fits the named scoring to a sample."""
    if name == "nearest":
        return _NearestScorer(sample)
    return LinearScorer.linear(sample) if name == "linear" else LinearScorer.centroid(sample)


@dataclass(frozen=True, eq=False)
class LinearScorer:
    """Scores by the product with a direction, plus an offset.

    User vectors have length 1, so the users nearest to `directions[:, 0]` have the best scores:
    `Neighbours` can find them.
    """

    directions: Float64
    """(H, 1 + F): direction of each score."""
    offsets: Float64
    """(1 + F,): offset of each score."""

    @classmethod
    def centroid(cls, sample: SeedSample) -> "LinearScorer":
        """Scores by the cosine with the mean of the seeds."""
        means = np.stack(
            [sample.seeds[~is_held_out].mean(axis=0) for is_held_out in _held_out_masks(sample)],
            axis=1,
        )
        lengths = np.linalg.norm(means, axis=0)
        return cls(means / np.where(lengths > 0, lengths, 1), np.zeros(means.shape[1]))

    @classmethod
    def linear(cls, sample: SeedSample) -> "LinearScorer":
        """Scores by the log-odds of a logistic regression of seeds against other users."""
        vectors = np.concatenate([sample.seeds, sample.others])
        mean = vectors.mean(axis=0)
        scale = np.sqrt(vectors.var(axis=0).sum()) or 1.0
        seeds, others = (sample.seeds - mean) / scale, (sample.others - mean) / scale
        # The sampled others include users who belong on the list, labelled as non-seeds. Held-out
        # seeds are users of this kind, so the same share of them is added.
        is_sampled = np.random.default_rng(0).random(len(seeds)) < sample.sampled_share
        start = np.zeros(seeds.shape[1] + 1)
        fits = []
        for is_held_out in _held_out_masks(sample):
            negatives = np.concatenate([others, seeds[is_held_out & is_sampled]])
            fits.append(fit_logistic(seeds[~is_held_out], negatives, start))
            start = fits[0]
        weights = np.stack(fits, axis=1)
        directions = weights[:-1] / scale
        return cls(directions, weights[-1] - mean @ directions)

    def __call__(self, vectors: Float64) -> Float64:
        """See `SeedScorer`."""
        return vectors @ self.directions + self.offsets


@dataclass(frozen=True, eq=False)
class _NearestScorer:
    """Scores by the largest cosine with any seed."""

    sample: SeedSample

    def __call__(self, vectors: Float64) -> Float64:
        """See `SeedScorer`."""
        order = np.argsort(self.sample.folds, kind="stable")
        seeds = self.sample.seeds[order].T  # (H, S)
        starts = np.unique(self.sample.folds[order], return_index=True)[1]
        block_size = max(1, _MAX_COSINES // seeds.shape[1])
        scores = np.empty((len(vectors), 1 + self.sample.fold_count))
        for first in range(0, len(vectors), block_size):
            block = slice(first, first + block_size)
            # Largest cosine with each fold; score 0 is the largest over all folds, score 1 + f over
            # all folds but f.
            by_fold = np.maximum.reduceat(vectors[block] @ seeds, starts, axis=1)
            scores[block, 0] = by_fold.max(axis=1)
            for fold in range(self.sample.fold_count):
                scores[block, 1 + fold] = np.delete(by_fold, fold, axis=1).max(axis=1)
        return scores


def fit_logistic(seeds: Float64, others: Float64, start: Float64) -> Float64:
    """Fits a penalized logistic regression by Newton's method, starting at the weights `start`.

    `seeds` (S, H) have the label 1 and `others` (R, H) the label 0. Returns the weights (H + 1,),
    the intercept last. The objective is scikit-learn's with `C=1`.
    """
    inputs = np.concatenate([seeds, others])
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    labels = np.concatenate([np.ones(len(seeds)), np.zeros(len(others))])
    penalty = np.full(inputs.shape[1], _PENALTY)
    penalty[-1] = 0

    def loss(weights: Float64) -> float:
        logits = inputs @ weights
        return float((np.logaddexp(0, logits) - labels * logits).sum() + penalty @ weights**2 / 2)

    weights, current = start, loss(start)
    for _ in range(_MAX_STEPS):
        probabilities = 1 / (1 + np.exp(-(inputs @ weights).clip(-500, 500)))
        gradient = inputs.T @ (probabilities - labels) + penalty * weights
        variances = (probabilities * (1 - probabilities))[:, None]
        hessian = (inputs * variances).T @ inputs + np.diag(penalty)
        hessian[-1, -1] += _TOLERANCE  # all labels may be equal
        step = np.linalg.solve(hessian, gradient)
        # Line search: far from the optimum a full step may overshoot.
        length = 1.0
        while (candidate := loss(weights - length * step)) > current and length > _TOLERANCE:
            length /= 2
        if candidate >= current:
            break
        gain, weights, current = current - candidate, weights - length * step, candidate
        if gain < _TOLERANCE * max(1.0, current):
            break
    return weights


def _held_out_masks(sample: SeedSample) -> list[NDArray[np.bool_]]:
    """Returns masks (S,) of the held-out seeds: none of them, then each fold."""
    none = np.zeros(len(sample.seeds), bool)
    return [none, *(sample.folds == fold for fold in range(sample.fold_count))]


@dataclass(frozen=True)
class HeldOutCounts:
    """Counts of held-out seeds on lists of k users, one list per held-out fold."""

    way: ScoringName
    """Name of the scoring."""
    seeds: int
    """Number of held-out seeds, over all folds."""
    found: float
    """Number of held-out seeds on the lists; of users with equal scores, a proportional share."""
    by_chance: float
    """Expected number of held-out seeds on random lists of k users."""

    @property
    def lift(self) -> float:
        """Ratio of `found` to `by_chance`."""
        return self.found / self.by_chance


class HeldOutRanking:
    """A fitted scoring, and the rank of each held-out seed among the seeds of its fold and users.

    `add` counts more users.
    """

    def __init__(self, name: ScoringName, sample: SeedSample) -> None:
        self.name = name
        self.score: SeedScorer = fit_seed_scorer(name, sample)
        self._folds = sample.folds
        # Rounded to float32, as in lists: in float64, equal vectors may get scores that differ by
        # rounding, depending on the size of their block.
        scores = self.score(sample.seeds).astype(np.float32)
        rows = np.arange(len(scores))
        self._seed_scores = scores[rows, self._folds + 1]
        """(S,): score of each seed by the seeds of other folds."""
        self._higher = np.zeros(len(scores), np.int64)
        """(S,): number of users with a higher score than each seed."""
        self._equal = np.zeros(len(scores), np.int64)
        """(S,): number of other users with a score equal to that of each seed."""
        self._fold_count = sample.fold_count
        for fold in range(self._fold_count):
            self._count(fold, scores[self._folds == fold, 1 + fold])
        self._equal -= 1  # the seed itself

    def add(self, scores: Float32) -> None:
        """Counts users whose scores (B, 1 + F) are above or equal to those of held-out seeds."""
        for fold in range(self._fold_count):
            self._count(fold, scores[:, 1 + fold])

    def _count(self, fold: int, scores: Float32) -> None:
        seeds = np.flatnonzero(self._folds == fold)
        ordered = np.sort(scores)
        ends = np.searchsorted(ordered, self._seed_scores[seeds], "right")
        self._higher[seeds] += len(ordered) - ends
        self._equal[seeds] += ends - np.searchsorted(ordered, self._seed_scores[seeds], "left")

    def recall(self, k: int, others: int) -> HeldOutCounts:
        """Counts held-out seeds among the first k of `others` users and the seeds of their fold.

        `others` is the number of users that were added.
        """
        shares = ((k - self._higher) / (1 + self._equal)).clip(0, 1)
        fold_sizes = np.bincount(self._folds)
        candidate_counts = others + fold_sizes
        expected = np.minimum(1, k / candidate_counts) * fold_sizes
        by_chance = float(expected.sum())
        return HeldOutCounts(self.name, len(self._folds), float(shares.sum()), by_chance)
