"""What the baselines of several towers share: one tower a segment, and how towers combine.

"Different types of user data are passed through corresponding encoders, and the encoded
representations are combined at the last layer" (paper §4.3). In: a `UserBatch`, and the vectors
that the towers of its segments gave. Out: a vector of each user. `lstm`, `transformer` and `coles`
use it.

Letters in shapes: B users, N vectors of all users, L of the longest, D width, H hidden.

The profile tower: a linear model of categorical fields (paper §4.3).

In: a `UserBatch`. Out: a vector of each user, zero if nothing is known of any field. It is the wide
part of Wide&Deep (Cheng et al., 2016), and a tower of every other baseline: "user profiles are
modeled in the same way as the Wide&Deep model".

Letters in shapes: B users, F profile fields, E width of a field.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from userbert.data.batches import InputShape, SegmentShape, UserBatch
from userbert.data.ragged import Int64
from userbert.model.embedding import InputEmbedding, draw_as_bert
from userbert.model.encoder import Padding
from userbert.model.tables import AttributeTables, as_tensor

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


DROPOUT = 0.1
"""Of token vectors, as in UserBERT."""


class Combined(nn.Module):
    """The last layer: vectors of the segments' towers and of the profile tower become one.

    With the ReLU, a head sees what towers say together; without, it would be a sum over towers.
    """

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.profile = ProfileTower(shape)
        self.linear = nn.Linear((len(shape.segments) + 1) * WIDTH, WIDTH)

    def forward(self, batch: UserBatch, towers: Sequence[Tensor]) -> Tensor:
        """Combine vectors (B, WIDTH) of each segment with the profiles: (B, WIDTH)."""
        together = torch.cat([*towers, self.profile(batch)], dim=1)
        return self.linear(together).relu()  # type: ignore[no-any-return]


def segment_embedding(segment: SegmentShape) -> InputEmbedding:
    """UserBERT's input representation, of one segment alone."""
    shape = InputShape((segment,), ())
    return InputEmbedding(shape, WIDTH, ATTRIBUTE_WIDTH, DROPOUT).apply(draw_as_bert)


def of_segment(batch: UserBatch, number: int) -> UserBatch:
    """What a tower sees of a batch: the words of one segment."""
    return UserBatch(batch.index, (batch.segments[number],), batch.profile_ids[:, :0])


def last_states(network: nn.LSTM | nn.GRU, vectors: Tensor, counts: Int64) -> Tensor:
    """Run a recurrent network of one layer over each user's vectors; its last hidden states (B, H).

    `vectors` (N, D) stand user after user; `counts` (B,) says how many each has. Users without any
    get zeros.
    """
    if not len(vectors):
        return vectors.new_zeros(len(counts), network.hidden_size)
    # What is padded stands after the last state, so it changes nothing. PyTorch's packed sequences
    # take four times as long for long users: each step's gradient is spread over all steps.
    lengths = as_tensor(counts, vectors.device)
    padded = Padding(lengths).pad(vectors)  # (B, L, D)
    states, _ = network(padded.transpose(0, 1))  # (L, B, H)
    users = torch.arange(len(counts), device=vectors.device)
    last = states[(lengths - 1).clamp(min=0), users]
    return last.masked_fill((lengths == 0)[:, None], 0)  # type: ignore[no-any-return]
