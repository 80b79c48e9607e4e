"""The order in which models read user sequences.

In: histories and (user, cut-off) pairs. Out: `UserBatch` after `UserBatch`: endless and shuffled
for training, once each for inference, if they are such as the model knows. Batches hold sequences
of similar length, so that attention pads little. The order depends on the seed and the step alone,
so it resumes anywhere.
"""

from collections import deque
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Protocol

import numpy as np

from userbert.data.batches import InputShape, UserBatch, in_order, input_shape, users_of
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import Vocabularies
from userbert.errors import ModelError
from userbert.progress import progress

_BUCKET_BATCHES = 32
"""Sequences are sorted by length within so many batches: enough to even out lengths, few enough
that a batch stays a random sample."""
_CHUNK = 8_192
_TOGETHER = 256
"""Batches of so many users in all are cut at once: a call costs more than what it does for few."""
_AHEAD = 2
"""Batches that are ready or being cut while a model learns from another: cutting takes about the
same time each, so more would only fill memory."""


class Batches(Protocol):
    """Training batches by step, counted from 0."""

    def __getitem__(self, step: int, /) -> UserBatch:
        """The batch of a step."""
        ...


def ahead(batches: Batches, first: int, end: int) -> Generator[UserBatch]:
    """The batches of the steps from `first` up to but without `end`, each cut before it is needed.

    A thread of its own cuts them in order. What it raises is raised here, in its turn. Close the
    generator to stop the thread.
    """
    thread = ThreadPoolExecutor(1, "ahead")
    steps = iter(range(first, end))
    try:
        coming = deque(thread.submit(batches.__getitem__, step) for step in islice(steps, _AHEAD))
        while coming:
            batch = coming.popleft().result()
            coming.extend(thread.submit(batches.__getitem__, step) for step in islice(steps, 1))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)


class SequenceBatches:
    """Endless training batches: `batches[step]` is a function of the seed and the step alone.

    `rows` and `cutoffs` are (P,): the pairs, and `numbers` what `UserBatch.index` calls them, 0, 1,
    … by default. `until` (P,) is how far each one's future goes, see `cut`. Each epoch holds every
    pair once, but for the remainder that fills no batch, or is beyond `batches_per_epoch`. Objects
    of one seed and one number of batches an epoch go through short and long batches in step, so
    that processes do not wait for each other.
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
    ) -> None:
        self.data, self.rows, self.cutoffs, self.hidden = data, rows, cutoffs, tuple(hidden)
        self.until = until
        self.numbers = np.arange(len(rows)) if numbers is None else numbers
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self.lengths = sequence_lengths(data, rows, cutoffs)
        self.batches_per_epoch = batches_per_epoch or len(rows) // self.batch_size
        self._together = max(1, _TOGETHER // self.batch_size)
        self._epoch = -1
        self._order = np.zeros((0, 0), dtype=np.int64)
        self._cut_at = (-1, -1)
        self._cut: UserBatch | None = None

    def __getitem__(self, step: int) -> UserBatch:
        """The batch of a step, counted from 0."""
        epoch, number = divmod(step, self.batches_per_epoch)
        group, place = divmod(number, self._together)
        if self._cut is None or self._cut_at != (epoch, group):
            self._cut_at, self._cut = (epoch, group), self._cut_group(epoch, group)
        first = place * self.batch_size
        return users_of(self._cut, first, first + self.batch_size)

    def _cut_group(self, epoch: int, group: int) -> UserBatch:
        """Several batches, one after the other."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffle(epoch)
        first = group * self._together
        pairs = self._order[first : first + self._together].ravel()
        until = None if self.until is None else self.until[pairs]
        users = cut(self.data, self.rows[pairs], self.cutoffs[pairs], self.hidden, until)
        return replace(users, index=self.numbers[pairs])

    def _shuffle(self, epoch: int) -> Int64:
        """(batches, batch size): the pairs of each batch of an epoch."""
        pairs = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        pairs = pairs[: self.batches_per_epoch * self.batch_size]
        bucket = np.arange(len(pairs)) // (_BUCKET_BATCHES * self.batch_size)
        batches = pairs[np.lexsort([self.lengths[pairs], bucket])].reshape(-1, self.batch_size)
        # A generator of its own: it must not depend on the number of pairs.
        return batches[np.random.default_rng([self.seed, epoch, 1]).permutation(len(batches))]


def check_fits(
    data: Histories, vocabularies: Vocabularies, shape: InputShape, hidden: Collection[str]
) -> None:
    """Raise `ModelError` if the ids or the words of the data are not those of a model."""
    place = getattr(data, "path", "the histories given")
    if data.vocabularies.fingerprint != vocabularies.fingerprint:
        raise ModelError(
            f"the ids in {place} mean other values than the model's. Prepare its logs with "
            "the model's vocabulary: userbert prepare schema.yaml -o DATA --vocabulary MODEL"
        )
    if input_shape(data.schema, data.vocabularies, hidden) != shape:
        raise ModelError(
            f"the segments of {place} are not the model's. Prepare its logs with the "
            "schema.yaml that lies in the model's folder."
        )


def in_turn(
    data: Histories,
    rows: Int64,
    cutoffs: Int64,
    *,
    batch_size: int,
    hidden: Collection[str] = (),
) -> Iterator[UserBatch]:
    """Every pair once, as they come: for few, of whom nobody waits for a bar."""
    for first in range(0, len(rows), batch_size):
        part = np.arange(first, min(first + batch_size, len(rows)))
        yield replace(cut(data, rows[part], cutoffs[part], hidden), index=part)


def in_length_order(
    data: Histories,
    rows: Int64,
    cutoffs: Int64,
    *,
    batch_size: int,
    hidden: Collection[str] = (),
    description: str = "reading users",
) -> Iterator[UserBatch]:
    """Every pair once, in chunks sorted by length; `UserBatch.index` points into the pairs."""
    with progress(description, len(rows)) as advance:
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            for batch in by_length(data, rows[part], cutoffs[part], batch_size, hidden):
                yield replace(batch, index=start + batch.index)
                advance(len(batch), "")


def by_length(
    data: Histories, rows: Int64, cutoffs: Int64, batch_size: int, hidden: Collection[str] = ()
) -> Iterator[UserBatch]:
    """Pairs (P,) in batches, the shortest sequences first; `UserBatch.index` points into them.

    All are cut at once, which takes a fraction of the time of cutting them batch by batch.
    """
    users = cut(data, rows, cutoffs, hidden)
    order = np.argsort(_word_counts(users), kind="stable")
    users = in_order(users, order)
    for first in range(0, len(order), batch_size):
        yield users_of(users, first, min(first + batch_size, len(order)))


def _word_counts(users: UserBatch) -> Int64:
    counts: Int64 = np.sum([segment.word_counts for segment in users.segments], axis=0)
    return counts


def sequence_lengths(data: Histories, rows: Int64, cutoffs: Int64) -> Int64:
    """(P,): the number of words of each pair's sequence."""
    lengths = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        lengths[part] = _word_counts(cut(data, rows[part], cutoffs[part]))
    return lengths
