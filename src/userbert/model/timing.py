"""Standardised timing of users' actions: the last columns of user embeddings of `pool=all`.

In: a `UserBatch`. Out: the columns of `indices.timing`, standardised. The positions of words hold
the same facts, but each position has a separate vector, and the mean over words loses the number
and recency of words. The encoder does not read the columns: they are exact enough to identify
users, so a network that reads them memorises each user's actions
(docs/decisions/0010-what-makes-vectors-worth-having.md).

Letters in shapes: B users, K columns, P (user, cut-off) pairs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.model.indices import timing, timing_width
from userbert.model.tables import as_tensor

_FURTHEST = 5.0
"""Standard deviations from the mean at which values are clipped, so that no outlier dominates."""
_LEAST_DEVIATION = 1e-3
"""Columns with a smaller standard deviation over pairs count as constant and are not scaled."""


class HistoryTiming(nn.Module):
    """Columns of `indices.timing`, standardised by stored means and standard deviations."""

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self._shape = shape
        self.width = timing_width(shape)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the standardised columns (B, K) of a batch's users."""
        return self.standardised(as_tensor(timing(batch, self._shape), self.mean.device))

    def standardised(self, numbers: Tensor) -> Tensor:
        """Returns the columns `numbers` (B, K), standardised and clipped."""
        return ((numbers - self.mean) / self.deviation).clamp(-_FURTHEST, _FURTHEST)

    def measure_by(self, numbers: NDArray[np.float32]) -> None:
        """Sets means and standard deviations to those of the columns `numbers` (P, K)."""
        deviation = numbers.std(axis=0, dtype=np.float64)
        deviation[deviation < _LEAST_DEVIATION] = 1
        self.mean.copy_(torch.from_numpy(numbers.mean(axis=0, dtype=np.float64)))
        self.deviation.copy_(torch.from_numpy(deviation))
