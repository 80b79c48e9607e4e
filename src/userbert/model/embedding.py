"""Input representations: words and profile fields become token vectors (paper §3.2).

In: a `UserBatch`. Out: `Encoded`, the vectors of all users' tokens, one user after the other. A
user's tokens are `[CLS]`, the words of each segment oldest first, and the profile fields that are
known. `UserBert` passes the vectors through the encoder and gives them on in the same record.

Letters in shapes: B users, T tokens, W words of a segment, N actions of a segment, A attributes of
a segment, F profile fields, H hidden, E width of an attribute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from userbert.data.batches import InputShape, Int64, SegmentBatch, SegmentShape, UserBatch
from userbert.model.encoder import NORM_EPSILON

INIT_DEVIATION = 0.02
"""Of every weight at the start, as in BERT."""


@dataclass(frozen=True)
class Encoded:
    """User sequences as packed token vectors: the input embedding's, or the encoder's."""

    tokens: Tensor
    """(T, H)."""
    lengths: Tensor
    """(B,): how many tokens each user has; at least one."""
    cls_index: Tensor
    """(B,): where each user's [CLS] stands among the T tokens."""
    word_index: tuple[Tensor, ...]
    """(W,) of each segment: where each word stands among the T tokens."""
    user_of_word: tuple[Tensor, ...]
    """(W,) of each segment: whose word it is."""


class AttributeTable(nn.Module):
    """Vectors of ids. Id 0, none, is zero and is never learned."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, width))

    def reset_parameters(self) -> None:
        """Draw the vectors as BERT does."""
        nn.init.normal_(self.weight, std=INIT_DEVIATION)
        with torch.no_grad():
            self.weight[0] = 0

    def sum_over_words(self, ids: Tensor, action_offsets: Tensor) -> Tensor:
        """Sum the vectors of the ids (N,) of each word's actions: (W, E)."""
        return functional.embedding_bag(
            ids,
            self.weight,
            action_offsets,
            mode="sum",
            padding_idx=0,
            include_last_offset=True,
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Look ids (N,) up: (N, E)."""
        return functional.embedding(ids, self.weight, padding_idx=0)


class SegmentEmbedding(nn.Module):
    """Words of one segment: the mean of their actions, mapped to H, plus position and segment."""

    def __init__(self, shape: SegmentShape, hidden: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(len(shape.attributes) * width, hidden)
        self.position = nn.Embedding(shape.positions, hidden)
        self.segment = nn.Parameter(torch.empty(hidden))

    def reset_parameters(self) -> None:
        """Draw the segment's vector as BERT does."""
        nn.init.normal_(self.segment, std=INIT_DEVIATION)

    def forward(self, batch: SegmentBatch, tables: Sequence[AttributeTable]) -> Tensor:
        """Represent the words of a segment: (W, H); `tables` are its attributes', in order."""
        device = self.segment.device
        ids = as_tensor(batch.ids, device)
        offsets = as_tensor(batch.action_offsets.astype(np.int32), device)
        # Actions without an attribute count too: its share of the word's mean is smaller.
        sums = [table.sum_over_words(row, offsets) for table, row in zip(tables, ids, strict=True)]
        means = torch.cat(sums, dim=1) / offsets.diff()[:, None]  # (W, A * E)
        positions = as_tensor(batch.positions, device)
        return self.project(means) + self.position(positions) + self.segment  # type: ignore[no-any-return]


class InputEmbedding(nn.Module):
    """The input representation of user sequences (paper §3.2, figure 1)."""

    def __init__(self, shape: InputShape, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
        sizes = {attribute.table: attribute.size for attribute in attributes}
        number = {table: number for number, table in enumerate(sizes)}
        # Segments may share a table, so they are kept here and not by segment.
        self._table_numbers = tuple(
            tuple(number[attribute.table] for attribute in segment.attributes)
            for segment in shape.segments
        )
        # A list, as module names cannot hold every attribute's name.
        self.tables: Sequence[AttributeTable] = nn.ModuleList(  # type: ignore[assignment]
            AttributeTable(size, width) for size in sizes.values()
        )
        self.segments: Sequence[SegmentEmbedding] = nn.ModuleList(  # type: ignore[assignment]
            SegmentEmbedding(segment, hidden, width) for segment in shape.segments
        )
        self.profile: Sequence[AttributeTable] = nn.ModuleList(  # type: ignore[assignment]
            AttributeTable(field.size, hidden) for field in shape.profile
        )
        self.profile_segment = nn.Parameter(torch.empty(hidden))
        self.cls = nn.Parameter(torch.empty(hidden))
        self.norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw [CLS] and the profile's segment vector as BERT does."""
        nn.init.normal_(self.cls, std=INIT_DEVIATION)
        nn.init.normal_(self.profile_segment, std=INIT_DEVIATION)

    def forward(
        self, batch: UserBatch, zeroed: Sequence[NDArray[np.bool_]] | None = None
    ) -> Encoded:
        """Represent a batch.

        `zeroed`, (W,) of each segment, says which words' vectors are zero as a whole, position
        and segment included: forming the input representations "is followed by the masking step"
        (§3.2).
        """
        device = self.cls.device
        known = batch.profile_ids > 0  # (B, F)
        pieces = [self.cls.expand(len(batch), -1)]
        counts = [np.ones(len(batch), np.int64)]
        for embed, segment, numbers in zip(
            self.segments, batch.segments, self._table_numbers, strict=True
        ):
            pieces.append(embed(segment, [self.tables[number] for number in numbers]))
            counts.append(segment.word_counts)
        for field, table in enumerate(self.profile):
            ids = batch.profile_ids[known[:, field], field]
            pieces.append(table(as_tensor(ids, device)) + self.profile_segment)
            counts.append(known[:, field].astype(np.int64))

        places, lengths = _interleave(np.stack(counts))
        order = np.empty(len(places), np.int64)
        order[places] = np.arange(len(places))
        vectors = torch.cat(pieces).index_select(0, as_tensor(order, device))  # (T, H)
        vectors = self.dropout(self.norm(vectors))

        words = np.split(places, np.cumsum([count.sum() for count in counts]))
        words = words[1 : 1 + len(batch.segments)]
        if zeroed is not None:
            hide = np.zeros(len(places), np.bool_)
            hide[np.concatenate(words)] = np.concatenate(list(zeroed))
            vectors = vectors.masked_fill(as_tensor(hide, device)[:, None], 0)
        users = np.arange(len(batch))
        return Encoded(
            vectors,
            as_tensor(lengths, device),
            as_tensor(places[: len(batch)], device),
            tuple(as_tensor(index, device) for index in words),
            tuple(
                as_tensor(np.repeat(users, segment.word_counts), device)
                for segment in batch.segments
            ),
        )


def _interleave(counts: Int64) -> tuple[Int64, Int64]:
    """Bring pieces, each in the order of users, into the order of users.

    `counts` (P, B) says how many tokens of each piece each user has. Returns the place (T,) of
    each token, piece after piece, and the number of tokens (B,) of each user.
    """
    lengths = counts.sum(axis=0)
    first_of_user = np.cumsum(lengths) - lengths
    first = first_of_user + np.cumsum(counts, axis=0) - counts  # (P, B)
    flat = counts.ravel()
    before = np.cumsum(flat) - flat
    places = np.repeat(first.ravel() - before, flat) + np.arange(flat.sum())
    return places, lengths


def as_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Share a numpy array with torch; a read-only view of a file is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
