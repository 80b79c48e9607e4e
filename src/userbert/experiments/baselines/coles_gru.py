"""The encoder of CoLES' authors: a GRU over single actions (Babaev et al., 2022, §4).

In: a `UserBatch`. Out: a vector of each user. Words are taken apart: an action is its attributes'
embeddings side by side, and that of its word's position. `coles` pretrains it.

Letters in shapes: B users, W words and N actions of a segment, A attributes of all segments, E
width of an attribute, H hidden.
"""

import numpy as np
import torch
from torch import Tensor, nn

from userbert.data.batches import InputShape, Int64, SegmentBatch, UserBatch
from userbert.experiments.baselines.profile import ATTRIBUTE_WIDTH, WIDTH, ProfileTower
from userbert.experiments.baselines.towers import last_states
from userbert.model.tables import AttributeTables
from userbert.model.userbert import autocast

MOST_ACTIONS = 128
"""Of a user, the newest: as long a sequence as the other encoders read of a segment."""


class ColesGru(nn.Module):
    """A GRU's last state, and the profile tower.

    The authors' encoder has no profile tower. It is here so that fine-tuning sees what the other
    models see; slices have no profiles, so in pretraining the tower is a constant.
    """

    width = WIDTH

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
        sizes = {attribute.table: attribute.size for attribute in attributes}
        number = {table: number for number, table in enumerate(sizes)}
        # What an attribute of each segment is among all, and last, its table of positions.
        self._numbers = tuple(
            np.array([number[a.table] for a in segment.attributes] + [len(sizes) + place])
            for place, segment in enumerate(shape.segments)
        )
        # Positions share the last column of an action's vector.
        self._columns = tuple(np.minimum(numbers, len(sizes)) for numbers in self._numbers)
        positions = [segment.positions + 1 for segment in shape.segments]
        self.tables = AttributeTables([*sizes.values(), *positions], ATTRIBUTE_WIDTH)
        self.tables.reset_parameters()
        self.network = nn.GRU((len(sizes) + 1) * ATTRIBUTE_WIDTH, WIDTH)
        self.profile = ProfileTower(shape)
        # No ReLU: the loss looks at directions, of which it would leave those without a minus.
        self.combined = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent users: (B, WIDTH)."""
        rows, counts = self._newest(batch)
        # The products of a step are small: to round what goes into them takes longer.
        with autocast(self.combined.weight.device, "float32"):
            vectors = self.tables.sum_groups(rows.ravel(), np.arange(rows.size + 1))
            vectors = vectors.view(len(rows), self.network.input_size)  # (N, (A + 1) * E)
            behavior = last_states(self.network, vectors, counts)
            return self.combined(torch.cat([behavior, self.profile(batch)], dim=1))  # type: ignore[no-any-return]

    def _newest(self, batch: UserBatch) -> tuple[Int64, Int64]:
        """Rows of the tables (N, A + 1) of each user's newest actions, and their number (B,)."""
        width = self.network.input_size // ATTRIBUTE_WIDTH
        rows, users = [], []
        for segment, numbers, columns in zip(
            batch.segments, self._numbers, self._columns, strict=True
        ):
            sizes = np.diff(segment.action_offsets)
            positions = np.repeat(segment.positions + 1, sizes)
            ids = np.concatenate([segment.ids, positions[None]])  # (its attributes + 1, N)
            part = np.zeros((ids.shape[1], width), np.int64)
            part[:, columns] = self.tables.rows(ids, numbers[:, None]).T
            rows.append(part)
            users.append(_users(segment))
        user = np.concatenate(users)
        # Stable: a user's actions stay in the order of segments, then of time.
        order = np.argsort(user, kind="stable")
        counts = np.bincount(user, minlength=len(batch))
        until_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))
        kept = order[until_end <= MOST_ACTIONS]
        return np.concatenate(rows)[kept], np.minimum(counts, MOST_ACTIONS)


def _users(segment: SegmentBatch) -> Int64:
    """(N,): whose each action is."""
    actions = np.diff(segment.action_offsets[segment.word_offsets])
    return np.repeat(np.arange(len(actions)), actions)
