"""Batches of labelled users for fine-tuning: epoch after epoch, each label once per epoch.

In: the labels' (user, cut-off) pairs and the indices to train on. Out: a `UserBatch` for each step,
whose `index` points into the labels. Used by `finetune` and the experiments.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from userbert.data.batches import UserBatch, slice_users
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.loading import sequence_lengths
from userbert.data.use.pairs import Pairs
from userbert.data.use.sequences import cut

_MAX_PARTS = 3
"""Maximum number of parts that `split_by_length` makes of a batch; with more parts, the overhead of
a call exceeds the saved padding."""


class LabelledBatches:
    """Endless batches in random order, with every training pair once per epoch.

    Users in a batch are sorted by length.

    `train_rows` are the indices into `pairs` to train on. `hidden` names the profile fields that
    the batches leave out.
    """

    def __init__(
        self,
        data: PreparedData,
        pairs: Pairs,
        train_rows: Int64,
        *,
        batch_size: int,
        seed: int,
        hidden: tuple[str, ...],
    ) -> None:
        self.per_epoch = -(-len(train_rows) // batch_size)
        """Number of batches per epoch."""
        self._train_rows, self._seed = train_rows, seed
        self._epoch = -1
        self._batches: list[Int64] = []
        self._data, self._pairs, self._hidden = data, pairs, hidden
        # Only the training pairs: counting the words of all pairs may take longer than training.
        self._lengths = np.zeros(len(pairs.rows), np.int64)
        self._lengths[train_rows] = sequence_lengths(
            data, pairs.rows[train_rows], pairs.cutoffs[train_rows]
        )

    @property
    def words_per_epoch(self) -> int:
        """Total number of words of the training pairs."""
        return int(self._lengths[self._train_rows].sum())

    def __getitem__(self, step: int, /) -> UserBatch:
        """Returns the batch of a step; steps count from 0."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._train_rows)
            self._epoch, self._batches = epoch, np.array_split(order, self.per_epoch)
        index = self._batches[number]
        index = index[np.argsort(self._lengths[index], kind="stable")]
        rows, cutoffs = self._pairs.rows[index], self._pairs.cutoffs[index]
        return replace(cut(self._data, rows, cutoffs, self._hidden), index=index)


def split_by_length(batch: UserBatch) -> Iterator[UserBatch]:
    """Splits a batch, whose users are sorted by length, into parts of users of similar lengths."""
    ends = np.linspace(0, len(batch), min(_MAX_PARTS, len(batch)) + 1).astype(int).tolist()
    for first, last in pairwise(ends):
        yield slice_users(batch, first, last)
