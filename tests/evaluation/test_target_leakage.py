"""Target leakage is found where it is planted, and nowhere else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from userbert.evaluation.target_leakage import MIN_LEAK_ROC_AUC, LeakingColumn, find_leaking_column


def columns(seed: int, agreement: float) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Returns five columns and targets; the fourth column equals the target with a probability."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(300) < 0.3).astype(np.int64)
    values = rng.poisson(0.5, (300, 5)).astype(np.float32)
    values[:, 3] = np.where(rng.random(300) < agreement, targets, 1 - targets)
    return sparse.csr_matrix(values), targets


NAMES = ["a", "b", "c", "visits of /thanks, 7d", "e"]


def test_the_column_that_holds_the_answer_is_named() -> None:
    counts, targets = columns(0, agreement=1)
    assert find_leaking_column(counts, NAMES, targets) == LeakingColumn(
        "visits of /thanks, 7d", 1.0
    )
    assert find_leaking_column(counts, NAMES, 1 - targets) == LeakingColumn(
        "visits of /thanks, 7d", 1.0
    )


def test_a_strong_feature_is_no_leakage() -> None:
    counts, targets = columns(0, agreement=0.95)
    assert find_leaking_column(counts, NAMES, targets) is None


@given(seed=st.integers(0, 2**32 - 1), agreement=st.floats(0.97, 1))
def test_the_result_equals_a_search_of_every_column(seed: int, agreement: float) -> None:
    counts, targets = columns(seed, agreement)
    values = [roc_auc_score(targets, column) for column in counts.toarray().T]
    best = max(max(value, 1 - value) for value in values)
    leak = find_leaking_column(counts, NAMES, targets)
    assert (leak is not None) == (best > MIN_LEAK_ROC_AUC)
    if leak is not None:
        assert np.isclose(leak.roc_auc, best)
