"""Wide&Deep: sums over behavior, and a linear model of profiles (paper §4.3; Cheng et al., 2016).

In: a `UserBatch`. Out: a vector of each user, the sum of both parts: a linear head on it is the sum
of a wide and a deep logit, as in the original. "We generate fixed-length (1130-d) embeddings by
aggregating behavior data"; the paper does not say how. Here they are counts of the very words that
the other models read, so nobody sees more.

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
"""Of the aggregates, at most (paper §4.3); small vocabularies fill fewer."""
_LAYERS = (512, 256, 256, WIDTH)
"""Paper §4.3."""
_TOTALS = 3
"""Beside the counts of ids, a segment has its words, its actions and its newest word's age."""


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
        """Represent users: (B, WIDTH)."""
        device = self.wide.tables.weight.device
        # To round the weights takes longer than the products of so few users do.
        with autocast(device, "float32"):
            deep = self.deep(as_tensor(self.aggregates(batch), device))
            return deep + self.wide(batch)  # type: ignore[no-any-return]


class Aggregates:
    """What is counted of a segment: actions by id of each attribute, words, actions, recency."""

    def __init__(self, shape: InputShape) -> None:
        self.shape = shape
        sizes = [len(segment.attributes) for segment in shape.segments]
        # A column for every id but none; unknown shares the last with the rare ones.
        wanted = [a.size - 1 for segment in shape.segments for a in segment.attributes]
        columns = share_columns(wanted, DIMENSIONS - _TOTALS * len(sizes))
        self.columns = tuple(np.split(np.array(columns, np.int64), np.cumsum(sizes)[:-1]))
        """(A,) of each segment: the columns of each attribute, the last one of all other ids."""
        self.dimensions = sum(columns) + _TOTALS * len(sizes)

    def __call__(self, batch: UserBatch) -> Float32:
        """Aggregate words: (B, D), segment after segment."""
        parts = []
        for segment, columns, shape in zip(
            batch.segments, self.columns, self.shape.segments, strict=True
        ):
            totals, newest = _totals(segment)
            parts += [np.log1p(_count(segment, columns)), np.log1p(totals)]
            parts.append((newest + 1)[:, None] / shape.positions)
        return np.concatenate(parts, axis=1).astype(np.float32)


def share_columns(wanted: Sequence[int], available: int) -> list[int]:
    """Give small vocabularies all the columns they want, and the others even shares of the rest.

    Of what does not divide evenly, the largest get one more. Needs a column for each at least.
    """
    assert available >= len(wanted)
    given = [0] * len(wanted)
    ascending = sorted(range(len(wanted)), key=wanted.__getitem__)
    for place, number in enumerate(ascending):
        given[number] = min(wanted[number], available // (len(wanted) - place))
        available -= given[number]
    return given


def _count(segment: SegmentBatch, columns: Int64) -> Int64:
    """Count each user's actions by id: (B, sum of the columns (A,)).

    Ids are in the order of falling frequency, so the first ones have columns of their own.
    """
    users, width = len(segment.word_offsets) - 1, int(columns.sum())
    other = np.cumsum(columns)[:, None] - 1  # (A, 1)
    column = other - columns[:, None] + 1 + segment.ids - FIRST_VALUE  # (A, N)
    column = np.where((segment.ids < FIRST_VALUE) | (column > other), other, column)
    user = segment.user_of_action  # (N,)
    known = segment.ids > 0
    counts = np.bincount((user * width + column)[known], minlength=users * width)
    return counts.reshape(users, width)


def _totals(segment: SegmentBatch) -> tuple[Int64, Int64]:
    """Each user's numbers of words and actions (B, 2), and newest position (B,): -1 of none."""
    newest = np.full(len(segment.word_counts), -1, np.int64)
    some = segment.word_counts > 0
    newest[some] = segment.positions[segment.word_offsets[1:][some] - 1]
    return np.stack([segment.word_counts, _actions(segment)], axis=1), newest


def _actions(segment: SegmentBatch) -> Int64:
    """(B,): the number of actions of each user."""
    return np.diff(segment.action_offsets[segment.word_offsets])
