"""Wide&Deep: behavior counts, and a linear model of profiles (paper §4.3; Cheng et al., 2016).

In: a `UserBatch`. Out: a vector per user, the sum of both parts. A linear head on it is the sum of
a wide and a deep logit, as in the original. "We generate fixed-length (1130-d) embeddings by
aggregating behavior data"; the paper does not say how. Here they are counts over the same words
that the other models read, so no model sees more.

Letters in shapes: B users, N actions of a segment, A attributes of a segment, D dimensions.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from userbert.data.batches import InputShape, SegmentBatch, UserBatch
from userbert.data.ragged import Float32, Int64
from userbert.data.vocabulary import FIRST_VALUE
from userbert.experiments.baselines.towers import WIDTH, ProfileTower
from userbert.model.tables import as_tensor
from userbert.model.userbert import autocast

DIMENSIONS = 1_130
"""Maximum number of columns of the aggregates (paper §4.3); small vocabularies fill fewer."""
_LAYERS = (512, 256, 256, WIDTH)
"""Widths of the deep layers (paper §4.3)."""
_TOTALS = 3
"""Columns per segment besides the counts of ids: words, actions and position of the newest word."""


class WideDeep(nn.Module):
    """ReLU layers over aggregates, plus the profile tower."""

    width = WIDTH

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.aggregates = Aggregates(shape)
        sizes = (self.aggregates.dimensions, *_LAYERS)
        layers = [(nn.Linear(*ends), nn.ReLU()) for ends in pairwise(sizes)]
        self.deep = nn.Sequential(*(part for layer in layers for part in layer))
        self.wide = ProfileTower(shape)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of users (B, WIDTH)."""
        device = self.wide.tables.weight.device
        # Casting the weights to bf16 takes longer than the products of a small batch.
        with autocast(device, "float32"):
            deep = self.deep(as_tensor(self.aggregates(batch), device))
            return deep + self.wide(batch)  # type: ignore[no-any-return]


class Aggregates:
    """Counts of each segment: actions by id of each attribute, words, actions, and recency.

    Counts are log(1 + count). Recency is the position of the newest word as a share of the window;
    0: no words.
    """

    def __init__(self, shape: InputShape) -> None:
        self.shape = shape
        sizes = [len(segment.attributes) for segment in shape.segments]
        # A column for every id except NONE; UNKNOWN shares the last column with rare ids.
        vocabulary_sizes = [a.size - 1 for segment in shape.segments for a in segment.attributes]
        columns = share_columns(vocabulary_sizes, DIMENSIONS - _TOTALS * len(sizes))
        self.columns = tuple(np.split(np.array(columns, np.int64), np.cumsum(sizes)[:-1]))
        """Number of columns of each attribute (A,), per segment. The last column of an attribute
        counts all ids without their own column."""
        self.dimensions = sum(columns) + _TOTALS * len(sizes)

    def __call__(self, batch: UserBatch) -> Float32:
        """Returns the aggregates (B, D), segment after segment."""
        parts = []
        for segment, columns, shape in zip(
            batch.segments, self.columns, self.shape.segments, strict=True
        ):
            totals, newest = _totals(segment)
            parts += [np.log1p(_count_ids(segment, columns)), np.log1p(totals)]
            parts.append((newest + 1)[:, None] / shape.positions)
        return np.concatenate(parts, axis=1).astype(np.float32)


def share_columns(sizes: Sequence[int], available: int) -> list[int]:
    """Returns the number of columns of each vocabulary, at most one per id.

    Small vocabularies have a column per id. The others share the remaining columns equally; if
    those do not divide evenly, the largest vocabularies get one more. `sizes` are the numbers of
    ids; `available` is the total number of columns, at least one per vocabulary.
    """
    assert available >= len(sizes)
    columns = [0] * len(sizes)
    ascending = sorted(range(len(sizes)), key=sizes.__getitem__)
    for rank, index in enumerate(ascending):
        columns[index] = min(sizes[index], available // (len(sizes) - rank))
        available -= columns[index]
    return columns


def _count_ids(segment: SegmentBatch, columns: Int64) -> Int64:
    """Counts each user's actions by id; returns (B, sum of `columns` (A,)).

    Ids are in order of falling frequency, so the first ids have their own columns.
    """
    users, width = len(segment.word_offsets) - 1, int(columns.sum())
    last_column = np.cumsum(columns)[:, None] - 1  # (A, 1)
    column = last_column - columns[:, None] + 1 + segment.ids - FIRST_VALUE  # (A, N)
    column = np.where((segment.ids < FIRST_VALUE) | (column > last_column), last_column, column)
    user = segment.user_of_action  # (N,)
    known = segment.ids > 0
    counts = np.bincount((user * width + column)[known], minlength=users * width)
    return counts.reshape(users, width)


def _totals(segment: SegmentBatch) -> tuple[Int64, Int64]:
    """Returns the counts of words and of actions (B, 2), and the newest position (B,), -1: none."""
    newest = np.full(len(segment.word_counts), -1, np.int64)
    has_words = segment.word_counts > 0
    newest[has_words] = segment.positions[segment.word_offsets[1:][has_words] - 1]
    return np.stack([segment.word_counts, _action_counts(segment)], axis=1), newest


def _action_counts(segment: SegmentBatch) -> Int64:
    """Returns the number of actions of each user (B,)."""
    return np.diff(segment.action_offsets[segment.word_offsets])
