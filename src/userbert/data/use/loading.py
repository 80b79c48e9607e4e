"""Batches of user sequences: endless and shuffled for training, each pair once for inference.

In: histories and (user, cut-off) pairs. Out: `UserBatch`es. A batch holds sequences of similar
length, so attention pads little. The order depends on the seed and the step alone, so training can
resume anywhere. `check_fits` compares data with a model.
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
"""Pairs per call of `cut`."""
_USERS_AT_A_TIME = 256
"""Small batches are cut together, up to this number of users, to spread the cost of a call."""
_AHEAD = 2
"""Batches to cut ahead of the model. All cuts take equally long, so more would only fill memory."""


class Batches(Protocol):
    """Training batches by step, from 0."""

    def __getitem__(self, step: int, /) -> UserBatch:
        """Returns the batch of a step."""
        ...


def read_ahead(batches: Batches, first: int, end: int) -> Generator[UserBatch]:
    """Yields the batches of steps `first` to `end` - 1, which a thread cuts ahead, in order.

    Errors of the thread are raised here at their step. Close the generator to stop the thread.
    """
    thread = ThreadPoolExecutor(1, "ahead")
    steps = iter(range(first, end))
    try:
        upcoming = deque(thread.submit(batches.__getitem__, step) for step in islice(steps, _AHEAD))
        while upcoming:
            batch = upcoming.popleft().result()
            upcoming.extend(thread.submit(batches.__getitem__, step) for step in islice(steps, 1))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)


class SequenceBatches:
    """Endless training batches: `batches[step]` is a function of the seed and the step alone.

    `rows` and `cutoffs` (P,) are the pairs, `numbers` (P,) their values of `UserBatch.index`, by
    default 0, 1, …. `until` (P,) ends each pair's future, see `cut`. An epoch has every pair once,
    except those that do not fill a batch or exceed `batches_per_epoch`. Objects with equal seeds
    and batches per epoch have short and long batches at the same steps, so processes do not wait
    for each other. Small batches are cut together, up to `users_at_a_time` users.
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
        self._cut_at = (-1, -1)
        self._cut: UserBatch | None = None

    def __getitem__(self, step: int) -> UserBatch:
        """Returns the batch of a step, from 0."""
        epoch, number = divmod(step, self.batches_per_epoch)
        group, place = divmod(number, self._batches_per_cut)
        if self._cut is None or self._cut_at != (epoch, group):
            self._cut_at, self._cut = (epoch, group), self._cut_group(epoch, group)
        first = place * self.batch_size
        return slice_users(self._cut, first, first + self.batch_size)

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
        # A second generator, so that the order does not depend on the number of pairs.
        return batches[np.random.default_rng([self.seed, epoch, 1]).permutation(len(batches))]


def check_fits(
    data: Histories, vocabularies: Vocabularies, shape: InputShape, hidden: Collection[str]
) -> None:
    """Raises `ModelError` if ids or segments of the data differ from the model's."""
    place = getattr(data, "path", "these events")
    if data.vocabularies.fingerprint != vocabularies.fingerprint:
        raise ModelError(
            f"the ids in {place} mean other values than the model's. Prepare the logs with the "
            "model's vocabulary: userbert prepare schema.yaml -o DATA --vocabulary MODEL"
        )
    if input_shape(data.schema, data.vocabularies, hidden) != shape:
        raise ModelError(
            f"the segments of {place} differ from the model's. Prepare the logs with the "
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
        part = np.arange(first, min(first + batch_size, len(rows)))
        yield replace(cut(data, rows[part], cutoffs[part], hidden), index=part)


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
    """Yields every pair once, in chunks of `pairs_at_a_time` pairs that are sorted by length.

    `UserBatch.index` refers to the pairs.
    """
    with progress(description, len(rows)) as advance:
        for start in range(0, len(rows), pairs_at_a_time):
            part = slice(start, start + pairs_at_a_time)
            for batch in chunk_by_length(data, rows[part], cutoffs[part], batch_size, hidden):
                yield replace(batch, index=start + batch.index)
                advance(len(batch), "")


def chunk_by_length(
    data: Histories, rows: Int64, cutoffs: Int64, batch_size: int, hidden: Collection[str] = ()
) -> Iterator[UserBatch]:
    """Yields batches of pairs (P,), shortest first. `UserBatch.index` refers to the pairs.

    Cuts all pairs at once, which is several times as fast as batch by batch.
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
    """Returns the number of words of each pair's sequence (P,); cuts `pairs_at_a_time` pairs."""
    lengths = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), pairs_at_a_time):
        part = slice(start, start + pairs_at_a_time)
        lengths[part] = _word_counts(cut(data, rows[part], cutoffs[part]))
    return lengths
