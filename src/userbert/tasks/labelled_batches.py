"""The order in which labels are learned from: epoch after epoch, each label once in each.

In: labels' pairs, and which of them to learn from. Out: `UserBatch` by step, whose `index` points
into the labels. `finetune` and the experiments learn from it.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from userbert.data.batches import UserBatch, users_of
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.loading import sequence_lengths
from userbert.data.use.pairs import Pairs
from userbert.data.use.sequences import cut

_PARTS = 3
"""As many as pay: of a few users, a call costs more than what it does for them."""


class LabelledBatches:
    """Batches of an epoch after another, in a random order; every pair once an epoch.

    `chosen` are indices into `pairs`. In a batch, users stand in the order of their lengths.
    """

    def __init__(
        self,
        data: PreparedData,
        pairs: Pairs,
        chosen: Int64,
        *,
        batch_size: int,
        seed: int,
        hidden: tuple[str, ...],
    ) -> None:
        self.per_epoch = -(-len(chosen) // batch_size)
        self._chosen, self._seed = chosen, seed
        self._epoch = -1
        self._batches: list[Int64] = []
        self._data, self._pairs, self._hidden = data, pairs, hidden
        # Of the few that are chosen alone: all would take longer than to learn from them.
        self._lengths = np.zeros(len(pairs.rows), np.int64)
        self._lengths[chosen] = sequence_lengths(data, pairs.rows[chosen], pairs.cutoffs[chosen])

    @property
    def words_per_epoch(self) -> int:
        """The words of all that are learned from."""
        return int(self._lengths[self._chosen].sum())

    def __getitem__(self, step: int, /) -> UserBatch:
        """The batch of a step, counted from 0."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._chosen)
            self._epoch, self._batches = epoch, np.array_split(order, self.per_epoch)
        index = self._batches[number]
        index = index[np.argsort(self._lengths[index], kind="stable")]
        rows, cutoffs = self._pairs.rows[index], self._pairs.cutoffs[index]
        return replace(cut(self._data, rows, cutoffs, self._hidden), index=index)


def parts_of(batch: UserBatch) -> Iterator[UserBatch]:
    """Slice a batch, users in the order of their lengths, into parts of similar lengths."""
    ends = np.linspace(0, len(batch), min(_PARTS, len(batch)) + 1).astype(int).tolist()
    for first, last in pairwise(ends):
        yield users_of(batch, first, last)
