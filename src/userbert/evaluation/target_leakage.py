"""Detects target leakage: a single feature that predicts a task almost perfectly.

In: aggregates with their names, binary targets. Out: the leaking column, or `None`. `evaluate`
warns of the column: a profile field or an action holds the answer, or the cut-off is after the
event that the label describes.

Letters in shapes: B pairs, D columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.tasks.metrics import roc_auc

MIN_LEAK_ROC_AUC = 0.99
"""ROC-AUC above which a single column counts as leaking the target."""


@dataclass(frozen=True)
class LeakingColumn:
    """A column that leaks the target."""

    column: str
    """Name of the column."""
    roc_auc: float
    """ROC-AUC of the column alone, in its better direction (at least 0.5)."""

    def warning(self, task: str) -> str:
        """Returns a warning that names the task, the column and the remedies."""
        return (
            f"{task}: target leakage: the column {self.column!r} alone predicts the answer "
            f"(ROC-AUC {self.roc_auc:.3f}). Either it holds the answer, or the cut-off is after "
            "the label's own event. Hide the field, or choose an earlier cut-off."
        )


def find_leaking_column(
    counts: sparse.csr_matrix, names: Sequence[str], targets: NDArray[np.int64]
) -> LeakingColumn | None:
    """Returns the column of `counts` (B, D) that alone predicts the targets (B,) best.

    Returns `None` if no column has a ROC-AUC above `MIN_LEAK_ROC_AUC`.
    """
    is_yes = targets == 1
    columns = counts.tocsc()
    # Zeros of both classes are ties, which bound the ROC-AUC that a column can reach.
    filled = np.stack(
        [np.diff(columns[is_in_class].indptr) for is_in_class in (is_yes, ~is_yes)]
    )  # (2, D)
    zeros = 1 - filled / np.array([[is_yes.sum()], [(~is_yes).sum()]])
    candidates = np.flatnonzero(1 - zeros.prod(axis=0) / 2 > MIN_LEAK_ROC_AUC)
    best: LeakingColumn | None = None
    for number in candidates:
        value = roc_auc(targets, columns[:, [number]].toarray().ravel())
        value = max(value, 1 - value)
        if value > (MIN_LEAK_ROC_AUC if best is None else best.roc_auc):
            best = LeakingColumn(names[int(number)], value)
    return best
