"""Who is learned from and who is asked: folds of users, and what is chosen on inside them.

In: labels. Out: `Split`s into training, validation and test pairs. Used by `evaluate` and
`finetune`. All pairs of a user are on one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Int64

VALIDATION_SHARE = 0.2
"""Of the training part of a fold, on which penalties, rounds, epochs and the best are chosen."""
ENOUGH = 10_000
"""Of so many pairs one fifth says what is better, and one draw of trees is like the next."""


@dataclass(frozen=True)
class Split:
    """Indices into the pairs of a task. Whatever is learned or chosen comes from `parts`."""

    parts: tuple[Int64, ...]
    """Pairs to learn from, in equal parts."""
    test: Int64

    @cached_property
    def learning(self) -> Int64:
        """All pairs that may be learned from, in rising order."""
        return np.sort(np.concatenate(self.parts))

    @property
    def validation(self) -> Int64:
        """The first part, on which models are compared."""
        return self.parts[0]

    @cached_property
    def train(self) -> Int64:
        """The other parts, in rising order."""
        return np.sort(np.concatenate(self.parts[1:]))

    @property
    def is_small(self) -> bool:
        """Whether fewer than `ENOUGH` are learned from, so that luck is worth the time it takes."""
        return len(self.train) < ENOUGH

    @property
    def tried(self) -> tuple[Int64, ...]:
        """Parts to choose on: all, or of many pairs the first, which then says it as well."""
        return self.parts if self.is_small else self.parts[:1]


def parts_of_users(
    user_ids: Sequence[str], targets: NDArray[Any], parts: int, seed: int
) -> NDArray[np.int64]:
    """Deal users into equal parts at random: (B,) part numbers.

    Classes (B,) are dealt evenly, a user with several pairs counting as the largest; of sets
    (B, C) nothing is evened out.
    """
    users, codes = np.unique(np.asarray(user_ids), return_inverse=True)
    stratum = np.zeros(len(users))
    if targets.ndim == 1:
        np.maximum.at(stratum, codes, targets)
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), stratum))
    part = np.empty(len(users), np.int64)
    part[order] = np.arange(len(users)) % parts
    return part[codes]


def parts_to_learn_from(
    user_ids: Sequence[str],
    targets: NDArray[Any],
    learning: Int64,
    seed: int,
    share: float = VALIDATION_SHARE,
) -> tuple[Int64, ...]:
    """Deal pairs to learn from into parts, each such a share of them, by user."""
    ids = [user_ids[i] for i in learning]
    parts = max(2, round(1 / share))
    part = parts_of_users(ids, targets[learning], parts, seed)
    return tuple(learning[part == number] for number in range(parts))


def split_off_validation(
    user_ids: Sequence[str],
    targets: NDArray[Any],
    learning: Int64,
    seed: int,
    share: float = VALIDATION_SHARE,
) -> tuple[Int64, Int64]:
    """Split pairs to learn from into training and validation pairs, by user."""
    split = Split(parts_to_learn_from(user_ids, targets, learning, seed, share), learning[:0])
    return split.train, split.validation
