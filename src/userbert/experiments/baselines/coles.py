"""CoLES: slices of one user's sequence lie near each other, those of others do not.

Babaev et al., 2022, "CoLES: Contrastive Learning for Event Sequences with Self-Supervision". The
paper that we reproduce does not compare with it; it is what its peers would pretrain with. In: an
encoder, a batch. Out: the loss for the loop. What the authors leave to their configurations is as
in their library, pytorch-lifestream: five slices, a margin of 0.5, five hard negatives a slice.

Letters in shapes: B users, W words of a segment, N actions, S slices, H hidden.

The encoder of CoLES' authors: a GRU over single actions (Babaev et al., 2022, §4).

In: a `UserBatch`. Out: a vector of each user. Words are taken apart: an action is its attributes'
embeddings side by side, and that of its word's position. `coles` pretrains it.

Letters in shapes: B users, W words and N actions of a segment, A attributes of all segments, E
width of an attribute, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pairwise_distance

from userbert.data.batches import InputShape, SegmentBatch, UserBatch
from userbert.data.ragged import Int64, offsets_of, ranges
from userbert.experiments.baselines.towers import ATTRIBUTE_WIDTH, WIDTH, ProfileTower, last_states
from userbert.model.tables import AttributeTables, as_tensor
from userbert.model.userbert import autocast

_SLICES = 5
_SHORTEST = 3
"""Words of a slice, if its user has so many; the authors tune it to the data: 25 events of many
hundreds are such a share of an active user's 30 words."""
_MARGIN = 0.5
_HARD_NEGATIVES = 5


@dataclass(frozen=True)
class Slices:
    """Parts of sequences as users of their own."""

    batch: UserBatch
    """S sequences, the slices of one user side by side."""
    users: Int64
    """(S,): which user of the batch that was cut each slice is of."""


def coles(
    encoder: Callable[[UserBatch], Tensor], batch: UserBatch, generator: np.random.Generator
) -> dict[str, Tensor]:
    """The loss of any encoder `(B, H)` on random slices of a batch."""
    cut = slices(batch, generator)
    vectors = encoder(cut.batch).float()
    return {"coles": contrastive_loss(vectors, as_tensor(cut.users, vectors.device))}


def slices(batch: UserBatch, generator: np.random.Generator, per_user: int = _SLICES) -> Slices:
    """Cut random slices from each user's words: contiguous, long-term words before short-term.

    Lengths are uniform from `_SHORTEST` to all, then starts are uniform. A slice has no profile:
    it must be told by behavior alone. A user without words has no slices.
    """
    counts = np.stack([segment.word_counts for segment in batch.segments])  # (segments, B)
    words = counts.sum(axis=0)
    users = np.repeat(np.flatnonzero(words), per_user)  # (S,)
    words = words[users]
    lengths = generator.integers(np.minimum(words, _SHORTEST), words + 1)
    starts = generator.integers(0, words - lengths + 1)
    # Where each segment's words begin and end in a slice's user's.
    ends = np.cumsum(counts, axis=0)[:, users]
    begins = ends - counts[:, users]
    parts = [
        _words(
            segment,
            segment.word_offsets[users] + np.clip(starts, begin, end) - begin,
            np.clip(starts + lengths, begin, end) - np.clip(starts, begin, end),
        )
        for segment, begin, end in zip(batch.segments, begins, ends, strict=True)
    ]
    # Dropout goes by the index, and must differ between slices.
    numbers = np.arange(len(users)) % per_user
    profiles = np.zeros((len(users), batch.profile_ids.shape[1]), np.int32)
    return Slices(UserBatch(batch.index[users] * per_user + numbers, tuple(parts), profiles), users)


def _words(segment: SegmentBatch, first: Int64, lengths: Int64) -> SegmentBatch:
    """The words `first[i]:first[i] + lengths[i]` of a segment as those of user i."""
    words = ranges(first, lengths)
    sizes = np.diff(segment.action_offsets)[words]
    actions = ranges(segment.action_offsets[words], sizes)
    return SegmentBatch(
        segment.name,
        segment.ids[:, actions],
        offsets_of(sizes),
        offsets_of(lengths),
        segment.positions[words],
    )


def contrastive_loss(vectors: Tensor, users: Tensor) -> Tensor:
    """The mean over pairs of slices (S, H), of which `users` (S,) says whose they are.

    All pairs of one user count their squared distance d²; each slice with its five nearest of
    others counts max(0, 0.5 - d)². Vectors are first brought to length 1. The authors sum over
    pairs; Adam does not see the factor, and a mean does not depend on the size of the batch.
    """
    vectors = normalize(vectors, dim=1)
    is_same = users[:, None] == users  # (S, S)
    one, other = torch.triu(is_same, diagonal=1).nonzero(as_tuple=True)
    near = pairwise_distance(vectors[one], vectors[other]).square()
    slice_, negative = _hard_negatives(vectors.detach(), is_same)
    distances = pairwise_distance(vectors[slice_], vectors[negative])
    far = (_MARGIN - distances).clamp(min=0).square()
    return torch.cat([near, far]).sum() / max(1, len(near) + len(far))


def _hard_negatives(vectors: Tensor, is_same: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of each slice and one of the nearest of other users; fewer if there are no more."""
    distances = torch.cdist(vectors, vectors).masked_fill(is_same, torch.inf)
    nearest = distances.topk(min(_HARD_NEGATIVES, len(vectors)), dim=1, largest=False)
    one, rank = nearest.values.isfinite().nonzero(as_tuple=True)
    return one, nearest.indices[one, rank]


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
            users.append(segment.user_of_action)
        user = np.concatenate(users)
        # Stable: a user's actions stay in the order of segments, then of time.
        order = np.argsort(user, kind="stable")
        counts = np.bincount(user, minlength=len(batch))
        until_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))
        kept = order[until_end <= MOST_ACTIONS]
        return np.concatenate(rows)[kept], np.minimum(counts, MOST_ACTIONS)
