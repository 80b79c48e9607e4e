"""What a network reads of a batch: rows of tables, places of tokens, counts and times. No torch.

In: a `UserBatch`. Out: arrays of indices and of numbers. Whatever computes a network's vectors
follows them: the network itself, and one that was exported.

Letters in shapes: B users, T tokens, W words of a segment, N actions of a segment, A attributes of
a segment, S segments, P kinds of tokens, R rows read, K numbers of timing, L half-lives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.data.ragged import Int64, offsets_of, ranges


@dataclass(frozen=True)
class Tables:
    """Several tables of vectors, one after the other in one matrix, whose row 0 is *none*."""

    before_first: Int64
    """The row before each table's first, and last the row that ends all."""

    @classmethod
    def of(cls, sizes: Sequence[int]) -> "Tables":
        """Tables of so many ids: each has a row for every id but none."""
        return cls(offsets_of([size - 1 for size in sizes]))

    def rows(self, ids: NDArray[np.integer[Any]], tables: Int64) -> Int64:
        """The rows of ids; the tables' numbers broadcast against them."""
        return np.where(ids > 0, ids + self.before_first[tables], 0)


def word_tables(shape: InputShape) -> tuple[list[int], tuple[Int64, ...]]:
    """The sizes of the tables that words read, and (A,) of each segment: which are its attributes'.

    Segments may share a table.
    """
    attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
    sizes = {attribute.table: attribute.size for attribute in attributes}
    number = {table: number for number, table in enumerate(sizes)}
    return list(sizes.values()), tuple(
        np.array([number[attribute.table] for attribute in segment.attributes], np.int64)
        for segment in shape.segments
    )


def summary_tables(shape: InputShape) -> list[int]:
    """The sizes of the tables that a summary reads: one of each attribute of each segment."""
    return [attribute.size for segment in shape.segments for attribute in segment.attributes]


def by_word(rows: Int64, action_offsets: Int64) -> tuple[Int64, Int64]:
    """Bring rows (A, N) into the order of words, then attributes, then actions.

    Returns them flat, with the offsets (W * A + 1,) of each word's attributes.
    """
    attributes = len(rows)
    sizes = np.diff(action_offsets)
    offsets = offsets_of(np.repeat(sizes, attributes))
    first = offsets[:-1].reshape(-1, attributes).T  # (A, W)
    # Where each action's row goes: its word's place for the attribute, and its rank in the word.
    shift = np.repeat(first - action_offsets[:-1], sizes, axis=1)
    ordered = np.empty(rows.size, np.int64)
    ordered[shift + np.arange(rows.shape[1])] = rows
    return ordered, offsets


def interleave(counts: Int64) -> tuple[Int64, Int64]:
    """Bring pieces, each in the order of users, into the order of users.

    `counts` (P, B) says how many tokens of each piece each user has. Returns the place (T,) of
    each token, piece after piece, and the number of tokens (B,) of each user.
    """
    lengths = counts.sum(axis=0)
    first_of_user = np.cumsum(lengths) - lengths
    first = first_of_user + np.cumsum(counts, axis=0) - counts  # (P, B)
    return ranges(first.ravel(), counts.ravel()), lengths


@dataclass(frozen=True)
class Counted:
    """Users as weighted rows of a summary's tables."""

    rows: Int64
    """(R,): of each user, those of the values in the history, each once."""
    offsets: Int64
    """(B + 1,): the rows of user b are `offsets[b]:offsets[b + 1]`."""
    weights: NDArray[np.float32]
    """(R,): the logarithms of the values' counts, of unit length for each user."""


def counted(batch: UserBatch, tables: Tables) -> Counted:
    """What a batch's users are the sums of."""
    keys = []
    first = 0
    size = int(tables.before_first[-1]) + 1
    for segment in batch.segments:
        numbers = np.arange(first, first + len(segment.ids))
        rows = tables.rows(segment.ids, numbers[:, None])  # (A, N)
        keys.append((segment.user_of_action * size + rows)[rows > 0])
        first += len(segment.ids)
    together = np.sort(np.concatenate(keys))
    starts = np.flatnonzero(np.diff(together, prepend=-1))
    counts = np.log1p(np.diff(np.append(starts, len(together))))
    users, rows = np.divmod(together[starts], size)
    squares = np.bincount(users, counts**2, minlength=len(batch))
    weights = counts / np.sqrt(squares)[users]
    offsets = np.searchsorted(users, np.arange(len(batch) + 1))
    return Counted(rows, offsets, weights.astype(np.float32))


def totals(batch: UserBatch) -> NDArray[np.float32]:
    """Log counts of actions and of words: (B, 2 S)."""
    counts = [
        count
        for segment in batch.segments
        for count in (np.diff(segment.action_offsets[segment.word_offsets]), segment.word_counts)
    ]
    logs: NDArray[np.float64] = np.log1p(np.stack(counts, axis=1))
    return logs.astype(np.float32)


def timing(batch: UserBatch, shape: InputShape) -> NDArray[np.float32]:
    """How recently, how regularly and how often users acted: (B, K), segment after segment.

    Of each segment, in its own unit (days; hours of gap words), the logarithms of the time since
    the last and the first word, of the mean gap between words, and of the first over the third of
    these. Then the share of the last word that is left when it fades, and the logarithms of the
    numbers of words and of actions that are left, with half-lives of 1, 2, 4 … units up to the
    window; in the end those of all. Without a word both times are the window's length, and all else
    is 0.
    """
    parts = [_timing(*pair) for pair in zip(batch.segments, shape.segments, strict=True)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def timing_width(shape: InputShape) -> int:
    """K, the numbers of `timing`."""
    return sum(6 + 3 * len(_half_lives(segment)) for segment in shape.segments)


def _half_lives(shape: SegmentShape) -> NDArray[np.float64]:
    """(L,), in the segment's unit."""
    return np.exp2(np.arange(int(np.log2(shape.positions)), dtype=np.float64))


def _timing(segment: SegmentBatch, shape: SegmentShape) -> NDArray[np.float64]:
    """(B, 6 + 3 L)."""
    counts = segment.word_counts
    some = np.flatnonzero(counts)
    rates = np.append(1 / _half_lives(shape), 0)  # the last does not fade
    ago = (shape.positions - 1 - segment.positions).astype(np.float64)  # (W,)
    times = np.full((2, len(counts)), float(shape.positions))
    times[:, some] = ago[[segment.word_offsets[1:][some] - 1, segment.word_offsets[:-1][some]]]
    last, first = times
    gap = np.maximum(first - last, 0) / np.maximum(counts - 1, 1)
    faded = np.exp2(-ago[:, None] * rates)  # (W, L + 1)
    sizes = np.diff(segment.action_offsets)[:, None]
    sums = np.zeros((len(counts), 2 * len(rates)))
    if len(some):
        both = np.concatenate([faded, faded * sizes], axis=1)
        sums[some] = np.add.reduceat(both, segment.word_offsets[:-1][some])
    logs = np.log1p(np.stack([last, first, gap], axis=1))
    lateness = logs[:, :1] - logs[:, 2:]
    recent = np.exp2(-last[:, None] * rates[:-1]) * (counts > 0)[:, None]
    together: NDArray[np.float64] = np.concatenate([logs, lateness, recent, np.log1p(sums)], axis=1)
    return together
