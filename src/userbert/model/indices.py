"""Computes a network's inputs without torch: rows of tables, order of tokens, counts and timing.

In: a `UserBatch`. Out: arrays of indices and numbers. The network and its ONNX export both use
this module, so that they compute the same vectors.

Letters in shapes: B users, T tokens, W words of a segment, N actions of a segment, A attributes of
a segment, S segments, P kinds of tokens, R rows read, K columns of timing, L half-lives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.data.ragged import Int64, offsets_of, ranges


@dataclass(frozen=True)
class TableLayout:
    """Row numbers of several tables, one after the other in one matrix; row 0 is *none*."""

    row_offsets: Int64
    """(tables + 1,): row before each table's first row; at the end, the matrix's last row."""

    @classmethod
    def of(cls, sizes: Sequence[int]) -> "TableLayout":
        """Returns the layout of tables with `sizes` ids each; every id except *none* has a row."""
        return cls(offsets_of([size - 1 for size in sizes]))

    def rows(self, ids: NDArray[np.integer[Any]], tables: Int64) -> Int64:
        """Returns the rows of `ids`. `tables` are the tables' indices, broadcast against `ids`."""
        return np.where(ids > 0, ids + self.row_offsets[tables], 0)


def word_tables(shape: InputShape) -> tuple[list[int], tuple[Int64, ...]]:
    """Returns the word tables' sizes and, per segment, the table index of each attribute (A,).

    A table's size is its number of ids, *none* included. Segments may share a table.
    """
    attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
    sizes = {attribute.table: attribute.size for attribute in attributes}
    number = {table: number for number, table in enumerate(sizes)}
    return list(sizes.values()), tuple(
        np.array([number[attribute.table] for attribute in segment.attributes], np.int64)
        for segment in shape.segments
    )


def summary_tables(shape: InputShape) -> list[int]:
    """Returns the sizes of the summary's tables, which are one per attribute of each segment."""
    return [attribute.size for segment in shape.segments for attribute in segment.attributes]


def order_by_word(rows: Int64, action_offsets: Int64) -> tuple[Int64, Int64]:
    """Reorders the rows (A, N) of a segment's actions by word, attribute and action.

    `action_offsets` (W + 1,) bound the actions of each word. Returns the ordered rows (A * N,), and
    offsets (W * A + 1,), which bound the rows of each attribute in each word.
    """
    attributes = len(rows)
    sizes = np.diff(action_offsets)
    offsets = offsets_of(np.repeat(sizes, attributes))
    first_index = offsets[:-1].reshape(-1, attributes).T  # (A, W)
    # New index of an action's row: first index of its word and attribute, plus rank in the word.
    shift = np.repeat(first_index - action_offsets[:-1], sizes, axis=1)
    ordered = np.empty(rows.size, np.int64)
    ordered[shift + np.arange(rows.shape[1])] = rows
    return ordered, offsets


def interleave(counts: Int64) -> tuple[Int64, Int64]:
    """Reorders tokens that are sorted by kind and user, so that they are sorted by user and kind.

    `counts` (P, B) is the number of tokens by kind and user. Returns the new index (T,) of each
    token, in the old order, and the number of tokens (B,) of each user.
    """
    lengths = counts.sum(axis=0)
    first_of_user = np.cumsum(lengths) - lengths
    first_index = first_of_user + np.cumsum(counts, axis=0) - counts  # (P, B)
    return ranges(first_index.ravel(), counts.ravel()), lengths


@dataclass(frozen=True)
class SummaryRows:
    """Weighted rows of the summary's tables that add up to each user's summary."""

    rows: Int64
    """(R,): rows of the distinct values in each user's history."""
    offsets: Int64
    """(B + 1,): the rows of user b are `offsets[b]:offsets[b + 1]`."""
    weights: NDArray[np.float32]
    """(R,): log(1 + count) of each value; a user's weights are scaled to unit length."""


def summary_rows(batch: UserBatch, tables: TableLayout) -> SummaryRows:
    """Returns the weighted rows of `tables` that add up to each user's summary."""
    keys = []
    first_table = 0
    size = int(tables.row_offsets[-1]) + 1
    for segment in batch.segments:
        table_numbers = np.arange(first_table, first_table + len(segment.ids))
        rows = tables.rows(segment.ids, table_numbers[:, None])  # (A, N)
        keys.append((segment.user_of_action * size + rows)[rows > 0])
        first_table += len(segment.ids)
    sorted_keys = np.sort(np.concatenate(keys))
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    log_counts = np.log1p(np.diff(np.append(starts, len(sorted_keys))))
    users, rows = np.divmod(sorted_keys[starts], size)
    squares = np.bincount(users, log_counts**2, minlength=len(batch))
    weights = log_counts / np.sqrt(squares)[users]
    offsets = np.searchsorted(users, np.arange(len(batch) + 1))
    return SummaryRows(rows, offsets, weights.astype(np.float32))


def log_totals(batch: UserBatch) -> NDArray[np.float32]:
    """Returns log(1 + count) of each segment's actions and of its words (B, 2 S)."""
    counts = [
        count
        for segment in batch.segments
        for count in (np.diff(segment.action_offsets[segment.word_offsets]), segment.word_counts)
    ]
    logs: NDArray[np.float64] = np.log1p(np.stack(counts, axis=1))
    return logs.astype(np.float32)


def timing(batch: UserBatch, shape: InputShape) -> NDArray[np.float32]:
    """Returns how recently, regularly and often users acted: (B, K), segment after segment.

    The unit of time is a day, or an hour in segments whose words end at gaps. Times are counted
    from the segment's last position. Half-lives are 1, 2, 4, … units, up to at most half the number
    of positions. Logarithms are log(1 + x). The columns of a segment are:

    - logarithms of the time since the last word, the time since the first word, and the mean gap
      between words;
    - logarithm of the time since the last word, minus logarithm of the mean gap;
    - weight of the last word under exponential decay, by half-life;
    - logarithm of the decayed number of words, by half-life;
    - logarithm of the number of words;
    - logarithm of the decayed number of actions, by half-life;
    - logarithm of the number of actions.

    For users without words, both times are the number of positions, and the mean gap, the weights
    and the numbers are 0.
    """
    columns = [_timing(*pair) for pair in zip(batch.segments, shape.segments, strict=True)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def timing_width(shape: InputShape) -> int:
    """Returns the number of columns of `timing`, K."""
    return sum(6 + 3 * len(_half_lives(segment)) for segment in shape.segments)


def _half_lives(shape: SegmentShape) -> NDArray[np.float64]:
    """Returns the half-lives (L,), in days or hours (see `timing`)."""
    return np.exp2(np.arange(int(np.log2(shape.positions)), dtype=np.float64))


def _timing(segment: SegmentBatch, shape: SegmentShape) -> NDArray[np.float64]:
    """Returns the timing (B, 6 + 3 L) of one segment."""
    counts = segment.word_counts
    active = np.flatnonzero(counts)
    rates = np.append(1 / _half_lives(shape), 0)  # rate 0: no decay
    ago = (shape.positions - 1 - segment.positions).astype(np.float64)  # (W,)
    times = np.full((2, len(counts)), float(shape.positions))
    times[:, active] = ago[
        [segment.word_offsets[1:][active] - 1, segment.word_offsets[:-1][active]]
    ]
    last, first = times
    gap = np.maximum(first - last, 0) / np.maximum(counts - 1, 1)
    decayed = np.exp2(-ago[:, None] * rates)  # (W, L + 1)
    sizes = np.diff(segment.action_offsets)[:, None]
    sums = np.zeros((len(counts), 2 * len(rates)))
    if len(active):
        weights = np.concatenate([decayed, decayed * sizes], axis=1)
        sums[active] = np.add.reduceat(weights, segment.word_offsets[:-1][active])
    logs = np.log1p(np.stack([last, first, gap], axis=1))
    lateness = logs[:, :1] - logs[:, 2:]
    recent = np.exp2(-last[:, None] * rates[:-1]) * (counts > 0)[:, None]
    columns: NDArray[np.float64] = np.concatenate([logs, lateness, recent, np.log1p(sums)], axis=1)
    return columns
