"""Encodes a batch as the inputs of an exported network: arrays of indices, weights and counts.

In: a `UserBatch`. Out: named arrays. `export.py` writes a network that reads them, `runtime.py`
runs it. Sums over many rows are split into chunks, because ONNX has no sum over ragged groups, and
onnxruntime's threads lose summands of `ScatterND`.

Letters in shapes: B users, L tokens of the longest user, T tokens, W words of a segment, A
attributes of a segment, F profile fields, G groups to sum, R table rows of all groups, C chunks, D
chunks of the second step, E chunks of the last step, M width of the last step.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import InputShape, UserBatch
from userbert.data.ragged import Int64, offsets_of
from userbert.model.indices import (
    TableLayout,
    interleave,
    log_totals,
    order_by_word,
    summary_rows,
    summary_tables,
    timing,
    word_tables,
)

OnnxInputs = dict[str, NDArray[Any]]
_T = TypeVar("_T", bound=np.generic)

CLS, WORD, FIELD, SUMMARY = 1, 2, 3, 4
"""Kinds of tokens; padding is 0."""
_LEAF_WIDTH, _INNER_WIDTH = 4, 8
"""Number of table rows per chunk in the first step (leaves), and of sums per chunk in the second
step (inner). With these widths most groups have little padding, and few need a third step."""


class InputEncoder:
    """Encodes batches for a network of a given input shape."""

    def __init__(self, shape: InputShape, *, summary: bool, timing: bool) -> None:
        self._shape = shape
        self._has_timing = timing
        table_sizes, self._table_numbers = word_tables(shape)
        self._words = TableLayout.of(table_sizes)
        self._profile = TableLayout.of([field.size for field in shape.profile])
        self._summary = TableLayout.of(summary_tables(shape)) if summary else None

    def __call__(self, batch: UserBatch) -> OnnxInputs:
        """Returns the inputs of a batch of at least one user."""
        inputs: OnnxInputs = {}
        for segment, numbers in zip(batch.segments, self._table_numbers, strict=True):
            rows, offsets = order_by_word(
                self._words.rows(segment.ids, numbers[:, None]), segment.action_offsets
            )
            inputs |= _sum_inputs(segment.name, rows, offsets)
            groups = inputs[f"{segment.name}.groups"]
            inputs[f"{segment.name}.groups"] = groups.reshape(-1, len(numbers))  # (W, A)
            inputs[f"{segment.name}.sizes"] = np.diff(segment.action_offsets).astype(np.float32)
            inputs[f"{segment.name}.positions"] = segment.positions.astype(np.int64)
        is_known = batch.profile_ids > 0  # (B, F)
        if is_known.shape[1]:
            fields = self._profile.rows(batch.profile_ids, np.arange(is_known.shape[1]))
            inputs["profile.rows"] = fields.T[is_known.T]
        if self._summary is not None:
            summary = summary_rows(batch, self._summary)
            inputs |= _sum_inputs("summary", summary.rows, summary.offsets, summary.weights)
            inputs["summary.totals"] = log_totals(batch)
        if self._has_timing:
            inputs["timing"] = timing(batch, self._shape)
        return inputs | self._token_inputs(batch, is_known)

    def _token_inputs(self, batch: UserBatch, is_known: NDArray[np.bool_]) -> OnnxInputs:
        """Returns the indices that order tokens by user, pad them and pack them again.

        A piece is the tokens of one kind, such as the words of one segment. A slot is an element of
        the padded array (B, L).
        """
        ones = np.ones(len(batch), np.int64)
        counts = [ones, *(segment.word_counts for segment in batch.segments)]
        kinds = [CLS, *[WORD] * len(batch.segments), *[FIELD] * is_known.shape[1]]
        counts.extend(is_known.T.astype(np.int64))
        if self._summary is not None:
            counts.append(ones)
            kinds.append(SUMMARY)
        pieces = np.stack(counts)
        token_index, lengths = interleave(pieces)
        order = np.empty(len(token_index), np.int64)
        order[token_index] = np.arange(len(token_index))
        is_token = np.arange(lengths.max()) < lengths[:, None]  # (B, L)
        slots = np.zeros(is_token.shape, np.int64)
        slots[is_token] = np.arange(len(token_index))
        slot_kinds = np.zeros(is_token.shape, np.int64)
        slot_kinds[is_token] = np.repeat(kinds, pieces.sum(axis=1))[order]
        return {
            "tokens.order": order,  # (T,): index of each token in the pieces one after another
            "tokens.slots": slots,  # (B, L): index of each slot's token; 0 for padding
            "tokens.kinds": slot_kinds,  # (B, L): kind of the slot's token; 0 is padding
            "tokens.packed": np.flatnonzero(is_token),  # (T,): flat index of each token's slot
        }


def _sum_inputs(
    name: str, rows: Int64, offsets: Int64, weights: NDArray[np.float32] | None = None
) -> OnnxInputs:
    """Returns the indices with which the network sums the rows (R,) of each group in three steps.

    Group g has the rows `offsets[g]:offsets[g + 1]`. `leaves` (C, 4) holds chunks of table rows;
    row 0 is zero. `weights` (C, 4), if given as (R,), holds the rows' factors. `inner` (D, 8) and
    `outer` (E, M) hold chunks of sums of earlier steps, by the sum's number. Sums are numbered from
    1 in the order of the steps; sum 0 is zero. `groups` (G,) holds the number of each group's sum.
    """
    leaves, leaf_ends = _chunk(rows, offsets, _LEAF_WIDTH)
    inputs: OnnxInputs = {f"{name}.leaves": leaves}
    if weights is not None:
        inputs[f"{name}.weights"] = _chunk(weights, offsets, _LEAF_WIDTH)[0]
    # The first step is the only step of groups with one chunk; later steps replace the others.
    groups = np.where(np.diff(leaf_ends) > 0, leaf_ends[:-1] + 1, 0)
    inner, inner_ends, large = _chunk_sums(leaf_ends, 1, _INNER_WIDTH)
    first = 1 + len(leaves)
    groups[large] = first + inner_ends[:-1]
    # The last step is wide enough for the largest group.
    width = max(1, int(np.diff(inner_ends).max(initial=1)))
    outer, outer_ends, largest = _chunk_sums(inner_ends, first, width)
    groups[large[largest]] = first + len(inner) + outer_ends[:-1]
    return inputs | {f"{name}.inner": inner, f"{name}.outer": outer, f"{name}.groups": groups}


def _chunk_sums(ends: Int64, first: int, width: int) -> tuple[Int64, Int64, Int64]:
    """Splits the sums of each group with several sums into chunks (C, width).

    Group g has the sums `ends[g]:ends[g + 1]`, counted from `first`. Returns the chunks and, for
    the groups with several sums, the offsets of their chunks and the numbers of the groups.
    """
    counts = np.diff(ends)
    large_groups = np.flatnonzero(counts > 1)
    starts = offsets_of(counts[large_groups])
    shift = np.repeat(ends[large_groups] - starts[:-1], counts[large_groups])
    chunks, chunk_ends = _chunk(first + shift + np.arange(starts[-1]), starts, width)
    return chunks, chunk_ends, large_groups


def _chunk(values: NDArray[_T], offsets: Int64, width: int) -> tuple[NDArray[_T], Int64]:
    """Splits the values (R,) of each group into zero-padded chunks (C, width).

    Returns the chunks and the offsets of each group's chunks.
    """
    counts = np.diff(offsets)
    ends = offsets_of(-(-counts // width))
    chunks = np.zeros(ends[-1] * width, values.dtype)
    shift = np.repeat(ends[:-1] * width - offsets[:-1], counts)
    chunks[shift + np.arange(len(values))] = values
    return chunks.reshape(-1, width), ends
