"""How many of the seeds that a list was made without are in it.

In: a way, its sample of seeds in folds, and the scores of everybody else as they are made. Out: of
how many seeds the first k hold, beside chance. No score is kept but those of the seeds, so that
`lookalike.py` can ask it of any number of users.
"""

from dataclasses import dataclass

import numpy as np

from userbert.serving.embeddings import Vectors
from userbert.serving.likeness import Likeness, Sample, Way, likeness


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

    def add(self, scores: Vectors) -> None:
        """Count who of some users, with scores (B, 1 + F), is before the seeds."""
        for fold in range(self._number):
            self._count(fold, scores[:, 1 + fold])

    def _count(self, fold: int, scores: Vectors) -> None:
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
