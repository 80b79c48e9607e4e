"""Logistic regressions of yes-or-no tasks: on aggregates, on frozen vectors, on both.

In: features of all pairs, targets, a split. Out: `Scored`, or a `Regression` that can be kept. What
it chooses (penalty, kind of counts, width of vectors) it tries on each part of the pairs to learn
from, or of many on the validation pairs alone; then it learns again from all of them. Used by
`evaluate` and `fused`.

Letters in shapes: B pairs, D counts, H numbers of a vector, K directions.
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
from userbert.tasks.blending import LEAST, Scored, log_odds
from userbert.tasks.metrics import roc_auc_or_chance
from userbert.tasks.splits import Split

Matrix = Any
"""(B, D), dense or in sparse rows; scipy has no types."""

PENALTIES = tuple(10.0**power for power in range(-5, 0))
"""Inverse strengths of the L2 penalty of a logistic regression; the best is mostly inside."""
STRONG_PENALTIES = PENALTIES[:3]
"""Of thousands of columns, to save time; whether weaker ones would do better was not measured."""
SHARES = (1.0, 0.3, 0.1, 0.0)
"""Of the width of counts and timing, which what was learned of a user may have beside them:
hundreds of columns that say little would drown a few that say much, as one penalty is for all."""
DIMENSIONS = 100
"""Of the truncated SVD of counts."""


def linear(
    counts: sparse.csr_matrix | None,
    vectors: NDArray[np.float32] | None,
    targets: NDArray[Any],
    split: Split,
    timing: int = 0,
) -> Scored:
    """Logistic regression on log counts (or their SVD) and vectors, both standardised.

    The last columns of the vectors, as many as `timing`, say when and how often users acted.
    """
    model, value, held = learn_linear(counts, vectors, targets, split, timing)
    return Scored(model.scores(_rows(counts, split.test), _rows(vectors, split.test)), value, held)


def learn_linear(
    counts: sparse.csr_matrix | None,
    vectors: NDArray[np.float32] | None,
    targets: NDArray[Any],
    split: Split,
    timing: int = 0,
) -> tuple["Regression", float, Floats]:
    """The same as a model, how it ranks the validation pairs, and what its choice said of them."""
    learning = split.learning
    known = _Known(_rows(counts, learning), _rows(vectors, learning), targets[learning], timing)
    shares = _shares(counts, vectors, timing) if split.is_small else SHARES[:1]
    values: dict[_Choice, list[float]] = defaultdict(list)
    told: dict[_Choice, list[Floats]] = defaultdict(list)  # first of the validation pairs
    for part in split.tried:
        held = np.searchsorted(learning, part)
        for choice, scores in known.tried(shares, held):
            values[choice].append(roc_auc_or_chance(known.targets[held], scores))
            told[choice].append(scores)

    def worth(choice: _Choice) -> float:
        return float(np.mean(values[choice]))

    chosen = max(values, key=worth)
    if counts is not None or chosen.share == 1:
        return known.learned(chosen), values[chosen][0], told[chosen][0]
    # By few labels vectors may seem to tell nothing. The mean with them as they are loses little
    # where that is so, and has most of what there is to gain where it is not.
    whole = max((choice for choice in values if choice.share == 1), key=worth)
    factors, shift = _halves([told[whole], told[chosen]])
    regression = known.learned(whole).plus(known.learned(chosen), factors, shift)
    both = factors @ [log_odds(told[choice][0]) for choice in (whole, chosen)] + shift
    return regression, roc_auc_or_chance(targets[split.validation], both), expit(both)


def _halves(told: Sequence[Sequence[Floats]]) -> tuple[Floats, float]:
    """By what two models' log odds are multiplied, and what is added, to be their `blend`.

    `told` is what each said of some parts of the pairs. Widths are those inside a part: from part
    to part, with what was learned there, the center moves.
    """
    odds = [[log_odds(part) for part in parts] for parts in told]
    centers, widths = (
        np.array([[f(one) for one in parts] for parts in odds]).mean(axis=1)
        for f in (np.mean, np.std)
    )
    factors: Floats = widths.mean() / np.maximum(widths, LEAST) / len(odds)
    return factors, float(centers.mean() - factors @ centers)


class _Choice(NamedTuple):
    share: float
    is_leading: bool
    penalty: float


@dataclass(frozen=True)
class _Known:
    """The features and answers of all pairs to learn from."""

    counts: sparse.csr_matrix | None
    vectors: NDArray[np.float32] | None
    targets: NDArray[Any]
    timing: int

    def tried(self, shares: Sequence[float], held: Int64) -> Iterator[tuple[_Choice, Floats]]:
        """All that may be chosen: what each, learned from the others, says of the pairs `held`."""
        fit = np.setdiff1d(np.arange(len(self.targets)), held)
        scales = Scales.of(self.counts, self.vectors, fit)
        for share, is_leading in product(shares, (False, True)):
            if is_leading and self.counts is None:
                continue
            design = scales.with_share(share, self.timing).design(
                self.counts, self.vectors, is_leading=is_leading
            )
            model = _regression()
            for penalty in PENALTIES if isinstance(design, np.ndarray) else STRONG_PENALTIES:
                model.set_params(C=penalty).fit(design[fit], self.targets[fit])
                told = model.predict_proba(design[held])[:, 1]
                yield _Choice(share, is_leading, penalty), told

    def learned(self, choice: _Choice) -> "Regression":
        """What was chosen, learned from all."""
        everyone = np.arange(len(self.targets))
        scales = Scales.of(self.counts, self.vectors, everyone).with_share(
            choice.share, self.timing
        )
        design = scales.design(self.counts, self.vectors, is_leading=choice.is_leading)
        model = _regression().set_params(C=choice.penalty).fit(design, self.targets)
        return Regression(scales, choice.is_leading, model.coef_[0], float(model.intercept_[0]))


def _shares(
    counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None, timing: int
) -> tuple[float, ...]:
    """The widths to choose from: nothing of vectors need be left beside counts."""
    if vectors is None:
        return SHARES[:1]
    if counts is None:
        return SHARES[:-1] if timing else SHARES[:1]
    return SHARES


@dataclass(frozen=True)
class Scales:
    """What makes columns alike, as some users have them; for those of no kind it is empty."""

    counts: Floats
    """(D,): the factor of each log count."""
    directions: Floats
    """(K, D): the leading directions of scaled log counts."""
    center: Floats
    """(K,): the means along them."""
    width: Floats
    """(K,): the deviations along them."""
    vector_center: Floats
    """(H,)"""
    vector_width: Floats
    """(H,)"""

    @classmethod
    def of(
        cls, counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None, fit: Int64
    ) -> "Scales":
        """As the rows `fit` have them."""
        none: Floats = np.zeros(0)
        of_counts, center, width = none, none, none
        directions: Floats = np.zeros((0, 0))
        if counts is not None:
            of_counts = _factors(_logs(counts[fit]))
            seen = _logs(counts[fit]) @ sparse.diags_array(of_counts)
            svd = TruncatedSVD(min(DIMENSIONS, min(seen.shape) - 1), random_state=0).fit(seen)
            directions = svd.components_
            center, width = _moments((seen @ directions.T).astype(np.float32))
        of_vectors = (none, none) if vectors is None else _moments(vectors[fit])
        return cls(of_counts, directions, center, width, *of_vectors)

    def with_share(self, share: float, timing: int) -> "Scales":
        """The same with vectors so wide in place of 1, but for their last columns, the `timing`.

        Of a width of 0 nothing is left of them.
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
        """Rows as a linear model likes them: of counts all columns, or the leading directions."""
        standard = None if vectors is None else (vectors - self.vector_center) / self.vector_width
        if counts is None:
            assert standard is not None
            return standard
        scaled = sparse.csr_matrix(_logs(counts) @ sparse.diags_array(self.counts))
        if is_leading:
            along = (scaled @ self.directions.T).astype(np.float32)
            leading = (along - self.center) / self.width
            return leading if standard is None else np.hstack([leading, standard])
        if standard is None:
            return scaled
        return sparse.hstack([scaled, sparse.csr_matrix(standard)], format="csr")


@dataclass(frozen=True)
class Regression:
    """A logistic regression that was learned."""

    scales: Scales
    is_leading: bool
    """Whether it reads the leading directions of counts, not all columns."""
    weights: Floats
    intercept: float

    def scores(
        self, counts: sparse.csr_matrix | None, vectors: NDArray[np.float32] | None
    ) -> Floats:
        """The probability of yes, (B,)."""
        design = self.scales.design(counts, vectors, is_leading=self.is_leading)
        found: Floats = expit(design @ self.weights + self.intercept)
        return found

    def plus(self, other: "Regression", factors: Floats, shift: float) -> "Regression":
        """The log odds of two that read the same vectors and no counts, by `factors`, and more."""
        own, others = factors
        ratio = self.scales.vector_width / other.scales.vector_width
        return replace(
            self,
            weights=own * self.weights + others * other.weights * ratio,
            intercept=float(own * self.intercept + others * other.intercept + shift),
        )


def _rows(matrix: Matrix | None, rows: Int64) -> Matrix | None:
    return None if matrix is None else matrix[rows]


def _logs(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    logs = counts.astype(np.float64)
    # Refunds make sums negative.
    logs.data = np.sign(logs.data) * np.log1p(np.abs(logs.data))
    return logs


def _factors(logs: sparse.csr_matrix) -> Floats:
    """(D,): what gives columns the deviation 1 where they vary; zeros stay zeros."""
    mean = np.asarray(logs.mean(axis=0)).ravel()
    square = np.asarray(logs.multiply(logs).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    # A column that one user in a hundred has would outweigh all others if it were scaled fully.
    return np.where(deviation > 0, 1 / np.maximum(deviation, 0.1), 0)


def _moments(values: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """The mean of each column, and its deviation, which is not 0."""
    return values.mean(axis=0), np.maximum(values.std(axis=0), 1e-6)


def _regression() -> LogisticRegression:
    """A regression that starts each fit, of a weaker penalty, where the one before it ended."""
    return LogisticRegression(max_iter=2000, tol=1e-3, warm_start=True)
