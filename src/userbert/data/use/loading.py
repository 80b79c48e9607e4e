"""Batches of user sequences: endless and shuffled for training, each pair once for inference.

In: histories and (user, cut-off) pairs. Out: `UserBatch`es. Except for `batches_in_order`, a batch
holds sequences of similar length, so attention pads little. A training batch depends only on the
seed and the step, so training can resume at any step. `check_fits` compares data with a model.
"""

from collections import deque
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Protocol

import numpy as np

from userbert.data.batches import InputShape, UserBatch, input_shape, slice_users, take_users
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import Vocabularies
from userbert.errors import ModelError
from userbert.progress import progress

_BUCKET_BATCHES = 32
"""Sequences are sorted by length within this number of batches: enough for similar lengths in a
batch, few enough that a batch is still a random sample."""
_PAIRS_AT_A_TIME = 8_192
"""Maximum number of pairs per call of `cut` for inference, to bound memory."""
_USERS_AT_A_TIME = 256
"""Maximum number of users per call of `cut` for several training batches. A call has a fixed cost,
which small batches share."""
_BATCHES_AHEAD = 2
"""Batches to prepare ahead of the model."""


class Batches(Protocol):
    """Training batches by step, from 0."""

    def __getitem__(self, step: int, /) -> UserBatch:
        """Returns the batch of a step."""
        ...


def read_ahead(batches: Batches, first: int, end: int) -> Generator[UserBatch]:
    """Yields the batches of steps `first` to `end` - 1, in order; a thread prepares them ahead.

    Errors in the thread are raised at the step of their batch. Close the generator to stop the
    thread.
    """
    thread = ThreadPoolExecutor(1, "ahead")
    steps = iter(range(first, end))
    try:
        upcoming = deque(
            thread.submit(batches.__getitem__, step) for step in islice(steps, _BATCHES_AHEAD)
        )
        while upcoming:
            batch = upcoming.popleft().result()
            upcoming.extend(thread.submit(batches.__getitem__, step) for step in islice(steps, 1))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)


class SequenceBatches:
    """Endless training batches: `batches[step]` depends only on the arguments and the step.

    `rows` and `cutoffs` (P,) are the pairs. `numbers` (P,) are the pairs' values in
    `UserBatch.index`, by default 0, 1, …. With `until` (P,), µs since 1970, batches also hold the
    future of each pair up to that instant, see `cut`. An epoch has every pair once, except pairs
    that do not fill a batch or exceed `batches_per_epoch`. Processes whose objects have equal seeds
    and equal `batches_per_epoch` get batches of similar length at the same step, so they do not
    wait for each other. Consecutive batches are cut by one call, up to `users_at_a_time` users.
    """

    def __init__(
        self,
        data: PreparedData,
        rows: Int64,
        cutoffs: Int64,
        *,
        batch_size: int,
        seed: int,
        hidden: Collection[str] = (),
        numbers: Int64 | None = None,
        until: Int64 | None = None,
        batches_per_epoch: int | None = None,
        users_at_a_time: int = _USERS_AT_A_TIME,
    ) -> None:
        self.data, self.rows, self.cutoffs, self.hidden = data, rows, cutoffs, tuple(hidden)
        self.until = until
        self.numbers = np.arange(len(rows)) if numbers is None else numbers
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self.lengths = sequence_lengths(data, rows, cutoffs)
        self.batches_per_epoch = batches_per_epoch or len(rows) // self.batch_size
        self._batches_per_cut = max(1, users_at_a_time // self.batch_size)
        self._epoch = -1
        self._order = np.zeros((0, 0), dtype=np.int64)
        self._cached_group = (-1, -1)
        self._cached_users: UserBatch | None = None

    def __getitem__(self, step: int) -> UserBatch:
        """Returns the batch of a step, from 0."""
        epoch, batch_of_epoch = divmod(step, self.batches_per_epoch)
        group, batch_of_group = divmod(batch_of_epoch, self._batches_per_cut)
        if self._cached_users is None or self._cached_group != (epoch, group):
            self._cached_group = (epoch, group)
            self._cached_users = self._cut_group(epoch, group)
        first = batch_of_group * self.batch_size
        return slice_users(self._cached_users, first, first + self.batch_size)

    def _cut_group(self, epoch: int, group: int) -> UserBatch:
        """Cuts a group of batches; returns their users, batch after batch."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffle(epoch)
        first = group * self._batches_per_cut
        pairs = self._order[first : first + self._batches_per_cut].ravel()
        until = None if self.until is None else self.until[pairs]
        users = cut(self.data, self.rows[pairs], self.cutoffs[pairs], self.hidden, until)
        return replace(users, index=self.numbers[pairs])

    def _shuffle(self, epoch: int) -> Int64:
        """Returns the pairs of each batch of an epoch (batches, batch size)."""
        pairs = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        pairs = pairs[: self.batches_per_epoch * self.batch_size]
        bucket = np.arange(len(pairs)) // (_BUCKET_BATCHES * self.batch_size)
        batches = pairs[np.lexsort([self.lengths[pairs], bucket])].reshape(-1, self.batch_size)
        # A new generator, because the state of the first depends on the number of pairs.
        return batches[np.random.default_rng([self.seed, epoch, 1]).permutation(len(batches))]


def check_fits(
    data: Histories, vocabularies: Vocabularies, shape: InputShape, hidden: Collection[str]
) -> None:
    """Raises `ModelError` if ids or segments of the data differ from the model's."""
    source = getattr(data, "path", "these events")
    if data.vocabularies.fingerprint != vocabularies.fingerprint:
        raise ModelError(
            f"the ids in {source} stand for different values than in the model. Prepare the logs "
            "with the model's vocabulary: userbert prepare schema.yaml -o DATA --vocabulary MODEL"
        )
    if input_shape(data.schema, data.vocabularies, hidden) != shape:
        raise ModelError(
            f"the segments of {source} differ from the model's. Prepare the logs with the "
            "schema.yaml in the model's folder."
        )


def batches_in_order(
    data: Histories,
    rows: Int64,
    cutoffs: Int64,
    *,
    batch_size: int,
    hidden: Collection[str] = (),
) -> Iterator[UserBatch]:
    """Yields every pair once, in the order of the pairs, without a progress bar."""
    for first in range(0, len(rows), batch_size):
        index = np.arange(first, min(first + batch_size, len(rows)))
        yield replace(cut(data, rows[index], cutoffs[index], hidden), index=index)


def batches_by_length(
    data: Histories,
    rows: Int64,
    cutoffs: Int64,
    *,
    batch_size: int,
    hidden: Collection[str] = (),
    description: str = "reading users",
    pairs_at_a_time: int = _PAIRS_AT_A_TIME,
) -> Iterator[UserBatch]:
    """Yields every pair once, shortest first within each chunk of `pairs_at_a_time` pairs.

    `UserBatch.index` holds positions in `rows`. Shows a progress bar with `description`.
    """
    with progress(description, len(rows)) as advance:
        for start in range(0, len(rows), pairs_at_a_time):
            chunk = slice(start, start + pairs_at_a_time)
            for batch in chunk_by_length(data, rows[chunk], cutoffs[chunk], batch_size, hidden):
                yield replace(batch, index=start + batch.index)
                advance(len(batch), "")


def chunk_by_length(
    data: Histories, rows: Int64, cutoffs: Int64, batch_size: int, hidden: Collection[str] = ()
) -> Iterator[UserBatch]:
    """Yields batches of pairs (P,), shortest first. `UserBatch.index` holds positions in `rows`.

    Cuts all pairs by one call, which is several times as fast as a call per batch.
    """
    users = cut(data, rows, cutoffs, hidden)
    order = np.argsort(_word_counts(users), kind="stable")
    users = take_users(users, order)
    for first in range(0, len(order), batch_size):
        yield slice_users(users, first, min(first + batch_size, len(order)))


def _word_counts(users: UserBatch) -> Int64:
    counts: Int64 = np.sum([segment.word_counts for segment in users.segments], axis=0)
    return counts


def sequence_lengths(
    data: Histories, rows: Int64, cutoffs: Int64, *, pairs_at_a_time: int = _PAIRS_AT_A_TIME
) -> Int64:
    """Returns the number of words of each pair's sequence (P,).

    Cuts at most `pairs_at_a_time` pairs at a time, to bound memory.
    """
    lengths = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), pairs_at_a_time):
        chunk = slice(start, start + pairs_at_a_time)
        lengths[chunk] = _word_counts(cut(data, rows[chunk], cutoffs[chunk]))
    return lengths
