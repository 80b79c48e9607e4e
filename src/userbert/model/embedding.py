"""The input embedding: turns words and profile fields into token vectors (paper §3.2).

In: a `UserBatch`. Out: `Encoded`, the vectors of all users' tokens, one user after the other. A
user's tokens are `[CLS]`, the words of each segment oldest first, the known profile fields and, if
the model has it (beyond the paper), a summary of the history. `UserBert` runs the encoder on the
vectors and returns an `Encoded` with the encoder's vectors.

Letters in shapes: B users, T tokens, W words of a segment, N actions of a segment, A attributes of
a segment, F profile fields, P known profile fields of all users, K timing features, V ids of an
attribute, H size of a token's vector, E size of an attribute's vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.data.ragged import Int64, list_numbers, ranges
from userbert.model.dropout import Dropout, token_keys
from userbert.model.encoder import NORM_EPSILON
from userbert.model.indices import interleave, order_by_word, word_tables
from userbert.model.summary import HistorySummary
from userbert.model.tables import INIT_DEVIATION, AttributeTables, as_tensor
from userbert.model.timing import HistoryTiming


@dataclass(frozen=True)
class Encoded:
    """User sequences as packed token vectors, before or after the encoder."""

    tokens: Tensor
    """(T, H): vectors of the tokens."""
    lengths: Tensor
    """(B,): number of tokens of each user, at least one."""
    cls_index: Tensor
    """(B,): index of each user's [CLS] among the T tokens."""
    word_index: tuple[Tensor, ...]
    """(W,) per segment: index of each word among the T tokens."""
    user_of_word: tuple[Tensor, ...]
    """(W,) per segment: index of each word's user."""
    field_index: Tensor
    """(P,): index of each known profile field among the T tokens."""
    user_of_field: Tensor
    """(P,): index of each known profile field's user."""
    keys: Tensor | None = None
    """(T,): dropout keys of the tokens; None without dropout."""
    summary: Tensor | None = None
    """(B, H): summary of each user's history, before the norm of the input embedding; None if the
    model has no summary."""
    timing: Tensor | None = None
    """(B, K): standardised timing of each user's actions, which the encoder does not read; None if
    the model has no timing."""


class SegmentEmbedding(nn.Module):
    """Embeds the words of one segment.

    A word's vector is the mean of its actions, projected to H, plus the vectors of its position and
    of the segment and, with `has_size`, a multiple of the logarithm of its number of actions.
    """

    def __init__(
        self, shape: SegmentShape, hidden: int, width: int, *, has_size: bool = False
    ) -> None:
        super().__init__()
        self.project = nn.Linear(len(shape.attributes) * width, hidden)
        self.position = nn.Embedding(shape.positions, hidden)
        self.segment = nn.Parameter(torch.empty(hidden))
        self.size = nn.Linear(1, hidden, bias=False) if has_size else None

    def reset_parameters(self) -> None:
        """Initialises the segment's vector as in BERT."""
        nn.init.normal_(self.segment, std=INIT_DEVIATION)

    def forward(
        self,
        batch: SegmentBatch,
        tables: AttributeTables,
        table_numbers: Int64,
        without_actions: NDArray[np.bool_] | None = None,
    ) -> Tensor:
        """Returns the vectors (W, H) of a segment's words.

        `table_numbers` (A,) are the indices of the attributes' tables. Words that `without_actions`
        (W,) marks keep only their position and segment.
        """
        rows = tables.rows(batch.ids, table_numbers[:, None])  # (A, N)
        rows, groups = order_by_word(rows, batch.action_offsets)
        sums = tables.sum_groups(rows, groups)  # (W * A, E)
        device = self.segment.device
        # Actions without the attribute count too, which lowers its weight in the word's mean.
        counts = as_tensor(np.diff(batch.action_offsets).astype(np.float32), device)
        mask = None if without_actions is None else as_tensor(without_actions, device)
        return self.from_sums(sums, counts, as_tensor(batch.positions, device), mask)

    def from_sums(
        self,
        sums: Tensor,
        action_counts: Tensor,
        positions: Tensor,
        without_actions: Tensor | None = None,
    ) -> Tensor:
        """Returns the vectors (W, H) of words from the sums (W * A, E) over their actions.

        `action_counts` (W,), `positions` (W,) and `without_actions` (W,), see `forward`, are per
        word.
        """
        means = sums.view(action_counts.shape[0], self.project.in_features)  # (W, A * E)
        tokens = self.project(means / action_counts[:, None])
        if self.size is not None:
            tokens = tokens + self.size(action_counts.log1p()[:, None])
        if without_actions is not None:
            tokens = tokens.masked_fill(without_actions[:, None], 0)
        return tokens + self.position(positions) + self.segment  # type: ignore[no-any-return]


class InputEmbedding(nn.Module):
    """Embeds user sequences as token vectors (paper §3.2, figure 1)."""

    def __init__(
        self,
        shape: InputShape,
        hidden: int,
        width: int,
        dropout: float,
        *,
        word_sizes: bool = False,
        summary: bool = False,
        timing: bool = False,
    ) -> None:
        super().__init__()
        # The tables are not part of the segments, because segments may share a table.
        table_sizes, self._table_numbers = word_tables(shape)
        self.tables = AttributeTables(table_sizes, width)
        self.segments: Sequence[SegmentEmbedding] = nn.ModuleList(  # type: ignore[assignment]
            SegmentEmbedding(segment, hidden, width, has_size=word_sizes)
            for segment in shape.segments
        )
        self.summary = HistorySummary(shape, hidden) if summary else None
        self.timing = HistoryTiming(shape) if timing else None
        self.profile = AttributeTables([field.size for field in shape.profile], hidden)
        self.profile_segment = nn.Parameter(torch.empty(hidden))
        self.cls = nn.Parameter(torch.empty(hidden))
        self.norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def attribute_vectors(self) -> list[list[Tensor]]:
        """Returns the vectors (V, E) of all ids, by segment and attribute."""
        return [
            [self.tables.vectors(number) for number in numbers.tolist()]
            for numbers in self._table_numbers
        ]

    def reset_parameters(self) -> None:
        """Initialises [CLS] and the profile's segment vector as in BERT."""
        nn.init.normal_(self.cls, std=INIT_DEVIATION)
        nn.init.normal_(self.profile_segment, std=INIT_DEVIATION)

    def forward(
        self,
        batch: UserBatch,
        zeroed: Sequence[NDArray[np.bool_]] | None = None,
        *,
        keep_position: bool = False,
    ) -> Encoded:
        """Embeds a batch.

        `zeroed`, (W,) per segment, marks words to hide. Their vectors are zeroed, position and
        segment included: forming the input representations "is followed by the masking step"
        (§3.2). With `keep_position`, another reading of the paper, only their actions are zeroed.
        """
        word_masks = None if keep_position else zeroed
        action_masks: Sequence[NDArray[np.bool_] | None] = [None] * len(self.segments)
        if zeroed is not None and keep_position:
            action_masks = zeroed
        device = self.cls.device
        is_known = batch.profile_ids > 0  # (B, F)
        pieces = [self.cls.expand(len(batch), -1)]
        counts = [np.ones(len(batch), np.int64)]
        for embed, segment, numbers, mask in zip(
            self.segments,
            batch.segments,
            self._table_numbers,
            action_masks,
            strict=True,
        ):
            pieces.append(embed(segment, self.tables, numbers, mask))
            counts.append(segment.word_counts)
        fields = self.profile.rows(batch.profile_ids, np.arange(is_known.shape[1])).T[is_known.T]
        profile = self.profile.sum_groups(fields, np.arange(len(fields) + 1))
        pieces.append(profile + self.profile_segment)
        counts.extend(is_known.T.astype(np.int64))
        summary: Tensor | None = None
        if self.summary is not None:
            # The summary must not reveal the hidden words.
            summary = self.summary(batch, zeroed)
            pieces.append(summary)
            counts.append(np.ones(len(batch), np.int64))

        token_index, lengths = interleave(np.stack(counts))
        order = np.empty(len(token_index), np.int64)
        order[token_index] = np.arange(len(token_index))
        vectors = torch.cat(pieces).index_select(0, as_tensor(order, device))  # (T, H)
        keys = self._keys(batch, lengths)
        vectors = self.dropout(self.norm(vectors), keys, 0)

        piece_index = np.split(token_index, np.cumsum([count.sum() for count in counts]))
        word_index = piece_index[1 : 1 + len(batch.segments)]
        field_index = piece_index[1 + len(batch.segments) :][: is_known.shape[1]]
        if word_masks is not None:
            hide = np.zeros(len(token_index), np.bool_)
            hide[np.concatenate(word_index)] = np.concatenate(list(word_masks))
            vectors = vectors.masked_fill(as_tensor(hide, device)[:, None], 0)
        return Encoded(
            vectors,
            as_tensor(lengths, device),
            as_tensor(token_index[: len(batch)], device),
            tuple(as_tensor(index, device) for index in word_index),
            field_index=as_tensor(np.concatenate([token_index[:0], *field_index]), device),
            user_of_field=as_tensor(np.nonzero(is_known.T)[1], device),
            keys=keys,
            summary=summary,
            timing=None if self.timing is None else self.timing(batch),
            user_of_word=tuple(
                as_tensor(list_numbers(segment.word_offsets), device) for segment in batch.segments
            ),
        )

    def _keys(self, batch: UserBatch, lengths: Int64) -> Tensor | None:
        """Returns dropout keys (T,) from a random seed, `batch.index` and the token's number.

        A key does not depend on the user's position in the batch. Returns None without dropout.
        """
        if not self.dropout.threshold:
            return None
        seed = int(torch.randint(1 << 62, ()))
        users = np.repeat(batch.index, lengths)
        numbers = ranges(0, lengths)
        return token_keys(seed, torch.from_numpy(users), torch.from_numpy(numbers)).to(
            self.cls.device
        )


def init_as_bert(module: nn.Module) -> None:
    """Initialises the weights of one module, but not of its submodules, as in BERT."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_DEVIATION)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, AttributeTables | SegmentEmbedding | InputEmbedding):
        module.reset_parameters()
