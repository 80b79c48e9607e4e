"""Features that give an answer away: one column that tells nearly all of a task by itself.

In: aggregates with their names, answers of yes and no. Out: the telling column, if there is one.
`evaluate` warns of it: either a profile field or an action holds the answer, or the cut-off lies
after the label's own event.

Letters in shapes: B pairs, D columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.tasks.metrics import roc_auc

TELLING = 0.99
"""ROC-AUC of one column above which it is an answer and not a hint."""


@dataclass(frozen=True)
class Giveaway:
    """A column that tells the answer."""

    column: str
    roc_auc: float
    """Of the column by itself, in the direction in which it tells."""

    def warning(self, task: str) -> str:
        """Say what it means and what to do."""
        return (
            f"{task}: the one column {self.column!r} tells the answer (ROC-AUC {self.roc_auc:.3f} "
            "by itself). Does it hold the answer, or is the cut-off after the label's own event? "
            "Hide the field, or choose an earlier cut-off."
        )


def giveaway(
    counts: sparse.csr_matrix, names: Sequence[str], targets: NDArray[np.int64]
) -> Giveaway | None:
    """Find the column (of B by D) that alone tells the targets (B,) best, if it gives them away."""
    is_yes = targets == 1
    columns = counts.tocsc()
    # Pairs of a yes and a no in which both are zero are ties: they bound what a column can reach.
    filled = np.stack([np.diff(columns[side].indptr) for side in (is_yes, ~is_yes)])  # (2, D)
    zeros = 1 - filled / np.array([[is_yes.sum()], [(~is_yes).sum()]])
    candidates = np.flatnonzero(1 - zeros.prod(axis=0) / 2 > TELLING)
    best: Giveaway | None = None
    for number in candidates:
        value = roc_auc(targets, columns[:, [number]].toarray().ravel())
        value = max(value, 1 - value)
        if value > (TELLING if best is None else best.roc_auc):
            best = Giveaway(names[int(number)], value)
    return best
