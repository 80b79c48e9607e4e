"""Shared parts of the baselines: profile tower, segment inputs, and the layer that combines towers.

"Different types of user data are passed through corresponding encoders, and the encoded
representations are combined at the last layer" (paper §4.3). In: a `UserBatch`, and the vectors of
its segments' towers. Out: a vector per user.

The profile tower is a linear model of categorical fields: the wide part of Wide&Deep (Cheng et al.,
2016), and a tower of every other baseline ("user profiles are modeled in the same way as the
Wide&Deep model"). Users without known fields all have the same vector.
`sequence_encoders`, `wide_deep` and `coles` use this module.

Letters in shapes: B users, F profile fields, E width of a field (`ATTRIBUTE_WIDTH`), N vectors of
all users, L maximum number of vectors per user, D width of a vector, H hidden.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from userbert.data.batches import InputShape, SegmentShape, UserBatch
from userbert.data.ragged import Int64
from userbert.model.embedding import InputEmbedding, init_as_bert
from userbert.model.encoder import Padding
from userbert.model.tables import AttributeTables, as_tensor

WIDTH = 128
"""Width of every tower and of the combined vector (paper §4.3)."""
ATTRIBUTE_WIDTH = 32
"""Width of the embedding of a field or attribute, as in UserBERT; the paper does not say it."""


class ProfileTower(nn.Module):
    """Concatenated embeddings of the profile fields, and one linear layer."""

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.fields = len(shape.profile)
        self.tables = AttributeTables([field.size for field in shape.profile], ATTRIBUTE_WIDTH)
        self.tables.reset_parameters()
        # PyTorch warns about a layer without inputs; without fields there is nothing to learn.
        self.linear = nn.Linear(self.fields * ATTRIBUTE_WIDTH, WIDTH) if self.fields else None

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of profiles (B, WIDTH); an unknown field adds zeros."""
        if self.linear is None:
            return torch.zeros(len(batch), WIDTH, device=self.tables.weight.device)
        rows = self.tables.rows(batch.profile_ids, np.arange(self.fields))  # (B, F)
        vectors = self.tables.sum_groups(rows.ravel(), np.arange(rows.size + 1))  # (B * F, E)
        return self.linear(vectors.view(len(batch), self.linear.in_features))  # type: ignore[no-any-return]


DROPOUT = 0.1
"""Dropout probability of token vectors, as in UserBERT."""


class CombiningLayer(nn.Module):
    """Last layer: combines the vectors of the segments' towers and of the profile tower.

    The ReLU lets a head use interactions between towers; without it, the model would be additive.
    """

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.profile = ProfileTower(shape)
        self.linear = nn.Linear((len(shape.segments) + 1) * WIDTH, WIDTH)

    def forward(self, batch: UserBatch, towers: Sequence[Tensor]) -> Tensor:
        """Combines `towers`, a vector (B, WIDTH) per segment, with profiles; returns (B, WIDTH)."""
        vectors = torch.cat([*towers, self.profile(batch)], dim=1)
        return self.linear(vectors).relu()  # type: ignore[no-any-return]


def segment_embedding(segment: SegmentShape) -> InputEmbedding:
    """Returns UserBERT's input representation for one segment."""
    shape = InputShape((segment,), ())
    return InputEmbedding(shape, WIDTH, ATTRIBUTE_WIDTH, DROPOUT).apply(init_as_bert)


def select_segment(batch: UserBatch, number: int) -> UserBatch:
    """Returns the batch with the words of segment `number` only, without profiles."""
    return UserBatch(batch.index, (batch.segments[number],), batch.profile_ids[:, :0])


def last_states(network: nn.LSTM | nn.GRU, vectors: Tensor, counts: Int64) -> Tensor:
    """Returns the last hidden states (B, H) of a one-layer recurrent network, per user.

    `vectors` (N, D) are ordered by user; `counts` (B,) is the number of vectors of each user. Users
    without vectors get zeros.
    """
    if not len(vectors):
        return vectors.new_zeros(len(counts), network.hidden_size)
    # Padding follows the last state, so it has no effect. PyTorch's packed sequences take four
    # times as long for long users: the gradient of each step is spread over all steps.
    lengths = as_tensor(counts, vectors.device)
    padded = Padding(lengths).pad(vectors)  # (B, L, D)
    states, _ = network(padded.transpose(0, 1))  # (L, B, H)
    users = torch.arange(len(counts), device=vectors.device)
    last = states[(lengths - 1).clamp(min=0), users]
    return last.masked_fill((lengths == 0)[:, None], 0)  # type: ignore[no-any-return]
