"""Giveaways: found where they are, and nowhere else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import roc_auc_score

from userbert.evaluation.target_leakage import TELLING, Giveaway, giveaway


def columns(seed: int, telling: float) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Five columns, of which the fourth tells the answer with a chance to be wrong."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(300) < 0.3).astype(np.int64)
    values = rng.poisson(0.5, (300, 5)).astype(np.float32)
    values[:, 3] = np.where(rng.random(300) < telling, targets, 1 - targets)
    return sparse.csr_matrix(values), targets


NAMES = ["a", "b", "c", "visits of /thanks, 7d", "e"]


def test_the_column_that_holds_the_answer_is_named() -> None:
    counts, targets = columns(0, telling=1)
    assert giveaway(counts, NAMES, targets) == Giveaway("visits of /thanks, 7d", 1.0)
    assert giveaway(counts, NAMES, 1 - targets) == Giveaway("visits of /thanks, 7d", 1.0)


def test_a_strong_hint_is_no_giveaway() -> None:
    counts, targets = columns(0, telling=0.95)
    assert giveaway(counts, NAMES, targets) is None


@given(seed=st.integers(0, 2**32 - 1), telling=st.floats(0.97, 1))
def test_it_is_what_looking_at_every_column_finds(seed: int, telling: float) -> None:
    counts, targets = columns(seed, telling)
    values = [roc_auc_score(targets, column) for column in counts.toarray().T]
    best = max(max(value, 1 - value) for value in values)
    found = giveaway(counts, NAMES, targets)
    assert (found is not None) == (best > TELLING)
    if found is not None:
        assert np.isclose(found.roc_auc, best)
