"""Ways to say how like some users, the seeds, another user is.

In: vectors of seeds, and of a sample of everybody else, all of length 1. Out: a function from
vectors to scores: of all seeds, and of the seeds without each fold of them, so that those of the
fold can be looked for. `lookalike.py` makes lists by it.

The default is `linear`: of what three logs' users did next, its first 200 of 3,000 users held 1.6
to 3.5 times as many as chance (of 20 and of 100 seeds), `nearest` .8 to 2.4, `centroid` 1.3 to 2.1.
The mean of all vectors is far from zero, and so cosines tell less than they could.

How many of the seeds that a list was made without are in it.

In: a way, its sample of seeds in folds, and the scores of everybody else as they are made. Out: of
how many seeds the first k hold, beside chance. No score is kept but those of the seeds, so that
`lookalike.py` can ask it of any number of users.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Float32, Float64, Int64

Way = Literal["linear", "centroid", "nearest"]
WAYS: tuple[Way, ...] = get_args(Way)


_AT_A_TIME = 1 << 23
"""Cosines with seeds that are in memory together."""
_PENALTY = 1.0
"""Of squared weights, beside the summed loss, where vectors have a variance of 1 in all. Of .1 to
30 none found most everywhere."""
_MOST_STEPS, _SMALL = 50, 1e-8


@dataclass(frozen=True, eq=False)
class Sample:
    """Those who are learned from, at length 1."""

    seeds: Float64
    """(S, H)"""
    folds: Int64
    """(S,): the fold of each seed, 0 to F - 1; F may be 0, then none is ever left out."""
    rest: Float64
    """(R, H): others."""
    share: float
    """Of all others who are among the rest: so many of the seeds that are left out are, too."""

    @property
    def number(self) -> int:
        """F: how many folds there are."""
        return int(self.folds.max(initial=-1)) + 1


class Likeness(Protocol):
    """Scores by seeds."""

    def __call__(self, units: Float64) -> Float64:
        """Scores (B, 1 + F) of vectors (B, H): by all seeds, then without those of each fold."""


def likeness(way: Way, sample: Sample) -> Likeness:
    """Learn from seeds what is like them."""
    if way == "nearest":
        return _Nearest(sample)
    return Directions.linear(sample) if way == "linear" else Directions.centroid(sample)


@dataclass(frozen=True, eq=False)
class Directions:
    """Products with a vector, and a number beside.

    As users' vectors have length 1, the nearest to `directions[:, 0]` are those of the best scores:
    that is how `Neighbours` finds look-alikes.
    """

    directions: Float64
    """(H, 1 + F)"""
    offsets: Float64
    """(1 + F,)"""

    @classmethod
    def centroid(cls, sample: Sample) -> "Directions":
        """The cosine with the mean of the seeds."""
        means = np.stack(
            [sample.seeds[~is_out].mean(axis=0) for is_out in _left_out(sample)], axis=1
        )
        lengths = np.linalg.norm(means, axis=0)
        return cls(means / np.where(lengths > 0, lengths, 1), np.zeros(means.shape[1]))

    @classmethod
    def linear(cls, sample: Sample) -> "Directions":
        """Log odds of being a seed and not one of the sampled rest, by a logistic regression."""
        everybody = np.concatenate([sample.seeds, sample.rest])
        middle = everybody.mean(axis=0)
        scale = np.sqrt(everybody.var(axis=0).sum()) or 1.0
        seeds, rest = (sample.seeds - middle) / scale, (sample.rest - middle) / scale
        # Users of the list are among the rest, as if they were no seeds; so are those left out.
        is_rest = np.random.default_rng(0).random(len(seeds)) < sample.share
        start = np.zeros(seeds.shape[1] + 1)
        weights = []
        for is_out in _left_out(sample):
            others = np.concatenate([rest, seeds[is_out & is_rest]])
            weights.append(logistic(seeds[~is_out], others, start))
            start = weights[0]
        found = np.stack(weights, axis=1)
        directions = found[:-1] / scale
        return cls(directions, found[-1] - middle @ directions)

    def __call__(self, units: Float64) -> Float64:
        """See `Likeness`."""
        return units @ self.directions + self.offsets


@dataclass(frozen=True, eq=False)
class _Nearest:
    """The largest cosine with any seed."""

    sample: Sample

    def __call__(self, units: Float64) -> Float64:
        """See `Likeness`."""
        order = np.argsort(self.sample.folds, kind="stable")
        seeds = self.sample.seeds[order].T  # (H, S)
        starts = np.unique(self.sample.folds[order], return_index=True)[1]
        at_once = max(1, _AT_A_TIME // seeds.shape[1])
        scores = np.empty((len(units), 1 + self.sample.number))
        for first in range(0, len(units), at_once):
            some = slice(first, first + at_once)
            # The largest of each fold, and of all folds but one.
            of_folds = np.maximum.reduceat(units[some] @ seeds, starts, axis=1)
            scores[some, 0] = of_folds.max(axis=1)
            for fold in range(self.sample.number):
                scores[some, 1 + fold] = np.delete(of_folds, fold, axis=1).max(axis=1)
        return scores


def logistic(seeds: Float64, rest: Float64, start: Float64) -> Float64:
    """Weights (H + 1,), the offset last, of a penalized logistic regression, by Newton's steps.

    The objective is scikit-learn's with `C=1`. `start` is where it begins.
    """
    inputs = np.concatenate([seeds, rest])
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    answers = np.concatenate([np.ones(len(seeds)), np.zeros(len(rest))])
    penalty = np.full(inputs.shape[1], _PENALTY)
    penalty[-1] = 0

    def loss(weights: Float64) -> float:
        odds = inputs @ weights
        return float((np.logaddexp(0, odds) - answers * odds).sum() + penalty @ weights**2 / 2)

    weights, now = start, loss(start)
    for _ in range(_MOST_STEPS):
        shares = 1 / (1 + np.exp(-(inputs @ weights).clip(-500, 500)))
        gradient = inputs.T @ (shares - answers) + penalty * weights
        curvature = (inputs * (shares * (1 - shares))[:, None]).T @ inputs + np.diag(penalty)
        curvature[-1, -1] += _SMALL  # where all are seeds, or none is
        step = np.linalg.solve(curvature, gradient)
        # Far from the solution a whole step may lead too far.
        length = 1.0
        while (then := loss(weights - length * step)) > now and length > _SMALL:
            length /= 2
        if then >= now:
            break
        gained, weights, now = now - then, weights - length * step, then
        if gained < _SMALL * max(1.0, now):
            break
    return weights


def _left_out(sample: Sample) -> list[NDArray[np.bool_]]:
    """(S,) each: nobody, then each fold."""
    nobody = np.zeros(len(sample.seeds), bool)
    return [nobody, *(sample.folds == fold for fold in range(sample.number))]


@dataclass(frozen=True)
class Found:
    """What a way found of the seeds that were held out, a fifth at a time."""

    way: Way
    seeds: int
    """That were held out."""
    found: float
    """Of them, among the first k; of equal scores, their share."""
    by_chance: float
    """That a random list would hold."""

    @property
    def lift(self) -> float:
        """How many times as many as by chance."""
        return self.found / self.by_chance


class Contest:
    """A way, and where the seeds that it does not know come in."""

    def __init__(self, way: Way, sample: Sample) -> None:
        self.way = way
        self.score: Likeness = likeness(way, sample)
        self._folds = sample.folds
        # As lists show them: equal vectors have equal scores whatever they were computed beside.
        scores = self.score(sample.seeds).astype(np.float32)
        places = np.arange(len(scores))
        self._own = scores[places, self._folds + 1]
        """(S,): each seed's score by those of other folds."""
        self._before = np.zeros(len(scores), np.int64)
        self._equal = np.zeros(len(scores), np.int64)
        self._number = sample.number
        for fold in range(self._number):
            self._count(fold, scores[self._folds == fold, 1 + fold])
        self._equal -= 1  # itself

    def add(self, scores: Float32) -> None:
        """Count who of some users, with scores (B, 1 + F), is before the seeds."""
        for fold in range(self._number):
            self._count(fold, scores[:, 1 + fold])

    def _count(self, fold: int, scores: Float32) -> None:
        mine = np.flatnonzero(self._folds == fold)
        ordered = np.sort(scores)
        up_to = np.searchsorted(ordered, self._own[mine], "right")
        self._before[mine] += len(ordered) - up_to
        self._equal[mine] += up_to - np.searchsorted(ordered, self._own[mine], "left")

    def found(self, k: int, others: int) -> Found:
        """How many seeds are among the first k, of so many others and those of their fold."""
        shares = ((k - self._before) / (1 + self._equal)).clip(0, 1)
        listed = others + np.bincount(self._folds)
        by_chance = float((np.minimum(1, k / listed) * np.bincount(self._folds)).sum())
        return Found(self.way, len(self._folds), float(shares.sum()), by_chance)
