"""Pretraining heads, which predict each attribute's values in a word or of a user (paper §3.2).

In: final vectors at selected words, and the ids in these words; or final [CLS] vectors, and the ids
of hidden or future actions. Out: the multi-label cross-entropy of each attribute (equation 1). The
binary vector of equation 1 is never built: see `model/softmax.py`.

Letters in shapes: B users, M selected words (or users), W words, N actions, A attributes, S
segments, H hidden, V ids without *none*.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from userbert.data.batches import InputShape, SegmentBatch, SegmentShape
from userbert.data.ragged import Int32, Int64
from userbert.kernels.softmax import LayerGradient
from userbert.model.softmax import (
    WordSets,
    draw_candidates,
    sampled_set_cross_entropy,
    set_cross_entropy,
)
from userbert.model.tables import RowSparse, as_tensor, sorted_set


def word_sets(batch: SegmentBatch, selected: NDArray[np.bool_], size: int) -> list[WordSets]:
    """Returns, for each attribute of a segment, the sets of ids in the words that `selected` marks.

    `selected` is (W,). `size` is at least the number of ids of every attribute.
    """
    word_sizes = np.diff(batch.action_offsets)
    actions = np.flatnonzero(np.repeat(selected, word_sizes))
    words = np.repeat(np.arange(np.count_nonzero(selected)), word_sizes[selected])
    return sets_of(words, batch.ids[:, actions], size)


def sets_of(groups: Int64, ids: Int32, size: int, *, normalize: bool = False) -> list[WordSets]:
    """Returns, for each attribute, the sets of ids in each group's actions.

    `ids` (A, N) are the ids of the actions, and `groups` (N,) is each action's group. `size` is at
    least the number of ids of every attribute. With `normalize`, the weights of each set add up to
    1; else each id has weight 1.
    """
    sets = []
    for attribute in ids:
        pairs = sorted_set((groups * size + attribute)[attribute != 0])
        owners, values = pairs // size, pairs % size
        weights = None
        if normalize:
            weights = (1 / np.bincount(owners)[owners]).astype(np.float32)
        sets.append(WordSets(owners, values, weights))
    return sets


class AttributeHead(RowSparse):
    """Linear layer from a word's final vector to an attribute's ids; *none* has no output."""

    samples: int | None = None
    """Approximate number of ids sampled for the softmax in training; None: exact softmax."""
    deferred: list[LayerGradient] | None = None
    """List of the optimizer, to which the backward pass appends this layer's gradient in factors;
    None: gradients go to the weights."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, size - 1)

    def row_parameters(self) -> Sequence[nn.Parameter]:
        """Returns the weight and bias if ids are sampled, else an empty tuple."""
        return () if self.samples is None else tuple(self.project.parameters())

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns the logits (M, V) of the ids 1, 2, … at words (M, H)."""
        return self.project(vectors)  # type: ignore[no-any-return]

    def loss(self, vectors: Tensor, sets: WordSets) -> Tensor:
        """Returns the cross-entropy of vectors (M, H) against the words' sets, summed."""
        weight, bias = self.project.weight, self.project.bias
        if self.samples is None or not self.training:
            return set_cross_entropy(vectors, weight, bias, sets, self.deferred)
        candidates = draw_candidates(len(bias), self.samples, torch.rand(()).item(), sets)
        self.notify_before_read(as_tensor(candidates.places, vectors.device))
        return sampled_set_cross_entropy(vectors, weight, bias, sets, candidates)


class SegmentHeads(nn.Module):
    """The heads of one segment's attributes, in the order of the attributes."""

    def __init__(self, shape: SegmentShape, hidden: int) -> None:
        super().__init__()
        self.segment = shape.name
        self.names = tuple(attribute.name for attribute in shape.attributes)
        self.attributes: Sequence[AttributeHead] = nn.ModuleList(  # type: ignore[assignment]
            AttributeHead(hidden, attribute.size) for attribute in shape.attributes
        )
        self._size = max(attribute.size for attribute in shape.attributes)

    def losses(
        self, vectors: Tensor, batch: SegmentBatch, selected: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        """Returns the loss of each attribute, summed over the selected words.

        `vectors` (M, H) are the final vectors at the words that `selected` (W,) marks.
        """
        return self._losses(vectors, word_sets(batch, selected, self._size))

    def user_losses(self, vectors: Tensor, groups: Int64, ids: Int32) -> dict[str, Tensor]:
        """Returns the loss of each attribute, summed over users; each user's set has weight 1.

        `vectors` (B, H) are the users' vectors, `ids` (A, N) the ids of actions, and `groups` (N,)
        the index of each action's user.
        """
        return self._losses(vectors, sets_of(groups, ids, self._size, normalize=True))

    def _losses(self, vectors: Tensor, sets: Sequence[WordSets]) -> dict[str, Tensor]:
        return {
            name: head.loss(vectors, words)
            for name, head, words in zip(self.names, self.attributes, sets, strict=True)
        }


class UserHeads(nn.Module):
    """Heads that predict the values of some of a user's actions from the user's [CLS] vector.

    With `activity`, they also predict per segment whether there are any actions, and log(1 + the
    number of actions).
    """

    def __init__(self, shape: InputShape, hidden: int, *, activity: bool) -> None:
        super().__init__()
        self.segments: Sequence[SegmentHeads] = nn.ModuleList(  # type: ignore[assignment]
            SegmentHeads(segment, hidden) for segment in shape.segments
        )
        self.activity = nn.Linear(hidden, 2 * len(shape.segments)) if activity else None

    def losses(
        self, vectors: Tensor, owners: Sequence[Int64], ids: Sequence[Int32]
    ) -> dict[str, Tensor]:
        """Returns the losses of each attribute and, if predicted, of activity, summed over users.

        `vectors` (B, H) are the users' vectors. For each segment, `owners` (N,) is the index of
        each action's user, and `ids` (A, N) are the ids of the actions.
        """
        losses = {
            f"{heads.segment}.{name}": loss
            for heads, users, values in zip(self.segments, owners, ids, strict=True)
            for name, loss in heads.user_losses(vectors, users, values).items()
        }
        if self.activity is None:
            return losses
        activity = self.activity(vectors).float()  # (B, 2 S)
        for number, (heads, users) in enumerate(zip(self.segments, owners, strict=True)):
            counts = as_tensor(np.bincount(users, minlength=len(vectors)), vectors.device).float()
            losses[f"{heads.segment} active"] = functional.binary_cross_entropy_with_logits(
                activity[:, 2 * number], (counts > 0).float(), reduction="sum"
            )
            losses[f"{heads.segment} count"] = functional.smooth_l1_loss(
                activity[:, 2 * number + 1], counts.log1p(), reduction="sum"
            )
        return losses
