"""What the baselines of several towers share: one tower a segment, and how towers combine.

"Different types of user data are passed through corresponding encoders, and the encoded
representations are combined at the last layer" (paper §4.3). In: a `UserBatch`, and the vectors
that the towers of its segments gave. Out: a vector of each user. `lstm`, `transformer` and `coles`
use it.

Letters in shapes: B users, N vectors of all users, L of the longest, D width, H hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from userbert.data.batches import InputShape, Int64, SegmentShape, UserBatch
from userbert.experiments.baselines.profile import ATTRIBUTE_WIDTH, WIDTH, ProfileTower
from userbert.model.embedding import InputEmbedding, draw_as_bert
from userbert.model.encoder import Padding
from userbert.model.tables import as_tensor

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
