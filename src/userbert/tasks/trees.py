"""Boosted trees (LightGBM) of yes-or-no tasks, on aggregates and on the timing of vectors.

In: columns of all pairs, targets, a split. Out: `Scored`, or `Trees` that can be kept. How many
they are is tried on each part of the pairs to learn from, or of many on the validation pairs alone.
Used by `evaluate` and `fused`.

Letters in shapes: B pairs, D counts, H numbers of a vector.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.data.ragged import Floats, Int64
from userbert.tasks.blending import Scored
from userbert.tasks.metrics import roc_auc_or_chance
from userbert.tasks.splits import Split

ROUNDS = 400
PATIENCE = 40
GBM = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.2,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
"""Small trees that see few columns each: hundreds of users, thousands of columns."""
_TOLD = {**GBM, "objective": "binary", "metric": "binary_logloss"}
FORESTS = 3
"""Of few labels the same trees by other draws differ by some .01 ROC-AUC, so a mean is taken."""


def gbm(
    columns: sparse.csr_matrix, targets: NDArray[Any], split: Split, forests: int = FORESTS
) -> Scored:
    """Boosted trees (LightGBM) on all columns, as many as tell best how likely an answer is.

    Of fewer pairs than `splits.ENOUGH`, the mean of so many that differ in what they draw.
    """
    model, value, held = learn_gbm(columns, targets, split, forests)
    return Scored(model.scores(columns[split.test]), value, held)


@dataclass(frozen=True)
class Trees:
    """Boosted trees that were learned; of several, the mean counts."""

    boosters: tuple[lightgbm.Booster, ...]

    def scores(self, columns: sparse.csr_matrix) -> Floats:
        """The probability of yes, (B,)."""
        return _mean_of(booster.predict(columns) for booster in self.boosters)

    def to_text(self) -> str:
        """LightGBM's own texts, one after the other."""
        return "".join(booster.model_to_string() for booster in self.boosters)

    @classmethod
    def from_text(cls, text: str) -> "Trees":
        """What `to_text` wrote; raise LightGBM's own error if it is something else."""
        texts = re.split(r"(?m)^(?=tree\nversion=)", text)
        return cls(tuple(lightgbm.Booster(model_str=one) for one in texts if one.strip()))


def learn_gbm(
    columns: sparse.csr_matrix, targets: NDArray[Any], split: Split, forests: int = FORESTS
) -> tuple[Trees, float, Floats]:
    """The same as a model, how it ranks the validation pairs, and what its choice said of them."""
    learning = split.learning
    columns, targets = columns[learning], targets[learning]
    everyone = np.arange(len(learning))
    folds = [
        (np.setdiff1d(everyone, held), held)
        for held in (np.searchsorted(learning, part) for part in split.tried)
    ]
    tried = lightgbm.cv(
        {**_TOLD, "seed": 0}, lightgbm.Dataset(columns, targets), ROUNDS, folds=folds,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )  # fmt: skip
    rounds = len(np.asarray(tried["valid binary_logloss-mean"]))
    train, validation = folds[0]

    def grown(rows: Int64, seed: int) -> lightgbm.Booster:
        data = lightgbm.Dataset(columns[rows], targets[rows])
        return lightgbm.train({**_TOLD, "seed": seed}, data, rounds)

    seeds = range(forests if split.is_small else 1)
    told = _mean_of(grown(train, seed).predict(columns[validation]) for seed in seeds)
    value = roc_auc_or_chance(targets[validation], told)
    boosters = tuple(grown(everyone, seed) for seed in seeds)
    return Trees(boosters), value, told


def _mean_of(scores: Iterable[Any]) -> Floats:
    mean: Floats = np.mean([np.asarray(one) for one in scores], axis=0)
    return mean


def with_timing(
    counts: sparse.csr_matrix, vectors: NDArray[np.float32], timing: int
) -> sparse.csr_matrix:
    """Counts (B, D) and the last columns of vectors (B, H), as many as `timing`, as trees read."""
    last = sparse.csr_matrix(vectors[:, vectors.shape[1] - timing :])
    return sparse.hstack([counts, last], format="csr", dtype=np.float32)
