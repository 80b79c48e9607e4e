"""The summary of a user's history: one token that counts, where words are means.

In: a `UserBatch`. Out: a vector a user, made of how often each value of each attribute stood in the
visible actions, of how many actions there were and of how many words. A mean forgets how many, and
a rare, telling item fades in it; here it has a row of the full width. `InputEmbedding` adds it.

Letters in shapes: B users, S segments, H hidden, R rows read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, Int64, UserBatch, without_actions
from userbert.model.tables import AttributeTables, as_tensor


@dataclass(frozen=True)
class Counted:
    """Users as weighted rows of the tables."""

    rows: Int64
    """(R,): of each user, those of the values in the history, each once."""
    offsets: Int64
    """(B + 1,): the rows of user b are `offsets[b]:offsets[b + 1]`."""
    weights: NDArray[np.float32]
    """(R,): the logarithms of the values' counts, of unit length for each user."""


class HistorySummary(nn.Module):
    """Sums of values' vectors, weighted by the logarithms of their counts."""

    def __init__(self, shape: InputShape, hidden: int) -> None:
        super().__init__()
        sizes = [attribute.size for segment in shape.segments for attribute in segment.attributes]
        self.tables = AttributeTables(sizes, hidden)
        self.totals = nn.Linear(2 * len(shape.segments), hidden)

    def forward(
        self, batch: UserBatch, zeroed: Sequence[NDArray[np.bool_]] | None = None
    ) -> Tensor:
        """Summarise users: (B, H). Words that are `zeroed`, (W,) of each segment, are left out."""
        if zeroed is not None:
            batch = without_actions(batch, [
                np.repeat(mask, np.diff(segment.action_offsets))
                for mask, segment in zip(zeroed, batch.segments, strict=True)
            ])  # fmt: skip
        counted = self.counted(batch)
        device = self.tables.weight.device
        values = self.tables.sum_groups(counted.rows, counted.offsets, counted.weights)
        return values + self.totals(as_tensor(_totals(batch), device))  # type: ignore[no-any-return]

    def counted(self, batch: UserBatch) -> Counted:
        """What a batch's users are the sums of."""
        keys = []
        first = 0
        size = self.tables.weight.shape[0]
        for segment in batch.segments:
            tables = np.arange(first, first + len(segment.ids))
            rows = self.tables.rows(segment.ids, tables[:, None])  # (A, N)
            keys.append((segment.user_of_action * size + rows)[rows > 0])
            first += len(segment.ids)
        together = np.sort(np.concatenate(keys))
        starts = np.flatnonzero(np.diff(together, prepend=-1))
        counts = np.log1p(np.diff(np.append(starts, len(together))))
        users, rows = np.divmod(together[starts], size)
        squares = np.bincount(users, counts**2, minlength=len(batch))
        weights = counts / np.sqrt(squares)[users]
        offsets = np.searchsorted(users, np.arange(len(batch) + 1))
        return Counted(rows, offsets, weights.astype(np.float32))


def _totals(batch: UserBatch) -> NDArray[np.float32]:
    """Log counts of actions and of words: (B, 2 S)."""
    counts = [
        count
        for segment in batch.segments
        for count in (np.diff(segment.action_offsets[segment.word_offsets]), segment.word_counts)
    ]
    logs: NDArray[np.float64] = np.log1p(np.stack(counts, axis=1))
    return logs.astype(np.float32)
