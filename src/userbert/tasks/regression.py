"""Logistic regressions for binary tasks: on aggregates, on frozen vectors, or on both.

In: features of all pairs, targets, a split. Out: `Scored`, or a `Regression`, which can be saved.
Penalty, form of the counts and scale of the vectors are chosen by cross-validation on the split's
parts; with many pairs, on the validation part alone. The chosen regression is then fitted to all
non-test pairs. Used by `evaluate` and `fused`.

Letters in shapes: B (user, cut-off) pairs, D columns, H numbers of a vector, K directions.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

from userbert.data.ragged import Floats, Int64
from userbert.tasks.blending import EPSILON, Scored, log_odds
from userbert.tasks.metrics import roc_auc_or_chance
from userbert.tasks.splits import Split

Matrix = Any
"""Dense or sparse (by row) matrix (B, D); `Any`, because scipy has no types."""

PENALTIES = tuple(10.0**power for power in range(-5, 0))
"""Inverse strengths tried for the L2 penalty (scikit-learn's `C`); the best is mostly inside the
range."""
STRONG_PENALTIES = PENALTIES[:3]
"""Inverse strengths tried on sparse counts of thousands of columns, to save time. Weaker penalties
were not measured there."""
SHARES = (1.0, 0.3, 0.1, 0.0)
"""Scales tried for the learned columns of vectors, relative to counts and timing. All columns have
one penalty, so hundreds of weak columns at full scale would drown out a few strong ones."""
DIMENSIONS = 100
"""Maximum number of dimensions of the truncated SVD of the counts."""


def linear(
    counts: sparse.csr_matrix | None,
    vectors: NDArray[np.float32] | None,
    targets: NDArray[Any],
    split: Split,
    timing: int = 0,
) -> Scored:
    """Fits a regression on log counts (or their SVD) and vectors; scores the test pairs.

    SVD and vectors are standardised; log counts are only scaled, so that they stay sparse. The
    last `timing` columns of the vectors describe when and how often users acted.
    """
    model, value, held_scores = learn_linear(counts, vectors, targets, split, timing)
    scores = model.scores(_take_rows(counts, split.test), _take_rows(vectors, split.test))
    return Scored(scores, value, held_scores)


def learn_linear(
    counts: sparse.csr_matrix | None,
    vectors: NDArray[np.float32] | None,
    targets: NDArray[Any],
    split: Split,
    timing: int = 0,
) -> tuple["Regression", float, Floats]:
    """Fits a regression; returns it, its validation ROC-AUC, and its validation scores (B,).

    The parameters are those of `linear`. The validation figures come from regressions that were
    fitted without the validation pairs.
    """
    learning = split.learning
    training = _TrainingData(
        _take_rows(counts, learning), _take_rows(vectors, learning), targets[learning], timing
    )
    shares = _shares(counts, vectors, timing) if split.is_small else SHARES[:1]
    values: dict[_Hyperparameters, list[float]] = defaultdict(list)
    # The first array of each list belongs to the validation pairs.
    held_scores: dict[_Hyperparameters, list[Floats]] = defaultdict(list)
    for part in split.selection_parts:
        held = np.searchsorted(learning, part)
        for choice, scores in training.try_choices(shares, held):
            values[choice].append(roc_auc_or_chance(training.targets[held], scores))
            held_scores[choice].append(scores)

    def mean_value(choice: _Hyperparameters) -> float:
        return float(np.mean(values[choice]))

    best = max(values, key=mean_value)
    if counts is not None or best.share == 1:
        return training.fit(best), values[best][0], held_scores[best][0]
    # With few labels, vectors may look useless by chance. Averaging with the best regression on
    # full-scale vectors costs little if they are useless, and keeps most of the gain if not.
    best_unscaled = max((choice for choice in values if choice.share == 1), key=mean_value)
    factors, shift = _blend_factors([held_scores[best_unscaled], held_scores[best]])
    regression = training.fit(best_unscaled).plus(training.fit(best), factors, shift)
    odds = factors @ [log_odds(held_scores[choice][0]) for choice in (best_unscaled, best)] + shift
    return regression, roc_auc_or_chance(targets[split.validation], odds), expit(odds)


def _blend_factors(held_scores: Sequence[Sequence[Floats]]) -> tuple[Floats, float]:
    """Returns factors (2,) and a shift that turn two models' log-odds into those of their `blend`.

    `held_scores` are each model's scores of the parts it was not fitted on. Deviations are taken
    inside each part, because the mean moves from part to part.
    """
    odds = [[log_odds(part) for part in parts] for parts in held_scores]
    centers, widths = (
        np.array([[statistic(part) for part in parts] for parts in odds]).mean(axis=1)
        for statistic in (np.mean, np.std)
    )
    factors: Floats = widths.mean() / np.maximum(widths, EPSILON) / len(odds)
    return factors, float(centers.mean() - factors @ centers)


class _Hyperparameters(NamedTuple):
    """Hyper-parameters that are chosen for a regression."""

    share: float
    """Scale of the learned columns of the vectors; see `SHARES`."""
    is_leading: bool
    """Whether the leading directions of the counts replace all columns."""
    penalty: float
    """Inverse strength of the L2 penalty."""


@dataclass(frozen=True)
class _TrainingData:
    """Features and targets of all non-test pairs."""

    counts: sparse.csr_matrix | None
    vectors: NDArray[np.float32] | None
    targets: NDArray[Any]
    timing: int
    """Number of timing columns at the end of the vectors."""

    def try_choices(
        self, shares: Sequence[float], held: Int64
    ) -> Iterator[tuple[_Hyperparameters, Floats]]:
        """Yields each choice with the scores of the pairs `held`, fitted on all other pairs."""
        rows = np.setdiff1d(np.arange(len(self.targets)), held)
        scales = Scales.of(self.counts, self.vectors, rows)
        for share, is_leading in product(shares, (False, True)):
            if is_leading and self.counts is None:
                continue
            design = scales.with_share(share, self.timing).design(
                self.counts, self.vectors, is_leading=is_leading
            )
            model = _new_regression()
            for penalty in PENALTIES if isinstance(design, np.ndarray) else STRONG_PENALTIES:
                model.set_params(C=penalty).fit(design[rows], self.targets[rows])
                scores = model.predict_proba(design[held])[:, 1]
                yield _Hyperparameters(share, is_leading, penalty), scores

    def fit(self, choice: _Hyperparameters) -> "Regression":
        """Fits the chosen regression on all rows."""
        all_rows = np.arange(len(self.targets))
        scales = Scales.of(self.counts, self.vectors, all_rows).with_share(
            choice.share, self.timing
        )
        design = scales.design(self.counts, self.vectors, is_leading=choice.is_leading)
        model = _new_regression().set_params(C=choice.penalty).fit(design, self.targets)
        return Regression(scales, choice.is_leading, model.coef_[0], float(model.intercept_[0]))


def _shares(
    counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None, timing: int
) -> tuple[float, ...]:
    """Returns the scales to try; 0, which drops the learned columns, only if there are counts."""
    if vectors is None:
        return SHARES[:1]
    if counts is None:
        return SHARES[:-1] if timing else SHARES[:1]
    return SHARES


@dataclass(frozen=True)
class Scales:
    """Statistics that scale the columns; arrays are empty if their features are not used."""

    counts: Floats
    """Factor of each log count (D,)."""
    directions: Floats
    """Leading directions (truncated SVD) of the scaled log counts (K, D)."""
    center: Floats
    """Means along the directions (K,)."""
    width: Floats
    """Deviations along the directions (K,)."""
    vector_center: Floats
    """Means of the vectors' columns (H,)."""
    vector_width: Floats
    """Divisors of the vectors' columns (H,); infinite for dropped columns."""

    @classmethod
    def of(
        cls, counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None, rows: Int64
    ) -> "Scales":
        """Computes the statistics from the pairs at `rows`."""
        empty: Floats = np.zeros(0)
        factors, center, width = empty, empty, empty
        directions: Floats = np.zeros((0, 0))
        if counts is not None:
            factors = _scale_factors(_logs(counts[rows]))
            scaled = _logs(counts[rows]) @ sparse.diags_array(factors)
            svd = TruncatedSVD(min(DIMENSIONS, min(scaled.shape) - 1), random_state=0).fit(scaled)
            directions = svd.components_
            center, width = _moments((scaled @ directions.T).astype(np.float32))
        vector_moments = (empty, empty) if vectors is None else _moments(vectors[rows])
        return cls(factors, directions, center, width, *vector_moments)

    def with_share(self, share: float, timing: int) -> "Scales":
        """Returns a copy that scales the vectors' columns by `share`, except the last `timing`.

        A share of 0 drops the columns before the last `timing`.
        """
        width = self.vector_width.copy()
        learned = len(width) - timing
        width[:learned] = width[:learned] / share if share else np.inf
        return replace(self, vector_width=width)

    def design(
        self,
        counts: sparse.csr_matrix | None,
        vectors: NDArray[np.float32] | None,
        *,
        is_leading: bool,
    ) -> Matrix:
        """Returns the scaled design matrix.

        With `is_leading`, the leading directions of the counts replace the counts.
        """
        standard = None if vectors is None else (vectors - self.vector_center) / self.vector_width
        if counts is None:
            assert standard is not None
            return standard
        scaled = sparse.csr_matrix(_logs(counts) @ sparse.diags_array(self.counts))
        if is_leading:
            projected = (scaled @ self.directions.T).astype(np.float32)
            leading = (projected - self.center) / self.width
            return leading if standard is None else np.hstack([leading, standard])
        if standard is None:
            return scaled
        return sparse.hstack([scaled, sparse.csr_matrix(standard)], format="csr")


@dataclass(frozen=True)
class Regression:
    """A fitted logistic regression."""

    scales: Scales
    is_leading: bool
    """Whether the regression reads the leading directions of the counts instead of all columns."""
    weights: Floats
    """Weight of each column of the design matrix (D,)."""
    intercept: float
    """Log-odds of yes if all columns are 0."""

    def scores(
        self, counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None
    ) -> Floats:
        """Returns the probability of yes (B,)."""
        design = self.scales.design(counts, vectors, is_leading=self.is_leading)
        probabilities: Floats = expit(design @ self.weights + self.intercept)
        return probabilities

    def plus(self, addend: "Regression", factors: Floats, shift: float) -> "Regression":
        """Returns the weighted sum of two regressions' log-odds, plus `shift`, as one regression.

        Both regressions must read the same vectors and no counts. `factors` (2,) are the weights of
        this regression and of `addend`.
        """
        self_factor, addend_factor = factors
        ratio = self.scales.vector_width / addend.scales.vector_width
        return replace(
            self,
            weights=self_factor * self.weights + addend_factor * addend.weights * ratio,
            intercept=float(
                self_factor * self.intercept + addend_factor * addend.intercept + shift
            ),
        )


def _take_rows(matrix: Matrix | None, rows: Int64) -> Matrix | None:
    return None if matrix is None else matrix[rows]


def _logs(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Returns sign(x) log(1 + |x|) of each count x."""
    logs = counts.astype(np.float64)
    # Refunds can make sums negative.
    logs.data = np.sign(logs.data) * np.log1p(np.abs(logs.data))
    return logs


def _scale_factors(logs: sparse.csr_matrix) -> Floats:
    """Returns factors (D,) that scale columns to deviation 1; 0 for constant columns.

    Scaling keeps zeros at zero, so the matrix stays sparse.
    """
    mean = np.asarray(logs.mean(axis=0)).ravel()
    square = np.asarray(logs.multiply(logs).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    # Without the lower bound, a column that one user in a hundred has would outweigh all others.
    return np.where(deviation > 0, 1 / np.maximum(deviation, 0.1), 0)


def _moments(values: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Returns the mean and the deviation of each column; the deviation is at least 1e-6."""
    return values.mean(axis=0), np.maximum(values.std(axis=0), 1e-6)


def _new_regression() -> LogisticRegression:
    """Returns a regression with warm starts: each fit starts from the previous fit's weights."""
    return LogisticRegression(max_iter=2000, tol=1e-3, warm_start=True)
