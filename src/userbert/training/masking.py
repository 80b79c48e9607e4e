"""Which words and actions pretraining predicts, and which of these it hides (paper §3.2).

In: a batch and a generator. Out: a `Selection`. Only words are selected; profile fields never are.
What becomes of a word follows from one draw, its user's number among all pairs and its own number
in the user, so it is the same however a batch is split over processes. Objectives use it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import UserBatch
from userbert.data.ragged import UInt64, list_numbers, ranges

Mask = tuple[NDArray[np.bool_], ...]
"""(W,) of each segment."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


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

    Each selected word is zeroed with the probability `zeroed`. A user without words has none. One
    number is drawn from the generator, whatever the batch holds.
    """
    draw = generator.integers(2**64, dtype=np.uint64)
    counts = np.stack([segment.word_counts for segment in batch.segments])  # (S, B)
    user_of_word = np.concatenate([list_numbers(part.word_offsets) for part in batch.segments])
    words = counts.sum(axis=0)  # (B,)
    keys = _scatter(_scatter(batch.index.astype(np.uint64) ^ draw)[user_of_word] + _numbers(counts))
    wanted = np.where(words > 0, np.maximum(1, np.rint(selected * words)), 0).astype(np.int64)
    # The first words of each user in a random order are a uniform draw without replacement.
    order = np.lexsort((keys, user_of_word))
    rank = ranges(0, words)
    is_selected = np.zeros(len(order), np.bool_)
    is_selected[order] = rank < np.repeat(wanted, words)
    is_zeroed = is_selected & (_uniform(_scatter(keys ^ draw)) < zeroed)
    ends = np.cumsum(counts.sum(axis=1))[:-1]
    return Selection(tuple(np.split(is_selected, ends)), tuple(np.split(is_zeroed, ends)))


def hide_actions(
    batch: UserBatch, generator: np.random.Generator, *, least: float, most: float
) -> tuple[NDArray[np.bool_], ...]:
    """Hide a share of each user's actions, between `least` and `most`: (N,) of each segment.

    One half of the share goes by whole words, the other by single actions. One number is drawn
    from the generator, whatever the batch holds.
    """
    draw = generator.integers(2**64, dtype=np.uint64)
    keys = _scatter(batch.index.astype(np.uint64) ^ draw)
    half = (least + (most - least) * _uniform(_scatter(keys))) / 2  # (B,)
    hidden = []
    for number, segment in enumerate(batch.segments, 1):
        own = _scatter(keys ^ _scatter(np.full(1, number, np.uint64)))
        user_of_word = list_numbers(segment.word_offsets)
        words = np.arange(len(user_of_word)) - segment.word_offsets[user_of_word]
        by_word = _chance(own[user_of_word], 2 * words) < half[user_of_word]
        users = segment.user_of_action
        actions = np.arange(len(users)) - segment.action_offsets[segment.word_offsets[users]]
        by_action = _chance(own[users], 2 * actions + 1) < half[users]
        hidden.append(by_action | np.repeat(by_word, np.diff(segment.action_offsets)))
    return tuple(hidden)


def _chance(keys: UInt64, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    return _uniform(_scatter(keys + numbers.astype(np.uint64)))


def _numbers(counts: NDArray[np.int64]) -> UInt64:
    """(W,): the number of each word in its user, segment after segment, from (S, B) counts."""
    before = (np.cumsum(counts, axis=0) - counts).ravel()  # the user's words in earlier segments
    return ranges(before, counts.ravel()).astype(np.uint64)


def _scatter(numbers: UInt64) -> UInt64:
    """Random-looking numbers, a different one for each: a step of splitmix64 (Steele et al. 2014).

    Nothing is carried from one number to the next, as a generator's state would be.
    """
    mixed = numbers + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _uniform(bits: UInt64) -> NDArray[np.float64]:
    """Numbers from 0 up to but without 1, from random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
