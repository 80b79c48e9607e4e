"""What pretraining predicts: the set of each attribute's values in a word (paper §3.2, eq. 1).

In: final vectors at selected words, and which ids stand in these words. Out: the multi-label
cross-entropy of each attribute. The binary vector of equation 1 is never built: with S the set of
a word's ids, -Σ y log softmax(z) = |S| · logsumexp(z) - Σ z[S].

Letters in shapes: M selected words, W words, H hidden, V ids without *none*, P (word, id) pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import Int64, SegmentBatch, SegmentShape
from userbert.model.embedding import as_tensor


@dataclass(frozen=True)
class WordSets:
    """The set of one attribute's ids in each of some words, as pairs in any order."""

    words: Int64
    """(P,): which of the M words."""
    ids: Int64
    """(P,): an id of that word, each once; never 0, none."""


def word_sets(batch: SegmentBatch, selected: NDArray[np.bool_], size: int) -> list[WordSets]:
    """For each attribute of a segment, the sets of ids in the selected (W,) words.

    `size` is at least the number of ids of any attribute.
    """
    word_sizes = np.diff(batch.action_offsets)
    actions = np.flatnonzero(np.repeat(selected, word_sizes))
    words = np.repeat(np.arange(np.count_nonzero(selected)), word_sizes[selected])
    sets = []
    for ids in batch.ids[:, actions]:
        pairs = np.unique((words * size + ids)[ids != 0])
        sets.append(WordSets(pairs // size, pairs % size))
    return sets


class AttributeHead(nn.Module):
    """One linear layer from a word's final vector to an attribute's ids; *none* has no output."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, size - 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (M, V) of the ids 1, 2, … at words (M, H)."""
        return self.project(vectors)  # type: ignore[no-any-return]

    def loss(self, vectors: Tensor, sets: WordSets) -> Tensor:
        """Cross-entropy against the words' sets, summed over the words (M, H)."""
        logits: Tensor = self(vectors)  # (M, V)
        words, ids = (as_tensor(part, logits.device) for part in (sets.words, sets.ids))
        log_sums = torch.logsumexp(logits.float(), dim=1)  # (M,)
        present = logits.view(-1).index_select(0, words * logits.shape[1] + ids - 1)  # (P,)
        return log_sums.index_select(0, words).sum() - present.float().sum()


class SegmentHeads(nn.Module):
    """The heads of one segment's attributes, in their order."""

    def __init__(self, shape: SegmentShape, hidden: int) -> None:
        super().__init__()
        self.names = tuple(attribute.name for attribute in shape.attributes)
        self.attributes: Sequence[AttributeHead] = nn.ModuleList(  # type: ignore[assignment]
            AttributeHead(hidden, attribute.size) for attribute in shape.attributes
        )
        self._size = max(attribute.size for attribute in shape.attributes)

    def losses(
        self, vectors: Tensor, batch: SegmentBatch, selected: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        """The loss of each attribute, summed over the selected words.

        `vectors` (M, H) are the final vectors at the words that `selected` (W,) says.
        """
        sets = word_sets(batch, selected, self._size)
        return {
            name: head.loss(vectors, words)
            for name, head, words in zip(self.names, self.attributes, sets, strict=True)
        }
