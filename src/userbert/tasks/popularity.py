"""What is popular, with all users and with each: the yardsticks of every comparison.

In: the words before a cut-off, or a task's targets. Out: scores (B, C) of an attribute's values,
or of yes-or-no tasks the share of yes.
Used by `evaluate`; C classes are the attribute's known values, class c being the id c + 2.
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
    """Share of the pairs (B, C) whose next word holds each value: (C,). Give training pairs only.

    One imaginary pair that holds everything keeps unseen values above nothing at all.
    """
    return (targets.sum(axis=0) + 1 / targets.shape[1]) / (len(targets) + 1)  # type: ignore[no-any-return]


def own_popularity(
    words_with: sparse.csr_matrix, popularity: NDArray[np.float64], prior: float = 1
) -> NDArray[np.float64]:
    """Score values by how many of the user's words held them, (B, C), and by popularity (C,).

    Popularity is below one, so that of whole words and without a larger `prior` it only breaks
    ties.
    """
    return words_with.toarray() + prior * popularity  # type: ignore[no-any-return]


def words_with_each_value(
    data: PreparedData,
    attribute: tuple[str, str],
    rows: Int64,
    cutoffs: Int64,
    *,
    days: int | None = None,
    half_life: int | None = None,
) -> sparse.csr_matrix:
    """Count the words of each user before the cut-off that held each value: (B, C) float32.

    `attribute` is (segment, attribute). Words, not actions: ten packs in one basket are one wish.
    With `days`, only the actions of so many days before the cut-off count; with a `half_life`, in
    days, a word counts half as much for each that lies between.
    """
    segment, name = attribute
    start = None if days is None else cutoffs - days * DAY_US
    actions = actions_between(data, segment, rows, start, cutoffs)
    vocabularies = data.vocabularies.segments[segment]
    ids = actions.ids[list(vocabularies).index(name)]
    size = vocabularies[name].size
    once = _first_of_its_value_in_its_word(ids, actions.word_starts, actions.offsets)
    weights = None
    if half_life is not None:
        ages = (np.repeat(cutoffs, np.diff(actions.offsets)) - actions.times) / DAY_US
        weights = (0.5 ** (ages / half_life)).astype(np.float32)
    return count_ids(ids, once, actions.offsets, size, weights)[:, FIRST_VALUE - 1 :]


def _first_of_its_value_in_its_word(
    ids: Int32, word_starts: NDArray[np.bool_], offsets: Int64
) -> NDArray[np.bool_]:
    """(N,): whether no earlier action of the same word and user has the same id."""
    starts: NDArray[Any] = word_starts.copy()
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    words = np.cumsum(starts)
    order = np.lexsort((ids, words))
    first = np.ones(len(ids), bool)
    same = (np.diff(words[order]) == 0) & (np.diff(ids[order]) == 0)
    first[order[1:][same]] = False
    return first


def base_rate(targets: NDArray[Any], split: Split) -> Scored:
    """Give everybody the share of positives: what one knows without looking at users."""
    return Scored(np.full(len(split.test), targets[split.learning].mean()), 0.5)
