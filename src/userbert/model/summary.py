"""The summary token, which embeds the counts of values in a user's whole history.

In: a `UserBatch`. Out: one vector per user, made from the count of each value of each attribute in
the visible actions, and from the numbers of actions and words. A word's vector is a mean, which
loses counts and dilutes rare values; in the summary, each value has a row of full width H.
`InputEmbedding` adds the token.

Letters in shapes: B users, W words of a segment, H hidden.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch, drop_actions
from userbert.model.indices import SummaryRows, log_totals, summary_rows, summary_tables
from userbert.model.tables import AttributeTables, as_tensor


class HistorySummary(nn.Module):
    """Sums the vectors of values, weighted by the logarithms of their counts.

    A linear map of the logarithms of the numbers of actions and words is added to the sum.
    """

    def __init__(self, shape: InputShape, hidden: int) -> None:
        super().__init__()
        self.tables = AttributeTables(summary_tables(shape), hidden)
        self.totals = nn.Linear(2 * len(shape.segments), hidden)

    def forward(
        self, batch: UserBatch, zeroed: Sequence[NDArray[np.bool_]] | None = None
    ) -> Tensor:
        """Returns summaries (B, H) without the words that `zeroed`, (W,) per segment, marks."""
        if zeroed is not None:
            batch = drop_actions(batch, [
                np.repeat(mask, np.diff(segment.action_offsets))
                for mask, segment in zip(zeroed, batch.segments, strict=True)
            ])  # fmt: skip
        summed = self.summary_rows(batch)
        values = self.tables.sum_groups(summed.rows, summed.offsets, summed.weights)
        return values + self.totals(as_tensor(log_totals(batch), self.tables.weight.device))  # type: ignore[no-any-return]

    def summary_rows(self, batch: UserBatch) -> SummaryRows:
        """Returns the weighted rows that add up to each user's summary."""
        return summary_rows(batch, self.tables.layout)
