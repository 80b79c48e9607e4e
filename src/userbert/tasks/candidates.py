"""Models of next-value tasks: ridge regression on all values, and boosted trees on candidates.

In: counts and vectors of all pairs, sets of values (B, C), a split. Out: `Scored`. Used by
`evaluate`. A candidate is a (pair, value). Trees read the user's history of the value, the
value's score by a ridge regression on the vector, or both. The target: does the next word hold the
value?

Letters in shapes: B (user, cut-off) pairs, C values, K candidates, D columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Floats, Int64, list_numbers
from userbert.data.store import PreparedData
from userbert.data.use.sequences import actions_between
from userbert.data.vocabulary import FIRST_VALUE
from userbert.tasks.aggregates import WINDOWS
from userbert.tasks.blending import Scored
from userbert.tasks.metrics import map_at_k
from userbert.tasks.popularity import own_popularity, popularity, words_with_each_value
from userbert.tasks.regression import Scales
from userbert.tasks.splits import Split
from userbert.tasks.trees import GBM, PATIENCE

PENALTIES = tuple(10.0**power for power in range(0, 6))
"""Strengths tried for the ridge regression's L2 penalty."""
HALF_LIVES = (30, 90, 180)
"""Half-lives tried for the weight of older words, in days."""
PRIORS = (1.0, 3.0, 10.0)
"""Weights tried for the popularity among all users; with weight 1, a popularity of 1 counts as much
as one word of the user."""
CANDIDATES = 200
"""Number of candidates per pair and base score: the values with the best scores, and ties. The
metric reads ten."""
NEGATIVES = 30
"""Number of negative candidates sampled per pair for training."""
ROUNDS = 300
"""Maximum number of boosting rounds."""
RANKER = {
    **GBM,
    "objective": "lambdarank",
    "lambdarank_truncation_level": 15,
    "learning_rate": 0.1,
    "feature_fraction": 0.8,
}
"""LightGBM's parameters: ranking inside each pair. On Complete Journey's next category its mAP@10
is .274; binary trees over all users reach .263 and own popularity .264."""
PARTS = 4
"""Number of parts of cross-fitting: the ridge score of a non-test pair comes from a regression on
the parts without the pair."""


@dataclass(frozen=True)
class OwnHistory:
    """Each user's history of each value before the cut-off."""

    words: dict[str, sparse.csr_matrix]
    """Number of the user's words that held the value (B, C), by window."""
    fading: dict[int, sparse.csr_matrix]
    """Number of the user's words that held the value (B, C), weighted down with age, by half-life
    in days."""
    recency: sparse.csr_matrix
    """Days since the value last occurred, plus one (B, C); no stored entry means never."""

    @property
    def popularity(self) -> NDArray[np.float64]:
        """Share of all words that held each value (C,), below 1.

        Words are counted, not targets, because target frequencies leak: if no other pair has a rare
        value, this pair must have the value.
        """
        words = self.words["ever"]
        shares: NDArray[np.float64] = np.asarray(words.sum(axis=0)).ravel() / (words.sum() + 1)
        return shares


def own_history(
    data: PreparedData, attribute: tuple[str, str], rows: Int64, cutoffs: Int64
) -> OwnHistory:
    """Returns each user's history of the values of `attribute`, a pair (segment, attribute)."""
    words = {
        window: words_with_each_value(data, attribute, rows, cutoffs, days=days)
        for window, days in WINDOWS.items()
    }
    fading = {
        days: words_with_each_value(data, attribute, rows, cutoffs, half_life=days)
        for days in HALF_LIVES
    }
    segment, name = attribute
    actions = actions_between(data, segment, rows, None, cutoffs)
    ids = actions.ids[list(data.vocabularies.segments[segment]).index(name)]
    users = list_numbers(actions.offsets)
    known = ids >= FIRST_VALUE
    users, values, times = users[known], ids[known] - FIRST_VALUE, actions.times[known]
    # Actions are sorted by time, so the last of equal (user, value) pairs is the newest.
    key = users * words["ever"].shape[1] + values
    _, last = np.unique(key[::-1], return_index=True)
    last = len(key) - 1 - last
    days = (cutoffs[users[last]] - times[last]) / DAY_US + 1
    recency = sparse.csr_matrix((days, (users[last], values[last])), shape=words["ever"].shape)
    return OwnHistory(words, fading, recency)


def popular(targets: NDArray[np.bool_], split: Split) -> Scored:
    """Scores values by their popularity in the non-test pairs, equally for every pair."""
    held = np.tile(popularity(targets[split.train]), (len(split.validation), 1))
    value = map_at_k(held, targets[split.validation])
    return Scored(np.tile(popularity(targets[split.learning]), (len(split.test), 1)), value)


def own_popular(history: OwnHistory, targets: NDArray[np.bool_], split: Split) -> Scored:
    """Scores values by the number of the user's words that held them, plus weighted popularity.

    The half-life of words and the weight of popularity are chosen on the validation pairs.
    """
    shares, held = popularity(targets[split.train]), targets[split.validation]
    best, chosen = -np.inf, (history.words["ever"], PRIORS[0])
    for words in (history.words["ever"], *history.fading.values()):
        for prior in PRIORS:
            value = map_at_k(own_popularity(words[split.validation], shares, prior), held)
            if value > best:
                best, chosen = value, (words, prior)
    words, prior = chosen
    shares = popularity(targets[split.learning])
    return Scored(own_popularity(words[split.test], shares, prior), best)


def ridge(
    counts: sparse.csr_matrix | None,
    vectors: NDArray[np.float32] | None,
    targets: NDArray[np.bool_],
    split: Split,
) -> Scored:
    """Fits one ridge regression for all values to the SVD of log counts, to vectors, or to both.

    The penalty is chosen on the validation pairs; then all non-test pairs are fitted.
    """
    design = _dense(counts, vectors, split.train)
    fits = _ridge(design[split.train], targets[split.train], PENALTIES)
    held = targets[split.validation]
    values = [map_at_k(_apply(design[split.validation], fit), held) for fit in fits]
    number = int(np.argmax(values))
    design = _dense(counts, vectors, split.learning)
    (fit,) = _ridge(design[split.learning], targets[split.learning], [PENALTIES[number]])
    return Scored(_apply(design[split.test], fit), values[number])


def cross_fitted_ridge(
    vectors: NDArray[np.float32], targets: NDArray[np.bool_], split: Split, pairs: int
) -> NDArray[np.float32]:
    """Returns cross-fitted ridge scores of the vectors (B, C), without the intercept, for trees.

    A non-test pair is scored by a regression on the other parts, a test pair by a regression on all
    non-test pairs. The penalty is chosen on the validation pairs. `pairs` is B.
    """
    learning = split.learning
    design = _dense(None, vectors, learning)
    fits = _ridge(design[split.train], targets[split.train], PENALTIES)
    held = targets[split.validation]
    values = [map_at_k(_apply(design[split.validation], fit), held) for fit in fits]
    penalty = [PENALTIES[int(np.argmax(values))]]
    scores = np.zeros((pairs, targets.shape[1]), np.float32)
    for part in range(PARTS):
        others = np.arange(len(learning)) % PARTS != part
        (fit,) = _ridge(design[learning[others]], targets[learning[others]], penalty)
        scores[learning[~others]] = design[learning[~others]] @ fit.weights
    (fit,) = _ridge(design[learning], targets[learning], penalty)
    scores[split.test] = design[split.test] @ fit.weights
    return scores


def candidate_gbm(
    history: OwnHistory | None,
    ridge_scores: NDArray[np.float32] | None,
    popularity: NDArray[np.float64],
    targets: NDArray[np.bool_],
    split: Split,
) -> Scored:
    """Fits boosted trees on candidates: their popularity, history and ridge scores.

    `history` or `ridge_scores` (B, C) may be `None`; `popularity` is (C,). Values that are not
    candidates rank below all candidates, by popularity.
    """
    features = _Features(history, ridge_scores, popularity)
    train = features.sampled(split.train, targets)
    held = features.all_of(split.validation)
    best, rounds = -np.inf, 1
    booster = lightgbm.Booster({**RANKER, "metric": "none"}, train.dataset(targets))
    for number in range(1, ROUNDS + 1):
        booster.update()
        if number % 10 == 0:
            scores = features.spread(split.validation, held, booster.predict(held.columns))
            value = map_at_k(scores, targets[split.validation])
            if value > best:
                best, rounds = value, number
            elif number - rounds >= PATIENCE:
                break
    learning = features.sampled(split.learning, targets)
    final = lightgbm.train(RANKER, learning.dataset(targets), rounds)
    test = features.all_of(split.test)
    return Scored(features.spread(split.test, test, final.predict(test.columns)), best)


@dataclass(frozen=True)
class _Candidates:
    """Candidates, and their features for trees."""

    pairs: Int64
    """Pair of each candidate, as an index into the task's pairs (K,)."""
    values: Int64
    """Value of each candidate (K,)."""
    columns: NDArray[np.float32]
    """Features (K, D)."""

    def dataset(self, targets: NDArray[np.bool_]) -> lightgbm.Dataset:
        """Returns LightGBM's training data; the candidates of a pair are one group to rank."""
        _, sizes = np.unique(self.pairs, return_counts=True)
        held = targets[self.pairs, self.values].astype(np.float32)
        return lightgbm.Dataset(self.columns, held, group=sizes)


@dataclass(frozen=True)
class _Features:
    """Makes candidates and their columns from histories, ridge scores, or both."""

    history: OwnHistory | None
    ridge_scores: NDArray[np.float32] | None
    popularity: NDArray[np.float64]
    """Popularity of each value (C,), below 1."""

    def sampled(self, pairs: Int64, targets: NDArray[np.bool_]) -> _Candidates:
        """Returns candidates to train on: the values in the next word, and sampled negatives.

        Negatives are drawn from the candidates, at most `NEGATIVES` per pair.
        """
        generator = np.random.default_rng(0)
        chance = generator.random((len(pairs), len(self.popularity)), np.float32)
        chance[~self._among_best(pairs)] = 2
        chance[targets[pairs]] = -1
        size = min(NEGATIVES, chance.shape[1])
        border = np.partition(np.where(chance < 0, 2, chance), size - 1, axis=1)[:, size - 1, None]
        taken, values = np.nonzero(chance <= np.minimum(border, 1))
        return self._columns(pairs[taken], values)

    def all_of(self, pairs: Int64) -> _Candidates:
        """Returns all candidates of the pairs."""
        taken, values = np.nonzero(self._among_best(pairs))
        return self._columns(pairs[taken], values)

    def spread(self, pairs: Int64, candidates: _Candidates, predicted: Any) -> Floats:
        """Returns scores (B, C): 0 or more for candidates, popularity - 1 for other values."""
        scores = np.tile(self.popularity - 1, (len(pairs), 1))
        rows = np.searchsorted(pairs, candidates.pairs)
        scores[rows, candidates.values] = predicted - predicted.min()
        return scores

    def _among_best(self, pairs: Int64) -> NDArray[np.bool_]:
        chosen = np.zeros((len(pairs), len(self.popularity)), bool)
        size = min(CANDIDATES, len(self.popularity))
        for scores in self._base_scores(pairs):
            chosen |= scores >= np.partition(scores, -size, axis=1)[:, -size, None]
        return chosen

    def _base_scores(self, pairs: Int64) -> list[Floats]:
        bases: list[Floats] = []
        if self.history is not None:
            bases.append(own_popularity(self.history.words["ever"][pairs], self.popularity))
        if self.ridge_scores is not None:
            bases.append(self.ridge_scores[pairs])
        return bases

    def _columns(self, pairs: Int64, values: Int64) -> _Candidates:
        columns: list[NDArray[Any]] = [self.popularity[values]]
        if self.history is not None:
            columns += [_at(words, pairs, values) for words in self.history.fading.values()]
            columns += [_at(words, pairs, values) for words in self.history.words.values()]
            all_words = np.asarray(self.history.words["ever"].sum(axis=1)).ravel()[pairs]
            columns.append(all_words)
            columns.append(columns[-2] / np.maximum(all_words, 1))
            recency = _at(self.history.recency, pairs, values)
            columns.append(np.where(recency > 0, recency, np.nan))
        if self.ridge_scores is not None:
            columns.append(self.ridge_scores[pairs, values])
        return _Candidates(pairs, values, np.stack(columns, axis=1).astype(np.float32))


def _at(matrix: sparse.csr_matrix, rows: Int64, columns: Int64) -> NDArray[Any]:
    return np.asarray(matrix[rows, columns]).ravel()


@dataclass(frozen=True)
class _Ridge:
    """A fitted ridge regression for all values."""

    weights: NDArray[np.float32]
    """Weight of each column for each value (D, C)."""
    intercept: Floats
    """Mean target of each value (C,)."""


def _ridge(
    design: NDArray[np.float32], targets: NDArray[np.bool_], penalties: Sequence[float]
) -> list[_Ridge]:
    """Fits a ridge regression per penalty, all from one decomposition of the Gram matrix."""
    intercept = targets.mean(axis=0)
    values, directions = np.linalg.eigh((design.T @ design).astype(np.float64))
    turned = directions.T @ (design.T @ (targets - intercept))
    solved = [directions @ (turned / (values + penalty)[:, None]) for penalty in penalties]
    return [_Ridge(weights.astype(np.float32), intercept) for weights in solved]


def _dense(
    counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None, fit: Int64
) -> NDArray[np.float32]:
    """Returns the design matrix (B, D): leading directions of the counts, vectors, or both.

    All columns are standardised by statistics of the pairs `fit`. Using all columns of the counts
    would take minutes with thousands of values, and rank no better.
    """
    scales = Scales.of(counts, vectors, fit)
    design: NDArray[np.float32] = scales.design(counts, vectors, is_leading=counts is not None)
    return design


def _apply(design: NDArray[np.float32], fit: _Ridge) -> Floats:
    scores: Floats = design @ fit.weights + fit.intercept
    return scores
