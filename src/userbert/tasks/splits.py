"""Cross-validation by user: folds, and training and validation parts inside them.

In: user ids and targets. Out: `Split`s into training, validation and test pairs; all pairs of a
user are in the same part. Used by `evaluate` and `finetune`.

Letters in shapes: B (user, cut-off) pairs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Int64

VALIDATION_SHARE = 0.2
"""Share of a fold's non-test pairs on which penalties, rounds, epochs and models are chosen."""
MANY_PAIRS = 10_000
"""Number of training pairs from which on one validation part is enough to choose models, and trees
of different seeds hardly differ."""


@dataclass(frozen=True)
class Split:
    """Indices of a task's pairs. Models are fitted and chosen on `parts` alone."""

    parts: tuple[Int64, ...]
    """Non-test pairs in equal parts; the first is for validation, the others for training."""
    test: Int64
    """Test pairs, ascending."""
    many_pairs: int = MANY_PAIRS
    """Number of training pairs from which on the split is not small."""

    @cached_property
    def learning(self) -> Int64:
        """All training and validation pairs, ascending."""
        return np.sort(np.concatenate(self.parts))

    @property
    def validation(self) -> Int64:
        """First part, on which models are chosen."""
        return self.parts[0]

    @cached_property
    def train(self) -> Int64:
        """All parts but the first, ascending."""
        return np.sort(np.concatenate(self.parts[1:]))

    @property
    def is_small(self) -> bool:
        """Whether there are fewer than `many_pairs` training pairs.

        Chance then matters more, so models are chosen on all parts and averaged over seeds.
        """
        return len(self.train) < self.many_pairs

    @property
    def selection_parts(self) -> tuple[Int64, ...]:
        """Parts on which hyper-parameters are chosen: all if the split is small, else the first."""
        return self.parts if self.is_small else self.parts[:1]


def deal_users(
    user_ids: Sequence[str], targets: NDArray[Any], parts: int, seed: int
) -> NDArray[np.int64]:
    """Deals users into `parts` equal parts at random; returns the part of each pair (B,).

    Parts are stratified by class (B,); a user with several pairs counts with the largest class.
    Sets (B, C) are not stratified.
    """
    users, codes = np.unique(np.asarray(user_ids), return_inverse=True)
    stratum = np.zeros(len(users))
    if targets.ndim == 1:
        np.maximum.at(stratum, codes, targets)
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), stratum))
    part_of_user = np.empty(len(users), np.int64)
    part_of_user[order] = np.arange(len(users)) % parts
    return part_of_user[codes]


def learning_parts(
    user_ids: Sequence[str],
    targets: NDArray[Any],
    learning: Int64,
    seed: int,
    share: float = VALIDATION_SHARE,
) -> tuple[Int64, ...]:
    """Splits the pairs `learning` by user into equal parts, each with about `share` of the users.

    There are at least two parts. `learning` and the parts are indices into the pairs of `user_ids`
    (B,) and `targets` (B,) or (B, C).
    """
    ids = [user_ids[i] for i in learning]
    parts = max(2, round(1 / share))
    part_of_pair = deal_users(ids, targets[learning], parts, seed)
    return tuple(learning[part_of_pair == number] for number in range(parts))


def split_off_validation(
    user_ids: Sequence[str],
    targets: NDArray[Any],
    learning: Int64,
    seed: int,
    share: float = VALIDATION_SHARE,
) -> tuple[Int64, Int64]:
    """Splits the pairs `learning` by user; returns the training and the validation pairs.

    For the parameters, see `learning_parts`.
    """
    split = Split(learning_parts(user_ids, targets, learning, seed, share), learning[:0])
    return split.train, split.validation
