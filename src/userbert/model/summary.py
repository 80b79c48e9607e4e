"""The summary of a user's history: one token that counts, where words are means.

In: a `UserBatch`. Out: a vector a user, made of how often each value of each attribute stood in the
visible actions, of how many actions there were and of how many words. A mean forgets how many, and
a rare, telling item fades in it; here it has a row of the full width. `InputEmbedding` adds it.

Letters in shapes: B users, H hidden.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch, without_actions
from userbert.model.indices import Counted, counted, summary_tables, totals
from userbert.model.tables import AttributeTables, as_tensor


class HistorySummary(nn.Module):
    """Sums of values' vectors, weighted by the logarithms of their counts."""

    def __init__(self, shape: InputShape, hidden: int) -> None:
        super().__init__()
        self.tables = AttributeTables(summary_tables(shape), hidden)
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
        read = self.counted(batch)
        values = self.tables.sum_groups(read.rows, read.offsets, read.weights)
        return values + self.totals(as_tensor(totals(batch), self.tables.weight.device))  # type: ignore[no-any-return]

    def counted(self, batch: UserBatch) -> Counted:
        """What a batch's users are the sums of."""
        return counted(batch, self.tables.places)
