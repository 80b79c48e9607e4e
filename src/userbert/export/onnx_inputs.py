"""A batch as the inputs of an exported network: arrays of indices, weights and counts.

In: a `UserBatch`. Out: named arrays. `export.py` writes a network that reads them, `runtime.py`
runs it. Sums over many rows are sums of sums of few: ONNX has no sum over ragged groups, and where
one is made of `ScatterND`, onnxruntime's threads lose summands.

Letters in shapes: B users, L tokens of the longest user, T tokens, W words of a segment, A
attributes of a segment, K profile fields that are known, G groups that are summed, R rows read.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import InputShape, UserBatch
from userbert.data.ragged import Int64, offsets_of
from userbert.model.indices import (
    Tables,
    by_word,
    counted,
    interleave,
    summary_tables,
    timing,
    totals,
    word_tables,
)

Feeds = dict[str, NDArray[Any]]
_T = TypeVar("_T", bound=np.generic)

CLS, WORD, FIELD, SUMMARY = 1, 2, 3, 4
"""Kinds of tokens; 0 where none is."""
_LEAF, _INNER = 4, 8
"""So many rows, and then so many sums, are added at once: of most groups few rows are padding, and
few groups need a third step."""


class Feeding:
    """Makes the inputs of a network that reads data of a shape, with all that it reads."""

    def __init__(self, shape: InputShape, *, summary: bool, timing: bool) -> None:
        self._shape = shape
        self._has_timing = timing
        sizes, self._numbers = word_tables(shape)
        self._words = Tables.of(sizes)
        self._profile = Tables.of([field.size for field in shape.profile])
        self._summary = Tables.of(summary_tables(shape)) if summary else None

    def __call__(self, batch: UserBatch) -> Feeds:
        """The inputs of a batch of at least one user."""
        feeds: Feeds = {}
        for segment, numbers in zip(batch.segments, self._numbers, strict=True):
            rows, offsets = by_word(
                self._words.rows(segment.ids, numbers[:, None]), segment.action_offsets
            )
            feeds |= _sums(segment.name, rows, offsets)
            groups = feeds[f"{segment.name}.groups"]
            feeds[f"{segment.name}.groups"] = groups.reshape(-1, len(numbers))  # (W, A)
            feeds[f"{segment.name}.sizes"] = np.diff(segment.action_offsets).astype(np.float32)
            feeds[f"{segment.name}.positions"] = segment.positions.astype(np.int64)
        known = batch.profile_ids > 0  # (B, F)
        if known.shape[1]:
            fields = self._profile.rows(batch.profile_ids, np.arange(known.shape[1]))
            feeds["profile.rows"] = fields.T[known.T]
        if self._summary is not None:
            read = counted(batch, self._summary)
            feeds |= _sums("summary", read.rows, read.offsets, read.weights)
            feeds["summary.totals"] = totals(batch)
        if self._has_timing:
            feeds["timing"] = timing(batch, self._shape)
        return feeds | self._places(batch, known)

    def _places(self, batch: UserBatch, known: NDArray[np.bool_]) -> Feeds:
        """Where tokens stand, packed and padded."""
        one_each = np.ones(len(batch), np.int64)
        counts = [one_each, *(segment.word_counts for segment in batch.segments)]
        kinds = [CLS, *[WORD] * len(batch.segments), *[FIELD] * known.shape[1]]
        counts.extend(known.T.astype(np.int64))
        if self._summary is not None:
            counts.append(one_each)
            kinds.append(SUMMARY)
        pieces = np.stack(counts)
        places, lengths = interleave(pieces)
        order = np.empty(len(places), np.int64)
        order[places] = np.arange(len(places))
        is_there = np.arange(lengths.max()) < lengths[:, None]  # (B, L)
        slots = np.zeros(is_there.shape, np.int64)
        slots[is_there] = np.arange(len(places))
        of_slots = np.zeros(is_there.shape, np.int64)
        of_slots[is_there] = np.repeat(kinds, pieces.sum(axis=1))[order]
        return {
            "tokens.order": order,  # (T,): the number of each token among all pieces
            "tokens.slots": slots,  # (B, L): the number of a slot's token among all tokens
            "tokens.kinds": of_slots,  # (B, L)
            "tokens.packed": np.flatnonzero(is_there),  # (T,): the slot of each token
        }


def _sums(
    name: str, rows: Int64, offsets: Int64, weights: NDArray[np.float32] | None = None
) -> Feeds:
    """How the rows (R,) of each group are added, perhaps with weights (R,); row 0 is zero.

    The rows of group g are `offsets[g]:offsets[g + 1]`. `leaves` (C, 4) are rows; `inner` (D, 8)
    and `outer` (E, M) are numbers of sums before; `groups` (G,) is which sum is a group's. Sums are
    numbered from 1, those of leaves first; 0 is zero.
    """
    leaves, leaf_ends = _chunks(rows, offsets, _LEAF)
    feeds: Feeds = {f"{name}.leaves": leaves}
    if weights is not None:
        feeds[f"{name}.weights"] = _chunks(weights, offsets, _LEAF)[0]
    # What a group's sum is, while it is one number alone.
    groups = np.where(np.diff(leaf_ends) > 0, leaf_ends[:-1] + 1, 0)
    inner, inner_ends, large = _above(leaf_ends, 1, _INNER)
    first = 1 + len(leaves)
    groups[large] = first + inner_ends[:-1]
    # The last step is as wide as the largest group wants it.
    width = max(1, int(np.diff(inner_ends).max(initial=1)))
    outer, outer_ends, largest = _above(inner_ends, first, width)
    groups[large[largest]] = first + len(inner) + outer_ends[:-1]
    return feeds | {f"{name}.inner": inner, f"{name}.outer": outer, f"{name}.groups": groups}


def _above(ends: Int64, first: int, width: int) -> tuple[Int64, Int64, Int64]:
    """Chunks of sums, numbered from `first`, of those groups that have more than one.

    Returns the chunks, the offsets of each such group's, and which groups those are.
    """
    counts = np.diff(ends)
    several = np.flatnonzero(counts > 1)
    starts = offsets_of(counts[several])
    shift = np.repeat(ends[several] - starts[:-1], counts[several])
    chunks, chunk_ends = _chunks(first + shift + np.arange(starts[-1]), starts, width)
    return chunks, chunk_ends, several


def _chunks(values: NDArray[_T], offsets: Int64, width: int) -> tuple[NDArray[_T], Int64]:
    """Values (R,) of groups in chunks (C, width), zeros behind; and the groups' chunks' offsets."""
    counts = np.diff(offsets)
    ends = offsets_of(-(-counts // width))
    chunks = np.zeros(ends[-1] * width, values.dtype)
    shift = np.repeat(ends[:-1] * width - offsets[:-1], counts)
    chunks[shift + np.arange(len(values))] = values
    return chunks.reshape(-1, width), ends
