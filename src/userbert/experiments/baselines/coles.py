"""CoLES: contrastive pretraining on slices of user sequences, and its authors' GRU encoder.

Babaev et al., 2022, "CoLES: Contrastive Learning for Event Sequences with Self-Supervision". The
paper that we reproduce does not compare with it; it is a strong peer for pretraining. In: an
encoder and a batch. Out: the loss for the training loop. Settings that the authors leave open are
those of their library, pytorch-lifestream: five slices, a margin of 0.5, five hard negatives per
slice.

`ColesGru` is their encoder, a GRU over single actions (§4). The vector of an action is the
embeddings of its attributes and of its word's position, concatenated.

Letters in shapes: B users, N actions, S slices, A attribute tables of all segments, E width of an
attribute (`ATTRIBUTE_WIDTH`), H hidden.
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
"""Slices per user."""
_MIN_WORDS = 3
"""Minimum number of words of a slice; a user with fewer words has slices of all of them. The
authors tune it to the data: their 25 of many hundred events are about the same share as 3 of an
active user's 30 words."""
_MARGIN = 0.5
"""Distance from which on slices of different users have no loss."""
_HARD_NEGATIVES = 5
"""Nearest slices of other users that each slice is compared with."""


@dataclass(frozen=True)
class Slices:
    """Slices of user sequences, as a batch."""

    batch: UserBatch
    """Sequences of S slices; slices of a user are next to each other."""
    users: Int64
    """Index of each slice's user in the original batch (S,)."""


def coles(
    encoder: Callable[[UserBatch], Tensor], batch: UserBatch, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Returns the CoLES loss of an encoder, which maps a batch to (B, H), on random slices."""
    user_slices = slices(batch, generator)
    vectors = encoder(user_slices.batch).float()
    return {"coles": contrastive_loss(vectors, as_tensor(user_slices.users, vectors.device))}


def slices(batch: UserBatch, generator: np.random.Generator, per_user: int = _SLICES) -> Slices:
    """Cuts random contiguous slices from each user's words, long-term words before short-term.

    Lengths are uniform from `_MIN_WORDS` to all words, then starts are uniform. A slice has no
    profile, so that only behavior can identify its user. A user without words has no slices.
    """
    counts = np.stack([segment.word_counts for segment in batch.segments])  # (segments, B)
    words = counts.sum(axis=0)
    users = np.repeat(np.flatnonzero(words), per_user)  # (S,)
    words = words[users]
    lengths = generator.integers(np.minimum(words, _MIN_WORDS), words + 1)
    starts = generator.integers(0, words - lengths + 1)
    # Bounds of each segment among all words of a slice's user.
    ends_of_segment = np.cumsum(counts, axis=0)[:, users]
    starts_of_segment = ends_of_segment - counts[:, users]
    segments = [
        _take_words(
            segment,
            segment.word_offsets[users] + np.clip(starts, begin, end) - begin,
            np.clip(starts + lengths, begin, end) - np.clip(starts, begin, end),
        )
        for segment, begin, end in zip(
            batch.segments, starts_of_segment, ends_of_segment, strict=True
        )
    ]
    # Dropout is seeded by the index, so the slices of a user need different indices.
    numbers = np.arange(len(users)) % per_user
    profiles = np.zeros((len(users), batch.profile_ids.shape[1]), np.int32)
    return Slices(
        UserBatch(batch.index[users] * per_user + numbers, tuple(segments), profiles), users
    )


def _take_words(segment: SegmentBatch, first: Int64, lengths: Int64) -> SegmentBatch:
    """Returns a segment in which user i has the words `first[i]:first[i] + lengths[i]`."""
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
    """Returns the mean contrastive loss over pairs of slices; vectors are (S, H), users (S,).

    Two slices of one user at distance d have the loss d². A slice and each of the five nearest
    slices of other users have the loss max(0, 0.5 - d)². Vectors are first normalized to length 1.
    The authors sum over pairs; the mean does not depend on the batch size, and Adam ignores the
    factor.
    """
    vectors = normalize(vectors, dim=1)
    is_same = users[:, None] == users  # (S, S)
    first, second = torch.triu(is_same, diagonal=1).nonzero(as_tuple=True)
    near_losses = pairwise_distance(vectors[first], vectors[second]).square()
    slice_, negative = _hard_negatives(vectors.detach(), is_same)
    distances = pairwise_distance(vectors[slice_], vectors[negative])
    far_losses = (_MARGIN - distances).clamp(min=0).square()
    return torch.cat([near_losses, far_losses]).sum() / max(1, len(near_losses) + len(far_losses))


def _hard_negatives(vectors: Tensor, is_same: Tensor) -> tuple[Tensor, Tensor]:
    """Returns pairs of each slice and its nearest slices of other users, as two index vectors."""
    distances = torch.cdist(vectors, vectors).masked_fill(is_same, torch.inf)
    nearest = distances.topk(min(_HARD_NEGATIVES, len(vectors)), dim=1, largest=False)
    slice_index, rank = nearest.values.isfinite().nonzero(as_tuple=True)
    return slice_index, nearest.indices[slice_index, rank]


MAX_ACTIONS = 128
"""Maximum number of actions that are read of a user, the newest first; the other encoders read as
many words per segment."""


class ColesGru(nn.Module):
    """A GRU over actions, combined with the profile tower.

    The authors' encoder has no profile tower. It is added so that fine-tuning sees the same inputs
    as for other models; slices have no profiles, so in pretraining it is constant.
    """

    width = WIDTH

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
        sizes = {attribute.table: attribute.size for attribute in attributes}
        table_number = {table: index for index, table in enumerate(sizes)}
        # Table numbers of each segment's attributes, then the table number of its positions.
        self._numbers = tuple(
            np.array([table_number[a.table] for a in segment.attributes] + [len(sizes) + number])
            for number, segment in enumerate(shape.segments)
        )
        # Positions of all segments share the last column of an action's vector.
        self._columns = tuple(np.minimum(numbers, len(sizes)) for numbers in self._numbers)
        positions = [segment.positions + 1 for segment in shape.segments]
        self.tables = AttributeTables([*sizes.values(), *positions], ATTRIBUTE_WIDTH)
        self.tables.reset_parameters()
        self.network = nn.GRU((len(sizes) + 1) * ATTRIBUTE_WIDTH, WIDTH)
        self.profile = ProfileTower(shape)
        # No ReLU: the loss compares directions, and ReLU would remove all negative components.
        self.combined = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of users (B, WIDTH)."""
        rows, counts = self._newest(batch)
        # Matrix products of a step are small, so casting to bf16 would take longer than it saves.
        with autocast(self.combined.weight.device, "float32"):
            vectors = self.tables.sum_groups(rows.ravel(), np.arange(rows.size + 1))
            vectors = vectors.view(len(rows), self.network.input_size)  # (N, (A + 1) * E)
            behavior = last_states(self.network, vectors, counts)
            return self.combined(torch.cat([behavior, self.profile(batch)], dim=1))  # type: ignore[no-any-return]

    def _newest(self, batch: UserBatch) -> tuple[Int64, Int64]:
        """Returns table rows (N, A + 1) of each user's newest actions, and their counts (B,)."""
        width = self.network.input_size // ATTRIBUTE_WIDTH
        rows, users = [], []
        for segment, numbers, columns in zip(
            batch.segments, self._numbers, self._columns, strict=True
        ):
            sizes = np.diff(segment.action_offsets)
            positions = np.repeat(segment.positions + 1, sizes)
            ids = np.concatenate([segment.ids, positions[None]])  # (its attributes + 1, N)
            segment_rows = np.zeros((ids.shape[1], width), np.int64)
            segment_rows[:, columns] = self.tables.rows(ids, numbers[:, None]).T
            rows.append(segment_rows)
            users.append(segment.user_of_action)
        user = np.concatenate(users)
        # Stable, so that a user's actions stay ordered by segment, then by time.
        order = np.argsort(user, kind="stable")
        counts = np.bincount(user, minlength=len(batch))
        until_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))
        kept = order[until_end <= MAX_ACTIONS]
        return np.concatenate(rows)[kept], np.minimum(counts, MAX_ACTIONS)
