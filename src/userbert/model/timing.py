"""When and how often users acted, as numbers that a network and a regression can read as they are.

In: a `UserBatch`. Out: `lookups.timing`, standardised. Words' positions tell the same, but a
position's vector is learned day by day, and a mean over words forgets how many and how recent they
are. The user embedding of `pool=all` ends with it. The encoder does not see it: so exact are the
numbers that they single users out, and a network that is told them learns each user's actions by
heart (docs/decisions/0010-what-makes-vectors-worth-having.md).

Letters in shapes: B users, K numbers, P pairs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.model.indices import timing, timing_width
from userbert.model.tables import as_tensor

_FURTHEST = 5.0
"""So many deviations from the mean; what is further is taken to be there."""
_LEAST_DEVIATION = 1e-3
"""A number that differs by less between users tells nothing."""


class HistoryTiming(nn.Module):
    """The numbers of `timing`, each less its mean and over its deviation."""

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self._shape = shape
        self.width = timing_width(shape)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, batch: UserBatch) -> Tensor:
        """The numbers (B, K) of a batch's users, standardised."""
        return self.standardised(as_tensor(timing(batch, self._shape), self.mean.device))

    def standardised(self, numbers: Tensor) -> Tensor:
        """Numbers (B, K) less their means and over their deviations."""
        return ((numbers - self.mean) / self.deviation).clamp(-_FURTHEST, _FURTHEST)

    def measure_by(self, numbers: NDArray[np.float32]) -> None:
        """Take means and deviations from the numbers (P, K) of some pairs."""
        deviation = numbers.std(axis=0, dtype=np.float64)
        deviation[deviation < _LEAST_DEVIATION] = 1
        self.mean.copy_(torch.from_numpy(numbers.mean(axis=0, dtype=np.float64)))
        self.deviation.copy_(torch.from_numpy(deviation))
