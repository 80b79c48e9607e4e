"""The profile tower: a linear model of categorical fields (paper §4.3).

In: a `UserBatch`. Out: a vector of each user, zero if nothing is known of any field. It is the wide
part of Wide&Deep (Cheng et al., 2016), and a tower of every other baseline: "user profiles are
modeled in the same way as the Wide&Deep model".

Letters in shapes: B users, F profile fields, E width of a field.
"""

import numpy as np
import torch
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.model.tables import AttributeTables

WIDTH = 128
"""Of every tower and of what they combine to (paper §4.3)."""
ATTRIBUTE_WIDTH = 32
"""Of one field's or attribute's vector, as in UserBERT; the paper does not say."""


class ProfileTower(nn.Module):
    """Embeddings of the fields side by side, and one linear layer; nothing else is in between."""

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.fields = len(shape.profile)
        self.tables = AttributeTables([field.size for field in shape.profile], ATTRIBUTE_WIDTH)
        self.tables.reset_parameters()
        # PyTorch warns of a layer without inputs; without fields there is nothing to learn.
        self.linear = nn.Linear(self.fields * ATTRIBUTE_WIDTH, WIDTH) if self.fields else None

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent profiles: (B, WIDTH); a field that is not known counts as zeros."""
        if self.linear is None:
            return torch.zeros(len(batch), WIDTH, device=self.tables.weight.device)
        rows = self.tables.rows(batch.profile_ids, np.arange(self.fields))  # (B, F)
        vectors = self.tables.sum_groups(rows.ravel(), np.arange(rows.size + 1))  # (B * F, E)
        return self.linear(vectors.view(len(batch), self.linear.in_features))  # type: ignore[no-any-return]
