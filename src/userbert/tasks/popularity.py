"""Popularity baselines: popular values of all users, of each user, and the base rate.

In: the words before a cut-off, or a task's targets. Out: scores (B, C) of an attribute's values;
for binary tasks, the share of positives. Used by `evaluate` and the experiments.

Letters in shapes: B (user, cut-off) pairs, C classes, N actions of all pairs. The classes are the
attribute's known values: class c is the id c + 2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int32, Int64
from userbert.data.store import PreparedData
from userbert.data.use.sequences import actions_between
from userbert.data.vocabulary import FIRST_VALUE
from userbert.tasks.aggregates import count_ids
from userbert.tasks.blending import Scored
from userbert.tasks.splits import Split


def popularity(targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns the share of pairs whose next word holds each value: (B, C) → (C,).

    Pass no test pairs. One added pair, in which each value counts 1 / C, keeps the share of unseen
    values above zero.
    """
    return (targets.sum(axis=0) + 1 / targets.shape[1]) / (len(targets) + 1)  # type: ignore[no-any-return]


def own_popularity(
    word_counts: sparse.csr_matrix, popularity: NDArray[np.float64], prior: float = 1
) -> NDArray[np.float64]:
    """Returns scores (B, C): the user's words with each value, plus `prior` times popularity (C,).

    Popularity is below 1, so with unweighted words and `prior` 1 it only breaks ties.
    """
    return word_counts.toarray() + prior * popularity  # type: ignore[no-any-return]


def words_with_each_value(
    data: PreparedData,
    attribute: tuple[str, str],
    rows: Int64,
    cutoffs: Int64,
    *,
    days: int | None = None,
    half_life: int | None = None,
) -> sparse.csr_matrix:
    """Counts the words of each user before the cut-off that held each value: (B, C) float32.

    `attribute` is (segment, attribute). Words are counted, not actions, so that ten packs in one
    basket count once. With `days`, only actions of the last `days` days count. With `half_life`, in
    days, a word's weight halves with each half-life of its age.
    """
    segment, name = attribute
    start = None if days is None else cutoffs - days * DAY_US
    actions = actions_between(data, segment, rows, start, cutoffs)
    vocabularies = data.vocabularies.segments[segment]
    ids = actions.ids[list(vocabularies).index(name)]
    size = vocabularies[name].size
    is_first = _is_first_in_word(ids, actions.word_starts, actions.offsets)
    weights = None
    if half_life is not None:
        ages = (np.repeat(cutoffs, np.diff(actions.offsets)) - actions.times) / DAY_US
        weights = (0.5 ** (ages / half_life)).astype(np.float32)
    return count_ids(ids, is_first, actions.offsets, size, weights)[:, FIRST_VALUE - 1 :]


def _is_first_in_word(
    ids: Int32, word_starts: NDArray[np.bool_], offsets: Int64
) -> NDArray[np.bool_]:
    """Returns whether each action is the first with its id in its word (N,)."""
    starts: NDArray[Any] = word_starts.copy()
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    words = np.cumsum(starts)
    order = np.lexsort((ids, words))
    is_first = np.ones(len(ids), bool)
    is_repeat = (np.diff(words[order]) == 0) & (np.diff(ids[order]) == 0)
    is_first[order[1:][is_repeat]] = False
    return is_first


def base_rate(targets: NDArray[Any], split: Split) -> Scored:
    """Scores every test pair with the share of positives among the non-test pairs.

    The validation ROC-AUC of a constant score is 0.5.
    """
    return Scored(np.full(len(split.test), targets[split.learning].mean()), 0.5)
