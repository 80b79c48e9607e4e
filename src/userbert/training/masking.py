"""Masking: selects the words and actions that pretraining predicts or hides (paper §3.2).

In: a batch and a generator. Out: a `Selection` of words, or masks of hidden actions. Profile fields
are never masked. The result for a word or an action depends only on one random draw, the index of
the pair and the index of the word or action within the user, so it does not depend on how a batch
is split over processes. Objectives use this module.

Letters in shapes: B users, S segments, W words of a segment or of all segments, N actions of a
segment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import UserBatch
from userbert.data.ragged import UInt64, list_numbers, ranges

Mask = tuple[NDArray[np.bool_], ...]
"""A mask (W,) of words per segment."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Increment of splitmix64: 2^64 divided by the golden ratio."""


@dataclass(frozen=True)
class Selection:
    """Masks of the words to predict and of the words to hide."""

    selected: Mask
    """Words to predict."""
    zeroed: Mask
    """Selected words whose input is zeroed; the other selected words stay visible."""


def select_words(
    batch: UserBatch, generator: np.random.Generator, *, selected: float, zeroed: float
) -> Selection:
    """Selects max(1, round(`selected` · n)) of a user's n words; every subset is equally likely.

    Each selected word is zeroed with probability `zeroed`. For users without words, nothing is
    selected. The generator draws exactly one number, for every batch.
    """
    draw = generator.integers(2**64, dtype=np.uint64)
    counts = np.stack([segment.word_counts for segment in batch.segments])  # (S, B)
    user_of_word = np.concatenate([list_numbers(part.word_offsets) for part in batch.segments])
    totals = counts.sum(axis=0)  # (B,)
    keys = _hash(_hash(batch.index.astype(np.uint64) ^ draw)[user_of_word] + _word_numbers(counts))
    quota = np.where(totals > 0, np.maximum(1, np.rint(selected * totals)), 0).astype(np.int64)
    # Taking the first words of each user in random order is a uniform draw without replacement.
    order = np.lexsort((keys, user_of_word))
    rank = ranges(0, totals)
    is_selected = np.zeros(len(order), np.bool_)
    is_selected[order] = rank < np.repeat(quota, totals)
    is_zeroed = is_selected & (_uniform(_hash(keys ^ draw)) < zeroed)
    ends = np.cumsum(counts.sum(axis=1))[:-1]
    return Selection(tuple(np.split(is_selected, ends)), tuple(np.split(is_zeroed, ends)))


def hide_actions(
    batch: UserBatch, generator: np.random.Generator, *, min_share: float, max_share: float
) -> tuple[NDArray[np.bool_], ...]:
    """Hides random words and actions of each user; returns a mask (N,) of actions per segment.

    For each user, a share s is drawn between `min_share` and `max_share`. Each word is hidden with
    probability s / 2, and so is each action, whether or not its word is hidden. So an action is
    hidden with probability s - s² / 4. The generator draws exactly one number, for every batch.
    """
    draw = generator.integers(2**64, dtype=np.uint64)
    keys = _hash(batch.index.astype(np.uint64) ^ draw)
    half = (min_share + (max_share - min_share) * _uniform(_hash(keys))) / 2  # (B,)
    hidden = []
    for number, segment in enumerate(batch.segments, 1):
        segment_keys = _hash(keys ^ _hash(np.full(1, number, np.uint64)))
        user_of_word = list_numbers(segment.word_offsets)
        word_numbers = np.arange(len(user_of_word)) - segment.word_offsets[user_of_word]
        by_word = _uniform_of(segment_keys[user_of_word], 2 * word_numbers) < half[user_of_word]
        users = segment.user_of_action
        action_numbers = np.arange(len(users)) - segment.action_offsets[segment.word_offsets[users]]
        by_action = _uniform_of(segment_keys[users], 2 * action_numbers + 1) < half[users]
        hidden.append(by_action | np.repeat(by_word, np.diff(segment.action_offsets)))
    return tuple(hidden)


def _uniform_of(keys: UInt64, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns a number in [0, 1) for each pair of key and number, as if drawn uniformly."""
    return _uniform(_hash(keys + numbers.astype(np.uint64)))


def _word_numbers(counts: NDArray[np.int64]) -> UInt64:
    """Returns each word's index within its user (W,), segment by segment.

    `counts` (S, B) is the number of words by segment and user.
    """
    before = (np.cumsum(counts, axis=0) - counts).ravel()  # the user's words in earlier segments
    return ranges(before, counts.ravel()).astype(np.uint64)


def _hash(numbers: UInt64) -> UInt64:
    """Hashes numbers one to one to random-looking numbers: splitmix64 (Steele et al. 2014).

    Unlike a generator, it keeps no state between numbers.
    """
    mixed = numbers + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _uniform(bits: UInt64) -> NDArray[np.float64]:
    """Turns 64 random bits each into uniform numbers in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
