"""Boosted trees (LightGBM) for binary tasks, on aggregates and on the timing columns of vectors.

In: columns of all pairs, targets, a split. Out: `Scored`, or `Trees`, which can be saved. The
number of rounds is chosen by early stopping on the split's parts; with many pairs, on the
validation part alone. Used by `evaluate` and `fused`.

Letters in shapes: B (user, cut-off) pairs, D columns of counts, H numbers of a vector.
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
"""Maximum number of boosting rounds."""
PATIENCE = 40
"""Rounds without improvement after which early stopping ends training."""
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
"""LightGBM's parameters: small trees on few columns each, for hundreds of users and thousands of
columns."""
_PARAMETERS = {**GBM, "objective": "binary", "metric": "binary_logloss"}
"""LightGBM's parameters for binary tasks."""
FORESTS = 3
"""Number of models averaged when labels are few; models of different seeds differ by about .01
ROC-AUC."""


def gbm(
    columns: sparse.csr_matrix, targets: NDArray[Any], split: Split, forests: int = FORESTS
) -> Scored:
    """Fits boosted trees to the columns and scores the test pairs.

    With fewer pairs than `split.many_pairs`, averages `forests` models of different seeds.
    """
    model, value, held = learn_gbm(columns, targets, split, forests)
    return Scored(model.scores(columns[split.test]), value, held)


@dataclass(frozen=True)
class Trees:
    """Fitted boosted trees."""

    boosters: tuple[lightgbm.Booster, ...]
    """Models whose scores are averaged."""

    def scores(self, columns: sparse.csr_matrix) -> Floats:
        """Returns the probability of yes (B,)."""
        return _mean(booster.predict(columns) for booster in self.boosters)

    def to_text(self) -> str:
        """Returns the models in LightGBM's text format, concatenated."""
        return "".join(booster.model_to_string() for booster in self.boosters)

    @classmethod
    def from_text(cls, text: str) -> "Trees":
        """Reads the result of `to_text`; raises LightGBM's error if a text is no model."""
        texts = re.split(r"(?m)^(?=tree\nversion=)", text)
        return cls(tuple(lightgbm.Booster(model_str=model) for model in texts if model.strip()))


def learn_gbm(
    columns: sparse.csr_matrix, targets: NDArray[Any], split: Split, forests: int = FORESTS
) -> tuple[Trees, float, Floats]:
    """Fits boosted trees; returns them, their validation ROC-AUC, and their validation scores.

    The parameters are those of `gbm`. The validation figures come from trees that were fitted
    without the validation pairs.
    """
    learning = split.learning
    columns, targets = columns[learning], targets[learning]
    all_rows = np.arange(len(learning))
    folds = [
        (np.setdiff1d(all_rows, held), held)
        for held in (np.searchsorted(learning, part) for part in split.selection_parts)
    ]
    history = lightgbm.cv(
        {**_PARAMETERS, "seed": 0}, lightgbm.Dataset(columns, targets), ROUNDS, folds=folds,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )  # fmt: skip
    rounds = len(np.asarray(history["valid binary_logloss-mean"]))
    train, validation = folds[0]

    def fit(rows: Int64, seed: int) -> lightgbm.Booster:
        data = lightgbm.Dataset(columns[rows], targets[rows])
        return lightgbm.train({**_PARAMETERS, "seed": seed}, data, rounds)

    seeds = range(forests if split.is_small else 1)
    held_scores = _mean(fit(train, seed).predict(columns[validation]) for seed in seeds)
    value = roc_auc_or_chance(targets[validation], held_scores)
    boosters = tuple(fit(all_rows, seed) for seed in seeds)
    return Trees(boosters), value, held_scores


def _mean(scores: Iterable[Any]) -> Floats:
    mean: Floats = np.mean([np.asarray(array) for array in scores], axis=0)
    return mean


def with_timing(
    counts: sparse.csr_matrix, vectors: NDArray[np.float32], timing: int
) -> sparse.csr_matrix:
    """Joins counts (B, D) and the last `timing` columns of vectors (B, H): (B, D + timing)."""
    timing_columns = sparse.csr_matrix(vectors[:, vectors.shape[1] - timing :])
    return sparse.hstack([counts, timing_columns], format="csr", dtype=np.float32)
