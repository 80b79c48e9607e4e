"""Which words pretraining selects, and which of these it hides (paper §3.2).

In: a batch and a generator. Out: a `Selection`. Only words are selected; profile fields never are.
Objectives use it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import UserBatch

Mask = tuple[NDArray[np.bool_], ...]
"""(W,) of each segment."""


@dataclass(frozen=True)
class Selection:
    """The words to be predicted."""

    selected: Mask
    zeroed: Mask
    """Of the selected words, those whose input is zero; the others stay as they are."""


def select_words(
    batch: UserBatch, generator: np.random.Generator, *, selected: float, zeroed: float
) -> Selection:
    """Select max(1, round(`selected` · n)) of a user's n words, each set of words alike.

    Each selected word is zeroed with the probability `zeroed`. A user without words has none.
    """
    counts = np.stack([segment.word_counts for segment in batch.segments])  # (S, B)
    users = np.arange(len(batch))
    user_of_word = np.concatenate([np.repeat(users, count) for count in counts])
    words = counts.sum(axis=0)  # (B,)
    wanted = np.where(words > 0, np.maximum(1, np.rint(selected * words)), 0).astype(np.int64)
    # The first words of each user in a random order are a uniform draw without replacement.
    order = np.lexsort((generator.random(len(user_of_word)), user_of_word))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(words) - words, words)
    is_selected = np.zeros(len(order), np.bool_)
    is_selected[order] = rank < np.repeat(wanted, words)
    is_zeroed = is_selected & (generator.random(len(order)) < zeroed)
    ends = np.cumsum(counts.sum(axis=1))[:-1]
    return Selection(tuple(np.split(is_selected, ends)), tuple(np.split(is_zeroed, ends)))
